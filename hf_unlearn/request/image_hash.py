"""Fingerprints of images: an exact one, and one that near copies share."""

import hashlib

import numpy as np
from PIL import Image as PILImage

from ..errors import InputError


# Bits, of 64, in which the perceptual hashes of near copies may differ. Below it lay all JPEG copies of quality 50 and
# all copies scaled to half size that were tried; see docs/requests_and_records.md.
NEAR = 8


def pixel_sha256(pixels: np.ndarray) -> str:
    """
    SHA-256 of an image as the model sees it: width, height and decoded pixels. Copies in another lossless format, or
    with other metadata, have the same one.

    Args:
        pixels (`np.ndarray`):
            What [`~data.to_rgb`] returns: uint8 of shape `(H, W, 3)`.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    height, width, _ = pixels.shape
    return hashlib.sha256(f"RGB {width}x{height}\n".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def perceptual_hash(pixels: np.ndarray) -> str:
    """
    Perceptual hash (pHash, the signs of the 8×8 lowest frequencies of the image in grey at 32×32 pixels).

    Args:
        pixels (`np.ndarray`):
            uint8 of shape `(H, W, 3)`.

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
    """In how many of their 64 bits two perceptual hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
