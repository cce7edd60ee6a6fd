"""Splits a dataset by a request into the images to forget and the images to retain."""

import os.path
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset

from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from ..request.image_hash import pixel_sha256
from ..terminal import say
from .image_dataset import common_folder, find_image_column, hash_images, image_file_names, image_paths
from .labels import find_label_column, read_column
from .sampling import MOST_SAMPLES
from .streaming import StreamedRows


@dataclass(frozen=True)
class ForgetSource:
    """
    Where a forget set comes from: the arguments of [`split_dataset`]. It is an attribute of the split `forget`, and is
    lost when the split is changed (`map`, `select`, `cast_column`).

    Args:
        request ([`ForgetRequest`]):
            The request.
        dataset (`datasets.Dataset` or [`~data.streaming.StreamedRows`]):
            The whole training split.
        label_column (`str` or `None`):
            The column in which the classes of the request were found.
    """

    request: ForgetRequest
    dataset: Dataset | StreamedRows
    label_column: str | None


def remember_source(forget: Dataset, source: ForgetSource) -> None:
    """Lets a forget set know where it comes from."""
    forget.forget_source = source  # ty: ignore[missing-attribute]  no attribute of `datasets`: it is made here


def source_of(forget: object) -> ForgetSource | None:
    """
    The [`ForgetSource`] of a forget set; `None` if the dataset was not made by [`split_dataset`], or was changed
    since.
    """
    return getattr(forget, "forget_source", None)


def split_dataset(
    dataset: Dataset | IterableDataset | StreamedRows,
    request: ForgetRequest,
    label_column: str | None = None,
    image_column: str | None = None,
    *,
    test_dataset: Dataset | IterableDataset | StreamedRows | None = None,
    max_eval_samples: int = MOST_SAMPLES,
) -> DatasetDict:
    """
    Splits a dataset by a request into the images to forget and the images to retain. No image is decoded and the order
    of rows is kept. The split `forget` remembers the request: a trainer that gets it knows what kind of forget set it
    is, and writes the request into the deletion record and the model card.

    A streamed dataset (`load_dataset(..., streaming=True)`) is split without loading it: of all rows only the columns of
    the labels and of the request are read, and the images of the splits. `forget` has all its images, every other
    split at most `max_eval_samples`, drawn at random. The splits have the image and the columns that were read.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            The training images. For a request by class or column it can be any split.
        request ([`ForgetRequest`]):
            What to forget. Requests by file name, path or pixels do not stream.
        label_column (`str`, *optional*):
            The column of the labels; found from the features and the classes of the request if not given.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given. Only requests by file name, path or pixels
            and streamed datasets need it.
        test_dataset (`datasets.Dataset` or `datasets.IterableDataset`, *optional*):
            Unseen images with the same columns. They are split in the same way and serve for measuring only.
        max_eval_samples (`int`, *optional*, defaults to 10,000):
            Of a streamed dataset, how many images each split but `forget` has at most; 0 for all.

    Returns:
        `DatasetDict`: the splits `forget` and `retain`. With a `test_dataset` also `forget_test`, the unseen images
        with the classes or values of the request, and `retain_test`, all other unseen images; a split without images
        is left out.

    Raises:
        [`InputError`]: if the request names something that the dataset does not have, or names all its images.
    """
    train = StreamedRows("dataset", dataset) if isinstance(dataset, IterableDataset) else dataset
    test = StreamedRows("test_dataset", test_dataset) if isinstance(test_dataset, IterableDataset) else test_dataset
    check_dataset("dataset", train)
    check_dataset("test_dataset", test)
    rows = train.columns_for(request, label_column) if isinstance(train, StreamedRows) else train
    if request.kind == "classes":
        label_column = find_label_column(rows, label_column, classes=request.classes)
    forget = matching_rows(rows, request, label_column, image_column)
    if len(forget) == len(rows):
        raise InputError(
            _argument_of(request), f"the request covers all {len(rows)} images: nothing would be retained."
        )
    splits = DatasetDict()
    if isinstance(train, StreamedRows):
        splits["forget"] = train.read("forget", forget, image_column)
        splits["retain"] = train.draw("retain", other_rows(len(rows), forget), image_column, max_eval_samples)
    else:
        splits["forget"], splits["retain"] = train.select(forget), drop_rows(train, forget)
    remember_source(splits["forget"], ForgetSource(request, train, label_column))
    if test is not None:
        for name, part in split_unseen(test, request, label_column, image_column, max_eval_samples).items():
            splits[name] = part
    return splits


