"""What holds for any logits: 2 to 1000 classes, splits of any size from one image on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_unlearn.metrics.activation_distance.activation_distance import activation_distance
from hf_unlearn.metrics.average_gap.average_gap import AverageGap, average_gap
from hf_unlearn.metrics.columns import by_split
from hf_unlearn.metrics.forgetting_quality.forgetting_quality import forgetting_quality, logit_confidence
from hf_unlearn.metrics.js_divergence.js_divergence import js_divergence
from hf_unlearn.metrics.kl_to_reference.kl_to_reference import kl_to_reference
from hf_unlearn.metrics.membership_inference.membership_inference import (
    MembershipInference,
    area_under_curve,
    cross_validated_attack,
    entropy,
    loss,
    modified_entropy,
    tpr_at_fpr,
)
from hf_unlearn.metrics.prediction_disagreement.prediction_disagreement import prediction_disagreement
from hf_unlearn.metrics.residual_knowledge.residual_knowledge import residual_knowledge, share_with_residual_knowledge
from hf_unlearn.metrics.retrain_free_js.retrain_free_js import retrain_free_js
from hf_unlearn.metrics.tug_of_war.tug_of_war import TugOfWar, tug_of_war
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy, class_accuracy
from hf_unlearn.metrics.zero_retrain_forgetting.zero_retrain_forgetting import zero_retrain_forgetting


# The first example of a run pays for imports, so no example has a deadline.
few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
classes = st.integers(2, 1000)
sizes = st.integers(1, 12)
# At 300 most probabilities of a row are exactly 0 or 1.
scales = st.sampled_from([0.01, 1.0, 10.0, 300.0])


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@st.composite
def outputs(draw, models=1):
    """Rows of probabilities of each model for the same images, and the labels."""
    rng, shape = np.random.default_rng(draw(seeds)), (draw(sizes), draw(classes))
    rows = [softmax(draw(scales) * rng.normal(size=shape)) for _ in range(models)]
    return *rows, rng.integers(0, shape[1], shape[0])


@given(outputs(models=2))
@few
def test_js_divergence_lies_between_0_and_ln_2_and_is_symmetric(sample):
    p, q, _ = sample
    values = js_divergence(p, q)
    assert ((values >= 0) & (values <= math.log(2))).all()
    np.testing.assert_allclose(values, js_divergence(q, p), atol=1e-12)


@given(outputs())
@few
def test_divergences_and_distances_of_a_model_from_itself_are_zero(sample):
    p, _ = sample
    for function in (js_divergence, kl_to_reference, activation_distance):
        np.testing.assert_allclose(function(p, p), 0, atol=1e-12)
    assert prediction_disagreement(p, p) == 0
    assert zero_retrain_forgetting(p, p) == pytest.approx(1)


@given(outputs(models=2))
@few
def test_kl_is_finite_and_at_least_half_the_squared_absolute_distance(sample):
    """Pinsker's inequality, of which KL ≥ 0 is a part."""
    p, q, _ = sample
    values = kl_to_reference(p, q)
    assert np.isfinite(values).all()
    assert (values >= np.abs(p - q).sum(axis=1) ** 2 / 2 - 1e-12).all()


@given(outputs(models=2))
@few
def test_bounds_of_distance_disagreement_and_zrf(sample):
    p, q, _ = sample
    assert (activation_distance(p, q) <= math.sqrt(2) + 1e-12).all()
    assert 0 <= prediction_disagreement(p, q) == prediction_disagreement(q, p) <= 1
    assert 0 <= zero_retrain_forgetting(p, q) <= 1


@given(outputs(models=2))
@few
def test_rf_jsd_lies_between_0_and_ln_2_and_is_zero_for_the_same_rows(sample):
    p, q, labels = sample
    assert 0 <= retrain_free_js(p, labels, q, labels) <= math.log(2) + 1e-12
    assert retrain_free_js(p, labels, p, labels) == pytest.approx(0, abs=1e-12)


