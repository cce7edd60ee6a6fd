"""Runs every attack on every model; several processes share them."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from ..terminal import progress
from .logit_attacks import Outputs, choose_constant, false_positives, found_with, logit_auroc
from .probes import (
    HEAD_INPUT,
    Images,
    accuracy,
    collect_features,
    forward,
    information_of_layers,
    join,
    probe_accuracy,
    prototype_accuracy,
    rank_in_class,
)
from .relearning import MEASURED_STEPS, RETAINED_STEPS, relearn
from .rounding import BITS, rounded_copy
from .verification_report import NUM_IMAGES


# What an attack finds in one model: by name of the measure and by split, or `""` if it is not taken on a split.
Found = dict[str, dict[str, Any]]


@dataclass
class Attacker:
    """
    What the attacker has, what is measured, and how.

    Args:
        forget ([`~evaluation.probes.Images`]): forget images that the attacker has.
        others ([`~evaluation.probes.Images`] or `None`): images of what stays that the attacker has.
        measured (`dict[str, Images]`): by split, images of what is forgotten that the attacker does not have.
        measured_others ([`~evaluation.probes.Images`] or `None`): images of what stays that the attacker does not have.
        learning_rate (`float`): learning rate of Adam when a model re-learns.
        batch_size (`int`): images per forward pass.
        seed (`int`): seed of all random choices.
    """

    forget: Images
    others: Images | None
    measured: dict[str, Images]
    measured_others: Images | None
    learning_rate: float
    batch_size: int
    seed: int

    @property
    def classes(self) -> list[int]:
        """Label ids of the forgotten classes. Empty if images of one of them stay."""
        forgotten = set(self.forget.labels.tolist())
        stay = {label for part in (self.others, self.measured_others) if part for label in part.labels.tolist()}
        return sorted(forgotten) if not forgotten & stay else []

    def relearn(self, model: nn.Module, support: Images | None, steps: tuple[int, ...]) -> dict[str, list[float]]:
        """[`~evaluation.relearning.relearn`] with what the attacker has."""
        return relearn(
            model, support, self.others, self.measured, self.learning_rate, self.batch_size, self.seed, steps
        )


def run_attacks(models: Mapping[str, nn.Module], attacker: Attacker) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Runs every attack that the images allow on every model. Several processes take them in turn; each attack runs as a
    whole on one of them, so the result is that of a single process. A terminal shows a progress bar.

    Args:
        models (`dict[str, nn.Module]`):
            By name; all of them on every process.
        attacker ([`Attacker`]):
            What the attacker has, and what is measured.

    Returns:
        `dict[str, dict[str, dict[str, Any]]]`: what was found, by measure, split and model; the same on every process.
    """
    attacks: dict[str, Callable[[nn.Module, Attacker], Found]] = {
        f"re-learning, {count} per class": partial(curve, num_images=count) for count in NUM_IMAGES
    }
    if attacker.others is not None:
        attacks["re-learning, what stays"] = relearning_from_retained
    attacks |= {"features": of_features, "logits": of_logits, "rounded weights": of_rounded_weights}
    state = PartialState()
    # The attacks take different times: each is shared out over the models before the next.
    tasks = [(attack, name) for attack in attacks for name in models][state.process_index :: state.num_processes]
    results = []
    with progress("attacks", total=len(tasks)) as bar:
        for attack, name in tasks:
            bar.set_description(f"{name}: {attack}")
            results.append((name, attacks[attack](models[name], attacker)))
            bar.update()
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, measures in gather_object(results):
        for measure, by_split in measures.items():
            for split, value in by_split.items():
                found[measure][split][name] = value
    return found


def curve(model: nn.Module, attacker: Attacker, num_images: int) -> Found:
    """Re-learning from so many forget images per class, and from images of what stays if there are some."""
    support = attacker.forget[rank_in_class(attacker.forget.labels) < num_images]
    return {f"curve {num_images}": attacker.relearn(model, support, MEASURED_STEPS)}


def relearning_from_retained(model: nn.Module, attacker: Attacker) -> Found:
    """
    Learning from images of what stays alone: some methods damage the model, and the class comes back when the damage
    is repaired. The highest accuracy is taken, since a class that has come back is soon driven out again.
    """
    curves = attacker.relearn(model, None, RETAINED_STEPS)
    return {"retained_accuracy": {split: max(shares) for split, shares in curves.items()}}


def of_features(model: nn.Module, attacker: Attacker) -> Found:
    """Prototypes and the linear probe on the head's input, and the information in the layers."""
    found: Found = defaultdict(dict)
    known = attacker.forget if attacker.others is None else join(attacker.forget, attacker.others)
    features = collect_features(model, known, attacker.batch_size)
    if len(known.labels.unique()) > 1:
        for split, images in attacker.measured.items():
            held = collect_features(model, images, attacker.batch_size)[HEAD_INPUT]
            few = (features[HEAD_INPUT], known.labels.numpy(), held, images.labels.numpy())
            found["prototype_accuracy"][split] = prototype_accuracy(*few, NUM_IMAGES[-1], attacker.seed)
            found["probe_accuracy"][split] = probe_accuracy(*few)
    if attacker.others is not None:
        is_forget = np.arange(len(known)) < len(attacker.forget)
        found["layers"][""], found["information margin"][""] = information_of_layers(
            features, is_forget, attacker.seed
        )
    return found


def of_logits(model: nn.Module, attacker: Attacker) -> Found:
    """A constant on the logits of the forgotten classes, and how well these logits tell the classes."""
    classes = attacker.classes
    if not classes or attacker.others is None or attacker.measured_others is None:
        return {}

    def outputs(images: Images) -> Outputs:
        return Outputs(torch.cat([logits for logits, _ in forward(model, images, attacker.batch_size)]), images.labels)

    constant = choose_constant(outputs(attacker.others), classes)
    rest = outputs(attacker.measured_others)
    found: Found = defaultdict(dict)
    found["shift_false_positives"][""] = false_positives(constant, rest, classes)
    for split, images in attacker.measured.items():
        of_split = outputs(images)
        found["shift_accuracy"][split] = found_with(constant, of_split, classes)
        found["logit_auroc"][split] = logit_auroc(of_split, rest)
    return found


def of_rounded_weights(model: nn.Module, attacker: Attacker) -> Found:
    """The accuracy of copies with rounded weights."""
    found: Found = {}
    for bits in BITS:
        copied = rounded_copy(model, bits)
        found[f"rounded_{bits}_accuracy"] = {
            split: accuracy(copied, images, attacker.batch_size) for split, images in attacker.measured.items()
        }
    return found
