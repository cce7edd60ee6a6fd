"""What the attacks found: a dataclass, shown as a table and said in sentences drawn from the numbers alone."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..terminal import print_table, print_text


# Labelled images of each forgotten class that an attacker has.
NUM_IMAGES = (1, 5, 20)
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
