"""Refuses, in one line and before anything runs, what the methods do not fit: models, image processors, datasets."""

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from ..data.image_dataset import prepare
from ..errors import InputError, listing
from .precision import in_float32


logger = logging.get_logger(__name__)


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BaseImageProcessor, PreTrainedModel


# For annotations: a model with adapters or without. In quotes, for one of the libraries is optional.
ImageClassifier: TypeAlias = "PreTrainedModel | PeftModel"


def check_model(argument: str, model: nn.Module) -> None:
    """
    Args:
        argument (`str`):
            Who names the model, for errors.
        model (`PreTrainedModel`):
            A model that was loaded.

    Raises:
        [`InputError`]: if it gives no single class, or if its weights are whole numbers that no small step can move.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "num_labels"):
        raise InputError(argument, f"{type(model).__name__} is no image classifier of transformers.")
    if config.problem_type == "multi_label_classification":
        raise InputError(argument, "is a multi-label model; one class per image is needed.")
    if config.problem_type == "regression" or config.num_labels == 1:
        raise InputError(argument, "is a regression model (one output); a class per image is needed.")
    if getattr(model, "is_quantized", False):
        method = getattr(getattr(config, "quantization_config", None), "quant_method", "quantized")
        raise InputError(argument, f"has quantized weights ({method}), which cannot move; name the model before that.")


def id2label_of(model: nn.Module) -> dict[int, str]:
    """The names of a model's classes by label id, which all that [`check_model`] lets through have."""
    return cast(Any, model.config).id2label


def num_labels_of(model: nn.Module) -> int:
    """How many classes a model has."""
    return cast(Any, model.config).num_labels


def check_image_processor(argument: str, image_processor: "BaseImageProcessor") -> torch.Tensor:
    """
    Args:
        argument (`str`):
            Who names the image processor, for errors.
        image_processor (`BaseImageProcessor`):
            The model's own.

    Returns:
        `torch.Tensor` of shape `(1, C, H, W)`: what it makes of a grey image.

    Raises:
        [`InputError`]: if it makes anything but pixel values of this shape.
    """
    grey = np.full((64, 64, 3), 127, dtype=np.uint8)
    try:
        prepared = prepare(image_processor, [grey])
    except (TypeError, ValueError) as error:
        raise InputError(argument, f"{type(image_processor).__name__} cannot prepare an RGB image: {error}") from error
    pixel_values = prepared.get("pixel_values")
    if pixel_values is None or pixel_values.dim() != 4:
        made = {name: list(value.shape) for name, value in prepared.items()}
        raise InputError(
            argument,
            f"{type(image_processor).__name__} makes {listing(f'{name} of shape {shape}' for name, shape in made.items())}; "
            "pixel_values of shape (batch, channels, height, width) are needed.",
        )
    return pixel_values


@torch.no_grad()
def check_logits(argument: str, model: nn.Module, pixel_values: torch.Tensor) -> None:
    """
    Args:
        argument (`str`):
            Who names the model, for errors.
        model (`PreTrainedModel`):
            Passes one image.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image.

    Raises:
        [`InputError`]: if the model needs more than pixel values, or gives no logits of shape `(1, K)`.
    """
    name, shape = type(model).__name__, list(pixel_values.shape)
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if set(needed) - {"pixel_values"}:
        raise InputError(argument, f"{name} needs {listing(needed)}; pixel_values alone are given.")
    was_training = model.training
    model.eval()
    try:
        with in_float32(model):
            output = model(pixel_values=pixel_values.to(next(model.parameters()).device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(argument, f"{name} cannot pass pixel_values of shape {shape}: {reason}") from error
    finally:
        model.train(was_training)
    logits, num_labels = logits_of(output, argument, name), num_labels_of(model)
    if logits.shape != (1, num_labels):
        raise InputError(
            argument, f"{name} gives logits of shape {list(logits.shape)} for one image; (1, {num_labels}) is needed."
        )


def logits_of(output: Any, argument: str, name: str) -> torch.Tensor:
    """
    The logits in the output of a model called `name`.

    Raises:
        [`InputError`]: if there are none.
    """
    logits = getattr(output, "logits", None)
    if logits is None:
        raise InputError(argument, f"the output of {name} has no logits, only {listing(output)}.")
    return logits


def check_class_is_known(accuracy: float, target: float, num_labels: int, allow_collapse: bool) -> None:
    """
    Warns where a model is right on few images of a class that is to be forgotten.

    Args:
        accuracy (`float`): on the forget set, between 0 and 1, before unlearning.
        target (`float`): the accuracy that is aimed at.
        num_labels (`int`): number of classes of the model.
        allow_collapse (`bool`): whether to go on where there is nothing to forget.

    Raises:
        [`InputError`]: if the model knows the class no better than by chance, or than is aimed at.
    """
    if accuracy < 0.5:
        logger.warning(
            f"The model is right on {100 * accuracy:.1f} % of the forget set alone, before unlearning. Check that the image "
            "processor and the labels are its own."
        )
    by_chance = 1 / num_labels
    if accuracy <= max(target, by_chance) and not allow_collapse:
        raise InputError(
            "forget_dataset",
            f"before unlearning the model is right on {100 * accuracy:.1f} % of the forget set alone; chance is "
            f"{100 * by_chance:.1f} %. Either the image processor or the labels do not fit the model, or it has "
            "forgotten the class already. Nothing is saved; --allow_collapse goes on all the same.",
        )
