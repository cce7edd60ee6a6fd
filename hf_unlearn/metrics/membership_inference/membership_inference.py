"""Membership inference from one model's outputs: the JiT paper's attack on the entropy, and four attacks beside it."""

import evaluate
import numpy as np

from hf_unlearn.metrics.columns import LABELS, ROWS, SPLIT_NAMES, TEXTS, by_split, metric_info


_CITATION = """
@article{foster2025jit,
  title={An Information Theoretic Approach to Machine Unlearning},
  author={Foster, Jack and Fogarty, Kyle and Schoepf, Stefan and Dugue, Zack and {\\"O}ztireli, Cengiz and Brintrup, Alexandra},
  journal={Transactions on Machine Learning Research},
  year={2025}
}
@inproceedings{song2021systematic,
  title={Systematic Evaluation of Privacy Risks of Machine Learning Models},
  author={Song, Liwei and Mittal, Prateek},
  booktitle={USENIX Security Symposium},
  year={2021}
}
"""

_RETURNS = (
    "`membership_inference`, the JiT paper's number, between 0 and 1: the goal is the value of a model retrained "
    "without the forget images, not 0. For each statistic (`entropy`, `loss`, `confidence`, `modified_entropy`), how well it "
    "tells forget images (members) from test images (non-members): `<statistic>_attack_auc`, "
    "`<statistic>_attack_tpr_at_1_percent_fpr`, `<statistic>_attack_tpr_at_0.1_percent_fpr`, and, from two images of "
    "each split on, `<statistic>_attack_accuracy` and `<statistic>_attack_balanced_accuracy`."
)

# Stands for a probability of 0 inside a logarithm, as in the code of Song and Mittal.
SMALLEST = 1e-30


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """
    Shannon entropy −Σ_k p_k ln p_k of each row, in nats; 0 ln 0 counts as 0.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
    """
    logs = np.log(probabilities, out=np.zeros_like(probabilities, dtype=np.float64), where=probabilities > 0)
    return -(probabilities * logs).sum(axis=1)


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Probability p_y of the label (Song and Mittal, arXiv 2003.10595).

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)`): labels.
    """
    return probabilities[np.arange(len(labels)), labels]


def loss(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Cross entropy −ln p_y (Yeom et al., arXiv 1709.01604); p_y below 1e-30 counts as 1e-30.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)`): labels.
    """
    return -np.log(np.maximum(confidence(probabilities, labels), SMALLEST))


def modified_entropy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    −(1 − p_y) ln p_y − Σ_{k≠y} p_k ln(1 − p_k) (Song and Mittal, arXiv 2003.10595): unlike the entropy, high for a
    confident wrong answer. Inside a logarithm, values below 1e-30 count as 1e-30.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)`): labels.
    """
    others = -probabilities * np.log(np.maximum(1 - probabilities, SMALLEST))
    # Each row loses the term of its own label only.
    others[np.arange(len(labels)), labels] = 0
    return (1 - confidence(probabilities, labels)) * loss(probabilities, labels) + others.sum(axis=1)


def entropy_attack(retain: np.ndarray, test: np.ndarray, forget: np.ndarray) -> float:
    """
    The attack of the JiT paper (Foster et al., arXiv 2402.01401): a logistic regression with balanced classes learns to
    tell the entropies of retained training images (members) from those of test images, and is then asked about the
    forget images.

    Args:
        retain, test, forget (`np.ndarray` of shape `(n,)`): entropies.

    Returns:
        `float`: share of forget images called members.
    """
    from sklearn.linear_model import LogisticRegression

    attack = LogisticRegression(class_weight="balanced")
    attack.fit(np.concatenate([retain, test])[:, None], np.concatenate([np.ones(len(retain)), np.zeros(len(test))]))
    return float(attack.predict(forget[:, None]).mean())


def area_under_curve(members: np.ndarray, others: np.ndarray) -> float:
    """
    Area under the ROC curve: Pr[s(member) > s(other)] + ½ Pr[s(member) = s(other)], s the score.

    Args:
        members, others (`np.ndarray` of shape `(n,)`): scores, larger for members.
    """
    others = np.sort(others)
    below = np.searchsorted(others, members, side="left")
    up_to = np.searchsorted(others, members, side="right")
    return float((below + up_to).sum() / (2 * len(members) * len(others)))


