"""Boundary shrink: trains each forget image to the class on the other side of the nearest decision boundary."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data.image_dataset import pixel_range
from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class BoundaryShrinkConfig(UnlearningConfig):
    r"""
    Configuration of [`BoundaryShrinkTrainer`].

    Args:
        bound (`float`, *optional*, defaults to 0.1):
            How far the adversarial step moves each pixel, as a share of the range from black to white. The authors'
            value.

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the authors' code for an All-CNN on
    CIFAR-10:

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    learning_rate (`float`, *optional*, defaults to 1e-5)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 64)
    """

    bound: float = field(default=0.1, metadata={"help": "Adversarial step of a pixel, as a share of its range."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the forget set."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per process and forward pass."})

    def __post_init__(self):
        if not 0 < self.bound <= 1:
            raise InputError("bound", f"must be greater than 0 and at most 1, got {self.bound}.")
        super().__post_init__()


class BoundaryShrinkTrainer(UnlearningTrainer):
    r"""
    Boundary shrink ("Boundary Unlearning", CVPR 2023, [arXiv 2303.11570](https://arxiv.org/abs/2303.11570)), from the
    forget images alone:

        x′ = x + bound · sign(∇ₓ −log p₀(y | x)),    ỹ = argmax_{k ≠ y} p₀(k | x′),    ℓ(x) = −log p(ỹ | x)

    p₀ are the probabilities of the original model. The pixels of x′ stay between black and white. The labels ỹ are
    computed once, before the first update.

    Data: the forget images. `y` is the label of the image or, without labels, the class that the original model
    predicts.

    Differences from the authors: if the step does not cross a boundary, their code keeps the label y. Here ỹ is never
    y, as in the paper, which asks for the nearest but incorrect class. The BatchNorm running statistics are frozen,
    and x′ is not rounded to 8 bits.
    """

    _name = "boundary shrink"
    _paper = "https://arxiv.org/abs/2303.11570"
    _tag_names = ["unlearning", "machine-unlearning", "boundary-unlearning"]
    args: BoundaryShrinkConfig
    # Found before the first update.
    nearest: torch.Tensor

    def __init__(self, model: "ImageClassifier", args: BoundaryShrinkConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        if self.processing_class is None:
            raise InputError("processing_class", f"is missing: {self._name} takes the range of a pixel from it.")
        self.pixel_range = pixel_range(self.processing_class)

    def prepare(self) -> None:
        low, high = (limit.to(self.args.device) for limit in self.pixel_range)
        self.nearest = torch.full_like(self.answers, -1)
        for batch in self.dataloader(self.train_dataset):
            answers = self.answers[batch["sample_index"]]
            pixel_values = batch["pixel_values"].requires_grad_(True)
            loss = F.cross_entropy(self.model(pixel_values=pixel_values).logits, answers, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixel_values)
            with torch.no_grad():
                neighbour = (pixel_values + self.args.bound * (high - low) * gradient.sign()).clamp(low, high)
                logits = self.model(pixel_values=neighbour).logits
            self.nearest[batch["sample_index"]] = logits.scatter(1, answers[:, None], -torch.inf).argmax(dim=-1)
        # Each process has the labels of its own images only, and needs those of all images.
        self.nearest = self.accelerator.gather(self.nearest[None]).amax(dim=0)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        loss = F.cross_entropy(logits, self.nearest[inputs["sample_index"]], reduction="none")
        return loss, {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
