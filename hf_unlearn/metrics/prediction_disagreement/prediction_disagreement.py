"""Share of images on which two models name different classes."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import OTHER_MODEL, SPLITS, UNLEARNED, mean_by_split, metric_info


_CITATION = """
@inproceedings{milanifard2016launch,
  title={Launch and Iterate: Reducing Prediction Churn},
  author={Milani Fard, Mahdi and Cormier, Quentin and Canini, Kevin and Gupta, Maya},
  booktitle={Advances in Neural Information Processing Systems},
  year={2016}
}
"""

_RETURNS = (
    '`prediction_disagreement`, the mean over the split "forget", and `prediction_disagreement_<split>` for each '
    "split, between 0 and 1."
)


def prediction_disagreement(predictions: np.ndarray, references: np.ndarray) -> float:
    """
    Share of images with different classes, (1/n) Σ 1[argmax_k p_k ≠ argmax_k q_k], also called churn (Milani Fard et
    al., 2016). Of equal probabilities the first counts.

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): probabilities or logits.
    """
    return float(np.mean(np.argmax(predictions, axis=1) != np.argmax(references, axis=1)))


class PredictionDisagreement(evaluate.Metric):
    """Share of images of each split that the unlearned and the retrained model put into different classes."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(self, _CITATION, _RETURNS, predictions=UNLEARNED, references=OTHER_MODEL, splits=SPLITS)

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], splits: list[str]
    ) -> dict[str, float]:
        return mean_by_split("prediction_disagreement", prediction_disagreement, predictions, references, splits)
