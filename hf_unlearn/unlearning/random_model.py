"""A model that knows nothing: the same configuration, never trained."""

from typing import TYPE_CHECKING, cast

import torch
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedModel


if TYPE_CHECKING:
    from .compatibility import ImageClassifier


def random_model(model: "ImageClassifier", seed: int = 0) -> PreTrainedModel:
    """A model of the same configuration that was never trained; the same weights for the same seed."""
    # A model with adapters is no class of the library's: its base is.
    if isinstance(model, PreTrainedModel):
        kind = type(model)
    else:
        kind = cast(type[PreTrainedModel], MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(model.config)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = kind(model.config)
    parameter = next(model.parameters())
    return random.to(parameter.device, parameter.dtype)
