"""ZRF: how close the unlearned model's output on the forget images is to that of a model that knows nothing."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import ROWS, SPLITS, UNLEARNED, mean_by_split, metric_info
from hf_unlearn.metrics.js_divergence.js_divergence import js_divergence


_CITATION = """
@inproceedings{chundawat2023bad,
  title={Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent Teacher},
  author={Chundawat, Vikram S and Tarun, Ayush K and Mandal, Murari and Kankanhalli, Mohan},
  booktitle={AAAI Conference on Artificial Intelligence},
  year={2023}
}
"""

_RETURNS = (
    '`zero_retrain_forgetting`, the mean over the split "forget", and `zero_retrain_forgetting_<split>` for each '
    "split, between 0 and 1. Compare with the value of a retrained model."
)


def zero_retrain_forgetting(predictions: np.ndarray, references: np.ndarray) -> float:
    """
    ZRF = 1 − (1/n) Σ_x JS(p_u(x), p_d(x)) with the logarithm to base 2 (Chundawat et al., arXiv 2205.08096).

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): rows that sum to 1, of the unlearned and the random
            model.

    Returns:
        `float`: between 0 (never like the random model) and 1 (always the same as it).
    """
    # Where every divergence is ln 2, rounding can push their mean above it.
    return float(max(1 - js_divergence(predictions, references).mean() / np.log(2), 0))


class ZeroRetrainForgetting(evaluate.Metric):
    """Zero retrain forgetting (ZRF): 1 minus the mean JS divergence, in bits, to a randomly initialized model."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self,
            _CITATION,
            _RETURNS,
            predictions=UNLEARNED,
            references=(ROWS, "the randomly initialized model's row for the same image."),
            splits=SPLITS,
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], splits: list[str]
    ) -> dict[str, float]:
        return mean_by_split("zero_retrain_forgetting", zero_retrain_forgetting, predictions, references, splits)
