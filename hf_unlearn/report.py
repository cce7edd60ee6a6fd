"""What was measured: a dataclass, written to and read from JSON, and shown as a table."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from .errors import InputError


# In the order of the table: what a reader wants to know first. Value: (label, explanation).
METRICS = {
    "forget_accuracy": ("forget set", "training images to forget"),
    "forget_test_accuracy": ("forget test", "unseen images like them"),
    "retain_accuracy": ("retain set", "other training images"),
    "retain_test_accuracy": ("retain test", "other unseen images"),
    "membership_inference": ("membership inference", "forget set taken for training images"),
}


@dataclass
class UnlearningReport:
    """
    The result of one run.

    Args:
        results (`dict[str, dict]`):
            For `"original"`, `"unlearned"` and, if given, `"retrained"`: `metrics` (flat, 0 to 1), `class_accuracy`
            (by label name) and `entropy_histogram` (counts per split).
        splits (`dict[str, int]`):
            Number of images of each split.
        entropy_bins (`list[float]`):
            Edges of the bins of the entropy histograms, in nats.
        missing (`dict[str, str]`):
            Metrics that could not be computed, and why.
        run (`dict`):
            The facts of the run: request, method, hyperparameters, versions, times, hashes of the weights.
    """

    results: dict[str, dict]
    splits: dict[str, int]
    entropy_bins: list[float] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    run: dict = field(default_factory=dict)

    def to_json(self, path: str | Path) -> None:
        """Writes the report to a file."""
        Path(path).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

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
            return cls(**{name: values[name] for name in (f.name for f in fields(cls))})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError("report", f"{str(path)!r} is no report: {error}.") from error

    def rows(self) -> list[tuple[str, str, dict[str, float]]]:
        """(label, explanation, value by model) of every metric that was computed, in the order of the table."""
        rows = []
        for name, (label, explanation) in METRICS.items():
            values = {model: result["metrics"].get(name) for model, result in self.results.items()}
            if any(value is not None for value in values.values()):
                rows.append((label, explanation, values))
        return rows

    def print(self) -> None:
        """Prints the table to the terminal."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Accuracy before and after, in %", title_justify="left")
        table.add_column("")
        for model in self.results:
            table.add_column(model, justify="right")
        for label, explanation, values in self.rows():
            table.add_row(f"{label} ({explanation})", *(percent(value) for value in values.values()))
        console = Console()
        console.print(table)
        for name, reason in self.missing.items():
            console.print(f"Not measured: {METRICS[name][0]}, because {reason}.", highlight=False)


def forget_set_report(accuracies: dict[str, float], num_forget: int) -> UnlearningReport:
    """
    The report of a run of which nothing but the forget set was looked at.

    Args:
        accuracies (`dict[str, float]`): on the forget set, by model.
        num_forget (`int`): size of the forget set.
    """
    results = {
        model: {"metrics": {"forget_accuracy": accuracy}, "class_accuracy": {}, "entropy_histogram": {}}
        for model, accuracy in accuracies.items()
    }
    missing = {name: "no evaluation was run" for name in METRICS if name != "forget_accuracy"}
    return UnlearningReport(results, splits={"forget": num_forget}, missing=missing)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash if it was not measured."""
    return "–" if value is None else f"{100 * value:.1f}"


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
