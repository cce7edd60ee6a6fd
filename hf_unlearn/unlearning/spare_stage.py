"""A step of the head in place of one of the last stage, where that one changed too much elsewhere."""

import math
from typing import TYPE_CHECKING

import torch

from ..publication.search import Search
from .head_edit import find_heads
from .original import swap_weights
from .step_size import search_length


if TYPE_CHECKING:
    from .trainer import UnlearningTrainer


def spare_stage(
    trainer: "UnlearningTrainer", direction: dict[torch.Tensor, torch.Tensor], step: Search, change: float
) -> tuple[Search, float]:
    """
    Where the step of the last stage changed too much elsewhere: searches along the head's part of the same gradient
    instead, and keeps that step if it forgets as much and changes less. Returns the step that is kept, and its change.
    """
    heads = find_heads(trainer.model, trainer.first_image())
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    of_head = {parameter: gradient for parameter, gradient in direction.items() if id(parameter) in own}
    if not of_head:
        return step, change
    stage = swap_weights(trainer.model, trainer.original.weights)
    head_step = search_length(of_head, trainer.forget_accuracy, step.target, trainer.start)
    forgets_less = head_step.accuracy > max(step.accuracy, step.target)
    head_change = math.inf if forgets_less else trainer.guard.change()
    if head_change >= change:
        swap_weights(trainer.model, stage)
        return step, change
    head_step.evaluations += step.evaluations
    head_step.stage_change = change
    return head_step, head_change
