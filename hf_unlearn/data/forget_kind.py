"""Finds out what a forget set is: a whole class, a part of a class (sub-class), or single images."""

from typing import Literal

from datasets import Dataset

from ..errors import InputError
from ..request.forget_request import ForgetRequest
from .image_dataset import ImageDataset
from .labels import find_label_column, match_labels, read_column
from .rows import Rows
from .splits import ForgetSource


ForgetKind = Literal["class", "subclass", "images"]


def kind_of_request(
    request: ForgetRequest | None, label_column: str | None, source: ForgetSource | None = None
) -> ForgetKind:
    """
    What kind of forget set a request asks for.

    Args:
        request ([`ForgetRequest`], *optional*):
            The request, or `None` if the forget set is a folder of images.
        label_column (`str`, *optional*):
            The column that holds the model's classes.
        source ([`~data.splits.ForgetSource`], *optional*):
            Where the classes of the request were found. If that is another column than `label_column`, they are
            sub-classes of the model's classes.

    Returns:
        `str`: `"class"`, `"subclass"` or `"images"`.
    """
    if request is not None and request.kind == "classes":
        other = source.label_column if source is not None and label_column is not None else None
        return "subclass" if other is not None and other != label_column else "class"
    if request is not None and request.kind == "column":
        return "class" if request.column == label_column else "subclass"
    return "images"


def kind_of_labels(
    forget: Rows, retained: Rows | None, label_column: str | None, id2label: dict[int, str]
) -> tuple[ForgetKind, str]:
    """
    What kind of forget set it is when there is no request. It counts as a class only if all its images have the same
    label and no retained image has that label; otherwise it counts as single images.

    Args:
        forget (`Dataset`):
            The images to forget.
        retained (`Dataset` or `None`):
            The retained images.
        label_column (`str` or `None`):
            The column of the labels. If `None`, it is found from the features.
        id2label (`dict[int, str]`):
            The model's `config.id2label`.

    Returns:
        `tuple[str, str]`: `"class"` or `"images"`, and the reason in words.
    """
    if retained is None or len(retained) == 0:
        return "images", "there are no retained images to tell whether it is all of a class"
    labels = labels_of(forget, label_column, id2label)
    if labels is None:
        return "images", "it has no labels"
    if len(labels) > 1:
        return "images", f"it has images of {len(labels)} classes"
    of_retained = labels_of(retained, label_column, id2label)
    if of_retained is None:
        return "images", "the retained images have no labels to tell whether it is all of a class"
    if labels & of_retained:
        return "images", "the retained images have more of its class"
    return "class", "all its images are of one class, and the retained images have none of it"


def labels_of(dataset: Rows, label_column: str | None, id2label: dict[int, str]) -> set[int | None] | None:
    """
    The model's label ids that occur in a dataset. `None` if it has no labels, or labels that are not classes of the
    model.
    """
    if isinstance(dataset, ImageDataset):
        if dataset.labels is None:
            return None
        return {dataset.label_ids.get(value) for value in dataset.labels}
    if isinstance(dataset, Dataset) and "pixel_values" not in dataset.column_names:
        try:
            column = find_label_column(dataset, label_column, id2label)
            label_ids = match_labels(dataset, column, id2label) if column is not None else {}
        except InputError:
            return None
        return {label_ids.get(value) for value in read_column(dataset, column)} if column is not None else None
    if "labels" not in dataset[0]:
        return None
    if isinstance(dataset, Dataset):
        return set(read_column(dataset, "labels"))
    return {int(dataset[row]["labels"]) for row in range(len(dataset))}
