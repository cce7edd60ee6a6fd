"""The mean distance of the accuracies to those of a retrained model."""

import pytest
from metric_cases import RETRAINED, UNLEARNED, load, models_with_accuracies


def test_average_gap_is_the_mean_absolute_difference_of_the_accuracies():
    results = load("average_gap").compute(**models_with_accuracies(UNLEARNED, RETRAINED))
    assert results["average_gap"] == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert [results[f"gap_{split}"] for split in UNLEARNED] == pytest.approx([0.1, 0.1, 0.2])


def test_average_gap_with_membership_inference_is_the_mean_of_four():
    results = load("average_gap").compute(**models_with_accuracies(UNLEARNED, RETRAINED))
    columns = models_with_accuracies(UNLEARNED, RETRAINED)
    attacks = [
        load("membership_inference").compute(
            predictions=columns[model], references=columns["labels"], splits=columns["splits"]
        )["membership_inference"]
        for model in ("predictions", "references")
    ]
    assert results["gap_membership_inference"] == pytest.approx(abs(attacks[0] - attacks[1]))
    expected = (0.1 + 0.1 + 0.2 + abs(attacks[0] - attacks[1])) / 4
    assert results["average_gap_with_membership_inference"] == pytest.approx(expected)
