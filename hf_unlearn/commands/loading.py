"""Loads the models, image processors and splits that the flags of a command name."""

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from ..data.folders import load_image_folder
from ..data.image_dataset import find_image_column
from ..data.labels import by_position, find_label_column, is_number, label_ids, match_labels, plain, read_column
from ..data.sampling import MOST_SAMPLES, at_most, whole_size
from ..data.splits import (
    drop_rows,
    matching_rows,
    other_rows,
    remember_source,
    rows_of_unseen,
    source_of,
    split_dataset,
)
from ..data.streaming import StreamedRows
from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from ..terminal import say
from ..unlearning.compatibility import check_image_processor, check_model, id2label_of
from ..unlearning.method_names import forget_only_methods
from .arguments import CheckpointArguments, DataArguments, ForgetArguments, ModelArguments
from .given_images import without_unreadable
from .training_data import open_train_and_test


# Finds the name of a missing library in an error message of transformers, such as "pip install -U 'name>=1'".
PACKAGE = re.compile(r"pip install (?:-\S+ )*['\"`]?([A-Za-z][\w.-]*)")


def load_checkpoints(
    names: list[str], args: CheckpointArguments, device: torch.device
) -> tuple[list[PreTrainedModel], BaseImageProcessor]:
    """
    Loads the models to compare, and the image processor of all of them.

    Args:
        names (`list[str]`):
            Hub ids or folders.
        args ([`~commands.arguments.CheckpointArguments`]):
            How the models are loaded.
        device (`torch.device`):
            The device to move the models to.

    Returns:
        `tuple[list[PreTrainedModel], BaseImageProcessor]`

    Raises:
        [`InputError`]: if a model cannot be loaded, or if the models have different labels or different image
            processors.
    """
    models, image_processors = [], []
    for name in names:
        model_args = ModelArguments(
            model_name_or_path=name,
            image_processor_name=args.image_processor_name,
            cache_dir=args.cache_dir,
            token=args.token,
            trust_remote_code=args.trust_remote_code,
        )
        model, image_processor = load_model(model_args)
        if models and model.config.id2label != models[0].config.id2label:
            raise InputError("models", f"{name!r} has other labels than {names[0]!r}, or in another order.")
        if models and image_processor.to_dict() != image_processors[0].to_dict():
            raise InputError(
                "image_processor_name", f"{name!r} and {names[0]!r} prepare images differently. Name one for all."
            )
        image_processors.append(image_processor)
        models.append(model.to(device))
    return models, image_processors[-1]


def load_model(model_args: ModelArguments) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """
    Loads a model and its image processor.

    Args:
        model_args ([`~commands.arguments.ModelArguments`]):
            The model and how it is loaded.

    Returns:
        `tuple[PreTrainedModel, BaseImageProcessor]`

    Raises:
        [`InputError`]: if the model cannot be loaded, or is not an image classifier with trained weights.
    """
    name = model_args.model_name_or_path
    if name is None:
        raise InputError("model_name_or_path", "is missing: a model id on the hub or a folder.")
    hub: dict[str, Any] = {
        "revision": model_args.model_revision,
        "cache_dir": model_args.cache_dir,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    try:
        # The weights keep the dtype in which they are stored. Whatever runs the model casts it to float32, and the
        # unlearned model is saved in the stored dtype if rounding does not undo the unlearning.
        model, loading = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True, dtype="auto", **hub
        )
    except ImportError as error:
        raise InputError("model_name_or_path", missing_library(name, error)) from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("model_name_or_path", f"{name!r} is no image classifier: {reason}") from error
    # On the hub, the configuration of a timm model names no architecture.
    architectures = model.config.architectures or [type(model).__name__]
    if loading["missing_keys"] or not (image_classifiers() & set(architectures) or model_args.trust_remote_code):
        raise InputError(
            "model_name_or_path",
            f"{name!r} is no trained image classifier (architecture {listing(architectures)}, "
            f"{len(loading['missing_keys'])} weights missing).",
        )
    check_model("model_name_or_path", model)
    try:
        image_processor = AutoImageProcessor.from_pretrained(model_args.image_processor_name or name, **hub)
    except ImportError as error:
        raise InputError("image_processor_name", missing_library(name, error)) from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            "image_processor_name",
            f"no image processor found: {reason} Name a model whose images are prepared likewise with "
            "--image_processor_name.",
        ) from error
    check_image_processor("image_processor_name", image_processor)
    return model, image_processor


def image_classifiers() -> set[str]:
    """Names of the classes of transformers that classify images. Some architectures have several."""
    classes = set()
    for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        classes.update([names] if isinstance(names, str) else names)
    return classes


