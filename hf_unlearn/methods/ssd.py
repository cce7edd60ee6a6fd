"""SSD: dampens, once, the weights that matter more to the forget set than to the whole training set."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..data.training_set import TrainingSet
from ..errors import InputError
from ..terminal import Stage
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.importance import dampening, sum_over_images
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class SSDConfig(UnlearningConfig):
    r"""
    Configuration of [`SSDTrainer`].

    Args:
        selection_weighting (`float`, *optional*):
            α. A weight is dampened if it matters more than α times as much to the forget set as to the training set.
            If not given, it is 10, but at most half of n / n_f, where n_f is the number of forget images and n the
            number of all training images: no weight can matter more than n / n_f times as much. The authors take 10
            for ResNet-18 and ViT on CIFAR (5 or 25 in some cases of the ViT) and 50 on faces.
        dampening_constant (`float`, *optional*, defaults to 1):
            λ, the authors' value (0.1 on faces). A lower value dampens more.

    There are no updates by gradient: `learning_rate`, the optimizer and `num_train_epochs` have no effect.
    """

    selection_weighting: float | None = field(
        default=None, metadata={"help": "How much more a weight must matter to the forget set to be dampened."}
    )
    dampening_constant: float = field(default=1.0, metadata={"help": "Dampening; lower dampens more."})

    def __post_init__(self):
        for name in ("selection_weighting", "dampening_constant"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(name, f"must be greater than 0, got {value}.")
        # The method has no updates by gradient. Training runs no epoch, and `finish` does the work afterwards.
        self.num_train_epochs, self.max_steps = 0.0, -1
        super().__post_init__()

    def settings(self) -> dict[str, Any]:
        names = ["selection_weighting", "dampening_constant", "forget_kind", "seed", "bf16", "fp16"]
        return {name: getattr(self, name) for name in names}


class SSDTrainer(UnlearningTrainer):
    r"""
    Selective synaptic dampening ([arXiv 2308.07707](https://arxiv.org/abs/2308.07707)):

        θ ← θ · min(λ I_D / I_f, 1)   where I_f > α I_D

    I_f and I_D are the diagonals of the Fisher information, mean_x (∂ log p(y | x) / ∂θ)². I_f is taken over the
    forget set, I_D over the whole training set including the forget set.

    Data: the forget images and the retained training images, with labels. The retained images should be all images
    that the model was trained on: I_f / I_D is at most n / n_f, which is small if the forget set is a large share of
    the images.

    Differences from the authors: their code squares the mean gradient of each batch. Here the gradient of each image
    is squared, as in the definition, so the result does not depend on the batches.

    Raises:
        [`InputError`]: if no weight can be selected with this α, or if the weights are sharded.
    """

    _name = "SSD"
    _paper = "https://arxiv.org/abs/2308.07707"
    _tag_names = ["unlearning", "machine-unlearning", "ssd-unlearning"]
    runs_sharded = False
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    data_used = "the trained model, the images to forget and retained training images"
    args: SSDConfig

    def __init__(self, model: "ImageClassifier", args: SSDConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        most = self.most_selective()
        if self.args.selection_weighting is None:
            self.args.selection_weighting = min(10.0, most / 2)
        self.selection_weighting = self.args.selection_weighting
        if self.selection_weighting >= most:
            raise InputError(
                "selection_weighting",
                f"must be less than {most:.3g}, got {self.selection_weighting}: to a forget set of "
                f"{len(self.train_dataset)} images out of {len(self.training_set)} no weight matters more than {most:.3g} "
                "times as much as to all of them, and none would change.",
            )

    def most_selective(self) -> float:
        """The upper limit of I_f / I_D."""
        return len(self.training_set) / len(self.train_dataset)

    def objective_of(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The function of one image whose gradient is taken: the negative log-likelihood of its label."""
        return F.cross_entropy(logits, label)

    def measure(self, gradients: torch.Tensor) -> torch.Tensor:
        """Applied to each gradient, element by element. The importance is the mean over the images."""
        return gradients.square()

    def importances(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        Mean importances to the forget images and to the other images, by name of the weight; the same on all
        processes.
        """
        self.model.eval()
        zeros = {
            name: torch.zeros_like(weight) for name, weight in self.model.named_parameters() if weight.requires_grad
        }
        forget, others = zeros, {name: zero.clone() for name, zero in zeros.items()}
        for batch in self.dataloader(TrainingSet(self.training_set.parts)):
            labels = self.classes_of(batch)
            for is_forget, total in ((True, forget), (False, others)):
                rows = batch["is_forget"] == is_forget
                if rows.any():
                    sums = sum_over_images(
                        self.model, self.objective_of, self.measure,
                        batch["pixel_values"][rows], labels[rows], batch["sample_weight"][rows],
                    )  # fmt: skip
                    for name, value in sums.items():
                        total[name] += value
        num_forget = len(self.train_dataset)
        for total, num_images in ((forget, num_forget), (others, len(self.training_set) - num_forget)):
            for name, value in total.items():
                total[name] = self.accelerator.reduce(value, reduction="sum") / num_images
        return forget, others

    def importances_to_all(self, forget: dict, others: dict) -> dict[str, torch.Tensor]:
        """I_D, from the mean importances to the forget images and to the other images."""
        share = len(self.train_dataset) / len(self.training_set)
        return {name: share * forget[name] + (1 - share) * others[name] for name in forget}

    @torch.no_grad()
    def finish(self) -> None:
        """Measures the importances and dampens the selected weights."""
        stage = Stage("dampening")
        forget, others = self.importances()
        whole = self.importances_to_all(forget, others)
        largest, selected = max(value.max() for value in forget.values()), 0
        for name, parameter in self.model.named_parameters():
            # A weight without effect on the logits, such as the bias of the keys in attention, has importances that
            # are rounding errors only. Such weights are skipped.
            if name in forget and forget[name].max() > self.measure(torch.tensor(1e-6)) * largest:
                factor = dampening(forget[name], whole[name], self.selection_weighting, self.args.dampening_constant)
                parameter.mul_(factor)
                selected += (factor < 1).sum().item()
        # The report and the card count the dampening as one update.
        self.state.global_step = 1
        total = sum(value.numel() for value in forget.values())
        self.log({"share_dampened": selected / total, "distance_moved": self.distance_moved()})
        stage.end(f"{100 * selected / total:.2g} % of the weights", share_dampened=selected / total)
