"""Datasets: load one, find its columns, split it by a request, and turn its rows into `pixel_values` and `labels`."""

import math
import mmap
import os.path
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import psutil
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image
from PIL import Image as PILImage

from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from ..request.image_hash import pixel_sha256
from ..terminal import say
from .folders import check_nothing_left_out, is_image_folder, load_image_splits
from .labels import find_label_column, read_column


def load_dataset(
    dataset_name: str,
    dataset_config_name: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> DatasetDict:
    """
    Loads a dataset from wherever it is.

    Args:
        dataset_name (`str`):
            A dataset id on the hub, a folder written by `save_to_disk`, a folder of images (see
            [`~folders.load_image_splits`]) or of parquet/arrow files, or one parquet or arrow file.
        dataset_config_name (`str`, *optional*):
            Configuration of a dataset on the hub.
        revision (`str`, *optional*):
            Branch, tag or commit of a dataset on the hub.
        token (`str`, *optional*):
            For a private or gated dataset.
        cache_dir (`str`, *optional*):
            Where downloads are kept.

    Returns:
        `DatasetDict`: all splits; a single unnamed one is called `train`.

    Raises:
        [`InputError`]: if there is no such dataset, or if files of a folder would be left out.
    """
    path = Path(dataset_name)
    if path.suffix in (".parquet", ".arrow") and path.is_file():
        return datasets.load_dataset(path.suffix[1:], data_files={"train": str(path)}, cache_dir=cache_dir)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        dataset = datasets.load_from_disk(str(path))
        return dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    if path.is_dir() and is_image_folder(path):
        return load_image_splits("dataset_name", path)
    try:
        builder = datasets.load_dataset_builder(
            dataset_name, dataset_config_name, revision=revision, token=token, cache_dir=cache_dir
        )
        if path.is_dir():
            check_nothing_left_out(path, builder.config.data_files)
        builder.download_and_prepare()
        return builder.as_dataset()
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0]
        raise InputError("dataset_name", f"cannot load {dataset_name!r}: {reason}") from error


def find_image_column(dataset: Dataset, image_column: str | None = None) -> str:
    """
    The column that holds the images: the one named, else the only one with the `Image` feature.

    Raises:
        [`InputError`]: if it is missing or there is more than one.
    """
    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if image_column is not None:
        if image_column not in candidates:
            raise InputError(
                "image_column_name", f"{image_column!r} is no image column. Valid: {listing(candidates)}."
            )
        return image_column
    if len(candidates) != 1:
        raise InputError(
            "image_column_name",
            f"found {len(candidates)} image columns among {listing(dataset.column_names)}; name one.",
        )
    return candidates[0]


@dataclass(frozen=True)
class ForgetSource:
    """
    Where a forget set comes from: what [`split_dataset`] was given. It stays with the split `forget`, and is lost when
    that is changed (`map`, `select`, `cast_column`).

    Args:
        request ([`ForgetRequest`]):
            What was asked.
        dataset (`datasets.Dataset`):
            The whole training split.
        label_column (`str`, *optional*):
            The column in which the classes of the request were found.
    """

    request: ForgetRequest
    dataset: Dataset
    label_column: str | None


def source_of(forget) -> ForgetSource | None:
    """What [`split_dataset`] remembers of a forget set; `None` if it does not come from there unchanged."""
    return getattr(forget, "forget_source", None)


def split_dataset(
    dataset: Dataset,
    request: ForgetRequest,
    label_column: str | None = None,
    image_column: str | None = None,
    *,
    test_dataset: Dataset | None = None,
) -> DatasetDict:
    """
    Splits a dataset into what the request names and the rest. No image is decoded and the order of rows is kept. The
    split `forget` remembers the request: a trainer that gets it knows what kind of request it is, and so do its record
    and card.

    Args:
        dataset (`datasets.Dataset`):
            The training images (or, for requests by class or column, any split).
        request ([`ForgetRequest`]):
            What to forget.
        label_column (`str`, *optional*):
            The column of the labels; found from the features and the classes of the request when not given.
        image_column (`str`, *optional*):
            The column of the images; found from the features when not given. Needed for requests by file name only.
        test_dataset (`datasets.Dataset`, *optional*):
            Unseen images, with the same columns. Split likewise, for measuring.

    Returns:
        `DatasetDict` with the splits `forget` and `retain` and, of the unseen images, `forget_test` (what belongs to the
        classes or values of the request) and `retain_test`, as far as there are any.

    Raises:
        [`InputError`]: if the request names something the dataset does not have, nothing, or everything.
    """
    check_dataset("dataset", dataset)
    if request.kind == "classes":
        label_column = find_label_column(dataset, label_column, classes=request.classes)
    forget = matching_rows(dataset, request, label_column, image_column)
    if len(forget) == len(dataset):
        raise InputError(
            _argument_of(request), f"the request covers all {len(dataset)} images: nothing would be retained."
        )
    splits = DatasetDict(forget=dataset.select(forget), retain=drop_rows(dataset, forget))
    splits["forget"].forget_source = ForgetSource(request, dataset, label_column)
    if test_dataset is not None:
        check_dataset("test_dataset", test_dataset)
        splits |= split_unseen(test_dataset, request, label_column, image_column)
    return splits


