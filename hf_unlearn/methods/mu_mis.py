"""
MU-Mis: makes the logit of a forget image's class less sensitive to the image, and the logit of another class more.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.losses import other_classes
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class MUMisConfig(UnlearningConfig):
    r"""
    Configuration of [`MUMisTrainer`].

    Args:
        recovery (`float`, *optional*, defaults to 1.5):
            δ. Training ends when the sensitivity of other classes is at least δ times its value before the first
            update.

    Parameters whose default differs from [`UnlearningConfig`]. They and δ are our choice, since we did not find the
    authors' values; with them, a small ResNet forgets a class of Fashion-MNIST. The highest learning rate that does
    not destroy a model is proportional to 1 / ‖gradient‖², so it must be searched for each model: a ConvNeXt was
    destroyed by a thirtieth of this default.

    learning_rate (`float`, *optional*, defaults to 3e-4)
    num_train_epochs (`float`, *optional*, defaults to 40): the largest number of epochs.
    per_device_train_batch_size (`int`, *optional*, defaults to 64)
    """

    recovery: float = field(
        default=1.5, metadata={"help": "End when the sensitivity in other classes is back at this share of its start."}
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=40.0, metadata={"help": "At most so many passes over the forget set."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per process and forward pass."})

    def __post_init__(self):
        if self.recovery <= 0:
            raise InputError("recovery", f"must be greater than 0, got {self.recovery}.")
        super().__post_init__()


class MUMisTrainer(UnlearningTrainer):
    r"""
    MU-Mis ("Remaining-data-free Machine Unlearning by Suppressing Sample Contribution",
    [arXiv 2402.15109](https://arxiv.org/abs/2402.15109)), from the forget images alone:

        ℓ(x) = ‖∇ₓ f_c(x)‖² − ‖∇ₓ f_c′(x)‖²

    f are the raw logits, c is the class of the image, and c′ is another class, drawn anew in every epoch by (seed,
    position in the forget set, epoch). The loss has no minimum, so the method needs a rule to end: training ends after
    the first epoch in which the mean of ‖∇ₓ f_c′‖ over the forget set is above its lowest value so far and at least δ
    times its value for the original model.

    Data: the forget images. `c` is the label of the image or, without labels, the class that the original model
    predicts.

    Differences from the authors: they check the rule during an epoch. Here it is checked once per epoch, so the end
    does not depend on batch size, accumulation steps and processes. A run that is resumed in the middle of an epoch
    checks the rest of that epoch only. The loss is differentiated twice, which only the plain attention kernel of
    PyTorch supports, so this kernel is used.
    """

    _name = "MU-Mis"
    _paper = "https://arxiv.org/abs/2402.15109"
    _tag_names = ["unlearning", "machine-unlearning", "mu-mis"]
    args: MUMisConfig
    # Of the original model.
    start_sensitivity: float

    def __init__(self, model: "ImageClassifier", args: MUMisConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        # Sum of ‖∇ₓ f_c′‖ over the images of this epoch that this process has seen, and their number.
        self.seen = torch.zeros(2, device=self.args.device)
        self.add_callback(StopWhenRecovered(self))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        # The fast kernels of scaled_dot_product_attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def prepare(self) -> None:
        for batch in self.dataloader(self.train_dataset):
            # The unwrapped model: DDP's wrapper is for gradients of weights, and here only the images have gradients.
            self.sensitivities(self.model, {**batch, "answers": self.answers[batch["sample_index"]]}, epoch=0)
        self.start_sensitivity = self.mean_sensitivity()

    def sensitivities(
        self, model: nn.Module, inputs: dict[str, Any], epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Computes ‖∇ₓ f_c‖², ‖∇ₓ f_c′‖² and the logits of each image. Adds the second one to `seen`, for the rule that
        ends training.
        """
        pixel_values = inputs["pixel_values"].detach().requires_grad_(True)
        logits = model(pixel_values=pixel_values).logits.float()
        indices = inputs["positions"]
        others = other_classes(inputs["answers"], indices, logits.shape[1], self.args.seed, draw=epoch)
        squares = []
        for classes in (inputs["answers"], others):
            chosen = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, pixel_values, create_graph=True)
            squares.append(gradient.flatten(1).square().sum(dim=1))
        weight = inputs["sample_weight"]
        self.seen += torch.stack([(squares[1].detach().sqrt() * weight).sum(), weight.sum()])
        return *squares, logits

    def mean_sensitivity(self) -> float:
        """Mean of ‖∇ₓ f_c′‖ over the images since the last call; the same on all processes."""
        total, num_images = self.accelerator.reduce(self.seen, reduction="sum").tolist()
        self.seen.zero_()
        return total / num_images

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        own, other, logits = self.sensitivities(model, inputs, epoch=int(self.state.epoch))
        to_log = {"forget_accuracy": (logits.argmax(dim=-1) == inputs["answers"]).float()}
        # The gradient with respect to the image does not depend on the bias of the last layer. DDP waits for a
        # gradient of every weight, so the logits are added with a factor of 0.
        return own - other + 0 * logits.sum(dim=-1), to_log


class StopWhenRecovered(TrainerCallback):
    """
    Ends training by the rule in [`MUMisTrainer`]. The earlier values are read from the log, which checkpoints contain.
    """

    def __init__(self, trainer: MUMisTrainer):
        self.trainer = trainer

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        earlier = [entry["other_sensitivity"] for entry in state.log_history if "other_sensitivity" in entry]
        now, start = self.trainer.mean_sensitivity(), self.trainer.start_sensitivity
        self.trainer.log({"other_sensitivity": now, "start_sensitivity": start})
        if now > min([start, *earlier]) and now >= self.trainer.args.recovery * start:
            control.should_training_stop = True
