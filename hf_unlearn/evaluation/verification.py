"""Did it forget, or does it hide? Every attack on every model, side by side with retrained ones and with a control."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from torch import nn

from ..data.labels import find_label_column, match_labels, read_column
from ..data.splits import ImageDataset, check_dataset
from ..errors import InputError
from ..terminal import print_table, print_text
from ..unlearning.precision import in_float32
from .probes import (
    HEAD_INPUT,
    MEASURED_STEPS,
    Images,
    collect_features,
    forward,
    head_only,
    information_of_layers,
    join,
    probe_accuracy,
    prototype_accuracy,
    rank_in_class,
    relearn,
)


# Labelled images of each forgotten class that an attacker has.
NUM_IMAGES = (1, 5, 20)
# Re-learning ends within this share of the original's accuracy (α of the anamnesis index).
TOLERANCE = 0.05
# Accuracies are taken of forget images that no attack used, and of unseen images of what is forgotten.
MEASURED = {"forget": "left out", "forget_test": "unseen"}
# Measure: (label, kind of number). Those of `MEASURED` are followed by the split.
MEASURES = {
    "accuracy": ("accuracy without an attack", "share"),
    "relearning_accuracy": ("re-learning, mean accuracy", "share"),
    "relearning_steps": ("re-learning, steps", "count"),
    "relearning_images": ("re-learning, images per class", "count"),
    "anamnesis_index": ("anamnesis index", "ratio"),
    "prototype_accuracy": ("prototypes, accuracy", "share"),
    "probe_accuracy": ("linear probe, accuracy", "share"),
    "information": ("information in the layers, nats", "nats"),
    "idi": ("IDI", "ratio"),
}
# These follow from other measures and would count twice.
DERIVED = ("relearning_images", "anamnesis_index", "idi")


@dataclass
class VerificationReport:
    """
    What the attacks found.

    Args:
        models (`list[str]`):
            `"original"`, `"unlearned"`, `"head-only"` and `"retrained 1"`, … as far as they were given.
        measures (`dict[str, dict[str, float | None]]`):
            By measure and model. `None`: the original's accuracy was not reached within the steps, or, of a ratio, its
            denominator is no positive number.
        margins (`dict[str, float]`):
            By measure, a difference that chance among the images measured explains.
        curves (`dict[str, dict[str, dict[str, list[float]]]]`):
            By split, model and number of images per class: the accuracy after each of `steps`.
        layer_information (`dict[str, dict[str, float]]`):
            By model and layer, in nats.
        steps (`list[int]`):
            Where the curves were measured.
        images (`dict[str, int]`):
            How many images served for what.
        missing (`dict[str, str]`):
            Measures that could not be taken, and why.
        notes (`list[str]`):
            What a reader of the numbers has to know.
        seed (`int`):
            Of all choices.
    """

    models: list[str]
    measures: dict[str, dict[str, float | None]]
    margins: dict[str, float]
    curves: dict[str, dict[str, dict[str, list[float]]]]
    layer_information: dict[str, dict[str, float]]
    steps: list[int]
    images: dict[str, int]
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def retrained(self) -> list[str]:
        return [model for model in self.models if model.startswith("retrained")]

    def band(self, measure: str) -> tuple[float, float] | None:
        """Lowest and highest value among the retrained models; ∞ stands for "not reached"."""
        values = [number(self.measures[measure][model]) for model in self.retrained]
        return (min(values), max(values)) if values else None

    def held(self, measure: str) -> dict[str, float]:
        """
        The values by model, turned so that more means that more of the forget set is left. Of counts it is the place
        among the numbers that are tried.
        """
        values = {model: number(value) for model, value in self.measures[measure].items()}
        if MEASURES[measure.split("/")[0]][1] != "count":
            return values
        grid = [*(self.steps if measure.startswith("relearning_steps") else NUM_IMAGES), math.inf]
        return {model: -float(grid.index(value)) for model, value in values.items()}

    def side(self, measure: str, model: str) -> int:
        """
        0 if the model lies in the retrained models' band or in the margin around it; 1 if more is left in it, −1 if
        less.
        """
        held, margin = self.held(measure), self.margins[measure]
        band = [held[name] for name in self.retrained]
        return int(held[model] > max(band) + margin) - int(held[model] < min(band) - margin)

    def text(self) -> str:
        """Which measures tell which models apart, and which do not; drawn from the numbers alone."""
        return " ".join(describe(self))

    def to_json(self, path: str | Path) -> None:
        """Writes the report, with the retrained models' bands and the text, to a file."""
        bands = {measure: self.band(measure) for measure in self.measures} if self.retrained else {}
        bands = {measure: [finite(value) for value in band] for measure, band in bands.items()}
        values = asdict(self) | {"bands": bands, "text": self.text()}
        Path(path).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def texts(self, measure: str) -> dict[str, str]:
        """The numbers of a measure as the table shows them, by model and, with two retrained ones or more, `band`."""
        kind = MEASURES[measure.split("/")[0]][1]
        most = NUM_IMAGES[-1] if measure.startswith("relearning_images") else self.steps[-1]
        texts = {model: cell(value, kind, most) for model, value in self.measures[measure].items()}
        if len(self.retrained) > 1:
            low, high = (cell(finite(value), kind, most) for value in self.band(measure))
            texts["band"] = "–" if low == high == "–" else f"{low} to {high}"
        return texts

    def print(self) -> None:
        """Prints the table, what is missing and the text to the terminal."""
        columns = [*self.models, "band"] if len(self.retrained) > 1 else self.models
        splits = defaultdict(list)
        for measure in self.measures:
            splits[measure.partition("/")[0]].append(measure)
        rows = []
        for name, measures in splits.items():
            if len(measures) > 1:
                rows.append((MEASURES[name][0], "", {}))
            for measure in measures:
                label = f"  {MEASURED[measure.partition('/')[2]]}" if len(measures) > 1 else grouped([measure])
                rows.append((label, "", self.texts(measure)))
        # Where there is no room for all, the band stands for the models that make it.
        spare = self.retrained if "band" in columns else []
        print_table(columns, [("after attacks (accuracies in %)", rows)], spare)
        for measure, reason in self.missing.items():
            print_text(f"Not measured: {MEASURES[measure][0]}, because {reason}.")
        for note in self.notes:
            print_text(f"Note: {note}")
        print_text(self.text())


