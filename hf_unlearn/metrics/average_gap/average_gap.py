"""Mean gap of an unlearned model's accuracies to those of a retrained one."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import ALL_SPLITS, LABELS, RETRAINED, SPLIT_NAMES, UNLEARNED, by_split, metric_info
from hf_unlearn.metrics.membership_inference.membership_inference import entropy, entropy_attack
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy


_CITATION = """
@inproceedings{fan2024salun,
  title={SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and Generation},
  author={Fan, Chongyu and Liu, Jiancheng and Zhang, Yihua and Wong, Eric and Wei, Dennis and Liu, Sijia},
  booktitle={International Conference on Learning Representations},
  year={2024}
}
"""

_RETURNS = (
    "`average_gap`, over the three accuracies, `gap_<split>` for each of them, `gap_membership_inference` (of the "
    "JiT paper's attack on the entropy) and `average_gap_with_membership_inference`, all between 0 and 1."
)


def average_gap(unlearned: dict[str, float], retrained: dict[str, float]) -> float:
    """
    Mean gap (1/|M|) Σ_{m∈M} |m(unlearned) − m(retrained)| over the measures M (Fan et al., arXiv 2310.12508).

    Args:
        unlearned, retrained (`dict[str, float]`): by name, the same measures of both models.
    """
    return float(np.mean([abs(unlearned[name] - retrained[name]) for name in unlearned]))


class AverageGap(evaluate.Metric):
    """
    Mean absolute difference between the unlearned and the retrained model in forget, retain and test accuracy, with
    and without membership inference.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self, _CITATION, _RETURNS, predictions=UNLEARNED, references=RETRAINED, labels=LABELS, splits=ALL_SPLITS
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], labels: list[int], splits: list[str]
    ) -> dict[str, float]:
        rows = {"predictions": predictions, "references": references}
        parts = by_split("average_gap", splits, rows, labels={"labels": labels}, required=SPLIT_NAMES)
        measures = []
        for model in ("predictions", "references"):
            accuracies = {split: accuracy(parts[split][model], parts[split]["labels"]) for split in SPLIT_NAMES}
            attack = entropy_attack(**{split: entropy(parts[split][model]) for split in SPLIT_NAMES})
            measures.append(accuracies | {"membership_inference": attack})
        unlearned, retrained = measures
        return {
            "average_gap": average_gap({split: unlearned[split] for split in SPLIT_NAMES}, retrained),
            "average_gap_with_membership_inference": average_gap(unlearned, retrained),
            **{f"gap_{name}": abs(unlearned[name] - retrained[name]) for name in unlearned},
        }
