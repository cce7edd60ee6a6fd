"""What every unlearning method shares in its configuration."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from transformers import TrainingArguments

from ..errors import InputError


# What decides an update, besides what a method adds.
UPDATE_SETTINGS = [
    "learning_rate", "loss_reduction", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "optim_args", "weight_decay", "lr_scheduler_type", "max_grad_norm",
    "train_sampling_strategy", "data_seed",
]  # fmt: skip
# What may change the result besides, but does not as a rule.
FURTHER_SETTINGS = [
    "forget_kind", "seed", "bf16", "fp16", "allow_collapse", "per_device_eval_batch_size", "warmup_steps", "adam_beta1",
    "adam_beta2", "adam_epsilon",
]  # fmt: skip


@dataclass
class UnlearningConfig(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] with defaults that fit unlearning: plain SGD at a constant rate without
    clipping, one pass over the forget set, every tenth update logged, nothing pushed before the end and then privately.

    > Parameters that control what every method shares

    Args:
        forget_kind (`str`, *optional*):
            What the forget set is: a whole `"class"` (or several), a `"subclass"` of one, or single `"images"`. The
            command line takes it from the request; the trainer from `"class"`.
        loss_reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over all images of the update or their `"sum"`.
        allow_collapse (`bool`, *optional*, defaults to `False`):
            Whether a model that the guard takes for destroyed may be kept. Otherwise the original weights are put back
            and training ends with an error.

    Parameters whose default differs from [`~transformers.TrainingArguments`]:

    > Parameters that control the update

    optim (`str`, *optional*, defaults to `"sgd"`)
    lr_scheduler_type (`str`, *optional*, defaults to `"constant"`)
    max_grad_norm (`float`, *optional*, defaults to 0, no clipping)
    num_train_epochs (`float`, *optional*, defaults to 1)
    weight_decay (`float`, *optional*, defaults to 0)

    > Parameters that control evaluation, logging, saving and pushing

    per_device_eval_batch_size (`int`, *optional*, defaults to 64)
    logging_steps (`float`, *optional*, defaults to 10): writing a number down waits for the device.
    logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): a loss that is not finite must be seen.
    remove_unused_columns (`bool`, *optional*, defaults to `False`): the raw image column is needed.
    save_strategy (`str`, *optional*, defaults to `"no"`): the final model is saved by `save_model`.
    hub_strategy (`str`, *optional*, defaults to `"end"`)
    hub_private_repo (`bool`, *optional*, defaults to `True`)
    """

    # Published definitions of a method, for those that have several.
    preset = None
    if TYPE_CHECKING:
        # Set by `TrainingArguments` if it was not given.
        output_dir: str = "trainer_output"
        # Heading of the flags in a command's help.
        _argument_group_name: ClassVar[str]

    forget_kind: Literal["class", "subclass", "images"] | None = field(
        default=None, metadata={"help": "What the forget set is. Default: follows from the request."}
    )
    loss_reduction: Literal["mean", "sum"] = field(
        default="mean", metadata={"help": "Mean or sum over the images of an update."}
    )
    allow_collapse: bool = field(default=False, metadata={"help": "Keep a model that the guard takes for destroyed."})
    optim: str = field(default="sgd", metadata={"help": "The optimizer to use."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The scheduler type to use."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Maximum gradient norm; 0 means no clipping."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the forget set."})
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Images per forward pass and process where nothing is learned."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many updates."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Filter nan and inf losses for logging."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep the raw image column."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints to resume from."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push to the hub."})
    hub_private_repo: bool | None = field(default=True, metadata={"help": "Push to a private repository."})

    def __post_init__(self):
        if self.forget_kind is not None:
            check_choice("forget_kind", self.forget_kind, ("class", "subclass", "images"))
        if self.hub_strategy != "end":
            # The Trainer pushes all of the folder otherwise, with the salt and the request.
            raise InputError("hub_strategy", f"got {self.hub_strategy!r}. Valid: end, when all has been checked.")
        check_choice("loss_reduction", self.loss_reduction, ("mean", "sum"))
        if not torch.accelerator.is_available():
            # Without it, accelerate runs one process on a CPU however many were launched.
            self.use_cpu = True
            # There is no device to pin memory for; torch warns about it at every loader.
            self.dataloader_pin_memory = False
        super().__post_init__()

    @property
    def recomputes_activations(self) -> bool:
        """Whether a backward pass computes activations anew."""
        # Before transformers 5.23 the field has its older name alone.
        is_new = hasattr(self, "activation_checkpointing")
        return bool(self.activation_checkpointing if is_new else self.gradient_checkpointing)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, for the report, the card and the record."""
        own = [f.name for f in fields(self) if f.name not in UnlearningConfig.__dataclass_fields__]
        return {name: getattr(self, name) for name in [*own, *UPDATE_SETTINGS, "forget_kind", "seed", "bf16", "fp16"]}

    def as_given(self) -> dict[str, Any]:
        """
        All settings that can decide the result, before a trainer fills in what follows from the model and the images:
        with them `hf-unlearn record replay` carries the run out again.
        """
        own = [f.name for f in fields(self) if f.name not in TrainingArguments.__dataclass_fields__]
        return {name: getattr(self, name) for name in dict.fromkeys([*own, *UPDATE_SETTINGS, *FURTHER_SETTINGS])}


def check_choice(argument: str, value: str | None, choices: tuple[str, ...]) -> None:
    """
    Raises:
        [`InputError`]: if the value is none of the choices.
    """
    if value not in choices:
        raise InputError(argument, f"got {value!r}. Valid: {', '.join(choices)}.")
