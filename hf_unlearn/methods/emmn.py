"""
EMMN: like UNSIR, but without retained images. Noise images that the model predicts most easily stand in for the other
classes.
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
from ..unlearning.noise_images import NoiseSet, check_forget_kind, optimize_noise, take_turns
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class EMMNConfig(UnlearningConfig):
    r"""
    Configuration of [`EMMNTrainer`]. The defaults are those that JiT's authors used for EMMN on VGG11 and ViT.

    Args:
        noise_images_per_class (`int`, *optional*, defaults to 4):
            Number of noise images per class.
        noise_repeats (`int`, *optional*, defaults to 80):
            How often each noise image is seen in each of the two phases, impair and repair.
        maximizing_steps (`int`, *optional*, defaults to 25):
            Optimisation steps for the noise images of the classes to forget.
        minimizing_steps (`int`, *optional*, defaults to 30):
            Optimisation steps for the noise images of the other classes.

    Parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay this is Adam.
    learning_rate (`float`, *optional*, defaults to 1e-4)
    per_device_train_batch_size (`int`, *optional*, defaults to 4)
    logging_steps (`float`, *optional*, defaults to 50)
    """

    noise_images_per_class: int = field(default=4, metadata={"help": "Noise images of each class."})
    noise_repeats: int = field(default=80, metadata={"help": "How often each noise image is seen in each step."})
    maximizing_steps: int = field(default=25, metadata={"help": "Steps for the noise of the classes to forget."})
    minimizing_steps: int = field(default=30, metadata={"help": "Steps for the noise of the other classes."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The learning rate."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Images per device."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})

    def __post_init__(self):
        for name in ("noise_images_per_class", "noise_repeats", "maximizing_steps", "minimizing_steps"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, got {getattr(self, name)}.")
        super().__post_init__()


class EMMNTrainer(UnlearningTrainer):
    r"""
    EMMN, error-minimising and error-maximising noise (Chundawat et al., "Zero-shot machine unlearning",
    [arXiv 2201.05629](https://arxiv.org/abs/2201.05629)). Noise images z_f maximise the error on the classes y_f to
    forget, and noise images z_k minimise the error on every other class k:

        z_f = argmin_z −CE(f_θ₀(z), y_f) + 0.1 ‖z‖²        z_k = argmin_z CE(f_θ₀(z), k)

    In the first phase (*impair*) the model is trained on all noise images, in the second (*repair*) on the z_k alone:

        ℓ(z) = CE(f(z), y)

    Data: none. Only the classes and the shape of the forget images are used, so it forgets whole classes.

    Differences from the authors: an epoch consists of both phases, with the same Adam optimizer. JiT's authors, whose
    settings are the defaults, run the first phase twice and never the second. The BatchNorm running statistics are
    frozen here.

    Raises:
        [`InputError`]: for sub-classes and single images.
    """

    _name = "EMMN"
    _paper = "https://arxiv.org/abs/2201.05629"
    _tag_names = ["unlearning", "machine-unlearning", "emmn-unlearning"]
    data_used = "the trained model, the class to forget and noise made with the model"
    args: EMMNConfig

    def __init__(self, model: "ImageClassifier", args: EMMNConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        check_forget_kind(self._name, self.args.forget_kind, ("class",))

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        num_images = self.args.noise_images_per_class * self.num_labels
        self.noise = NoiseSet(num_images, forget[0]["pixel_values"].shape)
        return TrainingSet({"forget": forget, "generated": self.noise})

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        noise = list(self.training_set.positions("generated"))
        staying = noise[self.args.noise_images_per_class :]
        return [shuffle(noise * self.args.noise_repeats), shuffle(staying * self.args.noise_repeats)]

    def prepare(self) -> None:
        """Makes the noise images. The classes to forget share the images of one class."""
        vanishing = self.answers.unique()
        labels = torch.arange(self.num_labels, device=vanishing.device)
        num_vanishing = self.args.noise_images_per_class
        made = []
        for classes, num_images, maximize, num_steps in (
            (vanishing, num_vanishing, True, self.args.maximizing_steps),
            (
                labels[~torch.isin(labels, vanishing)],
                len(self.noise) - num_vanishing,
                False,
                self.args.minimizing_steps,
            ),
        ):
            classes = take_turns(classes, num_images)
            noise = optimize_noise(
                lambda pixel_values: self.model(pixel_values=pixel_values).logits,
                classes,
                self.noise[0]["pixel_values"].shape,
                maximize=maximize,
                num_steps=num_steps,
                seed=self.args.seed,
            )
            made.append((noise, classes))
        images, classes = (torch.cat(parts) for parts in zip(*made, strict=True))
        self.noise.fill(images, classes)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        return F.cross_entropy(logits, inputs["labels"], reduction="none"), {}
