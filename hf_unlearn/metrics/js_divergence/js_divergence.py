"""Jensen-Shannon divergence between the outputs of two models, image by image."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import OTHER_MODEL, SPLITS, UNLEARNED, mean_by_split, metric_info


_CITATION = """
@article{lin1991divergence,
  title={Divergence Measures Based on the Shannon Entropy},
  author={Lin, Jianhua},
  journal={IEEE Transactions on Information Theory},
  year={1991}
}
"""

_RETURNS = (
    '`js_divergence`, the mean over the split "forget", and `js_divergence_<split>` for each split, '
    "between 0 and ln 2 = 0.693."
)


def js_divergence(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m) with m = (p + q)/2 of each pair of rows, in nats; 0 ln 0 counts
    as 0 (Lin, 1991).

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): rows that sum to 1.

    Returns:
        `np.ndarray` of shape `(n,)`: between 0 and ln 2.
    """
    divergence = np.zeros(len(predictions))
    for p in (predictions, references):
        # p/m as 2p/(p + q): halving the smallest numbers first would round them to 0.
        ratio = np.divide(2 * p, predictions + references, out=np.ones_like(p, dtype=np.float64), where=p > 0)
        divergence += (p * np.log(ratio)).sum(axis=1) / 2
    # Rounding leaves values such as -1e-17.
    return divergence.clip(0, np.log(2))


class JsDivergence(evaluate.Metric):
    """Mean Jensen-Shannon divergence between the outputs of the unlearned and another model on each split."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(self, _CITATION, _RETURNS, predictions=UNLEARNED, references=OTHER_MODEL, splits=SPLITS)

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], splits: list[str]
    ) -> dict[str, float]:
        return mean_by_split("js_divergence", js_divergence, predictions, references, splits)
