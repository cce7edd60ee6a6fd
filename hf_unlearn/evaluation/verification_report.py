"""The report of a verification: a dataclass with the results of all attacks, shown as a table and as sentences."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..terminal import print_table, print_text


# How many labelled images of each forgotten class the attacker has, in turn.
NUM_IMAGES = (1, 5, 20)
# The splits that are measured, as the table names them: forget images that no attack used, and unseen images of what
# is forgotten.
MEASURED = {"forget": "left out", "forget_test": "unseen"}
# By measure, its label and the kind of its values. A measure that is taken on splits is called `<measure>/<split>` in
# a report.
MEASURES = {
    "accuracy": ("accuracy without an attack", "share"),
    "relearning_accuracy": ("re-learning, mean accuracy", "share"),
    "relearning_steps": ("re-learning, steps", "count"),
    "relearning_images": ("re-learning, images per class", "count"),
    "anamnesis_index": ("anamnesis index", "ratio"),
    "retained_accuracy": ("re-learning from what stays, accuracy", "share"),
    "shift_accuracy": ("constant on the logit, accuracy", "share"),
    "shift_false_positives": ("constant on the logit, false positives", "share"),
    "logit_auroc": ("AUROC of the logit", "auroc"),
    "rounded_8_accuracy": ("weights in 8 bits, accuracy", "share"),
    "rounded_4_accuracy": ("weights in 4 bits, accuracy", "share"),
    "prototype_accuracy": ("prototypes, accuracy", "share"),
    "probe_accuracy": ("linear probe, accuracy", "share"),
    "information": ("information in the layers, nats", "nats"),
    "idi": ("IDI", "ratio"),
}
# Measures that are computed from other measures, or belong to one. The sentences leave them out, since they would count
# twice.
DERIVED = ("relearning_images", "anamnesis_index", "shift_false_positives", "idi")
# Measures that need the logit of a class that is forgotten whole.
ON_LOGITS = ("shift_accuracy", "shift_false_positives", "logit_auroc")
# What an attack on a model that knows nothing finds, by kind of measure; a count is then not reached.
NOTHING = {"share": 0.0, "auroc": 0.5, "nats": 0.0}


@dataclass
class VerificationReport:
    """
    The results of all attacks on all models.

    Args:
        models (`list[str]`):
            `"original"`, `"unlearned"`, `"head-only"`, for models with BatchNorm `"BatchNorm"` and, if given,
            `"retrained 1"`, `"retrained 2"`, ….
        measures (`dict[str, dict[str, float | None]]`):
            By measure and model, the value. `None` if the accuracy of the original model was not reached within the
            steps, or if the denominator of a ratio is not positive.
        margins (`dict[str, float]`):
            By measure, the difference that chance among the measured images explains: two standard errors for a share,
            for an AUROC or for the information, and for a count one place in the list of numbers that were tried.
        curves (`dict[str, dict[str, dict[str, list[float]]]]`):
            By split, model and number of images per class, the accuracy after each of `steps`.
        layer_information (`dict[str, dict[str, float]]`):
            By model and layer, the information about the forget set, in nats.
        steps (`list[int]`):
            The steps of re-learning after which the accuracy was measured.
        images (`dict[str, int]`):
            By use, the number of images.
        missing (`dict[str, str]`, *optional*):
            By measure that could not be taken, the reason.
        notes (`list[str]`, *optional*):
            Sentences that a reader of the numbers has to know.
        seed (`int`, *optional*, defaults to 0):
            Seed of all random choices.
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
        """Names of the retrained models."""
        return [model for model in self.models if model.startswith("retrained")]

    @property
    def controls(self) -> list[str]:
        """Names of the controls."""
        return [model for model in self.models if model in ("head-only", "BatchNorm")]

    @property
    def control_hides(self) -> bool:
        """Whether the head-only control hides at least half of what the unlearned model hides, on the first split."""
        accuracies = [values for measure, values in self.measures.items() if measure.startswith("accuracy")]
        if not accuracies:
            return True
        original, unlearned, control = (
            number(accuracies[0][model]) for model in ("original", "unlearned", "head-only")
        )
        return control - unlearned <= original - control

    @property
    def counted(self) -> list[str]:
        """The measures that the sentences and the verdict speak of."""
        return [measure for measure in self.measures if measure.split("/")[0] not in (*DERIVED, "accuracy")]

    def band(self, measure: str) -> tuple[float, float] | None:
        """
        Lowest and highest value of a measure over the retrained models; infinity stands for "not reached". `None`
        without retrained models.
        """
        values = [number(self.measures[measure][model]) for model in self.retrained]
        return (min(values), max(values)) if values else None

    def held(self, measure: str) -> dict[str, float]:
        """
        The values of a measure by model, with the sign that makes a larger value mean that more of the forget set is
        left. A count is replaced by minus its position in the list of counts that were tried.
        """
        values = {model: number(value) for model, value in self.measures[measure].items()}
        if MEASURES[measure.split("/")[0]][1] != "count":
            return values
        grid = [*(self.steps if measure.startswith("relearning_steps") else NUM_IMAGES), math.inf]
        return {model: -float(grid.index(value)) for model, value in values.items()}

    def side(self, measure: str, model: str) -> int:
        """
        Compares a model with the band of the retrained models, widened by the margin.

        Returns:
            `int`: 1 if more of the forget set is left in the model than in the band, −1 if less, 0 if it is in the
            band.
        """
        held, margin = self.held(measure), self.margins[measure]
        band = [held[name] for name in self.retrained]
        return int(held[model] > max(band) + margin) - int(held[model] < min(band) - margin)

    @property
    def telling(self) -> list[str]:
        """The measures that tell the original and every control from the retrained models."""
        known = ["original", *self.controls]
        return [measure for measure in self.counted if all(self.side(measure, model) == 1 for model in known)]

    def verdict(self) -> str:
        """
        One sentence to act on: by how many of the measures that are of use the unlearned model is told from models that
        never saw the forget set. A measure of several splits counts once. It is of use if it tells the original and the
        controls, or if it finds more in the unlearned model.
        """
        return f"Verdict: {judge(self)}"

    def text(self) -> str:
        """Says in sentences which measures tell which models apart. The sentences follow from the numbers alone."""
        return " ".join(describe(self))

    def to_json(self, path: str | Path) -> None:
        """Writes the report, with the bands, the sentences and the verdict, to a JSON file."""
        found = {measure: self.band(measure) for measure in self.measures}
        bands = {measure: [finite(value) for value in band] for measure, band in found.items() if band is not None}
        values = asdict(self) | {"bands": bands, "text": self.text(), "verdict": self.verdict()}
        Path(path).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def texts(self, measure: str) -> dict[str, str]:
        """
        The values of a measure as the table shows them: by model and, with at least two retrained models, by `band`.
        """
        kind = MEASURES[measure.split("/")[0]][1]
        most = NUM_IMAGES[-1] if measure.startswith("relearning_images") else self.steps[-1]
        texts = {model: cell(value, kind, most) for model, value in self.measures[measure].items()}
        band = self.band(measure)
        if len(self.retrained) > 1 and band is not None:
            low, high = (cell(finite(value), kind, most) for value in band)
            texts["band"] = "–" if low == high == "–" else f"{low} to {high}"
        return texts

    def print(self) -> None:
        """Prints the table, the measures that are missing, the notes, the sentences and the verdict to the terminal."""
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
        # If not all columns fit, those of the retrained models are left out, and the band stands for them.
        spare = self.retrained if "band" in columns else []
        print_table(columns, [("after attacks (accuracies in %)", rows)], spare)
        for reason in dict.fromkeys(self.missing.values()):
            names = [measure for measure, why in self.missing.items() if why == reason]
            print_text(f"Not measured: {grouped(names)}, because {reason}.")
        for note in self.notes:
            print_text(f"Note: {note}")
        print_text(self.text())
        print_text(f"\n{self.verdict()}")


