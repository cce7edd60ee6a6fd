"""What is measured from the outputs, against the modules and against scikit-learn, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, make_model
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model

from hf_unlearn import UnlearningReport, evaluate_unlearning
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.evaluate import confusion, confusion_classes, make_report
from hf_unlearn.metrics.activation_distance.activation_distance import ActivationDistance
from hf_unlearn.metrics.average_gap.average_gap import AverageGap
from hf_unlearn.metrics.js_divergence.js_divergence import JsDivergence
from hf_unlearn.metrics.kl_to_reference.kl_to_reference import KlToReference
from hf_unlearn.metrics.membership_inference.membership_inference import MembershipInference
from hf_unlearn.metrics.prediction_disagreement.prediction_disagreement import PredictionDisagreement
from hf_unlearn.metrics.retrain_free_js.retrain_free_js import RetrainFreeJs
from hf_unlearn.metrics.tug_of_war.tug_of_war import TugOfWar
from hf_unlearn.publication.report import METRICS, NEEDS


@pytest.fixture
def other():
    model = make_model("resnet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def test_each_model_runs_once_over_each_split_and_each_image_is_read_once(
    resnet, other, splits, image_processor, monkeypatch
):
    seen, read = {"unlearned": 0, "original": 0}, []
    for name, model in (("unlearned", resnet), ("original", other)):
        # Single images pass before: the model is looked at.
        model.register_forward_pre_hook(
            lambda module, args, given, name=name: seen.update({name: seen[name] + (len(given["pixel_values"]) > 1)}),
            with_kwargs=True,
        )
    getitems = ImageDataset.__getitems__
    monkeypatch.setattr(ImageDataset, "__getitems__", lambda images, rows: read.extend(rows) or getitems(images, rows))
    evaluate_unlearning(resnet, splits, image_processor, original_model=other, label_column="label", batch_size=24)
    assert seen == {"unlearned": 4, "original": 4}
    assert len(read) == 10 + 20 + 6 + 12


def test_report_holds_the_accuracies_of_all_models(resnet, other, splits, image_processor):
    report = evaluate_unlearning(
        resnet, splits, image_processor, original_model=other, retrained_model=copy.deepcopy(other),
        label_column="label",
    )  # fmt: skip
    assert list(report.results) == ["original", "unlearned", "retrained"]
    assert report.splits == {"forget": 10, "retain": 20, "forget_test": 6, "retain_test": 12}
    images = ImageDataset(splits["retain"], image_processor, label_column="label", label_ids={0: 0, 1: 1, 2: 2})
    with torch.no_grad():
        right = [
            resnet(pixel_values=images[row]["pixel_values"][None]).logits.argmax().item() == images[row]["labels"]
            for row in range(20)
        ]
    metrics = report.results["unlearned"]["metrics"]
    assert metrics["retain_accuracy"] == pytest.approx(np.mean(right))
    # Six unseen images of the class are too few for a rate of one in a hundred.
    assert METRICS.keys() - metrics.keys() == {"loss_attack_tpr_at_1_percent_fpr"} == report.missing.keys()
    assert set(report.results["unlearned"]["class_accuracy"]) == {"cat", "dog", "owl"}
    assert sum(report.results["unlearned"]["entropy_histogram"]["forget"]) == 10


def test_two_models_that_are_the_same_agree_in_everything(resnet, other, splits, image_processor):
    report = evaluate_unlearning(
        resnet, splits, image_processor, original_model=copy.deepcopy(other), retrained_model=other,
        label_column="label",
    )  # fmt: skip
    original, retrained = report.results["original"], report.results["retrained"]
    for name in retrained["metrics"].keys() & original["metrics"].keys():
        assert retrained["metrics"][name] == original["metrics"][name]
    assert original["metrics"]["average_gap"] == 0 and original["metrics"]["tug_of_war"] == 1
    distances = [name for name in original["metrics"] if name.endswith("_to_retrained")]
    # Four splits, four comparisons.
    assert len(distances) == 16 and all(abs(original["metrics"][name]) < 1e-12 for name in distances)
    for part in ("class_accuracy", "entropy_histogram", "roc", "confusion"):
        assert original[part] == retrained[part]


def random_outputs(models, num_classes=4, size=120, seed=0):
    """Probabilities by model and split, and labels, in random numbers."""
    rng, splits = np.random.default_rng(seed), ("forget", "retain", "forget_test", "retain_test")
    probabilities = {
        model: {split: rng.dirichlet(np.ones(num_classes), size=size) for split in splits} for model in models
    }
    return probabilities, {split: rng.integers(0, num_classes, size) for split in splits}


MODELS = ("original", "unlearned", "retrained")


def metrics_of(probabilities, labels, model="unlearned"):
    names = [f"class {label}" for label in range(len(probabilities["unlearned"]["forget"][0]))]
    return make_report(probabilities, labels, names, random={}).results[model]["metrics"]


@pytest.fixture
def module(tmp_path):
    """`module(Metric, **columns)` computes one of the package's `evaluate` modules."""
    return lambda metric, **columns: metric(keep_in_memory=True, cache_dir=str(tmp_path)).compute(**columns)


