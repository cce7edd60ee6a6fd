"""Kullback-Leibler divergence from the unlearned model's output to a reference model's, image by image."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import OTHER_MODEL, SPLITS, UNLEARNED, mean_by_split, metric_info


_CITATION = """
@article{kullback1951information,
  title={On Information and Sufficiency},
  author={Kullback, Solomon and Leibler, Richard A},
  journal={The Annals of Mathematical Statistics},
  year={1951}
}
"""

_RETURNS = (
    '`kl_to_reference`, the mean over the split "forget", and `kl_to_reference_<split>` for each split, at least 0.'
)


def kl_to_reference(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    KL(q‖p) = Σ_k q_k ln(q_k / p_k) of each pair of rows, q the reference and p the prediction, in nats; 0 ln 0 counts
    as 0 (Kullback and Leibler, 1951).

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): rows that sum to 1. A prediction of 0 counts as
            2.2e-308, the smallest normal number: the divergence stays finite.

    Returns:
        `np.ndarray` of shape `(n,)`: at least 0.
    """
    p = np.maximum(predictions, np.finfo(np.float64).tiny)
    logs = np.log(references, out=np.zeros_like(references, dtype=np.float64), where=references > 0)
    terms = np.where(references > 0, references * (logs - np.log(p)), 0)
    # Rounding leaves values such as -1e-17.
    return terms.sum(axis=1).clip(0)


class KlToReference(evaluate.Metric):
    """Mean Kullback-Leibler divergence KL(reference‖unlearned) between the outputs of two models on each split."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(self, _CITATION, _RETURNS, predictions=UNLEARNED, references=OTHER_MODEL, splits=SPLITS)

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], splits: list[str]
    ) -> dict[str, float]:
        return mean_by_split("kl_to_reference", kl_to_reference, predictions, references, splits)
