"""`hf-unlearn compare`: tables over any checkpoints, and one clear line for everything it cannot use."""

import json

import pytest
from conftest import CLASSES, make_images, make_model
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_unlearn import UnlearningReport
from hf_unlearn.commands.compare import about_the_band
from hf_unlearn.commands.main import main
from hf_unlearn.publication.report import weights_sha256


@pytest.fixture
def compare(checkpoints, saved_dataset, capsys):
    """`compare(*names, flags=...)` gives exit code, standard output and standard error."""

    def call(*names, flags=("--forget_class", "cat"), dataset=saved_dataset):
        data = ["--dataset_name", dataset, "--label_column_name", "label"] if dataset else []
        code = main(["compare", *names, *data, *flags])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def test_table_and_report_of_original_unlearned_and_two_retrained_models(compare, checkpoints, tmp_path):
    path = tmp_path / "report.json"
    code, out, _ = compare(*checkpoints, flags=("--forget_class", "cat", "--report_file", str(path)))
    assert code == 0
    assert "Forget set: every image of the class cat. Splits: forget 10" in out
    for text in ("accuracy in %", "forget set", "in band", "attack on loss", "tug of war", "Band: what 2 models say"):
        assert text in out
    report = UnlearningReport.from_json(path)
    assert list(report.results) == ["original", "unlearned", "retrained", "retrained_2"]
    assert report.band.keys() >= {"forget_accuracy", "forget_js_divergence_to_retrained", "tug_of_war"}
    assert report.run["request"] == {"kind": "classes", "description": "every image of the class cat"}
    assert list(report.run["models"]) == list(report.results)
    model = AutoModelForImageClassification.from_pretrained(checkpoints[1])
    assert report.run["models"]["unlearned"] == {
        "name": "checkpoint-1", "weights_sha256": weights_sha256(model.state_dict())
    }  # fmt: skip
    assert str(tmp_path.parent) not in path.read_text()


def test_one_retrained_model_gives_no_band_and_says_so(compare, checkpoints):
    code, out, _ = compare(*checkpoints[:3])
    assert code == 0 and "in band" not in out
    assert "One retrained model: no band. Give a second one" in out.replace("\n", " ")


def test_no_retrained_model_says_what_is_missing(compare, checkpoints):
    code, out, _ = compare(*checkpoints[:2])
    out = " ".join(out.split())
    assert code == 0 and "No retrained model" in out
    assert "because there is no retrained model." in out


def test_folder_of_images_is_enough(compare, checkpoints, tmp_path):
    folder = tmp_path / "to_forget"
    for number, image in enumerate(make_images([0, 0, 1], seed=5)):
        (folder / CLASSES[number // 2]).mkdir(parents=True, exist_ok=True)
        image.save(folder / CLASSES[number // 2] / f"{number}.png")
    code, out, _ = compare(*checkpoints[:2], flags=("--forget_dir", str(folder)), dataset=None)
    out = " ".join(out.split())
    assert code == 0 and "forget set (training images to forget)" in out
    assert "because there is no retain test split." in out


def test_second_comparison_reads_the_cache(compare, checkpoints, tmp_path, monkeypatch):
    flags = ("--forget_class", "cat", "--logits_cache_dir", str(tmp_path / "cache"), "--report_file")
    assert compare(*checkpoints, flags=(*flags, str(tmp_path / "first.json")))[0] == 0

    def refuse(*args, **kwargs):
        raise AssertionError("a model runs")

    monkeypatch.setattr("transformers.ResNetForImageClassification.forward", refuse)
    assert compare(*checkpoints, flags=(*flags, str(tmp_path / "second.json")))[0] == 0
    assert json.loads((tmp_path / "first.json").read_text()) == json.loads((tmp_path / "second.json").read_text())


def test_probability_of_leaving_the_band_falls_with_the_number_of_models():
    # The largest and the smallest of k + 1 values are equally likely to be any of them.
    assert "up to 67 %" in about_the_band(2) and "up to 50 %" in about_the_band(3)
    assert "up to 20 %" in about_the_band(9)


def refused(result, message):
    code, _, error = result
    assert code == 2 and len(error.strip().splitlines()) == 1
    assert error.startswith("hf-unlearn: error: ") and message in error, error


def test_one_model_is_too_few(compare, checkpoints):
    refused(compare(checkpoints[0]), "--models: name at least two: ORIGINAL UNLEARNED [RETRAINED ...]")


def test_models_with_other_labels_are_not_compared(compare, checkpoints, tmp_path):
    model = make_model("resnet")
    model.config.id2label = {0: "dog", 1: "cat", 2: "owl"}
    model.config.label2id = {"dog": 0, "cat": 1, "owl": 2}
    model.save_pretrained(tmp_path / "other")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "other")
    refused(compare(checkpoints[0], str(tmp_path / "other")), "other' has other labels than")


def test_models_that_prepare_images_differently_need_one_image_processor(compare, checkpoints, tmp_path):
    make_model("resnet").save_pretrained(tmp_path / "other")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "other")
    names = (checkpoints[0], str(tmp_path / "other"))
    refused(compare(*names), "--image_processor_name: ")
    flags = ("--forget_class", "cat", "--image_processor_name", checkpoints[0])
    assert compare(*names, flags=flags)[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--forget_request: say in exactly one way what to forget"),
        (["--forget_class", "horse"], "--forget_class: unknown class 'horse'"),
        (
            ["--forget_class", "cat", "--report_file", "nowhere/report.json"],
            "--report_file: there is no folder 'nowhere'",
        ),
        (
            ["--forget_class", "cat", "--logit_dir", "x"],
            "--logit_dir: unknown flag. Close: forget_dir, logits_cache_dir",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(compare, checkpoints, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(compare(*checkpoints[:2], flags=flags), message)


def test_missing_checkpoint_is_one_line(compare, checkpoints):
    refused(compare(checkpoints[0], "no/such/folder"), "'no/such/folder' is no image classifier")
