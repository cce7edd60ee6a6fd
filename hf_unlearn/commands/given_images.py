"""Images that a run is given beside those to forget: that they can be read, what the model says of them, and who gets them."""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel

from ..data.folders import load_image_folder
from ..data.image_dataset import ImageDataset, find_image_column, unreadable_images
from ..data.labels import find_label_column, match_labels
from ..data.sampling import at_most
from ..data.sources import load_dataset
from ..data.splits import drop_rows
from ..errors import InputError, listing
from ..evaluation.logits import collect_logits
from ..methods.jit_config import JiTConfig
from ..terminal import say
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from ..unlearning.method_names import forget_only_methods, name_of_method
from .arguments import DataArguments, ModelArguments


if TYPE_CHECKING:
    from ..unlearning.trainer import UnlearningTrainer


# Number of forget images that tell whether the labels are in the model's order (`--labels_by_position`).
NUM_CHECKED = 200


def without_unreadable(name: str, images: Dataset, image_column: str, skip: bool) -> Dataset:
    """
    Leaves out the images that cannot be read.

    Args:
        name (`str`):
            What they are, for error messages.
        images (`datasets.Dataset`):
            The images.
        image_column (`str`):
            Their column.
        skip (`bool`):
            Whether some may be left out.

    Raises:
        [`InputError`]: if some cannot be read and may not be left out, or if none can be read.
    """
    broken = unreadable_images(images, image_column)
    if broken and not skip:
        raise InputError(
            "skip_unreadable_images",
            f"{len(broken)} of {len(images)} images of the {name} split cannot be read: "
            f"{listing(broken.values(), 5)}. Add the flag to leave them out.",
        )
    if len(broken) == len(images):
        raise InputError("skip_unreadable_images", f"no image of the {name} split can be read.")
    return drop_rows(images, broken) if broken else images


def further_images(
    data_args: DataArguments,
    model_args: ModelArguments,
    retained: Dataset | None,
    trainer_class: "type[UnlearningTrainer]",
    config: UnlearningConfig,
) -> dict[str, Any]:
    """
    The images beside the forget set that the trainer of a method is given.

    Args:
        data_args ([`~commands.arguments.DataArguments`]), model_args ([`~commands.arguments.ModelArguments`]):
            The flags.
        retained (`datasets.Dataset`, *optional*):
            All retained training images.
        trainer_class (`type`):
            The trainer of the method.
        config ([`UnlearningConfig`]):
            Its configuration.

    Returns:
        `dict[str, Dataset]`: the trainer's `retain_dataset` and `proxy_dataset`, as far as there are any.

    Raises:
        [`InputError`]: if images are missing that the method needs, or given that it does not take, or cannot be loaded.
    """
    flags = [
        name for name in ("retain_fraction", "proxy_dir", "proxy_dataset") if getattr(data_args, name) is not None
    ]
    method = name_of_method(trainer_class)
    # JiT takes retained images for a part of a class, and other pictures for nothing.
    taken = flags if trainer_class.takes_retain else []
    if isinstance(config, JiTConfig):
        taken = ["retain_fraction"] if config.learns_from_retained else []
    if refused := [flag for flag in flags if flag not in taken]:
        also = ", and retained ones to jit for a part of a class" if refused[0] == "retain_fraction" else ""
        raise InputError(refused[0], f"gives images to --method rebuild{also}; {method} takes none here.")
    if trainer_class.needs_retain:
        if retained is None:
            raise InputError(
                "method",
                f"{method} needs the retained training images: name the dataset. Methods that need none: "
                f"{listing(forget_only_methods(), 30)}.",
            )
        return {"retain_dataset": retained}
    given = {}
    if (fraction := data_args.retain_fraction) is not None:
        if not 0 < fraction <= 1:
            raise InputError("retain_fraction", f"must be greater than 0 and at most 1, got {fraction}.")
        if retained is None:
            raise InputError("retain_fraction", "needs the retained training images: name the dataset.")
        given["retain_dataset"] = at_most(retained, max(1, round(fraction * len(retained))))
    proxies = load_proxies(data_args, model_args)
    if proxies is not None:
        column = find_image_column(proxies)
        given["proxy_dataset"] = without_unreadable("proxy", proxies, column, data_args.skip_unreadable_images)
    if given:
        names = {"retain_dataset": "retained training images", "proxy_dataset": "other pictures"}
        counts = " and ".join(f"{len(images):,} {names[name]}" for name, images in given.items())
        say(f"Beside the forget set the method uses {counts}.")
    return given


def load_proxies(data_args: DataArguments, model_args: ModelArguments) -> Dataset | None:
    """
    The images of `--proxy_dir` or `--proxy_dataset`.

    Raises:
        [`InputError`]: if both are named, or if they cannot be loaded.
    """
    if data_args.proxy_dir is not None and data_args.proxy_dataset is not None:
        raise InputError("proxy_dir", "cannot be combined with --proxy_dataset. Choose one.")
    if data_args.proxy_dir is not None:
        return load_image_folder("proxy_dir", data_args.proxy_dir)
    if data_args.proxy_dataset is None:
        return None
    splits = load_dataset(
        data_args.proxy_dataset, token=model_args.token, cache_dir=model_args.cache_dir, argument="proxy_dataset"
    )
    return cast(Dataset, splits["train"] if "train" in splits else next(iter(splits.values())))


def check_by_position(
    forget: Dataset, model: PreTrainedModel, image_processor: BaseImageProcessor, image_column: str, label_column: str
) -> None:
    """
    Checks that the labels of the dataset are in the order of the model's classes, for `--labels_by_position`. For the
    arguments see [`~evaluation.evaluate.evaluate_unlearning`].

    Raises:
        [`InputError`]: if the model is wrong on more than half of the forget images: its classes are in another order.
    """
    images = at_most(forget, NUM_CHECKED)
    right = accuracy_on(images, model, image_processor, label_column, image_column)
    if right < 0.5:
        raise InputError(
            "labels_by_position",
            f"taken by position, the labels of {100 * right:.1f} % of {len(images)} forget images are the model's answers: "
            "its classes are in another order. Name a column of label ids with --label_column_name.",
        )
    say(f"Labels by position: the model is right on {100 * right:.1f} % of {len(images)} forget images.")


def accuracy_on(
    images: Dataset,
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    label_column: str,
    image_column: str | None = None,
) -> float:
    """Accuracy of the model on labelled images."""
    # Imported here because it is slow to import, and few runs need it.
    from ..metrics.unlearning_accuracy.unlearning_accuracy import accuracy

    label_ids = match_labels(images, label_column, id2label_of(model))
    dataset = ImageDataset(images, image_processor, image_column, label_column, label_ids)
    logits, labels = collect_logits(model, dataset)
    return accuracy(logits, cast(np.ndarray, labels))


def holdout_accuracy(folder: str, model: PreTrainedModel, image_processor: BaseImageProcessor) -> float:
    """
    Accuracy of the model on the unseen images of `--holdout_dir`, a folder with one subfolder per class. It is the
    target of the automatic step; these images are used for nothing else.

    Args:
        folder (`str`):
            The folder.
        model (`PreTrainedModel`):
            The original model.
        image_processor (`BaseImageProcessor`):
            Its image processor.

    Returns:
        `float`: between 0 and 1.

    Raises:
        [`InputError`]: if the folder has no images or no subfolders, or if a subfolder is not a class of the model.
    """
    images = load_image_folder("holdout_dir", folder)
    label_column = find_label_column(images)
    if label_column is None:
        raise InputError("holdout_dir", f"{folder!r} needs one subfolder per class.")
    return accuracy_on(images, model, image_processor, label_column)
