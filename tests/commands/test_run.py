"""The command as a user calls it: what it writes, and one clear line for everything it cannot use."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLASSES, make_images, make_model
from datasets import DatasetDict
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor, ViTModel, pipeline

from hf_unlearn import ForgetRequest, UnlearningReport
from hf_unlearn.commands import loading
from hf_unlearn.commands.arguments import DataArguments
from hf_unlearn.commands.main import main
from hf_unlearn.commands.parsing import parse_run_arguments
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.method_names import METHODS


@pytest.fixture
def command(saved_model, saved_dataset, tmp_path):
    """`command(*flags)` runs `hf-unlearn run` on the tiny model and data; a later flag overrides an earlier one."""

    def call(*flags, model=saved_model, dataset=saved_dataset):
        base = ["run", "--model_name_or_path", model, "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "True"]
        base += ["--label_column_name", "label", "--step_rule", "fixed", "--learning_rate", "1e-3"]
        if dataset is not None:
            base += ["--dataset_name", dataset]
        return main([*base, *flags])

    return call


@pytest.fixture
def refused(command, capsys, tmp_path):
    """`refused(message, *flags)` expects exit code 2, one line on stderr with the message, and nothing written."""

    def call(message, *flags, **options):
        assert command(*flags, **options) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("hf-unlearn: error: ") and message in error, error
        assert not (tmp_path / "out").exists()

    return call


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


def test_request_file_and_config_file(command, saved_model, saved_dataset, tmp_path):
    ForgetRequest(classes=["dog"]).to_file(tmp_path / "request.yaml")
    config = {
        "forget_request": str(tmp_path / "request.yaml"), "sigma": 0.25, "num_perturbations": 3, "learning_rate": "2e-4"
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    base = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--output_dir", str(tmp_path / "x")]
    *_, settings = parse_run_arguments([*base, "--config", str(tmp_path / "config.yaml"), "--sigma", "0.75"])
    assert settings.sigma == 0.75 and settings.num_perturbations == 3 and settings.learning_rate == 2e-4
    assert command("--config", str(tmp_path / "config.yaml")) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").run["request"]["kind"] == "classes"


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


def test_help_shows_the_flags_that_matter_once(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    for flag in ("--forget_class", "--sigma", "--step_rule", "--push_to_hub", "--config"):
        assert flag in text
    for flag in ("--forget-class", "--adafactor", "--no_hub_private_repo", "--tpu"):
        assert flag not in text


def test_help_lists_the_methods_in_whole_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  --method "))
    last = next(number for number, line in enumerate(lines) if line.startswith("  --overwrite "))
    assert f"How to unlearn: {', '.join(METHODS)}." in " ".join(" ".join(lines[first:last]).split())
    assert all(len(line) <= 80 for line in lines[first:last])


def test_flag_cut_short_names_the_method_too():
    *_, run_args, settings = parse_run_arguments(["--output_dir", "out", "--meth", "head_only"])
    assert run_args.method == "head_only" and isinstance(settings, load_method("head_only")[0])


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


# ---- Bad input ----


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


def test_wrong_number_is_refused(refused):
    refused("--sigma: must be greater than 0, got 0.0", "--forget_class", "cat", "--sigma", "0")
    refused("--num_perturbations: must be at least 1, got 0", "--forget_class", "cat", "--num_perturbations", "0")


def test_unknown_method_is_refused(refused, tmp_path):
    valid = f"Valid: {', '.join(METHODS)}."
    refused(f"--method: got 'x'. {valid}", "--forget_class", "cat", "--method", "x")
    refused(f"--method: got 'x'. {valid}", "--forget_class", "cat", "--meth", "x")
    path = tmp_path / "config.yaml"
    for text, value in (("x", "'x'"), ("[jit]", "['jit']"), ("", "None")):
        path.write_text(f"method: {text}")
        refused(f"--method: got {value}. {valid}", "--forget_class", "cat", "--config", str(path))


def test_misspelt_flag_is_refused(refused):
    refused("--sigmma: unknown flag. Close: sigma", "--forget_class", "cat", "--sigmma", "1")


def test_wrong_config_file_is_refused(refused, tmp_path):
    refused("--config: there is no file 'no.yaml'", "--config", "no.yaml")
    path = tmp_path / "config.yaml"
    path.write_text("sigmaa: 1")
    refused("has the unknown key 'sigmaa'. Close: sigma", "--config", str(path))
    path.write_text("sigma: [")
    refused("is no YAML", "--config", str(path))


def test_push_without_a_token_is_refused_before_the_work(refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused("--push_to_hub: there is no token", "--forget_class", "cat", "--push_to_hub")


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


def test_unknown_command_and_help(capsys):
    assert main(["forget"]) == 2
    assert "unknown command 'forget'. Valid: run," in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "hf-unlearn run" in capsys.readouterr().out


def test_push_of_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["push", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_several_retrained_models_give_a_band(command, saved_model, tmp_path):
    assert command("--forget_class", "cat", "--retrained_model_name_or_path", saved_model, saved_model) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert set(report.results) == {"original", "unlearned", "retrained", "retrained_2"}
    accuracy = report.results["retrained"]["metrics"]["retain_test_accuracy"]
    assert report.band["retain_test_accuracy"] == [accuracy, accuracy]


def test_retrained_model_that_is_none_is_refused_before_anything_runs(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(
        "empty' cannot be loaded", "--forget_class", "cat", "--retrained_model_name_or_path", str(tmp_path / "empty")
    )


def test_model_stored_in_half_precision_runs_in_float32(command, saved_model, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(saved_model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoImageProcessor.from_pretrained(saved_model).save_pretrained(tmp_path / "half")
    assert command("--forget_class", "cat", model=str(tmp_path / "half")) == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.run["environment"]["dtype"] == "float32"


# ---- Large data ----


def test_what_is_only_measured_is_cut_and_the_table_says_so(command, tmp_path, monkeypatch, capsys):
    looked_at = {}
    looks = loading.unreadable_images

    def unreadable_images(split, image_column):
        looked_at[len(split)] = True
        return looks(split, image_column)

    monkeypatch.setattr(loading, "unreadable_images", unreadable_images)
    assert command("--forget_class", "cat", "--max_eval_samples", "5") == 0
    # 10 of 10 to forget, 5 of the 20 retained, 5 of 6 and 5 of 12 unseen: no other image is read.
    assert set(looked_at) == {10, 5}
    output = capsys.readouterr().out
    assert "retain set (5 of 20)" in output and "retain test (5 of 12)" in output and "forget set (training" in output
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits == {"forget": 10, "retain": 5, "forget_test": 5, "retain_test": 5}
    assert report.sampled == {"retain": 20, "forget_test": 6, "retain_test": 12}
    assert "retain 5 of 20, drawn at random" in (tmp_path / "out" / "README.md").read_text()


def test_zero_measures_all_and_so_many_are_the_default(command, tmp_path):
    assert DataArguments().max_eval_samples == 10_000
    assert command("--forget_class", "cat", "--max_eval_samples", "0") == 0
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.splits["retain"] == 20 and report.sampled == {}


def test_first_line_of_a_run_says_how_many_images_the_folder_has(command, tmp_path, capsys):
    folder = tmp_path / "to_forget"
    folder.mkdir()
    for name, image in zip(("a", "b", "train_c", "my-test-d"), make_images([0] * 4, seed=5), strict=True):
        image.save(folder / f"{name}.png")
    assert command("--forget_dir", str(folder), dataset=None) == 0
    assert capsys.readouterr().out.startswith("Forgetting 4 images: a set of images.")


def test_albums_of_a_folder_to_forget_are_no_classes(command, tmp_path, capsys):
    for number, image in enumerate(make_images([0] * 4, seed=5)):
        (tmp_path / "photos" / str(2020 + number)).mkdir(parents=True)
        image.save(tmp_path / "photos" / str(2020 + number) / "a.png")
    assert command("--forget_dir", str(tmp_path / "photos"), dataset=None) == 0
    assert "The model has no class called 2020, 2021, 2022, … (4 in all)" in capsys.readouterr().out
