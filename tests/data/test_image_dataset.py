"""Images of any mode and size as pixel values; what is read once and kept is the same as what is read again."""

import pickle

import numpy as np
import pytest
import torch
from conftest import make_images
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ConvNextImageProcessor, ViTImageProcessor

from hf_unlearn.data import image_dataset as data
from hf_unlearn.data.folders import load_image_folder
from hf_unlearn.data.image_dataset import ImageDataset, pixel_range, shared_tensor, to_rgb, unreadable_images
from hf_unlearn.data.labels import match_labels


def colored(mode: str) -> PILImage.Image:
    """A picture of one colour, about (200, 100, 50) or grey 128, in a mode."""
    if mode == "I;16":
        return PILImage.fromarray(np.full((8, 8), 128 * 257, dtype=np.uint16))
    if mode == "L":
        return PILImage.new("L", (8, 8), 128)
    return PILImage.new("RGB", (8, 8), (200, 100, 50)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "color"),
    [("RGB", (200, 100, 50)), ("RGBA", (200, 100, 50)), ("CMYK", (200, 100, 50)), ("P", None), ("L", (128,) * 3), ("I;16", (128,) * 3)],
)  # fmt: skip
def test_any_mode_becomes_rgb_of_8_bits(mode, color):
    pixels = to_rgb(colored(mode))
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    if color is not None:
        assert np.abs(pixels[0, 0].astype(int) - color).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (40, 3), (7, 90)])
@pytest.mark.parametrize("processor", [ViTImageProcessor, ConvNextImageProcessor])
def test_image_of_any_size_becomes_pixel_values(size, processor):
    image_processor = (
        processor(size={"height": 16, "width": 16})
        if processor is ViTImageProcessor
        else processor(size={"shortest_edge": 16}, crop_pct=1.0)
    )
    image = PILImage.new("RGB", size, (255, 0, 0))
    dataset = Dataset.from_dict({"image": [image]}, features=Features(image=Image()))
    pixel_values = ImageDataset(dataset, image_processor)[0]["pixel_values"]
    assert pixel_values.shape == (3, 16, 16)
    # The picture is red: its first channel is the largest everywhere.
    assert (pixel_values[0] > pixel_values[1]).all()


def test_image_dataset_gives_the_models_label_ids(dataset, image_processor):
    train = dataset["train"]
    ids = match_labels(train, "label", {0: "owl", 1: "cat", 2: "dog"})
    items = ImageDataset(train, image_processor, label_column="label", label_ids=ids).__getitems__([0, 1, 2])
    assert [item["labels"] for item in items] == [1, 2, 0]


def test_pixel_range_is_that_of_black_and_white():
    plain = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.0], image_std=[0.5, 0.2, 1.0])
    low, high = pixel_range(plain)
    torch.testing.assert_close(low.flatten(), torch.tensor([-1.0, -2.0, 0.0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(high.flatten(), torch.tensor([1.0, 3.0, 1.0]), rtol=1e-5, atol=1e-6)
    unscaled = ViTImageProcessor(size={"height": 16, "width": 16}, do_rescale=False, do_normalize=False)
    low, high = pixel_range(unscaled)
    assert low.flatten().tolist() == [0, 0, 0] and high.flatten().tolist() == [255, 255, 255]


def test_unreadable_images_are_named(tmp_path):
    for number, image in enumerate(make_images([0, 1, 2], seed=0)):
        image.save(tmp_path / f"{number}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.png").write_bytes(b"no image")
    folder = load_image_folder("train_dir", str(tmp_path))
    assert sorted(unreadable_images(folder, "image").values()) == ["1.png", "2.png"]


def five_images(dataset, image_processor):
    split = dataset["train"].select(range(5))
    label_ids = match_labels(split, "label", {0: "cat", 1: "dog", 2: "owl"})
    return ImageDataset(split, image_processor, label_column="label", label_ids=label_ids)


def assert_same_items(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and one["labels"] == other["labels"]


@pytest.mark.parametrize("free_memory", [2**30, 0])
def test_kept_images_are_read_once_and_are_the_same(free_memory, dataset, image_processor, monkeypatch):
    """In memory, and in a file where there is no memory to spare."""
    monkeypatch.setattr(data.psutil, "virtual_memory", lambda: type("Memory", (), {"available": free_memory}))
    reads = []
    monkeypatch.setattr(data, "to_rgb", lambda image, to_rgb=data.to_rgb: reads.append(image) or to_rgb(image))
    images = five_images(dataset, image_processor)
    fresh = [images[row] for row in range(5)]
    images.keep()
    reads.clear()
    assert_same_items(images.__getitems__([3, 1]), [fresh[3], fresh[1]])
    assert_same_items([images[row] for row in range(5)], fresh)
    assert_same_items([images[row] for row in range(5)], fresh)
    assert len(reads) == 5


def test_images_are_read_again_where_there_is_no_room(dataset, image_processor, monkeypatch):
    monkeypatch.setattr(data, "shared_tensor", lambda shape, dtype: None)
    images = five_images(dataset, image_processor)
    fresh = [images[row] for row in range(5)]
    images.keep()
    assert_same_items([images[row] for row in range(5)], fresh)


def test_neither_memory_nor_disk_beyond_what_is_free():
    assert shared_tensor((2**60,), torch.float32) is None


def test_what_loader_workers_read_is_kept_for_all(dataset, image_processor):
    images = five_images(dataset, image_processor)
    images.keep()
    loader = torch.utils.data.DataLoader(images, batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == 3
    assert images.is_kept.all()
    assert_same_items(
        [images[row] for row in range(5)], [five_images(dataset, image_processor)[row] for row in range(5)]
    )


def test_kept_images_stay_behind_when_a_worker_is_no_fork(dataset, image_processor):
    images = five_images(dataset, image_processor)
    images.keep()
    copied = pickle.loads(pickle.dumps(images))
    assert_same_items([copied[0]], [images[0]])
    assert copied.kept is None
