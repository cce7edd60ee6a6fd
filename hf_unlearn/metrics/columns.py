"""What the metrics share: their columns and the checks of them. An error names the split that it was found in."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np

from hf_unlearn.errors import InputError


# The kinds of columns.
PROBABILITIES = datasets.Sequence(datasets.Value("float64"))
NUMBER = datasets.Value("int64")
TEXT = datasets.Value("string")

# Rows computed in half precision are off by about 5e-4; logits or percentages are off by far more.
SUM_TOLERANCE = 1e-3


def metric_info(description: str, citation: str, inputs_description: str, **columns) -> evaluate.MetricInfo:
    """What `evaluate` asks of a metric; `columns` gives the kind of each."""
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs_description,
        features=datasets.Features(columns),
    )


def mean_by_split(
    metric: str, measure: Callable[[np.ndarray, np.ndarray], np.ndarray | float], predictions, references, splits
) -> dict[str, float]:
    """
    A comparison of two models on each split, under `<metric>_<split>`, and on the split "forget", under `<metric>`.

    Args:
        measure (`Callable`):
            From the rows of both models to one value per image, or to one value.
    """
    parts = by_split(metric, splits, rows={"predictions": predictions, "references": references})
    values = {split: float(np.mean(measure(**part))) for split, part in parts.items()}
    return {metric: values["forget"]} | {f"{metric}_{split}": value for split, value in values.items()}


def by_split(
    metric: str,
    splits: list[str],
    rows: dict[str, list[list[float]]],
    labels: dict[str, list[int]] | None = None,
    others: dict[str, list] | None = None,
    required: tuple[str, ...] = ("forget",),
    probabilities: bool = True,
) -> dict[str, dict[str, np.ndarray]]:
    """
    The columns of a metric, checked and cut by split.

    Args:
        metric (`str`):
            Name of the metric, for the messages.
        splits (`list[str]`):
            The split of each image.
        rows (`dict[str, list[list[float]]]`):
            By column, a row of numbers per image. All rows have the same length.
        labels (`dict[str, list[int]]`, *optional*):
            By column, the label of each image.
        others (`dict[str, list]`, *optional*):
            By column, a value of each image that is cut by split but not checked.
        required (`tuple[str, ...]`, *optional*, defaults to `("forget",)`):
            Splits that the metric cannot do without.
        probabilities (`bool`, *optional*, defaults to `True`):
            Whether rows must be probabilities. They are divided by their sums, which rounding leaves off 1.

    Returns:
        `dict[str, dict[str, np.ndarray]]`: by split and column, float64 of shape `(n, K)` or int64 of shape `(n,)`.
    """
    splits = np.asarray(splits)
    for split in required:
        if not (splits == split).any():
            raise InputError("splits", f"{metric} needs at least one image of the split {split!r}.")
    if len(splits) == 0:
        raise InputError("splits", f"{metric} needs at least one image, of any split.")
    width = len(next(iter(rows.values()))[0])
    parts = {}
    for split in dict.fromkeys(splits.tolist()):
        where = np.flatnonzero(splits == split)
        parts[split] = {
            column: _check_rows(column, split, [values[i] for i in where], width, probabilities)
            for column, values in rows.items()
        } | {
            column: _check_labels(column, split, [values[i] for i in where], width)
            for column, values in (labels or {}).items()
        }
        parts[split] |= {column: np.asarray(values)[where] for column, values in (others or {}).items()}
    return parts


def _check_rows(column: str, split: str, values: list, width: int, probabilities: bool) -> np.ndarray:
    lengths = sorted({len(row) for row in values} | {width})
    if lengths != [width] or width == 0:
        raise InputError(column, f"rows of the split {split!r} must have one length, of at least 1, not {lengths}.")
    array = np.asarray(values, dtype=np.float64)
    broken = ~np.isfinite(array).all(axis=1)
    if broken.any():
        raise InputError(column, f"{broken.sum()} of {len(array)} rows of the split {split!r} hold NaN or infinity.")
    if not probabilities:
        return array
    sums = array.sum(axis=1, keepdims=True)
    broken = (array < 0).any(axis=1) | (np.abs(sums[:, 0] - 1) > SUM_TOLERANCE)
    if broken.any():
        raise InputError(
            column,
            f"{broken.sum()} of {len(array)} rows of the split {split!r} are not probabilities: numbers of at least 0 "
            "that sum to 1.",
        )
    return array / sums


def _check_labels(column: str, split: str, values: list, width: int) -> np.ndarray:
    # As floats a missing label is NaN, which no comparison lets through.
    array = np.asarray(values, dtype=np.float64)
    valid = (array >= 0) & (array < width)
    if not valid.all():
        raise InputError(
            column,
            f"the split {split!r} has the label {values[int(np.argmin(valid))]}, but rows have {width} classes. "
            f"Valid: 0 to {width - 1}.",
        )
    return array.astype(np.int64)
