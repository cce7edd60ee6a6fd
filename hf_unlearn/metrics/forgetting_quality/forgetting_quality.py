"""Score of the NeurIPS 2023 machine unlearning challenge: unlearned models against retrained ones."""

import evaluate
import numpy as np

from hf_unlearn.errors import InputError
from hf_unlearn.metrics.columns import LABELS, NUMBERS, ROWS, TEXTS, by_split, metric_info
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy


_CITATION = """
@article{triantafillou2024are,
  title={Are We Making Progress in Unlearning? Findings from the First NeurIPS Unlearning Competition},
  author={Triantafillou, Eleni and Kairouz, Peter and Pedregosa, Fabian and Hayes, Jamie and Kurmanji, Meghdad and Zhao, Kairan and Dumoulin, Vincent and others},
  journal={arXiv preprint arXiv:2406.09073},
  year={2024}
}
"""

_RETURNS = (
    '`forgetting_quality`, between 0 and 1; if the splits "retain" and "test" are there too, '
    "`forgetting_quality_score`, the challenge's final score."
)


# Constants of the challenge.
DELTA = 1e-5
EPSILON_CAP = 50
THRESHOLDS_PER_UNIT = 100
BUFFER = 2.0
BUCKET = 0.5


def logit_confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    φ = ln p_y − ln Σ_{k≠y} p_k of each row (Carlini et al., arXiv 2112.03570), each logarithm of its argument + 1e-45,
    as in the challenge.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)`): labels.
    """
    right = np.arange(probabilities.shape[1]) == labels[:, None]
    return np.log(probabilities[right] + 1e-45) - np.log(np.where(right, 0, probabilities).sum(axis=1) + 1e-45)


def image_epsilon(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """
    Largest ε_t = max{ln(1 − δ − FPR) − ln FNR, ln(1 − δ − FNR) − ln FPR, 0}, δ = 1e-5, over decision rules t that tell
    unlearned from retrained models by their outputs on one image: one threshold (positive: the set with the larger
    median) or an interval (positive: the set with the smaller range), both on the challenge's grid of 0.01. A rule with
    FPR = FNR = 0 gives the cap of 50; a rule with only one of them 0 is left out, as a sign of too few models; a set
    with less than a hundredth of the other's range gives the cap.

    Args:
        unlearned, retrained (`np.ndarray` of shape `(N,)`): [`logit_confidence`] of the image under each model.
    """
    unlearned, retrained = np.sort(unlearned), np.sort(retrained)
    ranges = np.ptp(unlearned), np.ptp(retrained)
    if max(ranges) == 0:
        return 0.0 if unlearned[0] == retrained[0] else float(EPSILON_CAP)
    if min(ranges) / max(ranges) < 0.01:
        return float(EPSILON_CAP)

    positive, negative = (
        (retrained, unlearned) if np.median(retrained) > np.median(unlearned) else (unlearned, retrained)
    )
    values = np.concatenate([positive, negative])
    thresholds = np.linspace(values.min(), values.max(), int(np.ceil(np.ptp(values) * THRESHOLDS_PER_UNIT)))
    rules = [_error_rates(positive, negative, thresholds, np.full_like(thresholds, np.inf))]

    # Of two equal ranges the challenge takes the set with the smaller median.
    narrow, wide = (positive, negative) if np.ptp(positive) < np.ptp(negative) else (negative, positive)
    # 4 units of right ends, and as many of left ends about the width of the narrow set away from each.
    steps = np.linspace(-BUFFER, BUFFER, int(np.ceil(2 * BUFFER * THRESHOLDS_PER_UNIT)))
    right = narrow[-1] + steps
    rules += [_error_rates(narrow, wide, right - np.ptp(narrow) + step, right) for step in steps]

    epsilon = _largest_epsilon(*np.concatenate(rules, axis=1))
    if epsilon is None:
        # All values lie between two points of the grid: the challenge's code fails here, thresholds at the values do not.
        epsilon = _largest_epsilon(*_error_rates(positive, negative, values, np.full_like(values, np.inf)))
    # Still none: the sets touch in one value and are apart otherwise.
    return float(EPSILON_CAP) if epsilon is None else epsilon


def _error_rates(positive: np.ndarray, negative: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """False positive and false negative rate of each rule "positive from left to right"; the values are sorted."""
    inside = [
        (np.searchsorted(values, right, side="right") - np.searchsorted(values, left, side="left")).clip(0)
        for values in (positive, negative)
    ]
    return np.stack([inside[1] / len(negative), (len(positive) - inside[0]) / len(positive)])


def _largest_epsilon(fpr: np.ndarray, fnr: np.ndarray) -> float | None:
    """The largest ε of the rules that are not left out, `None` if all are."""
    if ((fpr == 0) & (fnr == 0)).any():
        return float(EPSILON_CAP)
    both = (fpr > 0) & (fnr > 0)
    if not both.any():
        return None
    fpr, fnr = fpr[both], fnr[both]
    # 1 − δ − FPR is negative at FPR = 1: such a bound says nothing.
    smallest = np.finfo(np.float64).tiny
    bounds = [np.log(np.maximum(1 - DELTA - one, smallest)) - np.log(other) for one, other in ((fpr, fnr), (fnr, fpr))]
    return float(np.clip(np.max(bounds), 0, EPSILON_CAP))


def forgetting_quality(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """
    F = (1/n) Σ_x 2^{−⌊ε_x / 0.5⌋}, where an image with ε_x of at least ⌈ln(N − 1)⌉ counts 0
    (Triantafillou et al., arXiv 2406.09073).

    Args:
        unlearned, retrained (`np.ndarray` of shape `(N, n)`): [`logit_confidence`] of n images under N models each, N
            at least 3.

    Returns:
        `float`: between 0 and 1.
    """
    epsilons = np.array([image_epsilon(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)])
    points = 2.0 ** -np.floor(epsilons / BUCKET)
    return float(np.where(epsilons < np.ceil(np.log(len(unlearned) - 1)), points, 0).mean())


def by_model(models: np.ndarray, **columns: np.ndarray) -> dict[str, np.ndarray]:
    """
    Columns of shape `(N · n, ...)` as `(N, n, ...)`, N the number of different values in `models`.

    Args:
        models (`np.ndarray` of shape `(N · n,)`): each value n times.
        columns (`np.ndarray` of shape `(N · n, ...)`): one of them `labels`, the same for every model.
    """
    numbers, counts = np.unique(models, return_counts=True)
    if len(numbers) < 3:
        raise InputError(
            "models", f"there are {len(numbers)} pairs of models in the split 'forget'. Valid: 3 or more."
        )
    # A stable sort keeps the order of the images.
    order = np.argsort(models, kind="stable")
    if len(np.unique(counts)) == 1:
        columns = {
            name: values[order].reshape(len(numbers), -1, *values.shape[1:]) for name, values in columns.items()
        }
        if (columns["labels"] == columns["labels"][0]).all():
            return columns
    raise InputError("models", "every pair must have the same images of the split 'forget', in the same order.")


class ForgettingQuality(evaluate.Metric):
    """
    Forgetting quality of the NeurIPS 2023 machine unlearning challenge over a set of unlearned and a set of retrained
    models, and its final score, which adds what was kept of the accuracy.
    """

    def _info(self):
        return metric_info(
            self,
            _CITATION,
            _RETURNS,
            predictions=(ROWS, "one row of probabilities per image and unlearned model."),
            references=(
                ROWS,
                "the row of a retrained model for the same image; each unlearned model is paired with one retrained "
                "model, in any way.",
            ),
            labels=LABELS,
            models=(
                NUMBERS,
                "number of the pair of models. Within each split, every pair has the same images in the same order.",
            ),
            splits=(TEXTS, '"retain", "test" or "forget" per row.'),
        )

    def _compute(self, predictions, references, labels, models, splits):
        rows = {"predictions": predictions, "references": references}
        parts = by_split("forgetting_quality", splits, rows, labels={"labels": labels}, others={"models": models})
        forget = by_model(**parts["forget"])
        unlearned, retrained = (
            np.stack([logit_confidence(p, y) for p, y in zip(forget[model], forget["labels"], strict=True)])
            for model in ("predictions", "references")
        )
        results = {"forgetting_quality": forgetting_quality(unlearned, retrained)}
        if "retain" in parts and "test" in parts:
            score = results["forgetting_quality"]
            for split in ("retain", "test"):
                part = parts[split]
                # Over the rows of all models: the mean of their accuracies, since all see the same images.
                expected = accuracy(part["references"], part["labels"])
                if expected == 0:
                    raise InputError("references", f"the retrained models get no image of the split {split!r} right.")
                score *= accuracy(part["predictions"], part["labels"]) / expected
            results["forgetting_quality_score"] = score
        return results