def number(value: float | None) -> float:
    """The value as a number: infinity if it was not reached (`None`)."""
    return math.inf if value is None else value


def finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def cell(value: float | None, kind: str, most: int) -> str:
    """
    Formats a value for the table. A count that was not reached is shown as more than the largest count that was tried.
    """
    if value is None:
        return f"> {most}" if kind == "count" else "–"
    return {"share": f"{100 * value:.1f}", "count": f"{value:g}"}.get(kind, f"{value:.2f}")


def grouped(measures: list[str]) -> str:
    """Lists measures in words, with the splits of a measure in brackets behind it."""
    splits = defaultdict(list)
    for measure in measures:
        name, _, split = measure.partition("/")
        splits[name] += [MEASURED[split]] if split else []
    return "; ".join(
        MEASURES[name][0] + (f" ({' and '.join(those)})" if those else "") for name, those in splits.items()
    )


def judge(report: VerificationReport) -> str:
    """The verdict of [`VerificationReport.verdict`], which follows from the measures that were taken alone."""
    sides: dict[str, set[int]] = defaultdict(set)
    if not report.retrained:
        if not report.control_hides:
            return "none, without a retrained model; the head-only control, to compare with instead, hides too little."
        for measure in report.counted:
            held, margin = report.held(measure), report.margins[measure]
            if held["head-only"] > nothing(report, measure) + margin:
                sides[measure.split("/")[0]].add(int(held["head-only"] - held["unlearned"] <= margin))
        if not sides:
            return "none, without a retrained model; the attacks find nothing in the head-only control either."
        hidden = sum(1 in found for found in sides.values())
        return (
            f"none, without a retrained model; by {count_of(hidden, len(sides))} as much is left as in the head-only "
            "control, which only hides."
        )
    telling = report.telling
    for measure in report.counted:
        side = report.side(measure, "unlearned")
        if measure in telling or side == 1:
            sides[measure.split("/")[0]].add(side)
    if not sides:
        return "none; no measure tells the original and the controls from models that never saw the forget set."
    more = sum(1 in found for found in sides.values())
    less = sum(-1 in found and 1 not in found for found in sides.values())
    alike = len(sides) - more - less
    others = "models that never saw the forget set"
    if len(report.retrained) == 1:
        others = "the one model that never saw the forget set"
    if alike == 0 and not (more and less):
        return f"{'more' if more else 'less'} is left than in {others}, by {count_of(len(sides), len(sides))}."
    parts = [f"by {count_of(alike, len(sides))} not told from {others}"]
    parts += [f"more is left by {more}"] * (more > 0) + [f"less is left by {less}"] * (less > 0)
    return f"{'; '.join(parts)}."


