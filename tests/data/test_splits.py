import numpy as np
import pytest
import torch
from conftest import CLASSES, make_images, make_split
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from transformers import ConvNextImageProcessor, ViTImageProcessor

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.folders import load_image_folder
from hf_unlearn.data.image_dataset import (
    ImageDataset,
    find_image_column,
    pixel_range,
    to_rgb,
    unreadable_images,
)
from hf_unlearn.data.labels import find_label_column, match_labels
from hf_unlearn.data.sources import load_dataset
from hf_unlearn.errors import InputError


ID2LABEL = {0: "cat", 1: "dog", 2: "owl"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ForgetRequest(classes=["dog"]), range(1, 30, 3)),
        (ForgetRequest(classes=[1]), range(1, 30, 3)),
        (ForgetRequest(classes=["0", "owl"]), [row for row in range(30) if row % 3 != 1]),
        (ForgetRequest(column="breed", values=["collie"]), range(4, 30, 6)),
        (ForgetRequest(column="record", values=["id-7"]), [7]),
        (ForgetRequest(indices=[17, 3]), [3, 17]),
        (ForgetRequest(ids=["id-2", "id-0"], id_column="record"), [0, 2]),
        (ForgetRequest(count=4, seed=1), ForgetRequest(count=4, seed=1).choose_random(30)),
    ],
    ids=lambda value: value.kind if isinstance(value, ForgetRequest) else "",
)
def test_split_takes_what_the_request_names_and_keeps_the_order(dataset, request_, expected):
    train = dataset["train"]
    splits = split_dataset(train, request_, label_column="label")
    forget = [f"id-{row}" for row in expected]
    assert isinstance(splits, DatasetDict)
    assert splits["forget"]["record"][:] == forget
    assert splits["retain"]["record"][:] == [name for name in train["record"][:] if name not in forget]
    assert splits["forget"].features == train.features


def test_split_by_file_name(tmp_path):
    for number, image in enumerate(make_images([0, 1, 2], seed=0)):
        image.save(tmp_path / f"{number}.png")
    folder = load_image_folder("train_dir", str(tmp_path))
    splits = split_dataset(folder, ForgetRequest(ids=["1.png"]))
    assert len(splits["forget"]) == 1 and len(splits["retain"]) == 2
    with pytest.raises(InputError, match="ids: not found in the file names of the images: 9.png"):
        split_dataset(folder, ForgetRequest(ids=["9.png"]))


def test_split_decodes_no_image(dataset, monkeypatch):
    monkeypatch.setattr(Image, "decode_example", lambda *_, **__: pytest.fail("an image was decoded"))
    for request in (ForgetRequest(classes=["cat"]), ForgetRequest(column="breed", values=[0]), ForgetRequest(count=2)):
        split_dataset(dataset["train"], request, label_column="label")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ForgetRequest(classes=["dgo"]), "classes: unknown class 'dgo'. Valid: cat, dog, owl"),
        (ForgetRequest(classes=["cat", "dog", "owl"]), "classes: the request covers all 30 images"),
        (ForgetRequest(indices=[30]), "indices: 30 is out of range: rows run from 0 to 29"),
        (ForgetRequest(column="fine", values=["x"]), "column: there is no column 'fine'. Valid: image, label"),
        (ForgetRequest(column="record", values=["id-99"]), "values: no image has record 'id-99'"),
        (ForgetRequest(ids=["x"], id_column="name"), "id_column: there is no column 'name'"),
        (ForgetRequest(count=31), "count: 31 is more than the 30 rows"),
        (ForgetRequest(count=30), "count: the request covers all 30 images"),
    ],
    ids=lambda value: value.kind if isinstance(value, ForgetRequest) else "",
)
def test_request_that_does_not_fit_the_data_is_an_error(dataset, request_, message):
    with pytest.raises(InputError, match=message):
        split_dataset(dataset["train"], request_, label_column="label")


