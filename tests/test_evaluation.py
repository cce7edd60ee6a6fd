import copy

import numpy as np
import pytest
import torch
from conftest import make_model
from datasets import DatasetDict

from hf_unlearn import ForgetRequest, UnlearningReport, evaluate_unlearning, split_dataset
from hf_unlearn.data import ImageDataset, match_labels
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import collect_logits
from hf_unlearn.report import percent, weights_sha256


@pytest.fixture
def splits(dataset):
    request = ForgetRequest(classes=["cat"])
    train = split_dataset(dataset["train"], request, "label")
    test = split_dataset(dataset["test"], request, "label")
    return DatasetDict(
        forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
    )


@pytest.fixture
def other():
    model = make_model("resnet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def test_logits_are_those_of_the_model_in_order(resnet, dataset, image_processor):
    images = ImageDataset(
        dataset["train"],
        image_processor,
        label_column="label",
        label_ids=match_labels(dataset["train"], "label", resnet.config.label2id),
    )
    logits, labels = collect_logits(resnet, images, batch_size=7)
    with torch.no_grad():
        expected = torch.cat([resnet(pixel_values=images[row]["pixel_values"][None]).logits for row in range(30)])
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == dataset["train"]["label"][:]


def test_each_model_runs_once_over_each_split(resnet, other, splits, image_processor):
    seen = []
    resnet.register_forward_pre_hook(lambda *args, **kwargs: seen.append(1))
    evaluate_unlearning(resnet, splits, image_processor, original_model=other, label_column="label", batch_size=64)
    assert len(seen) == 4


def test_report_holds_the_accuracies_of_all_models(resnet, other, splits, image_processor):
    report = evaluate_unlearning(
        resnet, splits, image_processor, original_model=other, retrained_model=copy.deepcopy(other),
        label_column="label",
    )  # fmt: skip
    assert list(report.results) == ["original", "unlearned", "retrained"]
    assert report.results["original"] == report.results["retrained"]
    assert report.splits == {"forget": 10, "retain": 20, "forget_test": 6, "retain_test": 12}
    images = ImageDataset(splits["retain"], image_processor, label_column="label", label_ids={0: 0, 1: 1, 2: 2})
    with torch.no_grad():
        right = [
            resnet(pixel_values=images[row]["pixel_values"][None]).logits.argmax().item() == images[row]["labels"]
            for row in range(20)
        ]
    metrics = report.results["unlearned"]["metrics"]
    assert metrics["retain_accuracy"] == pytest.approx(np.mean(right))
    assert set(metrics) == {
        "forget_accuracy", "retain_accuracy", "forget_test_accuracy", "retain_test_accuracy", "membership_inference"
    }  # fmt: skip
    assert set(report.results["unlearned"]["class_accuracy"]) == {"cat", "dog", "owl"}
    assert sum(report.results["unlearned"]["entropy_histogram"]["forget"]) == 10


def test_what_cannot_be_measured_is_said_with_the_reason(resnet, splits, image_processor):
    report = evaluate_unlearning(
        resnet, DatasetDict(forget=splits["forget"].select_columns(["image"])), image_processor
    )
    assert report.results["unlearned"]["metrics"] == {}
    assert report.missing["forget_accuracy"] == "the images have no labels"
    assert report.missing["retain_test_accuracy"] == "there is no retain test split"
    assert report.missing["membership_inference"] == "it needs forget, retained and unseen images"


def test_unknown_split_is_an_error(resnet, splits, image_processor):
    with pytest.raises(InputError, match="unknown split 'val'. Valid: forget, retain, forget_test, retain_test"):
        evaluate_unlearning(resnet, DatasetDict(val=splits["forget"]), image_processor)


def test_report_survives_the_file(resnet, splits, image_processor, tmp_path):
    report = evaluate_unlearning(resnet, splits, image_processor, label_column="label")
    report.to_json(tmp_path / "report.json")
    assert UnlearningReport.from_json(tmp_path / "report.json") == report


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"results": 1}'])
def test_file_that_is_no_report_is_an_error(text, tmp_path):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="report"):
        UnlearningReport.from_json(path)


def test_percent_has_one_decimal_and_a_dash_for_nothing():
    assert percent(0.12345) == "12.3" and percent(1) == "100.0" and percent(None) == "–"


def test_hash_of_the_weights_sees_every_value(resnet):
    before = weights_sha256(resnet.state_dict())
    assert before == weights_sha256(copy.deepcopy(resnet).state_dict())
    # One unit in the last place of one running mean.
    mean = dict(resnet.named_buffers())["resnet.embedder.embedder.normalization.running_mean"]
    mean[0] = torch.nextafter(mean[0], torch.tensor(torch.inf))
    assert before != weights_sha256(resnet.state_dict())
