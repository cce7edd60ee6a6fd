"""How weights and images lie in memory while a model is unlearned: their order, and how many images pass at once."""

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn


# An image with fewer pixels makes the convolutions of a model slower channels-last: `layout` in docs/performance.md.
CHANNELS_LAST_PIXELS_PER_WEIGHT = 1 / 1000
# Of the largest activation of a forward pass without a gradient: enough to fill the device, and on a CPU small enough to
# stay near the processor: `chunks` in docs/performance.md. That of a GPU was not measured.
ACTIVATION_BYTES_CPU = 2**24
ACTIVATION_BYTES_GPU = 2**28


def memory_format(model: nn.Module, pixel_values: torch.Tensor) -> torch.memory_format:
    """
    The order of the weights in memory to update them in: channels-last if an image has at least one pixel for each
    thousand weights. No clock decides, so that the same run gives the same bits.

    Args:
        model (`nn.Module`):
            Its weights are counted.
        pixel_values (`torch.Tensor` of shape `(..., H, W)`):
            An image.
    """
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    is_large = math.prod(pixel_values.shape[-2:]) >= CHANNELS_LAST_PIXELS_PER_WEIGHT * num_weights
    return torch.channels_last if is_large else torch.contiguous_format


@contextmanager
def laid_out(model: nn.Module, order: torch.memory_format) -> Generator[None, None, None]:
    """
    The weights in this order while they move. Afterwards they lie where they lay: kernels choose by order and alignment,
    and the outputs are to be those of the model when it is loaded again.
    """
    usual = {}
    if order is torch.channels_last:
        usual = {parameter: parameter.data for parameter in model.parameters() if parameter.dim() == 4}
    for parameter, data in usual.items():
        parameter.data = data.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in usual.items():
            parameter.data = data.copy_(parameter.data)


@torch.no_grad()
def images_at_once(model: nn.Module, image: torch.Tensor, at_least: int) -> int:
    """
    How many images share a forward pass in float32 without a gradient. The number follows from the largest activation of
    one image, and not from a clock, so that the same run gives the same bits; where memory is refused it is halved until
    it is not.

    Args:
        model (`nn.Module`):
            The model on its device.
        image (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image, on the same device.
        at_least (`int`):
            How many fit in any case.
    """
    on_cpu = image.device.type == "cpu"
    was_training = model.training
    model.eval()
    size = 4 * largest_activation(model, image)
    number = max(1, (ACTIVATION_BYTES_CPU if on_cpu else ACTIVATION_BYTES_GPU) // size)
    if not on_cpu:
        # A CPU does not refuse memory, it takes it from others.
        number = most_that_fit(lambda n: model(pixel_values=image.expand(n, -1, -1, -1)), number, at_least)
    model.train(was_training)
    return number


def even_batch_size(num_images: int, num_processes: int, at_once: int) -> int:
    """Images of a batch, at most `at_once`, so that the batches of all processes need no more padding than they must."""
    of_process = math.ceil(num_images / num_processes)
    return math.ceil(of_process / math.ceil(of_process / at_once))


def largest_activation(model: nn.Module, pixel_values: torch.Tensor) -> int:
    """Elements of the largest tensor that a module of the model gives for one image, of shape `(1, C, H, W)`."""
    return max(pixel_values.numel(), largest_output(model.modules(), lambda: model(pixel_values=pixel_values)))


def largest_output(modules: Iterable[nn.Module], forward: Callable[[], object]) -> int:
    """Elements of the largest tensor that one of these modules gives meanwhile; 0 where none gives one."""
    sizes = [0]
    hooks = [
        module.register_forward_hook(
            lambda module, args, output: sizes.append(output.numel()) if isinstance(output, torch.Tensor) else None
        )
        for module in modules
    ]
    forward()
    for hook in hooks:
        hook.remove()
    return max(sizes)


def most_that_fit(forward: Callable[[int], object], number: int, at_least: int) -> int:
    """
    The most images that a forward pass has memory for, of `number`, half of it, a quarter, …; `at_least` are not tried.

    Args:
        forward (`Callable`):
            Passes so many images.
        number (`int`):
            How many to try first.
        at_least (`int`):
            What fits in any case.
    """
    while number > at_least:
        try:
            forward(number)
            return number
        except torch.OutOfMemoryError:
            number = max(number // 2, at_least)
    return number


def in_passes(
    forward: Callable[[torch.Tensor], torch.Tensor], pixel_values: torch.Tensor, at_once: int
) -> tuple[torch.Tensor, int]:
    """
    Passes images so many at a time; where memory is refused, half as many from there on.

    Args:
        forward (`Callable`):
            Maps pixel values to outputs, row by row.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            The images.
        at_once (`int`):
            How many to pass at first.

    Returns:
        The outputs of all images, and how many passed at a time in the end.
    """
    outputs, start = [], 0
    while start < len(pixel_values):
        try:
            outputs.append(forward(pixel_values[start : start + at_once]))
            start += at_once
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once = min(at_once, len(pixel_values) - start) // 2 or 1
    return torch.cat(outputs), at_once
