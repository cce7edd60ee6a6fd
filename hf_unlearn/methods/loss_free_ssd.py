"""Loss-free SSD: SSD with importances that need no labels and, in this version, no retained images."""

import math
from dataclasses import dataclass, field

import torch

from ..data.training_set import TrainingSet
from ..unlearning.guard import NUM_IMAGES, impressions, staying_classes
from ..unlearning.original import read_images
from .ssd import SSDConfig, SSDTrainer


@dataclass
class LossFreeSSDConfig(SSDConfig):
    r"""
    Configuration of [`LossFreeSSDTrainer`].

    Args:
        selection_weighting (`float`, *optional*, defaults to 3):
            α. A weight is dampened if it matters more than α times as much to the forget set as to the other images.
            The default is our choice, since our other images are not those of the authors, who take 3.5 to 10.
        dampening_constant (`float`, *optional*, defaults to 1):
            λ, the authors' value. A lower value dampens more.

    There are no updates by gradient: `learning_rate`, the optimizer and `num_train_epochs` have no effect.
    """

    selection_weighting: float = field(
        default=3.0, metadata={"help": "How much more a weight must matter to the forget set to be dampened."}
    )


class LossFreeSSDTrainer(SSDTrainer):
    r"""
    Loss-free machine unlearning ([arXiv 2402.19308](https://arxiv.org/abs/2402.19308)). It is SSD with another
    importance Ω, the mean absolute gradient of the squared norm of the logits:

        Ω = mean_x |∂ ‖f(x)‖² / ∂θ|        θ ← θ · min(λ Ω_D / Ω_f, 1)   where Ω_f > α Ω_D

    Ω_f is taken over the forget set, and Ω_D over generated images that stand in for the training set.

    Data: the forget images alone, without labels.

    Differences from the authors: their Ω_D is taken over the whole training set, which is often not available for a
    model that someone else trained. Here forget images are changed in small steps until the model gives a probability
    of 80 % to a class that is not to be forgotten, and Ω_D is taken over these images: four per class, for at most 30
    classes. Their logits have another scale, so Ω_D is scaled to the same sum over all weights as Ω_f. As in
    [`SSDTrainer`], gradients are those of single images and not of batches.

    The guard makes its probe images in the same way, with another seed. It therefore underestimates the change
    elsewhere for this method.
    """

    _name = "Loss-free SSD"
    _paper = "https://arxiv.org/abs/2402.19308"
    _tag_names = ["unlearning", "machine-unlearning", "loss-free-ssd-unlearning"]
    needs_retain = False
    data_used = "the trained model, the images to forget and images made of them with the model"
    args: LossFreeSSDConfig

    def most_selective(self) -> float:
        # The generated images do not contain the forget set, so the ratio has no upper limit.
        return math.inf

    def objective_of(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return logits.square().sum()

    def measure(self, gradients: torch.Tensor) -> torch.Tensor:
        return gradients.abs()

    def prepare(self) -> None:
        """Makes the images that stand in for the training set. The guard uses another seed."""
        forget, num_labels = self.train_dataset, self.num_labels
        rows = torch.linspace(0, len(forget) - 1, min(len(forget), NUM_IMAGES)).round().long()
        pixel_values = read_images(forget, rows.tolist(), self.args.device)
        vanishing = set(self.answers.tolist()) if self.args.forget_kind == "class" else set()
        made, _ = impressions(
            lambda pixel_values: self.model(pixel_values=pixel_values).logits,
            pixel_values,
            staying_classes(num_labels, vanishing),
            torch.Generator().manual_seed(self.args.seed + 1),
            per_class=4,
            in_step=self.is_sharded,
        )
        generated = [{"pixel_values": image, "labels": -1} for image in made.cpu()]
        self.training_set = TrainingSet({**self.train_dataset.parts, "generated": generated})

    def importances_to_all(self, forget: dict, others: dict) -> dict[str, torch.Tensor]:
        scale = sum(value.sum() for value in forget.values()) / sum(value.sum() for value in others.values())
        return {name: scale * value for name, value in others.items()}
