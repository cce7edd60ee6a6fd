"""The model before it moved: its weights and answers, and whether what became of it is fit to be kept."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..data.training_set import TrainingSet
from ..errors import CollapsedModelError, InputError
from ..terminal import say
from .compatibility import num_labels_of
from .guard import NUM_IMAGES, Guard
from .precision import rounded
from .step_size import norm


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from .trainer import UnlearningTrainer


logger = logging.get_logger(__name__)


class Original:
    """
    A copy of the weights that may move, made when training begins and never changed: to measure how far they went, and
    to go back.

    Args:
        model (`nn.Module`):
            The model, before its first update.
    """

    def __init__(self, model: nn.Module):
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.norm = norm(self.weights.values())

    def distance(self, model: nn.Module) -> float:
        """‖θ − θ₀‖₂ / ‖θ₀‖₂ over the weights that may move, θ₀ being those before unlearning."""
        parameters = dict(model.named_parameters())
        return norm(parameters[name] - weight for name, weight in self.weights.items()) / self.norm


@torch.no_grad()
def swap_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts these weights into the model and returns those that were there."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in weights}
    for name, weight in weights.items():
        parameters[name].copy_(weight)
    return before


class ObserveOriginal(TrainerCallback):
    """
    Looks at the original model when training begins: it is on its device then and wrapped for its processes, also when a
    resumed run has no batch left.
    """

    def __init__(self, trainer: "UnlearningTrainer"):
        self.trainer = trainer

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        observe_original(self.trainer)


def observe_original(trainer: "UnlearningTrainer") -> None:
    """Looks at the original model before it moves: its answers on the forget set, and the guard's probes."""
    resumed = trainer.state.global_step > 0 and not trainer.is_fsdp_enabled
    if trainer.is_fsdp_enabled:
        # Only now are the weights sharded as those they are compared with.
        trainer.original = Original(trainer.model)
    moved = swap_weights(trainer.model, trainer.original.weights) if resumed else None
    # Looking must not disturb the random numbers of the run, dropout's for one.
    with torch.random.fork_rng(devices=[]):
        find_answers(trainer)
        if trainer.needs_original_logits:
            trainer.original_logits = find_logits(
                trainer, trainer.model_wrapped, TrainingSet(trainer.training_set.parts)
            )
        every = max(1, len(trainer.train_dataset) // NUM_IMAGES)
        rows = range(0, len(trainer.train_dataset), every)[:NUM_IMAGES]
        pixel_values = torch.stack([trainer.train_dataset[row]["pixel_values"] for row in rows]).to(
            trainer.args.device
        )
        trainer.guard = Guard(
            # Not the wrapped model: the probes' gradients are none of data parallelism's business.
            lambda pixel_values: trainer.model(pixel_values=pixel_values).logits,
            pixel_values,
            num_labels_of(trainer.model),
            vanishing=set(trainer.answers.tolist()) if trainer.args.forget_kind == "class" else frozenset(),
            seed=trainer.args.seed,
            forward_again=trainer.forward_again,
        )
        if not trainer.asks_surroundings:
            trainer.guard.look()
        trainer.prepare()
    if moved is not None:
        swap_weights(trainer.model, moved)


@torch.no_grad()
def find_logits(trainer: "UnlearningTrainer", model: nn.Module, dataset: TrainingSet) -> torch.Tensor:
    """What a model says of each image of a training set, of shape `(n, K)`; the same on all processes."""
    logits = torch.zeros(len(dataset), num_labels_of(trainer.model), device=trainer.args.device)
    model.eval()
    # Batches of the size of an update's: what is compared with itself there differs by nothing, not by rounding, which
    # Adam would take for a gradient.
    for batch in trainer.dataloader(dataset):
        outputs = model(pixel_values=batch["pixel_values"]).logits.float()
        logits.index_add_(0, batch["sample_index"], outputs * batch["sample_weight"][:, None])
    return trainer.accelerator.reduce(logits, reduction="sum")


@torch.no_grad()
def find_answers(trainer: "UnlearningTrainer") -> None:
    """
    Finds the class that each forget image is to lose: its label; without labels, the original model's answer; and
    when a whole class is to vanish, the class that most of those answers name, for the few images that the model
    takes for another class would make that one vanish as well.
    """
    num_labels = num_labels_of(trainer.model)
    trainer.answers = torch.full((len(trainer.train_dataset),), -1, device=trainer.args.device)
    counts = torch.zeros(num_labels, device=trainer.args.device)
    at_once = trainer.forget_batch_size
    num_batches = math.ceil(len(trainer.train_dataset) / (at_once * trainer.accelerator.num_processes))
    # Made before the loop: what stays of each batch would lie between the batches and keep their memory from being used
    # again, a gigabyte for 100,000 images.
    index, answers = torch.zeros(2, num_batches * at_once, dtype=torch.long, device=trainer.args.device)
    weight, positions = torch.zeros(num_batches * at_once, device=trainer.args.device), []
    labelled = False
    for batch, logits in trainer.forget_outputs():
        labelled = "labels" in batch
        own = logits.argmax(dim=-1)
        rows = slice(len(positions), len(positions) + len(own))
        index[rows], answers[rows], weight[rows] = batch["sample_index"], own, batch["sample_weight"]
        positions += batch["positions"]
        trainer.answers[batch["sample_index"]] = batch.get("labels", own)
        counts += torch.bincount(own, weights=batch["sample_weight"], minlength=num_labels)
    if not labelled and trainer.args.forget_kind == "class":
        trainer.answers[:] = trainer.accelerator.reduce(counts, reduction="sum").argmax()
    trainer.share = {"sample_index": index, "sample_weight": weight, "positions": positions}
    hits = ((answers == trainer.answers[index]) * weight).sum()
    trainer.start = trainer.accelerator.reduce(hits, reduction="sum").item() / len(trainer.train_dataset)
    # Each process has seen its own share; every one needs the answers to all.
    trainer.answers = trainer.accelerator.gather(trainer.answers[None]).amax(dim=0)


def check_class_is_known(trainer: "UnlearningTrainer", target: float) -> None:
    """
    Warns where the original is wrong on half of the class to forget.

    Raises:
        [`InputError`]: if it knows the class no better than by chance, or than `target`, which is to be reached.
    """
    by_chance = 1 / num_labels_of(trainer.model)
    if trainer.start < 0.5:
        logger.warning(
            f"The model is right on {100 * trainer.start:.1f} % of the forget set alone, before unlearning. Check that "
            "the image processor and the labels are its own."
        )
    if trainer.start <= max(target, by_chance) and not trainer.args.allow_collapse:
        raise InputError(
            "forget_dataset",
            f"before unlearning the model is right on {100 * trainer.start:.1f} % of the forget set alone; chance is "
            f"{100 * by_chance:.1f} %. Either the image processor or the labels do not fit the model, or it has "
            "forgotten the class already. Nothing is saved; --allow_collapse goes on all the same.",
        )


def round_weights(trainer: "UnlearningTrainer") -> None:
    """
    Rounds the weights of a model that was stored in 16 bits, which is what is saved then; leaves them in float32 if
    rounding brings back what was forgotten.
    """
    if not trainer.stored_in_16_bits:
        return
    kind = str(next(iter(trainer.stored_in_16_bits.values()))).removeprefix("torch.")
    if trainer.is_sharded:
        say(f"The model was stored in {kind} and is saved in float32: sharded weights are not rounded.")
        return
    before = trainer.forget_accuracy()
    # What the method aimed at, if it did, is reached all the same.
    limit = max(before, trainer.step.target) if trainer.step is not None else before
    exact = rounded(trainer.model, trainer.stored_in_16_bits)
    after = trainer.forget_accuracy()
    if after <= limit:
        trainer.saved_in_16_bits = trainer.stored_in_16_bits
        say(f"The model is saved in {kind}, as it was stored: accuracy on the forget set {100 * after:.1f} %.")
    else:
        swap_weights(trainer.model, exact)
        say(
            f"The model was stored in {kind} and is saved in float32: accuracy on the forget set is {100 * after:.1f} % "
            f"after rounding and {100 * before:.1f} % before."
        )


def check_collapse(trainer: "UnlearningTrainer") -> None:
    """
    Raises:
        [`CollapsedModelError`]: if the outputs elsewhere changed past the guard's limit, or the weights moved
        further than any good run did. The original weights are put back first.
    """
    # A method that has looked at the weights it ends with has left it here; rounding moves them once more.
    if trainer.change is None or trainer.saved_in_16_bits:
        trainer.change = trainer.guard.change()
    distance = trainer.distance_moved()
    trainer.log({"change_elsewhere": trainer.change})
    # A distance that is not a number is past every limit.
    if (
        trainer.change > trainer.change_limit or not distance <= trainer.distance_limit
    ) and not trainer.args.allow_collapse:
        swap_weights(trainer.model, trainer.original.weights)
        distance_limit = (
            f"limit {100 * trainer.distance_limit:.0f} %" if trainer.distance_limit < math.inf else "no limit"
        )
        raise CollapsedModelError(
            f"the model's answers elsewhere changed by {trainer.change:.2f} (0: untouched, 1: destroyed, limit "
            f"{trainer.change_limit}) and its weights by {100 * distance:.1f} % ({distance_limit}). It has "
            "its original weights again and nothing is saved; --allow_collapse keeps the result all the same."
        )
    if trainer.step is not None and (warning := trainer.step.likely_loss(trainer.change)):
        say(warning)