def columns_of(probabilities, labels, splits, **models):
    """Columns of a module; `splits` gives the name that a split has in it."""
    columns = {column: np.concatenate([probabilities[model][s] for s in splits]) for column, model in models.items()}
    names = [name for split, name in splits.items() for _ in labels[split]]
    return (
        {column: rows.tolist() for column, rows in columns.items()},
        np.concatenate([labels[s] for s in splits]),
        names,
    )


def test_attacks_are_those_of_the_module_with_the_unseen_images_of_what_is_forgotten(module):
    probabilities, labels = random_outputs(MODELS)
    ours = metrics_of(probabilities, labels)
    parts = {"forget": "forget", "retain": "retain", "forget_test": "test"}
    columns, references, splits = columns_of(probabilities, labels, parts, predictions="unlearned")
    theirs = module(MembershipInference, **columns, references=references, splits=splits)
    # 120 unseen images allow no rate of one in a thousand; the paper's number is about all unseen images.
    names = [name for name in theirs if name != "membership_inference" and "0.1" not in name]
    assert len(names) == 16
    assert [ours[name] for name in names] == pytest.approx([theirs[name] for name in names])
    assert not any("0.1" in name for name in ours)
    columns, references, splits = columns_of(
        probabilities, labels, parts | {"retain_test": "test"}, predictions="unlearned"
    )
    theirs = module(MembershipInference, **columns, references=references, splits=splits)
    assert ours["membership_inference"] == theirs["membership_inference"]


@pytest.mark.parametrize("reference", ["original", "retrained"])
def test_comparisons_are_those_of_the_modules(module, reference):
    probabilities, labels = random_outputs(MODELS)
    ours = metrics_of(probabilities, labels)
    columns, _, splits = columns_of(
        probabilities, labels, {split: split for split in labels}, predictions="unlearned", references=reference
    )
    modules = {
        "js_divergence": (JsDivergence, "js_divergence"),
        "kl": (KlToReference, "kl_to_reference"),
        "activation_distance": (ActivationDistance, "activation_distance"),
        "prediction_disagreement": (PredictionDisagreement, "prediction_disagreement"),
    }
    for name, (metric, full_name) in modules.items():
        theirs = module(metric, **columns, splits=splits)
        for split in labels:
            assert ours[f"{split}_{name}_to_{reference}"] == pytest.approx(theirs[f"{full_name}_{split}"])


def test_gaps_and_rf_jsd_are_those_of_the_modules(module):
    probabilities, labels = random_outputs(MODELS)
    ours = metrics_of(probabilities, labels)
    parts = {"forget": "forget", "retain": "retain", "retain_test": "test"}
    columns, references, splits = columns_of(
        probabilities, labels, parts, predictions="unlearned", references="retrained"
    )
    for name, metric in (("average_gap", AverageGap), ("tug_of_war", TugOfWar)):
        assert ours[name] == pytest.approx(module(metric, **columns, labels=references, splits=splits)[name])
    parts = {"forget": "forget", "forget_test": "test", "retain_test": "test"}
    # The unlearned model on the forget set, the original on unseen images.
    mixed = {"mixed": probabilities["original"] | {"forget": probabilities["unlearned"]["forget"]}}
    columns, references, splits = columns_of(mixed, labels, parts, predictions="mixed")
    theirs = module(RetrainFreeJs, **columns, references=references, splits=splits)
    assert ours["retrain_free_js"] == pytest.approx(theirs["retrain_free_js"])


def test_zrf_compares_with_the_same_random_network_every_time(resnet, splits, image_processor):
    forget = DatasetDict(forget=splits["forget"])
    first, second = (
        evaluate_unlearning(resnet, forget, image_processor, label_column="label").results["unlearned"]["metrics"]
        for _ in range(2)
    )
    assert first["zero_retrain_forgetting"] == second["zero_retrain_forgetting"] < 1
    # A network with random weights is like another one, and far from one that is sure of its answers.
    torch.manual_seed(3)
    untrained = type(resnet)(resnet.config)
    untrained = evaluate_unlearning(untrained, forget, image_processor, label_column="label").results["unlearned"]
    assert untrained["metrics"]["zero_retrain_forgetting"] > first["zero_retrain_forgetting"]


def test_evaluation_leaves_the_state_of_the_random_generator(resnet, splits, image_processor):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    evaluate_unlearning(resnet, DatasetDict(forget=splits["forget"]), image_processor, label_column="label")
    assert torch.equal(torch.rand(3), expected)