def split_unseen(
    test: Dataset | StreamedRows,
    request: ForgetRequest,
    label_column: str | None,
    image_column: str | None,
    max_eval_samples: int,
) -> dict[str, Dataset]:
    """
    Splits unseen images into `forget_test`, those with the classes or values of the request, and `retain_test`, all
    others. A split without images is left out. For the arguments see [`split_dataset`].
    """
    if request.kind == "column" and request.column not in test.column_names:
        say(f"The unseen images have no column {request.column!r} and are left out.")
        return {}
    if isinstance(test, StreamedRows):
        rows = test.columns_for(request if request.kind in ("classes", "column") else None, label_column)
        named = rows_of_unseen(rows, [request], label_column, image_column)
        parts = {"forget_test": sorted(named), "retain_test": other_rows(len(rows), named)}
        return {name: test.draw(name, part, image_column, max_eval_samples) for name, part in parts.items() if part}
    named = rows_of_unseen(test, [request], label_column, image_column)
    splits = {"forget_test": test.select(sorted(named)), "retain_test": drop_rows(test, named)}
    return {name: split for name, split in splits.items() if len(split)}


def rows_of_unseen(
    test_dataset: Dataset, requests: list[ForgetRequest], label_column: str | None, image_column: str | None
) -> set[int]:
    """
    Row numbers of the unseen images with the classes or values of these requests. A request for single images or
    random images has none.
    """
    rows = set()
    for request in requests:
        if request.kind == "classes" or (request.kind == "column" and request.column in test_dataset.column_names):
            rows.update(matching_rows(test_dataset, request, label_column, image_column, every_value=False))
    return rows


def matching_rows(
    dataset: Dataset,
    request: ForgetRequest,
    label_column: str | None = None,
    image_column: str | None = None,
    every_value: bool = True,
) -> list[int]:
    """
    Finds the rows that a request names.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        request ([`ForgetRequest`]):
            What to forget.
        label_column (`str`, *optional*):
            The column of the labels; found from the features and the classes of the request if not given.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given.
        every_value (`bool`, *optional*, defaults to `True`):
            Whether each class, value or image of the request must occur. Use `False` for unseen images, which may lack
            some.

    Returns:
        `list[int]`: row numbers, sorted.

    Raises:
        [`InputError`]: if the request names something that the dataset does not have.
    """
    if request.classes is not None:
        column = find_label_column(dataset, label_column, classes=request.classes)
        if column is None:
            raise InputError("label_column_name", "forgetting a class needs a label column and the dataset has none.")
        return _rows_with(dataset, column, request.classes, "classes", every_value)
    if request.column is not None and request.values is not None:
        if request.column not in dataset.column_names:
            raise InputError(
                "column", f"there is no column {request.column!r}. Valid: {listing(dataset.column_names)}."
            )
        return _rows_with(dataset, request.column, request.values, "values", every_value)
    if request.indices is not None:
        last = len(dataset) - 1
        if max(request.indices) > last:
            raise InputError("indices", f"{max(request.indices)} is out of range: rows run from 0 to {last}.")
        return sorted(request.indices)
    if request.ids is not None:
        return _rows_with_ids(dataset, request.ids, request.id_column, image_column, every_value)
    if request.files is not None:
        return _rows_of_files(dataset, request.files, find_image_column(dataset, image_column), every_value)
    if request.image_sha256 is not None:
        return _rows_with_hashes(dataset, request.image_sha256, find_image_column(dataset, image_column), every_value)
    return request.choose_random(len(dataset))


def _argument_of(request: ForgetRequest) -> str:
    """Name of the [`ForgetRequest`] argument that decides how large the forget set is, for error messages."""
    if request.kind == "column":
        return "values"
    if request.kind == "random":
        return "count" if request.count is not None else "fraction"
    return request.kind


def _rows_with(
    dataset: Dataset, column: str, values: Sequence[str | float], argument: str, every_value: bool
) -> list[int]:
    """Row numbers where `column` has one of these values. If `every_value`, each value must occur."""
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        wanted: dict = {_class_id(feature, value, argument): value for value in values}
    else:
        wanted = {_as_type_of(feature.dtype, value): value for value in values}
    column_values = read_column(dataset, column)
    rows = [row for row, value in enumerate(column_values) if value in wanted]
    missing = set(wanted) - {column_values[row] for row in rows}
    if missing and every_value:
        value = wanted[missing.pop()]
        present = sorted(set(column_values), key=str)
        names = [feature.int2str(v) for v in present if v >= 0] if isinstance(feature, ClassLabel) else present
        raise InputError(argument, f"no image has {column} {value!r}. Valid: {listing(names)}.")
    return rows


