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


# Constants of the challenge: δ and the largest value of ε; the grid of thresholds, 0.01 apart, and how far around the
# narrower set it looks for intervals; the step in ε with which the points of an image halve.
DELTA = 1e-5
EPSILON_CAP = 50
THRESHOLDS_PER_UNIT = 100
BUFFER = 2.0
BUCKET = 0.5


def logit_confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    φ = ln p_y − ln Σ_{k≠y} p_k of each row (Carlini et al., arXiv 2112.03570). As in the challenge, both logarithms add
    1e-45 to their argument, so that they are finite.

    Args:
        probabilities (`np.ndarray` of shape `(n, K)`): rows that sum to 1.
        labels (`np.ndarray` of shape `(n,)`): labels.
    """
    right = np.arange(probabilities.shape[1]) == labels[:, None]
    return np.log(probabilities[right] + 1e-45) - np.log(np.where(right, 0, probabilities).sum(axis=1) + 1e-45)


def image_epsilon(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """
    How well unlearned and retrained models can be told apart by their outputs on one image: the largest ε of any rule.

    A rule calls positive what lies above a threshold or inside an interval. Above a threshold it looks for the set with
    the larger median, inside an interval for the set with the smaller range. Thresholds and the ends of intervals lie on
    the challenge's grid, 0.01 apart. From the rule's false positive rate FPR and false negative rate FNR follows
    ε = max{ln(1 − δ − FPR) − ln FNR, ln(1 − δ − FNR) − ln FPR, 0} with δ = 1e-5. A rule without an error gives the
    largest value, 50. A rule with only one of the rates at 0 is left out, as a sign of too few models. If one set has
    less than a hundredth of the other's range, ε is 50 too.

    Args:
        unlearned, retrained (`np.ndarray` of shape `(N,)`): [`logit_confidence`] of the image under each model.

    Returns:
        `float`: between 0 and 50.
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

    # If both ranges are equal, the challenge looks for the set with the smaller median.
    narrow, wide = (positive, negative) if np.ptp(positive) < np.ptp(negative) else (negative, positive)
    # Right ends lie up to 2 to either side of the largest value of the narrow set. Intervals are as wide as that set, or
    # up to 2 wider or narrower.
    steps = np.linspace(-BUFFER, BUFFER, int(np.ceil(2 * BUFFER * THRESHOLDS_PER_UNIT)))
    right = narrow[-1] + steps
    rules += [_error_rates(narrow, wide, right - np.ptp(narrow) + step, right) for step in steps]

    epsilon = _largest_epsilon(*np.concatenate(rules, axis=1))
    if epsilon is None:
        # No rule is left, for example because all values lie between two points of the grid. The challenge's code fails
        # here; this one takes the values themselves as thresholds.
        epsilon = _largest_epsilon(*_error_rates(positive, negative, values, np.full_like(values, np.inf)))
    # Still none is left: one value is in both sets, and apart from it one set lies above the other.
    return float(EPSILON_CAP) if epsilon is None else epsilon


def _error_rates(positive: np.ndarray, negative: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """False positive and false negative rate of each rule "positive from `left` to `right`". Both sets are sorted."""
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
    # At a rate of 1, the argument 1 − δ − 1 is negative. The logarithm of a tiny number puts such a bound far below 0.
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
    Gathers the rows of each of N pairs of models: columns of shape `(N · n, ...)` become `(N, n, ...)`.

    Args:
        models (`np.ndarray` of shape `(N · n,)`): for each row, the number of its pair. Every pair has n rows.
        columns (`np.ndarray` of shape `(N · n, ...)`): one of them is `labels`, which are the same for every pair.
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
    models, and its final score, which also counts how much of the accuracy was kept.
    """

    def _info(self) -> evaluate.MetricInfo:
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

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float]],
        labels: list[int],
        models: list[int],
        splits: list[str],
    ) -> dict[str, float]:
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
                # All models see the same images, so the accuracy over all rows is the mean of the models' accuracies.
                expected = accuracy(part["references"], part["labels"])
                if expected == 0:
                    raise InputError("references", f"the retrained models get no image of the split {split!r} right.")
                score *= accuracy(part["predictions"], part["labels"]) / expected
            results["forgetting_quality_score"] = score
        return results