def test_class_without_an_image_is_an_error(dataset):
    no_cats = dataset["train"].filter(lambda label: label != 0, input_columns=["label"])
    with pytest.raises(InputError, match="classes: no image has label 'cat'. Valid: dog, owl"):
        split_dataset(no_cats, ForgetRequest(classes=["cat"]), label_column="label")


def test_columns_are_found_from_the_features(dataset):
    train = dataset["train"]
    assert find_image_column(train) == "image" and find_label_column(train) == "label"
    renamed = train.rename_columns({"image": "img", "label": "fine_label"}).remove_columns("breed")
    assert find_image_column(renamed) == "img" and find_label_column(renamed) == "fine_label"
    assert find_label_column(renamed.remove_columns("fine_label")) is None


def test_missing_or_ambiguous_column_is_an_error(dataset):
    train = dataset["train"]
    with pytest.raises(InputError, match="image_column_name: 'picture' is no image column. Valid: image"):
        find_image_column(train, "picture")
    with pytest.raises(InputError, match="image_column_name: found 0 image columns"):
        find_image_column(train.remove_columns("image"))
    with pytest.raises(InputError, match="label_column_name: there is no column 'y'"):
        find_label_column(train, "y")
    with pytest.raises(InputError, match="several columns could be the labels: kind, breed"):
        find_label_column(train.rename_column("label", "kind"))


def test_labels_are_matched_by_name_not_by_position(dataset):
    other_order = {0: "owl", 1: "Cat", 2: "dog"}
    assert match_labels(dataset["train"], "label", other_order) == {0: 1, 1: 2, 2: 0}


def test_labels_may_be_strings_or_the_models_own_ids():
    names = Dataset.from_dict({"label": ["dog", "cat"]})
    assert match_labels(names, "label", ID2LABEL) == {"dog": 1, "cat": 0}
    assert match_labels(Dataset.from_dict({"label": [2, 0]}), "label", ID2LABEL) == {0: 0, 2: 2}


def test_class_that_the_model_does_not_know_is_an_error(dataset):
    with pytest.raises(InputError, match="the model has no label owl of column 'label'. Its labels: cat, dog"):
        match_labels(dataset["train"], "label", {0: "cat", 1: "dog"})
    with pytest.raises(InputError, match="label 7 of column 'label' is no label id of the model"):
        match_labels(Dataset.from_dict({"label": [0, 7]}), "label", ID2LABEL)


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


@pytest.mark.parametrize("kind", ["disk", "parquet", "arrow", "parquet_folder", "image_folder"])
def test_dataset_is_loaded_from_wherever_it_is(kind, tmp_path):
    split = make_split(6, seed=0)
    path = tmp_path / "data"
    if kind == "disk":
        split.save_to_disk(str(path))
    elif kind == "parquet":
        path = tmp_path / "data.parquet"
        split.to_parquet(path)
    elif kind == "arrow":
        path = tmp_path / "data.arrow"
        split.save_to_disk(str(tmp_path / "written"))
        next((tmp_path / "written").glob("*.arrow")).rename(path)
    elif kind == "parquet_folder":
        path.mkdir()
        split.to_parquet(path / "train-00000-of-00001.parquet")
    else:
        for number, image in enumerate(make_images([0, 1, 2, 0, 1, 2], seed=0)):
            folder = path / "train" / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    loaded = load_dataset(str(path), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) == 6
    assert find_image_column(loaded["train"]) == "image"


def test_dataset_that_is_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="dataset_name: cannot load"):
        load_dataset(str(tmp_path / "nowhere"))


def test_values_from_the_command_line_match_numbers():
    dataset = Dataset.from_dict({"digit": [1, 3, 3]}, features=Features(digit=Value("int64")))
    assert len(split_dataset(dataset, ForgetRequest(column="digit", values=["3"]))["forget"]) == 2


def test_second_label_column_may_be_a_class_label(dataset):
    assert isinstance(dataset["train"].features["breed"], ClassLabel)
    splits = split_dataset(dataset["train"], ForgetRequest(column="breed", values=["tabby"]), label_column="label")
    assert set(splits["forget"]["breed"]) == {0}
