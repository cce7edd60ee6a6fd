"""Bad teacher: trains the forget images to the outputs of a network with random weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import kl_divergence
from ..unlearning.original import find_logits
from ..unlearning.random_model import random_model
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class BadTeacherConfig(UnlearningConfig):
    r"""
    Configuration of [`BadTeacherTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of JiT's authors for this method (Adam,
    one epoch, learning rate 1e-4, batches of 256, temperature 1, in their `forget_full_class_strategies.py`):

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay this is Adam.
    learning_rate (`float`, *optional*, defaults to 1e-4)
    per_device_train_batch_size (`int`, *optional*, defaults to 256)
    """

    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Images per step and device."})


class BadTeacherTrainer(UnlearningTrainer):
    r"""
    Bad teacher (Chundawat et al., "Can Bad Teaching Induce Forgetting?",
    [arXiv 2205.08096](https://arxiv.org/abs/2205.08096)), from forget and retained images:

        ℓ(x) = KL(p_b(x) ‖ p(x)) on the forget images,    KL(p₀(x) ‖ p(x)) on the retained ones

    p₀ are the probabilities of the original model. p_b are those of the incompetent teacher, a model of the same
    configuration with random weights, by `seed`. Both are computed once.

    Data: the forget images and retained images. Labels are not used, although the retained images must have them.

    Differences from the authors: all given retained images are used, while the authors use a random 30 %. The
    divergence is summed over the classes, while the authors average it. Averaging divides the gradient by the number
    of classes, which makes little difference to Adam. The BatchNorm running statistics are frozen, and dropout is off.
    """

    _name = "Bad teacher"
    _paper = "https://arxiv.org/abs/2205.08096"
    _tag_names = ["unlearning", "machine-unlearning", "bad-teacher-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    needs_original_logits = True
    data_used = "the trained model, the images to forget, retained training images and a network with random weights"
    args: BadTeacherConfig

    def prepare(self) -> None:
        bad_teacher = random_model(self.model, self.args.seed)
        taught = find_logits(self, bad_teacher, self.train_dataset)
        self.teacher_logits = torch.cat([taught, self.original_logits[len(taught) :]])

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        return kl_divergence(self.teacher_logits[inputs["sample_index"]], logits), {}
