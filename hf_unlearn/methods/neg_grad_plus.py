"""NegGrad+: raises the loss of the forget images and lowers the loss of the retained images, in the same update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data.training_set import interleave
from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class NegGradPlusConfig(UnlearningConfig):
    r"""
    Configuration of [`NegGradPlusTrainer`].

    Args:
        alpha (`float`, *optional*, defaults to 0.95):
            α, the weight of the retained images, above 0 and at most 1. The forget images have the weight `1 - alpha`.

    Parameters whose default differs from [`UnlearningConfig`]. The paper reports α 0.95, learning rate 0.01 and 10
    epochs for its small data sets, and α 0.9999, learning rate 0.01 and 5 epochs for CIFAR-10. Our learning rate and
    epochs are lower: the loss of the forget images has no bound, and with frozen BatchNorm running statistics a
    learning rate of 0.01, or 10 epochs, made the weights of a ResNet infinite.

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 1e-3)
    num_train_epochs (`float`, *optional*, defaults to 5)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    alpha: float = field(default=0.95, metadata={"help": "Weight of the retained images against the forget images."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=1e-3, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the retained images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise InputError("alpha", f"got {self.alpha}. Valid: above 0 and at most 1.")


class NegGradPlusTrainer(UnlearningTrainer):
    r"""
    NegGrad+ (Kurmanji et al., "Towards Unbounded Machine Unlearning",
    [arXiv 2302.09880](https://arxiv.org/abs/2302.09880)), from forget and retained images. Each update is a gradient
    step that lowers

        L = α · mean over its retained images of (−log p_y)  −  (1 − α) · mean over its forget images of (−log p_y)

    Retained and forget images alternate. An epoch goes once over the retained images; the forget images start again
    when they end.

    Data: the forget images, and the retained images with their labels. `y` is the label of an image; for a forget
    image without a label, it is the class that the original model predicts.

    Differences from the authors: the BatchNorm running statistics are frozen, and dropout is off.
    """

    _name = "NegGrad+"
    _paper = "https://arxiv.org/abs/2302.09880"
    _tag_names = ["unlearning", "machine-unlearning", "neg-grad-plus-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, the images to forget and retained training images"
    args: NegGradPlusConfig

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        return [
            interleave(shuffle(self.training_set.positions("retain")), shuffle(self.training_set.positions("forget")))
        ]

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        loss = F.cross_entropy(logits, inputs["answers"], reduction="none")
        # The trainer takes the mean over all images of the update. These weights turn it into the two means of L.
        alpha, share = self.args.alpha, self.forget_share
        return loss * torch.where(inputs["is_forget"], -(1 - alpha) / share, alpha / (1 - share)), {}
