"""
Finds the images of a dataset that are most like a few examples, by what the model's own head sees of them and by their
perceptual hashes. The data are read in blocks: memory does not grow with their number, but for a score per image.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from ..data.image_dataset import ImageDataset, hash_images, unreadable_images
from ..errors import InputError
from ..request.image_hash import NEAR, perceptual_hash
from ..terminal import progress
from ..unlearning.head_edit import find_heads, head_inputs
from .logits import collect_logits_of_all
from .logits_cache import cache_file, model_key, read_values, split_key, write_values
from .short_passes import ShortPasses


if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


# Images that are read, kept on the disk and searched at once.
BLOCK = 4096
# From this cosine on, an image is an example itself.
SAME = 0.9999


@dataclass
class Found:
    """
    How much each image of a dataset is like the examples.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            float32: the mean of the cosines between the features of an image and those of each example; NaN for an image that cannot be read.
        copies (`np.ndarray` of shape `(n,)`, *optional*):
            Whether the perceptual hash says that an image is a copy of an example, upright or mirrored. `None` if the
            library `imagehash` is not installed.
        threshold (`float`):
            The suggestion, see [`suggest_threshold`].
    """

    scores: np.ndarray
    copies: np.ndarray | None
    threshold: float


def find_images(
    model: "PreTrainedModel",
    image_processor: "BaseImageProcessor",
    dataset: Dataset,
    examples: Sequence[np.ndarray],
    image_column: str,
    *,
    batch_size: int = 64,
    features_cache_dir: str | Path | None = None,
) -> Found:
    """
    Compares every image of a dataset with the examples.

    Args:
        model (`PreTrainedModel`):
            An image classifier, on its device.
        image_processor (`BaseImageProcessor`):
            Its image processor.
        dataset (`datasets.Dataset`):
            The images to search.
        examples (`list[np.ndarray]`):
            RGB values of the examples, each of shape `(H, W, 3)`, uint8.
        image_column (`str`):
            The column of the images.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        features_cache_dir (`str` or `Path`, *optional*):
            Folder that keeps features and perceptual hashes by the content of the images.

    Returns:
        [`Found`]
    """
    column = {"image": [PILImage.fromarray(example) for example in examples]}
    own = ImageDataset(Dataset.from_dict(column, features=Features(image=Image())), image_processor)
    example_features = features_of(model, own, batch_size)
    example_hashes = hashes_of_examples(examples)
    scores, same, copies = [], [], []
    blocks = feature_blocks(model, image_processor, dataset, image_column, batch_size, features_cache_dir)
    for features, hashes in progress("find", -(-len(dataset) // BLOCK), blocks):
        cosines = cosines_of(features, example_features)
        scores.append(cosines.mean(axis=1))
        same.append(cosines.max(axis=1) >= SAME)
        if hashes is not None and example_hashes is not None:
            copies.append(fewest_differing_bits(hashes, example_hashes) <= NEAR)
    score = np.concatenate(scores)
    # An example that is in the data is as near to itself as no other image: it says nothing of where the others end.
    is_example = np.concatenate(same)
    return Found(
        score,
        np.concatenate(copies) & ~np.isnan(score) if copies else None,
        suggest_threshold(score[~is_example & ~np.isnan(score)]),
    )


# ---- Features ----


def features_of(model: "PreTrainedModel", images: ImageDataset, batch_size: int) -> np.ndarray:
    """
    What the head of a model sees of each image; its logits if it does not end in a linear layer.

    Returns:
        `np.ndarray` of shape `(n, d)`: float32.
    """
    first = images[0]["pixel_values"][None].to(model.device)
    with ShortPasses({"model": model}) as passes:
        # Now, for it passes an image, which is none of those that the heads are to see.
        passes.prepare(first.cpu())
        heads = find_heads(model, first)
        with head_inputs(heads) as seen:
            logits = collect_logits_of_all(passes, images, batch_size)[0]["model"]
    return torch.cat(seen)[: len(images)].float().cpu().numpy() if heads else logits


def feature_blocks(
    model: "PreTrainedModel",
    image_processor: "BaseImageProcessor",
    dataset: Dataset,
    image_column: str,
    batch_size: int,
    cache_dir: str | Path | None,
) -> Generator[tuple[np.ndarray, np.ndarray | None], None, None]:
    """
    Yields the features and the perceptual hashes of a dataset, block by block: from the cache if they are there. A
    block is found there by the content of its images, so one that was changed is computed again, and the others are
    not. For the arguments see [`find_images`].

    Yields:
        `tuple[np.ndarray, np.ndarray | None]`: features of shape `(b, d)`, float32, NaN for an image that cannot be
        read; and hashes of shape `(b, 8)`, uint8, or `None` if the library `imagehash` is not installed.
    """
    key = model_key(model, image_processor, batch_size) if cache_dir is not None else None
    for start in range(0, len(dataset), BLOCK):
        block = dataset.select(range(start, min(start + BLOCK, len(dataset))))
        of_model = of_all = None
        if cache_dir is not None and key is not None:
            content = split_key(block, image_column)
            of_model, of_all = cache_file(cache_dir, key, content), cache_file(cache_dir, "perceptual_hash", content)
        try:
            hashes = kept(of_all, len(block), partial(hash_block, block, image_column))
        except InputError as error:
            if error.argument != "near_copies":
                raise
            hashes = None
        compute = partial(features_of_block, model, image_processor, block, image_column, batch_size)
        yield kept(of_model, len(block), compute), hashes


def kept(path: Path | None, num_images: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Values of a block from the cache; computed, and written to it, if they are not there."""
    values = read_values(path, num_images, "features") if path is not None else None
    if values is None:
        values = compute()
        if path is not None:
            write_values(path, values, "features")
    return values


