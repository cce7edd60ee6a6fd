"""How many images of a split are measured at most."""

from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from .rows import Rows


# Default number of images: 10,000 of up to 70 × 70 pixels, fewer of larger ones, 1,000 from 224 × 224 on. An accuracy on so
# many random images has a standard error of at most 0.5 and 1.6 percentage points; what two models differ by on the same
# images, of less.
MOST_SAMPLES, FEWEST_SAMPLES, MAX_EVAL_PIXELS = 10_000, 1_000, 50_000_000


def samples_for(pixel_values: "torch.Tensor") -> int:
    """
    How many images of a split are measured by default, so that it takes minutes whatever their size.

    Args:
        pixel_values (`torch.Tensor` of shape `(..., H, W)`):
            An image as the model takes it.
    """
    height, width = pixel_values.shape[-2:]
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, MAX_EVAL_PIXELS // (height * width)))


def at_most(split: "Dataset", number: int | None) -> "Dataset":
    """
    Returns the split, or a random part of it if it has more images than `number`.

    Args:
        split (`datasets.Dataset`):
            Any images.
        number (`int`, *optional*):
            Largest number of images to return; 0 or `None` returns all. The same images are drawn each time.

    Returns:
        `datasets.Dataset`: at most `number` images.
    """
    return split if not number or len(split) <= number else split.shuffle(seed=0).select(range(number))


def random_rows(length: int, number: int) -> list[int]:
    """So many rows at random, always the same ones; all in their order if there are no more than `number`."""
    return list(range(length)) if length <= number else np.random.default_rng(0).permutation(length)[:number].tolist()


def remember_size(split: "Dataset", number: int) -> None:
    """Lets a split know of how many images it was drawn. It is lost when the split is changed (`map`, `select`)."""
    split.drawn_from = number  # ty: ignore[missing-attribute]  no attribute of `datasets`: it is made here


def whole_size(split: "Rows") -> int:
    """The number of images of which a split was drawn; its own length if it is whole."""
    return getattr(split, "drawn_from", len(split))
