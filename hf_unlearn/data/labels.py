"""Finds the column of a dataset that holds the labels, and the model's label id of each label."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from datasets import ClassLabel, Dataset, Value

from ..errors import InputError, listing


def find_label_column(
    dataset: Dataset,
    label_column: str | None = None,
    id2label: dict[int, str] | None = None,
    classes: Sequence[str | int] | None = None,
) -> str | None:
    """
    Finds the column that holds the labels. It is the first of these that exists:

    1. the column that is named;
    2. with `id2label`, the column whose class names or values are all classes of the model;
    3. the column `label` or `labels`;
    4. with `classes`, the `ClassLabel` column that has all of them;
    5. the only `ClassLabel` column.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        label_column (`str`, *optional*):
            The name of the column, if it is known.
        id2label (`dict[int, str]`, *optional*):
            The model's `config.id2label`. If several columns fit, a column of names is preferred to a column of
            numbers, and then `label` and `labels` to others. A column of text fits if all its values are class names.
        classes (`list[str | int]`, *optional*):
            The classes of a request. They are used only if `id2label` is not given.

    Returns:
        `str` or `None`: the name of the column; `None` if the dataset has no labels.

    Raises:
        [`InputError`]: if the named column does not exist, or if several columns could hold the labels.
    """
    if label_column is not None:
        if label_column not in dataset.column_names:
            raise InputError(
                "label_column_name", f"there is no column {label_column!r}. Valid: {listing(dataset.column_names)}."
            )
        return label_column
    usual = [name for name in ("label", "labels") if name in dataset.column_names]
    with_names = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    fitting = []
    if id2label is not None:
        texts = [name for name, feature in dataset.features.items() if is_text(feature)]
        fitting = [name for name in unique([*usual, *with_names, *texts]) if fits_model(dataset, name, id2label)]
        # A column of numbers fits every model with enough classes, so names decide first.
        fitting = [name for name in fitting if not is_number(dataset.features[name])] or fitting
        fitting = [name for name in usual if name in fitting][:1] or fitting
    elif classes is not None and not usual:
        fitting = [name for name in with_names if all(is_class(dataset.features[name], one) for one in classes)]
    if len(fitting) > 1 and id2label is not None and same_labels(dataset, fitting, id2label):
        fitting = fitting[:1]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        whose = "the model" if id2label is not None else "the request"
        raise InputError(
            "label_column_name",
            f"several columns hold classes of {whose}, and differ: {listing(fitting)}; name one of them.",
        )
    if usual or len(with_names) < 2:
        return next(iter([*usual, *with_names]), None)
    known = f" The model knows the classes of none of them: {listing(id2label.values(), 5)}." if id2label else ""
    raise InputError(
        "label_column_name", f"several columns could be the labels: {listing(with_names)}; name one.{known}"
    )


def match_labels(dataset: Dataset, label_column: str, id2label: dict[int, str]) -> dict:
    """
    Maps each label of a dataset to the model's label id. Labels are compared by name and not by position. If the model
    has several classes with the same name, the dataset's own label id decides between them.

    Args:
        dataset (`datasets.Dataset`):
            The images. The label column holds `ClassLabel` ids, class names, or the model's label ids as plain
            integers.
        label_column (`str`):
            The column of the labels.
        id2label (`dict[int, str]`):
            The model's `config.id2label`.

    Returns:
        `dict`: from each value of the label column to the model's label id.

    Raises:
        [`InputError`]: if a label is not a class of the model, or if the column holds lists (multi-label data) or
            decimal numbers (regression).
    """
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        names = dict(enumerate(feature.names))
    elif not isinstance(feature, Value):
        raise InputError(
            "label_column_name",
            f"column {label_column!r} holds lists of labels; one class per image is needed (multi-label data do not fit).",
        )
    elif feature.dtype.startswith("float"):
        raise InputError(
            "label_column_name",
            f"column {label_column!r} holds decimal numbers; one class per image is needed (regression does not fit).",
        )
    else:
        values = distinct(dataset, label_column)
        if is_number(feature):
            unknown = [value for value in values if value not in id2label]
            if unknown:
                raise InputError(
                    "label_column_name",
                    f"label {unknown[0]} of column {label_column!r} is no label id of the model ({len(id2label)} labels).",
                )
            return {value: int(value) for value in values}
        names = {value: value for value in values}

    ids = label_ids(id2label)
    unknown = [name for name in names.values() if plain(name) not in ids]
    if unknown:
        raise InputError("label_column_name", unknown_labels(unknown, label_column, id2label))
    found = {}
    for value, name in names.items():
        same_name = ids[plain(name)]
        if len(same_name) > 1 and value not in same_name:
            raise InputError(
                "label_column_name",
                f"{name!r} of column {label_column!r} is the name of {len(same_name)} classes of the model "
                f"({listing(same_name)}); name a column of label ids.",
            )
        found[value] = value if len(same_name) > 1 else same_name[0]
    return found


def unknown_labels(unknown: list, label_column: str, id2label: dict[int, str]) -> str:
    """
    The error message about class names that the model does not have. If the model has no class names at all, it says
    what to do.
    """
    if all(re.fullmatch(r"LABEL_\d+", name) for name in id2label.values()):
        return (
            f"the model's classes have no names (LABEL_0, …), those of column {label_column!r} do ({listing(unknown, 3)}). "
            "Name a column of label ids, or add --labels_by_position if class i of the data is class i of the model (in "
            "Python, cast the column to Value('int64'))."
        )
    return (
        f"the model has no label {listing(unknown, 3)} of column {label_column!r}. Its labels: "
        f"{listing(id2label.values())}."
    )


def by_position(dataset: Dataset, label_column: str, id2label: dict[int, str]) -> Dataset:
    """
    Returns the dataset with the label column cast to integers: class i of the dataset is taken for class i of the
    model.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        label_column (`str`):
            A `ClassLabel` column.
        id2label (`dict[int, str]`):
            The model's `config.id2label`.

    Raises:
        [`InputError`]: if the column is not a `ClassLabel`, or has another number of classes than the model.
    """
    feature = dataset.features[label_column]
    if not isinstance(feature, ClassLabel):
        raise InputError("labels_by_position", f"column {label_column!r} has no class names that could be counted.")
    if feature.num_classes != len(id2label):
        raise InputError(
            "labels_by_position",
            f"column {label_column!r} has {feature.num_classes} classes and the model {len(id2label)}.",
        )
    return dataset.cast_column(label_column, Value("int64"))


def read_column(dataset: Dataset, column: str) -> list:
    """The values of one column. Other columns are not read, so no image is decoded."""
    return dataset.select_columns([column])[:][column]


def distinct(dataset: Dataset, column: str) -> list:
    """The different values of a column, sorted as text. Missing values are left out."""
    return sorted({value for value in read_column(dataset, column) if value is not None}, key=str)


def label_ids(id2label: dict[int, str]) -> dict[str, list[int]]:
    """
    The label ids of each class name, which is written as [`plain`] returns it. A name can have several ids: ImageNet
    has two classes named "crane".
    """
    ids = defaultdict(list)
    for number, name in sorted(id2label.items()):
        ids[plain(name)].append(number)
    return dict(ids)


def plain(name: str | int) -> str:
    """
    A class name in lower case and with spaces instead of underscores, since a dataset and the model trained on it
    often differ in these.
    """
    return str(name).strip().lower().replace("_", " ")


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def is_text(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_number(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "bool"))


def is_class(feature: ClassLabel, value: str | int) -> bool:
    """Whether a class of a request, given by name or id, is a class of this `ClassLabel` column."""
    return value in feature.names or (str(value).isdigit() and int(value) < len(feature.names))


def fits_model(dataset: Dataset, column: str, id2label: dict[int, str]) -> bool:
    """
    Whether all labels of a column are classes of the model. The first 100 rows are checked first, which rules out most
    columns of text quickly.
    """
    try:
        return all(
            match_labels(part, column, id2label) for part in (dataset.select(range(min(len(dataset), 100))), dataset)
        )
    except InputError:
        return False


def same_labels(dataset: Dataset, columns: list[str], id2label: dict[int, str]) -> bool:
    """Whether these columns give every image the same label id of the model."""
    found = []
    for column in columns:
        ids = match_labels(dataset, column, id2label)
        found.append([ids.get(value) for value in read_column(dataset, column)])
    return all(labels == found[0] for labels in found[1:])
