"""Where a step of the last stage changes too much elsewhere, one of the head may forget as much and change less."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..publication.search import Search
from .head_edit import find_heads
from .original import swap_weights
from .step_size import search_length


if TYPE_CHECKING:
    from .trainer import UnlearningTrainer


def spare_stage(
    trainer: "UnlearningTrainer",
    direction: dict[torch.Tensor, torch.Tensor],
    step: Search,
    change: float,
    log_trial: Callable[[float, float], None],
) -> tuple[Search, float, bool]:
    """
    Searches along the head's part of a gradient for a step that forgets as much as that of the last stage and changes less,
    and puts the better one into the model.

    Args:
        trainer ([`UnlearningTrainer`]):
            Its model has the step of the last stage.
        direction (`dict`):
            The gradient of each weight that moves.
        step ([`~publication.search.Search`]):
            The step of the last stage.
        change (`float`):
            Its change elsewhere, by the guard.
        log_trial (`Callable`):
            Told each length that is tried, and the accuracy on the forget set there.

    Returns:
        The step that is kept, its change, and whether it is that of the head.
    """
    heads = find_heads(trainer.model, trainer.first_image())
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    of_head = {parameter: gradient for parameter, gradient in direction.items() if id(parameter) in own}
    if not of_head:
        return step, change, False
    stage = swap_weights(trainer.model, trainer.original.weights)
    head_step = search_length(of_head, trainer.forget_accuracy, step.target, trainer.start, log_trial)
    forgets_less = head_step.accuracy > max(step.accuracy, step.target)
    head_change = math.inf if forgets_less else trainer.guard.change()
    if head_change >= change:
        swap_weights(trainer.model, stage)
        return step, change, False
    head_step.evaluations += step.evaluations
    head_step.stage_change = change
    return head_step, head_change, True
