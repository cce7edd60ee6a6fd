"""Images of a dataset: where they lie, whether they can be read, and as the `pixel_values` that a model takes."""

import math
import mmap
import os.path
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from ..errors import InputError, listing
from .labels import read_column


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


def image_file_names(dataset: Dataset, image_column: str) -> list[str]:
    """The file name of each image without its folder, or an empty string for one that has none. Decodes nothing."""
    return [Path(path).name for path in image_paths(dataset, image_column)]


def image_paths(dataset: Dataset, image_column: str) -> list[str]:
    """The path of each image as the dataset lists it, or an empty string for one that has none. Decodes nothing."""
    paths = []
    for batch in dataset.select_columns([image_column]).with_format("arrow").iter(batch_size=1000):
        paths += batch[image_column].combine_chunks().field("path").to_pylist()
    return [path or "" for path in paths]


def common_folder(dataset: Dataset, image_column: str) -> str | None:
    """The folder that holds all images of a dataset, if it names their files."""
    absolute = {os.path.dirname(path) for path in image_paths(dataset, image_column) if os.path.isabs(path)}
    return os.path.commonpath(absolute) if absolute else None


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
        return list(prepare(self.image_processor, images)["pixel_values"])

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


def prepare(image_processor, images: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """
    What an image processor makes of images.

    Args:
        image_processor (`BaseImageProcessor`):
            A model's own.
        images (`list[np.ndarray]`):
            RGB, 8 bits a channel, of shape `(H, W, 3)` each.
    """
    if isinstance(image_processor, TimmWrapperImageProcessor):
        # It takes no word on the format of arrays, and Pillow images leave no doubt about it.
        return image_processor([PILImage.fromarray(image) for image in images], return_tensors="pt")
    # Without the format a processor takes an image of height 1 or 3 for one whose first axis is the channel.
    return image_processor(images, input_data_format="channels_last", return_tensors="pt")


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
    pixel_values = prepare(image_processor, constant)["pixel_values"]
    height, width = pixel_values.shape[-2:]
    black, white = pixel_values[:, :, height // 2, width // 2, None, None]
    return torch.minimum(black, white), torch.maximum(black, white)
