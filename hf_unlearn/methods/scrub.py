"""SCRUB: away from the original model on the forget images, and back to it on the retained ones, in turns."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import kl_divergence
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class SCRUBConfig(UnlearningConfig):
    r"""
    Configuration of [`SCRUBTrainer`]. All passes make one epoch: leave `num_train_epochs` at 1.

    > Parameters that control the update

    Args:
        num_max_passes (`int`, *optional*, defaults to 2):
            Passes over the forget images, away from the original.
        num_min_passes (`int`, *optional*, defaults to 3):
            Passes over the retained images.
        alpha (`float`, *optional*, defaults to 0.001):
            Weight of the divergence from the original on the retained images.
        gamma (`float`, *optional*, defaults to 0.99):
            Weight of the cross-entropy on the retained images.

    Parameters whose default differs from [`UnlearningConfig`]. These and the above are as the authors of JiT ran it
    (SGD with momentum 0.9, weight decay 5e-4, rate 5e-4, gradients clipped at 1, in their
    `forget_full_class_strategies.py`):

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
    SCRUB (Kurmanji et al., "Towards Unbounded Machine Unlearning", [arXiv
    2302.09880](https://arxiv.org/abs/2302.09880)), from forget and retained images:

        ℓ(x) = −d(x) on the forget images,    ℓ(x, y) = α d(x) − γ log p_y(x) on the retained ones,
        d(x) = T² KL(softmax(f₀(x)/T) ‖ softmax(f(x)/T)),    T = 4

    f₀ are the original model's logits. Passes over the retained images (min) and the forget images (max) take turns
    until one kind is used up, and the rest of the other follow: min, max, min, max, min by default.

    Data: the forget images and the retained images with their labels.

    Different from the authors: a min pass comes first, theirs is a max pass. At the original model d has its minimum, 0,
    and no gradient: theirs differs from it at once, by dropout and the batches' statistics, while here the statistics
    of BatchNorm are frozen and dropout is off. Forget and retained images come in batches of the same size, and the
    rate is constant.
    """

    _name = "SCRUB"
    _paper = "https://arxiv.org/abs/2302.09880"
    _tag_names = ["unlearning", "machine-unlearning", "scrub-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    needs_original_logits = True
    data_used = "the trained model, the images to forget and retained training images"
    temperature = 4.0

    def phases(self, shuffle):
        phases = []
        for number in range(max(self.args.num_min_passes, self.args.num_max_passes)):
            if number < self.args.num_min_passes:
                phases.append(shuffle(self.training_set.positions("retain")))
            if number < self.args.num_max_passes:
                phases.append(shuffle(self.training_set.positions("forget")))
        return phases

    def unlearning_loss(self, model, inputs):
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        original_logits = self.original_logits[inputs["sample_index"]]
        divergence = self.temperature**2 * kl_divergence(original_logits / self.temperature, logits / self.temperature)
        cross_entropy = F.cross_entropy(logits, inputs["answers"], reduction="none")
        retained = self.args.alpha * divergence + self.args.gamma * cross_entropy
        return torch.where(inputs["is_forget"], -divergence, retained), {}