def split_unseen(
    test_dataset: Dataset, request: ForgetRequest, label_column: str | None, image_column: str | None
) -> dict[str, Dataset]:
    """
    Unseen images of what is forgotten, `forget_test`, and the others, `retain_test`; a part without images is left out.
    """
    if request.kind == "column" and request.column not in test_dataset.column_names:
        say(f"The unseen images have no column {request.column!r} and are left out.")
        return {}
    rows = rows_of_unseen(test_dataset, [request], label_column, image_column)
    parts = {"forget_test": test_dataset.select(sorted(rows)), "retain_test": drop_rows(test_dataset, rows)}
    return {name: part for name, part in parts.items() if len(part)}


def rows_of_unseen(
    test_dataset: Dataset, requests: list[ForgetRequest], label_column: str | None, image_column: str | None
) -> set[int]:
    """Rows of unseen images of the classes and values that requests name; one for single images names none."""
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
    Row numbers of what a request names, sorted.

    Args:
        every_value (`bool`, *optional*, defaults to `True`):
            Whether each class, value or image of the request must occur. Unseen images may lack some.

        For the others, the result and the errors see [`split_dataset`].
    """
    if request.kind == "classes":
        column = find_label_column(dataset, label_column, classes=request.classes)
        if column is None:
            raise InputError("label_column_name", "forgetting a class needs a label column and the dataset has none.")
        return _rows_with(dataset, column, request.classes, "classes", every_value)
    if request.kind == "column":
        if request.column not in dataset.column_names:
            raise InputError(
                "column", f"there is no column {request.column!r}. Valid: {listing(dataset.column_names)}."
            )
        return _rows_with(dataset, request.column, request.values, "values", every_value)
    if request.kind == "indices":
        last = len(dataset) - 1
        if max(request.indices) > last:
            raise InputError("indices", f"{max(request.indices)} is out of range: rows run from 0 to {last}.")
        return sorted(request.indices)
    if request.kind == "ids":
        return _rows_with_ids(dataset, request, image_column, every_value)
    if request.kind == "files":
        return _rows_of_files(dataset, request.files, find_image_column(dataset, image_column), every_value)
    if request.kind == "image_sha256":
        return _rows_with_hashes(dataset, request.image_sha256, find_image_column(dataset, image_column), every_value)
    return request.choose_random(len(dataset))


def _argument_of(request: ForgetRequest) -> str:
    """The argument of [`ForgetRequest`] that decides the size of the forget set."""
    if request.kind == "column":
        return "values"
    if request.kind == "random":
        return "count" if request.count is not None else "fraction"
    return request.kind


def _rows_with(dataset: Dataset, column: str, values: list, argument: str, every_value: bool) -> list[int]:
    """Row numbers where `column` is one of `values`, each of which must occur if `every_value`."""
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        wanted = {_class_id(feature, value, argument): value for value in values}
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


def _class_id(feature: ClassLabel, value: str | int, argument: str) -> int:
    """The dataset's label id of a class given by name or by id."""
    if value in feature.names:
        return feature.names.index(value)
    if str(value).isdigit() and int(value) < feature.num_classes:
        return int(value)
    raise InputError(argument, f"unknown class {value!r}. Valid: {listing(feature.names)}.")


def _as_type_of(dtype: str, value):
    """A value from a flag or a file, as the column's own type: "3" matches the number 3 in a column of integers."""
    if dtype.startswith(("int", "uint")) and str(value).lstrip("-").isdigit():
        return int(value)
    if dtype == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    return str(value) if dtype in ("string", "large_string") else value


