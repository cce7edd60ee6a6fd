"""
UNSIR: trains on noise images that maximise the error on the classes to forget, then repairs the model with retained
images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data.rows import Rows
from ..data.training_set import TrainingSet
from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.noise_images import NoiseSet, check_forget_kind, optimize_noise, take_turns
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class UNSIRConfig(UnlearningConfig):
    r"""
    Configuration of [`UNSIRTrainer`]. The defaults are those that JiT's authors used for UNSIR on VGG11 and ViT.

    Args:
        num_noise_images (`int`, *optional*, defaults to 32):
            Number of noise images. The classes to forget share them.
        noise_repeats (`int`, *optional*, defaults to 80):
            How often each noise image is seen while impairing. UNSIR's authors show 256 images per class 20 times.
        noise_steps (`int`, *optional*, defaults to 25):
            Optimisation steps for the noise images. UNSIR's authors take 40.

    Parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay this is Adam.
    learning_rate (`float`, *optional*, defaults to 1e-4): UNSIR's authors impair with 0.02 and repair with 0.01.
    """

    num_noise_images: int = field(default=32, metadata={"help": "Noise images, shared by the classes to forget."})
    noise_repeats: int = field(default=80, metadata={"help": "How often each noise image is seen while impairing."})
    noise_steps: int = field(default=25, metadata={"help": "Steps that the noise images are made in."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The learning rate."})

    def __post_init__(self):
        for name in ("num_noise_images", "noise_repeats", "noise_steps"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, got {getattr(self, name)}.")
        super().__post_init__()


class UNSIRTrainer(UnlearningTrainer):
    r"""
    UNSIR ("Fast yet effective machine unlearning", [arXiv 2111.08947](https://arxiv.org/abs/2111.08947)). Noise images
    z maximise the error on the class y_f to forget:

        z = argmin_z −CE(f_θ₀(z), y_f) + 0.1 ‖z‖²

    In the first phase (*impair*) the model is trained on the noise images and the retained images, in the second
    (*repair*) on the retained images alone:

        ℓ(x) = CE(f(x), y)

    Data: retained training images with labels (the authors take 500 to 1,000 per class). Of the forget images, only
    the classes and the shape are used, so it forgets whole classes. For a sub-class, it impairs the whole class that
    the sub-class belongs to, and the retained images of that class repair it. It cannot forget single images.

    Differences from the authors: an epoch consists of both phases, with the same learning rate and the same Adam
    optimizer. The authors repair with half the learning rate and a new optimizer. Their BatchNorm running statistics
    move; here they are frozen.

    Raises:
        [`InputError`]: for single images.
    """

    _name = "UNSIR"
    _paper = "https://arxiv.org/abs/2111.08947"
    _tag_names = ["unlearning", "machine-unlearning", "unsir-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, retained training images and noise made with the model"
    args: UNSIRConfig

    def __init__(self, model: "ImageClassifier", args: UNSIRConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        check_forget_kind(self._name, self.args.forget_kind, ("class", "subclass"))

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        parts = super().make_training_set(forget, retain).parts
        self.noise = NoiseSet(self.args.num_noise_images, forget[0]["pixel_values"].shape)
        return TrainingSet({**parts, "generated": self.noise})

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        retain = list(self.training_set.positions("retain"))
        noise = list(self.training_set.positions("generated")) * self.args.noise_repeats
        return [shuffle(noise + retain), shuffle(retain)]

    def prepare(self) -> None:
        """Makes the noise images. Their labels alternate between the classes to forget."""
        labels = take_turns(self.answers.unique(), len(self.noise))
        noise = optimize_noise(
            lambda pixel_values: self.model(pixel_values=pixel_values).logits,
            labels,
            self.noise[0]["pixel_values"].shape,
            maximize=True,
            num_steps=self.args.noise_steps,
            seed=self.args.seed,
        )
        self.noise.fill(noise, labels)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        return F.cross_entropy(logits, inputs["labels"], reduction="none"), {}
