"""Models stored in 16 bits: they work in float32 and are saved as they were stored."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


HALVES = (torch.float16, torch.bfloat16)


def stored_in_16_bits(model: nn.Module) -> dict[str, torch.dtype]:
    """The parameters and buffers that are stored in 16 bits, with the type of each."""
    return {name: tensor.dtype for name, tensor in named_tensors(model).items() if tensor.dtype in HALVES}


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers; one that has several names under each of them."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


@torch.no_grad()
def cast(model: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Gives these parameters and buffers of a model other types, in place."""
    tensors = named_tensors(model)
    for name, dtype in dtypes.items():
        tensors[name].data = tensors[name].data.to(dtype)


def in_types(tensors: dict[str, torch.Tensor], dtypes: dict[str, torch.dtype]) -> dict[str, torch.Tensor]:
    """Tensors with other types for some of them."""
    return {name: tensor.to(dtypes.get(name, tensor.dtype)) for name, tensor in tensors.items()}


@torch.no_grad()
def rounded(model: nn.Module, dtypes: dict[str, torch.dtype]) -> dict[str, torch.Tensor]:
    """
    Rounds the weights to what these types can hold, and leaves them in float32.

    Returns:
        `dict[str, torch.Tensor]`: the weights before.
    """
    tensors = {name: parameter for name, parameter in model.named_parameters() if name in dtypes}
    before = {name: parameter.detach().clone() for name, parameter in tensors.items()}
    for name, parameter in tensors.items():
        parameter.copy_(parameter.to(dtypes[name]))
    return before


@contextmanager
def in_float32(*models: nn.Module) -> Generator[None, None, None]:
    """
    Models stored in 16 bits are float32 meanwhile, since pixel values are and many processors are slow in less. Each value
    is the same before, meanwhile and after.
    """
    stored = [(model, stored_in_16_bits(model)) for model in models]
    for model, dtypes in stored:
        cast(model, dict.fromkeys(dtypes, torch.float32))
    try:
        yield
    finally:
        for model, dtypes in stored:
            cast(model, dtypes)


def weights_cast_once(device_type: str) -> torch.autocast:
    """
    Autocast stays as it is, on or off. What passes inside cast of the weights is kept until the outermost such context
    ends, and not cast again by each pass.
    """
    return torch.autocast(
        device_type, torch.get_autocast_dtype(device_type), enabled=torch.is_autocast_enabled(device_type)
    )
