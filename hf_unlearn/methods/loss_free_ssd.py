"""Loss-free SSD: the importances of SSD without labels, and here without retained images either."""

import math
from dataclasses import dataclass, field

import torch
from accelerate.utils import broadcast

from ..data.training_set import TrainingSet
from ..unlearning.guard import NUM_IMAGES, impressions, staying_classes
from .ssd import SSDConfig, SSDTrainer


@dataclass
class LossFreeSSDConfig(SSDConfig):
    r"""
    Configuration of [`LossFreeSSDTrainer`].

    Args:
        selection_weighting (`float`, *optional*, defaults to 3):
            α, how much more a weight must matter to the forget set to be dampened. The default is ours: it is compared
            with other images than the authors', who take 3.5 to 10.
        dampening_constant (`float`, *optional*, defaults to 1):
            λ, the authors' value; lower dampens more.

    There are no updates: `learning_rate`, the optimizer and `num_train_epochs` have no effect.
    """

    selection_weighting: float = field(
        default=3.0, metadata={"help": "How much more a weight must matter to the forget set to be dampened."}
    )


class LossFreeSSDTrainer(SSDTrainer):
    r"""
    Loss-free machine unlearning ([arXiv 2402.19308](https://arxiv.org/abs/2402.19308)): SSD with another importance,
    the mean size of the gradient of the squared norm of the logits,

        Ω = mean_x |∂ ‖f(x)‖² / ∂θ|        θ ← θ · min(λ Ω_D / Ω_f, 1)   where Ω_f > α Ω_D

    Data: the forget images alone, without labels.

    It is not the authors' method in one thing. Their Ω_D is over the whole training set and must be computed while that
    is at hand; of a model from elsewhere it is not. Here Ω_D is over images made with the model: forget images moved by
    small steps until the model is 80 % sure that they show a class that stays, four for each (at most 30 classes). Since
    outputs on them are of another size, Ω_D is scaled to the same sum over all weights as Ω_f. Both choices are ours. As
    in [`SSDTrainer`], gradients are those of single images, not of batches. The guard's probes are made alike, with
    another seed: its estimate of the change elsewhere is on the low side.
    """

    _name = "Loss-free SSD"
    _paper = "https://arxiv.org/abs/2402.19308"
    _tag_names = ["unlearning", "machine-unlearning", "loss-free-ssd-unlearning"]
    needs_retain = False
    data_used = "the trained model, the images to forget and images made of them with the model"

    def most_selective(self):
        # The forget set is no part of what it is compared with.
        return math.inf

    def objective(self, logits, label):
        return logits.square().sum()

    def measure(self, gradients):
        return gradients.abs()

    def prepare(self):
        """Makes the images that stand in for the training set, with a seed that the guard does not use."""
        forget, num_labels = self.train_dataset, self.model.config.num_labels
        rows = torch.linspace(0, len(forget) - 1, min(len(forget), NUM_IMAGES)).round().long()
        pixel_values = torch.stack([forget[row]["pixel_values"] for row in rows.tolist()]).to(self.args.device)
        vanishing = set(self.answers.tolist()) if self.args.forget_kind == "class" else set()
        made, _ = impressions(
            lambda pixel_values: self.model(pixel_values=pixel_values).logits,
            pixel_values,
            staying_classes(num_labels, vanishing),
            torch.Generator().manual_seed(self.args.seed + 1),
            per_class=4,
        )
        made = [{"pixel_values": image, "labels": -1} for image in broadcast(made).cpu()]
        self.training_set = TrainingSet({**self.train_dataset.parts, "generated": made})

    def importances_to_all(self, forget, others):
        scale = sum(value.sum() for value in forget.values()) / sum(value.sum() for value in others.values())
        return {name: scale * value for name, value in others.items()}
