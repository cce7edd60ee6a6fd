"""Fine-tuning: continues training on the retained images alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class FineTuneConfig(UnlearningConfig):
    r"""
    Configuration of [`FineTuneTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of JiT's authors for this method (SGD
    with momentum 0.9 and weight decay 5e-4, 5 epochs, learning rate 0.02, in their `forget_full_class_strategies.py`):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    weight_decay (`float`, *optional*, defaults to 5e-4)
    learning_rate (`float`, *optional*, defaults to 0.02)
    num_train_epochs (`float`, *optional*, defaults to 5)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=0.02, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the retained images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})


class FineTuneTrainer(UnlearningTrainer):
    r"""
    Fine-tuning on the retained images alone, a baseline. Its hope is that a model forgets images that it is no longer
    trained on:

        ℓ(x, y) = −log p_y(x)

    Data: the retained images with their labels. The forget images are only used for measuring.

    Differences from JiT's authors: the BatchNorm running statistics are frozen, dropout is off, and images are not
    augmented.
    """

    _name = "Fine-tuning"
    _tag_names = ["unlearning", "machine-unlearning", "fine-tune-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model and retained training images"

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        return [shuffle(self.training_set.positions("retain"))]

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        to_log = {"retain_accuracy": (logits.argmax(dim=-1) == inputs["labels"]).float()}
        return F.cross_entropy(logits, inputs["labels"], reduction="none"), to_log