def test_model_with_adapters_is_measured(resnet, other, splits, image_processor):
    adapted = get_peft_model(other, LoraConfig(target_modules=["convolution"], r=2))
    report = evaluate_unlearning(adapted, splits, image_processor, original_model=resnet, label_column="label")
    assert "zero_retrain_forgetting" in report.results["unlearned"]["metrics"]


def test_forget_set_without_labels_is_enough_for_some_measures(resnet, splits, image_processor):
    forget = DatasetDict(forget=splits["forget"].select_columns(["image"]))
    report = evaluate_unlearning(resnet, forget, image_processor)
    assert report.results["unlearned"]["metrics"].keys() == {"zero_retrain_forgetting"}
    assert report.missing["forget_accuracy"] == "there is no label of the forget set"
    assert report.missing["retain_test_accuracy"] == "there is no retain test split"
    assert report.missing["membership_inference"] == "there is no retain set and no unseen image"
    assert report.missing["loss_attack_auc"] == "there is no unseen image and no label of the forget set"
    assert METRICS.keys() - report.missing.keys() == {"zero_retrain_forgetting"}


@pytest.mark.parametrize("lacking", [need for need in NEEDS if need not in ("forget", "unseen", "unseen labels")])
def test_metrics_that_need_what_is_not_there_are_left_out_and_no_others(lacking):
    probabilities, labels = random_outputs(MODELS, size=1000)
    if lacking in MODELS:
        del probabilities[lacking]
    elif lacking.endswith(" labels"):
        labels[lacking.removesuffix(" labels")] = None
    else:
        del labels[lacking]
        for outputs in probabilities.values():
            del outputs[lacking]
    names = [f"class {label}" for label in range(4)]
    random = {"forget": np.full((1000, 4), 0.25)}
    report = make_report(probabilities, labels, names, random)
    metrics = report.results["unlearned"]["metrics"]
    expected = {name for name, metric in METRICS.items() if lacking in metric.needs}
    if lacking == "forget_test labels":
        expected |= {name for name, metric in METRICS.items() if "unseen labels" in metric.needs}
    assert report.missing.keys() == expected == METRICS.keys() - metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())
    # Every reason names what is lacking, and the tables draw what is left.
    words = (NEEDS[lacking], NEEDS["unseen labels"])
    assert all(any(word in reason for word in words) for reason in report.missing.values())
    assert sum(len(rows) for _, rows in report.tables()) == len(METRICS) - len(expected)


def test_class_without_unseen_images_has_no_rf_jsd():
    probabilities, labels = random_outputs(MODELS)
    labels["forget_test"][:] = labels["retain_test"][:] = 0
    report = make_report(probabilities, labels, list("abcd"), random={"forget": probabilities["original"]["forget"]})
    assert report.missing["retrain_free_js"] == "some forgotten class has no unseen image"


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("num_classes", [2, 1000])
def test_smallest_splits_and_most_classes_give_finite_numbers(size, num_classes, tmp_path):
    probabilities, labels = random_outputs((*MODELS, "retrained_2"), num_classes, size)
    # One answer beyond doubt, and wrong: no logarithm of 0.
    probabilities["unlearned"]["forget"][0] = np.eye(num_classes)[(labels["forget"][0] + 1) % num_classes]
    names = [f"class {label}" for label in range(num_classes)]
    report = make_report(probabilities, labels, names, random={"forget": probabilities["original"]["forget"]})
    report.to_json(tmp_path / "report.json")
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    for result in report.results.values():
        assert all(type(value) is float and math.isfinite(value) for value in result["metrics"].values())


def test_docs_name_every_metric_of_the_report():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    assert [name for name in METRICS if f"`{name}`" not in text] == []


# The band


def test_band_is_what_retrained_models_say():
    models = (*MODELS, "retrained_2", "retrained_3")
    probabilities, labels = random_outputs(models)
    report = make_report(probabilities, labels, list("abcd"), random={})
    values = {model: report.results[model]["metrics"] for model in models}
    retrained = models[2:]
    for name in ("forget_accuracy", "loss_attack_auc", "forget_js_divergence_to_original"):
        of_retrained = [values[model][name] for model in retrained]
        assert report.band[name] == [min(of_retrained), max(of_retrained)]
    farthest = max(values[model]["forget_kl_to_retrained"] for model in retrained[1:])
    assert report.band["forget_kl_to_retrained"] == [0, farthest]
    assert report.band["tug_of_war"] == [min(values[model]["tug_of_war"] for model in retrained[1:]), 1]