def number(value: float | None) -> float:
    """∞ for what was not reached."""
    return math.inf if value is None else value


def finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def cell(value: float | None, kind: str, most: int) -> str:
    """A number as the table shows it; a count that was not reached is more than the most that was tried."""
    if value is None:
        return f"> {most}" if kind == "count" else "–"
    return {"share": f"{100 * value:.1f}", "count": f"{value:g}", "ratio": f"{value:.2f}", "nats": f"{value:.2f}"}[
        kind
    ]


def grouped(measures: list[str]) -> str:
    """Measures in words, the splits of one in brackets."""
    splits = defaultdict(list)
    for measure in measures:
        name, _, split = measure.partition("/")
        splits[name] += [MEASURED[split]] if split else []
    return "; ".join(
        MEASURES[name][0] + (f" ({' and '.join(those)})" if those else "") for name, those in splits.items()
    )


def describe(report: VerificationReport) -> list[str]:
    """The sentences of [`VerificationReport.text`]."""
    count = len(report.retrained)
    if count == 0:
        return [
            "There is no retrained model to compare with, and what these attacks find in a model that never saw the "
            "forget set is unknown: nothing follows from the numbers about what was forgotten."
        ]
    names = [measure for measure in report.measures if measure.split("/")[0] not in (*DERIVED, "accuracy")]
    telling = [m for m in names if report.side(m, "original") == 1 and report.side(m, "head-only") == 1]
    useless = [measure for measure in names if measure not in telling]
    sentences = []
    if count == 1:
        sentences.append(
            "With one retrained model there is no band: a difference may be the seed's alone. A second one would show."
        )
    retrained = "the retrained model" if count == 1 else f"the {count} retrained models"
    if not telling:
        return [
            *sentences,
            f"No measure tells both the original and the head-only control, whose features are the original's, from "
            f"{retrained}, which never saw the forget set: nothing follows from the numbers about what was forgotten.",
        ]
    sentences.append(
        "The original and the head-only control, whose features are the original's, are told from "
        f"{retrained}, which never saw the forget set, by: {grouped(telling)}."
    )
    found = {side: [m for m in telling if report.side(m, "unlearned") == side] for side in (1, 0, -1)}
    if found[1]:
        sentences.append(f"More is left in the unlearned model than in {retrained}, by: {grouped(found[1])}.")
    if found[0]:
        sentences.append(
            f"The unlearned model is not told from {retrained} by: {grouped(found[0])}. That is no proof that nothing is "
            "left."
        )
    if found[-1]:
        sentences.append(f"Less is left in the unlearned model than in {retrained}, by: {grouped(found[-1])}.")
    less = [m for m in telling if report.held(m)["head-only"] - report.held(m)["unlearned"] > report.margins[m]]
    if less:
        sentences.append(f"Less is left in it than in the head-only control, by: {grouped(less)}.")
    else:
        sentences.append("By none of these is less left in it than in the head-only control.")
    if useless:
        sentences.append(f"Of no use here, since they do not tell both: {grouped(useless)}.")
    return sentences


