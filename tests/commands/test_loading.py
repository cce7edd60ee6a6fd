"""The models and the splits that the flags name, and one line for those that cannot be used."""

import json
import shutil
import sys

import pytest
from conftest import make_images, make_model
from datasets import DatasetDict
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, ViTImageProcessor, ViTModel

from hf_unlearn import UnlearningReport
from hf_unlearn.commands import given_images, loading
from hf_unlearn.commands.arguments import DataArguments, ModelArguments, bound_samples


def save(dataset, path):
    dataset.save_to_disk(str(path))
    return str(path)


def splits_of(folder) -> dict[str, int]:
    return UnlearningReport.from_json(folder / "report.json").splits


def test_class_that_no_unseen_image_has_leaves_the_other_classes_apart(command, dataset, tmp_path):
    """Cats and owls are forgotten, the unseen images have no owl: the cats among them are still no retained images."""
    test = dataset["test"].filter(lambda label: label != 2, input_columns=["label"])
    data = save(DatasetDict(train=dataset["train"], test=test), tmp_path / "data")
    assert command("--forget_class", "cat", "owl", dataset=data) == 0
    assert splits_of(tmp_path / "out") == {"forget": 20, "retain": 10, "forget_test": 6, "retain_test": 6}


def test_unseen_images_that_cannot_be_told_apart_are_left_out(command, dataset, tmp_path, capsys):
    data = save(DatasetDict(train=dataset["train"], test=dataset["test"].remove_columns("breed")), tmp_path / "data")
    assert command("--forget_column", "breed", "--forget_value", "tabby", dataset=data) == 0
    assert "The unseen images have no column 'breed' and are left out." in capsys.readouterr().out
    assert splits_of(tmp_path / "out") == {"forget": 5, "retain": 25}


def test_folder_to_forget_and_a_dataset_may_name_their_columns_otherwise(command, dataset, tmp_path):
    renamed = dataset.rename_columns({"image": "img", "label": "animal"}).remove_columns("breed")
    data = save(renamed, tmp_path / "data")
    folder = tmp_path / "to_forget"
    folder.mkdir()
    for number, image in enumerate(make_images([0, 0, 0], seed=5)):
        image.save(folder / f"{number}.png")
    flags = ["--forget_dir", str(folder), "--image_column_name", "img", "--label_column_name", "animal"]
    assert command(*flags, dataset=data) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits == {"forget": 3, "retain_test": 18}
    assert "retain_test_accuracy" in report.results["unlearned"]["metrics"]


def test_empty_forget_set_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("--forget_dir: no images found", "--forget_dir", str(tmp_path / "empty"), dataset=None)
    refused("--forget_dir: there is no folder", "--forget_dir", str(tmp_path / "nowhere"), dataset=None)


def test_class_that_only_the_model_knows_is_refused(refused, dataset, tmp_path):
    names = dataset["train"].cast_column("label", dataset["train"].features["breed"])
    assert names.features["label"].names[0] == "tabby"
    two = dataset.filter(lambda label: label < 2, input_columns=["label"])
    features = two["train"].features.copy()
    features["label"] = type(features["label"])(names=["cat", "dog"])
    path = tmp_path / "two"
    DatasetDict({name: split.cast(features) for name, split in two.items()}).save_to_disk(str(path))
    refused("--forget_class: the model knows 'owl' but the data has no such class: cat, dog", "--forget_class", "owl",
            dataset=str(path))  # fmt: skip


def test_missing_column_is_refused(refused):
    refused("--image_column_name: 'img' is no image column. Valid: image", "--forget_class", "cat",
            "--image_column_name", "img")  # fmt: skip
    refused("--label_column_name: there is no column 'y'. Valid: image, label", "--forget_class", "cat",
            "--label_column_name", "y")  # fmt: skip


def test_labels_that_do_not_match_are_refused(refused):
    refused("--label_column_name: the model has no label tabby, poodle", "--forget_class", "tabby",
            "--label_column_name", "breed")  # fmt: skip


def test_dataset_that_is_nowhere_or_lacks_a_split_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    refused("--dataset_name: cannot load", "--forget_class", "cat", dataset=str(tmp_path / "nowhere"))
    refused("--dataset_name: is missing", "--forget_class", "cat", dataset=None)
    refused(
        "--train_split: there is no split 'all'. Valid: train, test", "--forget_class", "cat", "--train_split", "all"
    )
    refused("--test_split: there is no split 'val'", "--forget_class", "cat", "--test_split", "val")


def test_model_that_is_no_trained_image_classifier_is_refused(refused, saved_model, tmp_path):
    encoder = tmp_path / "encoder"
    ViTModel(make_model("vit").config).save_pretrained(encoder)
    ViTImageProcessor().save_pretrained(encoder)
    refused("--model_name_or_path: ", "--forget_class", "cat", model=str(encoder))
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    refused("is no image classifier", "--forget_class", "cat", model=str(text))
    refused("is no image classifier", "--forget_class", "cat", model=str(tmp_path / "nowhere"))
    no_processor = tmp_path / "no_processor"
    AutoModelForImageClassification.from_pretrained(saved_model).save_pretrained(no_processor)
    refused("--image_processor_name: no image processor found", "--forget_class", "cat", model=str(no_processor))


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_corrupt_image_is_named_and_skipped_only_on_demand(command, refused, tmp_path, content):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(make_images([0, 0, 0], seed=5)):
        image.save(folder / f"{number}.png")
    broken = folder / "1.png"
    broken.write_bytes(broken.read_bytes()[:200] if content == "half" else content)
    refused("--skip_unreadable_images: 1 of 3 images of the forget split cannot be read: 1.png",
            "--forget_dir", str(folder), dataset=None)  # fmt: skip
    assert command("--forget_dir", str(folder), "--skip_unreadable_images", dataset=None) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").splits == {"forget": 2}


