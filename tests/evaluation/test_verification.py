"""What `verify` measures, against definitions written out, and that it touches copies alone."""

import copy
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_split
from datasets import DatasetDict
from transformers import ViTImageProcessor

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import probes, verification, verification_report
from hf_unlearn.evaluation.probes import HEAD_INPUT, Images
from hf_unlearn.evaluation.verification import verify_unlearning
from hf_unlearn.evaluation.verification_report import VerificationReport
from hf_unlearn.publication.plots import save_relearning_curves


STEPS = (0, 1, 2, 4)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "MEASURED_STEPS", STEPS)
        patch.setattr(verification, "MEASURED_STEPS", STEPS)
        patch.setattr(verification, "NUM_IMAGES", (1, 3))
        patch.setattr(verification_report, "NUM_IMAGES", (1, 3))
        yield


@pytest.fixture(scope="module")
def splits():
    """Cats are forgotten: 10 of 30 training images, 6 of 18 unseen ones."""
    request = ForgetRequest(classes=["cat"])
    train, test = (split_dataset(make_split(rows, seed), request, "label") for rows, seed in ((30, 0), (18, 1)))
    return DatasetDict(
        forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
    )


@pytest.fixture(scope="module")
def image_processor():
    return ViTImageProcessor(size={"height": 16, "width": 16})


def other_model(seed: int):
    """Stands for a model trained anew: the same network with other weights."""
    model = make_model("resnet")
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def verify(splits, image_processor, num_retrained=2, **options):
    retrained = [other_model(seed) for seed in range(num_retrained)]
    return verify_unlearning(
        make_model("resnet"), other_model(9), splits, image_processor, retrained, label_column="label", **options
    )


@pytest.fixture(scope="module")
def report(few_steps, splits, image_processor):
    return verify(splits, image_processor)


def some_images(num_images=12, size=16, seed=0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randn(num_images, 3, size, size, generator=generator), torch.arange(num_images) % 3)


# ---- The attacks ----


@pytest.mark.parametrize("architecture", ["resnet", "vit", "convnext", "mobilenet_v2"])
def test_features_are_what_the_head_turns_into_logits(architecture):
    model, images = make_model(architecture), some_images(size=32 if architecture == "mobilenet_v2" else 16)
    features = probes.collect_features(model, images, batch_size=5)
    (head,) = probes.heads_of(model, images.pixel_values[:1])
    logits = torch.cat([logits for logits, _ in probes.forward(model, images, 5)]).detach()
    # Tolerance of float32.
    torch.testing.assert_close(
        torch.tensor(features[HEAD_INPUT]).float() @ head.weight.T + head.bias, logits, rtol=1e-4, atol=1e-4
    )
    assert len(features) > 2 and all(len(rows) == 12 and rows.ndim == 2 for rows in features.values())


def test_model_without_a_linear_head_is_refused():
    model = make_model("resnet")
    model.classifier[1] = torch.nn.Sequential(torch.nn.Linear(16, 3), torch.nn.Tanh(), torch.nn.Linear(3, 5))
    model.classifier.append(torch.nn.Flatten(0))
    model.classifier.append(torch.nn.Unflatten(0, (-1, 5)))
    model.classifier.append(torch.nn.ConstantPad1d((0, 1), 0.0))
    with pytest.raises(InputError, match="no linear layer at its end"):
        probes.heads_of(model, torch.randn(1, 3, 16, 16))


def test_head_only_changes_the_head_and_hides_the_class(splits, image_processor):
    original = make_model("resnet")
    with torch.no_grad():
        # The untrained network takes everything for a cat.
        original.classifier[1].bias[0] += 5
    before = copy.deepcopy(original.state_dict())
    model = probes.head_only(original, splits["forget"], image_processor, label_column="label")
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed and changed <= {"classifier.1.weight", "classifier.1.bias"}
    assert all((value == before[name]).all() for name, value in original.state_dict().items())
    images = verification.draw_images(splits["forget"], image_processor, original, 10, 8, 0, label_column="label")
    assert probes.accuracy(original, images, 8) == 1.0 and probes.accuracy(model, images, 8) <= 0.01
    ours, theirs = (probes.collect_features(network, images, 8) for network in (model, original))
    assert all((ours[layer] == theirs[layer]).all() for layer in theirs)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_relearning_starts_at_the_accuracy_and_learns():
    model, images = make_model("resnet"), some_images()
    before = copy.deepcopy(model.state_dict())
    curve = probes.relearn(model, images, None, {"forget": images}, 1e-2, 64, seed=0)["forget"]
    with torch.no_grad():
        answers = model(pixel_values=images.pixel_values).logits.argmax(dim=-1)
    assert curve[0] == pytest.approx((answers == images.labels).float().mean().item())
    assert len(curve) == len(STEPS) and curve[-1] > curve[0]
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def test_relearning_sees_forget_images_and_others_in_equal_parts():
    generator = torch.Generator().manual_seed(0)
    images = Images(torch.zeros(40, 1, 1, 1), torch.arange(40))
    batches = probes.endless_batches(images, 16, generator)
    labels = torch.cat([next(batches).labels for _ in range(2)])
    assert len(labels) == 32 and len(labels.unique()) == 32
    assert len(next(probes.endless_batches(images[:3], 16, generator))) == 3