def test_two_retrained_models_that_are_the_same_make_a_band_without_width():
    probabilities, labels = random_outputs((*MODELS, "retrained_2"))
    probabilities["retrained_2"] = probabilities["retrained"]
    band = make_report(probabilities, labels, list("abcd"), random={}).band
    assert all(high - low < 1e-12 for low, high in band.values())


def test_one_retrained_model_makes_no_band():
    probabilities, labels = random_outputs(MODELS)
    assert make_report(probabilities, labels, list("abcd"), random={}).band == {}


# What goes into the pictures


def test_confusion_counts_images_by_class_and_answer():
    labels, answer = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    assert confusion(answer, labels, [0, 1, 2], 3) == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    # The last column: all answers that are not shown.
    assert confusion(answer, labels, [0, 2], 3) == [[1, 0, 2], [1, 1, 0]]


def test_many_classes_are_cut_to_those_whose_answers_changed_most():
    labels = np.repeat(np.arange(100), 3)
    original, unlearned = labels.copy(), labels.copy()
    unlearned[labels == 61] = 5
    unlearned[np.flatnonzero(labels == 17)[:2]] = 6
    shown = confusion_classes({"original": original, "unlearned": unlearned}, labels, 100)
    assert len(shown) == 20 and {17, 61} < set(shown) and shown == sorted(shown)


def test_roc_curve_holds_the_best_rates_of_scikit_learns(tmp_path):
    from sklearn.metrics import roc_auc_score, roc_curve

    probabilities, labels = random_outputs(MODELS, size=200)
    curve = make_report(probabilities, labels, list("abcd"), random={}).results["unlearned"]["roc"]["loss"]
    outputs = probabilities["unlearned"]
    right = np.concatenate([outputs[split][np.arange(200), labels[split]] for split in ("forget", "forget_test")])
    truth = [1] * 200 + [0] * 200
    fpr, tpr, _ = roc_curve(truth, right, drop_intermediate=False)
    # Four decimals are kept.
    assert curve == pytest.approx([tpr[fpr <= step / 100 + 1e-12].max() for step in range(101)], abs=1e-4)
    auc = metrics_of(probabilities, labels)["loss_attack_auc"]
    assert auc == pytest.approx(roc_auc_score(truth, right))


# Errors


@pytest.mark.parametrize("split", ["forget", "retain", "forget_test", "retain_test"])
def test_empty_split_is_an_error_that_names_it(resnet, splits, image_processor, split):
    splits[split] = splits[split].select([])
    with pytest.raises(InputError, match=f"the split '{split}' is empty"):
        evaluate_unlearning(resnet, splits, image_processor, label_column="label")


@pytest.mark.parametrize("split", ["forget", "retain", "forget_test", "retain_test"])
def test_output_that_is_no_number_is_an_error_that_names_model_and_split(
    resnet, other, splits, image_processor, split
):
    calls = iter(splits)

    def break_one(module, args, output):
        # Single images pass before: the model is looked at.
        if len(output.logits) > 1 and next(calls) == split:
            output.logits[0] = torch.nan
        return output

    other.register_forward_hook(break_one)
    message = f"1 of {len(splits[split])} outputs of the original model on the split '{split}' are NaN or infinite"
    with pytest.raises(InputError, match=message):
        evaluate_unlearning(resnet, splits, image_processor, original_model=other, label_column="label")


def test_images_without_a_label_among_others_are_an_error_that_names_the_split(resnet, splits, image_processor):
    columns = splits["retain_test"].to_dict() | {"label": [-1, -1, *splits["retain_test"]["label"][2:]]}
    splits["retain_test"] = Dataset.from_dict(columns, features=splits["retain_test"].features)
    with pytest.raises(InputError, match="2 of 12 images of the split 'retain_test' have no label in 'label'"):
        evaluate_unlearning(resnet, splits, image_processor, label_column="label")


def test_models_with_other_labels_are_not_compared(resnet, splits, image_processor):
    other = make_model("resnet")
    other.config.id2label = {0: "dog", 1: "cat", 2: "owl"}
    with pytest.raises(InputError, match="original_model: has other labels"):
        evaluate_unlearning(resnet, splits, image_processor, original_model=other)
    with pytest.raises(InputError, match="further_retrained_models: are given without a retrained_model"):
        evaluate_unlearning(resnet, splits, image_processor, further_retrained_models=(other,))


def test_unknown_split_is_an_error(resnet, splits, image_processor):
    with pytest.raises(InputError, match="unknown split 'val'. Valid: forget, retain, forget_test, retain_test"):
        evaluate_unlearning(resnet, DatasetDict(val=splits["forget"]), image_processor)


def test_report_survives_the_file(resnet, splits, image_processor, tmp_path):
    report = evaluate_unlearning(resnet, splits, image_processor, label_column="label")
    report.to_json(tmp_path / "report.json")
    assert UnlearningReport.from_json(tmp_path / "report.json") == report
