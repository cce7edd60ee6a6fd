"""Boundary expand: trains the forget images to an additional class, which is removed afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.head_edit import require_head
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


SHADOW_FILE = "shadow.safetensors"


@dataclass
class BoundaryExpandConfig(UnlearningConfig):
    r"""
    Configuration of [`BoundaryExpandTrainer`].

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the authors' code for an All-CNN on
    CIFAR-10:

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 1e-5)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 64)
    """

    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the forget set."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per process and forward pass."})


class BoundaryExpandTrainer(UnlearningTrainer):
    r"""
    Boundary expand ("Boundary Unlearning", CVPR 2023, [arXiv 2303.11570](https://arxiv.org/abs/2303.11570)), from the
    forget images alone. The head (the last linear layer) gets one more output, the shadow class K+1. All forget images
    are trained to the shadow class, which is removed afterwards:

        ℓ(x) = −log softmax([f(x), w·h(x) + b])_{K+1}

    f(x) are the logits and h(x), with d features, is the input of the head. w starts from a normal distribution with
    variance 2 / (d + K + 1) and b from 0 (Glorot's initialisation, as the authors'); both are trained like the weights
    of the model.

    Data: the forget images. Labels are used for logging only.

    Differences from the authors: the BatchNorm running statistics are frozen. w and b are kept outside the model, so
    the saved model never has the shadow class. Sharded models (FSDP, DeepSpeed) are not supported.
    """

    _name = "boundary expand"
    _paper = "https://arxiv.org/abs/2303.11570"
    _tag_names = ["unlearning", "machine-unlearning", "boundary-unlearning"]
    args: BoundaryExpandConfig
    # Made with the optimizer.
    shadow: nn.Linear

    def __init__(self, model: "ImageClassifier", args: BoundaryExpandConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("method", f"{self._name} does not run on sharded models (FSDP, DeepSpeed).")
        self.head = require_head(self.model, self.train_dataset, self._name)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        features, classes = self.head.in_features, self.head.out_features + 1
        self.shadow = nn.Linear(features, 1)
        generator = torch.Generator().manual_seed(self.args.seed)
        nn.init.normal_(self.shadow.weight, std=(2 / (features + classes)) ** 0.5, generator=generator)
        nn.init.zeros_(self.shadow.bias)
        self.shadow.to(self.args.device)
        for parameter in self.shadow.parameters():
            # DDP averages the gradients of the model's own weights only.
            parameter.register_hook(lambda gradient: self.accelerator.reduce(gradient, reduction="mean"))
        optimizer.add_param_group({"params": list(self.shadow.parameters())})
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor]:
        # Called once per update. The Trainer clears the gradients of the model only.
        self.shadow.zero_grad()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features: list[torch.Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        logits = model(pixel_values=inputs["pixel_values"]).logits
        hook.remove()
        widened = torch.cat([logits, self.shadow(features.pop())], dim=-1).float()
        loss = F.cross_entropy(widened, torch.full_like(inputs["answers"], logits.shape[1]), reduction="none")
        return loss, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}

    # ---- Checkpoints ----

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            save_file(self.shadow.state_dict(), Path(output_dir) / SHADOW_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.shadow.load_state_dict(load_file(Path(checkpoint) / SHADOW_FILE))
