"""U-LiRA and RMIA against their definitions written out, on cases whose answer is known."""

import math

import numpy as np
import pytest

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.attacks import (
    GAMES,
    ShadowModels,
    attack_shadow_models,
    label_probability,
    logit_confidence,
    rmia,
    u_lira,
)


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_logit_confidence_is_the_log_odds_of_the_label():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 5, 4)), np.array([0, 3, 1, 1, 2])
    probabilities = softmax(logits)[:, np.arange(5), labels]
    np.testing.assert_allclose(logit_confidence(logits, labels), np.log(probabilities / (1 - probabilities)))
    np.testing.assert_allclose(label_probability(logits, labels), probabilities)


def test_logit_confidence_of_a_model_that_is_certain_is_finite():
    logits = np.array([[1000.0, 0.0, -1000.0]])
    assert logit_confidence(logits, np.array([0])) == 1000 and logit_confidence(logits, np.array([2])) == -2000


def log_normal(x, mean, variance):
    return -math.log(math.sqrt(2 * math.pi * variance)) - (x - mean) ** 2 / (2 * variance)


@pytest.mark.parametrize("per_image_variance", [False, True])
def test_u_lira_is_the_log_ratio_of_two_normals(per_image_variance):
    nan = np.nan
    unlearned = np.array([[1.0, nan], [3.0, 2.0], [nan, 8.0]])
    never_seen = np.array([[nan, 5.0], [0.0, nan], [4.0, 6.0]])
    target = np.array([1.5, 4.0])
    # By hand: mean and variance (n − 1) of the two numbers of each column.
    means = {"u": (2.0, 5.0), "r": (2.0, 5.5)}
    variances = {"u": (2.0, 18.0), "r": (8.0, 0.5)}
    if not per_image_variance:
        variances = {"u": (10.0, 10.0), "r": (4.25, 4.25)}
    expected = [
        log_normal(target[i], means["u"][i], variances["u"][i])
        - log_normal(target[i], means["r"][i], variances["r"][i])
        for i in range(2)
    ]
    np.testing.assert_allclose(u_lira(target, unlearned, never_seen, per_image_variance), expected)


@pytest.mark.parametrize(("gamma", "offline_a"), [(1.0, None), (2.0, None), (1.0, 0.3)])
def test_rmia_counts_the_population_that_an_image_beats(gamma, offline_a):
    rng = np.random.default_rng(1)
    target, population = rng.uniform(0.05, 1, 6), rng.uniform(0.05, 1, 9)
    shadows, population_shadows = rng.uniform(0.05, 1, (4, 6)), rng.uniform(0.05, 1, (4, 9))
    expected = []
    for x in range(6):
        beaten = 0
        for z in range(9):
            p_x, p_z = shadows[:, x].mean(), population_shadows[:, z].mean()
            if offline_a is not None:
                p_x, p_z = (0.5 * ((1 + offline_a) * p + 1 - offline_a) for p in (p_x, p_z))
            beaten += (target[x] / p_x) / (population[z] / p_z) >= gamma
        expected.append(beaten / 9)
    np.testing.assert_allclose(rmia(target, population, shadows, population_shadows, gamma, offline_a), expected)


def make_shadow_models(
    effect: float, noise=1.0, num_models=8, num_targets=60, num_population=100, seed=0
) -> ShadowModels:
    """Random logits of three classes; an image that the model was trained on has `effect` more on its label."""
    rng = np.random.default_rng(seed)
    half = np.stack([rng.permutation(num_targets) < num_targets // 2 for _ in range(num_models // 2)])
    members = np.stack([row for half_row in half for row in (half_row, ~half_row)])
    labels = rng.integers(0, 3, num_targets + num_population)
    logits = noise * rng.normal(size=(2, num_models, num_targets + num_population, 3))
    model, image = np.nonzero(members)
    logits[:, model, image, labels[image]] += effect
    return ShadowModels(trained=logits[0], unlearned=logits[1], labels=labels, members=members)


def test_separable_members_are_all_found():
    # Little noise: RMIA compares with the population, whose own ratios must stay near 1.
    results = attack_shadow_models(make_shadow_models(effect=50.0, noise=0.1))
    # Before unlearning the models differ on members alone; after it, the effect is still there: nothing was forgotten.
    assert {results[game]["u_lira"]["auc"] for game in GAMES} == {1.0}
    assert {results[game]["rmia"]["auc"] for game in GAMES} == {1.0}
    assert results["original"]["u_lira"]["tpr_at_1_percent_fpr"] == 1.0


@pytest.mark.parametrize("attack", ["u_lira", "rmia"])
def test_without_any_effect_the_attacks_guess(attack):
    for game, attacks in attack_shadow_models(make_shadow_models(effect=0.0, num_targets=300)).items():
        rates = attacks[attack]
        assert abs(rates["auc"] - 0.5) < 3 * rates["auc_standard_error"], game
        # 300 independent images, each with 4 × 4 pairs: the error of an AUC is about this large.
        assert 0.005 < rates["auc_standard_error"] < 0.03


def test_shadow_models_must_be_complete():
    good = make_shadow_models(effect=0.0)
    with pytest.raises(InputError, match="opposite members"):
        ShadowModels(good.trained, good.unlearned, good.labels, np.roll(good.members, 1, axis=0))
    with pytest.raises(InputError, match="not of the same models"):
        ShadowModels(good.trained, good.unlearned[:4], good.labels, good.members)
    broken = good.unlearned.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        ShadowModels(good.trained, broken, good.labels, good.members)
    with pytest.raises(InputError, match="fewer than two"):
        attack_shadow_models(make_shadow_models(effect=0.0, num_models=4))
