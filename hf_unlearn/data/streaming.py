"""
A dataset that is streamed: of all rows only the columns are read that say what a row is, of some rows the image as well.
"""

import io
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image, IterableDataset, NamedSplit, Split, Value
from datasets.fingerprint import Hasher
from datasets.iterable_dataset import ArrowExamplesIterable, ExamplesIterable
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from .image_dataset import find_image_column
from .labels import fits_model, is_text
from .parquet_files import ParquetFiles, parquet_files_of
from .sampling import remember_size


# At most so many rows that lie together are drawn together: to read a whole page of small images takes as long as to
# read one of them, but neighbours are often alike.
TOGETHER = 8
# Rows of a dataset that is no parquet that are in memory at once.
BATCH = 100
# The column of a dataset of which no column was read.
ROW = "row number"


class StreamedRows:
    """
    The rows of a streamed dataset, by their numbers. Their order is that of the files, as without streaming.

    Args:
        argument (`str`):
            Name of the argument that holds the dataset, for error messages.
        dataset (`datasets.IterableDataset`):
            The dataset. Parquet files are read in parts. Anything else is gone through from the beginning, for the columns
            and for the images of each split; it must give the same rows every time.
        cache_dir (`str`, *optional*):
            Where the images that were read are kept; default: the cache of `datasets`. Those of a dataset that is no
            parquet are deleted when they are no longer used.

    Attributes:
        columns (`datasets.Dataset`): the columns of all rows that were read so far.
        seen (`dict[str, list[int]]`): by split, the rows whose images were read.

    Raises:
        [`InputError`]: if the dataset does not say which columns it has.
    """

    def __init__(self, argument: str, dataset: IterableDataset, cache_dir: str | None = None):
        if dataset.features is None:
            raise InputError(
                argument, "is an iterable dataset that does not say its features; give them with cast(features)."
            )
        self.dataset, self.cache_dir = dataset, cache_dir
        self.features: Features = dataset.features
        self.files: ParquetFiles | None = parquet_files_of(dataset)
        self.columns: Dataset | None = None
        self.seen: dict[str, list[int]] = {}

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    @property
    def split(self) -> NamedSplit | None:
        return self.dataset.split

    @property
    def urls(self) -> list[str]:
        """Paths or addresses of the files; empty if the dataset is no parquet."""
        return self.files.urls if self.files is not None else []

    @property
    def columns_read(self) -> list[str]:
        """The columns that were read of all rows."""
        return [name for name in self.read_columns([]).column_names if name != ROW]

    @property
    def _fingerprint(self) -> str | None:
        """As a `datasets.Dataset` has it: it changes with the data; `None` if the dataset is no parquet."""
        return self.files.fingerprint if self.files is not None else None

    def __len__(self) -> int:
        return len(self.read_columns([]))

    def columns_for(
        self,
        request: ForgetRequest | None = None,
        label_column: str | None = None,
        id2label: dict[int, str] | None = None,
    ) -> Dataset:
        """
        Reads the columns of all rows that a request and the labels need.

        Args:
            request ([`ForgetRequest`], *optional*):
                What to forget.
            label_column (`str`, *optional*):
                The column of the labels. If it is not known, every column that can hold them is read: those that are
                called `label` or `labels` or have class names, else those of text.
            id2label (`dict[int, str]`, *optional*):
                The model's `config.id2label`. Columns of text are then read as well if no other has its classes.

        Returns:
            `datasets.Dataset`: these columns, in memory.

        Raises:
            [`InputError`]: if a column does not exist, or if every image would have to be read to answer the request.
        """
        named = {"label_column_name": label_column}
        if request is not None:
            if request.kind in ("files", "image_sha256") or (request.kind == "ids" and request.id_column is None):
                raise InputError(
                    request.kind,
                    "does not stream: every image would be read. Valid with streaming: classes, column and values, "
                    "indices, ids with id_column, fraction, count.",
                )
            named |= {"column": request.column, "id_column": request.id_column}
        for argument, name in named.items():
            if name is not None and name not in self.features:
                raise InputError(argument, f"there is no column {name!r}. Valid: {listing(self.features)}.")
        names = [name for name in named.values() if name is not None]
        if label_column is not None:
            return self.read_columns(names)
        texts = [name for name, feature in self.features.items() if is_text(feature)]
        labels = [
            name
            for name, feature in self.features.items()
            if name in ("label", "labels") or isinstance(feature, ClassLabel)
        ]
        columns = self.read_columns([*names, *(labels or texts)])
        if id2label is None or not labels or any(fits_model(columns, name, id2label) for name in labels):
            return columns
        return self.read_columns([*names, *texts])

    def read_columns(self, names: Sequence[str]) -> Dataset:
        """Reads these columns of all rows, beside those that were read before."""
        known = set(self.columns.column_names) if self.columns is not None else set()
        if self.columns is not None and known.issuperset(names):
            return self.columns
        names = [name for name in self.features if name in known or name in names]
        features = Features({name: self.features[name] for name in names})
        if self.files is not None:
            table = self.files.columns(names)
        else:
            # Without a column, there would be no rows to count.
            stream = self.dataset.select_columns(names or self.column_names[:1]).with_format("arrow")
            tables = [batch.cast(features.arrow_schema) if names else batch for batch in stream.iter(batch_size=BATCH)]
            table = pa.concat_tables(tables) if tables else features.arrow_schema.empty_table()
        if not names:
            features = Features({ROW: Value("int64")})
            table = pa.table({ROW: range(self.files.num_rows if self.files is not None else len(table))})
        self.columns = Dataset(InMemoryTable(table), info=DatasetInfo(features=features))
        return self.columns

    def draw(self, split: str, rows: list[int], image_column: str | None, number: int) -> Dataset:
        """
        Draws rows, always the same ones of the same files, and reads them.

        Args:
            split (`str`):
                Which split it is going to be.
            rows (`list[int]`):
                The rows to draw from, sorted.
            image_column (`str`, *optional*):
                The column of the images; found from the features if not given.
            number (`int`):
                How many are drawn at most; 0: all.

        Returns:
            `datasets.Dataset`: as [`~StreamedRows.read`] returns it. Of parquet files up to [`TOGETHER`] rows are drawn
            at each of many places: they are read together.
        """
        drawn = rows
        if 0 < number < len(rows):
            numbers = np.array(rows)
            column = find_image_column(self, image_column)
            starts = self.files.clusters(column) if self.files is not None else numbers
            cluster = np.searchsorted(starts, numbers, side="right") - 1
            # The place of each row among those of its cluster.
            place = np.arange(len(numbers)) - np.searchsorted(cluster, cluster)
            turn = np.random.default_rng(0).permutation(len(starts))[cluster]
            order = np.lexsort((place, turn, place // TOGETHER))
            drawn = np.sort(numbers[order[:number]]).tolist()
        images = self.read(split, drawn, image_column)
        remember_size(images, len(rows))
        return images

    def read(self, split: str, rows: list[int], image_column: str | None) -> Dataset:
        """
        Reads rows, which are sorted: their images, and their values of the columns that were read.

        For the arguments see [`~StreamedRows.draw`].
        """
        column = find_image_column(self, image_column)
        columns = self.read_columns([])
        kept = [name for name in self.features if name == column or name in columns.column_names]
        values = columns.select(rows)

        def generate() -> Iterator[dict]:
            for row, image in enumerate(self.images(rows, column)):
                row_values = {**values[row], column: image}
                yield {name: row_values[name] for name in kept}

        features = Features({name: self.features[name] for name in kept})
        # What a process has read of parquet files, all others of the machine and later runs find in the cache.
        folder = tempfile.TemporaryDirectory() if self.files is None else None
        version = uuid.uuid4().hex if self.files is None else Hasher.hash([self.files.version, rows, kept])
        images = Dataset.from_generator(
            generate,
            features=features,
            cache_dir=cast(str, folder.name if folder is not None else self.cache_dir),
            fingerprint=version,
            split=self.split or Split.TRAIN,
        )
        if folder is not None:
            weakref.finalize(images.data, folder.cleanup)
        self.seen[split] = rows
        return images

    def images(self, rows: list[int], image_column: str) -> Iterator[dict]:
        """The images of these rows, which are sorted: `bytes` and `path` of each."""
        if self.files is not None:
            yield from self.files.images(rows, image_column)
            return
        stream, wanted = self.dataset.select_columns([image_column]), set(rows)
        if type(self.dataset._ex_iterable) in (ExamplesIterable, ArrowExamplesIterable):
            # As they are stored. Where the stream was changed, `datasets` has decoded the images and would compress them
            # once more.
            stream = stream.cast_column(image_column, Image(decode=False))
        for row, values in enumerate(islice(stream, rows[-1] + 1 if rows else 0)):
            if row in wanted:
                image = values[image_column]
                yield {"bytes": without_loss(image), "path": None} if isinstance(image, PILImage.Image) else image


def without_loss(image: PILImage.Image) -> bytes:
    """An image as a file that has the same pixels."""
    file = io.BytesIO()
    image.save(file, format="PNG" if image.mode in ("1", "L", "LA", "RGB", "RGBA") else "TIFF")
    return file.getvalue()
