"""Gradient ascent: increases the training loss of the forget images."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class GradientAscentConfig(UnlearningConfig):
    r"""
    Configuration of [`GradientAscentTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the command in SalUn's code for a
    ResNet-18 on CIFAR-10 (SGD with momentum 0.9, 5 epochs, learning rate 1e-4):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 1e-4)
    num_train_epochs (`float`, *optional*, defaults to 5)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the forget set."})


class GradientAscentTrainer(UnlearningTrainer):
    r"""
    Gradient ascent on the forget images alone, the simplest baseline ("negative gradient" in Golatkar et al.,
    [arXiv 1911.04933](https://arxiv.org/abs/1911.04933), where it is combined with fine-tuning on retained images):

        ℓ(x) = log p(y | x)

    It is minimised but has no minimum: only the learning rate and the number of updates keep the method from
    destroying the model.

    Data: the forget images. `y` is the label of the image or, without labels, the class that the original model
    predicts.

    Differences from SalUn's code: the BatchNorm running statistics are frozen.
    """

    _name = "gradient ascent"
    _paper = "https://arxiv.org/abs/1911.04933"
    _tag_names = ["unlearning", "machine-unlearning", "gradient-ascent"]
    args: GradientAscentConfig

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        loss = -F.cross_entropy(logits, inputs["answers"], reduction="none")
        return loss, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