def features_of_block(
    model: "PreTrainedModel",
    image_processor: "BaseImageProcessor",
    block: Dataset,
    image_column: str,
    batch_size: int,
) -> np.ndarray:
    """Features of shape `(b, d)`; NaN for an image that cannot be read. For the arguments see [`find_images`]."""
    broken = unreadable_images(block, image_column)
    good = [row for row in range(len(block)) if row not in broken]
    if not good:
        return np.full((len(block), 1), np.nan, np.float32)
    features = features_of(model, ImageDataset(block.select(good), image_processor, image_column), batch_size)
    whole = np.full((len(block), features.shape[1]), np.nan, np.float32)
    whole[good] = features
    return whole


# ---- Likeness ----


def cosines_of(features: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """
    Cosines between the features of images and those of examples.

    Args:
        features (`np.ndarray` of shape `(n, d)`), examples (`np.ndarray` of shape `(m, d)`):
            float32.

    Returns:
        `np.ndarray` of shape `(n, m)`: float32; NaN where the features are NaN.
    """
    if features.shape[1] != examples.shape[1]:
        # Of a block without an image that can be read, the number of features is not known.
        return np.full((len(features), len(examples)), np.nan, np.float32)
    return unit(features) @ unit(examples).T


def suggest_threshold(scores: np.ndarray) -> float:
    """
    Suggests from which score on images are taken: in the middle of the gap between two scores that follow each other,
    s₍ᵢ₎ and s₍ᵢ₊₁₎ in falling order, for which √i (s₍ᵢ₎ − s₍ᵢ₊₁₎) is largest, among the upper half of the scores. Gaps
    become narrower where scores lie closer, √i makes up for a part of it. The rule and the root were chosen among
    others on half of the persons of docs/finding.md, and measured there on the other half.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Without NaN.

    Returns:
        `float`: 1 if there are fewer than four scores.
    """
    if len(scores) < 4:
        return 1.0
    upper = np.sort(scores.astype(np.float64))[::-1][: len(scores) // 2 + 1]
    widths = (upper[:-1] - upper[1:]) * np.sqrt(np.arange(1, len(upper)))
    place = int(widths.argmax())
    return float((upper[place] + upper[place + 1]) / 2)


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1. A row of zeros stays one."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)


def hash_block(block: Dataset, image_column: str) -> np.ndarray:
    """Perceptual hashes of shape `(b, 8)`, uint8; zeros for an image that cannot be read."""
    hashes = hash_images(block, image_column, perceptual_hash)
    return np.array([list(bytes.fromhex(value or "0" * 16)) for value in hashes], np.uint8)


def hashes_of_examples(examples: Sequence[np.ndarray]) -> np.ndarray | None:
    """Perceptual hashes of the examples and of their mirror images; `None` if `imagehash` is not installed."""
    try:
        hashes = [perceptual_hash(image) for example in examples for image in (example, example[:, ::-1])]
    except InputError:
        return None
    return np.array([list(bytes.fromhex(value)) for value in hashes], np.uint8)


def fewest_differing_bits(hashes: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """
    The number of bits in which a perceptual hash differs from the most alike of the examples.

    Args:
        hashes (`np.ndarray` of shape `(n, 8)`), examples (`np.ndarray` of shape `(m, 8)`):
            uint8.

    Returns:
        `np.ndarray` of shape `(n,)`
    """
    fewest = np.full(len(hashes), 64)
    for example in examples:
        fewest = np.minimum(fewest, np.unpackbits(hashes ^ example, axis=1).sum(axis=1))
    return fewest
