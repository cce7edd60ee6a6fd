"""What `verify` measures, against definitions written out, and that it touches copies alone."""

import copy
import json
import math
from collections import defaultdict
from dataclasses import asdict

import pytest
import torch
from conftest import FEW_STEPS, make_model, make_split
from datasets import DatasetDict
from transformers import ViTImageProcessor

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import verification, verification_report
from hf_unlearn.evaluation.verification import verify_unlearning
from hf_unlearn.evaluation.verification_report import VerificationReport
from hf_unlearn.publication.plots import save_relearning_curves


pytestmark = pytest.mark.usefixtures("few_steps")


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
        steps=list(FEW_STEPS),
        images={},
    )


def test_anamnesis_index_is_the_ratio_of_the_steps():
    report, found = made_up(), {name: defaultdict(dict) for name in verification.MEASURES}
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
    report, found = made_up(), {name: defaultdict(dict) for name in verification.MEASURES}
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
    report, found = made_up(retrained=1), {name: defaultdict(dict) for name in verification.MEASURES}
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


# ---- The verdict ----


def test_verdict_counts_a_measure_of_two_splits_once():
    report = made_up(
        **{"accuracy/forget": [1.0, 0, 0, 0, 0], "anamnesis_index/forget": [0.0, 1, 0, 1, 1],
           "probe_accuracy/forget": [1.0, 0.9, 1, 0.2, 0.3], "probe_accuracy/forget_test": [1.0, 0.3, 1, 0.2, 0.3],
           "prototype_accuracy/forget": [1.0, 0.3, 1, 0.2, 0.3], "information": [0.6, 0.0, 0.6, 0.2, 0.2],
           "logit_auroc/forget": [1.0, 0.6, 1, 0.5, 0.7]}
    )  # fmt: skip
    assert report.verdict() == (
        "Verdict: by 2 of 4 measures not told from models that never saw the forget set; more is left by 1; less is left "
        "by 1."
    )
    alike = made_up(**{"logit_auroc/forget": [1.0, 0.6, 1, 0.5, 0.7], "information": [0.6, 0.2, 0.6, 0.2, 0.2]})
    assert alike.verdict() == "Verdict: by all 2 measures not told from models that never saw the forget set."
    hidden = made_up(1, **{"logit_auroc/forget": [1.0, 1, 1, 0.5], "information": [0.6, 0.6, 0.6, 0.2]})
    assert hidden.verdict() == (
        "Verdict: more is left than in the one model that never saw the forget set, by all 2 measures."
    )


def test_verdict_leaves_out_what_does_not_tell_the_controls_unless_it_finds_more_in_the_unlearned_model():
    useful = {"information": [0.6, 0.2, 0.6, 0.2, 0.2]}
    hidden_alike = [1.0, 0, 0, 0, 0]
    assert (
        "by the one measure of use not" in made_up(**useful, **{"rounded_4_accuracy/forget": hidden_alike}).verdict()
    )
    back = made_up(**useful, **{"rounded_4_accuracy/forget": [1.0, 0.6, 0, 0, 0]})
    assert "by 1 of 2 measures not" in back.verdict() and "more is left by 1" in back.verdict()
    assert "More is left in the unlearned model than in the 2 retrained models, by: weights in 4 bits" in back.text()
    assert (
        "find nothing in the head-only control" in made_up(0, **{"rounded_4_accuracy/forget": [1.0, 0, 0]}).verdict()
    )
    none = made_up(**{"rounded_4_accuracy/forget": hidden_alike})
    assert none.verdict().startswith("Verdict: none; no measure tells")


def test_measure_that_one_control_deceives_does_not_tell():
    values = {
        "original": 1.0,
        "unlearned": 0.3,
        "head-only": 1.0,
        "BatchNorm": 0.3,
        "retrained 1": 0.2,
        "retrained 2": 0.3,
    }
    report = made_up()
    report.models, report.measures, report.margins = list(values), {"information": values}, {"information": 0.1}
    assert report.controls == ["head-only", "BatchNorm"] and report.telling == []
    report.measures["information"]["BatchNorm"] = 0.9
    assert report.telling == ["information"] and "both controls" in report.text()


