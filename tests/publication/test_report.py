"""The report as a table and as a file."""

import copy

import numpy as np
import pytest
import torch

from hf_unlearn import UnlearningReport
from hf_unlearn.errors import InputError
from hf_unlearn.publication.report import auc_standard_error, percent, weights_sha256


def test_table_says_where_the_unlearned_model_lies():
    report = UnlearningReport(
        results={
            name: {"metrics": {"forget_accuracy": value, "retain_accuracy": 0.9, "average_gap": 0.2}}
            for name, value in [("unlearned", 0.5), ("retrained", 0.1), ("retrained_2", 0.2)]
        },
        splits={"forget": 1},
        band={"forget_accuracy": [0.1, 0.2], "retain_accuracy": [0.9, 0.95], "average_gap": [0.3, 0.4]},
    )
    (_, accuracies), (_, others) = report.tables()
    assert [row[2] for row in (*accuracies, *others)] == [
        {"unlearned": "50.0", "retrained": "10.0", "band": "10.0 to 20.0", "in band": "above"},
        {"unlearned": "90.0", "retrained": "90.0", "band": "90.0 to 95.0", "in band": "yes"},
        {"unlearned": "0.200", "retrained": "0.200", "band": "0.300 to 0.400", "in band": "below"},
    ]


def test_of_single_images_the_attacks_come_first_with_their_standard_error():
    metrics = {"forget_accuracy": 0.6, "loss_attack_auc": 0.5}
    run = {"forget_kind": "images"}
    report = UnlearningReport({"unlearned": {"metrics": metrics}}, {"forget": 120, "retain_test": 2000}, run=run)
    (first, attacks), (second, _) = report.tables()
    assert "look unseen" in first and second == "accuracy in %"
    # Hanley and McNeil with A = 0.5: Q₁ = Q₂ = 1/3.
    error = ((0.25 + 119 * (1 / 3 - 0.25) + 1999 * (1 / 3 - 0.25)) / (120 * 2000)) ** 0.5
    assert attacks[0][2]["unlearned"] == f"0.500 ± {error:.3f}"
    report.run["forget_kind"] = "class"
    assert [heading for heading, _ in report.tables()] == ["accuracy in %", "other measures"]


def test_standard_error_is_the_spread_of_the_auc_over_draws():
    generator = np.random.default_rng(0)
    members, others = generator.exponential(size=(2, 400, 30, 1))
    aucs = (1.5 * members > others.transpose(0, 2, 1)).mean(axis=(1, 2))
    assert auc_standard_error(aucs.mean(), 30, 30) == pytest.approx(aucs.std(), rel=0.1)


def test_lists_of_numbers_stand_on_one_line_and_text_is_left_alone(tmp_path):
    run = {"name": "[1,  2]", "list": ["a", 1], "empty": [], "numbers": [1, -2.5e-07, 3]}
    report = UnlearningReport(results={}, splits={}, entropy_bins=[0.0, 0.5], run=run)
    report.to_json(tmp_path / "report.json")
    assert UnlearningReport.from_json(tmp_path / "report.json") == report
    text = (tmp_path / "report.json").read_text()
    assert '"entropy_bins": [0.0, 0.5],' in text and '"numbers": [1, -2.5e-07, 3]' in text


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