def missing_library(name: str, error: ImportError) -> str:
    """The error message about a model that needs a library which is not installed."""
    text = " ".join(str(error).split())
    package = PACKAGE.search(text)
    if package is None:
        return f"{name!r} needs a library that is not installed: {text[:200]}"
    extra = " (or 'hf-unlearn[timm]')" if package[1] == "timm" else ""
    return f"{name!r} needs a library that is not installed. Install it: pip install {package[1]}{extra}."


def load_retrained(
    model_args: ModelArguments, id2label: dict[int, str], device: torch.device
) -> list[PreTrainedModel]:
    """
    Loads the retrained models of `--retrained_model_name_or_path`, and moves them to the device.

    Args:
        model_args ([`~commands.arguments.ModelArguments`]):
            The names of the models and how they are loaded.
        id2label (`dict[int, str]`):
            `config.id2label` of the model to unlearn.
        device (`torch.device`):
            The device to move the models to.

    Returns:
        `list[PreTrainedModel]`

    Raises:
        [`InputError`]: if a model cannot be loaded, lacks some of its weights, or has other labels than `id2label`.
    """
    models = []
    for name in model_args.retrained_model_name_or_path or []:
        try:
            retrained, loading = AutoModelForImageClassification.from_pretrained(
                name,
                output_loading_info=True,
                dtype="auto",
                cache_dir=model_args.cache_dir,
                token=model_args.token,
                trust_remote_code=model_args.trust_remote_code,
            )
        except ImportError as error:
            raise InputError("retrained_model_name_or_path", missing_library(name, error)) from error
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError("retrained_model_name_or_path", f"{name!r} cannot be loaded: {reason}") from error
        if loading["missing_keys"]:
            raise InputError(
                "retrained_model_name_or_path",
                f"{name!r} is no trained image classifier ({len(loading['missing_keys'])} weights missing).",
            )
        if id2label_of(retrained) != id2label:
            raise InputError("retrained_model_name_or_path", f"{name!r} has other labels than the model to unlearn.")
        models.append(retrained.to(device))
    return models


def load_splits(
    data_args: DataArguments,
    forget_args: ForgetArguments,
    request: ForgetRequest | None,
    id2label: dict[int, str],
    model_args: ModelArguments | CheckpointArguments,
    earlier: Sequence[ForgetRequest] = (),
    whole_retain: bool = False,
) -> tuple[DatasetDict, dict[str, Any], dict[str, int]]:
    """
    Loads the data and splits it by the request.

    Args:
        data_args ([`~commands.arguments.DataArguments`]), forget_args ([`~commands.arguments.ForgetArguments`]):
            The flags of the data and of the request.
        request ([`ForgetRequest`] or `None`):
            The request; `None` if `--forget_dir` names a folder of images.
        id2label (`dict[int, str]`):
            The model's `config.id2label`.
        model_args ([`~commands.arguments.ModelArguments`] or [`~commands.arguments.CheckpointArguments`]):
            `token` and `cache_dir` for a dataset on the hub.
        earlier (`list[ForgetRequest]`, *optional*, defaults to `()`):
            Requests that were carried out before. Their images do not count as retained.
        whole_retain (`bool`, *optional*, defaults to `False`):
            Whether the split `retain` is kept whole. All other splits but `forget` are cut to `max_eval_samples`
            random images, and only these are read.

    Returns:
        `tuple[DatasetDict, dict[str, str], dict[str, int]]`: those of the splits `forget`, `retain`, `forget_test` and
        `retain_test` that the data allow; the names of the columns, by `image_column` and `label_column`; and by split
        that was cut, its number of images before.

    Raises:
        [`InputError`]: if the data do not fit the request or the model, or if an image cannot be read.
    """
    train, test = open_train_and_test(data_args, model_args)
    # Those that only look at the forget set have not set it.
    most = MOST_SAMPLES if data_args.max_eval_samples is None else data_args.max_eval_samples
    if data_args.streaming and (whole_retain or earlier):
        raise InputError("streaming", "keeps no retained images but those to measure on: one request, a method that needs none"
                         f" ({listing(forget_only_methods(), 30)}), and no --retain_fraction.")  # fmt: skip
    source = None
    if request is None:
        # What has no request has a folder: `to_requests` has seen to it.
        forget = load_image_folder("forget_dir", cast(str, forget_args.forget_dir))
        forget = without_unknown_folders(forget, id2label)
        image_column, label_column = find_image_column(forget), find_label_column(forget, id2label=id2label)
        splits = {"forget": forget}
        if test is not None:
            # The unseen images get the column names of a folder. The training images are not used: they contain the
            # images of the folder under other file names.
            if isinstance(test, StreamedRows):
                unseen = other_rows(len(test.columns_for(None, data_args.label_column_name, id2label)), [])
                test = test.draw("retain_test", unseen, data_args.image_column_name, most)
            splits["retain_test"] = with_columns_of_a_folder(test, data_args, id2label)
    else:
        if train is None:
            raise InputError("dataset_name", "is missing: the request names images of a dataset (or of --train_dir).")
        image_column = find_image_column(train, data_args.image_column_name)
        named = data_args.label_column_name
        rows = train if isinstance(train, Dataset) else train.columns_for(request, named, id2label)
        label_column = find_label_column(rows, named, id2label)
        if request.classes is not None and label_column is not None:
            check_classes(rows, label_column, request.classes, id2label)
        parts = split_dataset(train, request, label_column, image_column, test_dataset=test, max_eval_samples=most)
        splits = {str(name): split for name, split in parts.items()}
        source = source_of(splits["forget"])
        if isinstance(train, StreamedRows):
            images = sum(map(len, train.seen.values()))
            say(
                f"Streamed: {listing(train.columns_read)} of {len(train):,} training rows, the image of {images:,} of them."
            )
        if earlier:
            train, test = cast(Dataset, train), cast(Dataset | None, test)
            asked = [request, *earlier]
            rows = {row for one in asked for row in matching_rows(train, one, label_column, image_column)}
            splits["retain"] = drop_rows(train, rows)
            if test is not None and "retain_test" in splits:
                splits["retain_test"] = drop_rows(test, rows_of_unseen(test, asked, label_column, image_column))
            splits = {name: split for name, split in splits.items() if len(split)}

    sizes = {name: whole_size(split) for name, split in splits.items()}
    if label_column is not None:
        for name, split in splits.items():
            if label_column in split.column_names:
                if data_args.labels_by_position:
                    splits[name] = by_position(split, label_column, id2label)
                match_labels(splits[name], label_column, id2label)
    drawn_from = {}
    for name in splits.keys() - {"forget"} - ({"retain"} if whole_retain else set()):
        splits[name] = at_most(splits[name], most)
        if len(splits[name]) < sizes[name]:
            drawn_from[name] = sizes[name]
    for name, split in splits.items():
        splits[name] = without_unreadable(name, split, image_column, data_args.skip_unreadable_images)
    if source is not None:
        remember_source(splits["forget"], source)
    return DatasetDict(splits.items()), {"image_column": image_column, "label_column": label_column}, drawn_from