def _rows_with_ids(dataset: Dataset, request: ForgetRequest, image_column: str | None, every_value: bool) -> list[int]:
    """Row numbers of the ids of a request, looked up in its column or among the file names of the images."""
    if request.id_column is not None:
        if request.id_column not in dataset.column_names:
            raise InputError(
                "id_column", f"there is no column {request.id_column!r}. Valid: {listing(dataset.column_names)}."
            )
        present = [str(value) for value in read_column(dataset, request.id_column)]
        where = f"the column {request.id_column!r}"
    else:
        present = image_file_names(dataset, find_image_column(dataset, image_column))
        where = "the file names of the images"
    wanted = {str(value) for value in request.ids}
    rows = [row for row, value in enumerate(present) if value in wanted]
    missing = sorted(wanted - {present[row] for row in rows})
    if missing and every_value:
        raise InputError("ids", f"not found in {where}: {listing(missing, 3)}. For example there is {present[0]!r}.")
    return rows


def _rows_of_files(dataset: Dataset, files: list[str], image_column: str, every_value: bool) -> list[int]:
    """
    Row numbers of the images at these paths, compared with the paths that the dataset lists: relative to the folder
    that holds them all, else from their end, as far as that tells one image. No file is opened.
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
    """Row numbers of all images with these pixels. Decodes every image."""
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


def hash_images(dataset: Dataset, image_column: str, hash_of: Callable[[np.ndarray], str]) -> list[str | None]:
    """A hash of each image, on several threads; `None` for one that cannot be read."""
    raw = dataset.select_columns([image_column]).cast_column(image_column, Image(decode=False))

    def hash_row(row: int) -> str | None:
        image = decode_image(raw[row][image_column])
        return hash_of(to_rgb(image)) if image is not None else None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(hash_row, range(len(raw))))


def decode_image(image: dict) -> PILImage.Image | None:
    """An image from its `path` or `bytes`, turned as its EXIF data says; `None` if it cannot be read."""
    try:
        decoded = Image().decode_example(image)
        decoded.load()
        return decoded
    except (OSError, SyntaxError, ValueError, TypeError, PILImage.DecompressionBombError):
        return None


def image_file_names(dataset: Dataset, image_column: str) -> list[str]:
    """The file name of each image without its folder, or an empty string for one that has none. Decodes nothing."""
    return [Path(path).name for path in image_paths(dataset, image_column)]


def common_folder(dataset: Dataset, image_column: str) -> str | None:
    """The folder that holds all images of a dataset, if it names their files."""
    absolute = {os.path.dirname(path) for path in image_paths(dataset, image_column) if os.path.isabs(path)}
    return os.path.commonpath(absolute) if absolute else None


def image_paths(dataset: Dataset, image_column: str) -> list[str]:
    """The path of each image as the dataset lists it, or an empty string for one that has none. Decodes nothing."""
    paths = []
    for batch in dataset.select_columns([image_column]).with_format("arrow").iter(batch_size=1000):
        paths += batch[image_column].combine_chunks().field("path").to_pylist()
    return [path or "" for path in paths]


class ImageDataset(torch.utils.data.Dataset):
    """
    Rows of a dataset as the model takes them: `pixel_values` of shape `(C, H, W)` and, when there are labels, `labels`.

    Args:
        dataset (`datasets.Dataset`):
            Raw images; any mode that Pillow reads (grayscale, RGBA, 16-bit, CMYK, palette) is turned into RGB.
        image_processor (`BaseImageProcessor`):
            The model's own.
        image_column (`str`, *optional*):
            Found from the features when not given.
        label_column (`str`, *optional*):
            No labels are returned when not given.
        label_ids (`dict`, *optional*):
            What [`~labels.match_labels`] returns; needed together with `label_column`.
    """

    def __init__(self, dataset, image_processor, image_column=None, label_column=None, label_ids=None):
        self.dataset = dataset
        self.image_processor = image_processor
        self.image_column = find_image_column(dataset, image_column)
        self.label_column = label_column
        self.label_ids = label_ids
        self.images = dataset.select_columns([self.image_column])
        self.labels = read_column(dataset, label_column) if label_column else None
        self.kept = self.is_kept = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict]:
        items = [{"pixel_values": pixels} for pixels in self.pixel_values(rows)]
        if self.labels is not None:
            for item, row in zip(items, rows, strict=True):
                item["labels"] = self.label_ids[self.labels[row]]
        return items

    def pixel_values(self, rows: list[int]) -> list[torch.Tensor]:
        """The images of these rows, of shape `(C, H, W)` each."""
        if self.kept is None:
            return self.read(rows)
        for row in rows:
            if not self.is_kept[row]:
                self.kept[row] = self.read([row])[0]
                self.is_kept[row] = True
        return [self.kept[row] for row in rows]

    def read(self, rows: list[int]) -> list[torch.Tensor]:
        """Decodes and transforms."""
        images = [to_rgb(image) for image in self.images[rows][self.image_column]]
        # Without the format a processor takes an image of height 1 or 3 for one whose first axis is the channel.
        return list(
            self.image_processor(images, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        )

    def keep(self) -> None:
        """From now on each image is read once and kept; see [`shared_tensor`] for where."""
        first = self.read([0])[0]
        self.kept = shared_tensor((len(self), *first.shape), first.dtype)
        if self.kept is not None:
            # Forked processes share this one as well. Not a tensor: it is asked row by row.
            self.is_kept = np.frombuffer(mmap.mmap(-1, len(self)), dtype=bool)

    def __getstate__(self) -> dict:
        # Another process that is no fork of this one does not see what is kept here: it reads for itself.
        return self.__dict__ | {"kept": None, "is_kept": None}


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """
    A tensor of zeros that forked processes share: in memory, taken as it is filled, up to a quarter of what is free;
    else in a temporary file, up to half of the free disk; else none.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= psutil.virtual_memory().available // 4:
        buffer = mmap.mmap(-1, size)
    elif size <= shutil.disk_usage(tempfile.gettempdir()).free // 2:
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            buffer = mmap.mmap(file.fileno(), size)
    else:
        return None
    return torch.frombuffer(buffer, dtype=dtype).view(shape)