def count_of(part: int, whole: int) -> str:
    """Such as "7 of 8 measures"."""
    if whole == 1:
        return "the one measure of use" if part else "none of 1 measure"
    number = {0: f"none of {whole}", whole: f"all {whole}"}.get(part, f"{part} of {whole}")
    return f"{number} measures"


def nothing(report: VerificationReport, measure: str) -> float:
    """What a measure finds in a model that knows nothing, with the sign of [`VerificationReport.held`]."""
    kind = MEASURES[measure.split("/")[0]][1]
    return -float(len(report.steps)) if kind == "count" else NOTHING[kind]


def describe(report: VerificationReport) -> list[str]:
    """The sentences of [`VerificationReport.text`]."""
    count = len(report.retrained)
    if count == 0:
        return [
            "There is no retrained model to compare with, and what these attacks find in a model that never saw the "
            "forget set is unknown: nothing follows from the numbers about what was forgotten."
        ]
    telling = report.telling
    # What finds more in the unlearned model is of use even if it does not tell the controls.
    only_unlearned = [m for m in report.counted if m not in telling and report.side(m, "unlearned") == 1]
    useless = [m for m in report.counted if m not in telling and m not in only_unlearned]
    known = (
        "the head-only control, whose features are the original's,"
        if report.controls == ["head-only"]
        else "both controls, whose weights below the head are the original's,"
    )
    sentences = []
    if count == 1:
        sentences.append(
            "With one retrained model there is no band: a difference may be the seed's alone. A second one would show."
        )
    retrained = "the retrained model" if count == 1 else f"the {count} retrained models"
    if not telling and not only_unlearned:
        return [
            *sentences,
            f"No measure tells both the original and {known} from {retrained}, which never saw the forget set: nothing "
            "follows from the numbers about what was forgotten.",
        ]
    if telling:
        sentences.append(
            f"The original and {known} are told from {retrained}, which never saw the forget set, by: {grouped(telling)}."
        )
    of_use = [m for m in report.counted if m not in useless]
    found = {side: [m for m in of_use if report.side(m, "unlearned") == side] for side in (1, 0, -1)}
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
    elif telling:
        sentences.append("By none of these is less left in it than in the head-only control.")
    if useless:
        sentences.append(f"Of no use here, since they do not tell all of these: {grouped(useless)}.")
    return sentences
