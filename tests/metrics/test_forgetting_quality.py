"""Forgetting quality over sets of models, against every rule of the challenge in turn."""

import math

import numpy as np
import pytest
from metric_cases import cut, load, make_columns, models_with_accuracies

from hf_unlearn.metrics.forgetting_quality.forgetting_quality import (
    forgetting_quality,
    image_epsilon,
    logit_confidence,
)


def test_logit_confidence_is_the_log_odds_of_the_label():
    rows = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    np.testing.assert_allclose(logit_confidence(rows, np.array([0, 2])), [math.log(0.7 / 0.3), math.log(0.1 / 0.9)])


def epsilon_written_out(unlearned, retrained, delta=1e-5):
    """Every rule of the challenge in turn: thresholds, then intervals, each 0.01 apart."""
    positive, negative = sorted([unlearned, retrained], key=np.median, reverse=True)
    low, high = min(*positive, *negative), max(*positive, *negative)
    rules = [(t, math.inf, positive, negative) for t in np.linspace(low, high, math.ceil((high - low) * 100))]
    positive, negative = sorted([unlearned, retrained], key=lambda values: max(values) - min(values))
    top, width = max(positive), max(positive) - min(positive)
    for right in np.linspace(top - 2, top + 2, 400):
        rules += [(left, right, positive, negative) for left in np.linspace(right - width - 2, right - width + 2, 400)]
    best = 0
    for left, right, positive, negative in rules:
        fnr = sum(not left <= value <= right for value in positive) / len(positive)
        fpr = sum(left <= value <= right for value in negative) / len(negative)
        if fnr == fpr == 0:
            best = 50
        elif fnr and fpr:
            best = max([best] + [math.log(1 - delta - a) - math.log(b) for a, b in [(fpr, fnr), (fnr, fpr)] if a < 1])
    return min(best, 50)


def test_epsilon_of_an_image_is_the_largest_over_the_rules_of_the_challenge():
    unlearned, retrained = np.array([0.3, 0.9, 1.4, 2.0, 2.2]), np.array([0.1, 0.4, 0.8, 1.1, 1.6])
    assert image_epsilon(unlearned, retrained) == pytest.approx(epsilon_written_out(unlearned, retrained))


def test_forgetting_quality_halves_with_every_half_of_epsilon():
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(0, 1, (60, 4)), rng.normal(0.5, 1, (60, 4))
    by_image = [image_epsilon(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    points = [2.0 ** -math.floor(epsilon / 0.5) if epsilon < math.ceil(math.log(59)) else 0 for epsilon in by_image]
    assert len(set(points)) > 1
    assert forgetting_quality(unlearned, retrained) == pytest.approx(sum(points) / 4)


def test_forgetting_quality_is_one_for_the_same_models_and_zero_for_models_far_apart():
    confidences = np.random.default_rng(0).normal(size=(20, 5))
    assert forgetting_quality(confidences, confidences) == 1
    assert forgetting_quality(confidences + 10, confidences) == 0


def test_forgetting_quality_is_one_for_the_same_models_closer_together_than_the_grid():
    confidences = np.random.default_rng(0).uniform(0, 0.004, size=(20, 5))
    assert forgetting_quality(confidences, confidences) == 1


def test_forgetting_quality_is_zero_for_unlearned_models_that_are_all_the_same():
    confidences = np.random.default_rng(0).normal(size=(20, 5))
    assert forgetting_quality(np.zeros((20, 5)), confidences) == 0


def test_score_multiplies_by_what_is_left_of_retained_and_test_accuracy():
    columns = {"predictions": [], "references": [], "labels": [], "models": [], "splits": []}
    rng = np.random.default_rng(0)
    for model in range(10):
        # The same forget rows in both sets: quality 1. Retained accuracy 8/10 against 10/10, test 5/10 against 9/10.
        forget = rng.dirichlet(np.ones(2), size=10).tolist()
        for split, unlearned, retrained in [("forget", 0, 0), ("retain", 0.8, 1.0), ("test", 0.5, 0.9)]:
            part = models_with_accuracies({split: unlearned}, {split: retrained})
            if split == "forget":
                part["predictions"] = part["references"] = forget
            for column, values in part.items():
                columns[column] += values
            columns["models"] += [model] * 10
    results = load("forgetting_quality").compute(**columns)
    assert results == {
        "forgetting_quality": 1.0,
        "forgetting_quality_score": pytest.approx(0.8 / 1.0 * 0.5 / 0.9),
    }


def test_forgetting_quality_does_not_depend_on_the_order_of_the_models():
    columns = make_columns("forgetting_quality")
    turned = {column: values[72:] + values[:72] for column, values in columns.items()}
    assert load("forgetting_quality").compute(**turned) == pytest.approx(load("forgetting_quality").compute(**columns))


def test_forgetting_quality_needs_the_same_images_under_every_model():
    columns = cut(make_columns("forgetting_quality"), 0, 143 - 24)
    columns["labels"] = columns["labels"][1:] + [0]
    with pytest.raises(ValueError, match="models: every pair must have the same images"):
        load("forgetting_quality").compute(**columns)


def test_forgetting_quality_needs_three_models():
    with pytest.raises(ValueError, match="models: there are 2 pairs of models"):
        load("forgetting_quality").compute(**cut(make_columns("forgetting_quality"), 0, 72))
