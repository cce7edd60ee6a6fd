"""Amnesiac unlearning: the forget images are relearned under random other labels, beside the retained ones."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import other_classes
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class AmnesiacConfig(UnlearningConfig):
    r"""
    Configuration of [`AmnesiacTrainer`].

    Parameters whose default differs from [`UnlearningConfig`], as the authors of JiT ran it (Adam, 3 epochs, rate 1e-4,
    batches of 128, in their `forget_full_class_strategies.py`):

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay that is Adam.
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
    Amnesiac unlearning as the authors of JiT ran it: the first of the two methods ("Unlearning") of Graves et al.,
    "Amnesiac Machine Learning" ([arXiv 2010.10981](https://arxiv.org/abs/2010.10981)), from forget and retained images:

        ℓ(x, y) = −log p_y'(x) on the forget images,    −log p_y(x) on the retained ones

    `y'` is another label than `y`, all others being equally likely. It is drawn once for each image, by `seed`.

    Data: the forget images and the retained images with their labels. A forget image without a label counts as what the
    original model takes it for.

    Different from the authors of JiT: the statistics of BatchNorm are frozen and dropout is off. When several classes
    are forgotten, `y'` may be another one of them.
    """

    _name = "Amnesiac"
    _paper = "https://arxiv.org/abs/2010.10981"
    _tag_names = ["unlearning", "machine-unlearning", "amnesiac-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, the images to forget and retained training images"

    def unlearning_loss(self, model, inputs):
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        labels, numbers = inputs["answers"], inputs["positions"]
        others = other_classes(labels, numbers, self.model.config.num_labels, self.args.seed)
        return F.cross_entropy(logits, torch.where(inputs["is_forget"], others, labels), reduction="none"), {}
