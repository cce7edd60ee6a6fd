"""Rebuild: the model's weights are shrunk and perturbed, and what it knows of the other classes is taught to it again."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback

from ..data.rows import Rows
from ..data.training_set import TrainingSet
from ..errors import CollapsedModelError, InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.guard import Guard, impressions, staying_classes
from ..unlearning.head_edit import find_heads, head_inputs
from ..unlearning.losses import kl_divergence
from ..unlearning.noise_images import NoiseSet, check_forget_kind
from ..unlearning.original import swap_weights
from ..unlearning.random_model import random_model
from ..unlearning.step_size import last_stage_and_head
from ..unlearning.surrogates import NUM_DRAWS, NUM_JOIN_DRAWS, keyed_draws, make_surrogates
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


# Measured in docs/removal.md.
# Images of an update: forget images as they are, surrogates of forget images, impressions as they are, surrogates of those.
PARTS = {"forget": 16, "changed forget": 48, "impressions": 32, "changed impressions": 32}
NUM_IMAGES = sum(PARTS.values())
IMPRESSION_PLACES = torch.arange(64, 96)
# Forget images and impressions that are kept to make surrogates of, at most.
MAX_FORGET, MAX_IMPRESSIONS = 1000, 1000
IMPRESSIONS_PER_CLASS = 100
TEMPERATURE = 4.0
# How much the likeness of forget images among each other weighs.
SPREAD = 0.2
# How sure of forget images the target is, on average: models that never saw a class gave 0.73 to 0.80 to its images.
SURENESS = 0.8
MAX_ROUNDS = 4
# Surrogates are harder than photographs: a point of accuracy lost on these for each four on those.
LOST_PER_SURROGATE = 0.25
# Surrogates on which a round is judged. Their draws are those of no update.
NUM_HELD_OUT, HELD_OUT = 1024, -1
# What numbers are drawn for: which images an update takes, how they are changed; and the same of the pool of impressions.
PICKS, CHANGES, POOL_PICKS, POOL_CHANGES = range(4)


@dataclass
class RebuildConfig(UnlearningConfig):
    r"""
    Configuration of [`RebuildTrainer`].

    Args:
        max_accuracy_lost (`float`, *optional*, defaults to 1.5):
            Points of accuracy on the other classes that may be lost, as estimated without any image of them. A round of
            updates follows another until the estimate is below, four at most.
        shrink (`float`, *optional*, defaults to 0.3):
            α, how far the weights before the last stage are moved towards new ones: 0 keeps them, 1 starts anew, as the
            last stage and the head always do.
        num_updates (`int`, *optional*, defaults to 800):
            Updates of a round.

    Parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`)
    weight_decay (`float`, *optional*, defaults to 0.01)
    learning_rate (`float`, *optional*, defaults to 2e-3): the highest of a round, in which it rises and falls once.
    per_device_train_batch_size (`int`, *optional*, defaults to 128): an update always has 128 images. Fewer per device
        take less memory, in more passes.
    logging_steps (`float`, *optional*, defaults to 50)
    """

    max_accuracy_lost: float = field(
        default=1.5, metadata={"help": "Points of accuracy on the other classes that may be lost, as estimated."}
    )
    shrink: float = field(default=0.3, metadata={"help": "How far early weights move towards new ones, 0 to 1."})
    num_updates: int = field(default=800, metadata={"help": "Updates of a round, of which there are four at most."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=2e-3, metadata={"help": "The highest learning rate of a round."})
    per_device_train_batch_size: int = field(
        default=NUM_IMAGES, metadata={"help": f"Images per pass and device; an update has {NUM_IMAGES}."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})

    def __post_init__(self):
        if self.max_accuracy_lost <= 0:
            raise InputError("max_accuracy_lost", f"must be greater than 0, got {self.max_accuracy_lost}.")
        if not 0 <= self.shrink <= 1:
            raise InputError("shrink", f"must lie between 0 and 1, got {self.shrink}.")
        if self.num_updates < 1:
            raise InputError("num_updates", f"must be at least 1, got {self.num_updates}.")
        super().__post_init__()


class RebuildTrainer(UnlearningTrainer):
    r"""
    Removes a class, from the trained model and the images to forget alone. The weights of a copy are shrunk and perturbed
    (Ash and Adams, [arXiv 1910.08475](https://arxiv.org/abs/1910.08475); for unlearning, in language models,
    [arXiv 2506.06278](https://arxiv.org/abs/2506.06278)),

        θ ← (1 − α) θ + α θ_new,    θ_new ~ the initialisation of the architecture,

    with α = 1 for the last stage and the head and `shrink` for the rest, and the original model t, with the class y struck
    out of its answers, is distilled into the copy s on surrogate images x:

        ℓ(x) = τ² KL(m_y(t(x)) / τ ‖ s(x) / τ) + λ max(0, cos(φ(x), φ(x')) − mean_z cos(φ(x), φ(z))),   τ = 4, λ = 0.2

    m_y sets the logit of y to −∞, and multiplies the others by a factor, in the measure in which y was believed in: it is
    chosen so that the target is as sure of forget images, on average, as models are of a class that they never saw (0.8).
    The second term is for forget images as they are: φ are the features that the head sees, x' another forget image, z the
    impressions of the update. Forget images are to be no more alike than any two images: what lies scattered has no centre by
    which a few images find it again (arXiv 2506.01318).

    Data: the forget images. Surrogates are forget images, turned, cropped, recoloured, blended and patched so strongly that
    little of them is left ([`make_surrogates`]); and *impressions*, such images and noise moved until the original model is
    sure of a class that stays. Each update takes 128, drawn by (seed, update): the weights do not depend on how they are
    cut into batches and processes, but for rounding.

    The accuracy that is lost is estimated on surrogates that were not trained on, see [`~RebuildTrainer.estimate_lost`].
    What the model knows by heart of its training images is lost in part, though nothing of them was to be forgotten.

    Raises:
        [`InputError`]: for sub-classes and single images, if the weights are sharded, or if some are frozen.
        [`CollapsedModelError`]: if after four rounds the estimate is above `max_accuracy_lost`.
    """

    _name = "Rebuild"
    _tag_names = ["unlearning", "machine-unlearning", "rebuild-unlearning"]
    data_used = "the trained model, the images to forget and images made of both"
    # It is stopped by its own estimate; its weights are new in part.
    change_limit = math.inf
    distance_limit = math.inf
    args: RebuildConfig

    def __init__(self, model: "ImageClassifier", args: RebuildConfig, **kwargs: "Unpack[Given]"):
        args = copy.copy(args)
        # An update has as many images however many of them fit on a device at once.
        at_once = min(args.per_device_train_batch_size, math.ceil(NUM_IMAGES / args.world_size))
        args.gradient_accumulation_steps = math.ceil(NUM_IMAGES / (at_once * args.world_size))
        args.per_device_train_batch_size = math.ceil(NUM_IMAGES / (args.gradient_accumulation_steps * args.world_size))
        super().__init__(model, args, **kwargs)
        check_forget_kind("Rebuild", self.args.forget_kind, ("class",))
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("method", "Rebuild does not run on sharded weights. Use data parallelism.")
        if not all(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError("model", "has frozen weights, which would stay as they are. Rebuild moves all.")
        self.add_callback(JudgeRound(self))

    # ---- The images ----

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        # One item per image of an update. The items stay empty: the images are made on the device.
        return TrainingSet({"forget": forget, "surrogates": NoiseSet(NUM_IMAGES, ())})

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        return [self.training_set.positions("surrogates")] * (self.args.num_updates * MAX_ROUNDS)

    def prepare(self) -> None:
        """Makes the teacher and the impressions, and shrinks and perturbs the weights."""
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.vanishing = self.answers.unique()
        if len(self.vanishing) >= self.num_labels:
            raise InputError("forget_dataset", "has all classes of the model: there is nothing to rebuild.")
        self.factor = self.find_factor()
        self.heads = find_heads(self.model.eval(), self.first_image())
        every = max(1, math.ceil(len(self.train_dataset) / MAX_FORGET))
        rows = range(0, len(self.train_dataset), every)
        forget = torch.stack([self.train_dataset[row]["pixel_values"] for row in rows])
        self.low, self.high = forget.min().to(self.args.device), forget.max().to(self.args.device)
        self.bases = {"forget": forget, "impressions": broadcast(self.make_impressions(forget)).cpu()}
        if self.state.global_step == 0:
            self.shrink_and_perturb()

    def make_impressions(self, forget: torch.Tensor) -> torch.Tensor:
        """Images of the classes that stay, as the original model sees them, where the model is."""
        forget = forget.to(self.args.device)

        def forward(pixel_values: torch.Tensor) -> torch.Tensor:
            return self.teacher(pixel_values=pixel_values).logits.float()

        vanishing = set(self.vanishing.tolist())
        guard = Guard(forward, forget[:64], self.num_labels, vanishing, self.args.seed)
        draws = [
            keyed_draws(self.args.seed, HELD_OUT, kind, (512, columns)).to(forget.device)
            for kind, columns in ((POOL_PICKS, 2), (POOL_CHANGES, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))
        ]
        first, second = (forget[(draws[0][:, column] * len(forget)).long()] for column in (0, 1))
        surrogates = make_surrogates(first, second, draws[1], self.low, self.high)
        pool = torch.cat([surrogates, guard.vary(forget[:64]), guard.noise_like(forget)])
        staying = staying_classes(self.num_labels, vanishing)
        per_class = max(1, min(IMPRESSIONS_PER_CLASS, MAX_IMPRESSIONS // len(staying)))
        generator = torch.Generator().manual_seed(self.args.seed)
        made, _ = impressions(
            forward, pool, staying, generator, per_class=per_class, max_steps=20, max_classes=MAX_IMPRESSIONS
        )
        return made.detach()

    @torch.no_grad()
    def shrink_and_perturb(self) -> None:
        new = dict(random_model(self.model, self.args.seed).named_parameters())
        late = last_stage_and_head(self.model, self.first_image())
        # A model without stages is shrunk as a whole.
        late = late if len(late) < len(new) else set()
        for name, parameter in self.model.named_parameters():
            parameter.lerp_(new[name].to(parameter), 1.0 if name in late else self.args.shrink)

    def surrogates(self, update: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Some images of an update.

        Args:
            update (`int`):
                Number of the update.
            places (`torch.Tensor` of shape `(B,)`):
                Which of its images, between 0 and 127.

        Returns:
            The images, of shape `(B, C, H, W)`; which of them are forget images as they are, of shape `(B,)`; and for
            each of these another forget image.
        """
        places = places.cpu()
        draw = partial(keyed_draws, self.args.seed, update)
        chosen = draw(PICKS, (NUM_IMAGES, 2))[places]
        first, second = [], []
        kind = torch.arange(len(PARTS)).repeat_interleave(torch.tensor(list(PARTS.values())))[places]
        for place, (one, other) in enumerate(chosen.tolist()):
            bases = self.bases["forget" if kind[place] < 2 else "impressions"]
            number = int(one * len(bases))
            # Another one, where there is another.
            first.append(bases[number])
            second.append(bases[(number + 1 + int(other * (len(bases) - 1))) % len(bases)])
        first, second = (torch.stack(images).to(self.args.device) for images in (first, second))
        changes = draw(CHANGES, (NUM_IMAGES, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))[places]
        as_they_are = (kind % 2 == 0).to(self.args.device)
        changed = make_surrogates(first, second, changes, self.low, self.high)
        images = torch.where(as_they_are[:, None, None, None], first, changed)
        is_forget = (kind == 0).to(self.args.device)
        return images, is_forget, second[is_forget]

    # ---- The update ----

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None:
            given = cast(torch.optim.Optimizer, optimizer or self.optimizer)
            self.lr_scheduler = LambdaLR(given, partial(one_cycle, self.args.num_updates))
        return self.lr_scheduler

    @torch.no_grad()
    def struck_out(self, pixel_values: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """
        The original's logits without the classes that are to vanish, the others multiplied by a factor in the measure in
        which these were believed in.
        """
        logits = self.teacher(pixel_values=pixel_values).logits.float()
        belief = logits.softmax(dim=-1)[:, self.vanishing].sum(dim=-1, keepdim=True)
        return (logits * (1 + (factor - 1) * belief)).index_fill(1, self.vanishing, -torch.inf)

    @torch.no_grad()
    def find_factor(self) -> float:
        """The factor that makes the target as sure of the forget images, on average, as `SURENESS`; by bisection."""
        batches = [self.answers_of(batch) for batch in self.dataloader(self.train_dataset, self.forget_batch_size)]
        logits, belief, weight = (torch.cat(parts) for parts in zip(*batches, strict=True))
        low, high = 0.25, 64.0
        for _ in range(30):
            factor = math.sqrt(low * high)
            sureness = ((logits * (1 + (factor - 1) * belief)).softmax(dim=-1).amax(dim=-1) * weight).sum()
            total, count = self.accelerator.reduce(torch.stack([sureness, weight.sum()]), reduction="sum").tolist()
            low, high = (factor, high) if total / count < SURENESS else (low, factor)
        return factor

    def answers_of(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of forget images: the logits of the classes that stay, the belief in the others, and the weights."""
        logits = self.teacher(pixel_values=batch["pixel_values"]).logits.float()
        belief = logits.softmax(dim=-1)[:, self.vanishing].sum(dim=-1, keepdim=True)
        stays = torch.ones(self.num_labels, dtype=torch.bool, device=logits.device).index_fill(
            0, self.vanishing, False
        )
        return logits[:, stays], belief, batch["sample_weight"]

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        places = inputs["sample_index"] - self.training_set.start["surrogates"]
        images, is_forget, others = self.surrogates(self.state.global_step, places)
        target = self.struck_out(images, self.factor)
        with head_inputs(self.heads) as seen:
            logits = model(pixel_values=torch.cat([images, others])).logits.float()[: len(images)]
        loss = TEMPERATURE**2 * kl_divergence(target / TEMPERATURE, logits / TEMPERATURE)
        if self.heads:
            features = F.normalize(seen[0].float(), dim=1)
            own = features[: len(images)][is_forget]
            alike = (own * features[len(images) :]).sum(dim=1)
            any_two = own.detach() @ self.mean_feature_of_impressions()
            # The trainer takes the mean over the update, which has more images than these.
            share = SPREAD * NUM_IMAGES / PARTS["forget"]
            loss = loss.index_add(0, is_forget.nonzero()[:, 0], share * (alike - any_two).clamp(min=0))
        return loss, {"agreement": (logits.argmax(dim=-1) == target.argmax(dim=-1)).float()}

    @torch.no_grad()
    def mean_feature_of_impressions(self) -> torch.Tensor:
        """
        Of all impressions of the update, scaled to length 1, of shape `(d,)`: the same on every process and for every part of
        the update, which a mean over the images at hand is not.
        """
        with head_inputs(self.heads) as seen:
            self.model(pixel_values=self.surrogates(self.state.global_step, IMPRESSION_PLACES)[0])
        return F.normalize(seen[0].float(), dim=1).mean(dim=0)

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
        total, count = 0.0, 0
        for number in range(NUM_HELD_OUT // NUM_IMAGES):
            images, _, _ = self.surrogates(HELD_OUT - number, torch.arange(NUM_IMAGES))
            belief = self.struck_out(images).softmax(dim=-1)
            answers = self.model(pixel_values=images).logits.argmax(dim=-1, keepdim=True)
            total += (belief.amax(dim=-1) - belief.gather(1, answers)[:, 0]).sum().item()
            count += len(images)
        return 100 * LOST_PER_SURROGATE * total / count

    def finish(self) -> None:
        if self.accuracy_lost is None:
            self.accuracy_lost = self.estimate_lost()
        self.log({"accuracy_lost": self.accuracy_lost})
        if not self.accuracy_lost <= self.args.max_accuracy_lost and not self.args.allow_collapse:
            swap_weights(self.model, self.original.weights)
            raise CollapsedModelError(
                f"after {self.state.global_step} updates the model has lost {self.accuracy_lost:.1f} points of accuracy, as "
                f"estimated (--max_accuracy_lost {self.args.max_accuracy_lost}). It has its original weights again and "
                "nothing is saved; a smaller --shrink or more --num_updates lose less, --allow_collapse keeps the result all the "
                "same."
            )

    def describe_outcome(self) -> str:
        return (
            f"Rebuilt in {self.state.global_step} updates. Estimated from surrogates, without an image of the other classes, "
            f"{self.accuracy_lost:.1f} points of accuracy on them are lost (at most {self.args.max_accuracy_lost:g} were "
            "asked for). hf-unlearn verify measures what is left of the class."
        )


class JudgeRound(TrainerCallback):
    """Ends the training after the first round whose estimate is good enough."""

    def __init__(self, trainer: RebuildTrainer):
        self.trainer = trainer

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        if state.global_step % self.trainer.args.num_updates == 0:
            self.trainer.accuracy_lost = lost = self.trainer.estimate_lost()
            control.should_training_stop |= lost <= self.trainer.args.max_accuracy_lost


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
