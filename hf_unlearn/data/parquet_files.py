"""Parquet files that are read in parts, from the hub or the disk: some columns of all rows, and the images of some rows."""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, IterableDataset
from datasets.fingerprint import Hasher
from datasets.iterable_dataset import ArrowExamplesIterable
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.table import table_cast

from .parquet_pages import Page, is_read_whole, page_indexes, read_pages, values_of_page


# Files are read on so many threads: a request to the hub is mostly waiting.
NUM_THREADS = 8
# Most bytes of images that a thread reads at once.
MAX_READ = 1 << 22
# The metadata of most files, and the lists of pages before them, lie in so many bytes at the end.
TAIL = 1 << 14


@dataclass(frozen=True)
class RowGroup:
    """
    A row group of a file.

    Args:
        file ([`ParquetFile`]): the file.
        number (`int`): its number in the file.
        first (`int`): number of its first row, counted over all files.
        num_rows (`int`): number of its rows.
    """

    file: "ParquetFile"
    number: int
    first: int
    num_rows: int


@dataclass
class Read:
    """Images that are read at once: their rows in the row group by page, or without pages, of the whole row group."""

    group: RowGroup
    pages: list[tuple[Page, list[int]]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


class ParquetFile:
    """
    A parquet file of which only parts are read.

    Args:
        url (`str`):
            Path or address.
        token (`str`, *optional*):
            Token for a private dataset.
    """

    def __init__(self, url: str, token: str | bool | None = None):
        self.fs, self.path = fsspec.core.url_to_fs(url, **({"token": token} if url.startswith("hf://") else {}))

    @cached_property
    def size(self) -> int:
        return self.fs.info(self.path)["size"]

    def read(self, start: int, end: int) -> bytes:
        """A range of bytes of the file. The buffers of `fsspec` would read 5 MB more each time."""
        if start >= self.size - len(self.tail):
            return self.tail[start - self.size + len(self.tail) : end - self.size + len(self.tail)]
        return self.fs.cat_file(self.path, start=start, end=end, cache_type="none")

    @cached_property
    def tail(self) -> bytes:
        """The end of the file, with all of the metadata."""
        start = max(0, self.size - TAIL)
        tail = self.fs.cat_file(self.path, start=start, end=self.size, cache_type="none")
        missing = int.from_bytes(tail[-8:-4], "little") + 8 - len(tail)
        if missing > 0:
            tail = self.fs.cat_file(self.path, start=start - missing, end=start, cache_type="none") + tail
        return tail

    @property
    def footer(self) -> bytes:
        """The metadata as they are in the file."""
        return self.tail[-int.from_bytes(self.tail[-8:-4], "little") - 8 : -8]

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(io.BytesIO(self.tail))

    def columns(self, columns: list[str], row_groups: list[int] | None = None) -> pa.Table:
        """Some columns of all rows, or of some row groups, as they are in the file."""
        with self.fs.open(self.path, "rb", cache_type="none") as file:
            parquet = pq.ParquetFile(file, metadata=self.metadata)
            groups = list(range(parquet.num_row_groups)) if row_groups is None else row_groups
            return parquet.read_row_groups(groups, columns=columns, use_threads=False)

    def max_level(self, leaf: str) -> int:
        """How deep in structs a value of this column can be missing."""
        schema = self.metadata.schema
        return next(
            schema.column(number).max_definition_level
            for number in range(len(schema))
            if schema.column(number).path == leaf
        )

    def pages_of(self, leaf: str) -> list[list[Page]] | None:
        """
        By row group, the pages of a column whose values can be read one by one. `None` if the file does not list its
        pages, or if they are compressed or encoded, or if values are missing.
        """
        groups = [self.metadata.row_group(number) for number in range(self.metadata.num_row_groups)]
        names = [self.metadata.schema.column(number).path for number in range(self.metadata.num_columns)]
        if leaf not in names:
            return None
        columns = [group.column(names.index(leaf)) for group in groups]
        for column in columns:
            values = column.statistics
            if values is None or not values.has_null_count or values.null_count:
                return None
            if column.compression != "UNCOMPRESSED" or not {"PLAIN", "RLE"}.issuperset(column.encodings):
                return None
        indexes = [place for place in page_indexes(self.footer, leaf) if place is not None]
        if len(indexes) < len(groups) or not groups:
            return None
        # The lists of all columns lie side by side.
        start, end = indexes[0][0], sum(indexes[-1])
        lists = self.read(start, end)
        return [
            read_pages(lists[offset - start : offset - start + size], group.num_rows)
            for (offset, size), group in zip(indexes, groups, strict=True)
        ]


class ParquetFiles:
    """
    The files of a split, in their order. Rows are numbered over all of them.

    Args:
        urls (`list[str]`):
            Paths or addresses.
        features (`datasets.Features`):
            The features of the split.
        token (`str`, *optional*):
            Token for a private dataset.
    """

    def __init__(self, urls: Sequence[str], features: Features, token: str | bool | None = None):
        self.urls, self.features = list(urls), features
        self.files = [ParquetFile(url, token) for url in self.urls]
        self.known_pages: dict[str, dict[tuple[int, int], list[Page]]] = {}

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        groups, first = [], 0
        for file, metadata in zip(self.files, in_order(lambda file: file.metadata, self.files), strict=True):
            for number in range(metadata.num_row_groups):
                groups.append(RowGroup(file, number, first, metadata.row_group(number).num_rows))
                first += metadata.row_group(number).num_rows
        return groups

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.row_groups)

    @property
    def version(self) -> str:
        """Changes with every change of the files, also where they lie."""
        return Hasher.hash([[file.path, file.fs.ukey(file.path)] for file in self.files])

    @property
    def fingerprint(self) -> str:
        """The same wherever the files lie: a hash of their metadata."""
        return hashlib.sha256(b"".join(file.footer for file in self.files)).hexdigest()[:16]

    def columns(self, names: list[str]) -> pa.Table:
        """Some columns of all rows, with the types of the features."""
        schema = Features({name: self.features[name] for name in names}).arrow_schema
        tables = in_order(lambda file: table_cast(file.columns(names).select(names), schema), self.files)
        return pa.concat_tables([schema.empty_table(), *tables])

    def pages(self, image_column: str) -> dict[tuple[int, int], list[Page]]:
        """By file and row group, the pages of the images, where they can be read one by one."""
        if image_column not in self.known_pages:
            leaf = f"{image_column}.bytes"
            found = in_order(lambda file: file.pages_of(leaf), self.files)
            self.known_pages[image_column] = {
                (id(file), number): pages
                for file, groups in zip(self.files, found, strict=True)
                for number, pages in enumerate(groups or [])
            }
        return self.known_pages[image_column]

    def clusters(self, image_column: str) -> np.ndarray:
        """The first rows of the least parts that are read at once: pages or, where there are none, row groups."""
        pages = self.pages(image_column)
        return np.array(
            [
                group.first + first
                for group in self.row_groups
                for first in [page.rows[0] for page in pages.get((id(group.file), group.number), [])] or [0]
            ]
        )

    def images(self, rows: list[int], image_column: str) -> Iterator[dict]:
        """
        The images of these rows, which are sorted, as they are stored.

        Returns:
            `Iterator[dict]`: `bytes` and `path` of each image.
        """
        plan = list(self.plan(rows, self.pages(image_column)))
        groups = list(dict.fromkeys(part.group for part in plan if part.pages))
        paths = in_order(
            lambda group: group.file.columns([f"{image_column}.path"], [group.number])[image_column], groups
        )
        group, of_group = None, pa.chunked_array([], pa.null())
        for part, contents in zip(plan, in_order(lambda part: self.read(part, image_column), plan), strict=True):
            if not part.pages:
                yield from contents
                continue
            if part.group != group:
                group, of_group = part.group, next(paths)
            names = of_group.take([row for _, rows in part.pages for row in rows]).to_pylist()
            yield from ({"bytes": content, **name} for content, name in zip(contents, names, strict=True))

    def plan(self, rows: list[int], pages: dict[tuple[int, int], list[Page]]) -> Iterator[Read]:
        """What is read at once, in the order of the rows: pages side by side in one piece, as far as it is not too large."""
        starts = [group.first for group in self.row_groups] + [self.num_rows]
        bounds = np.searchsorted(rows, starts)
        for group, start, end in zip(self.row_groups, bounds[:-1], bounds[1:], strict=True):
            wanted = [row - group.first for row in rows[start:end]]
            if not wanted:
                continue
            of_group = pages.get((id(group.file), group.number))
            if of_group is None:
                yield Read(group, rows=wanted)
                continue
            read, size = Read(group), 0
            ends = np.searchsorted(wanted, [page.rows.stop for page in of_group])
            for page, first, last in zip(of_group, [0, *ends[:-1]], ends, strict=True):
                if first == last:
                    continue
                follows = read.pages and read.pages[-1][0].rows.stop == page.rows.start
                if read.pages and not (follows and size + page.size <= MAX_READ):
                    yield read
                    read, size = Read(group), 0
                read.pages.append((page, wanted[first:last]))
                size += page.size
            yield read

    def read(self, part: Read, image_column: str) -> list[Any]:
        """The images of a part of the plan: of pages the bytes of each, else `bytes` and `path`."""
        group, file = part.group, part.group.file
        if not part.pages:
            table = file.columns([image_column], [group.number]).select([image_column]).take(part.rows)
            schema = Features({image_column: Image()}).arrow_schema
            return table_cast(table, schema)[image_column].to_pylist()
        read: Callable[[int, int], bytes] = file.read
        if len(part.pages) > 1 and all(is_read_whole(page, rows) for page, rows in part.pages):
            start, end = part.pages[0][0].offset, part.pages[-1][0].offset + part.pages[-1][0].size
            data = file.read(start, end)

            def read(first: int, last: int) -> bytes:
                return data[first - start : last - start]

        has_levels = file.max_level(f"{image_column}.bytes") > 0
        return [value for page, rows in part.pages for value in values_of_page(read, page, rows, has_levels)]


def in_order(function: Callable[[Any], Any], items: Iterable) -> Iterator[Any]:
    """Runs a function on all items on several threads. Only as many results are kept as there are threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == NUM_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def parquet_files_of(dataset: IterableDataset) -> ParquetFiles | None:
    """
    The files that a dataset is streamed from, if it consists of all rows of parquet files in their order. `None` if it
    comes from elsewhere, or was changed since (`map`, `filter`, `shuffle` and so on).
    """
    # `datasets` has no public way to ask for the files.
    source = dataset._ex_iterable
    if type(source) is not ArrowExamplesIterable or dataset.features is None:
        return None
    builder = getattr(source.generate_tables_fn, "__self__", None)
    if not isinstance(builder, Parquet) or builder.config.filters is not None:
        return None
    if any(groups is not None for groups in source.kwargs.get("row_groups_list", [])):
        return None
    return ParquetFiles([str(file) for file in source.kwargs["files"]], dataset.features, builder.token)
