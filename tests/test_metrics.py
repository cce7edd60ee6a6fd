import evaluate
import numpy as np
import pytest

import hf_unlearn.metrics
from hf_unlearn.metrics.membership_inference.membership_inference import entropy, entropy_attack
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import class_accuracy


METRICS = hf_unlearn.metrics.__path__[0]


def load(name):
    return evaluate.load(f"{METRICS}/{name}", keep_in_memory=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """`evaluate` copies a module into its cache before importing it."""
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", str(tmp_path))


def test_unlearning_accuracy_is_the_share_of_right_answers_per_split():
    metric = load("unlearning_accuracy")
    metric.add_batch(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 0], splits=["forget", "forget"])
    metric.add_batch(predictions=[[0.9, 0.1]], references=[0], splits=["retain"])
    assert metric.compute() == {"unlearning_accuracy": 0.5, "accuracy_forget": 0.5, "accuracy_retain": 1.0}


def test_class_accuracy_leaves_out_classes_that_do_not_occur():
    predictions = np.eye(3)[[0, 1, 1, 2]]
    assert class_accuracy(predictions, np.array([0, 0, 1, 1])) == {0: 0.5, 1: 0.5}


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
    assert result == {"membership_inference": pytest.approx(attack.predict(h[100:]).mean())}


def test_missing_split_is_named():
    with pytest.raises(ValueError, match="at least one image of the split 'test'"):
        load("membership_inference").compute(
            predictions=[[0.5, 0.5]] * 2, references=[0, 0], splits=["retain", "forget"]
        )