# ---- The whole verification ----


def verify_unlearning(
    original_model: nn.Module,
    unlearned_model: nn.Module,
    splits: DatasetDict,
    image_processor,
    retrained_models: list[nn.Module] = (),
    *,
    forget_kind: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    learning_rate: float = 1e-4,
    max_images: int = 200,
    batch_size: int = 64,
    seed: int = 0,
) -> VerificationReport:
    """
    Attacks copies of the models to see what they still hold of the forget set. The models given stay as they are.

    Beside them stands a control that only hides: the original with its last layer alone changed, see [`head_only`].
    What an attack finds in the retrained models, which never saw the forget set, is its null band.

    Args:
        original_model (`PreTrainedModel`):
            The model before unlearning.
        unlearned_model (`PreTrainedModel`):
            The model to verify.
        splits (`DatasetDict`):
            `forget`, of which half serves the attacker and the other half is measured; `forget_test`, unseen images of
            what is forgotten, measured as well; `retain` or else `retain_test`, images of the rest for the attacker.
            All but `forget` are optional. Where there are no labels, the original model's answers stand for them.
        image_processor (`BaseImageProcessor`):
            The models' image processor.
        retrained_models (`list[PreTrainedModel]`, *optional*):
            Models trained without the forget set, best with different seeds.
        forget_kind (`str`, *optional*, defaults to what `splits["forget"]` remembers from [`split_dataset`] or its labels say):
            `"class"`, `"subclass"` or `"images"`, for the control.
        image_column (`str`, *optional*):
            Found from the features when not given.
        label_column (`str`, *optional*):
            Found from the features when not given.
        learning_rate (`float`, *optional*, defaults to 1e-4):
            Of Adam, when the models re-learn.
        max_images (`int`, *optional*, defaults to 200):
            At most so many images of each kind are used, twice as many of the forget set and of the rest.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        seed (`int`, *optional*, defaults to 0):
            Of all choices. The same seed gives the same report.

    Returns:
        [`VerificationReport`]

    Raises:
        [`InputError`]: if there is no forget set, or no image of it is left to measure.
    """
    if "forget" not in splits:
        raise InputError("splits", f"there is no split 'forget'. Given: {', '.join(splits) or 'none'}.")
    for name, split in splits.items():
        check_dataset(f"splits[{name!r}]", split)
    columns = {"image_column": image_column, "label_column": label_column}
    with in_float32(original_model, unlearned_model, *retrained_models):
        return attack_models(
            original_model, unlearned_model, splits, image_processor, retrained_models, forget_kind, columns,
            learning_rate, max_images, batch_size, seed,
        )  # fmt: skip


