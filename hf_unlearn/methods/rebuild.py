"""Rebuild: the model's weights are shrunk and perturbed, and what it knows of the other classes is taught to it again."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from ..data.image_dataset import ImageDataset
from ..data.rows import Rows
from ..data.splits import check_dataset
from ..data.training_set import TrainingSet
from ..errors import CollapsedModelError, InputError
from ..terminal import Stage
from ..unlearning.head_edit import find_heads, head_inputs
from ..unlearning.losses import kl_divergence
from ..unlearning.noise_images import NoiseSet, check_forget_kind
from ..unlearning.original import read_images, swap_weights
from ..unlearning.random_model import random_model
from ..unlearning.shares import in_batches, sharded_as, share
from ..unlearning.step_size import freeze_all_but, last_stage_and_head
from ..unlearning.surrogates import (
    IMPRESSION_PLACES,
    MAX_FORGET,
    NUM_IMAGES,
    PARTS,
    Surrogates,
    make_impressions,
)
from ..unlearning.teacher import Teacher
from ..unlearning.trainer import UnlearningTrainer
from .rebuild_config import RebuildConfig


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainingArguments
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


# Measured in docs/removal.md.
TEMPERATURE = 4.0
# How much the likeness of forget images among each other weighs.
SPREAD = 0.6
# How sure of forget images the target is, on average: models that never saw a class gave 0.73 to 0.80 to its images.
SURENESS = 0.8
MAX_ROUNDS = 4
# Surrogates are harder than photographs: a point of accuracy lost on these for each four on those.
LOST_PER_SURROGATE = 0.25
# Impressions of an update that pass at once, see `mean_feature_of_impressions`.
FEATURES_AT_ONCE = 8
# Surrogates on which a round is judged: of so many updates that there are not.
NUM_HELD_OUT = 8


class RebuildTrainer(UnlearningTrainer):
    r"""
    Removes a class, from the trained model and the images to forget alone. The weights of a copy are shrunk and perturbed
    (Ash and Adams, [arXiv 1910.08475](https://arxiv.org/abs/1910.08475); for unlearning, in language models,
    [arXiv 2506.06278](https://arxiv.org/abs/2506.06278)),

        θ ← (1 − α) θ + α θ_new,    θ_new ~ the initialisation of the architecture,

    with α = `late_shrink` for the last stage and the head and `shrink` for the rest, which by default does not move at all, and
    the original model t, with the class y struck out of its answers, is distilled into the copy s on surrogate images x:

        ℓ(x) = τ² KL(m_y(t(x)) / τ ‖ s(x) / τ) + λ max(0, cos(φ(x), φ(x')) − mean_z cos(φ(x), φ(z))),   τ = 4, λ = 0.6

    m_y sets the logit of y to −∞, and multiplies the others by a factor, in the measure in which y was believed in: it is
    chosen so that the target is as sure of forget images, on average, as models are of a class that they never saw (0.8).
    The second term is for forget images as they are: φ are the features that the head sees, x' another forget image, z the
    impressions of the update. Forget images are to be no more alike than any two images: what lies scattered has no centre by
    which a few images find it again (arXiv 2506.01318).

    Data: the forget images. Surrogates are forget images, turned, cropped, recoloured, blended and patched so strongly that
    little of them is left ([`make_surrogates`]); and *impressions*, such images and noise moved until the original model is
    sure of a class that stays. Each update takes 128, drawn by (seed, update): the weights do not depend on how they are
    cut into batches and processes, but for rounding.

    Args:
        retain_dataset (`datasets.Dataset` or `torch.utils.data.Dataset`, *optional*):
            Training images to retain, however few. They take the places of half of the impressions; their labels are
            not used.
        proxy_dataset (`datasets.Dataset` or `torch.utils.data.Dataset`, *optional*):
            Any other pictures, unlabelled, that serve likewise. Of each of the two a thousand at most are used.

        For the others see [`UnlearningTrainer`].

    The accuracy that is lost is estimated on surrogates that were not trained on, see [`~RebuildTrainer.estimate_lost`].
    What the model knows by heart of its training images is lost in part, though nothing of them was to be forgotten.

    Raises:
        [`InputError`]: for sub-classes and single images, under DeepSpeed, or if some weights are frozen.
        [`CollapsedModelError`]: if after four rounds the estimate is above `max_accuracy_lost`.
    """

    _name = "Rebuild"
    _tag_names = ["unlearning", "machine-unlearning", "rebuild-unlearning"]
    data_used = "the trained model, the images to forget and images made of both"
    takes_retain = True
    trains_frozen_weights = False
    # It is stopped by its own estimate; its weights are new in part.
    change_limit = math.inf
    distance_limit = math.inf
    args: RebuildConfig

    def __init__(
        self,
        model: "ImageClassifier",
        args: RebuildConfig,
        proxy_dataset: Rows | None = None,
        **kwargs: "Unpack[Given]",
    ):
        args = copy.copy(args)
        # An update has as many images however many of them fit on a device at once.
        at_once = min(args.per_device_train_batch_size, math.ceil(NUM_IMAGES / args.world_size))
        args.gradient_accumulation_steps = math.ceil(NUM_IMAGES / (at_once * args.world_size))
        args.per_device_train_batch_size = math.ceil(NUM_IMAGES / (args.gradient_accumulation_steps * args.world_size))
        self.proxies: list[Rows] = []
        super().__init__(model, args, **kwargs)
        if proxy_dataset is not None:
            check_dataset("proxy_dataset", proxy_dataset)
            if isinstance(proxy_dataset, Dataset) and self.processing_class is not None:
                proxy_dataset = ImageDataset(proxy_dataset, self.processing_class)
            self.add_proxies(proxy_dataset, "other pictures")
        check_forget_kind(self._name, self.args.forget_kind, ("class",))
        if self.is_deepspeed_enabled:
            # Its optimizer holds copies of the weights, from before they are shrunk and perturbed.
            raise InputError("method", f"{self._name} does not run under DeepSpeed. Use FSDP2 or data parallelism.")
        self.judged_at: int | None = None
        self.mean_feature: tuple[int, torch.Tensor] | None = None
        self.last_update = self.args.num_updates * MAX_ROUNDS
        self.add_callback(JudgeRound(self))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        self.judged_at, self.mean_feature, self.last_update = None, None, self.args.num_updates * MAX_ROUNDS
        late = last_stage_and_head(self.model.eval(), self.first_image())
        frozen = freeze_all_but(self.model, late) if self.args.shrink == 0 else []
        # Whole on each process, also where the model is sharded from now on; cut only where hooks are obeyed.
        cuts = not (self.args.recomputes_activations or self.args.torch_compile or self.is_sharded)
        self.teacher = Teacher(self.model, self.first_image(), cuts)
        cast(Any, self.teacher.model).to(self.args.device, memory_format=self.memory_format())
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir)
        if isinstance(checkpoint, str):
            state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            # The Trainer forgets when it resumes that the run had come to its end.
            if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
                self.last_update = state.global_step
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    # ---- The images ----

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        if retain is not None:
            self.add_proxies(retain, "retained training images")
        # One item per image of an update. The items stay empty: the images are made on the device.
        return TrainingSet({"forget": forget, "surrogates": NoiseSet(NUM_IMAGES, ())})

    def add_proxies(self, images: Rows, what: str) -> None:
        self.proxies.append(images)
        self.data_used = f"{self.data_used}, and {len(images):,} {what}"

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        return [self.training_set.positions("surrogates")] * self.last_update

    def prepare(self) -> None:
        """Makes the impressions, and shrinks and perturbs the weights."""
        self.vanishing = self.answers.unique()
        if len(self.vanishing) >= self.num_labels:
            raise InputError("forget_dataset", "has all classes of the model: there is nothing to rebuild.")
        self.factor = self.find_factor()
        self.heads = find_heads(self.model, self.first_image())
        forget = self.pixel_values_of(self.train_dataset)
        with torch.enable_grad():
            impressions = make_impressions(
                lambda pixel_values: self.teacher.model(pixel_values=pixel_values).logits.float(),
                forget,
                self.guard,
                self.args.seed,
                show_progress=not self.args.disable_tqdm,
            )
        proxies = torch.cat([self.pixel_values_of(images) for images in self.proxies]) if self.proxies else None
        self.surrogates = Surrogates(forget, impressions, self.args.seed, proxies)
        if self.state.global_step == 0:
            self.shrink_and_perturb()

    def pixel_values_of(self, dataset: Rows) -> torch.Tensor:
        """Images of a dataset, evenly spread over it where it has more than a thousand, on the device."""
        rows = range(0, len(dataset), math.ceil(len(dataset) / MAX_FORGET))
        return read_images(dataset, rows, self.args.device)

    @torch.no_grad()
    def shrink_and_perturb(self) -> None:
        new = dict(random_model(self.model, self.args.seed).named_parameters())
        # All of them, where a model has no stages.
        late = last_stage_and_head(self.model, self.first_image())
        for name, parameter in self.model.named_parameters():
            how_far = self.args.late_shrink if name in late else self.args.shrink
            if how_far > 0:
                parameter.lerp_(sharded_as(parameter, new[name].to(parameter.device, parameter.dtype)), how_far)

    # ---- The update ----

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None:
            given = cast(torch.optim.Optimizer, optimizer or self.optimizer)
            self.lr_scheduler = LambdaLR(given, partial(one_cycle, self.args.num_updates))
        return self.lr_scheduler

    def strike_out(self, logits: torch.Tensor, factor: float) -> torch.Tensor:
        """
        The original's logits, of shape `(B, K)`, without the classes that are to vanish, the others multiplied by a factor in
        the measure in which these were believed in.
        """
        belief = logits.softmax(dim=-1)[:, self.vanishing].sum(dim=-1, keepdim=True)
        return (logits * (1 + (factor - 1) * belief)).index_fill(1, self.vanishing, -torch.inf)

    @torch.no_grad()
    def find_factor(self) -> float:
        """The factor that makes the target as sure of the forget images, on average, as `SURENESS`; by bisection."""
        batches = self.dataloader(self.train_dataset, self.forget_batch_size)
        seen = [(self.teacher.look(batch["pixel_values"])[0], batch["sample_weight"]) for batch in batches]
        logits, weight = (torch.cat(parts) for parts in zip(*seen, strict=True))
        low, high = 0.25, 64.0
        for _ in range(30):
            factor = math.sqrt(low * high)
            sureness = self.strike_out(logits, factor).softmax(dim=-1).amax(dim=-1)
            sums = torch.stack([(sureness * weight).sum(), weight.sum()])
            total, count = self.accelerator.reduce(sums, reduction="sum").tolist()
            low, high = (factor, high) if total / count < SURENESS else (low, factor)
        return factor

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        places = inputs["sample_index"] - self.training_set.start["surrogates"]
        images, is_forget, others = self.surrogates.of_update(self.state.global_step, places)
        everything = torch.cat([images, others])
        said, early = self.teacher.look(everything)
        target = self.strike_out(said[: len(images)], self.factor)
        with head_inputs(self.heads) as seen:
            logits = self.teacher.logits_of_other(model, everything, early).float()[: len(images)]
        divergence = kl_divergence(target / TEMPERATURE, logits / TEMPERATURE)
        loss = TEMPERATURE**2 * divergence
        if self.heads:
            features = F.normalize(seen[0].float(), dim=1)
            own = features[: len(images)][is_forget]
            alike = (own * features[len(images) :]).sum(dim=1)
            any_two = own.detach() @ self.mean_feature_of_impressions(places, features.detach())
            # The trainer takes the mean over the update, which has more images than these.
            spread = SPREAD * NUM_IMAGES / PARTS["forget"]
            loss = loss.index_add(0, is_forget.nonzero()[:, 0], spread * (alike - any_two).clamp(min=0))
        agreement = (logits.argmax(dim=-1) == target.argmax(dim=-1)).float()
        # How far the student is from its teacher.
        return loss, {"agreement": agreement, "kl_to_teacher": divergence}

    @torch.no_grad()
    def mean_feature_of_impressions(self, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """
        Of all impressions of the update, scaled to length 1, of shape `(d,)`: the same on every process and for every part of
        the update, which a mean over the images at hand is not.

        Args:
            places (`torch.Tensor` of shape `(B,)`): of the images at hand.
            features (`torch.Tensor` of shape `(B + b, d)`): theirs first.
        """
        if len(places) == NUM_IMAGES:
            return features[: len(places)][torch.isin(places, IMPRESSION_PLACES.to(places))].mean(dim=0)
        update = self.state.global_step
        if self.mean_feature is None or self.mean_feature[0] != update:

            def features_of(rows: torch.Tensor) -> torch.Tensor:
                with head_inputs(self.heads) as seen:
                    self.model(pixel_values=self.surrogates.of_update(update, IMPRESSION_PLACES[rows])[0])
                return F.normalize(seen[0].float(), dim=1)

            batches = in_batches(len(IMPRESSION_PLACES), FEATURES_AT_ONCE)
            self.mean_feature = (update, share(batches, features_of).mean(dim=0))
        return self.mean_feature[1]

    # ---- When to stop ----

    @torch.no_grad()
    def estimate_lost(self) -> float:
        """
        Points of accuracy on the classes that stay that the model has lost, estimated without an image of them: a quarter
        of how much less the original believes in the model's answer than in its own,

            100 · mean (max_k p(k | x) − p(k_s | x)),    p = m_y(t),  k_s = argmax s(x)

        on surrogates that were not trained on. That is the accuracy lost on them if the original's probabilities are right;
        the quarter was measured, see docs/removal.md.
        """
        self.model.eval()

        def lost(rows: torch.Tensor) -> torch.Tensor:
            # Each batch has those of one update.
            images, _, _ = self.surrogates.of_update(-1 - int(rows[0]) // NUM_IMAGES, rows % NUM_IMAGES)
            said, early = self.teacher.look(images)
            belief = self.strike_out(said, 1.0).softmax(dim=-1)
            answers = self.teacher.logits_of_other(self.model, images, early).argmax(dim=-1, keepdim=True)
            return belief.amax(dim=-1) - belief.gather(1, answers)[:, 0]

        return 100 * LOST_PER_SURROGATE * share(in_batches(NUM_HELD_OUT * NUM_IMAGES, NUM_IMAGES), lost).mean().item()

    def judge(self) -> float:
        """The estimate for the weights as they are, which is made and logged once."""
        if self.judged_at != self.state.global_step:
            stage, log_is_due = Stage("judging"), self.control.should_log
            self.accuracy_lost, self.judged_at = self.estimate_lost(), self.state.global_step
            self.log({"accuracy_lost": self.accuracy_lost})
            # The Trainer takes any log for the one that is due, and would leave out the loss.
            self.control.should_log = log_is_due
            seconds = stage.end(
                f"about {self.accuracy_lost:.1f} points lost after {self.judged_at:,} updates, {self.args.max_accuracy_lost:g} allowed",
                accuracy_lost=self.accuracy_lost, updates=self.judged_at,
            )  # fmt: skip
            self.progress.leave_out(seconds)
        return cast(float, self.accuracy_lost)

    def updates_of_round(self) -> int:
        return self.args.num_updates

    def finish(self) -> None:
        lost = self.judge()
        if not lost <= self.args.max_accuracy_lost and not self.args.allow_collapse:
            swap_weights(self.model, self.original.weights)
            raise CollapsedModelError(
                f"after {self.state.global_step} updates the model has lost {lost:.1f} points of accuracy, as "
                f"estimated (--max_accuracy_lost {self.args.max_accuracy_lost}). It has its original weights again and "
                "nothing is saved; a smaller --shrink or more --num_updates lose less, --allow_collapse keeps the result all the "
                "same."
            )

    def describe_outcome(self) -> str:
        return (
            f"Rebuilt in {self.state.global_step} updates. Estimated on images made for it, "
            f"{self.accuracy_lost:.1f} points of accuracy on the other classes are lost (at most "
            f"{self.args.max_accuracy_lost:g} were asked for). The estimate was up to 2 points too low where it was checked: "
            "measure it. hf-unlearn verify measures what is left of the class."
        )


class JudgeRound(TrainerCallback):
    """Ends the training after the first round whose estimate is good enough."""

    def __init__(self, trainer: RebuildTrainer):
        self.trainer = trainer

    def on_step_end(
        self, args: "TrainingArguments", state: TrainerState, control: "TrainerControl", **kwargs: Any
    ) -> None:
        if state.global_step % self.trainer.args.num_updates == 0:
            control.should_training_stop |= self.trainer.judge() <= self.trainer.args.max_accuracy_lost


def one_cycle(num_updates: int, update: int, rising: float = 0.3, lowest: float = 0.04) -> float:
    """
    The learning rate of an update as a share of the highest: in each round it rises and falls along cosines (Smith and
    Topin, arXiv 1708.07120).

    Args:
        num_updates (`int`): of a round.
        update (`int`): number of the update, from 0.
        rising (`float`, *optional*, defaults to 0.3): the share of a round in which the rate rises.
        lowest (`float`, *optional*, defaults to 0.04): where it starts; it ends at 0.
    """
    place = update % num_updates / num_updates
    if place < rising:
        return lowest + (1 - lowest) * (1 - math.cos(math.pi * place / rising)) / 2
    return (1 + math.cos(math.pi * (place - rising) / (1 - rising))) / 2
