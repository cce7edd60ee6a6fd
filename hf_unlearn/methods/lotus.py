"""
LoTUS: trains the forget images to the original model's outputs, smoothed until the accuracy falls to that on unseen
images.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import RETAIN_CHANGE_LIMIT
from ..unlearning.losses import noise_key
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class LoTUSConfig(UnlearningConfig):
    r"""
    Configuration of [`LoTUSTrainer`].

    Args:
        unseen_accuracy (`float`, *optional*):
            Accuracy of the original model on images that it was not trained on, between 0 and 1. If not given, it is 0
            for a whole class, since a retrained model never predicts that class; for other requests it must be given.
        alpha (`float`, *optional*):
            α, how fast the temperature rises with the difference between the accuracies. If not given, it is 32 for a
            class and 2 otherwise, as in the authors' scripts.

    Parameters whose default differs from [`UnlearningConfig`]. They are those of the authors' scripts for a ResNet-18
    (AdamW with weight decay 5e-4, 10 epochs, learning rate 1e-4, batches of 128; for a ViT 3 epochs and learning rate
    1e-6):

    optim (`str`, *optional*, defaults to `"adamw_torch"`)
    weight_decay (`float`, *optional*, defaults to 5e-4)
    learning_rate (`float`, *optional*, defaults to 1e-4)
    num_train_epochs (`float`, *optional*, defaults to 10)
    per_device_train_batch_size (`int`, *optional*, defaults to 128)
    """

    unseen_accuracy: float | None = field(
        default=None, metadata={"help": "Accuracy of the original on unseen images, between 0 and 1; for a class 0."}
    )
    alpha: float | None = field(
        default=None, metadata={"help": "How fast the temperature rises; default: 32 for a class, otherwise 2."}
    )
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over all images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per step and device."})

    def __post_init__(self):
        super().__post_init__()
        if self.unseen_accuracy is not None and not 0 <= self.unseen_accuracy <= 1:
            raise InputError("unseen_accuracy", f"got {self.unseen_accuracy}. Valid: from 0 to 1.")
        if self.alpha is not None and self.alpha < 0:
            raise InputError("alpha", f"got {self.alpha}. Valid: at least 0.")


class LoTUSTrainer(UnlearningTrainer):
    r"""
    LoTUS (Spartalis et al., "Large-Scale Machine Unlearning with a Taste of Uncertainty", CVPR 2025,
    [arXiv 2503.18314](https://arxiv.org/abs/2503.18314)), from forget and retained images:

        ℓ(x) = −Σ_k t_k(x) log p_k(x)
        t(x) = softmax((f₀(x) + g) / τ) on the forget images, and its limit for τ → 0 on the retained images
        τ = exp(α (A_f − A_u))

    f₀ are the logits of the original model, and `g` are independent draws from the standard Gumbel distribution, new
    in each epoch. For a retained image `t` is therefore a one-hot label, drawn from the probabilities of the original
    model. τ is computed before each epoch: A_f is the current accuracy of the model on the forget images, and A_u the
    accuracy of the original model on unseen images. Training ends when A_f is at least 0.01 below A_u. The formulas
    follow the authors' code.

    Data: the forget images and retained images, without their labels, and one number, `unseen_accuracy`.

    Differences from the authors: A_u is given, while the authors measure it on a validation split. All given retained
    images are used, while the authors use a random 30 %. The BatchNorm running statistics are frozen, and dropout is
    off.
    """

    _name = "LoTUS"
    _paper = "https://arxiv.org/abs/2503.18314"
    _tag_names = ["unlearning", "machine-unlearning", "lotus-unlearning"]
    needs_retain = True
    change_limit = RETAIN_CHANGE_LIMIT
    needs_original_logits = True
    data_used = "the trained model, the images to forget, retained training images and the accuracy on unseen images"
    args: LoTUSConfig
    # Of an epoch.
    temperature: float
    gumbel: torch.Tensor

    def __init__(self, model: "ImageClassifier", args: LoTUSConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        is_class = self.args.forget_kind == "class"
        if self.args.unseen_accuracy is None:
            if not is_class:
                raise InputError(
                    "unseen_accuracy", "is missing: LoTUS needs the accuracy of the original model on unseen images."
                )
            self.args.unseen_accuracy = 0.0
        if self.args.alpha is None:
            self.args.alpha = 32.0 if is_class else 2.0
        self.unseen_accuracy, self.alpha = self.args.unseen_accuracy, self.args.alpha
        self.add_callback(PrepareEpoch(self))

    def prepare(self) -> None:
        if self.start - self.unseen_accuracy <= -0.01:
            raise InputError(
                "unseen_accuracy",
                f"got {self.unseen_accuracy}, and on the forget images the model is right less often, on a share of "
                f"{self.start:.3f}: LoTUS has nothing to do.",
            )

    def prepare_epoch(self) -> None:
        """
        Draws the noise of the next epoch, and computes its temperature. A resumed run takes the temperature from its
        log.
        """
        epoch = int(self.state.epoch)
        generator = torch.Generator().manual_seed(noise_key(self.args.seed, epoch, 0))
        exponential = torch.empty(self.original_logits.shape).exponential_(generator=generator)
        self.gumbel = -exponential.log().to(self.args.device)
        found = [log for log in self.state.log_history if "temperature" in log and log["epoch"] == epoch]
        if not found:
            excess = self.forget_accuracy() - self.unseen_accuracy
            self.log({"temperature": math.exp(self.alpha * excess), "accuracy_above_unseen": excess})
            found = self.state.log_history[-1:]
        self.temperature = found[-1]["temperature"]
        self.control.should_training_stop |= found[-1]["accuracy_above_unseen"] <= -0.01

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        noisy = self.original_logits[inputs["sample_index"]] + self.gumbel[inputs["sample_index"]]
        sampled = torch.nn.functional.one_hot(noisy.argmax(dim=-1), noisy.shape[-1])
        target = torch.where(inputs["is_forget"][:, None], (noisy / self.temperature).softmax(dim=-1), sampled)
        return -(target * logits.log_softmax(dim=-1)).sum(dim=-1), {}


class PrepareEpoch(TrainerCallback):
    """
    Prepares each epoch when it begins, and already when the epoch before it ends, since training can only be stopped
    there.
    """

    def __init__(self, trainer: LoTUSTrainer):
        self.trainer = trainer

    def on_epoch_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.prepare_epoch()

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.prepare_epoch()