def _class_id(feature: ClassLabel, value: str | float, argument: str) -> int:
    """The dataset's label id of a class that is given by name or id."""
    if value in feature.names:
        return feature.names.index(str(value))
    if str(value).isdigit() and int(value) < len(feature.names):
        return int(value)
    raise InputError(argument, f"unknown class {value!r}. Valid: {listing(feature.names)}.")


def _as_type_of(dtype: str, value: str | float) -> str | float:
    """
    Converts a value from a flag or a file to the type of the column: "3" matches the number 3 in a column of integers.
    """
    if dtype.startswith(("int", "uint")) and str(value).lstrip("-").isdigit():
        return int(value)
    if dtype == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    return str(value) if dtype in ("string", "large_string") else value


def _rows_with_ids(
    dataset: Dataset, ids: list[str], id_column: str | None, image_column: str | None, every_value: bool
) -> list[int]:
    """
    Row numbers of the request's `ids`, which are looked up in its `id_column` or among the file names of the images.
    """
    if id_column is not None:
        if id_column not in dataset.column_names:
            raise InputError("id_column", f"there is no column {id_column!r}. Valid: {listing(dataset.column_names)}.")
        present = [str(value) for value in read_column(dataset, id_column)]
        where = f"the column {id_column!r}"
    else:
        present = image_file_names(dataset, find_image_column(dataset, image_column))
        where = "the file names of the images"
    wanted = {str(value) for value in ids}
    rows = [row for row, value in enumerate(present) if value in wanted]
    missing = sorted(wanted - {present[row] for row in rows})
    if missing and every_value:
        raise InputError("ids", f"not found in {where}: {listing(missing, 3)}. For example there is {present[0]!r}.")
    return rows


def _rows_of_files(dataset: Dataset, files: list[str], image_column: str, every_value: bool) -> list[int]:
    """
    Row numbers of the images at these paths. They are compared with the paths that the dataset lists: first relative
    to the folder that contains all images, then by the end of the path, which must fit one image only. No file is
    opened.
    """
    paths = image_paths(dataset, image_column)
    root = common_folder(dataset, image_column) or ""
    relative = [Path(os.path.relpath(path, root) if os.path.isabs(path) else path).as_posix() for path in paths]
    by_name = defaultdict(list)
    for row, path in enumerate(paths):
        by_name[Path(path).name].append(row)
    rows = set()
    for file in files:
        same_name = by_name.get(file.split("/")[-1], [])
        found = [row for row in same_name if relative[row] == file]
        found = found or [row for row in same_name if Path(paths[row]).as_posix().endswith("/" + file)]
        if len(found) > 1:
            raise InputError("files", f"{file!r} is the name of {len(found)} images; name their folder as well.")
        if not found and every_value:
            raise InputError("files", f"there is no image {file!r}. For example there is {relative[0]!r}.")
        rows.update(found)
    return sorted(rows)


def _rows_with_hashes(dataset: Dataset, hashes: list[str], image_column: str, every_value: bool) -> list[int]:
    """Row numbers of all images with these pixel hashes. Decodes every image."""
    present = hash_images(dataset, image_column, pixel_sha256)
    rows = [row for row, value in enumerate(present) if value in set(hashes)]
    missing = sorted(set(hashes) - set(present))
    if missing and every_value:
        raise InputError(
            "image_sha256",
            f"{len(missing)} of {len(set(hashes))} images are not in the data, to the pixel: {listing(missing, 2)}. "
            "`hf-unlearn request check --near_copies` looks for near copies.",
        )
    return rows


def drop_rows(dataset: Dataset, rows: Iterable[int]) -> Dataset:
    """Returns the dataset without these rows."""
    return dataset.select(other_rows(len(dataset), rows))


def other_rows(number: int, rows: Iterable[int]) -> list[int]:
    """The rows of a dataset of `number` rows without these."""
    gone = set(rows)
    return [row for row in range(number) if row not in gone]


def check_dataset(argument: str, dataset: object) -> None:
    """
    Checks that an argument is a single split whose rows have numbers.

    Args:
        argument (`str`):
            Name of the argument, for error messages.
        dataset (`Dataset` or `None`):
            The value of the argument.

    Raises:
        [`InputError`]: if it has several splits, or is an iterable dataset, whose rows have no numbers.
    """
    if isinstance(dataset, dict):
        raise InputError(argument, f"has several splits; name one of them: {listing(dataset)}.")
    if isinstance(dataset, datasets.IterableDataset | torch.utils.data.IterableDataset):
        raise InputError(
            argument, "is an iterable dataset, whose rows have no numbers; `split_dataset` takes them from one."
        )
