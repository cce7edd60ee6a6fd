"""The model before it moved: its weights and answers, and whether what became of it is fit to be kept."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..data.rows import Rows
from ..data.training_set import TrainingSet
from ..errors import CollapsedModelError
from ..terminal import Stage, progress, say
from .compatibility import num_labels_of
from .guard import NUM_IMAGES, Guard
from .precision import rounded
from .shares import in_batches, sharded_as, share, whole
from .step_size import norm


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from .trainer import UnlearningTrainer


# Images that a process reads before the next one does.
READ_AT_ONCE = 8


class Original:
    """
    A copy of the weights that may move, made when training begins and never changed: to measure how far they went, and
    to go back.

    Args:
        model (`nn.Module`):
            The model, before its first update.
    """

    def __init__(self, model: nn.Module):
        moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        with whole(moving.values()):
            self.weights = {name: parameter.detach().clone() for name, parameter in moving.items()}
        self.norm = norm(self.weights.values())

    def distance(self, model: nn.Module) -> float:
        """‖θ − θ₀‖₂ / ‖θ₀‖₂ over the weights that may move, θ₀ being those before unlearning."""
        parameters = dict(model.named_parameters())
        with whole(parameters[name] for name in self.weights):
            return norm(parameters[name] - weight for name, weight in self.weights.items()) / self.norm


@torch.no_grad()
def swap_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts these weights into the model and returns those that were there."""
    parameters = dict(model.named_parameters())
    with whole((parameters[name] for name in weights), change=True):
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
    # Those they are compared with may be sharded only now.
    parameters = dict(trainer.model.named_parameters())
    for name, weight in trainer.original.weights.items():
        trainer.original.weights[name] = sharded_as(parameters[name], weight)
    resumed = trainer.state.global_step > 0
    moved = swap_weights(trainer.model, trainer.original.weights) if resumed else None
    # Looking must not disturb the random numbers of the run, dropout's for one.
    with torch.random.fork_rng(devices=[]):
        find_answers(trainer)
        if trainer.needs_original_logits:
            trainer.original_logits = find_logits(
                trainer, trainer.model_wrapped, TrainingSet(trainer.training_set.parts)
            )
        every = max(1, len(trainer.train_dataset) // NUM_IMAGES)
        pixel_values = read_images(
            trainer.train_dataset, range(0, len(trainer.train_dataset), every)[:NUM_IMAGES], trainer.args.device
        )
        trainer.guard = Guard(
            # Not the wrapped model: the probes' gradients are none of data parallelism's business.
            lambda pixel_values: trainer.model(pixel_values=pixel_values).logits,
            pixel_values,
            num_labels_of(trainer.model),
            vanishing=set(trainer.answers.tolist()) if trainer.args.forget_kind == "class" else frozenset(),
            seed=trainer.args.seed,
            forward_again=trainer.forward_again,
            show_progress=not trainer.args.disable_tqdm,
            in_step=trainer.is_sharded,
        )
        right = f"right on {100 * trainer.start:.1f} % of the forget set"
        trainer.first_stage.end(right, forget_accuracy=trainer.start)
        stage = Stage("preparing")
        trainer.prepare()
        if trainer.prepares():
            stage.end("what the method needs before its first update")
    if moved is not None:
        swap_weights(trainer.model, moved)


def read_images(dataset: Rows, rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """Images of a dataset, of shape `(n, C, H, W)`; several processes share the reading."""

    def read(numbers: torch.Tensor) -> torch.Tensor:
        return torch.stack([dataset[rows[number]]["pixel_values"] for number in numbers.tolist()]).to(device)

    return share(in_batches(len(rows), READ_AT_ONCE), read)


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
    outputs = progress("forget set", num_batches, trainer.forget_outputs(), hidden=trainer.args.disable_tqdm)
    for batch, logits in outputs:
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
    stage = Stage("guard")
    if trainer.change is None or trainer.saved_in_16_bits:
        trainer.change = trainer.guard.change()
    distance = trainer.distance_moved()
    # JSON has no infinity: no limit is `None`, and not logged.
    limits = {"change_limit": trainer.change_limit, "distance_limit": trainer.distance_limit}
    limits = {name: limit for name, limit in limits.items() if limit < math.inf}
    trainer.log({"change_elsewhere": trainer.change, "distance_moved": distance, **limits})
    limit = f" (limit {trainer.change_limit:g})" if "change_limit" in limits else ""
    stage.end(
        f"answers elsewhere changed by {trainer.change:.2f}{limit}",
        change_elsewhere=trainer.change, distance_moved=distance, **limits,
    )  # fmt: skip
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
