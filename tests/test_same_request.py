"""The same request means the same from Python and on the command line: splits, kind, step, card and record."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import make_split
from datasets import Dataset, DatasetDict
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTImageProcessor,
    set_seed,
)

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, evaluate_unlearning, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.train_classifier import train_classifier
from hf_unlearn.publication.record import read_record, read_salt
from hf_unlearn.publication.record_check import was_forgotten
from hf_unlearn.request.image_hash import pixel_sha256


def with_files(split: Dataset, folder: Path) -> Dataset:
    """The split with its images in files of their own."""
    paths = [folder / f"{row}.png" for row in range(len(split))]
    folder.mkdir(parents=True)
    for row, path in enumerate(paths):
        split[row]["image"].save(path)
    images = split.remove_columns("image").add_column("image", [str(path) for path in paths])
    return images.cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def saved_dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    splits = {"train": make_split(30, seed=0), "test": make_split(18, seed=1)}
    dataset = DatasetDict({name: with_files(split, folder / name) for name, split in splits.items()})
    dataset.save_to_disk(str(folder / "animals"))
    return str(folder / "animals")


@pytest.fixture(scope="module")
def saved_model(saved_dataset, tmp_path_factory) -> str:
    """A small ResNet that knows its training images: what the automatic step is for."""
    folder = tmp_path_factory.mktemp("hub") / "animals"
    train = datasets.load_from_disk(saved_dataset)["train"]
    names = train.features["label"].names
    set_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
    args = TrainingArguments(
        str(folder), num_train_epochs=30, per_device_train_batch_size=10, learning_rate=1e-2, save_strategy="no",
        logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, use_cpu=True, report_to="none",
    )  # fmt: skip
    image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    train_classifier(ResNetForImageClassification(config), image_processor, train, args, label_column="label")
    return str(folder)


def pixels(saved: str, row: int) -> str:
    return pixel_sha256(np.array(datasets.load_from_disk(saved)["train"][row]["image"].convert("RGB")))


REQUESTS = {
    "classes": (lambda saved: ForgetRequest(classes=["cat"]), "class"),
    "column": (lambda saved: ForgetRequest(column="breed", values=["tabby"]), "subclass"),
    "indices": (lambda saved: ForgetRequest(indices=[3, 17, 20]), "images"),
    "ids": (lambda saved: ForgetRequest(ids=["id-3", "id-12"], id_column="record"), "images"),
    "files": (lambda saved: ForgetRequest(files=["3.png", "12.png", "20.png"]), "images"),
    "image_sha256": (lambda saved: ForgetRequest(image_sha256=[pixels(saved, 3), pixels(saved, 4)]), "images"),
    "fraction": (lambda saved: ForgetRequest(fraction=0.2), "images"),
    "count": (lambda saved: ForgetRequest(count=4, seed=1, id="r-1", date="2026-01-31"), "images"),
}


def by_command(request: ForgetRequest, model: str, dataset: str, folder: Path, settings: dict) -> Path:
    request.to_file(folder / "request.yaml")
    out = folder / "command" / "out"
    flags = [
        "--model_name_or_path",
        model,
        "--dataset_name",
        dataset,
        "--forget_request",
        str(folder / "request.yaml"),
    ]
    flags += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    assert main(["run", *flags, "--output_dir", str(out), "--disable_tqdm", "True"]) == 0
    return out


def from_python(request: ForgetRequest, name: str, dataset_name: str, folder: Path, settings: dict) -> Path:
    """The lines of the README, with the original and the unseen images to measure on."""
    out = folder / "python" / "out"
    dataset = datasets.load_from_disk(dataset_name)
    model = AutoModelForImageClassification.from_pretrained(name)
    image_processor = AutoImageProcessor.from_pretrained(name)
    splits = split_dataset(dataset["train"], request, test_dataset=dataset["test"])
    config = JiTConfig(str(out), disable_tqdm=True, **settings)
    trainer = JiTTrainer(model, config, processing_class=image_processor, forget_dataset=splits["forget"])
    assert config.forget_kind is None, "the configuration is the caller's"
    trainer.train()
    original = AutoModelForImageClassification.from_pretrained(name)
    report = evaluate_unlearning(model, splits, image_processor, original_model=original)
    trainer.save_report(report, dataset_name=dataset_name)
    return out


def without_times(values: dict) -> dict:
    """What differs between two runs of the same: times, the salt, and the hashes of what holds them."""
    gone = ("seconds", "started", "ended", "hmac_sha256", "files", "card_sha256", "record_sha256")
    return {
        key: without_times(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in gone
    }


@pytest.mark.parametrize("kind", REQUESTS)
def test_python_and_the_command_write_the_same(kind, saved_model, saved_dataset, tmp_path):
    make_request, forget_kind = REQUESTS[kind]
    request = make_request(saved_dataset)
    # The model knows its images so well that without a target nothing would move; so much is too much for it.
    settings = {} if forget_kind == "class" else {"forget_target": 0.5, "allow_collapse": True}
    one = by_command(request, saved_model, saved_dataset, tmp_path, settings)
    other = from_python(request, saved_model, saved_dataset, tmp_path, settings)
    names = [sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) for out in (one, other)]
    assert names[0] == names[1]
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "forget_request.yaml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    reports = [json.loads((out / "report.json").read_text()) for out in (one, other)]
    assert reports[0]["run"]["forget_kind"] == forget_kind and reports[0]["run"]["step"]["length"] > 0
    assert without_times(reports[0]) == without_times(reports[1])
    records = [read_record(out / "unlearning_record.json") for out in (one, other)]
    assert without_times(records[0]) == without_times(records[1])
    assert len(records[0]["forgotten"]["hmac_sha256"]) == len(records[1]["forgotten"]["hmac_sha256"]) > 0
    forgotten = split_dataset(datasets.load_from_disk(saved_dataset)["train"], request)["forget"]
    for out, record in zip((one, other), records, strict=True):
        salt = read_salt(out / "unlearning_salt")
        assert record["request"]["hmac_sha256"] == request.hmac(salt)
        for image in forgotten["image"]:
            assert was_forgotten(record, salt, f"pixels:{pixel_sha256(np.array(image.convert('RGB')))}")
    cards = [
        re.sub(r"in seconds \| [\d.]+|[\d.]+ seconds", "", (out / "README.md").read_text()) for out in (one, other)
    ]
    assert cards[0] == cards[1]


# ---- A forget set without a request ----


@pytest.fixture
def made(saved_model, saved_dataset, tmp_path):
    """`made(forget, ...)` makes a trainer from raw images without any request, and returns what it took them for."""
    model = AutoModelForImageClassification.from_pretrained(saved_model)
    image_processor = AutoImageProcessor.from_pretrained(saved_model)

    def make(forget, **arguments) -> str:
        config = JiTConfig(str(tmp_path), disable_tqdm=True, **arguments.pop("settings", {}))
        trainer = JiTTrainer(
            model, config, processing_class=image_processor, forget_dataset=forget, label_column="label", **arguments
        )
        return trainer.args.forget_kind

    train = datasets.load_from_disk(saved_dataset)["train"]
    make.cats, make.others = (
        train.select([row for row in range(30) if (row % 3 == 0) == cat]) for cat in (True, False)
    )
    return make


def test_labels_say_what_a_forget_set_without_a_request_is(made, capsys):
    assert made(made.cats, eval_dataset={"retain": made.others}) == "class"
    assert "taken for a whole class: all its images are of one class, and the retained" in capsys.readouterr().out
    assert made(made.cats.select([0, 1]), eval_dataset={"retain": made.cats.select([2])}) == "images"
    assert "taken for single images: the retained images have more of its class" in capsys.readouterr().out
    assert made(made.others, eval_dataset={"retain": made.cats}) == "images"
    assert "taken for single images: it has images of 2 classes" in capsys.readouterr().out
    assert made(made.cats) == "images"
    assert "there are no retained images to tell whether it is all of a class" in capsys.readouterr().out


def test_what_is_said_counts_more_than_labels(made, saved_dataset, capsys):
    retain = {"retain": made.others}
    assert made(made.cats, eval_dataset=retain, request=ForgetRequest(indices=[0])) == "images"
    assert made(made.cats, eval_dataset=retain, settings={"forget_kind": "subclass"}) == "subclass"
    assert made(made.others, request=ForgetRequest(classes=["dog", "owl"])) == "class"
    assert "taken for" not in capsys.readouterr().out


def test_class_of_another_column_is_a_part_of_the_models_class(made, saved_dataset):
    """Breeds are no classes of the model."""
    train = datasets.load_from_disk(saved_dataset)["train"]
    splits = split_dataset(train, ForgetRequest(classes=["tabby"]), label_column="breed")
    assert made(splits["forget"]) == "subclass"


def test_command_says_how_to_forget_a_part_of_a_class(saved_model, saved_dataset, tmp_path, capsys):
    flags = [
        "--model_name_or_path",
        saved_model,
        "--dataset_name",
        saved_dataset,
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(["run", *flags, "--forget_class", "tabby"]) == 2
    assert "forget a part of a class with --forget_column breed --forget_value 'tabby'" in capsys.readouterr().err


def test_prepared_images_have_a_kind_too(made, saved_dataset):
    """A forget set of tensors: the labels are read from its items."""
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    cats, others = (
        ImageDataset(part, processor, label_column="label", label_ids={0: 0, 1: 1, 2: 2})
        for part in (made.cats, made.others)
    )
    tensors = [[images[row] for row in range(len(images))] for images in (cats, others)]
    assert made(cats, eval_dataset={"retain": others}) == "class"
    assert made(tensors[0], eval_dataset={"retain": tensors[1]}) == "class"
    assert made(tensors[0][:2], eval_dataset={"retain": tensors[0][2:]}) == "images"


# ---- Labels by position ----


def test_labels_by_position_are_checked_before_anything_moves(saved_model, saved_dataset, tmp_path, capsys):
    model = AutoModelForImageClassification.from_pretrained(saved_model)
    model.config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    model.config.label2id = {f"LABEL_{number}": number for number in range(3)}
    nameless = tmp_path / "nameless"
    model.save_pretrained(nameless)
    AutoImageProcessor.from_pretrained(saved_model).save_pretrained(nameless)
    flags = ["--model_name_or_path", str(nameless), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    flags += ["--output_dir", str(tmp_path / "out"), "--disable_tqdm", "True"]
    assert main(["run", *flags]) == 2
    assert "add --labels_by_position if class i of the data is class i of the model" in capsys.readouterr().err
    assert main(["run", *flags, "--labels_by_position"]) == 0
    assert "the model is right on 100.0 % of 10 forget images" in capsys.readouterr().out

    in_another_order = datasets.load_from_disk(saved_dataset)
    names = datasets.ClassLabel(names=["dog", "cat", "owl"])
    for name, split in in_another_order.items():
        labels = [names.str2int(split.features["label"].int2str(label)) for label in split["label"]]
        in_another_order[name] = split.remove_columns("label").add_column("label", labels).cast_column("label", names)
    in_another_order.save_to_disk(str(tmp_path / "other"))
    flags[flags.index(saved_dataset)] = str(tmp_path / "other")
    flags[flags.index(str(tmp_path / "out"))] = str(tmp_path / "never")
    assert main(["run", *flags, "--labels_by_position"]) == 2
    assert "its classes are in another order" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_class_known_by_two_names_of_columns_is_an_error(saved_model):
    with pytest.raises(InputError, match="dataset: has several splits; name one of them: train, test"):
        split_dataset(DatasetDict(train=make_split(3, 0), test=make_split(3, 1)), ForgetRequest(classes=["cat"]))
