"""DELETE: trains each forget image to the original model's probabilities without the class to forget."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class DELETEConfig(UnlearningConfig):
    r"""
    Configuration of [`DELETETrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the authors' configuration for a
    ResNet-18 on CIFAR-100 (SGD with momentum 0.9, 20 epochs, learning rate 5e-5):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 5e-5)
    num_train_epochs (`float`, *optional*, defaults to 20)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=5e-5, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the forget set."})


class DELETETrainer(UnlearningTrainer):
    r"""
    DELETE ("Decoupled Distillation to Erase", [arXiv 2503.23751](https://arxiv.org/abs/2503.23751)), from the forget
    images alone:

        ℓ(x) = KL(m_y(p₀(x)) ‖ p(x))

    p₀ are the probabilities of the original model. m_y removes the class `y` from them: its logit is set to −∞ before
    the softmax.

    Data: the forget images. `y` is the label of the image or, without labels, the class that the original model
    predicts.
    """

    _name = "DELETE"
    _paper = "https://arxiv.org/abs/2503.23751"
    _tag_names = ["unlearning", "machine-unlearning", "delete-unlearning"]
    needs_original_logits = True
    args: DELETEConfig

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        target = self.original_logits[inputs["sample_index"]].scatter(1, inputs["answers"][:, None], -torch.inf)
        divergence = F.kl_div(logits.log_softmax(dim=-1), target.softmax(dim=-1), reduction="none").sum(dim=-1)
        return divergence, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