def to_rgb(image: PILImage.Image) -> np.ndarray:
    """
    An image of any mode as an array of shape `(H, W, 3)`, 8 bits a channel. 16-bit images are scaled, which Pillow's
    own conversion does not do: it cuts every value above 255.
    """
    if image.mode.startswith("I"):
        image = PILImage.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return np.array(image.convert("RGB"))


def pixel_range(image_processor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The lowest and highest value that a pixel can have after preprocessing, per channel: those of a black and of a
    white image, read at the centre, where no padding reaches.

    Returns:
        `tuple` of two `torch.Tensor` of shape `(C, 1, 1)`.
    """
    constant = [np.full((256, 256, 3), value, dtype=np.uint8) for value in (0, 255)]
    pixel_values = image_processor(constant, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    height, width = pixel_values.shape[-2:]
    black, white = pixel_values[:, :, height // 2, width // 2, None, None]
    return torch.minimum(black, white), torch.maximum(black, white)


def unreadable_images(dataset: Dataset, image_column: str) -> dict[int, str]:
    """
    Reads every image once, on several threads, and returns those that cannot be: row number → file name or row.
    """
    raw = dataset.select_columns([image_column]).cast_column(image_column, Image(decode=False))

    def is_readable(image: dict) -> bool:
        return decode_image(image) is not None

    with ThreadPoolExecutor() as pool:
        # Asking a dataset for one row takes longer than decoding a small image; many large ones are not held at once.
        batches = raw.iter(batch_size=32)
        readable = [good for batch in batches for good in pool.map(is_readable, batch[image_column])]
    broken = [row for row, good in enumerate(readable) if not good]
    names = {row: raw[row][image_column] for row in broken}
    return {row: Path((image or {}).get("path") or f"row {row}").name for row, image in names.items()}


def drop_rows(dataset: Dataset, rows) -> Dataset:
    """The dataset without these rows."""
    gone = set(rows)
    return dataset.select([row for row in range(len(dataset)) if row not in gone])


def at_most(split: Dataset, number: int) -> Dataset:
    """The split, or so many random images of it, the same each time, if it has more; 0: all."""
    return split if number == 0 or len(split) <= number else split.shuffle(seed=0).select(range(number))


def check_dataset(argument: str, dataset) -> None:
    """
    Raises:
        [`InputError`]: if it has several splits, or rows that cannot be asked for by number.
    """
    if isinstance(dataset, dict):
        raise InputError(argument, f"has several splits; name one of them: {listing(dataset)}.")
    if isinstance(dataset, datasets.IterableDataset | torch.utils.data.IterableDataset):
        raise InputError(argument, "is an iterable dataset, whose rows have no numbers; load it without streaming.")