def attack_models(
    original_model, unlearned_model, splits, image_processor, retrained_models, forget_kind, columns, learning_rate,
    max_images, batch_size, seed,
) -> VerificationReport:  # fmt: skip
    """All attacks on models in float32. For the arguments see [`verify_unlearning`]."""

    def draw(split: str, limit: int) -> Images:
        return draw_images(splits[split], image_processor, original_model, limit, batch_size, seed, **columns)

    forget = draw("forget", 2 * max_images)
    # The images of a class are in a random order: every other one is left out of the attacks.
    left_out = rank_in_class(forget.labels) % 2 == 1
    attack, measured = forget[~left_out], {"forget": forget[left_out]}
    if "forget_test" in splits:
        measured["forget_test"] = draw("forget_test", max_images)
    measured = {split: images for split, images in measured.items() if len(images)}
    if not measured:
        raise InputError("splits", "one forget image per class leaves none to measure; there must be two or more.")
    source = next((split for split in ("retain", "retain_test") if split in splits), None)
    others = draw(source, 2 * max_images) if source else None

    models = {"original": original_model, "unlearned": unlearned_model}
    models["head-only"] = head_only(
        original_model, splits["forget"], image_processor, forget_kind=forget_kind, retained=splits.get("retain"),
        batch_size=batch_size, seed=seed, **columns,
    )  # fmt: skip
    models |= {f"retrained {number}": model for number, model in enumerate(retrained_models, 1)}
    report = VerificationReport(
        models=list(models),
        measures={},
        margins={},
        curves={split: {} for split in measured},
        layer_information={},
        steps=list(MEASURED_STEPS),
        images={"attacker, forget": len(attack), "attacker, others": len(others) if others is not None else 0}
        | {f"measured, {split}": len(images) for split, images in measured.items()},
        seed=seed,
    )
    found = {name: defaultdict(dict) for name in MEASURES}
    for name, model in models.items():
        for num_images in NUM_IMAGES:
            support = attack[rank_in_class(attack.labels) < num_images]
            curves = relearn(model, support, others, measured, learning_rate, batch_size, seed)
            for split, curve in curves.items():
                report.curves[split].setdefault(name, {})[str(num_images)] = curve
        held = {split: collect_features(model, images, batch_size) for split, images in measured.items()}
        known = attack if others is None else join(attack, others)
        features = collect_features(model, known, batch_size)
        for split, images in measured.items():
            found["accuracy"][split][name] = report.curves[split][name][str(NUM_IMAGES[0])][0]
            if len(known.labels.unique()) > 1:
                few = (features[HEAD_INPUT], known.labels.numpy(), held[split][HEAD_INPUT], images.labels.numpy())
                found["prototype_accuracy"][split][name] = prototype_accuracy(*few, NUM_IMAGES[-1], seed)
                found["probe_accuracy"][split][name] = probe_accuracy(*few)
        if others is not None:
            is_forget = np.arange(len(known)) < len(attack)
            report.layer_information[name], margin = information_of_layers(features, is_forget, seed)
            report.margins["information"] = max(margin, report.margins.get("information", 0.0))
    if others is None:
        report.missing |= dict.fromkeys(("information", "idi"), "it needs images of what stays")
        report.notes.append("The models re-learned from forget images alone, since there were no others.")
    if not found["probe_accuracy"]:
        reason = "it needs images of two classes or more"
        report.missing |= {"prototype_accuracy": reason, "probe_accuracy": reason}
    if source == "retain_test":
        report.notes.append("The images of what stays are unseen ones, since there are no retained ones.")
    summarise_relearning(report, found)
    summarise_information(report, found)
    for hidden in list(found["accuracy"].values())[:1]:
        if hidden["head-only"] - hidden["unlearned"] > hidden["original"] - hidden["head-only"]:
            report.notes.append("The head-only control hides less than half of what the unlearned model hides.")
    for measure in MEASURES:
        for split, values in found[measure].items():
            name = f"{measure}/{split}" if split else measure
            report.measures[name] = {model: values[model] for model in models}
            if MEASURES[measure][1] == "share":
                # Two standard errors of a share of n images are at most 1/√n.
                report.margins[name] = 1 / math.sqrt(len(measured[split]))
            report.margins.setdefault(name, 1.0 if MEASURES[measure][1] == "count" else 0.0)
    return report


