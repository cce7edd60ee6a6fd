"""The attacks on the outputs, against scikit-learn and against sums written out."""

import itertools
import math

import numpy as np
import pytest
from metric_cases import load

from hf_unlearn.metrics.membership_inference.membership_inference import (
    area_under_curve,
    cross_validated_attack,
    entropy,
    entropy_attack,
    loss,
    modified_entropy,
    tpr_at_fpr,
)


def test_entropy_is_zero_for_certainty_and_ln_k_for_indifference():
    np.testing.assert_allclose(entropy(np.array([[1.0, 0, 0, 0], [0.25] * 4])), [0, np.log(4)], atol=1e-15)


def test_attack_calls_everything_a_member_that_looks_like_one():
    rng = np.random.default_rng(0)
    members, others = rng.uniform(0, 0.1, 200), rng.uniform(1.0, 1.3, 100)
    assert entropy_attack(members, others, forget=rng.uniform(0, 0.1, 50)) == 1
    assert entropy_attack(members, others, forget=rng.uniform(1.0, 1.3, 50)) == 0


def test_membership_inference_is_scikit_learns_logistic_regression_on_entropy():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    splits = ["retain"] * 60 + ["test"] * 40 + ["forget"] * 30
    predictions = rng.dirichlet(np.ones(5), size=130)
    h = np.array([-sum(p * np.log(p) for p in row) for row in predictions])[:, None]
    attack = LogisticRegression(class_weight="balanced").fit(h[:100], [1] * 60 + [0] * 40)
    result = load("membership_inference").compute(
        predictions=predictions.tolist(), references=[0] * 130, splits=splits
    )
    assert result["membership_inference"] == pytest.approx(attack.predict(h[100:]).mean())


def test_modified_entropy_of_an_example_written_out():
    rows = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    expected = [
        -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9),
        -0.8 * math.log(0.2) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9),
        -0.5 * math.log(0.5) - 0.25 * math.log(0.75) - 0.25 * math.log(0.75),
    ]
    np.testing.assert_allclose(modified_entropy(rows, np.array([0, 1, 2])), expected, rtol=1e-14)


def test_modified_entropy_is_zero_for_a_sure_right_answer_and_finite_for_a_sure_wrong_one():
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    # −1·ln 0 for the label and −1·ln(1 − 1) for the other class, 0 as 1e-30.
    np.testing.assert_allclose(modified_entropy(certain, np.array([0, 1])), [0, -2 * math.log(1e-30)], atol=1e-15)


def test_loss_is_minus_the_logarithm_of_the_labels_probability():
    rows = np.array([[0.7, 0.3], [0.7, 0.3], [1.0, 0.0]])
    np.testing.assert_allclose(loss(rows, np.array([0, 1, 1])), [-math.log(0.7), -math.log(0.3), -math.log(1e-30)])


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    # Whole numbers: many ties.
    members, others = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in members for b in others]
    assert area_under_curve(members, others) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("count", [50, 290, 1000])
def test_true_positive_rate_is_the_best_point_of_scikit_learns_roc_curve(fpr, count):
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(count)
    members, others = rng.normal(1, 1, count).round(1), rng.normal(0, 1, count).round(1)
    rates = roc_curve([1] * count + [0] * count, np.concatenate([members, others]), drop_intermediate=False)
    assert tpr_at_fpr(members, others, fpr) == pytest.approx(rates[1][rates[0] <= fpr + 1e-12].max())


def attack_images(forget_sharpness, test_sharpness, count):
    """Rows whose largest probability is at the label, the larger the sharper."""
    rng = np.random.default_rng(0)
    columns = {"predictions": [], "references": [], "splits": []}
    for split, sharpness in [("forget", forget_sharpness), ("test", test_sharpness), ("retain", forget_sharpness)]:
        for label in rng.integers(0, 5, count):
            logits = rng.normal(size=5)
            logits[label] += sharpness
            columns["predictions"].append((np.exp(logits) / np.exp(logits).sum()).tolist())
            columns["references"].append(int(label))
            columns["splits"].append(split)
    return columns


STATISTICS = ["entropy", "loss", "confidence", "modified_entropy"]


def test_attacks_are_at_chance_when_forget_and_test_images_are_alike():
    n = 1000
    results = load("membership_inference").compute(**attack_images(2.0, 2.0, n))
    for name in STATISTICS:
        # Variance of the Mann-Whitney statistic under the null, over n⁴.
        assert abs(results[f"{name}_attack_auc"] - 0.5) < 3 * math.sqrt((2 * n + 1) / (12 * n * n))
        assert abs(results[f"{name}_attack_balanced_accuracy"] - 0.5) < 3 * 0.5 / math.sqrt(2 * n)
        rate = results[f"{name}_attack_tpr_at_1_percent_fpr"]
        # The share above the 1 % quantile of n others: both vary.
        assert abs(rate - 0.01) < 3 * math.sqrt(2 * 0.01 / n)


def test_attacks_are_perfect_when_forget_images_are_sharper_than_all_test_images():
    results = load("membership_inference").compute(**attack_images(30.0, 5.0, 60))
    for name in STATISTICS:
        for measure in ("auc", "tpr_at_1_percent_fpr", "tpr_at_0.1_percent_fpr"):
            assert results[f"{name}_attack_{measure}"] == 1


def test_area_under_the_curve_is_zero_when_forget_images_are_less_sharp_than_all_test_images():
    results = load("membership_inference").compute(**attack_images(5.0, 30.0, 60))
    assert [results[f"{name}_attack_auc"] for name in STATISTICS] == [0] * 4


def test_cross_validated_attack_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.3, 1, 37), rng.normal(0, 1, 23)
    assert cross_validated_attack(members, others) == cross_validated_attack(members[::-1], rng.permutation(others))


def test_cross_validation_judges_each_image_by_the_others():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    members, others, truth = [0.0, 5.0, 7.0], [2.0, 3.0, 6.0], [True] * 3 + [False] * 3
    values = np.array(members + others)[:, None]
    attack = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    # Three folds of a member and one of the others: six ways to pair them.
    possible = {
        np.mean(cross_val_predict(attack, values, truth, cv=PredefinedSplit([0, 1, 2, *pairing])) == truth)
        for pairing in itertools.permutations(range(3))
    }
    assert attack.fit(values, truth).score(values, truth) not in possible
    assert cross_validated_attack(np.array(members), np.array(others))[0] in possible


def test_balanced_accuracy_is_the_mean_over_members_and_others():
    members, others = np.arange(90) + 1000.0, np.concatenate([np.arange(8.0), [1000.0, 1001.0]])
    accuracy, balanced = cross_validated_attack(members, others)
    assert accuracy == pytest.approx(98 / 100)
    assert balanced == pytest.approx((1 + 0.8) / 2)


def test_attacks_that_need_two_images_are_left_out_below():
    rows, splits = [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]], ["retain", "test", "forget"]
    results = load("membership_inference").compute(predictions=rows, references=[0, 0, 0], splits=splits)
    assert results["loss_attack_auc"] == 1
    assert not any("accuracy" in key for key in results)
