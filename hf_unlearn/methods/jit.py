"""JiT: forget by flattening the model's output around each forget image."""

from dataclasses import dataclass, field, fields
from typing import Literal

import torch

from ..config import UnlearningConfig
from ..data import pixel_range
from ..errors import InputError
from ..losses import KeyedNoise, jit_loss
from ..trainer import UnlearningTrainer, freeze_batch_norm


# Two published definitions of JiT, in the terms of JiTConfig. They differ in more than they share.
PRESETS = {
    # arXiv 2402.01401, Algorithm 1: one image a step, gradients through both outputs, noise not clamped.
    "algorithm1": {
        "step_rule": "fixed",
        "output_space": "logits",
        "noise_clamp": "none",
        "stop_gradient": False,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
    },
    # The authors' code: the sum over the batch, noise clamped to the range of the batch, dropout left active, and
    # gradients that are never zeroed between batches, which is SGD with momentum 1 and no dampening.
    "as_released": {
        "step_rule": "fixed",
        "output_space": "logits",
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
        output_space (`str`, *optional*, defaults to `"logits"`):
            What is compared: raw `"logits"`, as in the paper, or `"probabilities"`.
        sigma (`float`, *optional*, defaults to 0.5):
            Standard deviation of the perturbations, in units of `pixel_values`.
        num_perturbations (`int`, *optional*, defaults to 4):
            N, the number of perturbed copies of each image.
        noise_clamp (`str`, *optional*, defaults to `"range"`):
            Where perturbed images are cut: at the valid `"range"` of the pixels per channel, at the minimum and maximum
            of the `"batch"` as in the authors' code, or `"none"`.
        stop_gradient (`bool`, *optional*, defaults to `True`):
            Whether the output of the perturbed image is a constant.
        loss_reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over all images of the update or their `"sum"`.
        dropout (`bool`, *optional*, defaults to `False`):
            Whether dropout stays active, drawn anew for each forward pass, as in the authors' code. BatchNorm is frozen
            all the same.
        perturbation_chunk_size (`int`, *optional*):
            How many perturbations share one forward pass. Changes memory and speed, never the result.

    > Parameters that control the step

        preset (`str`, *optional*):
            A published definition of JiT: `"algorithm1"` of the paper or `"as_released"`, the authors' code. It sets
            every parameter above and below that was left at its default.
        step_rule (`str`, *optional*, defaults to `"fixed"`):
            `"fixed"` takes steps of `learning_rate`.
        forget_target (`float`, *optional*):
            The accuracy on the forget set at which to stop.
    """

    output_space: Literal["logits", "probabilities"] = field(
        default="logits", metadata={"help": "What the loss compares: raw logits (the paper) or probabilities."}
    )
    sigma: float = field(default=0.5, metadata={"help": "Standard deviation of the noise, in pixel_values units."})
    num_perturbations: int = field(default=4, metadata={"help": "Perturbed copies of each forget image."})
    noise_clamp: Literal["range", "batch", "none"] = field(
        default="range", metadata={"help": "Cut perturbed images at the valid pixel range, the batch's, or not."}
    )
    stop_gradient: bool = field(default=True, metadata={"help": "Treat the perturbed images' output as constant."})
    loss_reduction: Literal["mean", "sum"] = field(
        default="mean", metadata={"help": "Mean or sum over the images of an update."}
    )
    dropout: bool = field(default=False, metadata={"help": "Leave dropout active, as the authors' code does."})
    preset: Literal["algorithm1", "as_released"] | None = field(
        default=None, metadata={"help": "A published definition of JiT; flags given beside it override it."}
    )
    step_rule: Literal["fixed"] = field(default="fixed", metadata={"help": "Steps of learning_rate."})
    perturbation_chunk_size: int | None = field(
        default=None, metadata={"help": "Perturbations per forward pass: memory and speed only."}
    )

    def __post_init__(self):
        if self.preset is not None:
            if self.preset not in PRESETS:
                raise InputError("preset", f"got {self.preset!r}. Valid: {', '.join(PRESETS)}.")
            defaults = {f.name: f.default for f in fields(self)}
            for name, value in PRESETS[self.preset].items():
                if getattr(self, name) == defaults[name]:
                    setattr(self, name, value)
        if self.sigma <= 0:
            raise InputError("sigma", f"must be greater than 0, got {self.sigma}.")
        if self.num_perturbations < 1:
            raise InputError("num_perturbations", f"must be at least 1, got {self.num_perturbations}.")
        if self.perturbation_chunk_size is not None and self.perturbation_chunk_size < 1:
            raise InputError("perturbation_chunk_size", f"must be at least 1, got {self.perturbation_chunk_size}.")
        for name, choices in (
            ("output_space", ("logits", "probabilities")),
            ("noise_clamp", ("range", "batch", "none")),
            ("loss_reduction", ("mean", "sum")),
            ("step_rule", ("fixed",)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(name, f"got {getattr(self, name)!r}. Valid: {', '.join(choices)}.")
        super().__post_init__()


class JiTTrainer(UnlearningTrainer):
    """
    Unlearns by minimising [`jit_loss`] on the forget images alone: no labels, no retained data.

    Example:

    ```python
    trainer = JiTTrainer(
        model=model, args=JiTConfig(output_dir="out"), processing_class=image_processor, forget_dataset=splits["forget"]
    )
    trainer.train()
    ```
    """

    _name = "JiT"
    _paper = "https://arxiv.org/abs/2402.01401"
    _tag_names = ["unlearning", "machine-unlearning", "jit-unlearning"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pixel_range = None
        if self.args.noise_clamp == "range":
            if self.processing_class is None:
                raise InputError("noise_clamp", "'range' needs the image processor. Valid without: batch, none.")
            self.pixel_range = pixel_range(self.processing_class)

    def unlearning_loss(self, model, inputs):
        pixel_values = inputs["pixel_values"]
        clean_logits = None

        def forward(pixel_values):
            nonlocal clean_logits
            logits = model(pixel_values=pixel_values).logits
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if clean_logits is None:
                # jit_loss calls with the unperturbed images first.
                clean_logits = logits.detach()
            return logits.softmax(dim=-1) if self.args.output_space == "probabilities" else logits

        ratio = jit_loss(
            forward,
            pixel_values,
            sigma=self.args.sigma,
            num_perturbations=self.args.num_perturbations,
            noise=KeyedNoise(self.args.seed, inputs["sample_index"].tolist(), pixel_values, self.args.sigma),
            clamp=self.clamp(pixel_values),
            stop_gradient=self.args.stop_gradient,
            chunk_size=self.args.perturbation_chunk_size,
        )
        to_log = {"jit_ratio": ratio}
        if "labels" in inputs:
            to_log["forget_accuracy"] = (clean_logits.argmax(dim=-1) == inputs["labels"]).float()
        return ratio, to_log

    def set_mode(self, model):
        super().set_mode(model)
        if self.args.dropout:
            model.train()
            freeze_batch_norm(model)

    def clamp(self, pixel_values: torch.Tensor):
        """Lowest and highest value of a perturbed image, or `None`."""
        if self.args.noise_clamp == "range":
            return tuple(bound.to(pixel_values) for bound in self.pixel_range)
        if self.args.noise_clamp == "batch":
            return pixel_values.min(), pixel_values.max()
        return None