def test_verdict_without_a_retrained_model_compares_with_the_control_that_hides():
    report = made_up(
        0, **{"information": [0.6, 0.1, 0.6], "logit_auroc/forget": [1.0, 0.95, 1], "rounded_8_accuracy/forget": [1.0, 0, 0],
              "relearning_steps/forget": [0, None, None], "accuracy/forget": [1.0, 0, 0]}
    )  # fmt: skip
    # Rounding brings nothing back in the control, and it did not learn again: these measures do not count.
    report.margins["relearning_steps/forget"] = 1
    assert report.verdict() == (
        "Verdict: none, without a retrained model; by 1 of 2 measures as much is left as in the head-only control, which "
        "only hides."
    )
    report.measures["accuracy/forget"]["head-only"] = 0.8
    assert not report.control_hides and report.verdict().endswith(
        "the head-only control, to compare with instead, hides too little."
    )


# ---- The whole ----


def test_report_holds_every_measure_of_every_model(report):
    models = ["original", "unlearned", "head-only", "BatchNorm", "retrained 1", "retrained 2"]
    assert report.models == models and not report.missing
    assert all(list(values) == models for values in report.measures.values())
    names = {measure.split("/")[0] for measure in report.measures}
    assert names == set(verification.MEASURES)
    assert report.images == {
        "attacker, forget": 5, "attacker, others": 20, "measured, others": 12, "measured, forget": 5,
        "measured, forget_test": 6,
    }  # fmt: skip
    # The head alone differs, so the features do not.
    for measure in ("prototype_accuracy/forget", "probe_accuracy/forget_test", "information"):
        assert report.measures[measure]["head-only"] == report.measures[measure]["original"]
    # Shares of 12 other images, of 5 and 6 forget images.
    margins = {
        measure: 1 / value**2 for measure, value in report.margins.items() if measure.startswith(("shift", "logit"))
    }
    assert margins == pytest.approx(
        {"shift_accuracy/forget": 5, "shift_accuracy/forget_test": 6, "shift_false_positives": 12, "logit_auroc/forget": 5,
         "logit_auroc/forget_test": 6}
    )  # fmt: skip


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
    assert set(report.missing) == {
        "prototype_accuracy", "probe_accuracy", "information", "idi", "anamnesis_index", "retained_accuracy",
        "shift_accuracy", "shift_false_positives", "logit_auroc",
    }  # fmt: skip
    assert report.controls == ["head-only"]
    assert report.missing["information"] == "it needs images of what stays"
    assert {"relearning_steps/forget", "accuracy/forget"} <= set(report.measures)
    assert "forget images alone" in report.notes[0]


def test_unseen_images_stand_in_for_retained_ones(splits, image_processor):
    some = DatasetDict(forget=splits["forget"], retain_test=splits["retain_test"])
    report = verify(some, image_processor, num_retrained=1)
    assert not report.missing and "unseen ones" in report.notes[0]
    # A third is kept from the attacker.
    assert report.images["attacker, others"] == 8 and report.images["measured, others"] == 4
    assert report.measures["anamnesis_index/forget"]["retrained 1"] == 1.0


def test_logits_need_a_class_of_which_nothing_stays(dataset, image_processor):
    part = split_dataset(dataset["train"], ForgetRequest(column="breed", values=["tabby"]), "label")
    report = verify(part, image_processor, num_retrained=0)
    assert {name for name, reason in report.missing.items() if reason == "it needs a class of which no image stays"} == {
        "shift_accuracy", "shift_false_positives", "logit_auroc"
    }  # fmt: skip
    assert not any(measure.startswith(("shift", "logit")) for measure in report.measures)


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
    assert values["verdict"] == report.verdict()
    assert set(values["bands"]) == set(report.measures)
    picture = save_relearning_curves(report, tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
