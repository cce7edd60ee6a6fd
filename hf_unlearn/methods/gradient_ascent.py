"""Gradient ascent: the training loss of the forget images is made larger."""

from dataclasses import dataclass, field

import torch.nn.functional as F

from ..unlearning.config import UnlearningConfig
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class GradientAscentConfig(UnlearningConfig):
    r"""
    Configuration of [`GradientAscentTrainer`].

    Parameters whose default differs from [`UnlearningConfig`], from the command that the code of SalUn gives for a
    ResNet-18 on CIFAR-10 (SGD with momentum 0.9, 5 epochs, rate 1e-4):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 1e-4)
    num_train_epochs (`float`, *optional*, defaults to 5)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the forget set."})


class GradientAscentTrainer(UnlearningTrainer):
    r"""
    Gradient ascent on the forget images alone, the plainest baseline (as "negative gradient" in Golatkar et al.,
    [arXiv 1911.04933](https://arxiv.org/abs/1911.04933), there beside fine-tuning on retained data):

        ℓ(x) = log p(y | x),    minimised

    It has no minimum: nothing but the rate and the number of updates keeps it from destroying the model.

    Data: the forget images; `y` is their label or, without labels, the class that the original model names. BatchNorm's
    statistics stay as they are, which the code of SalUn updates.
    """

    _name = "gradient ascent"
    _paper = "https://arxiv.org/abs/1911.04933"
    _tag_names = ["unlearning", "machine-unlearning", "gradient-ascent"]

    def unlearning_loss(self, model, inputs):
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        loss = -F.cross_entropy(logits, inputs["answers"], reduction="none")
        return loss, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
