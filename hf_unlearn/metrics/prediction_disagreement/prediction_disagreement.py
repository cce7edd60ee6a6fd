"""Share of images on which two models name different classes."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import PROBABILITIES, TEXT, mean_by_split, metric_info


_DESCRIPTION = "Share of images of each split that the unlearned and the retrained model put into different classes."

_CITATION = """
@inproceedings{milanifard2016launch,
  title={Launch and Iterate: Reducing Prediction Churn},
  author={Milani Fard, Mahdi and Cormier, Quentin and Canini, Kevin and Gupta, Maya},
  booktitle={Advances in Neural Information Processing Systems},
  year={2016}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]`): one row of probabilities per image, of the unlearned model.
    references (`list[list[float]]`): the retrained (or any other) model's row for the same image.
    splits (`list[str]`): "retain", "test" or "forget" per image.

Returns:
    `dict[str, float]`: `prediction_disagreement`, the mean over the split "forget", and `prediction_disagreement_<split>` for each split, between 0 and 1.
"""


def prediction_disagreement(predictions: np.ndarray, references: np.ndarray) -> float:
    """
    Share of images with different classes, (1/n) Σ 1[argmax_k p_k ≠ argmax_k q_k], also called churn (Milani Fard et
    al., 2016). Of equal probabilities the first counts.

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): probabilities or logits.
    """
    return float(np.mean(np.argmax(predictions, axis=1) != np.argmax(references, axis=1)))


class PredictionDisagreement(evaluate.Metric):
    def _info(self):
        return metric_info(
            _DESCRIPTION,
            _CITATION,
            _KWARGS_DESCRIPTION,
            predictions=PROBABILITIES,
            references=PROBABILITIES,
            splits=TEXT,
        )

    def _compute(self, predictions, references, splits):
        return mean_by_split("prediction_disagreement", prediction_disagreement, predictions, references, splits)
