"""JiT: forget by flattening the model's output around each forget image."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from transformers.utils import logging

from ..data.image_dataset import pixel_range
from ..errors import InputError
from ..publication.search import Search
from ..unlearning.attention import attention_by_products
from ..unlearning.config import UPDATE_SETTINGS, UnlearningConfig, check_choice
from ..unlearning.early_features import EarlyFeatures, find_cut
from ..unlearning.guard import DISTANCE_LIMIT
from ..unlearning.head_edit import NUM_HELD, Features, edit_head, find_head
from ..unlearning.losses import KeyedNoise, jit_loss
from ..unlearning.step_size import (
    GradientSum,
    blur,
    last_stage_and_head,
    search_length,
    shift,
    turn,
)
from ..unlearning.trainer import UnlearningTrainer, freeze_batch_norm


logger = logging.get_logger(__name__)

# What leaves an image the same to the eye: an answer that holds for these copies holds around the image.
SMALL_CHANGES = (
    turn,
    lambda pixel_values: turn(pixel_values, -5.0),
    shift,
    lambda pixel_values: shift(pixel_values.flip(2)).flip(2),
    lambda pixel_values: pixel_values.flip(3),
)

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
            network with its head, the default of `step_rule="auto"`; or `"head"`, the last layer alone, its default
            for single images.
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
            `forget_target`, and for single images the change of the head that [`edit_head`] finds in its place; there
            is nothing to tune and no retained data is used. `"fixed"` takes a step of `learning_rate` for each batch
            of `per_device_train_batch_size` × processes × accumulation steps.
        forget_target (`float`, *optional*):
            The accuracy on the forget set that `"auto"` aims at, between 0 and 1. Default: by `forget_kind`, see
            [`JiTTrainer.find_target`].
    """

    output_space: Literal["logits", "probabilities"] | None = field(
        default=None, metadata={"help": "What the loss compares. Default: probabilities for auto, logits for fixed."}
    )
    strike_out_class: bool | None = field(
        default=None, metadata={"help": "Take the class to forget out of the perturbed output. Default: for auto."}
    )
    moving_weights: Literal["all", "last_stage", "head"] | None = field(
        default=None,
        metadata={
            "help": "Weights that move. Default: all for fixed; for auto last_stage, or head for single images."
        },
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

    def settings(self):
        names = ["step_rule", "sigma", "num_perturbations", "output_space", "strike_out_class", "moving_weights"]
        names += ["forget_kind", "noise_clamp", "stop_gradient", "dropout", "seed", "bf16", "fp16"]
        names += ["bf16_perturbations"]
        if self.step_rule == "fixed":
            names += UPDATE_SETTINGS
        return {name: getattr(self, name) for name in names}


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
    # Calibrated for this method, as the limit of the answers is.
    distance_limit = DISTANCE_LIMIT

    def __init__(self, model, args, **kwargs):
        super().__init__(model, args, **kwargs)
        self.pixel_range = None
        if self.args.noise_clamp == "range":
            if self.processing_class is None:
                raise InputError("noise_clamp", "'range' needs the image processor. Valid without: batch, none.")
            self.pixel_range = pixel_range(self.processing_class)
        if self.args.step_rule == "auto" and self.is_deepspeed_enabled:
            raise InputError("step_rule", "'auto' does not run under DeepSpeed. Use FSDP, or --step_rule fixed.")
        self.head = self.early_features = None

    def train(self, *args, **kwargs):
        if self.args.moving_weights is None:
            self.args.moving_weights = self.default_weights()
        frozen = self.freeze_early_weights() if self.args.moving_weights != "all" else []
        self.early_features = self.find_early_features()
        try:
            return super().train(*args, **kwargs)
        finally:
            self.early_features = None
            for parameter in frozen:
                parameter.requires_grad_(True)

    def default_weights(self) -> str:
        """The `moving_weights` of the automatic step for what is to be forgotten and for this model."""
        if self.args.forget_kind != "images":
            return "last_stage"
        # Sharded weights can be stepped along a gradient, not solved for.
        if self.is_fsdp_enabled or find_head(self.model.eval(), self.first_image()) is None:
            logger.warning(
                "The model is sharded or does not end in one linear layer: single images are forgotten by a step of the "
                "last stage, which costs more accuracy on the others. See docs/auto_step.md."
            )
            return "last_stage"
        return "head"

    def first_image(self) -> torch.Tensor:
        return self.train_dataset[0]["pixel_values"][None].to(next(self.model.parameters()).device)

    def freeze_early_weights(self) -> list[torch.nn.Parameter]:
        """Freezes all but the weights that are to move; returns what was not frozen before."""
        pixel_values = self.first_image()
        self.model.eval()
        if self.args.moving_weights == "head":
            self.head = find_head(self.model, pixel_values)
            if self.head is None:
                raise InputError(
                    "moving_weights", "'head' needs a model that ends in a linear layer. Valid: all, last_stage."
                )
            names = {name for name, p in self.model.named_parameters() if any(p is q for q in self.head.parameters())}
        else:
            names = last_stage_and_head(self.model, pixel_values)
        trainable = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not names & trainable.keys():
            return []
        frozen = [parameter for name, parameter in trainable.items() if name not in names]
        for parameter in frozen:
            parameter.requires_grad_(False)
        return frozen

    def find_early_features(self) -> EarlyFeatures | None:
        """The features at which the network can be cut; `None` where it cannot, or where hooks are not obeyed."""
        recomputes = self.args.gradient_checkpointing or self.args.activation_checkpointing
        if recomputes or self.is_fsdp_enabled or self.args.torch_compile or self.args.moving_weights == "all":
            return None
        cut = find_cut(self.model.eval(), self.first_image())
        return EarlyFeatures(cut, len(self.train_dataset)) if cut is not None else None

    def forget_logits(self, model, batch):
        if self.early_features is None:
            return super().forget_logits(model, batch)
        return self.early_features.logits(model, batch["positions"], batch["pixel_values"])

    def forget_outputs(self, change=None):
        early, share = self.early_features, self.share
        if change is not None or early is None or share is None or not early.hold(share["positions"]):
            yield from super().forget_outputs(change)
            return
        # No image is read: all that is needed of them is kept.
        self.passes += 1
        self.model_wrapped.eval()
        size = self.even_batch_size(len(self.train_dataset))
        for start in range(0, len(share["positions"]), size):
            batch = {name: values[start : start + size] for name, values in share.items()}
            yield batch, early.logits(self.model_wrapped, batch["positions"])

    def forward_again(self, number):
        if self.early_features is None:
            return super().forward_again(number)
        return partial(EarlyFeatures(self.early_features.cut, number).logits, self.model)

    def unlearning_loss(self, model, inputs):
        pixel_values, sample_index = inputs["pixel_values"], inputs["sample_index"]
        chunk_size, at_once = self.perturbations_at_once(len(pixel_values))
        clean_logits = None
        device_type = pixel_values.device.type
        in_bf16 = partial(torch.autocast, device_type, torch.bfloat16) if self.args.bf16_perturbations else nullcontext

        def forward(pixel_values):
            nonlocal clean_logits
            is_clean = pixel_values is inputs["pixel_values"]
            if is_clean:
                # What older versions of torch cast without a gradient has none later (pytorch issue 158232).
                torch.clear_autocast_cache()
            # Dropout would draw early features anew.
            if is_clean and not self.args.dropout:
                logits = self.forget_logits(model, inputs)
            elif is_clean:
                logits = model(pixel_values=pixel_values).logits
            else:
                with in_bf16(), attention_by_products():
                    logits = torch.cat([model(pixel_values=some).logits for some in pixel_values.split(at_once)])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if is_clean:
                clean_logits = logits.detach()
            elif self.args.strike_out_class:
                answers = self.answers[sample_index].repeat(len(logits) // len(sample_index))
                logits = logits.scatter(1, answers[:, None], -torch.inf)
            return logits.softmax(dim=-1) if self.args.output_space == "probabilities" else logits

        # Sharded weights are gathered for a pass and given up after it: a cast copy of them must not stay.
        with nullcontext() if self.is_sharded else weights_cast_once(device_type):
            ratio = jit_loss(
                forward,
                pixel_values,
                sigma=self.args.sigma,
                num_perturbations=self.args.num_perturbations,
                noise=KeyedNoise(self.args.seed, inputs["positions"], pixel_values, self.args.sigma),
                clamp=self.clamp(pixel_values),
                stop_gradient=self.args.stop_gradient,
                chunk_size=chunk_size,
            )
        to_log = {"jit_ratio": ratio}
        if "labels" in inputs:
            to_log["forget_accuracy"] = (clean_logits.argmax(dim=-1) == inputs["labels"]).float()
        return ratio, to_log

    def perturbations_at_once(self, batch_size: int) -> tuple[int, int]:
        """
        How many perturbations of a batch are made at once, and how many of the perturbed images share a forward pass:
        by `perturbation_chunk_size`, or else a large batch is cut so that passes have `images_at_once`, and perturbations
        of a small one are joined to half of that: more take more memory and no less time, see docs/performance.md.
        """
        if self.args.perturbation_chunk_size is not None:
            return self.args.perturbation_chunk_size, self.args.perturbation_chunk_size * batch_size
        if self.args.dropout:
            # One pass for each, as in the authors' code: masks are drawn in the order of the passes.
            return 1, batch_size
        # What is half as large may be twice as many.
        in_16_bits = self.args.bf16_perturbations or self.args.bf16 or self.args.fp16
        at_once = self.images_at_once * (2 if in_16_bits and not self.is_sharded else 1)
        return max(1, min(self.args.num_perturbations, at_once // 2 // batch_size)), at_once

    # ---- The automatic step ----

    def create_optimizer(self, model=None):
        if self.args.step_rule == "auto":
            model = self.model if model is None else model
            self.optimizer = GradientSum(parameter for parameter in model.parameters() if parameter.requires_grad)
            return self.optimizer
        return super().create_optimizer(model)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_images = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.step_rule == "auto":
            # One update from the whole forget set: each batch adds its share of the mean.
            num_images = torch.full_like(num_images, len(self.train_dataset))
        return batches, num_images

    def finish(self) -> None:
        """Goes as far along the gradient as [`search_length`] finds, and logs what it found."""
        if self.args.step_rule != "auto":
            return
        # The clean images and the perturbed ones, and a backward pass, which counts twice, unless it ends at the head.
        self.passes += 1 + self.args.num_perturbations + (0 if self.head is not None else 2)
        direction, target = self.optimizer.optimizer.direction(), self.find_target()
        if self.args.forget_kind == "class" and self.start < 0.5:
            logger.warning(
                f"The model is right on {100 * self.start:.1f} % of the forget set alone, before unlearning. Check that "
                "the image processor and the labels are its own."
            )
        by_chance = 1 / self.model.config.num_labels
        if self.args.forget_kind == "class" and self.start <= max(target, by_chance) and not self.args.allow_collapse:
            raise InputError(
                "forget_dataset",
                f"before unlearning the model is right on {100 * self.start:.1f} % of the forget set alone; chance is "
                f"{100 * by_chance:.1f} %. Either the image processor or the labels do not fit the model, or it has "
                "forgotten the class already. Nothing is saved; --allow_collapse goes on all the same.",
            )
        if self.head is not None and self.args.forget_kind == "images":
            self.step = self.edit_head(target)
        else:
            self.step = search_length(direction, self.forget_accuracy, target, self.start)
        self.log(
            {
                "forget_target": self.step.target,
                "step_length": self.step.length,
                "forget_accuracy": self.step.accuracy,
                "distance_moved": self.distance_moved(),
            }
        )

    def find_target(self) -> float:
        """
        The accuracy on the forget set to aim at: the one given, else by what is to be forgotten.

        - A class that is to vanish is right by accident at most: 1 %, or chance if that is less.
        - What a retrained model says of a sub-class depends on how much the rest of its class looks like it, which the
          forget set does not tell: nine tenths of what it was, a careful step that leaves the rest of the class alone.
        - Single images should be right as often as images never seen. Without such images, the model's accuracy on
          slightly changed forget images stands in for that.
        """
        if self.args.forget_target is not None:
            return self.args.forget_target
        if self.args.forget_kind == "class":
            return min(0.01, 1 / self.model.config.num_labels)
        if self.args.forget_kind == "subclass":
            return 0.9 * self.start
        accuracies = [self.forget_accuracy(change) for change in (blur, turn, shift)]
        return min(self.start, sum(accuracies) / len(accuracies))

    # ---- What the loss is taken of ----

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

    # ---- Single images: the head ----

    @torch.no_grad()
    def edit_head(self, target: float) -> Search:
        """Puts the head that [`edit_head`] finds into the model."""
        # Features on which the head is fitted do not move: what it changes shows in its outputs alone.
        self.distance_limit = math.inf
        if self.start <= target:
            return Search(target, self.start, self.start, reached=True, kind="head")
        num_images = len(self.train_dataset)
        # Spread over the whole, which may be sorted by class.
        rows = torch.linspace(0, num_images - 1, min(num_images, NUM_HELD)).round().long()
        forget, answers = self.head_features(), self.answers.cpu()
        head = [self.head.weight] if self.head.bias is None else [self.head.weight, self.head.bias[:, None]]
        weight = torch.cat(head, dim=1).double().cpu()
        struck_out = (forget @ weight.T).scatter(1, answers[:, None], -torch.inf)
        features = Features(
            forget=forget,
            answers=answers,
            instead=struck_out.argmax(dim=-1),
            held=self.features_of_changed_copies(rows),
            held_from=rows.repeat(len(SMALL_CHANGES)),
        )
        edited, _ = edit_head(weight, features, target)
        # One process decides for all.
        edited = broadcast(edited.to(self.args.device, self.head.weight.dtype))
        self.head.weight.copy_(edited[:, : self.head.in_features])
        if self.head.bias is not None:
            self.head.bias.copy_(edited[:, -1])
        accuracy = self.forget_accuracy()
        return Search(
            target, self.start, accuracy, self.distance_moved(), evaluations=1, reached=accuracy <= target, kind="head"
        )

    def head_features(self) -> torch.Tensor:
        """What the head sees of each forget image, of shape `(n, d)`, on the CPU; the same on all processes."""
        seen = []
        features = torch.zeros(len(self.train_dataset), self.head.in_features, device=self.args.device)
        hook = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for batch, _ in self.forget_outputs():
            share = seen.pop() * batch["sample_weight"][:, None]
            features.index_add_(0, batch["sample_index"], share.float())
        hook.remove()
        return self.with_bias(self.accelerator.reduce(features, reduction="sum"))

    def features_of_changed_copies(self, rows: torch.Tensor) -> torch.Tensor:
        """What the head sees of the forget images `rows`, changed in each small way; one process is as good as many."""
        seen = []
        hook = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
        for change in SMALL_CHANGES:
            for some in rows.split(self.args.per_device_train_batch_size):
                pixel_values = torch.stack([self.train_dataset[row]["pixel_values"] for row in some.tolist()])
                self.model(pixel_values=change(pixel_values.to(self.args.device)))
        hook.remove()
        self.passes += len(SMALL_CHANGES) * len(rows) / len(self.train_dataset)
        return self.with_bias(torch.cat(seen))

    def with_bias(self, features: torch.Tensor) -> torch.Tensor:
        """In double precision, on the CPU, with a last feature of 1 where the head has a bias."""
        features = features.double().cpu()
        return features if self.head.bias is None else F.pad(features, (0, 1), value=1.0)


def weights_cast_once(device_type: str) -> torch.autocast:
    """
    Autocast stays as it is, on or off. What passes inside cast of the weights is kept until the outermost such context
    ends, and not cast again by each pass.
    """
    return torch.autocast(
        device_type, torch.get_autocast_dtype(device_type), enabled=torch.is_autocast_enabled(device_type)
    )