def test_unusual_images_are_no_error(command, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    color = PILImage.new("RGB", (20, 10), (200, 100, 50))
    for mode, suffix in (("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("P", "png")):
        color.convert(mode).save(folder / f"{mode}.{suffix}")
    PILImage.new("I;16", (9, 9), 30000).save(folder / "deep.png")
    PILImage.new("RGB", (1, 1), (1, 2, 3)).save(folder / "dot.png")
    assert command("--forget_dir", str(folder), dataset=None) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").splits == {"forget": 6}


def test_retrained_model_that_is_none_is_refused_before_anything_runs(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(
        "empty' cannot be loaded", "--forget_class", "cat", "--retrained_model_name_or_path", str(tmp_path / "empty")
    )


def test_what_is_only_measured_is_cut_and_the_table_says_so(command, tmp_path, monkeypatch, capsys):
    looked_at = {}
    looks = given_images.unreadable_images

    def unreadable_images(split, image_column):
        looked_at[len(split)] = True
        return looks(split, image_column)

    monkeypatch.setattr(given_images, "unreadable_images", unreadable_images)
    assert command("--forget_class", "cat", "--max_eval_samples", "5") == 0
    # 10 of 10 to forget, 5 of the 20 retained, 5 of 6 and 5 of 12 unseen: no other image is read.
    assert set(looked_at) == {10, 5}
    output = capsys.readouterr().out
    assert "retain set (5 of 20)" in output and "retain test (5 of 12)" in output and "forget set (training" in output
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits == {"forget": 10, "retain": 5, "forget_test": 5, "retain_test": 5}
    assert report.sampled == {"retain": 20, "forget_test": 6, "retain_test": 12}
    assert "retain 5 of 20, drawn at random" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("side", "number"), [(16, 10_000), (64, 10_000), (112, 3_985), (224, 1_000), (512, 1_000)])
def test_so_many_are_measured_by_default(side, number):
    data_args = DataArguments()
    bound_samples(data_args, ViTImageProcessor(size={"height": side, "width": side}))
    assert data_args.max_eval_samples == number
    bound_samples(data_args, ViTImageProcessor(size={"height": 16, "width": 16}))
    assert data_args.max_eval_samples == number


def test_zero_measures_all(command, tmp_path):
    assert command("--forget_class", "cat", "--max_eval_samples", "0") == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits["retain"] == 20 and report.sampled == {}


def test_albums_of_a_folder_to_forget_are_no_classes(command, tmp_path, capsys):
    for number, image in enumerate(make_images([0] * 4, seed=5)):
        (tmp_path / "photos" / str(2020 + number)).mkdir(parents=True)
        image.save(tmp_path / "photos" / str(2020 + number) / "a.png")
    assert command("--forget_dir", str(tmp_path / "photos"), dataset=None) == 0
    assert "The model has no class called 2020, 2021, 2022, … (4 in all)" in capsys.readouterr().out


def test_retrained_model_without_all_its_weights_is_refused(refused, saved_model, tmp_path):
    AutoModelForImageClassification.from_pretrained(saved_model).save_pretrained(tmp_path / "headless")
    weights = load_file(tmp_path / "headless" / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(weights, tmp_path / "headless" / "model.safetensors", metadata={"format": "pt"})
    flags = ["--forget_class", "cat", "--retrained_model_name_or_path", str(tmp_path / "headless")]
    refused("headless' is no trained image classifier (2 weights missing)", *flags)


def test_retrained_model_that_needs_a_missing_library_is_refused(refused, saved_model, tmp_path):
    shutil.copytree(saved_model, tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config |= {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {}}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    flags = ["--forget_class", "cat", "--retrained_model_name_or_path", str(tmp_path / "timm")]
    refused("needs a library that is not installed. Install it: pip install timm", *flags)


def test_remote_code_is_trusted_for_retrained_models_too(refused, saved_model, tmp_path, monkeypatch):
    """A retrained model whose code lies with it loads with the flag, and is refused without it and without a prompt."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(prompt))
    shutil.copytree(saved_model, tmp_path / "own_code")
    (tmp_path / "own_code" / "own.py").write_text(
        "from transformers import ResNetConfig, ResNetForImageClassification\n\n\n"
        "class OwnConfig(ResNetConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(ResNetForImageClassification):\n    config_class = OwnConfig\n"
    )
    config = json.loads((tmp_path / "own_code" / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnModel"}
    config |= {"model_type": "own", "auto_map": auto_map}
    (tmp_path / "own_code" / "config.json").write_text(json.dumps(config))
    flags = ["--forget_class", "cat", "--retrained_model_name_or_path", str(tmp_path / "own_code")]
    refused("own_code' cannot be loaded", *flags)
    args = ModelArguments(
        saved_model, retrained_model_name_or_path=[str(tmp_path / "own_code")], trust_remote_code=True
    )
    id2label = AutoModelForImageClassification.from_pretrained(saved_model).config.id2label
    (retrained,) = loading.load_retrained(args, id2label, "cpu")
    assert type(retrained).__name__ == "OwnModel"
