"""ToW: agreement with a retrained model in forget, retain and test accuracy, as a product."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import NUMBER, PROBABILITIES, TEXT, by_split, metric_info
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy


_DESCRIPTION = (
    "Tug of war (ToW): product over forget, retain and test of 1 minus the gap in accuracy to a retrained model."
)

_CITATION = """
@inproceedings{zhao2024what,
  title={What Makes Unlearning Hard and What to Do About It},
  author={Zhao, Kairan and Kurmanji, Meghdad and B{\\u{a}}rbulescu, George-Octavian and Triantafillou, Eleni and Triantafillou, Peter},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]`): one row of probabilities per image, of the unlearned model.
    references (`list[list[float]]`): the retrained model's row for the same image.
    labels (`list[int]`): the label of each image.
    splits (`list[str]`): "retain", "test" or "forget" per image; all three must occur.

Returns:
    `dict[str, float]`: `tug_of_war`, between 0 and 1.
"""


def tug_of_war(unlearned: dict[str, float], retrained: dict[str, float]) -> float:
    """
    ToW = Π_s (1 − |acc_u(s) − acc_r(s)|) over the splits s (Zhao et al., arXiv 2406.01257).

    Args:
        unlearned, retrained (`dict[str, float]`): accuracies of both models on the same splits, between 0 and 1.
    """
    return float(np.prod([1 - abs(unlearned[split] - retrained[split]) for split in unlearned]))


class TugOfWar(evaluate.Metric):
    def _info(self):
        return metric_info(
            _DESCRIPTION,
            _CITATION,
            _KWARGS_DESCRIPTION,
            predictions=PROBABILITIES,
            references=PROBABILITIES,
            labels=NUMBER,
            splits=TEXT,
        )

    def _compute(self, predictions, references, labels, splits):
        used = ("forget", "retain", "test")
        parts = by_split(
            "tug_of_war",
            splits,
            rows={"predictions": predictions, "references": references},
            labels={"labels": labels},
            required=used,
        )
        unlearned, retrained = (
            {split: accuracy(parts[split][model], parts[split]["labels"]) for split in used}
            for model in ("predictions", "references")
        )
        return {"tug_of_war": tug_of_war(unlearned, retrained)}
