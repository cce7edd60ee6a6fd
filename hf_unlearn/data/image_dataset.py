"""Images of a dataset: their column, paths and hashes, whether they can be read, and their `pixel_values`."""

import math
import mmap
import os.path
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from ..errors import InputError, listing
from .labels import read_column


if TYPE_CHECKING:
    from transformers import BaseImageProcessor, BatchFeature

    from .streaming import StreamedRows


def find_image_column(dataset: "Dataset | StreamedRows", image_column: str | None = None) -> str:
    """
    Finds the column that holds the images.

    Args:
        dataset (`datasets.Dataset` or [`~data.streaming.StreamedRows`]):
            The images.
        image_column (`str`, *optional*):
            The name of the column, if it is known. Otherwise it is the only column with the `Image` feature.

    Returns:
        `str`: the name of the column.

    Raises:
        [`InputError`]: if the named column has no images, or if no column or more than one column has images.
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
    """File name of each image without its folder; an empty string for an image without a file. No image is decoded."""
    return [Path(path).name for path in image_paths(dataset, image_column)]


def image_paths(dataset: Dataset, image_column: str) -> list[str]:
    """Path of each image as the dataset lists it; an empty string for an image without a file. No image is decoded."""
    paths = []
    for batch in dataset.select_columns([image_column]).with_format("arrow").iter(batch_size=1000):
        paths += batch[image_column].combine_chunks().field("path").to_pylist()
    return [path or "" for path in paths]


def common_folder(dataset: Dataset, image_column: str) -> str | None:
    """The folder that contains all images of a dataset, or `None` if the dataset lists no absolute paths."""
    absolute = {os.path.dirname(path) for path in image_paths(dataset, image_column) if os.path.isabs(path)}
    return os.path.commonpath(absolute) if absolute else None


def hash_images(dataset: Dataset, image_column: str, hash_of: Callable[[np.ndarray], str]) -> list[str | None]:
    """
    Hashes every image, on several threads.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        image_column (`str`):
            The column of the images.
        hash_of (`Callable`):
            Maps RGB values of shape `(H, W, 3)`, uint8, to a hash.

    Returns:
        `list[str | None]`: a hash per image; `None` for an image that cannot be read.
    """
    raw = dataset.select_columns([image_column]).cast_column(image_column, Image(decode=False))

    def hash_row(row: int) -> str | None:
        image = decode_image(raw[row][image_column])
        return hash_of(to_rgb(image)) if image is not None else None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(hash_row, range(len(raw))))


def decode_image(image: dict) -> PILImage.Image | None:
    """
    Decodes an image and turns it as its EXIF orientation says.

    Args:
        image (`dict`):
            `path` and `bytes`, one of which may be `None`.

    Returns:
        `PIL.Image.Image` or `None`: `None` if the image cannot be read.
    """
    try:
        decoded = Image().decode_example(image)
        decoded.load()
        return decoded
    except (OSError, SyntaxError, ValueError, TypeError, PILImage.DecompressionBombError):
        return None


def unreadable_images(dataset: Dataset, image_column: str) -> dict[int, str]:
    """
    Decodes every image once, on several threads, to find those that cannot be read.

    Args:
        dataset (`datasets.Dataset`):
            The images.
        image_column (`str`):
            The column of the images.

    Returns:
        `dict[int, str]`: by row number of an unreadable image, its file name, or `"row <number>"` if it has none.
    """
    raw = dataset.select_columns([image_column]).cast_column(image_column, Image(decode=False))

    def is_readable(image: dict) -> bool:
        return decode_image(image) is not None

    with ThreadPoolExecutor() as pool:
        # Rows are read in batches, since reading a single row takes longer than decoding a small image. Batches are
        # short, so that few large images are in memory at once.
        batches = raw.iter(batch_size=32)
        readable = [good for batch in batches for good in pool.map(is_readable, batch[image_column])]
    broken = [row for row, good in enumerate(readable) if not good]
    names = {row: raw[row][image_column] for row in broken}
    return {row: Path((image or {}).get("path") or f"row {row}").name for row, image in names.items()}


class ImageDataset(torch.utils.data.Dataset):
    """
    The images of a dataset as a model takes them. An item has `pixel_values` of shape `(C, H, W)` and, if there are
    labels, `labels` (the model's label id).

    Args:
        dataset (`datasets.Dataset`):
            Raw images. Every mode that Pillow reads (grayscale, RGBA, 16-bit, CMYK, palette) is converted to RGB.
        image_processor (`BaseImageProcessor`):
            The model's image processor.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given.
        label_column (`str`, *optional*):
            The column of the labels; items have no labels if not given.
        label_ids (`dict`, *optional*):
            From each value of `label_column` to the model's label id, as [`~data.labels.match_labels`] returns it.
            Needed together with `label_column`.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: "BaseImageProcessor",
        image_column: str | None = None,
        label_column: str | None = None,
        label_ids: dict | None = None,
    ):
        self.dataset = dataset
        self.image_processor = image_processor
        self.image_column = find_image_column(dataset, image_column)
        self.label_column = label_column
        self.label_ids: dict = label_ids if label_ids is not None else {}
        self.images = dataset.select_columns([self.image_column])
        self.labels = read_column(dataset, label_column) if label_column else None
        self.kept: torch.Tensor | None = None
        self.is_kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[dict]:
        items = [{"pixel_values": pixels} for pixels in self.pixel_values(rows)]
        if self.labels is not None:
            for item, row in zip(items, rows, strict=True):
                item["labels"] = self.label_ids[self.labels[row]]
        return items

    def pixel_values(self, rows: list[int]) -> list[torch.Tensor]:
        """`pixel_values` of these rows, each of shape `(C, H, W)`."""
        if self.kept is None or self.is_kept is None:
            return self.read(rows)
        for row in rows:
            if not self.is_kept[row]:
                self.kept[row] = self.read([row])[0]
                self.is_kept[row] = True
        return [self.kept[row] for row in rows]

    def read(self, rows: list[int]) -> list[torch.Tensor]:
        """Decodes the images of these rows and runs the image processor on them."""
        images = [to_rgb(image) for image in self.images[rows][self.image_column]]
        return list(prepare(self.image_processor, images)["pixel_values"])

    def keep(self) -> None:
        """
        From now on, keeps the `pixel_values` of each image after it is read for the first time. They lie where
        [`shared_tensor`] puts them; if there is no room, nothing is kept.
        """
        first = self.read([0])[0]
        self.kept = shared_tensor((len(self), *first.shape), first.dtype)
        if self.kept is not None:
            # Forked processes share this array as well. It is a numpy array because single values are read, which is
            # faster than from a tensor.
            self.is_kept = np.frombuffer(mmap.mmap(-1, len(self)), dtype=bool)

    def __getstate__(self) -> dict:
        # A process that gets a pickled copy does not share the memory of this one, so it reads the images itself.
        return self.__dict__ | {"kept": None, "is_kept": None}


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """
    Makes a tensor of zeros that forked processes share. It lies in memory if it takes at most a quarter of the free
    memory, else in a temporary file if it takes at most half of the free disk space. The system provides the memory
    page by page as the tensor is filled.

    Args:
        shape (`tuple[int, ...]`):
            Shape of the tensor.
        dtype (`torch.dtype`):
            Type of the tensor.

    Returns:
        `torch.Tensor` or `None`: `None` if there is no room.
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


def prepare(image_processor: "BaseImageProcessor", images: list[np.ndarray]) -> "BatchFeature":
    """
    Runs an image processor on RGB images.

    Args:
        image_processor (`BaseImageProcessor`):
            The model's image processor.
        images (`list[np.ndarray]`):
            uint8, each of shape `(H, W, 3)`.

    Returns:
        `BatchFeature`: what the image processor returns; `pixel_values` of shape `(B, C, H, W)`.
    """
    if isinstance(image_processor, TimmWrapperImageProcessor):
        # This image processor has no argument for the format of arrays. Pillow images need none.
        return image_processor([PILImage.fromarray(image) for image in images], return_tensors="pt")
    # Without this argument, a processor takes the first axis of an image of height 1 or 3 for the channels.
    return image_processor(images, input_data_format="channels_last", return_tensors="pt")


def to_rgb(image: PILImage.Image) -> np.ndarray:
    """
    Converts an image of any mode to RGB. 16-bit images are scaled to 8 bits; Pillow's own conversion would set every
    value above 255 to 255.

    Args:
        image (`PIL.Image.Image`):
            The image.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8.
    """
    if image.mode.startswith("I"):
        image = PILImage.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return np.array(image.convert("RGB"))


def pixel_range(image_processor: "BaseImageProcessor") -> tuple[torch.Tensor, torch.Tensor]:
    """
    The lowest and the highest value that a pixel can have after preprocessing, per channel. The image processor is run
    on a black and a white image, and the pixel in the centre is read, which is never padding.

    Args:
        image_processor (`BaseImageProcessor`):
            The model's image processor.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: lowest and highest value, each of shape `(C, 1, 1)`, in units of
        `pixel_values`.
    """
    constant = [np.full((256, 256, 3), value, dtype=np.uint8) for value in (0, 255)]
    pixel_values = prepare(image_processor, constant)["pixel_values"]
    height, width = pixel_values.shape[-2:]
    black, white = pixel_values[:, :, height // 2, width // 2, None, None]
    return torch.minimum(black, white), torch.maximum(black, white)
