"""Choosing the step with no retained data: which weights move, in which direction, and how far."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import CollapsedModelError
from ..publication.search import Search
from .shares import whole


def last_stage_and_head(model: nn.Module, pixel_values: torch.Tensor) -> set[str]:
    """
    Names of the parameters of the last part of the network and of all that runs after it.

    The parts are those of the longest chain of a model: the `ModuleList` or `Sequential` that holds most parameters.
    That is the last stage of ResNet, ConvNeXt, Swin or RegNet, and the last block of ViT, MobileNetV2 or EfficientNet,
    with the norm and the head behind it. A model without such a chain moves as a whole.

    Args:
        model (`nn.Module`):
            An image classifier; called once.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image: the order in which modules run is observed, not guessed from their names.

    Returns:
        `set[str]`: names as in `model.named_parameters()`.
    """
    everything = {name for name, _ in model.named_parameters()}
    last_part, most = None, 0
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            parts = [part for part, child in module.named_children() if any(True for _ in child.parameters())]
            size = sum(parameter.numel() for parameter in module.parameters())
            if len(parts) > 1 and size > most:
                last_part, most = f"{name}.{parts[-1]}", size
    if last_part is None:
        return everything

    called = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.append(name))
        for name, module in model.named_modules()
        if module._parameters
    ]
    with torch.no_grad():
        model(pixel_values=pixel_values)
    for hook in hooks:
        hook.remove()
    first = next((i for i, name in enumerate(called) if f"{name}.".startswith(f"{last_part}.")), None)
    if first is None:
        return everything
    # A module that earlier parts call too does not belong to the end.
    late = set(called[first:]) - set(called[:first])
    return {name for name in everything if name.rpartition(".")[0] in late or name.startswith(f"{last_part}.")}


def freeze_all_but(model: nn.Module, names: set[str]) -> list[nn.Parameter]:
    """
    Freezes all weights but these.

    Args:
        model (`nn.Module`):
            Any model.
        names (`set[str]`):
            Names of the weights that are to move, as in `model.named_parameters()`.

    Returns:
        `list[nn.Parameter]`: those that were not frozen before; none if the named ones cannot move, for then nothing is frozen.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names & trainable.keys():
        return []
    frozen = [parameter for name, parameter in trainable.items() if name not in names]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


class GradientSum(torch.optim.Optimizer):
    """
    Adds up gradients and moves nothing: the direction of the automatic step is the gradient over the whole forget set,
    however many batches it takes. The sum is the optimizer's state, so checkpoints hold it.

    Args:
        params (iterable):
            The weights that move.
    """

    def __init__(self, params: Iterable[torch.Tensor]):
        super().__init__(params, defaults={"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if "sum" not in state:
                        state["sum"] = torch.zeros_like(parameter)
                    state["sum"] += parameter.grad

    def direction(self) -> dict[torch.Tensor, torch.Tensor]:
        """The sum of each weight that got a gradient, which is forgotten here."""
        sums = {parameter: state["sum"] for parameter, state in self.state.items()}
        self.state.clear()
        return sums


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The 2-norm of several tensors as one vector; of the whole tensors where they are sharded over processes."""
    squares = [tensor.detach().double().square().sum() for tensor in tensors]
    squares = [square.full_tensor() if isinstance(square, DTensor) else square for square in squares]
    # One wait for the device, not one for each tensor.
    return torch.stack(squares).sum().sqrt().item() if squares else 0.0


@torch.no_grad()
def search_length(
    direction: dict[torch.Tensor, torch.Tensor],
    accuracy: Callable[[], float],
    target: float,
    start: float,
    on_trial: Callable[[float, float], None] | None = None,
    first: float = 0.01,
    longest: float = 0.6,
    precision: float = 1.12,
    overshoot: float = 0.05,
    evaluations: int = 9,
) -> Search:
    """
    Moves the weights along −direction by the smallest length at which the accuracy on the forget set is at most the
    target: three times longer until it is, then halving on a logarithmic scale. If no length reaches the target, the
    weights stay at the best one found.

    Args:
        direction (`dict`):
            The gradient of each weight that moves.
        accuracy (`Callable`):
            Measures the forget set with the weights as they are; the same on all processes.
        target (`float`):
            Between 0 and 1.
        start (`float`):
            The accuracy before the step.
        on_trial (`Callable`, *optional*):
            Told of each length that is tried and the accuracy there.
        first (`float`, *optional*, defaults to 0.01):
            The first length to try, relative to the norm of the weights that move.
        longest (`float`, *optional*, defaults to 0.6):
            No longer one is tried: the network would be another.
        precision (`float`, *optional*, defaults to 1.12):
            The search ends when the smallest length that suffices is known to this factor.
        overshoot (`float`, *optional*, defaults to 0.05):
            ... and the accuracy is below the target by no more than this: where it falls like a cliff, a length that is
            12 % too long takes the whole class along.
        evaluations (`int`, *optional*, defaults to 9):
            The search ends after so many, or twice as many while the accuracy overshoots.

    Returns:
        [`Search`]: the step taken.

    Raises:
        [`CollapsedModelError`]: if the gradient is not finite.
    """
    with whole(direction):
        originals = {parameter: parameter.detach().clone() for parameter in direction}
    size, slope = norm(originals.values()), norm(direction.values())
    if not math.isfinite(slope):
        raise CollapsedModelError("the gradient over the forget set is not finite; nothing is saved.")
    if start <= target or slope == 0:
        return Search(target, start, start, reached=start <= target)

    def move_to(length: float) -> None:
        with whole(direction, change=True):
            for parameter, gradient in direction.items():
                parameter.copy_(originals[parameter] - gradient * (length * size / slope))

    too_short, enough, length = 0.0, None, first
    best = Search(target, start, start)
    tried = 0
    while tried < (2 * evaluations if best.reached and target - best.accuracy > overshoot else evaluations):
        tried += 1
        move_to(length)
        found = Search(target, start, accuracy(), length)
        if on_trial is not None:
            on_trial(length, found.accuracy)
        if found.accuracy <= target:
            found.reached, enough, best = True, length, found
        else:
            too_short = length
            if enough is None and found.accuracy < best.accuracy:
                best = found
        close = target - best.accuracy <= overshoot
        # Far below the target it goes on to what the types of the weights can tell apart.
        if enough and too_short and enough / too_short < (precision if close else 1.0001):
            break
        if too_short == longest:
            break
        if enough and too_short:
            length = math.sqrt(too_short * enough)
        else:
            length = enough / 3 if enough else min(3 * too_short, longest)
    best.evaluations = tried
    move_to(best.length)
    return best


def blur(pixel_values: torch.Tensor) -> torch.Tensor:
    """Each pixel is the mean of the 3 × 3 around it."""
    return F.avg_pool2d(F.pad(pixel_values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def turn(pixel_values: torch.Tensor, degrees: float = 5.0) -> torch.Tensor:
    """Images turned about their centre, with the border continued."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = pixel_values.new_tensor([[cosine, -sine, 0], [sine, cosine, 0]]).expand(len(pixel_values), 2, 3)
    grid = F.affine_grid(matrix, list(pixel_values.shape), align_corners=False)
    return F.grid_sample(pixel_values, grid, padding_mode="border", align_corners=False)


def shift(pixel_values: torch.Tensor) -> torch.Tensor:
    """Images moved down by one pixel, with the first row repeated."""
    return torch.cat([pixel_values[:, :, :1], pixel_values[:, :, :-1]], dim=2)
