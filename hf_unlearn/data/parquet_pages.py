"""
Reads single values of a parquet file: the pages of a column, and of a page only what is asked for.

pyarrow reads a column in row groups, which are about 100 MB for images that `datasets` wrote. Such a row group consists
of pages of about 1 MB, and the file says where each of them begins. The format: https://parquet.apache.org/docs/.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass


# Reads a range of bytes of a file: from, to.
ReadRange = Callable[[int, int], bytes]

# A request takes about as long as this many bytes of one that is under way.
REQUEST = 1 << 15
# Bytes that are read of a page to get its header. Small values stand in the header, as its lowest and highest value.
HEADER, LONG_HEADER, LONG_VALUE = 256, 1 << 15, 1 << 14


@dataclass(frozen=True)
class Page:
    """A page: where its first byte is, its number of bytes, and the rows in it, from the first one of the row group."""

    offset: int
    size: int
    rows: range


class Compact:
    """
    Reads structs in Thrift's compact protocol, in which parquet writes its headers: as dictionaries from the number of a
    field to its value.

    Args:
        data (`bytes`):
            Where the struct begins, and as much after it as there is.
    """

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def number(self) -> int:
        """An unsigned number, seven bits in each byte."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self) -> int:
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        length = self.number()
        self.position += length
        if self.position > len(self.data):
            raise IndexError("the struct is cut off")
        return self.data[self.position - length : self.position]

    def value(self, kind: int) -> object:
        if kind in (1, 2):
            # In a list, a truth value has a byte of its own; in a struct, its type is its value.
            return self.byte() == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.signed()
        if kind == 7:
            self.position += 8
            return struct.unpack("<d", self.data[self.position - 8 : self.position])[0]
        if kind == 8:
            return self.binary()
        if kind in (9, 10):
            head = self.byte()
            length = head >> 4 if head >> 4 < 15 else self.number()
            return [self.value(head & 15) for _ in range(length)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"parquet has no values of the type {kind}")

    def struct(self) -> dict:
        fields, field = {}, 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            fields[field] = (head & 15) == 1 if head & 15 in (1, 2) else self.value(head & 15)
        return fields


def page_indexes(footer: bytes, leaf: str) -> list[tuple[int, int] | None]:
    """
    Where a file lists the pages of a column.

    Args:
        footer (`bytes`):
            The metadata at the end of the file.
        leaf (`str`):
            The column, with the path in its struct, such as `image.bytes`.

    Returns:
        `list[tuple[int, int] | None]`: by row group the offset and the number of bytes of the list; `None` if there is
        none.
    """
    found = []
    for row_group in Compact(footer).struct()[4]:
        column = next(one for one in row_group[1] if ".".join(map(bytes.decode, one[3][3])) == leaf)
        found.append((column[4], column[5]) if 4 in column else None)
    return found


def read_pages(index: bytes, num_rows: int) -> list[Page]:
    """
    The pages of a column in a row group.

    Args:
        index (`bytes`):
            The list of pages, as the file has it.
        num_rows (`int`):
            Number of rows of the row group.
    """
    places = Compact(index).struct()[1]
    ends = [place[3] for place in places[1:]] + [num_rows]
    return [Page(place[1], place[2], range(place[3], end)) for place, end in zip(places, ends, strict=True)]


def is_read_whole(page: Page, rows: Sequence[int]) -> bool:
    """
    Whether it is faster to read a page in one piece than only the values of some rows: with a request for every run of
    them, and one for the length of every value before the last of them that is not wanted.
    """
    runs = 1 + sum(following != row + 1 for row, following in zip(rows, rows[1:], strict=False))
    lengths = rows[-1] + 1 - page.rows.start - len(rows)
    return page.size <= len(rows) * page.size / len(page.rows) + REQUEST * (runs + lengths)


def values_of_page(read: ReadRange, page: Page, rows: Sequence[int], has_levels: bool) -> list[bytes]:
    """
    Reads values of a page that is neither compressed nor encoded, and has no missing values: each value comes after its
    length. To find one, the lengths of those before it are read.

    Args:
        read (`Callable`):
            Reads a range of bytes of the file.
        page ([`Page`]):
            The page.
        rows (`list[int]`):
            Which rows are wanted, in their order, with the numbers of `page.rows`.
        has_levels (`bool`):
            Whether the values begin after a list that says which of them are missing.

    Returns:
        `list[bytes]`: a value for each row.

    Raises:
        `ValueError`: if the page is of another kind.
    """
    wanted, mean = set(rows), page.size / len(page.rows)

    def run_from(row: int) -> int:
        """About how many bytes the values take that are wanted from this row on without a gap."""
        end = row
        while end in wanted:
            end += 1
        return int((end - row) * mean)

    window = Window(read, page)
    header = LONG_HEADER if mean < LONG_VALUE else HEADER
    window.get(0, min(page.size, page.size if is_read_whole(page, rows) else header + run_from(page.rows.start)))
    position = find_values(window, has_levels)
    values = []
    for row in range(page.rows.start, rows[-1] + 1):
        (length,) = struct.unpack("<I", window.get(position, 4, run_from(row)))
        if row in wanted:
            values.append(window.get(position + 4, length))
        position += 4 + length
    return values


def find_values(window: "Window", has_levels: bool) -> int:
    """
    Where the first value of a page begins, of which the window has the first bytes.

    Raises:
        `ValueError`: if the values are encoded.
    """
    reader = Compact(window.data)
    try:
        fields = reader.struct()
    except IndexError:
        # The header is longer than that.
        reader = Compact(window.get(0, window.page.size))
        fields = reader.struct()
    # Of the second version of pages, the header says how long the lists before the values are. Encoding 0 is none at all.
    if 8 in fields and fields[8][4] == 0:
        return reader.position + fields[8][5] + fields[8][6]
    if 5 not in fields or fields[5][2] != 0:
        raise ValueError("the values of this page are encoded")
    if not has_levels:
        return reader.position
    (length,) = struct.unpack("<I", window.get(reader.position, 4))
    return reader.position + 4 + length


class Window:
    """
    The bytes of a page that were read last.

    Args:
        read (`Callable`):
            Reads a range of bytes of the file.
        page ([`Page`]):
            The page.
    """

    def __init__(self, read: ReadRange, page: Page):
        self.read, self.page = read, page
        self.start, self.data = 0, b""

    def get(self, start: int, length: int, ahead: int = 0) -> bytes:
        """`length` bytes from `start` on. If they have to be read, then `ahead` in all, as far as the page goes."""
        end = self.start + len(self.data)
        if not self.start <= start <= end:
            self.start, self.data, end = start, b"", start
        if start + length > end:
            stop = min(max(start + length, start + ahead), self.page.size)
            self.data = self.data[start - self.start :] + self.read(self.page.offset + end, self.page.offset + stop)
            self.start = start
        return self.data[start - self.start : start - self.start + length]
