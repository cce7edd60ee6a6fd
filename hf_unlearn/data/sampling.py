"""How many images of a split are measured at most."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset

    from .rows import Rows


# Default number of images. An accuracy on 10,000 random images has a standard error of at most 0.5 percentage points.
MAX_EVAL_SAMPLES = 10_000


def at_most(split: "Dataset", number: int) -> "Dataset":
    """
    Returns the split, or a random part of it if it has more images than `number`.

    Args:
        split (`datasets.Dataset`):
            Any images.
        number (`int`):
            Largest number of images to return; 0 returns all. The same images are drawn each time.

    Returns:
        `datasets.Dataset`: at most `number` images.
    """
    return split if number == 0 or len(split) <= number else split.shuffle(seed=0).select(range(number))


def remember_size(split: "Dataset", number: int) -> None:
    """Lets a split know of how many images it was drawn. It is lost when the split is changed (`map`, `select`)."""
    split.drawn_from = number  # ty: ignore[missing-attribute]  no attribute of `datasets`: it is made here


def whole_size(split: "Rows") -> int:
    """The number of images of which a split was drawn; its own length if it is whole."""
    return getattr(split, "drawn_from", len(split))
