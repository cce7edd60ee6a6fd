"""ToW: agreement with a retrained model in forget, retain and test accuracy, as a product."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import ALL_SPLITS, LABELS, RETRAINED, SPLIT_NAMES, UNLEARNED, by_split, metric_info
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy


_CITATION = """
@inproceedings{zhao2024what,
  title={What Makes Unlearning Hard and What to Do About It},
  author={Zhao, Kairan and Kurmanji, Meghdad and B{\\u{a}}rbulescu, George-Octavian and Triantafillou, Eleni and Triantafillou, Peter},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}
"""

_RETURNS = "`tug_of_war`, between 0 and 1."


def tug_of_war(unlearned: dict[str, float], retrained: dict[str, float]) -> float:
    """
    ToW = Π_s (1 − |acc_u(s) − acc_r(s)|) over the splits s (Zhao et al., arXiv 2406.01257).

    Args:
        unlearned, retrained (`dict[str, float]`): by split, the accuracy of either model, between 0 and 1.
    """
    return float(np.prod([1 - abs(unlearned[split] - retrained[split]) for split in unlearned]))


class TugOfWar(evaluate.Metric):
    """Tug of war (ToW): product over forget, retain and test of 1 minus the gap in accuracy to a retrained model."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self, _CITATION, _RETURNS, predictions=UNLEARNED, references=RETRAINED, labels=LABELS, splits=ALL_SPLITS
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], labels: list[int], splits: list[str]
    ) -> dict[str, float]:
        rows = {"predictions": predictions, "references": references}
        parts = by_split("tug_of_war", splits, rows, labels={"labels": labels}, required=SPLIT_NAMES)
        unlearned, retrained = (
            {split: accuracy(parts[split][model], parts[split]["labels"]) for split in SPLIT_NAMES}
            for model in ("predictions", "references")
        )
        return {"tug_of_war": tug_of_war(unlearned, retrained)}
