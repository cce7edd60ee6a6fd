"""A run as a user starts it: what it writes, and one clear line for everything it cannot do."""

from pathlib import Path

import pytest
import torch
from conftest import CLASSES, make_images
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_unlearn import UnlearningReport
from hf_unlearn.commands.main import main


def test_run_writes_model_card_report_and_pictures(command, tmp_path):
    assert command("--forget_class", "cat") == 0
    out = tmp_path / "out"
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "report.json",
        "forget_request.yaml", "unlearning_record.json", "unlearning_salt", "figures/accuracy.png", "figures/entropy.png", "figures/class_accuracy.png",
        "figures/confusion.png", "figures/attacks.png",
    }  # fmt: skip
    report = UnlearningReport.from_json(out / "report.json")
    assert report.splits == {"forget": 10, "retain": 20, "forget_test": 6, "retain_test": 12}
    assert set(report.results) == {"original", "unlearned"}
    assert report.run["request"] == {"kind": "classes", "description": "every image of the class cat"}
    assert report.run["weights_sha256_before"] != report.run["weights_sha256_after"]
    assert report.run["environment"]["processes"] == 1
    assert len(pipeline("image-classification", str(out))(PILImage.new("RGB", (16, 16)))) == 3


@pytest.mark.parametrize(
    ("flags", "num_forget", "has_forget_test"),
    [
        (["--forget_class", "cat", "owl"], 20, True),
        (["--forget_column", "breed", "--forget_value", "tabby"], 5, True),
        (["--forget_indices", "3", "17"], 2, False),
        (["--forget_ids", "id-3", "--forget_id_column", "record"], 1, False),
        (["--forget_fraction", "0.2"], 6, False),
        (["--forget_count", "4", "--forget_seed", "1"], 4, False),
    ],
)
def test_every_kind_of_request_runs(command, tmp_path, flags, num_forget, has_forget_test):
    assert command(*flags) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits["forget"] == num_forget
    assert ("forget_test" in report.splits) == has_forget_test


def test_folder_of_images_is_enough(command, tmp_path):
    folder = tmp_path / "to_forget"
    folder.mkdir()
    for number, image in enumerate(make_images([0, 0, 0], seed=5)):
        image.save(folder / f"{number}.jpg")
    assert command("--forget_dir", str(folder), dataset=None) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits == {"forget": 3} and "membership_inference" in report.missing


def test_published_files_name_no_forgotten_record_and_no_path(command, tmp_path, saved_model):
    assert command("--forget_ids", "id-3", "id-12", "--forget_id_column", "record") == 0
    for name in ("README.md", "report.json", "unlearning_record.json"):
        text = (tmp_path / "out" / name).read_text()
        assert "id-3" not in text and "id-12" not in text and str(tmp_path) not in text and saved_model not in text


def test_existing_run_is_replaced_only_on_demand(command, tmp_path, capsys):
    assert command("--forget_class", "cat") == 0
    first = (tmp_path / "out" / "report.json").read_text()
    assert command("--forget_class", "dog") == 2
    assert "--output_dir: " in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").read_text() == first
    assert command("--forget_class", "dog", "--overwrite") == 0
    assert "class dog" in (tmp_path / "out" / "README.md").read_text()


def test_unseen_images_set_the_target(command, saved_model, tmp_path):
    """The accuracy of the original model on them, and nothing else."""
    for number, image in enumerate(make_images([0, 1, 2, 0, 1, 2], seed=7)):
        folder = tmp_path / "unseen" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    classifier = pipeline("image-classification", saved_model)
    right = [
        classifier(str(path))[0]["label"] == path.parent.name for path in sorted((tmp_path / "unseen").rglob("*.png"))
    ]
    flags = [
        "--forget_count",
        "5",
        "--holdout_dir",
        str(tmp_path / "unseen"),
        "--step_rule",
        "auto",
        "--allow_collapse",
    ]
    assert command(*flags) == 0
    step = UnlearningReport.from_json(tmp_path / "out" / "report.json").run["step"]
    assert step["target"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (["--forget_class", "cat"], "class"),
        (["--forget_column", "label", "--forget_value", "cat"], "class"),
        (["--forget_column", "breed", "--forget_value", "tabby"], "subclass"),
        (["--forget_count", "3"], "images"),
        (["--forget_count", "3", "--forget_kind", "class"], "class"),
    ],
)
def test_kind_of_forget_set_follows_from_the_request_unless_given(command, tmp_path, flags, kind):
    assert command(*flags) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").run["forget_kind"] == kind


def test_request_is_refused(refused):
    refused("--forget_class: unknown class 'dgo'. Valid: cat, dog, owl", "--forget_class", "dgo")
    refused("--forget_request: say in exactly one way what to forget")
    refused("say in exactly one way", "--forget_class", "cat", "--forget_count", "3")
    refused("--forget_class: the request covers all 30 images", "--forget_class", "cat", "dog", "owl")
    refused("--forget_indices: 30 is out of range: rows run from 0 to 29", "--forget_indices", "30")
    refused("--forget_indices: listed twice: 4", "--forget_indices", "4", "4")
    refused("--forget_column: there is no column 'fine'", "--forget_column", "fine", "--forget_value", "x")
    refused("--forget_value: unknown class 'x'. Valid: tabby", "--forget_column", "breed", "--forget_value", "x")
    refused("--forget_fraction: must lie between 0 and 1", "--forget_fraction", "1.5")
    refused("--forget_request: there is no file 'no.yaml'", "--forget_request", "no.yaml")


def test_original_is_never_the_output(saved_model, saved_dataset, capsys):
    files = {path: path.read_bytes() for path in Path(saved_model).iterdir()}
    flags = ["--dataset_name", saved_dataset, "--label_column_name", "label", "--forget_class", "cat", "--overwrite"]
    assert main(["run", "--model_name_or_path", saved_model, "--output_dir", saved_model, *flags]) == 2
    assert "--output_dir: is the folder of the original model" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(saved_model).iterdir()} == files


def test_step_that_is_far_too_large_saves_nothing(command, tmp_path, capsys):
    assert command("--forget_class", "cat", "--learning_rate", "1e30", "--num_train_epochs", "3") == 3
    assert "nothing is saved" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_several_retrained_models_give_a_band(command, saved_model, tmp_path):
    assert command("--forget_class", "cat", "--retrained_model_name_or_path", saved_model, saved_model) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert set(report.results) == {"original", "unlearned", "retrained", "retrained_2"}
    accuracy = report.results["retrained"]["metrics"]["retain_test_accuracy"]
    assert report.band["retain_test_accuracy"] == [accuracy, accuracy]


def test_model_stored_in_half_precision_runs_in_float32(command, saved_model, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(saved_model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoImageProcessor.from_pretrained(saved_model).save_pretrained(tmp_path / "half")
    assert command("--forget_class", "cat", model=str(tmp_path / "half")) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.run["environment"]["dtype"] == "float32"


def test_first_line_of_a_run_says_how_many_images_the_folder_has(command, tmp_path, capsys):
    folder = tmp_path / "to_forget"
    folder.mkdir()
    for name, image in zip(("a", "b", "train_c", "my-test-d"), make_images([0] * 4, seed=5), strict=True):
        image.save(folder / f"{name}.png")
    assert command("--forget_dir", str(folder), dataset=None) == 0
    assert capsys.readouterr().out.startswith("Forgetting 4 images: a set of images.")
