"""
SCRUB: moves the model away from the original model on the forget images and back to it on the retained images, in
alternating passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import kl_divergence
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class SCRUBConfig(UnlearningConfig):
    r"""
    Configuration of [`SCRUBTrainer`]. One epoch contains all passes, so leave `num_train_epochs` at 1.

    Args:
        num_max_passes (`int`, *optional*, defaults to 2):
            Number of passes over the forget images, which move the model away from the original model.
        num_min_passes (`int`, *optional*, defaults to 3):
            Number of passes over the retained images.
        alpha (`float`, *optional*, defaults to 0.001):
            α, the weight of the divergence from the original model on the retained images.
        gamma (`float`, *optional*, defaults to 0.99):
            γ, the weight of the cross-entropy on the retained images.

    Parameters whose default differs from [`UnlearningConfig`]. These defaults and those above are those of JiT's
    authors for this method (SGD with momentum 0.9, weight decay 5e-4, learning rate 5e-4, gradients clipped at 1, in
    their `forget_full_class_strategies.py`):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    weight_decay (`float`, *optional*, defaults to 5e-4)
    learning_rate (`float`, *optional*, defaults to 5e-4)
    max_grad_norm (`float`, *optional*, defaults to 1)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    num_max_passes: int = field(default=2, metadata={"help": "Passes over the forget images."})
    num_min_passes: int = field(default=3, metadata={"help": "Passes over the retained images."})
    alpha: float = field(default=0.001, metadata={"help": "Weight of the divergence on the retained images."})
    gamma: float = field(default=0.99, metadata={"help": "Weight of the cross-entropy on the retained images."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=5e-4, metadata={"help": "The initial learning rate."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Maximum gradient norm; 0 means no clipping."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_max_passes", "num_min_passes"):
            if getattr(self, name) < 1:
                raise InputError(name, f"got {getattr(self, name)}. Valid: at least 1.")


class SCRUBTrainer(UnlearningTrainer):
    r"""
    SCRUB (Kurmanji et al., "Towards Unbounded Machine Unlearning",
    [arXiv 2302.09880](https://arxiv.org/abs/2302.09880)), from forget and retained images:

        ℓ(x) = −d(x) on the forget images,    ℓ(x, y) = α d(x) − γ log p_y(x) on the retained ones,
        d(x) = T² KL(softmax(f₀(x)/T) ‖ softmax(f(x)/T)),    T = 4

    f are the logits of the model and f₀ those of the original model. Passes over the retained images (min) and over
    the forget images (max) alternate until one kind is used up; the remaining passes of the other kind follow. By
    default the order is min, max, min, max, min.

    Data: the forget images, and the retained images with their labels.

    Differences from the authors: they start with a max pass, here a min pass comes first. At the original weights d
    has its minimum 0 and no gradient, so a max pass could not move the model. In their code dropout and the batch
    statistics of BatchNorm make the model differ from the original at once; here the BatchNorm running statistics are
    frozen and dropout is off. Forget and retained images come in batches of the same size, and the learning rate is
    constant.
    """

    _name = "SCRUB"
    _paper = "https://arxiv.org/abs/2302.09880"
    _tag_names = ["unlearning", "machine-unlearning", "scrub-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    needs_original_logits = True
    data_used = "the trained model, the images to forget and retained training images"
    temperature = 4.0
    args: SCRUBConfig

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        phases = []
        for number in range(max(self.args.num_min_passes, self.args.num_max_passes)):
            if number < self.args.num_min_passes:
                phases.append(shuffle(self.training_set.positions("retain")))
            if number < self.args.num_max_passes:
                phases.append(shuffle(self.training_set.positions("forget")))
        return phases

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        original_logits = self.original_logits[inputs["sample_index"]]
        divergence = self.temperature**2 * kl_divergence(original_logits / self.temperature, logits / self.temperature)
        cross_entropy = F.cross_entropy(logits, inputs["answers"], reduction="none")
        retained = self.args.alpha * divergence + self.args.gamma * cross_entropy
        return torch.where(inputs["is_forget"], -divergence, retained), {}