@given(outputs())
@few
def test_entropy_lies_between_0_and_ln_k_and_loss_and_modified_entropy_are_finite(sample):
    p, labels = sample
    assert (entropy(p) >= 0).all() and (entropy(p) <= math.log(p.shape[1]) + 1e-12).all()
    for function in (loss, modified_entropy):
        values = function(p, labels)
        assert (values >= 0).all() and np.isfinite(values).all()


@given(outputs())
@few
def test_modified_entropy_falls_when_the_label_gets_the_probability_of_the_others(sample):
    p, labels = sample
    better = p / 2
    better[np.arange(len(labels)), labels] += 0.5
    assert (modified_entropy(better, labels) <= modified_entropy(p, labels) + 1e-12).all()


@given(outputs())
@few
def test_accuracy_is_the_mean_of_the_classes_weighted_by_their_images(sample):
    p, labels = sample
    weighted = sum(value * (labels == label).sum() for label, value in class_accuracy(p, labels).items())
    assert accuracy(p, labels) == pytest.approx(weighted / len(labels))


shares = st.floats(0, 1)
accuracies = st.fixed_dictionaries({"forget": shares, "retain": shares, "test": shares})


@given(accuracies, accuracies)
@few
def test_average_gap_is_a_distance_between_0_and_the_largest_gap(one, other):
    gap = average_gap(one, other)
    largest = max(abs(one[split] - other[split]) for split in one)
    assert largest / 3 - 1e-12 <= gap <= largest + 1e-12
    # Sums in another order differ by rounding.
    assert gap == pytest.approx(average_gap(other, one)) and average_gap(one, one) == 0


@given(accuracies, accuracies, accuracies)
@few
def test_average_gap_by_way_of_a_third_model_is_not_shorter(one, other, third):
    assert average_gap(one, other) <= average_gap(one, third) + average_gap(third, other) + 1e-12


@given(accuracies, accuracies)
@few
def test_tug_of_war_is_a_share_that_no_gap_may_cost_more_than_all_of_them(one, other):
    value = tug_of_war(one, other)
    largest = max(abs(one[split] - other[split]) for split in one)
    # A product of numbers up to 1 is at most the smallest, and at least 1 minus what they lack (Bernoulli).
    assert max(0, 1 - 3 * average_gap(one, other)) - 1e-12 <= value <= 1 - largest + 1e-12
    assert value == pytest.approx(tug_of_war(other, one)) and tug_of_war(one, one) == 1


@given(accuracies, accuracies, st.sampled_from(["forget", "retain", "test"]))
@few
def test_closing_one_gap_improves_both(one, other, split):
    closer = one | {split: (one[split] + other[split]) / 2}
    assert average_gap(closer, other) <= average_gap(one, other) + 1e-12
    assert tug_of_war(closer, other) >= tug_of_war(one, other) - 1e-12


scores = st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=30).map(np.array)


@given(scores, scores)
@few
def test_areas_under_the_curve_of_both_directions_sum_to_1(members, others):
    assert area_under_curve(members, others) + area_under_curve(others, members) == pytest.approx(1)
    assert area_under_curve(members, members) == pytest.approx(0.5)


@given(scores, scores, st.floats(0, 1), st.floats(0, 1))
@few
def test_true_positive_rate_grows_with_the_false_positive_rate(members, others, one, other):
    low, high = sorted([one, other])
    assert 0 <= tpr_at_fpr(members, others, low) <= tpr_at_fpr(members, others, high) <= 1


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)
)
@few
def test_cross_validated_accuracies_are_shares(members, others):
    for value in cross_validated_attack(np.array(members), np.array(others)):
        assert 0 <= value <= 1


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tables"))


@given(seeds, classes, st.tuples(sizes, sizes, sizes), scales)
@few
def test_membership_inference_gives_shares_for_splits_of_any_size(tables, seed, num_classes, counts, scale):
    rng = np.random.default_rng(seed)
    splits = [split for split, count in zip(("forget", "retain", "test"), counts, strict=True) for _ in range(count)]
    results = MembershipInference(keep_in_memory=True, cache_dir=tables).compute(
        predictions=softmax(scale * rng.normal(size=(len(splits), num_classes))),
        references=rng.integers(0, num_classes, len(splits)),
        splits=splits,
    )
    assert all(0 <= value <= 1 for value in results.values())


