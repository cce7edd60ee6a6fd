"""The matrix of architectures: it is whole, every model of it runs, and the cheapest of each family forget a class."""

import math
from dataclasses import replace

import pytest
import torch

from hf_unlearn import ForgetRequest, split_dataset
from scripts.benchmarks.architectures import models, table
from scripts.benchmarks.architectures.fit import fit, model_folder, pixels_and_labels
from scripts.benchmarks.architectures.models import ARCHITECTURES, REFUSED, make_image_processor, make_model
from scripts.benchmarks.architectures.pictures import CLASSES, KINDS, make_pictures
from scripts.benchmarks.architectures.requests import COLUMNS, Job, load, refuse, same_logits
from scripts.benchmarks.networks import quiet_trainer


# The cheapest of each family: convolutions with each kind of norm, pooling, plain transformers, one in a vision tower,
# one with registers and class token, heads of two kinds that are averaged, a pyramid, and a head that asks.
CHEAPEST = [
    "resnet", "bit", "convnext", "mobilenet_v1", "textnet", "poolformer", "vit", "clip", "dinov2, registers",
    "deit, teacher", "levit, teacher", "segformer", "perceiver, Fourier",
]  # fmt: skip


def test_every_model_type_of_transformers_is_in_the_matrix():
    missing = models.missing_model_types()
    assert not missing, f"not in the matrix yet: {', '.join(missing)}"


def test_a_new_model_type_is_missing(monkeypatch):
    known = models.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    monkeypatch.setattr(models, "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", {**known, "new_net": "NewNet"})
    assert models.missing_model_types() == ["new_net"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_model_gives_logits_of_a_picture(name):
    picture = make_pictures()["train"][0]["image"]
    pixel_values = make_image_processor(name)([picture], return_tensors="pt")["pixel_values"]
    size = ARCHITECTURES[name].size
    assert pixel_values.shape == (1, 3, size, size)
    with torch.no_grad():
        logits = make_model(name)(pixel_values=pixel_values).logits
    assert logits.shape == (1, len(CLASSES))
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", CHEAPEST)
def test_class_request_from_fit_to_saved_model(name, tmp_path, monkeypatch):
    # Trained for a moment only: that everything runs is shown here, what is forgotten and lost by the benchmark.
    monkeypatch.setitem(ARCHITECTURES, name, replace(ARCHITECTURES[name], epochs=1))
    row = fit(tmp_path, name)
    assert row["train_accuracy"] > 100 / len(CLASSES)
    model, image_processor = load(model_folder(tmp_path, name))
    forget = split_dataset(make_pictures()["train"], ForgetRequest(classes=["disc"]))["forget"]
    trainer = quiet_trainer(model, forget, str(tmp_path / "out"), image_processor, allow_collapse=True)
    trainer.train()
    assert trainer.step.accuracy <= trainer.start
    assert math.isfinite(trainer.change)
    trainer.save_model()
    unlearned, _ = load(tmp_path / "out")
    assert same_logits(model, unlearned, name)
    original, _ = load(model_folder(tmp_path, name))
    assert not same_logits(model, original, name)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(model_type, tmp_path):
    for row in refuse(tmp_path, model_type):
        assert row["refused"] == "input"
        assert REFUSED[model_type] in row["error"]
        assert "\n" not in row["error"]
        assert row["saved"] is False


def test_pictures_are_the_same_at_every_call_and_even_over_the_kinds():
    splits = make_pictures()
    for split in splits.values():
        assert len(split) == 600
        assert [split["kind"].count(kind) for kind in range(len(KINDS))] == [50] * len(KINDS)
        assert all(label == kind // 2 for label, kind in zip(split["label"], split["kind"], strict=True))
    make_pictures.cache_clear()
    again = make_pictures()["train"]
    assert again[17]["image"].tobytes() == splits["train"][17]["image"].tobytes()


def test_jobs_name_what_they_forget():
    for job, number in ((Job("class", "disc"), 100), (Job("subclass", "red disc"), 50), (Job("images", "0"), 24)):
        assert job.forgotten("train").sum() == number
        assert len(split_dataset(make_pictures()["train"], job.request)["forget"]) == number
    assert not Job("images", "0").forgotten("test").any()
    assert len(pixels_and_labels("resnet", "train")[1]) == 600


def test_verdict_names_what_a_user_has_to_know():
    fit_row = {"train_accuracy": "99.0", "test_accuracy": "95.0"}
    empty = dict.fromkeys(COLUMNS, "") | {"by": "python", "kind": "class"}

    def row(lost, refused="", **more):
        return empty | {"lost": str(lost), "lost_train": "0.0", "refused": refused, **more}

    assert table.verdict(fit_row, [row(0.5)]) == "works"
    assert table.verdict(fit_row | {"test_accuracy": "80.0"}, [row(0.5)]) == "**does not fit**"
    assert table.verdict(fit_row, [row(12), row(5)]) == "**1 destroyed and saved**, 1 degraded and saved"
    assert table.verdict(fit_row, [row(12, "collapsed"), row(1, "collapsed")]) == (
        "1 damaged and stopped, 1 stopped for nothing"
    )
    assert table.verdict(fit_row, [empty | {"error": "KeyError: 'x'"}]) == "**1 crash**"
    refused = empty | {"by": "command", "refused": "input", "error": "no trained image classifier"}
    assert table.verdict(fit_row, [row(0), refused]) == "**the command refuses it**"
