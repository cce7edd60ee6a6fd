"""Membership inference on the entropy of the output, as in the JiT paper."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = "Share of forget images that an attack on the output's entropy takes for training images."

_CITATION = """
@article{foster2025jit,
  title={An Information Theoretic Approach to Machine Unlearning},
  author={Foster, Jack and Fogarty, Kyle and Schoepf, Stefan and Dugue, Zack and {\\"O}ztireli, Cengiz and Brintrup, Alexandra},
  journal={Transactions on Machine Learning Research},
  year={2025}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]`): one row of probabilities per image.
    references (`list[int]`): the label of each image; not used by this attack.
    splits (`list[str]`): "retain" (training images, the members), "test" (non-members) or "forget" per image.

Returns:
    `dict[str, float]`: `membership_inference`, between 0 and 1. The goal is the value of a model retrained without the
    forget images, not 0.
"""


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """
    Shannon entropy −Σ_k p_k ln p_k of each row, in nats; 0 ln 0 counts as 0.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
    """
    logs = np.log(probabilities, out=np.zeros_like(probabilities, dtype=np.float64), where=probabilities > 0)
    return -(probabilities * logs).sum(axis=1)


def entropy_attack(retain: np.ndarray, test: np.ndarray, forget: np.ndarray) -> float:
    """
    The paper's attack: a logistic regression with balanced classes learns to tell the entropies of retained training
    images (members) from those of test images, and is asked about the forget images.

    Args:
        retain, test, forget (`np.ndarray` of shape `(n,)`): entropies.

    Returns:
        `float`: share of forget images called members.
    """
    from sklearn.linear_model import LogisticRegression

    attack = LogisticRegression(class_weight="balanced")
    attack.fit(np.concatenate([retain, test])[:, None], np.concatenate([np.ones(len(retain)), np.zeros(len(test))]))
    return float(attack.predict(forget[:, None]).mean())


class MembershipInference(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                    "splits": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, references, splits):
        splits = np.asarray(splits)
        entropies = entropy(np.asarray(predictions))
        parts = {split: entropies[splits == split] for split in ("retain", "test", "forget")}
        for split, values in parts.items():
            if len(values) == 0:
                raise ValueError(f"membership_inference needs at least one image of the split {split!r}.")
        return {"membership_inference": entropy_attack(**parts)}
