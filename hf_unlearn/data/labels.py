"""Which column of a dataset holds the labels, and which class of the model each of them is."""

import re
from collections import defaultdict

from datasets import ClassLabel, Dataset, Value

from ..errors import InputError, listing


def find_label_column(
    dataset: Dataset,
    label_column: str | None = None,
    id2label: dict[int, str] | None = None,
    classes: list[str | int] | None = None,
) -> str | None:
    """
    The column that holds the labels: the one named; else the one whose class names or values are the model's; else the
    one that has the classes of a request; else `label` or `labels`, or the only `ClassLabel`.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        label_column (`str`, *optional*):
            Its name, if it is known.
        id2label (`dict[int, str]`, *optional*):
            The model's `config.id2label`. Among several columns that fit, names count more than numbers, and `label` and
            `labels` more than others. Columns of text count as well if all their values are class names.
        classes (`list[str | int]`, *optional*):
            Classes of a request, where there is no model to ask.

    Returns:
        `str` or `None`: `None` if the dataset has no labels, which unlearning by JiT does not need.

    Raises:
        [`InputError`]: if the named column is missing, or several would do and differ.
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
        # Numbers fit any model with enough classes.
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
    Maps each label of the dataset to the model's label id, by name and never by position. Where the model has several
    classes of one name, the position decides between them.

    Args:
        dataset (`datasets.Dataset`):
            Its label column may hold `ClassLabel` ids, names, or the model's own ids as plain integers.
        label_column (`str`):
            The column of the labels.
        id2label (`dict[int, str]`):
            The model's `config.id2label`.

    Returns:
        `dict`: from a value of the label column to the model's label id.

    Raises:
        [`InputError`]: if a class of the dataset is none of the model's, or the column holds no classes: lists of them
            (multi-label data) or decimal numbers (regression).
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
    """The message about class names that the model does not have, with the way out if it has none at all."""
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
    The dataset with its classes as the model's label ids, taken by their position.

    Raises:
        [`InputError`]: if the column has no class names, or not as many classes as the model.
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
    """The values of one column, without touching (or decoding) any other."""
    return dataset.select_columns([column])[:][column]


def distinct(dataset: Dataset, column: str) -> list:
    """The values that occur in a column, but for missing ones, sorted as text."""
    return sorted({value for value in read_column(dataset, column) if value is not None}, key=str)


def label_ids(id2label: dict[int, str]) -> dict[str, list[int]]:
    """The ids of each class name as [`plain`] writes it. ImageNet has several cranes."""
    ids = defaultdict(list)
    for number, name in sorted(id2label.items()):
        ids[plain(name)].append(number)
    return dict(ids)


def plain(name: str) -> str:
    """Label names differ in case and in spaces against underscores between a dataset and a model trained on it."""
    return str(name).strip().lower().replace("_", " ")


def unique(values) -> list:
    return list(dict.fromkeys(values))


def is_text(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_number(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "bool"))


def is_class(feature: ClassLabel, value: str | int) -> bool:
    """Whether a class of a request, a name or an id, is one of the column's."""
    return value in feature.names or (str(value).isdigit() and int(value) < feature.num_classes)


def fits_model(dataset: Dataset, column: str, id2label: dict[int, str]) -> bool:
    """Whether all classes of a column are the model's. A column of text is looked into before it is read as a whole."""
    try:
        return all(
            match_labels(part, column, id2label) for part in (dataset.select(range(min(len(dataset), 100))), dataset)
        )
    except InputError:
        return False


def same_labels(dataset: Dataset, columns: list[str], id2label: dict[int, str]) -> bool:
    """Whether these columns give each image the same class."""
    found = []
    for column in columns:
        ids = match_labels(dataset, column, id2label)
        found.append([ids.get(value) for value in read_column(dataset, column)])
    return all(labels == found[0] for labels in found[1:])
