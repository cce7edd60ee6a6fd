"""Hashes of images: one for exactly equal pixels, and one that is similar for similar images."""

import hashlib

import numpy as np
from PIL import Image as PILImage

from ..errors import InputError


# Two images count as near copies if their perceptual hashes differ in at most this many of 64 bits. In our measurement
# no JPEG copy of quality 50 and no copy of half size differed in more than 4 bits, see docs/requests_and_records.md.
NEAR = 8


def pixel_sha256(pixels: np.ndarray) -> str:
    """
    SHA-256 of the width, the height and the decoded pixels of an image. Copies in another lossless format, or with
    other metadata, have the same hash.

    Args:
        pixels (`np.ndarray` of shape `(H, W, 3)`):
            8-bit RGB values, as [`~data.image_dataset.to_rgb`] returns them.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    height, width, _ = pixels.shape
    return hashlib.sha256(f"RGB {width}x{height}\n".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def perceptual_hash(pixels: np.ndarray) -> str:
    """
    Perceptual hash (pHash) of an image: the image in grey at 32×32 pixels is transformed by a discrete cosine
    transform, and each of the 8×8 lowest frequencies gives one bit, 1 if it is above their median. The library
    `imagehash` computes it.

    Args:
        pixels (`np.ndarray` of shape `(H, W, 3)`):
            8-bit RGB values.

    Returns:
        `str`: 16 hexadecimal digits.

    Raises:
        [`InputError`]: if the library `imagehash` is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        raise InputError(
            "near_copies", "needs the library imagehash: pip install 'hf-unlearn[near-copies]'."
        ) from error
    return str(imagehash.phash(PILImage.fromarray(pixels)))


def differing_bits(one: str, other: str) -> int:
    """
    Number of bits in which two perceptual hashes differ.

    Args:
        one, other (`str`):
            What [`perceptual_hash`] returns.

    Returns:
        `int`: between 0 (equal) and 64.
    """
    return (int(one, 16) ^ int(other, 16)).bit_count()
