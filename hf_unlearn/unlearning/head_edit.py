"""The smallest change of the head that makes the model wrong about some images and leaves its other answers alone."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..data.rows import Rows
from ..errors import InputError
from .shares import gathered, sharded_as, whole


# Measured in docs/auto_step.md; the result hardly depends on them.
# Forget images that are held, with their changed copies.
NUM_HELD = 512
# How hard the images are pushed, in turn, until enough of them give way.
PUSHES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
RIDGE = 1e-3
FLOOR = 1e-2
# The logit of the class to lose ends up at least this far below the other, of which 1 / SHARPNESS is the softness.
MARGIN, SHARPNESS = 0.02, 20.0


def find_heads(model: nn.Module, pixel_values: torch.Tensor) -> list[nn.Linear]:
    """
    The linear layers whose mean output are the logits: one in most models, two in distilled ones (DeiT and LeViT with
    teacher, SwiftFormer). Empty where something else comes last, or where a layer sees more than one row an image.

    Args:
        model (`nn.Module`):
            An image classifier; called once.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image.
    """
    called: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: called.append((module, inputs[0], output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
    for hook in hooks:
        hook.remove()
    for number in (1, 2):
        last = called[-number:]
        layers = [layer for layer, _, _ in last]
        one_row = all(inputs.numel() == layer.in_features for layer, inputs, _ in last)
        once = len(set(layers)) == number and all([layer for layer, *_ in called].count(one) == 1 for one in layers)
        if not once or not one_row or any(output.numel() != logits.numel() for *_, output in last):
            continue
        mean = torch.stack([output.flatten() for _, _, output in last]).sum(dim=0) / number
        if torch.equal(mean, logits.flatten()):
            return layers
    return []


def find_head(model: nn.Module, pixel_values: torch.Tensor) -> nn.Linear | None:
    """The one linear layer whose output are the logits; `None` where there is none, or two. See [`find_heads`]."""
    heads = find_heads(model, pixel_values)
    return heads[0] if len(heads) == 1 else None


@contextmanager
def head_inputs(heads: list[nn.Linear]) -> Generator[list[torch.Tensor], None, None]:
    """
    What the heads see of each batch that passes meanwhile.

    Args:
        heads (`list[nn.Linear]`):
            What [`find_heads`] returned.

    Yields:
        `list[torch.Tensor]`: per pass, of shape `(B, d)`; the inputs of several heads stand side by side.
    """
    seen, parts = [], {}

    def keep(module: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
        parts[module] = inputs[0].reshape(-1, module.in_features)
        if len(parts) == len(heads):
            seen.append(torch.cat([parts[head] for head in heads], dim=1))
            parts.clear()

    hooks = [head.register_forward_pre_hook(keep) for head in heads]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def head_weight(heads: list[nn.Linear]) -> torch.Tensor:
    """
    The heads as one matrix that maps what [`head_inputs`] gives to the logits, of shape `(K, d)`, in double precision on
    the CPU; where they have a bias, with it as the last column. Of heads that are sharded, the whole.
    """
    with whole(parameter for head in heads for parameter in head.parameters()):
        parts = [gathered(head.weight) / len(heads) for head in heads]
        if heads[0].bias is not None:
            parts.append(torch.stack([gathered(head.bias) for head in heads]).sum(dim=0)[:, None] / len(heads))
    return torch.cat(parts, dim=1).double().cpu()


@torch.no_grad()
def put_head(heads: list[nn.Linear], weight: torch.Tensor) -> None:
    """Puts a matrix like that of [`head_weight`] into the heads; their biases move by the same."""
    start = 0
    with whole((parameter for head in heads for parameter in head.parameters()), change=True):
        for head in heads:
            own = len(heads) * weight[:, start : start + head.in_features]
            head.weight.copy_(sharded_as(head.weight, own.contiguous()))
            start += head.in_features
        if heads[0].bias is not None:
            moved = weight[:, -1] - torch.stack([gathered(head.bias) for head in heads]).mean(dim=0)
            for head in heads:
                head.bias.add_(sharded_as(head.bias, moved))


def require_head(model: nn.Module, dataset: Rows, method: str | None) -> nn.Linear:
    """
    The layer that [`find_head`] finds for a method that cannot do without.

    Args:
        model (`nn.Module`):
            An image classifier; called once.
        dataset (`torch.utils.data.Dataset`):
            Items with `pixel_values`; the first is used.
        method (`str`):
            Name of the method, for the error.

    Raises:
        [`InputError`]: if the model does not end in a linear layer.
    """
    pixel_values = dataset[0]["pixel_values"][None].to(next(model.parameters()).device)
    head = find_head(model.eval(), pixel_values)
    if head is None:
        raise InputError(
            "method", f"{method} needs a model that ends in a linear layer; {type(model).__name__} does not."
        )
    return head


@dataclass
class Features:
    """
    What the head sees and should say.

    Args:
        forget (`torch.Tensor` of shape `(n, d)`): the features of the forget images.
        answers (`torch.Tensor` of shape `(n,)`): the class that each is to lose.
        instead (`torch.Tensor` of shape `(n,)`): the class that it is to get.
        held (`torch.Tensor` of shape `(h, d)`): the features of changed copies of some of them.
        held_from (`torch.Tensor` of shape `(h,)`): the forget image of each copy.
    """

    forget: torch.Tensor
    answers: torch.Tensor
    instead: torch.Tensor
    held: torch.Tensor
    held_from: torch.Tensor


def edit_head(weight: torch.Tensor, features: Features, target: float) -> tuple[torch.Tensor, float]:
    r"""
    Makes the least sure of the forget images, as many as the target asks for, lose their class, and holds what the head
    says of the others. It minimises over the change Δ of the weight

        1/A Σ_a KL(p₀(a) ‖ p(a)) + push · Σ_i softplus(s · (z_y(i) − z_o(i) + m)) / s + ridge · ‖Δ C^½‖²

    where a runs over the images that are held (the other forget images and changed copies of them), i over those that
    are to lose their class y to the class o, and C is the second moment of the held features, so that the last term is
    the mean square of the change of their logits. The problem is convex: there is one answer, and no step to choose.
    The push grows until the accuracy on the forget set is at most the target.

    Args:
        weight (`torch.Tensor` of shape `(K, d)`):
            Of the head, double precision; a bias is the weight of a feature that is always 1.
        features ([`Features`]):
            Double precision.
        target (`float`):
            Accuracy on the forget set, between 0 and 1.

    Returns:
        The new weight and the accuracy that it reaches, at best the target.
    """
    logits = features.forget @ weight.T
    right = logits.argmax(dim=-1) == features.answers
    classes = F.one_hot(features.answers, len(weight)).bool()
    sureness = logits[classes] - logits.masked_fill(classes, -torch.inf).amax(dim=-1)
    least_sure_first = sureness.masked_fill(~right, torch.inf).argsort(stable=True)
    num_right, enough = int(right.sum()), math.floor(target * len(right) + 1e-9)
    num_moved = num_right - enough
    best, fewest = weight, num_right
    for push in PUSHES:
        if fewest <= enough:
            break
        moved = torch.zeros_like(right)
        moved[least_sure_first[:num_moved]] = True
        edited = minimise(weight, features, moved, push)
        still_right = (features.forget @ edited.T).argmax(dim=-1) == features.answers
        if still_right.sum() < fewest:
            best, fewest = edited, int(still_right.sum())
        if not (still_right & moved).any():
            # All of these gave way, but others that were wrong have become right.
            num_moved = min(num_right, num_moved + int(still_right.sum()) - enough)
    return best, fewest / len(right)


def minimise(weight: torch.Tensor, features: Features, moved: torch.Tensor, push: float) -> torch.Tensor:
    """The weight at the minimum of the function in [`edit_head`], found by L-BFGS in whitened coordinates."""
    # Of a large forget set, those that have changed copies stand for all.
    rows = features.held_from.unique()
    held = torch.cat([features.forget[rows[~moved[rows]]], features.held[~moved[features.held_from]]])
    # When all must give way there is nothing else to hold, and they resist the push themselves.
    held = held if len(held) else features.forget
    moment = held.T @ held / len(held)
    moment += FLOOR * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    factor = torch.linalg.cholesky(moment)

    def whiten(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve_triangular(factor, x.T, upper=False).T

    forget, answers, instead = features.forget[moved], features.answers[moved], features.instead[moved]
    forget_logits, held_logits, forget, held = forget @ weight.T, held @ weight.T, whiten(forget), whiten(held)
    before = held_logits.softmax(dim=-1)
    change = torch.zeros_like(weight, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [change],
        max_iter=500,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=0.0,
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        logits = forget_logits + forget @ change.T
        gap = logits.gather(1, answers[:, None]) - logits.gather(1, instead[:, None])
        after = (held_logits + held @ change.T).log_softmax(dim=-1)
        loss = F.kl_div(after, before, reduction="none").sum(dim=-1).mean() + RIDGE * change.square().sum()
        loss = loss + push * F.softplus(SHARPNESS * (gap + MARGIN)).sum() / SHARPNESS
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return weight + torch.linalg.solve_triangular(factor.T, change.detach().T, upper=True).T