def summarise_relearning(report: VerificationReport, found: dict) -> None:
    """
    From the curves: steps and images until the original's accuracy is back, the mean accuracy, the anamnesis index.

    The anamnesis index is r(unlearned) / r(retrained), r being the steps that a model takes to come within α of the
    original's accuracy on the forget set (Chundawat et al., arXiv 2201.05629); 1 is ideal, 0 means that nothing was
    forgotten. Of a retrained model it is taken against the mean of the others.
    """
    many = str(NUM_IMAGES[-1])
    for split, curves in report.curves.items():
        goal = (1 - TOLERANCE) * curves["original"][many][0]
        steps = {}
        for model, by_count in curves.items():
            reached = {count: first_step(report.steps, curve, goal) for count, curve in by_count.items()}
            steps[model] = reached[many]
            found["relearning_steps"][split][model] = reached[many]
            counts = [int(count) for count, step in reached.items() if step is not None]
            found["relearning_images"][split][model] = min(counts, default=None)
            found["relearning_accuracy"][split][model] = mean_of_curve(report.steps, by_count[many])
        for model in curves if report.retrained else ():
            references = [name for name in report.retrained if name != model]
            if not references:
                # By definition.
                found["anamnesis_index"][split][model] = 1.0
            else:
                # A retrained model that did not get there within the steps makes this an upper bound.
                mean = np.mean([report.steps[-1] if steps[name] is None else steps[name] for name in references])
                index = float(steps[model] / mean) if steps[model] is not None and mean > 0 else None
                found["anamnesis_index"][split][model] = index
        late = [name for name in report.retrained if steps[name] is None]
        if late:
            report.notes.append(
                f"{', '.join(late)} did not get back to the original's accuracy ({MEASURED[split]}) in "
                f"{report.steps[-1]} steps: the anamnesis index there is an upper bound."
            )
    if not report.retrained:
        report.missing["anamnesis_index"] = "it needs a retrained model"


def summarise_information(report: VerificationReport, found: dict) -> None:
    """
    The mean information of the layers and the information difference index (Jeon et al., arXiv 2405.17878):

        IDI = Σ_l [I(Z_l of the unlearned; Y) − I(Z_l of the retrained; Y)] / Σ_l [I(Z_l of the original; Y) − I(…)]

    0: no more left than in a retrained model, 1: nothing forgotten. Of a retrained model it is taken against the mean
    of the others. `None` if the original's layers hold no more than the retrained ones.
    """
    means = {model: float(np.mean(list(layers.values()))) for model, layers in report.layer_information.items()}
    if not means:
        return
    found["information"][""] = means
    if not report.retrained:
        report.missing["idi"] = "it needs a retrained model"
        return
    for model, value in means.items():
        references = [means[name] for name in report.retrained if name != model] or [means[model]]
        reference = float(np.mean(references))
        difference = means["original"] - reference
        found["idi"][""][model] = (value - reference) / difference if difference > 0 else None


def first_step(steps: list[int], curve: list[float], goal: float) -> int | None:
    """The first measured step at which the accuracy reaches the goal."""
    return next((step for step, accuracy in zip(steps, curve, strict=True) if accuracy >= goal), None)


def mean_of_curve(steps: list[int], curve: list[float]) -> float:
    """The mean accuracy over all steps, straight lines between the measured ones."""
    curve, steps = np.asarray(curve), np.asarray(steps)
    return float(((curve[1:] + curve[:-1]) / 2 * np.diff(steps)).sum() / (steps[-1] - steps[0]))


# ---- Images ----


def draw_images(
    dataset, image_processor, original_model, limit, batch_size, seed, image_column=None, label_column=None
) -> Images:
    """At most `limit` images in a random order that takes the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator)
    if label_column is None or label_column in dataset.column_names:
        label_column = find_label_column(dataset, label_column, original_model.config.id2label)
    else:
        label_column = None
    label_ids = None
    if label_column is not None:
        label_ids = match_labels(dataset, label_column, original_model.config.id2label)
        labels = torch.tensor([label_ids[value] for value in read_column(dataset, label_column)])
        order = order[rank_in_class(labels[order]).argsort(stable=True)]
    items = ImageDataset(dataset, image_processor, image_column, label_column, label_ids)
    pixel_values = torch.stack([items[row]["pixel_values"] for row in order[:limit].tolist()])
    if label_column is not None:
        return Images(pixel_values, labels[order[:limit]])
    answers = Images(pixel_values, torch.zeros(len(pixel_values), dtype=torch.long))
    logits = [batch for batch, _ in forward(original_model, answers, batch_size)]
    return Images(pixel_values, torch.cat(logits).argmax(dim=-1))
