"""Residual knowledge: how much more often than a retrained model the unlearned one knows images near the forgotten."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import NUMBERS, ROWS, TEXTS, by_split, metric_info


_CITATION = """
@inproceedings{hsu2025unseen,
  title={The Unseen Threat: Residual Knowledge in Machine Unlearning under Perturbed Samples},
  author={Hsu, Hsiang and Niroula, Pradeep and He, Zichang and Brugere, Ivan and Lecue, Freddy and Chen, Chun-Fu},
  booktitle={Advances in Neural Information Processing Systems},
  year={2025}
}
"""

_RETURNS = (
    "`residual_knowledge`, the ratio over all copies (1 is ideal; infinity if only the unlearned model recognizes "
    "any), `share_of_images_with_residual_knowledge`, `recognized_by_unlearned` and `recognized_by_retrained`, "
    "between 0 and 1."
)


def residual_knowledge(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """
    r_τ = Pr[u(x') = y] / Pr[r(x') = y] over the copies x' of the forget images within the distance τ, where u and r are
    the classes that the unlearned and the retrained model name (Hsu et al., arXiv 2601.22359). If neither model
    recognizes any copy, they agree and the ratio is 1.

    Args:
        unlearned, retrained (`np.ndarray` of shape `(n,)`): for each copy, whether the model names its label.

    Returns:
        `float`: at least 0; infinity if only the unlearned model recognizes any copy.
    """
    known, expected = float(np.mean(unlearned)), float(np.mean(retrained))
    if expected == 0:
        return 1.0 if known == 0 else float("inf")
    return known / expected


def share_with_residual_knowledge(unlearned: np.ndarray, retrained: np.ndarray, images: np.ndarray) -> float:
    """
    Share of images of which the unlearned model recognizes more copies than the retrained one does.

    Args:
        unlearned, retrained (`np.ndarray` of shape `(n,)`): for each copy, whether the model names its label.
        images (`np.ndarray` of shape `(n,)`): number of the image that each copy is of.
    """
    _, image = np.unique(images, return_inverse=True)
    return float(np.mean(np.bincount(image, weights=unlearned) > np.bincount(image, weights=retrained)))


class ResidualKnowledge(evaluate.Metric):
    """
    Ratio of how often the unlearned and the retrained model recognize perturbed copies of the forget images, and the
    share of forget images that the unlearned model recognizes more often.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self,
            _CITATION,
            _RETURNS,
            predictions=(
                ROWS,
                "one row of probabilities per perturbed copy of a forget image, of the unlearned model.",
            ),
            references=(ROWS, "the retrained model's row for the same copy."),
            labels=(NUMBERS, "the label of the image."),
            images=(NUMBERS, "number of the image that the row is a copy of."),
            splits=(TEXTS, '"forget" for each row to be used.'),
        )

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float]],
        labels: list[int],
        images: list[int],
        splits: list[str],
    ) -> dict[str, float]:
        rows = {"predictions": predictions, "references": references}
        parts = by_split("residual_knowledge", splits, rows, labels={"labels": labels}, others={"images": images})
        forget = parts["forget"]
        unlearned, retrained = (
            np.argmax(forget[model], axis=1) == forget["labels"] for model in ("predictions", "references")
        )
        return {
            "residual_knowledge": residual_knowledge(unlearned, retrained),
            "share_of_images_with_residual_knowledge": share_with_residual_knowledge(
                unlearned, retrained, forget["images"]
            ),
            "recognized_by_unlearned": float(np.mean(unlearned)),
            "recognized_by_retrained": float(np.mean(retrained)),
        }
