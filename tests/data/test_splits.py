"""What a request takes from a dataset, and the rest."""

import pytest
from conftest import make_images
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.folders import load_image_folder
from hf_unlearn.data.image_dataset import to_rgb
from hf_unlearn.data.splits import matching_rows
from hf_unlearn.errors import InputError
from hf_unlearn.request.image_hash import pixel_sha256


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


def test_values_from_the_command_line_match_numbers():
    dataset = Dataset.from_dict({"digit": [1, 3, 3]}, features=Features(digit=Value("int64")))
    assert len(split_dataset(dataset, ForgetRequest(column="digit", values=["3"]))["forget"]) == 2


def test_second_label_column_may_be_a_class_label(dataset):
    assert isinstance(dataset["train"].features["breed"], ClassLabel)
    splits = split_dataset(dataset["train"], ForgetRequest(column="breed", values=["tabby"]), label_column="label")
    assert set(splits["forget"]["breed"]) == {0}


def test_requests_by_path_and_by_pixels_find_their_rows(image_folder):
    images = load_image_folder("train_dir", str(image_folder))
    assert matching_rows(images, ForgetRequest(files=["dog/0.png", "cat/2.png"])) == [2, 3]
    hashes = [pixel_sha256(to_rgb(PILImage.open(image_folder / "dog" / "1.png")))]
    assert matching_rows(images, ForgetRequest(image_sha256=hashes)) == [4]
    with pytest.raises(InputError, match="files: '0.png' is the name of 2 images; name their folder as well"):
        matching_rows(images, ForgetRequest(files=["0.png"]))
    with pytest.raises(InputError, match="files: there is no image 'owl/0.png'. For example there is 'cat/0.png'"):
        matching_rows(images, ForgetRequest(files=["owl/0.png"]))
    with pytest.raises(InputError, match="image_sha256: 1 of 2 images are not in the data"):
        matching_rows(images, ForgetRequest(image_sha256=[*hashes, "0" * 64]))
