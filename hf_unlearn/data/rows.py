"""What is asked of a dataset, whichever library it comes from."""

from typing import Any, Protocol


class Rows(Protocol):
    """Rows that can be counted and read by their number: a `datasets.Dataset`, or a `torch` dataset that has a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...