def test_prototypes_are_means_of_directions():
    # Two classes on the axes; the lengths must not matter.
    features = np.array([[1.0, 0.0], [100.0, 10.0], [0.0, 3.0], [0.1, 1.0]])
    labels = np.array([4, 4, 7, 7])
    queries = np.array([[5.0, 4.0], [0.01, 0.011], [9.0, 0.0]])
    assert probes.prototype_accuracy(features, labels, queries, np.array([4, 7, 4]), 2, seed=0) == 1.0
    assert probes.prototype_accuracy(features, labels, queries, np.array([7, 7, 4]), 2, seed=0) == pytest.approx(2 / 3)


def test_probe_finds_what_is_linear_and_no_more():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 5)), np.arange(400) % 2
    queries, query_labels = rng.normal(size=(400, 5)), np.arange(400) % 2
    # Three standard errors of a guess at 400 images.
    assert abs(probes.probe_accuracy(features, labels, queries, query_labels) - 0.5) < 0.075
    features[:, 0] += 10 * labels
    queries[:, 0] += 10 * query_labels
    assert probes.probe_accuracy(features, labels, queries, query_labels) == 1.0


@pytest.mark.parametrize("num_forget", [100, 20])
def test_information_is_ln_2_of_a_separate_set_and_0_of_a_like_one(num_forget):
    rng = np.random.default_rng(0)
    is_forget = np.arange(200) < num_forget
    noise = rng.normal(size=(200, 3))
    layers = {"separate": noise + 20 * is_forget[:, None], "alike": noise}
    information, margin = probes.information_of_layers(layers, is_forget, seed=0)
    assert information["separate"] == pytest.approx(math.log(2), abs=0.02) and information["separate"] <= math.log(2)
    assert 0 <= information["alike"] < 0.05 and 0 < margin < 0.2


def test_images_are_drawn_from_the_classes_in_turn(splits, image_processor):
    model = make_model("resnet")
    drawn = verification.draw_images(splits["retain"], image_processor, model, 6, 4, 0, label_column="label")
    assert drawn.labels.bincount().tolist() == [0, 3, 3]
    unlabelled = splits["retain"].remove_columns(["label", "breed"])
    drawn = verification.draw_images(unlabelled, image_processor, model, 6, 4, 0)
    with torch.no_grad():
        assert (drawn.labels == model(pixel_values=drawn.pixel_values).logits.argmax(dim=-1)).all()


# ---- The numbers made from them ----


def made_up(retrained=2, **measures) -> VerificationReport:
    models = ["original", "unlearned", "head-only", *(f"retrained {i + 1}" for i in range(retrained))]
    return VerificationReport(
        models=models,
        measures={name: dict(zip(models, values, strict=True)) for name, values in measures.items()},
        margins=dict.fromkeys(measures, 0.1),
        curves={},
        layer_information={},
        steps=list(STEPS),
        images={},
    )


def test_anamnesis_index_is_the_ratio_of_the_steps():
    report, found = made_up(), {name: verification.defaultdict(dict) for name in verification.MEASURES}
    curves = {
        "original": [1.0, 1, 1, 1],
        "unlearned": [0.0, 0.5, 0.96, 1],
        "head-only": [0.0, 0.95, 1, 1],
        "retrained 1": [0.0, 0, 0, 0.97],
        "retrained 2": [0.0, 0, 0, 0.5],
    }
    report.curves = {"forget": {model: {"1": [0.0] * 4, "3": curve} for model, curve in curves.items()}}
    verification.summarise_relearning(report, found)
    assert found["relearning_steps"]["forget"] == {
        "original": 0, "unlearned": 2, "head-only": 1, "retrained 1": 4, "retrained 2": None
    }  # fmt: skip
    # Retrained: 4, and 4 at least: mean 4. A retrained model is compared with the other one.
    assert found["anamnesis_index"]["forget"] == {
        "original": 0, "unlearned": 2 / 4, "head-only": 1 / 4, "retrained 1": 4 / 4, "retrained 2": None
    }  # fmt: skip
    assert "upper bound" in report.notes[0] and "retrained 2" in report.notes[0]
    assert found["relearning_images"]["forget"]["unlearned"] == 3
    # Trapezoids: (0 + .5)/2 · 1 + (.5 + .96)/2 · 1 + (.96 + 1)/2 · 2, over 4 steps.
    assert found["relearning_accuracy"]["forget"]["unlearned"] == pytest.approx((0.25 + 0.73 + 1.96) / 4)


