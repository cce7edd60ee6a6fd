import itertools
import math
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

import hf_unlearn.metrics
from hf_unlearn.metrics.activation_distance.activation_distance import activation_distance
from hf_unlearn.metrics.forgetting_quality.forgetting_quality import (
    forgetting_quality,
    image_epsilon,
    logit_confidence,
)
from hf_unlearn.metrics.js_divergence.js_divergence import js_divergence
from hf_unlearn.metrics.kl_to_reference.kl_to_reference import kl_to_reference
from hf_unlearn.metrics.membership_inference.membership_inference import (
    area_under_curve,
    cross_validated_attack,
    entropy,
    entropy_attack,
    loss,
    modified_entropy,
    tpr_at_fpr,
)
from hf_unlearn.metrics.prediction_disagreement.prediction_disagreement import prediction_disagreement
from hf_unlearn.metrics.residual_knowledge.residual_knowledge import residual_knowledge, share_with_residual_knowledge
from hf_unlearn.metrics.retrain_free_js.retrain_free_js import retrain_free_js
from hf_unlearn.metrics.tug_of_war.tug_of_war import tug_of_war
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import class_accuracy
from hf_unlearn.metrics.zero_retrain_forgetting.zero_retrain_forgetting import zero_retrain_forgetting


METRICS = Path(hf_unlearn.metrics.__path__[0])
NAMES = sorted(folder.name for folder in METRICS.iterdir() if (folder / f"{folder.name}.py").exists())
DIVERGENCES = ["js_divergence", "kl_to_reference", "activation_distance", "prediction_disagreement"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """`evaluate` copies a module into its cache before importing it, and keeps its tables in another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        patch.setattr("evaluate.module.config.HF_METRICS_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


def load(name, **kwargs):
    return evaluate.load(str(METRICS / name), keep_in_memory=True, **kwargs)


def make_columns(name):
    """Four pairs of models, 36 images: what each metric needs, in random numbers."""
    rng = np.random.default_rng(0)
    labels, splits = [0, 1, 2, 3] * 9, ["forget"] * 12 + ["retain"] * 12 + ["test"] * 12
    columns = {
        "predictions": rng.dirichlet(np.ones(4), size=4 * 36).tolist(),
        "references": rng.dirichlet(np.ones(4), size=4 * 36).tolist(),
        "labels": labels * 4,
        "splits": splits * 4,
        "images": list(range(36)) * 4,
        "models": [pair for pair in range(4) for _ in range(36)],
    }
    features = load(name).features
    if "int64" in str(features["references"]):
        columns["references"] = columns["labels"]
    return {column: columns[column] for column in features}


def cut(columns, start, stop):
    return {column: values[start:stop] for column, values in columns.items()}


# What holds for every module


@pytest.mark.parametrize("name", NAMES)
def test_module_loads_without_a_network_and_gives_a_flat_dictionary_of_floats(name, monkeypatch):
    def refuse(*args):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    results = load(name).compute(**make_columns(name))
    assert name in results
    assert all(type(value) is float and math.isfinite(value) for value in results.values())


LOAD_ALL = """
import os, sys
import evaluate

metrics, elsewhere, *names = sys.argv[1:]
for working_directory in (elsewhere, os.path.dirname(os.path.dirname(metrics))):
    os.chdir(working_directory)
    for name in names:
        folder = os.path.relpath(os.path.join(metrics, name))
        for path in (folder, os.path.join(folder, name + ".py"), os.path.join(metrics, name)):
            print(evaluate.load(path, keep_in_memory=True).name)
"""


def test_new_process_loads_every_module_by_folder_and_by_file_from_any_working_directory(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(METRICS.parent.parent),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_METRICS_CACHE": str(tmp_path / "tables"),
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", LOAD_ALL, str(METRICS), str(tmp_path), *NAMES]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [name for name in NAMES for _ in range(3)] * 2


@pytest.mark.parametrize("name", NAMES)
def test_module_describes_itself_its_columns_and_its_result(name):
    metric = load(name)
    assert metric.name == name
    assert metric.description == " ".join(type(metric).__doc__.split())
    types = {"float64": "list[list[float]]", "int64": "list[int]", "string": "list[str]"}
    for column, feature in metric.features.items():
        stored = getattr(feature, "feature", feature).dtype
        assert f"\n    {column} (`{types[stored]}`): " in metric.inputs_description
    assert f"\n\nReturns:\n    `dict[str, float]`: `{name}`" in metric.inputs_description
    assert max(map(len, metric.inputs_description.splitlines())) < 120


@pytest.mark.parametrize("name", NAMES)
def test_batches_add_up(name):
    columns, metric = make_columns(name), load(name)
    for start, stop in [(0, 1), (1, 50), (50, 144)]:
        metric.add_batch(**cut(columns, start, stop))
    assert metric.compute() == load(name).compute(**columns)


@pytest.mark.parametrize("column", ["labels", "rows"])
def test_modules_with_the_same_kind_of_references_combine(column):
    columns = {name: make_columns(name) for name in NAMES}
    names = [name for name in NAMES if isinstance(columns[name]["references"][0], list) == (column == "rows")]
    combined = evaluate.combine([load(name) for name in names])
    combined.add_batch(**{column: values for name in names for column, values in columns[name].items()})
    results = combined.compute()
    for name in names:
        assert results[name] == load(name).compute(**columns[name])[name]


def compute_share(process_id, columns, folder, connection):
    results = {}
    for name, whole in columns.items():
        metric = evaluate.load(
            str(METRICS / name), num_process=2, process_id=process_id, experiment_id="shares", cache_dir=folder
        )
        # Unequal shares, the border inside a split.
        metric.add_batch(**(cut(whole, 0, 53), cut(whole, 53, 144))[process_id])
        results[name] = metric.compute()
    connection.send(results)


def test_two_processes_give_the_numbers_of_one(tmp_path):
    context = multiprocessing.get_context("fork")
    columns = {name: make_columns(name) for name in NAMES}
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=compute_share, args=(rank, columns, str(tmp_path), pipes[rank][1]), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    # A process that fails sends nothing.
    assert all(receiver.poll(60) for receiver, _ in pipes)
    first, second = (receiver.recv() for receiver, _ in pipes)
    for process in processes:
        process.join()
    assert first == {name: load(name).compute(**columns[name]) for name in NAMES}
    assert second == dict.fromkeys(NAMES)


@pytest.mark.parametrize("split", ["forget", "retain", "test"])
@pytest.mark.parametrize("name", NAMES)
def test_nan_is_an_error_that_names_the_split(name, split):
    """In any split, also one that the metric does not use."""
    columns = make_columns(name)
    column = "references" if isinstance(columns["references"][0], list) else "predictions"
    columns[column][columns["splits"].index(split)] = [0.5, float("nan"), 0.25, 0.25]
    with pytest.raises(ValueError, match=f"{column}: 1 of 48 rows of the split '{split}' hold NaN or infinity"):
        load(name).compute(**columns)


# The splits that each module cannot do without.
REQUIRED = {
    "average_gap": ("forget", "retain", "test"),
    "membership_inference": ("forget", "retain", "test"),
    "retrain_free_js": ("forget", "test"),
    "tug_of_war": ("forget", "retain", "test"),
    "unlearning_accuracy": (),
}


@pytest.mark.parametrize("name, split", [(name, split) for name in NAMES for split in REQUIRED.get(name, ("forget",))])
def test_empty_split_is_an_error_that_names_it(name, split):
    columns = make_columns(name)
    keep = [row for row, value in enumerate(columns["splits"]) if value != split]
    with pytest.raises(ValueError, match=f"{name} needs at least one image of the split '{split}'"):
        load(name).compute(**{column: [values[row] for row in keep] for column, values in columns.items()})


@pytest.mark.parametrize(
    "name, split",
    [
        (name, split)
        for name in NAMES
        for split in ("forget", "retain", "test")
        if split not in REQUIRED.get(name, ("forget",))
    ],
)
def test_metric_does_without_the_splits_that_it_does_not_need(name, split):
    columns = make_columns(name)
    keep = [row for row, value in enumerate(columns["splits"]) if value != split]
    results = load(name).compute(**{column: [values[row] for row in keep] for column, values in columns.items()})
    assert math.isfinite(results[name])


@pytest.mark.parametrize("name", NAMES)
def test_no_images_at_all_are_an_error(name):
    which = "any split" if REQUIRED.get(name) == () else "the split '(forget|retain|test)'"
    with pytest.raises(ValueError, match=which):
        load(name).compute(**cut(make_columns(name), 0, 0))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unlearning_accuracy"])
@pytest.mark.parametrize("row", [[1.0, 2.0, 3.0, 4.0], [1.5, -0.5, 0.0, 0.0]], ids=["logits", "negative"])
def test_rows_that_are_no_probabilities_are_an_error_that_names_the_split(name, row):
    columns = make_columns(name)
    columns["predictions"][0] = row
    with pytest.raises(ValueError, match="1 of 48 rows of the split 'forget' are not probabilities"):
        load(name).compute(**columns)


def test_rows_of_different_lengths_are_an_error_that_names_the_split():
    columns = make_columns("js_divergence")
    columns["references"][20] = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"references: rows of the split 'retain' .* not \[2, 4\]"):
        load("js_divergence").compute(**columns)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_without_a_class_is_an_error_that_names_the_split(label):
    columns = make_columns("unlearning_accuracy")
    columns["references"] = [label if row == 30 else value for row, value in enumerate(columns["references"])]
    with pytest.raises(ValueError, match=f"the split 'test' has the label {label}, .* Valid: 0 to 3"):
        load("unlearning_accuracy").compute(**columns)


@pytest.mark.parametrize("name", NAMES)
def test_readme_defines_the_number(name):
    text = (METRICS / name / "README.md").read_text()
    assert text.startswith("---\ntitle: ")
    for part in ("**Formula", "**Columns:**", "**Result:**", "**Good:**", "**Does not show:**", "**Source:**"):
        assert part in text
    for column in load(name).features:
        assert f"`{column}`" in text


# Accuracy


def test_unlearning_accuracy_is_the_share_of_right_answers_per_split_and_class():
    metric = load("unlearning_accuracy")
    metric.add_batch(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 0], splits=["forget", "forget"])
    metric.add_batch(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[0, 1], splits=["retain", "retain"])
    assert metric.compute() == {
        "unlearning_accuracy": 0.5,
        "accuracy_forget": 0.5,
        "accuracy_retain": 0.5,
        "accuracy_forget_class_0": 0.5,
        "accuracy_retain_class_0": 1.0,
        "accuracy_retain_class_1": 0.0,
    }


def test_class_accuracy_leaves_out_classes_that_do_not_occur():
    predictions = np.eye(3)[[0, 1, 1, 2]]
    assert class_accuracy(predictions, np.array([0, 0, 1, 1])) == {0: 0.5, 1: 0.5}


# Membership inference


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


# Two models, image by image


def random_rows(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], 0.3), size=shape[:-1])


def js_written_out(p, q):
    def kl(a, b):
        return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def test_js_divergence_of_an_example_written_out():
    p, q = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    expected = (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert js_divergence(p, q) == pytest.approx(expected)


def test_js_divergence_equals_a_sum_written_out_in_float64():
    p, q = random_rows(50, 7), random_rows(50, 7, seed=1)
    np.testing.assert_allclose(
        js_divergence(p, q), [js_written_out(a, b) for a, b in zip(p, q, strict=True)], atol=1e-14
    )


def test_js_divergence_is_zero_on_itself_and_ln_2_without_overlap():
    p, q = np.array([[0.4, 0.6, 0, 0]]), np.array([[0, 0, 0.1, 0.9]])
    assert js_divergence(p, p) == 0
    assert js_divergence(p, q) == pytest.approx(math.log(2))


def test_kl_is_that_of_the_reference_from_the_prediction_and_not_the_reverse():
    prediction, reference = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert kl_to_reference(prediction, reference) == pytest.approx(math.log(2))
    assert kl_to_reference(reference, prediction) > 100


def test_kl_equals_a_sum_written_out_and_is_zero_on_itself():
    p, q = random_rows(50, 7) + 1e-6, random_rows(50, 7, seed=1)
    p /= p.sum(axis=1, keepdims=True)
    expected = [
        sum(b * math.log(b / a) for a, b in zip(*rows, strict=True) if b > 0) for rows in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(kl_to_reference(p, q), expected, rtol=1e-12)
    np.testing.assert_allclose(kl_to_reference(q, q), 0, atol=1e-15)


def test_activation_distance_is_the_euclidean_distance():
    p, q = np.array([[1.0, 0.0, 0.0], [0.6, 0.2, 0.2]]), np.array([[0.0, 1.0, 0.0], [0.3, 0.6, 0.1]])
    np.testing.assert_allclose(activation_distance(p, q), [math.sqrt(2), math.sqrt(0.09 + 0.16 + 0.01)])


def test_prediction_disagreement_is_the_share_of_different_classes():
    p, q = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]), np.array([[0.6, 0.4]] * 4)
    assert prediction_disagreement(p, q) == 0.5


@pytest.mark.parametrize("name", [*DIVERGENCES, "zero_retrain_forgetting"])
def test_divergence_is_a_mean_per_split_and_the_main_one_is_of_the_forget_images(name):
    columns = make_columns(name)
    results = load(name).compute(**columns)
    for split in ("forget", "retain", "test"):
        rows = [row for row, value in enumerate(columns["splits"]) if value == split]
        alone = load(name).compute(
            **{column: [values[row] for row in rows] for column, values in columns.items()}
            | {"splits": ["forget"] * 48}
        )
        assert results[f"{name}_{split}"] == pytest.approx(alone[name])
    assert results[name] == results[f"{name}_forget"]


def test_zrf_is_one_minus_the_mean_js_divergence_in_bits():
    p, q = random_rows(20, 5), random_rows(20, 5, seed=1)
    bits = [js_written_out(a, b) / math.log(2) for a, b in zip(p, q, strict=True)]
    assert zero_retrain_forgetting(p, q) == pytest.approx(1 - sum(bits) / 20)


def test_zrf_is_one_for_the_random_models_output_and_zero_without_overlap():
    p, q = np.array([[1.0, 0.0]] * 3), np.array([[0.0, 1.0]] * 3)
    assert zero_retrain_forgetting(p, p) == 1
    assert zero_retrain_forgetting(p, q) == pytest.approx(0)


def test_rf_jsd_is_the_mean_over_classes_of_the_js_divergence_of_mean_outputs():
    forget, test = random_rows(6, 3), random_rows(9, 3, seed=1)
    forget_labels, test_labels = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 1, 2] * 3)
    by_class = [
        js_written_out(forget[forget_labels == c].mean(axis=0), test[test_labels == c].mean(axis=0)) for c in (0, 2)
    ]
    assert retrain_free_js(forget, forget_labels, test, test_labels) == pytest.approx(sum(by_class) / 2)


def test_rf_jsd_without_unseen_images_of_a_forgotten_class_is_an_error():
    with pytest.raises(ValueError, match="the split 'test' has no image of the class 1"):
        retrain_free_js(random_rows(2, 3), np.array([0, 1]), random_rows(2, 3), np.array([0, 2]))


# Against a retrained model


def models_with_accuracies(unlearned, retrained, images=10):
    """Columns of two models with tenths of right answers per split."""
    columns = {"predictions": [], "references": [], "labels": [], "splits": []}
    for split in unlearned:
        for image in range(images):
            for column, accuracies in (("predictions", unlearned), ("references", retrained)):
                right = image < round(accuracies[split] * images)
                columns[column].append([0.9, 0.1] if right else [0.2, 0.8])
            columns["labels"].append(0)
            columns["splits"].append(split)
    return columns


UNLEARNED = {"forget": 0.1, "retain": 0.9, "test": 0.7}
RETRAINED = {"forget": 0.0, "retain": 1.0, "test": 0.9}


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


def test_tug_of_war_is_the_product_of_what_the_gaps_leave():
    results = load("tug_of_war").compute(**models_with_accuracies(UNLEARNED, RETRAINED))
    assert results == {"tug_of_war": pytest.approx(0.9 * 0.9 * 0.8)}
    assert tug_of_war(RETRAINED, RETRAINED) == 1


def test_residual_knowledge_is_the_ratio_of_recognized_copies():
    unlearned, retrained = np.array([1, 1, 1, 0], bool), np.array([1, 0, 1, 0], bool)
    assert residual_knowledge(unlearned, retrained) == pytest.approx(1.5)
    assert residual_knowledge(~unlearned & unlearned, ~unlearned & unlearned) == 1
    assert residual_knowledge(unlearned, ~unlearned & unlearned) == math.inf


def test_images_with_residual_knowledge_are_those_recognized_more_often_than_by_the_retrained_model():
    # Image 7: 2 copies against 1; image 3: 1 against 1; image 5: 0 against 1. Copies need not be neighbours.
    images = np.array([7, 3, 5, 7, 3, 5])
    unlearned, retrained = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 0, 1, 0, 1, 0], bool)
    assert share_with_residual_knowledge(unlearned, retrained, images) == pytest.approx(1 / 3)


def test_residual_knowledge_counts_copies_of_forget_images_only():
    results = load("residual_knowledge").compute(
        predictions=[[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]],
        references=[[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]],
        labels=[0, 0, 0],
        images=[0, 0, 1],
        splits=["forget", "forget", "test"],
    )
    assert results == {
        "residual_knowledge": 2.0,
        "share_of_images_with_residual_knowledge": 1.0,
        "recognized_by_unlearned": 1.0,
        "recognized_by_retrained": 0.5,
    }


# Forgetting quality, over sets of models


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
