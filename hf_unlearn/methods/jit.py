"""JiT: forget by flattening the model's output around each forget image."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..data.image_dataset import pixel_range
from ..data.rows import Rows
from ..data.training_set import TrainingSet
from ..errors import InputError
from ..publication.search import LOST_BY_CHANGE, Search
from ..terminal import Stage
from ..unlearning.advisers import forget_by_advisers
from ..unlearning.attention import attention_by_products
from ..unlearning.compatibility import check_class_is_known
from ..unlearning.early_features import EarlyFeatures, find_cut
from ..unlearning.guard import CHANGE_LIMIT, DISTANCE_LIMIT, JIT_CHANGE_LIMIT, RETAIN_CHANGE_LIMIT
from ..unlearning.head_edit import find_heads
from ..unlearning.layout import in_passes
from ..unlearning.losses import KeyedNoise, jit_loss
from ..unlearning.mode import freeze_batch_norm
from ..unlearning.precision import weights_cast_once
from ..unlearning.shares import gathered
from ..unlearning.single_images import forget_by_head
from ..unlearning.spare_stage import spare_stage
from ..unlearning.step_size import blur, freeze_all_but, last_stage_and_head, search_length, shift, turn
from ..unlearning.surroundings import forget_by_surroundings
from ..unlearning.whole_gradient import WholeGradientTrainer
from .jit_config import JiTConfig


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


logger = logging.get_logger(__name__)

# Up to this change elsewhere of a class, next to nothing was lost. Above it the head's step lost less, see docs/auto_step.md.
SPARED_FROM = LOST_BY_CHANGE[0][0]


class JiTTrainer(WholeGradientTrainer):
    """
    Unlearns by minimising [`jit_loss`] on the forget images alone: no labels, no retained data.

    Args:
        retain_dataset (`datasets.Dataset` or `torch.utils.data.Dataset`, *optional*):
            Retained training images with labels, for a part of a class alone: see [`forget_by_advisers`].

        For the others see [`UnlearningTrainer`].

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
    takes_retain = True
    # Calibrated for this method and whole classes.
    change_limit, distance_limit = JIT_CHANGE_LIMIT, DISTANCE_LIMIT
    args: JiTConfig

    def __init__(self, model: "ImageClassifier", args: JiTConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        self.pixel_range: tuple[torch.Tensor, torch.Tensor] | None = None
        self.chooses_weights = self.args.moving_weights is None
        if self.args.forget_kind != "class":
            # Parts of a class lie beside what stays: good runs change more there.
            self.change_limit = RETAIN_CHANGE_LIMIT if self.asks_advisers else CHANGE_LIMIT
        if self.args.noise_clamp == "range":
            if self.processing_class is None:
                raise InputError("noise_clamp", "'range' needs the image processor. Valid without: batch, none.")
            self.pixel_range = pixel_range(self.processing_class)
        if self.args.step_rule != "auto" and self.is_deepspeed_enabled:  # measured in docs/performance.md
            raise InputError(
                "step_rule", "'fixed' gives other weights under DeepSpeed. Use FSDP2, or --step_rule auto."
            )
        self.heads: list[nn.Linear] = []
        self.early_features: EarlyFeatures | None = None
        # Perturbed images of a pass that memory was not refused for.
        self.most_at_once = sys.maxsize
        # Of each weight that moves, where DeepSpeed keeps its own to itself.
        self.gradients: dict[torch.Tensor, torch.Tensor] = {}

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        if resume_from_checkpoint and self.adds_up_itself:
            raise InputError("resume_from_checkpoint", "is no use to --step_rule auto under DeepSpeed. Start anew.")
        self.gradients = {}
        if self.chooses_weights:
            # ZeRO-3 refuses weights that are written right after a backward pass, as updates of single images do.
            by_head = self.args.forget_kind == "images" and self.is_deepspeed_enabled
            self.args.moving_weights = "head" if by_head else "last_stage"
        frozen = self.freeze_early_weights() if self.args.moving_weights != "all" else []
        self.early_features = self.find_early_features()
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.early_features = None
            for parameter in frozen:
                parameter.requires_grad_(True)

    @property
    def asks_surroundings(self) -> bool:
        """Whether single images are forgotten by what the model says around them, not along a gradient nor by the head."""
        if not self.takes_one_step or self.args.forget_kind != "images" or self.is_deepspeed_enabled:
            return False
        return self.args.moving_weights != "head"

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        self.retained = retain
        return super().make_training_set(forget, retain)

    @property
    def takes_one_step(self) -> bool:
        return self.args.step_rule == "auto"

    @property
    def learns_answers(self) -> bool:
        return self.asks_surroundings or self.asks_advisers

    @property
    def asks_advisers(self) -> bool:
        """Whether networks that learn from the retained images that were given tell what to say of a part of a class."""
        is_apart = self.is_sharded or self.is_deepspeed_enabled
        return self.args.learns_from_retained and self.retained is not None and not is_apart

    def freeze_early_weights(self) -> list[torch.nn.Parameter]:
        """Freezes all but the weights that are to move; returns what was not frozen before."""
        pixel_values = self.first_image()
        self.model.eval()
        if self.args.moving_weights == "head":
            self.heads = find_heads(self.model, pixel_values)
            if not self.heads:
                raise InputError(
                    "moving_weights", "'head' needs a model that ends in a linear layer. Valid: all, last_stage."
                )
            own = {id(parameter) for head in self.heads for parameter in head.parameters()}
            names = {name for name, parameter in self.model.named_parameters() if id(parameter) in own}
        else:
            names = last_stage_and_head(self.model, pixel_values)
        return freeze_all_but(self.model, names)

    def find_early_features(self) -> EarlyFeatures | None:
        """The features at which the network can be cut; `None` where it cannot, or where hooks are not obeyed."""
        recomputes = self.args.recomputes_activations
        if recomputes or self.is_sharded or self.args.torch_compile or self.args.moving_weights == "all":
            return None
        cut = find_cut(self.model.eval(), self.first_image())
        return EarlyFeatures(cut, len(self.train_dataset)) if cut is not None else None

    def forget_logits(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        if self.early_features is None:
            return super().forget_logits(model, batch)
        return self.early_features.logits(model, batch["positions"], batch["pixel_values"])

    def forget_outputs(
        self, change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        early, share = self.early_features, self.share
        if change is not None or early is None or share is None or not early.hold(share["positions"]):
            yield from super().forget_outputs(change)
            return
        # No image is read: all that is needed of them is kept.
        self.passes += 1
        self.model_wrapped.eval()
        size = self.forget_batch_size
        for start in range(0, len(share["positions"]), size):
            batch = {name: values[start : start + size] for name, values in share.items()}
            yield batch, early.logits(self.model_wrapped, batch["positions"])

    def forward_again(self, number: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
        if self.early_features is None:
            return super().forward_again(number)
        return partial(EarlyFeatures(self.early_features.cut, number).logits, self.model)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.learns_answers:
            # `finish` does it all, once: no image passes here, and the weights get a gradient of zero.
            nothing = sum(0 * gathered(weight.sum()) for weight in self.model.parameters() if weight.requires_grad)
            return nothing + torch.zeros_like(inputs["sample_weight"]), {}
        pixel_values, sample_index = inputs["pixel_values"], inputs["sample_index"]
        chunk_size, at_once = self.perturbations_at_once(len(pixel_values))
        clean_logits: torch.Tensor | None = None
        device_type = pixel_values.device.type
        in_bf16 = partial(torch.autocast, device_type, torch.bfloat16) if self.args.bf16_perturbations else nullcontext

        def forward(pixel_values: torch.Tensor) -> torch.Tensor:
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
                    logits = self.perturbed_logits(model, pixel_values, at_once)
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
        if "labels" in inputs and clean_logits is not None:
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

    def perturbed_logits(self, model: nn.Module, pixel_values: torch.Tensor, at_once: int) -> torch.Tensor:
        """Logits of perturbed images, `at_once` a pass. Where memory is refused, passes are halved for the rest of the run."""
        if self.accelerator.num_processes > 1:
            # Every process makes the same number of passes, or they wait for each other forever.
            return torch.cat([model(pixel_values=some).logits for some in pixel_values.split(at_once)])
        first = min(at_once, self.most_at_once)
        logits, fitting = in_passes(lambda some: model(pixel_values=some).logits, pixel_values, first)
        if fitting < first:
            self.most_at_once = fitting
            logger.warning(f"The device has no memory for {first} images in a pass: {fitting} pass from now on.")
        return logits

    # ---- The automatic step ----

    def finish(self) -> None:
        """Takes the automatic step, and logs what was found."""
        if not self.takes_one_step:
            return
        stage = Stage("search")
        self.step = self.forget_as_unseen() if self.learns_answers else self.search_step()
        self.log_step(self.step)
        stage.end(self.step.in_short(), **asdict(self.step))

    def search_step(self) -> Search:
        """Classes and sub-classes, and single images whose head is moved: see [`search_length`] and [`forget_by_head`]."""
        # The clean images and the perturbed ones, and a backward pass, which counts twice, unless it ends at the head.
        self.passes += 1 + self.args.num_perturbations + (0 if self.heads else 2)
        direction, target = self.find_direction(), self.find_target()
        if self.args.forget_kind == "class":
            check_class_is_known(self.start, target, self.num_labels, self.args.allow_collapse)
        if self.heads and self.args.forget_kind == "images":
            # Features on which the head is fitted do not move: what it changes shows in its outputs alone.
            self.distance_limit = math.inf
            return forget_by_head(self, self.heads, target)
        step = search_length(direction, self.forget_accuracy, target, self.start, self.log_trial)
        if self.chooses_weights and step.length > 0:
            self.change = self.guard.change()
            if self.change > (SPARED_FROM if self.args.forget_kind == "class" else self.change_limit):
                step, self.change, by_head = spare_stage(self, direction, step, self.change, self.log_trial)
                self.args.moving_weights = "head" if by_head else self.args.moving_weights
        return step

    def log_trial(self, length: float, accuracy: float) -> None:
        """A length that the search tries, and the accuracy on the forget set there."""
        self.log({"search_length": length, "search_accuracy": accuracy})

    def log_step(self, step: Search) -> None:
        """The step that was taken. The slope of the margins of single images is logged where it was told."""
        logs = {
            "forget_target": step.target,
            "step_length": step.length,
            "forget_accuracy": step.accuracy,
            "distance_moved": self.distance_moved(),
        }
        self.log(logs if step.slope is None else logs | {"slope": step.slope, "images_moved": step.moved})

    def describe_updates(self) -> str:
        if not self.takes_one_step:
            return super().describe_updates()
        if self.learns_answers:
            what = "a part of a class is" if self.asks_advisers else "single images are"
            return f"none: {what} forgotten by the search"
        return f"the gradient over the forget set, in {self.state.global_step:,} parts"

    def forget_as_unseen(self) -> Search:
        """Single images, see [`forget_by_surroundings`], and parts of a class, see [`forget_by_advisers`]."""
        # Adam moves all weights a little; what it changes shows in the outputs.
        self.distance_limit = math.inf
        if self.retained is None or not self.asks_advisers:
            return forget_by_surroundings(self, self.args.forget_target)
        step = forget_by_advisers(self, self.retained)
        self.data_used = f"the trained model, the images to forget and {step.moved:,} retained images"
        return step

    def find_target(self) -> float:
        """
        The accuracy on the forget set to aim at: the one given, else by what is to be forgotten.

        - A class that is to vanish is right by accident at most: 1 %, or chance if that is less.
        - What a retrained model says of a sub-class depends on how much the rest of its class looks like it, which the
          forget set does not tell: nine tenths of what it was, a careful step that leaves the rest of the class alone.
        - Single images that the head is to forget should be right as often as images never seen. Without such images, the model's
          accuracy on slightly changed forget images stands in for that.
        """
        if self.args.forget_target is not None:
            return self.args.forget_target
        if self.args.forget_kind == "class":
            return min(0.01, 1 / self.num_labels)
        if self.args.forget_kind == "subclass":
            return 0.9 * self.start
        accuracies = [self.forget_accuracy(change) for change in (blur, turn, shift)]
        return min(self.start, sum(accuracies) / len(accuracies))

    def describe_outcome(self) -> str:
        outcome = super().describe_outcome()
        if self.args.learns_from_retained and not self.asks_advisers:
            return (
                f"{outcome} What a model that never saw this part of the class would say of unseen images of it cannot be known "
                "from the forget images alone: --retain_fraction 0.05 asks networks that learn from some of what stays."
            )
        if self.step is None or not self.step.reached or self.args.forget_kind != "class":
            return outcome
        return (
            f"{outcome} The model no longer says the class; its features may still know it. --method rebuild goes deeper, in "
            "minutes in place of seconds; hf-unlearn verify measures what is left."
        )

    # ---- What the loss is taken of ----

    def set_mode(self, model: nn.Module) -> None:
        super().set_mode(model)
        if self.args.dropout:
            model.train()
            freeze_batch_norm(model)

    def clamp(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Lowest and highest value of a perturbed image, or `None`."""
        if self.pixel_range is not None:
            low, high = self.pixel_range
            return low.to(pixel_values), high.to(pixel_values)
        if self.args.noise_clamp == "batch":
            return pixel_values.min(), pixel_values.max()
        return None
