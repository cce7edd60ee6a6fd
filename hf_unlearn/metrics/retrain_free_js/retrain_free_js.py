"""RF-JSD: the unlearned model's mean output per forgotten class against the original model's on unseen images."""

import evaluate
import numpy as np

from hf_unlearn.errors import InputError
from hf_unlearn.metrics.columns import LABELS, ROWS, SPLITS, by_split, metric_info
from hf_unlearn.metrics.js_divergence.js_divergence import js_divergence


_CITATION = """
@inproceedings{spartalis2025lotus,
  title={LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty},
  author={Spartalis, Christoforos N and Semertzidis, Theodoros and Gavves, Efstratios and Daras, Petros},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2025}
}
"""

_RETURNS = "`retrain_free_js`, between 0 and ln 2 = 0.693."


def retrain_free_js(
    forget_predictions: np.ndarray, forget_labels: np.ndarray, test_predictions: np.ndarray, test_labels: np.ndarray
) -> float:
    """
    RF-JSD = (1/|C|) Σ_{c∈C} JS(p̄_u,c, p̄_o,c), in nats: C the classes of the forget images, p̄_u,c the unlearned
    model's mean output on the forget images of class c, p̄_o,c the original model's on the test images of class c
    (Spartalis et al., arXiv 2503.18314).

    Args:
        forget_predictions (`np.ndarray` of shape `(n, K)`): the unlearned model's rows, which sum to 1.
        forget_labels (`np.ndarray` of shape `(n,)`): labels.
        test_predictions (`np.ndarray` of shape `(m, K)`): the original model's rows, which sum to 1.
        test_labels (`np.ndarray` of shape `(m,)`): labels; every class of the forget images occurs.

    Returns:
        `float`: between 0 and ln 2.
    """
    classes = np.unique(forget_labels)
    missing = np.setdiff1d(classes, test_labels)
    if len(missing):
        raise InputError("references", f"the split 'test' has no image of the class {missing[0]}, which is forgotten.")
    unlearned = np.stack([forget_predictions[forget_labels == label].mean(axis=0) for label in classes])
    original = np.stack([test_predictions[test_labels == label].mean(axis=0) for label in classes])
    return float(js_divergence(unlearned, original).mean())


class RetrainFreeJs(evaluate.Metric):
    """
    Retrain-free JS divergence (RF-JSD) between the unlearned model's mean output per class of the forget images and
    the original model's on test images.
    """

    def _info(self) -> evaluate.MetricInfo:
        rows = (
            ROWS,
            'one row of probabilities per image: of the unlearned model in the split "forget", of the original model in '
            'the split "test". Other splits are not used.',
        )
        return metric_info(self, _CITATION, _RETURNS, predictions=rows, references=LABELS, splits=SPLITS)

    def _compute(self, predictions: list[list[float]], references: list[int], splits: list[str]) -> dict[str, float]:
        rows, labels = {"predictions": predictions}, {"references": references}
        parts = by_split("retrain_free_js", splits, rows, labels, required=("forget", "test"))
        forget, test = parts["forget"], parts["test"]
        value = retrain_free_js(forget["predictions"], forget["references"], test["predictions"], test["references"])
        return {"retrain_free_js": value}
