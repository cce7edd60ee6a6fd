"""What was measured: a dataclass, written to and read from JSON, and shown as a table."""

import hashlib
import json
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import torch

from ..errors import InputError
from ..terminal import print_table, print_text


@dataclass(frozen=True)
class Metric:
    """
    One line of the report.

    Args:
        label (`str`):
            Its name in tables.
        explanation (`str`):
            What it is, in a few words.
        needs (`tuple[str, ...]`):
            What must be at hand to compute it: keys of [`NEEDS`].
        is_share (`bool`, *optional*, defaults to `False`):
            Whether it belongs into the first table, in percent. The others are shown as they are.
    """

    label: str
    explanation: str
    needs: tuple[str, ...]
    is_share: bool = False


NEEDS = {
    "forget": "forget set",
    "retain": "retain set",
    "forget_test": "forget test split",
    "retain_test": "retain test split",
    "unseen": "unseen image",
    "forget labels": "label of the forget set",
    "retain labels": "label of the retain set",
    "forget_test labels": "label of the forget test split",
    "retain_test labels": "label of the retain test split",
    "unseen labels": "label of the unseen images",
    "original": "original model",
    "retrained": "retrained model",
}

ATTACK = ("forget", "unseen")
LABELS = ("forget labels", "unseen labels")
ACCURACIES = ("forget", "forget labels", "retain", "retain labels", "retain_test", "retain_test labels")

# The lines of the tables, in their order: what a reader wants to know first. `results` holds more.
METRICS = {
    "forget_accuracy": Metric("forget set", "training images to forget", ("forget", "forget labels"), is_share=True),
    "forget_test_accuracy": Metric(
        "forget test", "unseen images like them", ("forget_test", "forget_test labels"), is_share=True
    ),
    "retain_accuracy": Metric("retain set", "other training images", ("retain", "retain labels"), is_share=True),
    "retain_test_accuracy": Metric(
        "retain test", "other unseen images", ("retain_test", "retain_test labels"), is_share=True
    ),
    "membership_inference": Metric(
        "membership inference",
        "forget set taken for training images",
        ("forget", "retain", "unseen"),
        is_share=True,
    ),
    "entropy_attack_auc": Metric("attack on entropy, AUC", "forget set told from unseen images; 0.5: not", ATTACK),
    "loss_attack_auc": Metric("attack on loss, AUC", "the same by the loss", (*ATTACK, *LABELS)),
    "modified_entropy_attack_auc": Metric(
        "attack on modified entropy, AUC", "the same by the modified entropy", (*ATTACK, *LABELS)
    ),
    "loss_attack_tpr_at_1_percent_fpr": Metric(
        "attack on loss, TPR at 1 % FPR", "share of the forget set found; 0.01: by chance", (*ATTACK, *LABELS)
    ),
    "forget_js_divergence_to_original": Metric(
        "JS to original, forget set", "change of the outputs; 0 to 0.693", ("forget", "original")
    ),
    "retain_test_js_divergence_to_original": Metric(
        "JS to original, retain test", "the same on other unseen images", ("retain_test", "original")
    ),
    "forget_js_divergence_to_retrained": Metric(
        "JS to retrained, forget set", "distance of the outputs; 0 to 0.693", ("forget", "retrained")
    ),
    "retain_test_js_divergence_to_retrained": Metric(
        "JS to retrained, retain test", "the same on other unseen images", ("retain_test", "retrained")
    ),
    "forget_prediction_disagreement_to_retrained": Metric(
        "disagreement with retrained", "share of the forget set with another answer", ("forget", "retrained")
    ),
    "average_gap": Metric(
        "average gap to retrained", "of the accuracies forget, retain, retain test", (*ACCURACIES, "retrained")
    ),
    "tug_of_war": Metric("tug of war", "1: their accuracies agree", (*ACCURACIES, "retrained")),
    "retrain_free_js": Metric(
        "RF-JSD", "forget set against what the original says of unseen images", (*ATTACK, *LABELS, "original")
    ),
    "zero_retrain_forgetting": Metric("ZRF", "1: as a random network on the forget set", ("forget",)),
}

# False positive rates at which the reports hold the true positive rates of the attacks.
ROC_FPR = [round(step / 100, 2) for step in range(101)]


