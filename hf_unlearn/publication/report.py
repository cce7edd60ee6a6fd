"""The report of a run: all measurements in a dataclass that is written to and read from JSON, and shown as tables."""

import hashlib
import json
import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import torch

from ..errors import InputError
from ..terminal import print_table, print_text


@dataclass(frozen=True)
class Metric:
    """
    Describes one row of the tables.

    Args:
        label (`str`):
            Name of the metric in tables.
        explanation (`str`):
            What the metric measures, in a few words.
        needs (`tuple[str, ...]`):
            What is needed to compute the metric: keys of [`NEEDS`].
        is_share (`bool`, *optional*, defaults to `False`):
            Whether the metric belongs to the first table, in percent. The second table shows the others as plain
            numbers.
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

# The rows of the tables, in their order. `results` of a report also holds metrics that the tables do not show.
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

# False positive rates of the ROC curves: a report holds the true positive rate of each attack at each of them.
ROC_FPR = [round(step / 100, 2) for step in range(101)]


@dataclass
class UnlearningReport:
    """
    The measurements and the facts of one run.

    Args:
        results (`dict[str, dict]`):
            By model (`"original"`, `"unlearned"` and, if given, `"retrained"`, `"retrained_2"`, …), a dictionary of:

            - `metrics`: by name, finite numbers; those of [`METRICS`] and more;
            - `class_accuracy`: by label name, the accuracy on unseen images of the class;
            - `entropy_histogram`: by split, the number of images in each of `entropy_bins`;
            - `roc`: by attack, the true positive rates at [`ROC_FPR`];
            - `confusion`: numbers of unseen images, one row per true class and one column per predicted class.
        splits (`dict[str, int]`):
            By split, the number of images that were measured.
        entropy_bins (`list[float]`, *optional*):
            Edges of the bins of the entropy histograms, in nats.
        missing (`dict[str, str]`, *optional*):
            By metric of [`METRICS`] that could not be computed, the reason.
        confusion_classes (`list[str]`, *optional*):
            Label names of the rows of `confusion`. If some classes of the model are missing, each row has a last
            column for all other predictions.
        sampled (`dict[str, int]`, *optional*):
            By split that was measured on a random part only, the number of images of the whole split.
        band (`dict[str, list[float]]`, *optional*):
            By metric, its lowest and its highest value over the retrained models; empty with fewer than two of them. A
            distance to the first retrained model has the band from agreement with it to the model farthest from it.
        run (`dict`, *optional*):
            The facts of the run: request, method, hyperparameters, versions, times and hashes of the weights. See
            [`~publication.facts.run_facts`].
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
        """Writes the report to a JSON file, with each list of numbers on one line."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        # JSON escapes the line breaks inside strings, so the pattern only matches lists of numbers.
        text = re.sub(
            r"\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text
        )
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> "UnlearningReport":
        """
        Reads a report from a JSON file.

        Raises:
            [`InputError`]: if the file does not exist or is not a report.
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
        The rows of the tables, as text. A row is a tuple of the label of a metric, its explanation, and a dictionary
        from column to value. The columns are the models and, if there is a band, `band` and `in band`: whether the
        value of the unlearned model is in the band (`"yes"`), `"below"` or `"above"`.

        Returns:
            `list[tuple[str, list]]`: heading and rows of the table of accuracies and of the table of other metrics. Of single
            images the attacks come first, for the accuracy alone does not tell whether they look unseen. A table without rows
            is left out.
        """
        attacks, accuracies, others = (
            "do the images look unseen? AUC ± standard error",
            "accuracy in %",
            "other measures",
        )
        rows = {attacks: [], accuracies: [], others: []}
        single_images = self.run.get("forget_kind") == "images"
        for name, metric in METRICS.items():
            values = {model: self.results[model]["metrics"].get(name) for model in self.models()}
            if all(value is None for value in values.values()):
                continue
            is_attack = single_images and name.endswith("_attack_auc")
            show = self.auc_with_error if is_attack else percent if metric.is_share else number
            texts = {model: show(value) for model, value in values.items()}
            if self.band:
                low, high = self.band.get(name, (None, None))
                texts["band"] = "–" if low is None else f"{show(low)} to {show(high)}"
                texts["in band"] = position(values["unlearned"], low, high)
            split, label = name.removesuffix("_accuracy"), metric.label
            if split in self.sampled:
                label += f" ({self.splits[split]:,} of {self.sampled[split]:,})"
            heading = attacks if is_attack else accuracies if metric.is_share else others
            rows[heading].append((label, metric.explanation, texts))
        return [(heading, part) for heading, part in rows.items() if part]

    def auc_with_error(self, auc: float | None) -> str:
        """The AUC of an attack that compares the forget set with unseen images, with its standard error."""
        unseen = next((self.splits[split] for split in ("forget_test", "retain_test") if split in self.splits), 0)
        if auc is None or not unseen or not self.splits.get("forget"):
            return number(auc)
        return f"{number(auc)} ± {number(auc_standard_error(auc, self.splits['forget'], unseen))}"

    def columns(self) -> list[str]:
        """Columns of the tables: the models and, if there is a band, `band` and `in band`."""
        return [*self.models(), "band", "in band"] if self.band else self.models()

    def models(self) -> list[str]:
        """
        The models that have a column in tables and figures. Retrained models after the first serve for the band only.
        """
        return [model for model in self.results if model in ("original", "unlearned", "retrained")]

    def not_measured(self) -> list[tuple[str, str]]:
        """
        The metrics that could not be computed.

        Returns:
            `list[tuple[str, str]]`: labels of the metrics that lack the same thing, joined, and the reason.
        """
        reasons = {}
        for name, reason in self.missing.items():
            reasons.setdefault(reason, []).append(METRICS[name].label)
        return [("; ".join(labels), reason) for reason, labels in reasons.items()]

    def print(self) -> None:
        """Prints the tables to the terminal, with explanations if the terminal is wide enough."""
        print_table(self.columns(), self.tables())
        for labels, reason in self.not_measured():
            print_text(f"Not measured: {labels}, because {reason}.")


def forget_set_report(accuracies: dict[str, float], num_forget: int) -> UnlearningReport:
    """
    Makes the report of a run that measured the forget set only.

    Args:
        accuracies (`dict[str, float]`):
            By model, the accuracy on the forget set.
        num_forget (`int`):
            Number of images of the forget set.

    Returns:
        [`UnlearningReport`]
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
    """Formats a share as a percentage with one decimal, or `None` (not measured) as a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Formats a number with three decimals, or `None` (not measured) as a dash."""
    return "–" if value is None else f"{value:.3f}"


def auc_standard_error(auc: float, num_members: int, num_others: int) -> float:
    """
    The standard error of an AUC that was measured on so many images of each kind (Hanley and McNeil, Radiology 143, 1982,
    equation 2, with their Q₁ and Q₂ for exponentially distributed scores).

    Args:
        auc (`float`): between 0 and 1.
        num_members (`int`): of the kind that is to be found.
        num_others (`int`): of the other kind.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (num_members - 1) * (q1 - auc**2) + (num_others - 1) * (q2 - auc**2)
    return math.sqrt(max(0.0, variance) / (num_members * num_others))


def position(value: float | None, low: float | None, high: float | None) -> str:
    """
    Tells whether a value is in the band from `low` to `high`: `"yes"`, `"below"`, `"above"`, or a dash if the value or
    the band was not measured.
    """
    if value is None or low is None or high is None:
        return "–"
    return "below" if value < low else "above" if value > high else "yes"


def weights_sha256(state_dict: dict[str, torch.Tensor]) -> str:
    """
    SHA-256 over all parameters and buffers of a model: the name, dtype, shape and bytes of each, sorted by name. It
    does not depend on the file format.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            Parameters and buffers by name.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