def test_idi_is_the_ratio_of_the_differences():
    report, found = made_up(), {name: verification.defaultdict(dict) for name in verification.MEASURES}
    layers = {
        "original": (0.5, 0.7), "unlearned": (0.5, 0.3), "head-only": (0.5, 0.7), "retrained 1": (0.3, 0.1),
        "retrained 2": (0.3, 0.3),
    }  # fmt: skip
    report.layer_information = {model: {"a": a, "b": b} for model, (a, b) in layers.items()}
    verification.summarise_information(report, found)
    # Sums: original 1.2, unlearned 0.8, the mean of the retrained 0.5; for retrained 1 the other one, 0.6.
    idi = found["idi"][""]
    assert idi["original"] == idi["head-only"] == 1 and idi["unlearned"] == pytest.approx(0.3 / 0.7)
    assert idi["retrained 1"] == pytest.approx(-0.2 / 0.6) and idi["retrained 2"] == pytest.approx(0.2 / 0.8)


def test_idi_is_missing_where_the_original_holds_no_more():
    report, found = made_up(retrained=1), {name: verification.defaultdict(dict) for name in verification.MEASURES}
    report.layer_information = {model: {"a": 0.4} for model in report.models}
    verification.summarise_information(report, found)
    assert set(found["idi"][""].values()) == {None}


def test_side_takes_band_and_margin_into_account():
    report = made_up(probe_accuracy=[1.0, 0.75, 0.4, 0.6, 0.7])
    assert report.band("probe_accuracy") == (0.6, 0.7)
    sides = [report.side("probe_accuracy", model) for model in ("original", "unlearned", "head-only")]
    # 0.75 lies within 0.1 of the band, 0.4 past it.
    assert sides == [1, 0, -1]


def test_retrained_models_that_hold_more_than_the_original_make_a_measure_useless():
    report = made_up(**{"probe_accuracy/forget": [0.3, 0.3, 0.3, 0.8, 0.9]})
    assert report.side("probe_accuracy/forget", "original") == -1
    assert "No measure tells both" in report.text()


def test_steps_differ_when_they_lie_two_places_apart():
    report = made_up(relearning_steps=[0, 2, 1, 4, None])
    report.margins["relearning_steps"] = 1
    # 2 is the place before the band's 4.
    assert [report.side("relearning_steps", model) for model in ("unlearned", "head-only")] == [0, 1]
    assert report.band("relearning_steps") == (4, math.inf)


def test_text_claims_nothing_without_a_retrained_model():
    text = made_up(0, probe_accuracy=[1.0, 1.0, 1.0]).text()
    assert "no retrained model" in text and "nothing follows" in text and "is left in" not in text


def test_text_says_which_measures_tell():
    report = made_up(
        **{"probe_accuracy/forget": [1.0, 1, 1, 1, 1], "probe_accuracy/forget_test": [1.0, 0.95, 1, 0.2, 0.3],
           "information": [0.6, 0.25, 0.6, 0.2, 0.2]}
    )  # fmt: skip
    sentences = verification_report.describe(report)
    assert sentences[0].endswith("by: linear probe, accuracy (unseen); information in the layers, nats.")
    assert (
        sentences[1]
        == "More is left in the unlearned model than in the 2 retrained models, by: linear probe, accuracy (unseen)."
    )
    assert sentences[2].startswith("The unlearned model is not told from the 2 retrained models by: information")
    assert sentences[3].endswith("than in the head-only control, by: information in the layers, nats.")
    assert sentences[4].endswith("linear probe, accuracy (left out).")
    assert "No measure" in made_up(**{"probe_accuracy/forget": [1.0, 1, 1, 1, 1]}).text()
    assert "no band" in made_up(1, **{"probe_accuracy/forget": [1.0, 1, 1, 0]}).text()


# ---- The whole ----


