"""Random label: trains the forget images with wrong labels that are drawn at random."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.losses import other_classes
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class RandomLabelConfig(UnlearningConfig):
    r"""
    Configuration of [`RandomLabelTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are our choice, since the published settings are
    for training together with retained images. Optimizer and epochs are those of boundary shrink, which has the same
    loss with other labels. With this learning rate, a small ResNet forgets a class of Fashion-MNIST.

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 2e-5)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 64)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the forget set."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per process and forward pass."})


class RandomLabelTrainer(UnlearningTrainer):
    r"""
    Random labels on the forget images alone (a baseline of Golatkar et al.,
    [arXiv 1911.04933](https://arxiv.org/abs/1911.04933), where it is combined with fine-tuning on retained images):

        ℓ(x) = −log p(ỹ | x),    ỹ ≠ y drawn uniformly from the other classes

    ỹ is drawn once for each image, by (seed, position in the forget set).

    Data: the forget images. `y` is the label of the image or, without labels, the class that the original model
    predicts.

    Differences from the authors: the BatchNorm running statistics are frozen.
    """

    _name = "random label"
    _paper = "https://arxiv.org/abs/1911.04933"
    _tag_names = ["unlearning", "machine-unlearning", "random-label"]
    args: RandomLabelConfig

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        labels = other_classes(inputs["answers"], inputs["positions"], logits.shape[1], self.args.seed)
        loss = F.cross_entropy(logits, labels, reduction="none")
        return loss, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
