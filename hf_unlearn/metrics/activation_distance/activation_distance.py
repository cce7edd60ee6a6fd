"""Euclidean distance between the outputs of two models, image by image."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import OTHER_MODEL, SPLITS, UNLEARNED, mean_by_split, metric_info


_CITATION = """
@inproceedings{golatkar2021mixed,
  title={Mixed-Privacy Forgetting in Deep Networks},
  author={Golatkar, Aditya and Achille, Alessandro and Ravichandran, Avinash and Polito, Marzia and Soatto, Stefano},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2021}
}

@inproceedings{chundawat2023bad,
  title={Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent Teacher},
  author={Chundawat, Vikram S and Tarun, Ayush K and Mandal, Murari and Kankanhalli, Mohan},
  booktitle={AAAI Conference on Artificial Intelligence},
  year={2023}
}
"""

_RETURNS = (
    '`activation_distance`, the mean over the split "forget", and `activation_distance_<split>` for each split, '
    "between 0 and √2."
)


def activation_distance(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Euclidean distance ‖p − q‖₂ of each pair of rows (Chundawat et al., arXiv 2205.08096).

    Args:
        predictions, references (`np.ndarray` of shape `(n, K)`): rows that sum to 1.

    Returns:
        `np.ndarray` of shape `(n,)`: between 0 and √2.
    """
    return np.sqrt(((predictions - references) ** 2).sum(axis=1))


class ActivationDistance(evaluate.Metric):
    """Mean Euclidean distance between the probabilities of the unlearned and the retrained model on each split."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(self, _CITATION, _RETURNS, predictions=UNLEARNED, references=OTHER_MODEL, splits=SPLITS)

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], splits: list[str]
    ) -> dict[str, float]:
        return mean_by_split("activation_distance", activation_distance, predictions, references, splits)
