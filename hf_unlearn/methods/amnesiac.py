"""Amnesiac unlearning: trains the forget images with random other labels, together with the retained images."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import other_classes
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class AmnesiacConfig(UnlearningConfig):
    r"""
    Configuration of [`AmnesiacTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of JiT's authors for this method (Adam,
    3 epochs, learning rate 1e-4, batches of 128, in their `forget_full_class_strategies.py`):

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay this is Adam.
    learning_rate (`float`, *optional*, defaults to 1e-4)
    num_train_epochs (`float`, *optional*, defaults to 3)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over all images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})


class AmnesiacTrainer(UnlearningTrainer):
    r"""
    Amnesiac unlearning as JiT's authors ran it, from forget and retained images. It is the first of the two methods
    ("Unlearning") of Graves et al., "Amnesiac Machine Learning"
    ([arXiv 2010.10981](https://arxiv.org/abs/2010.10981)):

        ℓ(x, y) = −log p_y'(x) on the forget images,    −log p_y(x) on the retained ones

    `y'` is drawn uniformly from all classes but `y`, once for each image, by `seed`.

    Data: the forget images, and the retained images with their labels. `y` is the label of an image; for a forget
    image without a label, it is the class that the original model predicts.

    Differences from JiT's authors: the BatchNorm running statistics are frozen, and dropout is off. If several classes
    are forgotten, `y'` can be another class to forget.
    """

    _name = "Amnesiac"
    _paper = "https://arxiv.org/abs/2010.10981"
    _tag_names = ["unlearning", "machine-unlearning", "amnesiac-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, the images to forget and retained training images"

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        labels, numbers = inputs["answers"], inputs["positions"]
        others = other_classes(labels, numbers, self.num_labels, self.args.seed)
        return F.cross_entropy(logits, torch.where(inputs["is_forget"], others, labels), reduction="none"), {}