@given(seeds, classes, st.tuples(sizes, sizes, sizes), scales)
@few
def test_gaps_are_those_of_the_accuracies_for_splits_of_any_size(tables, seed, num_classes, counts, scale):
    rng, names = np.random.default_rng(seed), ("forget", "retain", "test")
    splits = [split for split, count in zip(names, counts, strict=True) for _ in range(count)]
    labels = rng.integers(0, num_classes, len(splits))
    rows = [softmax(scale * rng.normal(size=(len(splits), num_classes))) for _ in range(2)]
    right = [(p.argmax(axis=1) == labels).tolist() for p in rows]
    accuracies = [
        {name: np.mean([hit for hit, split in zip(hits, splits, strict=True) if split == name]) for name in names}
        for hits in right
    ]
    gaps = [abs(accuracies[0][name] - accuracies[1][name]) for name in names]
    columns = {"predictions": rows[0], "references": rows[1], "labels": labels, "splits": splits}
    results = AverageGap(keep_in_memory=True, cache_dir=tables).compute(**columns)
    assert [results[f"gap_{name}"] for name in names] == pytest.approx(gaps)
    assert results["average_gap"] == pytest.approx(sum(gaps) / 3)
    results = TugOfWar(keep_in_memory=True, cache_dir=tables).compute(**columns)
    assert results["tug_of_war"] == pytest.approx(math.prod(1 - gap for gap in gaps))


@given(seeds, st.integers(3, 8), st.integers(1, 3), classes, scales)
@settings(deadline=None, max_examples=10)
def test_forgetting_quality_is_a_share_and_1_for_the_same_models(seed, num_models, images, num_classes, scale):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, images)
    unlearned, retrained = (
        np.stack(
            [
                logit_confidence(softmax(scale * rng.normal(size=(images, num_classes))), labels)
                for _ in range(num_models)
            ]
        )
        for _ in range(2)
    )
    assert 0 <= forgetting_quality(unlearned, retrained) <= 1
    assert forgetting_quality(unlearned, unlearned) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=20))
@few
def test_residual_knowledge_of_the_retrained_model_is_1_and_no_image_has_more(copies):
    images, unlearned, retrained = (np.array(column) for column in zip(*copies, strict=True))
    assert residual_knowledge(retrained, retrained) == 1
    assert share_with_residual_knowledge(retrained, retrained, images) == 0
    assert residual_knowledge(unlearned, retrained) >= 0


@given(
    outputs(), st.sampled_from(["forget", "retain", "test"]), st.sampled_from([math.nan, math.inf, -math.inf]), seeds
)
@few
def test_a_value_that_is_no_number_is_found_wherever_it_is_and_its_split_named(sample, split, value, seed):
    p, labels = sample
    rows, splits = np.concatenate([p, p, p]), np.repeat(["forget", "retain", "test"], len(p))
    rng = np.random.default_rng(seed)
    rows[rng.choice(np.flatnonzero(splits == split)), rng.integers(p.shape[1])] = value
    with pytest.raises(ValueError, match=f"1 of {len(p)} rows of the split '{split}' hold NaN or infinity"):
        by_split("metric", splits.tolist(), rows={"predictions": rows.tolist()})


@given(outputs(), st.sampled_from(["float16", "float32"]))
@few
def test_probabilities_in_low_precision_pass_and_sum_to_1_afterwards(sample, precision):
    p, labels = sample
    rows = p.astype(precision).astype(float).tolist()
    checked = by_split("metric", ["forget"] * len(rows), rows={"predictions": rows})["forget"]["predictions"]
    np.testing.assert_allclose(checked.sum(axis=1), 1, rtol=1e-12)