def without_unknown_folders(images: Dataset, id2label: dict[int, str]) -> Dataset:
    """
    Removes the column `label` of a folder of images if no subfolder has the name of a class of the model: the
    subfolders are then no classes.
    """
    feature = images.features.get("label")
    known = label_ids(id2label)
    if not isinstance(feature, ClassLabel) or any(plain(name) in known for name in feature.names):
        return images
    say(f"The model has no class called {listing(feature.names, 3)}: folders are taken for no labels.")
    return images.remove_columns("label")


def with_columns_of_a_folder(dataset: Dataset, data_args: DataArguments, id2label: dict[int, str]) -> Dataset:
    """
    Keeps the image column and the label column only, and renames them to `image` and `label`, the names that they have
    in a folder of images.
    """
    names = {find_image_column(dataset, data_args.image_column_name): "image"}
    label_column = find_label_column(dataset, data_args.label_column_name, id2label)
    if label_column is not None:
        names[label_column] = "label"
    return dataset.select_columns(list(names)).rename_columns({old: new for old, new in names.items() if old != new})


def check_classes(train: Dataset, label_column: str, classes: Sequence[str | int], id2label: dict[int, str]) -> None:
    """
    Checks that the classes to forget are classes of the label column, and says what to do if they are not.

    Raises:
        [`InputError`]: if the model knows a class but the dataset has no class of this name, or if the name is a value
            of another column (a sub-class).
    """
    feature = train.features[label_column]
    names = feature.names if isinstance(feature, ClassLabel) else set(read_column(train, label_column))
    ids = label_ids(id2label)
    for name in classes:
        if name in names or str(name).isdigit():
            continue
        same_name = ids.get(plain(name), [])
        if same_name and is_number(feature):
            numbers = " or ".join(map(str, same_name))
            raise InputError(
                "classes", f"column {label_column!r} holds label ids: ask for {name!r} by number, {numbers}."
            )
        if name in id2label.values():
            raise InputError("classes", f"the model knows {name!r} but the data has no such class: {listing(names)}.")
        for column, other in train.features.items():
            if isinstance(other, ClassLabel) and name in other.names:
                raise InputError(
                    "classes",
                    f"{name!r} is no class of the model but a value of column {column!r}: forget a part of a class with "
                    f"--forget_column {column} --forget_value {name!r}.",
                )
