"""The configuration of JiT and its published definitions."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..errors import InputError
from ..unlearning.config import UPDATE_SETTINGS, UnlearningConfig, check_choice


# Two published definitions of JiT, in the terms of JiTConfig. They differ in more than they share.
PRESETS = {
    # arXiv 2402.01401, Algorithm 1: one image a step, gradients through both outputs, noise not clamped.
    "algorithm1": {
        "step_rule": "fixed",
        "noise_clamp": "none",
        "stop_gradient": False,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
    },
    # The authors' code: the sum over the batch, noise clamped to the range of the batch, dropout left active, and
    # gradients that are never zeroed between batches, which is SGD with momentum 1 and no dampening.
    "as_released": {
        "step_rule": "fixed",
        "num_perturbations": 25,
        "noise_clamp": "batch",
        "loss_reduction": "sum",
        "dropout": True,
        "per_device_train_batch_size": 128,
        "optim_args": "momentum=1.0",
        "train_sampling_strategy": "sequential",
    },
}


@dataclass
class JiTConfig(UnlearningConfig):
    r"""
    Configuration of [`JiTTrainer`] (arXiv 2402.01401).

    > Parameters that control the loss

    Args:
        output_space (`str`, *optional*):
            What is compared: raw `"logits"`, as in the paper and the default of `step_rule="fixed"`, or
            `"probabilities"`, the default of `step_rule="auto"`.
        strike_out_class (`bool`, *optional*):
            Whether the class of a forget image (its label or, without labels, the original model's answer) is taken out
            of the probabilities of the perturbed images: the image is pulled to what the model says around it once
            that class is not allowed. Default: with `step_rule="auto"` alone.
        moving_weights (`str`, *optional*):
            `"all"`, as in the paper and the default of `step_rule="fixed"`; `"last_stage"`, the last part of the
            network with its head, the default of `step_rule="auto"`; or `"head"`, the last layer alone, which for
            single images is solved for by [`edit_head`].
        sigma (`float`, *optional*, defaults to 0.5):
            Standard deviation of the perturbations, in units of `pixel_values`.
        num_perturbations (`int`, *optional*, defaults to 1):
            N, the number of perturbed copies of each image.
        noise_clamp (`str`, *optional*, defaults to `"range"`):
            Where perturbed images are cut: at the valid `"range"` of the pixels per channel, at the minimum and maximum
            of the `"batch"` as in the authors' code, or `"none"`.
        stop_gradient (`bool`, *optional*, defaults to `True`):
            Whether the output of the perturbed image is a constant.
        dropout (`bool`, *optional*, defaults to `False`):
            Whether dropout stays active, drawn anew for each forward pass, as in the authors' code. BatchNorm is frozen
            all the same.
        perturbation_chunk_size (`int`, *optional*):
            How many perturbations of a batch share one forward pass. Default: as many as keep the device busy, see
            [`~UnlearningTrainer.images_at_once`], which cuts a large batch as well. Changes memory and speed, never the
            result.
        bf16_perturbations (`bool`, *optional*, defaults to `False`):
            Whether the perturbed images pass the model in bfloat16 and all else in float32: the direction changes by
            what rounding does to 8 bits of mantissa, see docs/performance.md. `bf16`, of the base class, is for all.

    > Parameters that control the step

        preset (`str`, *optional*):
            A published definition of JiT: `"algorithm1"` of the paper or `"as_released"`, the authors' code. It sets
            every parameter above and below that was left at its default.
        step_rule (`str`, *optional*, defaults to `"auto"`):
            `"auto"` takes one step along the gradient of the whole forget set, of the smallest length that reaches
            `forget_target`; single images get what the model says around them, see [`forget_by_surroundings`]. There is
            nothing to tune and no retained data is used. `"fixed"` takes a step of `learning_rate` for each batch
            of `per_device_train_batch_size` × processes × accumulation steps.
        forget_target (`float`, *optional*):
            The accuracy on the forget set that `"auto"` aims at, between 0 and 1. Default: by `forget_kind`, see
            [`JiTTrainer.find_target`]; for single images what changed copies of them say.
    """

    output_space: Literal["logits", "probabilities"] | None = field(
        default=None, metadata={"help": "What the loss compares. Default: probabilities for auto, logits for fixed."}
    )
    strike_out_class: bool | None = field(
        default=None, metadata={"help": "Take the class to forget out of the perturbed output. Default: for auto."}
    )
    moving_weights: Literal["all", "last_stage", "head"] | None = field(
        default=None,
        metadata={"help": "Weights that move. Default: all for fixed, last_stage for auto."},
    )
    sigma: float = field(default=0.5, metadata={"help": "Standard deviation of the noise, in pixel_values units."})
    num_perturbations: int = field(default=1, metadata={"help": "Perturbed copies of each forget image."})
    noise_clamp: Literal["range", "batch", "none"] = field(
        default="range", metadata={"help": "Cut perturbed images at the valid pixel range, the batch's, or not."}
    )
    stop_gradient: bool = field(default=True, metadata={"help": "Treat the perturbed images' output as constant."})
    dropout: bool = field(default=False, metadata={"help": "Leave dropout active, as the authors' code does."})
    preset: Literal["algorithm1", "as_released"] | None = field(
        default=None, metadata={"help": "A published definition of JiT; flags given beside it override it."}
    )
    step_rule: Literal["auto", "fixed"] = field(
        default="auto", metadata={"help": "Find the step from the forget set, or take steps of learning_rate."}
    )
    forget_target: float | None = field(
        default=None, metadata={"help": "Accuracy on the forget set that the automatic step aims at."}
    )
    perturbation_chunk_size: int | None = field(
        default=None, metadata={"help": "Perturbations per forward pass: memory and speed only."}
    )
    bf16_perturbations: bool = field(
        default=False, metadata={"help": "Pass the perturbed images in bfloat16, all else as it is."}
    )

    def __post_init__(self):
        if self.preset is not None:
            check_choice("preset", self.preset, tuple(PRESETS))
            defaults = {f.name: f.default for f in fields(self)}
            for name, value in PRESETS[self.preset].items():
                if getattr(self, name) == defaults[name]:
                    setattr(self, name, value)
        automatic = self.step_rule == "auto"
        if self.output_space is None:
            self.output_space = "probabilities" if automatic else "logits"
        if self.strike_out_class is None:
            self.strike_out_class = automatic and self.output_space == "probabilities"
        if self.moving_weights is None and not automatic:
            self.moving_weights = "all"
        if automatic:
            # The order does not matter to a sum, and every pass finds the same images on the same process.
            self.train_sampling_strategy = "sequential"
            # One gradient is all it takes.
            self.num_train_epochs, self.max_steps = 1.0, -1
        if self.strike_out_class and self.output_space != "probabilities":
            raise InputError("strike_out_class", "needs --output_space probabilities.")
        if self.forget_target is not None and not 0 <= self.forget_target <= 1:
            raise InputError("forget_target", f"must lie between 0 and 1, got {self.forget_target}.")
        if self.sigma <= 0:
            raise InputError("sigma", f"must be greater than 0, got {self.sigma}.")
        if self.num_perturbations < 1:
            raise InputError("num_perturbations", f"must be at least 1, got {self.num_perturbations}.")
        if self.perturbation_chunk_size is not None and self.perturbation_chunk_size < 1:
            raise InputError("perturbation_chunk_size", f"must be at least 1, got {self.perturbation_chunk_size}.")
        check_choice("output_space", self.output_space, ("logits", "probabilities"))
        check_choice("noise_clamp", self.noise_clamp, ("range", "batch", "none"))
        if self.moving_weights is not None:
            check_choice("moving_weights", self.moving_weights, ("all", "last_stage", "head"))
        check_choice("step_rule", self.step_rule, ("auto", "fixed"))
        super().__post_init__()

    @property
    def learns_from_retained(self) -> bool:
        """Whether retained images are of use: for a part of a class, where nobody said how far to go."""
        return self.step_rule == "auto" and self.forget_kind == "subclass" and self.forget_target is None

    def settings(self) -> dict[str, Any]:
        names = ["step_rule", "sigma", "num_perturbations", "output_space", "strike_out_class", "moving_weights"]
        names += ["forget_kind", "noise_clamp", "stop_gradient", "dropout", "seed", "bf16", "fp16"]
        names += ["bf16_perturbations"]
        if self.step_rule == "fixed":
            names += UPDATE_SETTINGS
        return {name: getattr(self, name) for name in names}
