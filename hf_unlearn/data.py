"""Datasets: load one, find its columns, split it by a request, and turn its rows into `pixel_values` and `labels`."""

import math
import mmap
import os.path
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import psutil
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image
from PIL import Image as PILImage

from .errors import InputError, listing
from .forget_request import ForgetRequest
from .image_hash import pixel_sha256


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
            A dataset id on the hub, a folder written by `save_to_disk`, a folder of images or of parquet/arrow files,
            or one parquet or arrow file.
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
        [`InputError`]: if there is no such dataset.
    """
    path = Path(dataset_name)
    if path.suffix in (".parquet", ".arrow") and path.is_file():
        return datasets.load_dataset(path.suffix[1:], data_files={"train": str(path)}, cache_dir=cache_dir)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        dataset = datasets.load_from_disk(str(path))
        return dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    try:
        return datasets.load_dataset(
            dataset_name, dataset_config_name, revision=revision, token=token, cache_dir=cache_dir
        )
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("dataset_name", f"cannot load {dataset_name!r}: {reason}") from error


def load_image_folder(argument: str, folder: str) -> Dataset:
    """All images below a folder, with a `label` column if they lie in one subfolder per class."""
    if not Path(folder).is_dir():
        raise InputError(argument, f"there is no folder {folder!r}.")
    try:
        return datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(argument, f"no images found in {folder!r}.") from error


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


def find_label_column(dataset: Dataset, label_column: str | None = None) -> str | None:
    """
    The column that holds the labels: the one named, else `label`, `labels` or `fine_label`, else the only `ClassLabel`.

    Returns:
        `str` or `None`: `None` if the dataset has no labels, which unlearning by JiT does not need.

    Raises:
        [`InputError`]: if the named column is missing, or several would do.
    """
    if label_column is not None:
        if label_column not in dataset.column_names:
            raise InputError(
                "label_column_name", f"there is no column {label_column!r}. Valid: {listing(dataset.column_names)}."
            )
        return label_column
    for name in ("label", "labels"):
        if name in dataset.column_names:
            return name
    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if len(candidates) > 1:
        raise InputError("label_column_name", f"several columns could be the labels: {listing(candidates)}; name one.")
    return candidates[0] if candidates else None


def read_column(dataset: Dataset, column: str) -> list:
    """The values of one column, without touching (or decoding) any other."""
    return dataset.select_columns([column])[:][column]


def split_dataset(
    dataset: Dataset,
    request: ForgetRequest,
    label_column: str | None = None,
    image_column: str | None = None,
) -> DatasetDict:
    """
    Splits a dataset into what the request names and the rest. No image is decoded and the order of rows is kept.

    Args:
        dataset (`datasets.Dataset`):
            The training images (or, for requests by class or column, any split).
        request ([`ForgetRequest`]):
            What to forget.
        label_column (`str`, *optional*):
            The column of the labels; found from the features when not given.
        image_column (`str`, *optional*):
            The column of the images; found from the features when not given. Needed for requests by file name only.

    Returns:
        `DatasetDict` with the splits `forget` and `retain`.

    Raises:
        [`InputError`]: if the request names something the dataset does not have, nothing, or everything.
    """
    forget = matching_rows(dataset, request, label_column, image_column)
    if len(forget) == len(dataset):
        raise InputError(
            _argument_of(request), f"the request covers all {len(dataset)} images: nothing would be retained."
        )
    return DatasetDict(forget=dataset.select(forget), retain=drop_rows(dataset, forget))


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
        column = find_label_column(dataset, label_column)
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
    absolute = [path for path in paths if os.path.isabs(path)]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""
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


def image_paths(dataset: Dataset, image_column: str) -> list[str]:
    """The path of each image as the dataset lists it, or an empty string for one that has none. Decodes nothing."""
    paths = []
    for batch in dataset.select_columns([image_column]).with_format("arrow").iter(batch_size=1000):
        paths += batch[image_column].combine_chunks().field("path").to_pylist()
    return [path or "" for path in paths]


def match_labels(dataset: Dataset, label_column: str, label2id: dict[str, int]) -> dict:
    """
    Maps each label of the dataset to the model's label id, by name and never by position.

    Args:
        dataset (`datasets.Dataset`):
            Its label column may hold `ClassLabel` ids, names, or the model's own ids as plain integers.
        label_column (`str`):
            The column of the labels.
        label2id (`dict[str, int]`):
            The model's `config.label2id`.

    Returns:
        `dict`: from a value of the label column to the model's label id.

    Raises:
        [`InputError`]: if a class of the dataset is none of the model's.
    """
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        names = dict(enumerate(feature.names))
    else:
        values = sorted({value for value in read_column(dataset, label_column) if value is not None}, key=str)
        if all(isinstance(value, int) for value in values):
            ids = set(label2id.values())
            unknown = [value for value in values if value not in ids]
            if unknown:
                raise InputError(
                    "label_column_name",
                    f"label {unknown[0]} of column {label_column!r} is no label id of the model ({len(ids)} labels).",
                )
            return {value: value for value in values}
        names = {value: value for value in values}

    by_name = {_normal(name): label_id for name, label_id in label2id.items()}
    unknown = [name for name in names.values() if _normal(name) not in by_name]
    if unknown:
        raise InputError(
            "label_column_name",
            f"the model has no label {listing(unknown, 3)} of column {label_column!r}. Its labels: {listing(label2id)}.",
        )
    return {value: by_name[_normal(name)] for value, name in names.items()}


def _normal(name: str) -> str:
    """Label names differ in case and in spaces against underscores between a dataset and a model trained on it."""
    return str(name).strip().lower().replace("_", " ")


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
            What [`match_labels`] returns; needed together with `label_column`.
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
