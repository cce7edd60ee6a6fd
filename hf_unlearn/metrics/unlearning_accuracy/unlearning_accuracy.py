"""Accuracy by split: on what was to be forgotten and on what was to be kept."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = "Accuracy on each of the splits of an unlearning run: forget, retain, test."

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]`): one row of probabilities (or logits) per image.
    references (`list[int]`): the label of each image.
    splits (`list[str]`): the split of each image, for example "forget", "retain" or "test".

Returns:
    `dict[str, float]`: `unlearning_accuracy`, the accuracy on the split "forget" (or, without one, on all images),
    and `accuracy_<split>` for each split, all between 0 and 1.
"""


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """
    Share of images whose largest prediction is at their label.

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
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                    "splits": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, references, splits):
        predictions, references, splits = np.asarray(predictions), np.asarray(references), np.asarray(splits)
        by_split = {
            f"accuracy_{split}": accuracy(predictions[splits == split], references[splits == split])
            for split in np.unique(splits)
        }
        main = by_split.get("accuracy_forget", accuracy(predictions, references))
        return {"unlearning_accuracy": main, **by_split}
