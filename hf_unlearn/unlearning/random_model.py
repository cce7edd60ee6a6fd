"""A model that knows nothing: the same configuration, never trained."""

import torch
from torch import nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedModel


def random_model(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model of the same configuration that was never trained; the same weights for the same seed."""
    # A model with adapters is no class of the library's: its base is.
    kind = type(model)
    if not isinstance(model, PreTrainedModel):
        kind = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(model.config)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = kind(model.config)
    parameter = next(model.parameters())
    return random.to(parameter.device, parameter.dtype)