@dataclass
class UnlearningReport:
    """
    The result of one run.

    Args:
        results (`dict[str, dict]`):
            For `"original"`, `"unlearned"` and, if given, `"retrained"`, `"retrained_2"`, …: `metrics` (flat, finite
            numbers; those of [`METRICS`] and more), `class_accuracy` (on unseen images, by label name),
            `entropy_histogram` (counts per split), `roc` (true positive rates at [`ROC_FPR`], per attack) and
            `confusion` (counts of unseen images; a row per true class, a column per answer).
        splits (`dict[str, int]`):
            Number of images of each split.
        entropy_bins (`list[float]`):
            Edges of the bins of the entropy histograms, in nats.
        missing (`dict[str, str]`):
            Those of [`METRICS`] that could not be computed, and why.
        confusion_classes (`list[str]`):
            Label names of the rows of `confusion`. If they are not all classes, each row ends with a column for the
            other answers.
        sampled (`dict[str, int]`):
            Of the splits that were measured on random images of them: how many they have.
        band (`dict[str, list[float]]`):
            Lowest and highest value that models say that never saw the forget set. Empty with fewer than two of them.
        run (`dict`):
            The facts of the run: request, method, hyperparameters, versions, times, hashes of the weights.
    """

    results: dict[str, dict]
    splits: dict[str, int]
    entropy_bins: list[float] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    confusion_classes: list[str] = field(default_factory=list)
    sampled: dict[str, int] = field(default_factory=dict)
    band: dict[str, list[float]] = field(default_factory=dict)
    run: dict = field(default_factory=dict)

    def to_json(self, path: str | Path) -> None:
        """Writes the report to a file, with lists of numbers on one line each."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        # A line break between numbers is none of a string's: those are escaped.
        text = re.sub(
            r"\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text
        )
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> "UnlearningReport":
        """
        Reads a report from a file.

        Raises:
            [`InputError`]: if the file is missing or no report.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("report", f"there is no file {str(path)!r}.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            required = {f.name for f in fields(cls) if f.default_factory is MISSING}
            return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in required or f.name in values})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError("report", f"{str(path)!r} is no report: {error}.") from error

    def tables(self) -> list[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
        """
        What was computed, as text. A row is a label, an explanation and a value by model; where there is a band, also
        `band` and `in band` (`"yes"`, `"below"` or `"above"`, of the unlearned model).

        Returns:
            `list[tuple[str, list]]`: heading and rows of the accuracies and of the other measures, if there are any.
        """
        rows = {True: [], False: []}
        for name, metric in METRICS.items():
            values = {model: self.results[model]["metrics"].get(name) for model in self.models()}
            if all(value is None for value in values.values()):
                continue
            show = percent if metric.is_share else number
            texts = {model: show(value) for model, value in values.items()}
            if self.band:
                low, high = self.band.get(name, (None, None))
                texts["band"] = "–" if low is None else f"{show(low)} to {show(high)}"
                texts["in band"] = position(values["unlearned"], low, high)
            split, label = name.removesuffix("_accuracy"), metric.label
            if split in self.sampled:
                label += f" ({self.splits[split]:,} of {self.sampled[split]:,})"
            rows[metric.is_share].append((label, metric.explanation, texts))
        headings = {True: "accuracy in %", False: "other measures"}
        return [(headings[is_share], part) for is_share, part in rows.items() if part]

    def columns(self) -> list[str]:
        """Columns of the tables: the models and, if there is one, the band."""
        return [*self.models(), "band", "in band"] if self.band else self.models()

    def models(self) -> list[str]:
        """The models that have a column in tables and pictures: further retrained ones make the band alone."""
        return [model for model in self.results if model in ("original", "unlearned", "retrained")]

    def not_measured(self) -> list[tuple[str, str]]:
        """Labels of the metrics that could not be computed, joined, by reason."""
        reasons = {}
        for name, reason in self.missing.items():
            reasons.setdefault(reason, []).append(METRICS[name].label)
        return [("; ".join(labels), reason) for reason, labels in reasons.items()]

    def print(self) -> None:
        """Prints the tables to the terminal, with the explanations where there is room for them."""
        print_table(self.columns(), self.tables())
        for labels, reason in self.not_measured():
            print_text(f"Not measured: {labels}, because {reason}.")


def forget_set_report(accuracies: dict[str, float], num_forget: int) -> UnlearningReport:
    """
    The report of a run of which nothing but the forget set was looked at.

    Args:
        accuracies (`dict[str, float]`): on the forget set, by model.
        num_forget (`int`): size of the forget set.
    """
    results = {
        model: {
            "metrics": {"forget_accuracy": accuracy},
            "class_accuracy": {},
            "entropy_histogram": {},
            "roc": {},
            "confusion": [],
        }
        for model, accuracy in accuracies.items()
    }
    missing = {name: "no evaluation was run" for name in METRICS if name != "forget_accuracy"}
    return UnlearningReport(results, splits={"forget": num_forget}, missing=missing)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash if it was not measured."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Three decimals; a dash if it was not measured."""
    return "–" if value is None else f"{value:.3f}"


def position(value: float | None, low: float | None, high: float | None) -> str:
    """Where a value lies: `"below"`, `"above"`, or `"yes"` for in the band; a dash if one of them was not measured."""
    if value is None or low is None:
        return "–"
    return "below" if value < low else "above" if value > high else "yes"


def weights_sha256(state_dict: dict[str, torch.Tensor]) -> str:
    """
    SHA-256 over all parameters and buffers: name, dtype, shape and bytes of each, in the order of their names. It does
    not depend on the file format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
