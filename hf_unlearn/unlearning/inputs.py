"""What a trainer is given: refused in one line if it does not fit, and turned into `pixel_values`."""

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from ..data.forget_kind import ForgetKind, kind_of_labels, kind_of_request
from ..data.image_dataset import ImageDataset
from ..data.labels import find_label_column, match_labels
from ..data.rows import Rows
from ..data.splits import ForgetSource, check_dataset
from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from ..terminal import say
from .compatibility import check_image_processor, check_logits, check_model
from .method_names import forget_only_methods


if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import BaseImageProcessor, DataCollator, EvalPrediction, TrainerCallback

    class PassedOn(TypedDict, total=False):
        """What [`UnlearningTrainer`] passes on to [`~transformers.Trainer`]."""

        data_collator: DataCollator | None
        compute_loss_func: Callable | None
        compute_metrics: Callable[[EvalPrediction], dict] | None
        callbacks: list[TrainerCallback] | None
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None

    class Given(PassedOn, total=False):
        """What a method passes on to [`UnlearningTrainer`]."""

        processing_class: BaseImageProcessor | None
        forget_dataset: Rows | None
        retain_dataset: Rows | None
        eval_dataset: Rows | dict[str, Any] | None
        image_column: str | None
        label_column: str | None
        request: ForgetRequest | None


def check_inputs(
    model: nn.Module,
    image_processor: "BaseImageProcessor | None",
    forget_dataset: Rows | None,
    retain_dataset: Rows | None,
    eval_dataset: Rows | dict[str, Any] | None,
    needs_retain: str | None,
) -> None:
    """
    Args:
        needs_retain (`str`, *optional*):
            Name of the method, if it needs retained images.

        For the others see [`UnlearningTrainer`].

    Raises:
        [`InputError`]: if the model, its image processor or a dataset does not fit, or if there is nothing to forget or,
            where it is needed, to retain.
    """
    given = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    for name, dataset in {**given, "forget_dataset": forget_dataset, "retain_dataset": retain_dataset}.items():
        check_dataset(name, dataset)
    check_model("model", model)
    if forget_dataset is None or len(forget_dataset) == 0:
        raise InputError("forget_dataset", "is empty: there is nothing to forget.")
    if needs_retain is not None and (retain_dataset is None or len(retain_dataset) == 0):
        raise InputError(
            "retain_dataset",
            f"is missing: {needs_retain} needs images to retain. Methods that need none: "
            f"{listing(forget_only_methods())}.",
        )
    check_logits("model", model, prepared_image(forget_dataset, image_processor))


def prepared_image(dataset: Rows, image_processor: "BaseImageProcessor | None") -> torch.Tensor:
    """
    The shape in which the model gets its images, as an image of it, of shape `(1, C, H, W)`.

    Raises:
        [`InputError`]: if there are no pixel values and nothing that makes them.
    """
    if image_processor is not None:
        return check_image_processor("processing_class", image_processor)
    first = dataset[0]
    if "pixel_values" not in first:
        raise InputError(
            "processing_class",
            "is missing: the forget set has raw images, which the model's image processor prepares.",
        )
    pixel_values = torch.as_tensor(first["pixel_values"])
    if pixel_values.dim() != 3:
        raise InputError(
            "forget_dataset",
            f"has pixel_values of shape {list(pixel_values.shape)}; (channels, height, width) is needed.",
        )
    return pixel_values[None]


def find_forget_kind(
    request: ForgetRequest | None,
    source: ForgetSource | None,
    forget_dataset: Rows,
    retained: Rows | None,
    label_column: str | None,
    id2label: dict[int, str],
) -> ForgetKind:
    """
    What the forget set is, by the request or, without one, by the labels; the run says which it took it for.

    Args:
        request ([`ForgetRequest`], *optional*), source ([`~data.splits.ForgetSource`], *optional*):
            What was asked, and where its classes were found.

        For the others see [`~data.forget_kind.kind_of_labels`].

    Returns:
        `str`: `"class"`, `"subclass"` or `"images"`.
    """
    if request is not None:
        if isinstance(forget_dataset, Dataset) and "pixel_values" not in forget_dataset.column_names:
            label_column = find_label_column(forget_dataset, label_column, id2label)
        return kind_of_request(request, label_column, source)
    kind, reason = kind_of_labels(forget_dataset, retained, label_column, id2label)
    what = "a whole class" if kind == "class" else "single images"
    say(f"The forget set is taken for {what}: {reason}. A request or forget_kind says otherwise.")
    return kind


def prepare_dataset(
    argument: str,
    dataset: Rows | None,
    id2label: dict[int, str],
    image_processor: "BaseImageProcessor",
    image_column: str | None,
    label_column: str | None,
) -> Rows | None:
    """
    An [`ImageDataset`] of raw images; one that has `pixel_values`, or none at all, stays as it is.

    Raises:
        [`InputError`]: if raw images lie in no `datasets.Dataset`, which alone has columns to find them in.
    """
    if dataset is None or isinstance(dataset, ImageDataset) or "pixel_values" in dataset[0]:
        return dataset
    if not isinstance(dataset, Dataset):
        raise InputError(
            argument, "has no pixel_values; raw images are taken from a column of a datasets.Dataset alone."
        )
    label_column = find_label_column(dataset, label_column, id2label)
    label_ids = match_labels(dataset, label_column, id2label) if label_column else None
    return ImageDataset(dataset, image_processor, image_column, label_column, label_ids)


def compute_accuracy(prediction: "EvalPrediction") -> dict[str, float]:
    """Default metric of [`~transformers.Trainer.evaluate`]."""
    return {"accuracy": float((np.asarray(prediction.predictions).argmax(axis=-1) == prediction.label_ids).mean())}
