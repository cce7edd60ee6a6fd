"""Accuracy by split and class: on what was to be forgotten and on what was to be kept."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import LABELS, ROWS, TEXTS, by_split, metric_info


_RETURNS = (
    '`unlearning_accuracy`, the accuracy on the split "forget" (or, without one, on all images), `accuracy_<split>` '
    "for each split and `accuracy_<split>_class_<label>` for each class that occurs in it, all between 0 and 1."
)


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """
    Share of images whose largest prediction is at their label, (1/n) Σ 1[argmax_k p_k = y]. Of equal predictions the
    first counts.

    Args:
        predictions (`np.ndarray` of shape `(n, K)`): probabilities or logits.
        references (`np.ndarray` of shape `(n,)`): labels.
    """
    return float(np.mean(np.argmax(predictions, axis=1) == references))


def class_accuracy(predictions: np.ndarray, references: np.ndarray) -> dict[int, float]:
    """[`accuracy`] of each class that occurs among the references."""
    return {
        int(label): accuracy(predictions[references == label], references[references == label])
        for label in np.unique(references)
    }


class UnlearningAccuracy(evaluate.Metric):
    """Accuracy on each of the splits of an unlearning run (forget, retain, test) and on each of their classes."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self,
            "",
            _RETURNS,
            predictions=(ROWS, "one row of probabilities (or logits) per image."),
            references=LABELS,
            splits=(TEXTS, 'the split of each image, for example "forget", "retain" or "test".'),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], splits: list[str]) -> dict[str, float]:
        rows, labels = {"predictions": predictions}, {"references": references}
        parts = by_split("unlearning_accuracy", splits, rows, labels, required=(), probabilities=False)
        by_class = {
            f"accuracy_{split}_class_{label}": value
            for split, part in parts.items()
            for label, value in class_accuracy(**part).items()
        }
        results = {f"accuracy_{split}": accuracy(**part) for split, part in parts.items()}
        main = results.get("accuracy_forget")
        if main is None:
            main = accuracy(np.asarray(predictions), np.asarray(references))
        return {"unlearning_accuracy": main, **results, **by_class}
