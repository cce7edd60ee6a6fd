"""Retraining from scratch: the reference that all other methods are compared with."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast
from torch import nn

from ..unlearning.config import UnlearningConfig
from ..unlearning.random_model import random_model
from .fine_tune import FineTuneTrainer


if TYPE_CHECKING:
    pass


@dataclass
class RetrainConfig(UnlearningConfig):
    r"""
    Configuration of [`RetrainTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. The recipe is that of
    `scripts/benchmarks/auto_step/train_networks.py`: AdamW, with a learning rate that rises for a fifth of the updates
    and then falls along a cosine. Use the recipe that the original model was trained with: otherwise the difference
    between the recipes looks like forgetting.

    optim (`str`, *optional*, defaults to `"adamw_torch"`)
    weight_decay (`float`, *optional*, defaults to 0.05)
    learning_rate (`float`, *optional*, defaults to 3e-3): the highest learning rate.
    lr_scheduler_type (`str`, *optional*, defaults to `"cosine"`)
    warmup_steps (`float`, *optional*, defaults to 0.2): below 1, a share of the updates.
    max_grad_norm (`float`, *optional*, defaults to 1)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=3e-3, metadata={"help": "The highest learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The scheduler type to use."})
    warmup_steps: float = field(
        default=0.2, metadata={"help": "Updates until the highest rate; below 1, their share."}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Maximum gradient norm; 0 means no clipping."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the retained images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})


class RetrainTrainer(FineTuneTrainer):
    r"""
    Retraining from scratch on the retained images. It is the only method here whose weights never depended on the
    forget images:

        θ₀ ~ the initialisation of the architecture,    ℓ(x, y) = −log p_y(x)

    All parameters and buffers start anew from the model's configuration, by `seed`. The weights of the given model are
    used only to measure how much the model changed.

    Data: the retained images with their labels. For a fair comparison these should be all retained training images.

    Unlike in all other methods, BatchNorm updates its running statistics and dropout is active. The weights therefore
    depend on the batch size and on the number of processes. If the images do not fill the last batch, some of them are
    repeated: they count in the BatchNorm statistics, but not in the loss. Images are not augmented.
    """

    _name = "Retraining"
    _tag_names = ["unlearning", "machine-unlearning", "retrain-unlearning"]
    runs_sharded, trains_frozen_weights = False, False
    data_used = "retained training images, from new weights"
    # A retrained model need not be close to the original model.
    change_limit = math.inf
    distance_limit = math.inf
    args: RetrainConfig

    def prepare(self) -> None:
        # A resumed run takes its weights from the checkpoint.
        if self.state.global_step == 0:
            self.model.load_state_dict(random_model(self.model, self.args.seed).state_dict())

    def set_mode(self, model: nn.Module) -> None:
        model.train()

    @torch.no_grad()
    def finish(self) -> None:
        # Each process has its own BatchNorm running statistics. All processes use those of the first process.
        for buffer in self.model.buffers():
            buffer.copy_(broadcast(buffer))
