"""
Pictures of 32 × 32 pixels, made by code: six classes with two kinds each, always the same.

A class is a shape, and a kind a shape in one colour. Each colour belongs to two classes, so that colour narrows the
class down to two and the shape decides. Place, size, shade, background and noise differ from picture to picture.
"""

from functools import cache

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage


CLASSES = ("disc", "frame", "cross", "bars", "columns", "checks")
COLOURS = {"red": (220, 50, 50), "yellow": (215, 200, 40), "green": (50, 190, 60), "cyan": (40, 190, 200),
           "blue": (60, 80, 225), "violet": (190, 60, 200)}  # fmt: skip
# The two colours of class k: its own and that of the class after the next.
KINDS = [f"{list(COLOURS)[(k + shift) % len(CLASSES)]} {name}" for k, name in enumerate(CLASSES) for shift in (0, 1)]
SIZE = 32
TRAIN, TEST = 50, 50  # Of each kind.


def shape(name: str, rng: np.random.Generator) -> np.ndarray:
    """Where the shape is, of shape `(32, 32)`, true or false."""
    radius = rng.uniform(8, 12)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5 - rng.uniform(-4, 4, (2, 1, 1))
    inside = np.maximum(abs(x), abs(y)) < radius
    width = radius / 2.5
    if name == "disc":
        return x**2 + y**2 < radius**2
    if name == "frame":
        return inside & (np.maximum(abs(x), abs(y)) > radius - width)
    if name == "cross":
        return inside & (np.minimum(abs(x), abs(y)) < width / 1.5)
    rows, columns = (np.floor(v / width) % 2 == 0 for v in (y, x))
    return inside & {"bars": rows, "columns": columns, "checks": rows == columns}[name]


def picture(kind: int, rng: np.random.Generator) -> PILImage.Image:
    colour, name = KINDS[kind].split()
    background = rng.uniform(60, 170) + rng.normal(0, 12, 3)
    ink = np.array(COLOURS[colour]) * rng.uniform(0.8, 1.15) + rng.normal(0, 12, 3)
    pixels = np.where(shape(name, rng)[..., None], ink, background) + rng.normal(0, 16, (SIZE, SIZE, 3))
    return PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_split(of_each_kind: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    kinds = np.tile(np.arange(len(KINDS)), of_each_kind)
    rows = {"image": [picture(kind, rng) for kind in kinds], "label": kinds // 2, "kind": kinds}
    return Dataset.from_dict(
        rows, features=Features(image=Image(), label=ClassLabel(names=CLASSES), kind=ClassLabel(names=KINDS))
    )


@cache
def make_pictures() -> DatasetDict:
    """600 training images and 600 unseen ones."""
    return DatasetDict(train=make_split(TRAIN, seed=0), test=make_split(TEST, seed=1))
