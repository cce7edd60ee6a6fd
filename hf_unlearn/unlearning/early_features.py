"""What the part of a network that does not move says of the forget images: computed once, then only the rest runs."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.image_dataset import shared_tensor
from .layout import ACTIVATION_BYTES_CPU, largest_output


@dataclass
class Cut:
    """
    Where a network is cut in an early and a late part.

    Args:
        split (`nn.Module`): the first module of the late part.
        early (`dict[nn.Module, Any]`): the modules that run before it, the outermost ones, and an output of each.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`): goes in where the early part would see images.
    """

    split: nn.Module
    early: dict[nn.Module, Any]
    pixel_values: torch.Tensor

    def late_logits(self, model: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """The model's logits for these features at the input of `split`; the early modules are skipped."""
        for module, output in self.early.items():
            module.forward = lambda *args, output=output, **kwargs: output
        # Before all other hooks: they see what the module sees.
        hook = self.split.register_forward_pre_hook(lambda module, args: (features, *args[1:]), prepend=True)
        try:
            return model(pixel_values=self.pixel_values).logits
        finally:
            hook.remove()
            for module in self.early:
                del module.forward


class EarlyFeatures:
    """
    Runs a model on images whose features at the cut are kept from their first pass: every further one costs the late
    part alone.

    Args:
        cut ([`Cut`]):
            What [`find_cut`] returned.
        num_images (`int`):
            How many images there are. Their features are kept like the images: see [`~data.shared_tensor`]. Where
            there is no room, every pass is a full one.
        before ([`EarlyFeatures`], *optional*):
            Those of the same model and images at an earlier cut: the first pass begins there.
    """

    def __init__(self, cut: Cut, num_images: int, before: "EarlyFeatures | None" = None):
        self.cut, self.before = cut, before
        self.num_images = num_images
        self.features: torch.Tensor | None = None
        # Not a tensor: asking waits for no device.
        self.is_kept = np.zeros(num_images, dtype=bool)

    def hold(self, positions: list[int]) -> bool:
        """Whether these images have passed before and their features are kept, here or at the earlier cut."""
        return self.has(positions) or (self.before is not None and self.before.hold(positions))

    def has(self, positions: list[int]) -> bool:
        return bool(self.is_kept[positions].all())

    @torch.no_grad()
    def images_at_once(self, model: nn.Module, at_least: int) -> int:
        """Images that share a late pass: on a CPU by the rule of [`~unlearning.layout.images_at_once`]."""
        if self.features is None and self.before is not None:
            return self.before.images_at_once(model, at_least)
        if self.features is None or self.cut.pixel_values.device.type != "cpu":
            return at_least
        image = self.features[:1]
        late = [module for module in model.modules() if module not in self.cut.early]
        largest = largest_output(late, lambda: self.cut.late_logits(model, image))
        return max(at_least, ACTIVATION_BYTES_CPU // (4 * max(largest, image.numel())))

    def logits(self, model: nn.Module, positions: list[int], pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """
        The model's output, of shape `(B, K)`.

        Args:
            model (`nn.Module`):
                The one that was cut, perhaps wrapped.
            positions (`list[int]`):
                Of the images, between 0 and `num_images` − 1.
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`, *optional*):
                The images, always the same ones at the same positions. Not needed where their features are kept.
        """
        rows = torch.tensor(positions)
        if self.features is not None and self.has(positions):
            return self.cut.late_logits(model, self.features[rows].to(self.cut.pixel_values.device))
        seen: list[torch.Tensor] = []
        hook = self.cut.split.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
        if self.before is not None:
            logits = self.before.logits(model, positions, pixel_values)
        else:
            logits = model(pixel_values=pixel_values).logits
        hook.remove()
        if self.features is None:
            self.features = shared_tensor((self.num_images, *seen[0].shape[1:]), seen[0].dtype)
        if self.features is not None:
            self.features[rows] = seen[0].cpu()
            self.is_kept[positions] = True
        return logits


@contextmanager
def frozen(parameters: Iterable[torch.Tensor]) -> Generator[None, None, None]:
    """These weights, which may move, count meanwhile as weights that do not."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def find_cut(model: nn.Module, pixel_values: torch.Tensor) -> Cut | None:
    """
    The first module at whose input the network can be cut: no weight that moves has a part in that input, and nothing
    but that input passes from the images to the logits. Both are tried, not read off the architecture: the first by
    whether the input requires a gradient; the second by whether the logits stay the same to the last bit, and the
    gradients of the weights that move with them, when the input is kept and the early modules give NaN, or what they make
    of an image of NaN.

    Args:
        model (`nn.Module`):
            An image classifier in eval mode, not wrapped; its weights that move are those that require a gradient.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image.

    Returns:
        [`Cut`] or `None`: `None` if there is no such module.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return None
    # Of two rows, so that one row in their place shows.
    pixel_values = torch.cat([pixel_values, pixel_values.flip(3)])
    started, ended_before, inputs = [], {}, {}

    def start(module: nn.Module, args: tuple) -> None:
        started.append(module)
        ended_before[module] = list(ended)

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        ended.append(module)
        first = output[0] if isinstance(output, tuple) else output
        if args and all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in (args[0], first)):
            if first.requires_grad and not args[0].requires_grad:
                inputs[module] = args[0]

    ended, modules = [], [module for module in model.modules() if module is not model]
    hooks = [module.register_forward_pre_hook(start) for module in modules]
    hooks += [module.register_forward_hook(end) for module in modules]
    with torch.enable_grad():
        model(pixel_values=pixel_values)
    for hook in hooks:
        hook.remove()
    # In the order in which they ended: inner modules before those that contain them.
    for split, features in inputs.items():
        if started.count(split) == 1:
            once = [module for module in ended_before[split] if started.count(module) == 1]
            inside = {inner for module in once for inner in module.modules() if inner is not module}
            early = outputs_for_nan(model, [module for module in once if module not in inside], pixel_values)
            cut = Cut(split, early, pixel_values[:1])
            if holds(cut, model, features, pixel_values):
                return cut
    return None


@torch.no_grad()
def outputs_for_nan(model: nn.Module, modules: list[nn.Module], pixel_values: torch.Tensor) -> dict[nn.Module, Any]:
    """The output of each module when the model gets one image of NaN."""
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda module, args, output: outputs.update({module: output}))
        for module in modules
    ]
    model(pixel_values=torch.full_like(pixel_values[:1], torch.nan))
    for hook in hooks:
        hook.remove()
    return outputs


def holds(cut: Cut, model: nn.Module, features: torch.Tensor, pixel_values: torch.Tensor) -> bool:
    """
    Whether the logits come from the features alone, and with them the gradients of the weights that move: what is NaN and
    goes into a logit by a factor of zero shows in a gradient only.
    """
    broken = replace(cut, pixel_values=torch.full_like(cut.pixel_values, torch.nan))
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        whole = model(pixel_values=pixel_values).logits
        try:
            late = broken.late_logits(model, features)
        except (RuntimeError, IndexError, ValueError):
            # Shapes that do not fit: something else depends on the number of images.
            return False
        if not torch.equal(late, whole):
            return False
        # Another factor for each logit: a sum of them is the same whatever a softmax has lost.
        weights = torch.linspace(-1, 1, whole.numel(), device=whole.device).view_as(whole)
        gradients = [torch.autograd.grad((out * weights).sum(), moving, allow_unused=True) for out in (whole, late)]
    return all(
        (one is None) == (other is None) and (one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-6))
        for one, other in zip(*gradients, strict=True)
    )
