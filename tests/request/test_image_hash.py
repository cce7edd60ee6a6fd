"""Two hashes of an image: of its pixels, and of what a compressed copy has in common with it."""

import hashlib

import numpy as np
import pytest
from conftest import make_images, make_picture
from PIL import Image as PILImage

from hf_unlearn.data.image_dataset import to_rgb
from hf_unlearn.request.image_hash import NEAR, differing_bits, perceptual_hash, pixel_sha256


def test_pixel_hash_is_that_of_size_and_pixels():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert pixel_sha256(pixels) == hashlib.sha256(b"RGB 3x2\n" + bytes(range(18))).hexdigest()


def test_pixel_hash_survives_a_lossless_format_and_metadata(tmp_path):
    image = make_images([0], seed=1)[0]
    image.save(tmp_path / "a.png", dpi=(300, 300))
    image.save(tmp_path / "a.bmp")
    hashes = {pixel_sha256(to_rgb(PILImage.open(tmp_path / name))) for name in ("a.png", "a.bmp")}
    assert hashes == {pixel_sha256(np.array(image))}
    image.putpixel((0, 0), (0, 0, 0))
    assert pixel_sha256(np.array(image)) not in hashes


def test_perceptual_hash_is_near_for_a_compressed_copy_and_far_for_another_image(tmp_path):
    pytest.importorskip("imagehash")
    image = make_picture(seed=0)
    image.save(tmp_path / "copy.jpg", quality=60)
    one, copy, other = (
        perceptual_hash(to_rgb(picture))
        for picture in (image, PILImage.open(tmp_path / "copy.jpg"), make_picture(seed=1))
    )
    assert differing_bits(one, copy) <= NEAR < differing_bits(one, other)
    assert differing_bits("00000000000000ff", "000000000000000f") == 4