def test_report_holds_every_measure_of_every_model(report):
    models = ["original", "unlearned", "head-only", "retrained 1", "retrained 2"]
    assert report.models == models and not report.missing
    assert all(list(values) == models for values in report.measures.values())
    names = {measure.split("/")[0] for measure in report.measures}
    assert names == set(verification.MEASURES)
    assert report.images == {
        "attacker, forget": 5, "attacker, others": 20, "measured, forget": 5, "measured, forget_test": 6
    }  # fmt: skip
    # The head alone differs, so the features do not.
    for measure in ("prototype_accuracy/forget", "probe_accuracy/forget_test", "information"):
        assert report.measures[measure]["head-only"] == report.measures[measure]["original"]


def test_same_seed_gives_the_same_report(report, splits, image_processor):
    torch.rand(3)
    assert asdict(verify(splits, image_processor)) == asdict(report)


def test_models_stay_as_they_are(splits, image_processor):
    models = [make_model("resnet"), other_model(9), other_model(0)]
    models[1].train()
    models[2].requires_grad_(False)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    verify_unlearning(*models[:2], splits, image_processor, models[2:], label_column="label")
    for model, weights in zip(models, before, strict=True):
        assert all((value == weights[name]).all() for name, value in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert models[1].training and not models[0].training
    assert not any(parameter.requires_grad for parameter in models[2].parameters())


def test_forget_images_alone_leave_measures_out_with_the_reason(splits, image_processor):
    alone = DatasetDict(forget=splits["forget"])
    report = verify(alone, image_processor, num_retrained=0)
    assert set(report.missing) == {"prototype_accuracy", "probe_accuracy", "information", "idi", "anamnesis_index"}
    assert report.missing["information"] == "it needs images of what stays"
    assert {"relearning_steps/forget", "accuracy/forget"} <= set(report.measures)
    assert "forget images alone" in report.notes[0]


def test_unseen_images_stand_in_for_retained_ones(splits, image_processor):
    some = DatasetDict(forget=splits["forget"], retain_test=splits["retain_test"])
    report = verify(some, image_processor, num_retrained=1)
    assert not report.missing and "unseen ones" in report.notes[0]
    assert report.measures["anamnesis_index/forget"]["retrained 1"] == 1.0


def test_single_image_cannot_be_measured(splits, image_processor):
    with pytest.raises(InputError, match="two or more"):
        verify(DatasetDict(forget=splits["forget"].select([0])), image_processor)
    with pytest.raises(InputError, match="no split 'forget'"):
        verify(DatasetDict(retain=splits["retain"]), image_processor)


def test_report_and_picture_are_written(report, tmp_path):
    report.to_json(tmp_path / "report.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    values = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert values["measures"] == report.measures and values["text"] == report.text()
    assert set(values["bands"]) == set(report.measures)
    picture = save_relearning_curves(report, tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


# ---- The command ----


@pytest.fixture
def command(saved_model, saved_dataset):
    def call(*flags, models=(saved_model, saved_model)):
        data = ["--dataset_name", saved_dataset, "--label_column_name", "label", "--forget_class", "cat"]
        return main(["verify", *models, *data, *flags])

    return call


def test_command_prints_the_table_and_writes_the_files(command, saved_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    files = ["--report_file", str(tmp_path / "report.json"), "--figure_file", str(tmp_path / "curves.png")]
    assert command("--retrained", saved_model, saved_model, *files) == 0
    output = capsys.readouterr().out
    assert "linear probe" in output and "retrained 2" in output and "No measure tells" in " ".join(output.split())
    assert (tmp_path / "curves.png").is_file()
    assert json.loads((tmp_path / "report.json").read_text())["images"]["measured, forget_test"] == 6


def test_command_refuses_other_labels_and_lost_folders(command, saved_model, tmp_path, capsys):
    model = make_model("resnet")
    model.config.id2label = {0: "cat", 1: "dog", 2: "fox"}
    model.config.label2id = {"cat": 0, "dog": 1, "fox": 2}
    model.save_pretrained(tmp_path / "other")
    processor = Path(saved_model) / "preprocessor_config.json"
    (tmp_path / "other" / "preprocessor_config.json").write_bytes(processor.read_bytes())
    assert command(models=(saved_model, str(tmp_path / "other"))) == 2
    assert "has other labels than" in capsys.readouterr().err
    assert command("--report_file", str(tmp_path / "no" / "report.json")) == 2
    assert "--report_file: there is no folder" in capsys.readouterr().err
    assert command("--max_images", "0") == 2
    assert "--max_images: must be at least 1, got 0." in capsys.readouterr().err
