"""
The columns of the metrics: their types and meanings, and the checks before they are cut by split.

`evaluate.load` copies the single file of a metric into a cache, imports the copy and takes the first metric class in it.
A metric therefore imports this module by its full name: beside the copy there is no `..columns`. And what is shared here
are functions and constants: a shared base class, imported by a metric, would be taken for the metric.
"""

import inspect
import textwrap
from collections.abc import Callable

import datasets
import evaluate
import numpy as np

from hf_unlearn.errors import InputError


# The types of columns, as documentation gives them, and how `evaluate` stores each.
ROWS = "list[list[float]]"
NUMBERS = "list[int]"
TEXTS = "list[str]"
FEATURES = {
    ROWS: datasets.Sequence(datasets.Value("float64")),
    NUMBERS: datasets.Value("int64"),
    TEXTS: datasets.Value("string"),
}

# The columns that several metrics have: type and meaning.
UNLEARNED = (ROWS, "one row of probabilities per image, of the unlearned model.")
RETRAINED = (ROWS, "the retrained model's row for the same image.")
OTHER_MODEL = (ROWS, "the retrained (or any other) model's row for the same image.")
LABELS = (NUMBERS, "the label of each image.")
SPLITS = (TEXTS, '"retain", "test" or "forget" per image.')
ALL_SPLITS = (TEXTS, '"retain", "test" or "forget" per image; all three must occur.')

# The splits of a metric that needs all three.
SPLIT_NAMES = ("forget", "retain", "test")

# How far from 1 the sum of a row of probabilities may be. In half precision it is off by about 5e-4; the sum of logits or
# percentages is off by far more.
SUM_TOLERANCE = 1e-3


def metric_info(
    metric: evaluate.Metric, citation: str, returns: str, **columns: tuple[str, str]
) -> evaluate.MetricInfo:
    """
    What the method `_info` of a metric returns.

    Args:
        metric (`evaluate.Metric`):
            The metric. The docstring of its class becomes its description.
        citation (`str`):
            The papers that define it, in BibTeX.
        returns (`str`):
            The names of the results and their ranges.
        columns (`tuple[str, str]`):
            By name, the type and the meaning of each column: a constant of this module, or a pair that the metric
            writes out because no other metric has this column.
    """
    arguments = [
        textwrap.fill(f"{name} (`{kind}`): {meaning}", 119, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, (kind, meaning) in columns.items()
    ]
    returns = textwrap.fill(f"`dict[str, float]`: {returns}", 119, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return evaluate.MetricInfo(
        description=" ".join((inspect.getdoc(type(metric)) or "").split()),
        citation=citation,
        inputs_description="\n".join(["", "Args:", *arguments, "", "Returns:", returns, ""]),
        features=datasets.Features({name: FEATURES[kind] for name, (kind, _) in columns.items()}),
    )


def mean_by_split(
    metric: str,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray | float],
    predictions: list[list[float]],
    references: list[list[float]],
    splits: list[str],
) -> dict[str, float]:
    """
    Compares two models image by image and takes the mean over each split.

    Args:
        metric (`str`):
            Name of the metric.
        measure (`Callable`):
            Takes the rows of both models for the images of one split. Returns a value per image, or their mean.
        predictions, references (`list[list[float]]`):
            One row of probabilities per image, of the one and of the other model.
        splits (`list[str]`):
            The split of each image.

    Returns:
        `dict[str, float]`: `<metric>_<split>` for each split, and `<metric>`, which is that of the split "forget".
    """
    parts = by_split(metric, splits, rows={"predictions": predictions, "references": references})
    values = {split: float(np.mean(measure(part["predictions"], part["references"]))) for split, part in parts.items()}
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
    Checks the columns of a metric and cuts them by split. An error names the column and the split at fault.

    Args:
        metric (`str`):
            Name of the metric, for error messages.
        splits (`list[str]`):
            The split of each image.
        rows (`dict[str, list[list[float]]]`):
            By column, a row of numbers per image. All rows must have the same length.
        labels (`dict[str, list[int]]`, *optional*):
            By column, the label of each image: the number of a class, from 0 up to the length of the rows minus 1.
        others (`dict[str, list]`, *optional*):
            By column, a value of each image that is cut by split without a check.
        required (`tuple[str, ...]`, *optional*, defaults to `("forget",)`):
            Splits that must have at least one image.
        probabilities (`bool`, *optional*, defaults to `True`):
            Whether rows must be probabilities. If so, each is divided by its sum, which rounding may have moved off 1.

    Returns:
        `dict[str, dict[str, np.ndarray]]`: by split and column, float64 of shape `(n, K)` or int64 of shape `(n,)`.
    """
    split_of = np.asarray(splits)
    for split in required:
        if not (split_of == split).any():
            raise InputError("splits", f"{metric} needs at least one image of the split {split!r}.")
    if len(split_of) == 0:
        raise InputError("splits", f"{metric} needs at least one image, of any split.")
    width = len(next(iter(rows.values()))[0])
    parts = {}
    for split in dict.fromkeys(split_of.tolist()):
        where = np.flatnonzero(split_of == split)
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
