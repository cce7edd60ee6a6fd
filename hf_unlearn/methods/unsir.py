"""UNSIR: noise that the model finds hardest to take for the class impairs it, retained images repair the rest."""

from dataclasses import dataclass, field

import torch.nn.functional as F

from ..data.training_set import TrainingSet
from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.noise_images import NoiseSet, check_forget_kind, optimize_noise, take_turns
from ..unlearning.trainer import UnlearningTrainer


@dataclass
class UNSIRConfig(UnlearningConfig):
    r"""
    Configuration of [`UNSIRTrainer`]. The defaults are those of JiT's authors for UNSIR, on VGG11 and ViT.

    Args:
        num_noise_images (`int`, *optional*, defaults to 32):
            Noise images, shared by the classes to forget.
        noise_repeats (`int`, *optional*, defaults to 80):
            How often each is seen while impairing.
        noise_steps (`int`, *optional*, defaults to 25):
            Steps that each is made in; UNSIR's authors take 40 for 256 images a class, seen 20 times.

    Parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`, with no weight decay: Adam)
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
    UNSIR ("Fast yet effective machine unlearning", [arXiv 2111.08947](https://arxiv.org/abs/2111.08947)): noise images
    z that maximise the error on the class to forget,

        z = argmin_z −CE(f_θ₀(z), y_f) + 0.1 ‖z‖²,

    are learned as that class, together with the retained images (*impair*); then the retained images alone (*repair*):

        ℓ(x) = CE(f(x), y)

    One epoch goes through both, one after the other, with one learning rate and one Adam. The authors repair with half
    the rate and a new Adam, and let BatchNorm's statistics move.

    Data: retained training images with labels (the authors take 500 to 1,000 a class); of the images to forget only
    their class and shape. It forgets whole classes. For a sub-class it impairs the class that it belongs to, and the
    retained images of that class repair it; single images it cannot forget.

    Raises:
        [`InputError`]: for single images.
    """

    _name = "UNSIR"
    _paper = "https://arxiv.org/abs/2111.08947"
    _tag_names = ["unlearning", "machine-unlearning", "unsir-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, retained training images and noise made with the model"

    def __init__(self, model, args, **kwargs):
        super().__init__(model, args, **kwargs)
        check_forget_kind(self._name, self.args.forget_kind, ("class", "subclass"))

    def make_training_set(self, forget, retain):
        parts = super().make_training_set(forget, retain).parts
        self.noise = NoiseSet(self.args.num_noise_images, forget[0]["pixel_values"].shape)
        return TrainingSet({**parts, "generated": self.noise})

    def phases(self, shuffle):
        retain = list(self.training_set.positions("retain"))
        noise = list(self.training_set.positions("generated")) * self.args.noise_repeats
        return [shuffle(noise + retain), shuffle(retain)]

    def prepare(self):
        """Makes the noise, the classes to forget taking turns."""
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

    def unlearning_loss(self, model, inputs):
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        return F.cross_entropy(logits, inputs["labels"], reduction="none"), {}
