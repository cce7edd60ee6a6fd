"""The original model, which says what its copy is to say, and what both have in common where only late weights move."""

import copy

import torch
from torch import nn

from .early_features import find_cut


class Teacher:
    """
    A frozen copy of a model, for another that is trained to answer as it does. Where the early weights of both stay the same,
    the teacher's pass also gives the features at which the other goes on.

    Args:
        model (`nn.Module`):
            An image classifier in eval mode, not wrapped; its weights that will move are those that require a gradient.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image.
        shares_early_part (`bool`):
            Whether to look for a place at which the networks can be cut, see [`~unlearning.early_features.find_cut`].
    """

    def __init__(self, model: nn.Module, pixel_values: torch.Tensor, shares_early_part: bool):
        self.cut = find_cut(model, pixel_values) if shares_early_part else None
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.split = None
        if self.cut is not None:
            split = next(name for name, module in model.named_modules() if module is self.cut.split)
            self.split = self.model.get_submodule(split)

    @torch.no_grad()
    def look(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The teacher's logits of images, of shape `(B, K)`, and their features at the cut, if there is one."""
        seen: list[torch.Tensor] = []
        hook = self.split.register_forward_pre_hook(lambda module, args: seen.append(args[0])) if self.split else None
        logits = self.model(pixel_values=pixel_values).logits.float()
        if hook is None:
            return logits, None
        hook.remove()
        return logits, seen[0]

    def logits_of_other(
        self, other: nn.Module, pixel_values: torch.Tensor, features: torch.Tensor | None
    ) -> torch.Tensor:
        """
        What the other model, perhaps wrapped, says of the same images, of shape `(B, K)`: from their features alone where
        the networks are cut.
        """
        if self.cut is None or features is None:
            return other(pixel_values=pixel_values).logits
        return self.cut.late_logits(other, features)