def tpr_at_fpr(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """
    True positive rate at a false positive rate (Carlini et al., arXiv 2112.03570): the share of members above the lowest
    threshold that has at most the share `fpr` of the others above it. With fewer than 1/`fpr` others, that is none.

    Args:
        members, others (`np.ndarray` of shape `(n,)`): scores, larger for members.
        fpr (`float`): largest false positive rate.
    """
    # Rounding can leave the product just below a whole number: 0.01 · 2900 = 28.999…
    allowed = int(fpr * len(others) + 1e-9)
    if allowed >= len(others):
        return 1.0
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float(np.mean(members > threshold))


def cross_validated_attack(members: np.ndarray, others: np.ndarray, num_folds: int = 10) -> tuple[float, float]:
    """
    How often a logistic regression with balanced classes is right about who is a member, in cross-validation: each image
    is judged by a regression that was fitted without the images of its fold. Folds are drawn from the sorted values, so
    the order of the images does not matter.

    Args:
        members, others (`np.ndarray` of shape `(n,)`): scores, at least two each.
        num_folds (`int`, *optional*, defaults to 10): number of folds; fewer if there are fewer members or others.

    Returns:
        `tuple[float, float]`: accuracy and balanced accuracy.
    """
    from sklearn.linear_model import LogisticRegression

    num_folds = min(num_folds, len(members), len(others))
    rng = np.random.default_rng(0)
    values = np.concatenate([np.sort(members), np.sort(others)])
    truth = np.arange(len(values)) < len(members)
    folds = np.concatenate([rng.permutation(np.arange(len(part)) % num_folds) for part in (members, others)])
    answers = np.empty_like(truth)
    for fold in range(num_folds):
        held_out = folds == fold
        mean, std = values[~held_out].mean(), values[~held_out].std()
        scaled = ((values - mean) / (std if std > 0 else 1))[:, None]
        attack = LogisticRegression(class_weight="balanced").fit(scaled[~held_out], truth[~held_out])
        answers[held_out] = attack.predict(scaled[held_out])
    right = answers == truth
    return float(right.mean()), float((right[truth].mean() + right[~truth].mean()) / 2)


def scores(probabilities: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """
    The statistics of the attacks as scores, which are larger for members. Members have the lower entropy and loss, so
    these change their sign.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)` or `None`): labels. Only the entropy does without them.

    Returns:
        `dict[str, np.ndarray]`: by statistic, of shape `(n,)`.
    """
    if labels is None:
        return {"entropy": -entropy(probabilities)}
    return {
        "entropy": -entropy(probabilities),
        "loss": -loss(probabilities, labels),
        "confidence": confidence(probabilities, labels),
        "modified_entropy": -modified_entropy(probabilities, labels),
    }


def attack(members: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """
    How well one statistic tells members from others.

    Args:
        members, others (`np.ndarray` of shape `(n,)`): one of the [`scores`] of each image.

    Returns:
        `dict[str, float]`: `auc`, `tpr_at_1_percent_fpr`, `tpr_at_0.1_percent_fpr` and, from two members and two others
        on, `accuracy` and `balanced_accuracy`.
    """
    results = {
        "auc": area_under_curve(members, others),
        "tpr_at_1_percent_fpr": tpr_at_fpr(members, others, 0.01),
        "tpr_at_0.1_percent_fpr": tpr_at_fpr(members, others, 0.001),
    }
    if min(len(members), len(others)) > 1:
        results["accuracy"], results["balanced_accuracy"] = cross_validated_attack(members, others)
    return results


class MembershipInference(evaluate.Metric):
    """
    Share of forget images that the JiT paper's attack on the output's entropy takes for training images, and how well
    entropy, loss, confidence and modified entropy tell forget images from unseen ones.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            self,
            _CITATION,
            _RETURNS,
            predictions=(ROWS, "one row of probabilities per image."),
            references=LABELS,
            splits=(TEXTS, '"retain" (training images, the members), "test" (non-members) or "forget" per image.'),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], splits: list[str]) -> dict[str, float]:
        rows, labels = {"predictions": predictions}, {"references": references}
        parts = by_split("membership_inference", splits, rows, labels, required=SPLIT_NAMES)
        entropies = {split: entropy(parts[split]["predictions"]) for split in SPLIT_NAMES}
        results = {"membership_inference": entropy_attack(**entropies)}

        members, others = (
            scores(parts[split]["predictions"], parts[split]["references"]) for split in ("forget", "test")
        )
        for name in members:
            results |= {f"{name}_attack_{key}": value for key, value in attack(members[name], others[name]).items()}
        return results
