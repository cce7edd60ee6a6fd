"""How much each weight matters to some images: a mean over the gradients of single images."""

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel


# Gradients held at once, counted in numbers: 1 GiB in float32, and one image in any case.
MAX_NUMBERS = 2**28


def sum_over_images(
    model: nn.Module,
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    measure: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """
    Σ_i w_i m(∇_θ o(f_θ(x_i), y_i)) for each weight θ, where the gradient is that of one image alone: the square of a
    batch's mean gradient would be another number.

    Args:
        model (`nn.Module`):
            An image classifier in eval mode, not wrapped.
        objective (`Callable`):
            o: maps logits of shape `(K,)` and a label of shape `()` to a number.
        measure (`Callable`):
            m: applied to each gradient, element by element.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            The images x.
        labels (`torch.Tensor` of shape `(B,)`):
            Their labels y.
        weight (`torch.Tensor` of shape `(B,)`):
            w; 0 leaves an image out.

    Returns:
        `dict[str, torch.Tensor]`: by name of the weights that may move, of their shapes.
    """
    moving = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

    def objective_of_image(moving: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, moving, kwargs={"pixel_values": image[None]}).logits
        return objective(logits[0].float(), label)

    gradients_of = vmap(grad(objective_of_image), in_dims=(None, 0, 0))
    images_at_once = max(1, MAX_NUMBERS // sum(tensor.numel() for tensor in moving.values()))
    sums = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
    # The plain attention kernel is the one that vmap knows.
    with sdpa_kernel(SDPBackend.MATH):
        for images, classes, weights in zip(
            *(tensor.split(images_at_once) for tensor in (pixel_values, labels, weight)), strict=True
        ):
            for name, gradients in gradients_of(moving, images, classes).items():
                sums[name] += torch.einsum("b,b...->...", weights.to(gradients), measure(gradients))
    return sums


def dampening(forget: torch.Tensor, whole: torch.Tensor, selection: float, constant: float) -> torch.Tensor:
    """
    What SSD multiplies the weights by (arXiv 2308.07707): min(λ I_D / I_f, 1) where I_f > α I_D, else 1.

    Args:
        forget (`torch.Tensor`):
            I_f, the importances to the forget set.
        whole (`torch.Tensor` of the same shape):
            I_D, those to the whole training set.
        selection (`float`):
            α.
        constant (`float`):
            λ.
    """
    selected = forget > selection * whole
    factor = (constant * whole / torch.where(selected, forget, 1)).clamp(max=1)
    return torch.where(selected, factor, 1)
