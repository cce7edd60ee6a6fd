"""SalUn: trains the forget images with random labels, and moves only the weights that matter most to these images."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from .amnesiac import AmnesiacTrainer


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class SalUnConfig(UnlearningConfig):
    r"""
    Configuration of [`SalUnTrainer`].

    Args:
        saliency_share (`float`, *optional*, defaults to 0.5):
            Share of the weights that move, above 0 and at most 1.

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the authors' code (SGD with momentum
    0.9 and weight decay 5e-4, 10 epochs, learning rate 0.01, batches of 256):

    optim_args (`str`, *optional*, defaults to `"momentum=0.9"`)
    weight_decay (`float`, *optional*, defaults to 5e-4)
    learning_rate (`float`, *optional*, defaults to 0.01)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 256)
    """

    saliency_share: float = field(default=0.5, metadata={"help": "Share of the weights that move."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments for the optimizer."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=0.01, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over all images."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Images per step and device."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.saliency_share <= 1:
            raise InputError("saliency_share", f"got {self.saliency_share}. Valid: above 0 and at most 1.")


class SalUnTrainer(AmnesiacTrainer):
    r"""
    SalUn (Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency",
    [arXiv 2310.12508](https://arxiv.org/abs/2310.12508)), from forget and retained images:

        m = 1 where |∂/∂θ Σ over the forget images of (−log p_y(x))| at θ₀ is among the largest, else 0
        ℓ(x, y) = −log p_y'(x) on the forget images,    −log p_y(x) on the retained ones
        θ = m ∘ θ' + (1 − m) ∘ θ₀ after each update, where θ' are the weights after the step of the optimizer

    The largest values are taken over all weights together. `y'` is drawn uniformly from all classes but `y`, as in
    [`AmnesiacTrainer`].

    Data: the forget images, and the retained images with their labels. `y` is the label of an image; for a forget
    image without a label, it is the class that the original model predicts.

    Differences from the authors: the gradient is taken at the original weights, while in their code the weights move
    meanwhile. `y'` is drawn once and is never `y`, as in the paper; in their code it is any label, drawn anew in each
    epoch. Images are not augmented, the learning rate is constant, the BatchNorm running statistics are frozen, and
    dropout is off.
    """

    _name = "SalUn"
    _paper = "https://arxiv.org/abs/2310.12508"
    _tag_names = ["unlearning", "machine-unlearning", "salun-unlearning"]
    runs_sharded = False
    args: SalUnConfig

    def __init__(self, model: "ImageClassifier", args: SalUnConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        self.add_callback(KeepOtherWeights(self))

    def prepare(self) -> None:
        saliency = {name: gradient.abs() for name, gradient in self.forget_gradient().items()}
        num_weights = sum(gradient.numel() for gradient in saliency.values())
        largest = torch.cat([gradient.flatten() for gradient in saliency.values()]).topk(
            max(1, round(self.args.saliency_share * num_weights))
        )
        mask = torch.zeros(num_weights, dtype=torch.bool, device=largest.indices.device)
        mask[largest.indices] = True
        parts = mask.split([gradient.numel() for gradient in saliency.values()])
        self.mask = {name: part.view_as(saliency[name]) for name, part in zip(saliency, parts, strict=True)}

    def forget_gradient(self) -> dict[str, torch.Tensor]:
        """
        By weight that may move, the gradient of the cross-entropy summed over the forget images; the same on all
        processes.
        """
        weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.model.eval()
        for batch in self.dataloader(self.train_dataset):
            # The unwrapped model: DDP's wrapper would average the gradients over the processes in every batch.
            logits = self.model(pixel_values=batch["pixel_values"]).logits.float()
            loss = F.cross_entropy(logits, self.answers[batch["sample_index"]], reduction="none")
            gradients = torch.autograd.grad(
                (loss * batch["sample_weight"]).sum(),
                list(weights.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for name, gradient in zip(weights, gradients, strict=True):
                total[name] += gradient
        return {name: self.accelerator.reduce(gradient, reduction="sum") for name, gradient in total.items()}

    @torch.no_grad()
    def keep_other_weights(self) -> None:
        """Puts the weights outside the mask back to their original values, since the optimizer moves all weights."""
        for name, weight in self.model.named_parameters():
            if name in self.mask:
                weight.copy_(torch.where(self.mask[name], weight, self.original.weights[name]))


class KeepOtherWeights(TrainerCallback):
    """Calls [`~SalUnTrainer.keep_other_weights`] after each step of the optimizer."""

    def __init__(self, trainer: SalUnTrainer):
        self.trainer = trainer

    def on_optimizer_step(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.keep_other_weights()
