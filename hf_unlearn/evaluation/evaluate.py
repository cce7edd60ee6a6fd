"""
Compares models on the splits: each model runs once over each split, and every metric is computed from its logits.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor

from ..data.image_dataset import ImageDataset, find_image_column
from ..data.labels import find_label_column, match_labels, read_column
from ..data.sampling import at_most, samples_for, whole_size
from ..data.splits import check_dataset
from ..errors import InputError
from ..metrics.activation_distance.activation_distance import activation_distance
from ..metrics.average_gap.average_gap import average_gap
from ..metrics.js_divergence.js_divergence import js_divergence
from ..metrics.kl_to_reference.kl_to_reference import kl_to_reference
from ..metrics.membership_inference.membership_inference import attack, entropy, entropy_attack, scores, tpr_at_fpr
from ..metrics.prediction_disagreement.prediction_disagreement import prediction_disagreement
from ..metrics.retrain_free_js.retrain_free_js import retrain_free_js
from ..metrics.tug_of_war.tug_of_war import tug_of_war
from ..metrics.unlearning_accuracy.unlearning_accuracy import accuracy, class_accuracy
from ..metrics.zero_retrain_forgetting.zero_retrain_forgetting import zero_retrain_forgetting
from ..publication.report import METRICS, NEEDS, ROC_FPR, UnlearningReport
from ..unlearning.compatibility import ImageClassifier, check_image_processor, check_model, id2label_of
from ..unlearning.random_model import random_model
from .logits import cached_logits
from .logits_cache import model_key
from .short_passes import ShortPasses


SPLITS = ("forget", "retain", "forget_test", "retain_test")
COMPARISONS = {
    "js_divergence": js_divergence,
    "kl": kl_to_reference,
    "activation_distance": activation_distance,
    "prediction_disagreement": prediction_disagreement,
}
# Fewest unseen images for these metrics: a false positive rate of 1 % needs 100 images, one of 0.1 % needs 1,000.
UNSEEN_FOR_RATE = {"tpr_at_1_percent_fpr": 100, "tpr_at_0.1_percent_fpr": 1000}
# With more classes, the confusion matrix shows only the classes whose predictions changed most.
MAX_CONFUSION_CLASSES = 20


def evaluate_unlearning(
    model: ImageClassifier,
    splits: DatasetDict,
    image_processor: BaseImageProcessor,
    original_model: "ImageClassifier | None" = None,
    retrained_model: "ImageClassifier | None" = None,
    *,
    further_retrained_models: tuple[ImageClassifier, ...] = (),
    image_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    max_eval_samples: int | None = None,
    logits_cache_dir: str | Path | None = None,
) -> UnlearningReport:
    """
    Compares the unlearned model with the original model and, if given, with models retrained without the forget set.
    Each image is read once and each model runs once over it, from where it differs from the original. On several processes,
    each takes a share of the images, with the same results. [`~publication.report.METRICS`] says what each metric needs.
    A metric that cannot be computed is listed in the report with the reason.

    Args:
        model (`PreTrainedModel`):
            The unlearned model.
        splits (`DatasetDict`):
            Any of `forget`, `retain`, `forget_test` and `retain_test`, as [`split_dataset`] returns them.
        image_processor (`BaseImageProcessor`):
            The image processor of all models.
        original_model (`PreTrainedModel`, *optional*):
            The model before unlearning.
        retrained_model (`PreTrainedModel`, *optional*):
            A model that was retrained without the forget set. It is the yardstick: gaps and distances are measured to it.
        further_retrained_models (`tuple[PreTrainedModel, ...]`, *optional*, defaults to `()`):
            Likewise, with other seeds. Together with `retrained_model` they give the band of each metric.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given.
        label_column (`str`, *optional*):
            The column of the labels; found from the features if not given. Without labels no accuracy is measured.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass and process.
        max_eval_samples (`int`, *optional*):
            Largest number of images per split; 0 for all, by default by [`~data.sampling.samples_for`]. Larger splits, except
            the forget set, are measured on this many random images, and the report says so.
        logits_cache_dir (`str` or `Path`, *optional*):
            A folder that keeps the logits of the models, so that a second evaluation does not run them again. See
            [`~evaluation.logits_cache`].

    Returns:
        [`UnlearningReport`]: the same on every process.

    Raises:
        [`InputError`]: if a split is unknown or empty, if only some of its images have labels, if the models have
            different labels, or if an output is not finite.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise InputError("splits", f"unknown split {unknown[0]!r}. Valid: {', '.join(SPLITS)}.")
    if further_retrained_models and retrained_model is None:
        raise InputError("further_retrained_models", "are given without a retrained_model, the yardstick.")
    for name, split in splits.items():
        check_dataset(f"splits[{name!r}]", split)
    check_model("model", model)
    given = {"original": original_model, "unlearned": model, "retrained": retrained_model}
    given |= {f"retrained_{number}": other for number, other in enumerate(further_retrained_models, start=2)}
    models = {name: model for name, model in given.items() if model is not None}
    id2label = id2label_of(model)
    for name, other in models.items():
        if id2label_of(other) != id2label:
            raise InputError(f"{name}_model", "has other labels than the unlearned model, or in another order.")
    models["random"] = random_model(model)
    if max_eval_samples is None:
        max_eval_samples = samples_for(check_image_processor("image_processor", image_processor))

    keys = {}
    if logits_cache_dir is not None and PartialState().is_main_process:
        keys = {name: model_key(candidate, image_processor, batch_size) for name, candidate in models.items()}
    probabilities, labels, sampled = {name: {} for name in models}, {}, {}
    with ShortPasses(models) as passes:
        for split, dataset in ((str(name), dataset) for name, dataset in splits.items()):
            if split != "forget":
                whole, dataset = whole_size(dataset), at_most(dataset, max_eval_samples)
                if len(dataset) < whole:
                    sampled[split] = whole
            labels[split] = label_ids_of(dataset, split, label_column, id2label)
            images = ImageDataset(dataset, image_processor, find_image_column(dataset, image_column))
            # The model with random weights runs on the forget splits only: only one metric (ZRF) needs it.
            asked = [name for name in models if name != "random" or split.startswith("forget")]
            outputs = cached_logits(passes, asked, keys, images, split, batch_size, logits_cache_dir)
            for name, logits in outputs.items():
                broken = ~np.isfinite(logits).all(axis=1)
                if broken.any():
                    which = f"{broken.sum()} of {len(logits)} outputs of the {name} model on the split {split!r}"
                    raise InputError("model", f"{which} are NaN or infinite.")
                probabilities[name][split] = torch.from_numpy(logits).double().softmax(dim=-1).numpy()
    random = probabilities.pop("random")
    return replace(make_report(probabilities, labels, unique_names(id2label), random), sampled=sampled)


def make_report(
    probabilities: dict[str, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray | None],
    label_names: list[str],
    random: dict[str, np.ndarray],
) -> UnlearningReport:
    """
    Computes every metric, histogram and matrix that the outputs at hand allow. The facts of the run (`run`) are left
    empty.

    Args:
        probabilities (`dict[str, dict[str, np.ndarray]]`):
            By model and split, the outputs after the softmax, of shape `(n, K)`. The models are `unlearned` and, if
            given, `original`, `retrained`, `retrained_2`, ….
        labels (`dict[str, np.ndarray | None]`):
            By split, the label ids, of shape `(n,)`, or `None` without labels.
        label_names (`list[str]`):
            Names of the K classes.
        random (`dict[str, np.ndarray]`):
            By forget split, the probabilities of a model with random weights, of shape `(n, K)`.
    """
    bins = np.linspace(0, math.log(max(len(label_names), 2)), 26)
    test = [split for split in ("forget_test", "retain_test") if labels.get(split) is not None]
    test_labels = np.concatenate([labels[split] for split in test]) if test else np.array([], dtype=np.int64)
    results, answers, not_measured = {}, {}, {}
    for name, outputs in probabilities.items():
        metrics, missing = measure(name, probabilities, labels, random)
        by_class = {}
        if test:
            rows = np.concatenate([outputs[split] for split in test])
            answers[name] = rows.argmax(axis=1)
            by_class = class_accuracy(rows, test_labels)
        results[name] = {
            "metrics": metrics,
            "class_accuracy": {label_names[label]: value for label, value in by_class.items()},
            "entropy_histogram": {
                split: np.histogram(entropy(rows).clip(0, bins[-1]), bins=bins)[0].tolist()
                for split, rows in outputs.items()
            },
            "roc": roc_curves(outputs, labels),
            "confusion": [],
        }
        if name == "unlearned":
            not_measured = missing
    if "average_gap" not in not_measured:
        for name in results.keys() - {"retrained"}:
            results[name]["metrics"] |= gaps(results[name]["metrics"], results["retrained"]["metrics"])
    shown = confusion_classes(answers, test_labels, len(label_names)) if test else []
    for name, answer in answers.items():
        results[name]["confusion"] = confusion(answer, test_labels, shown, len(label_names))
    return UnlearningReport(
        results=results,
        splits={split: len(rows) for split, rows in probabilities["unlearned"].items()},
        entropy_bins=bins.tolist(),
        missing=not_measured,
        confusion_classes=[label_names[label] for label in shown],
        band=band_of({name: result["metrics"] for name, result in results.items()}),
    )


def measure(
    name: str,
    probabilities: dict[str, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray | None],
    random: dict[str, np.ndarray],
) -> tuple[dict[str, float], dict[str, str]]:
    """
    Computes every metric of the model `name` that the data at hand allow, and the reason for each metric of
    [`~publication.report.METRICS`] that they do not. For the other arguments see [`make_report`].

    The attacks compare the forget set (members) with unseen images (non-members): those of `forget_test`, or of
    `retain_test` if there is no `forget_test`. Only `membership_inference`, the attack of the JiT paper, uses the
    retain set and all unseen images.
    """
    outputs = probabilities[name]
    have, missing = what_is_there(probabilities, labels)
    metrics = {
        f"{split}_accuracy": accuracy(outputs[split], of_split)
        for split in SPLITS
        if split in outputs and (of_split := labels[split]) is not None
    }
    tests = [split for split in ("forget_test", "retain_test") if split in outputs]
    if {"forget", "retain", "unseen"} <= have:
        metrics["membership_inference"] = entropy_attack(
            retain=entropy(outputs["retain"]),
            test=entropy(np.concatenate([outputs[split] for split in tests])),
            forget=entropy(outputs["forget"]),
        )
    if {"forget", "unseen"} <= have:
        members, others = attack_scores(outputs, labels, tests[0])
        num_others = len(others["entropy"])
        for statistic in members:
            for key, value in attack(members[statistic], others[statistic]).items():
                if num_others >= UNSEEN_FOR_RATE.get(key, 1):
                    metrics[f"{statistic}_attack_{key}"] = value
        if num_others < UNSEEN_FOR_RATE["tpr_at_1_percent_fpr"]:
            few = f"one false positive in a hundred needs a hundred unseen images and there are {num_others}"
            missing.setdefault("loss_attack_tpr_at_1_percent_fpr", few)

    for reference in ("original", "retrained"):
        if reference not in probabilities or reference == name:
            continue
        for split, rows in outputs.items():
            for comparison, function in COMPARISONS.items():
                value = function(rows, probabilities[reference][split])
                metrics[f"{split}_{comparison}_to_{reference}"] = float(np.mean(value))
    if (forget_labels := labels.get("forget")) is not None and set(METRICS["retrain_free_js"].needs) <= have:
        tests = [split for split in tests if labels[split] is not None]
        test_labels = np.concatenate([labels[split] for split in tests])
        if np.isin(forget_labels, test_labels).all():
            original = np.concatenate([probabilities["original"][split] for split in tests])
            metrics["retrain_free_js"] = retrain_free_js(outputs["forget"], forget_labels, original, test_labels)
        else:
            missing["retrain_free_js"] = "some forgotten class has no unseen image"
    for split, rows in random.items():
        key = "zero_retrain_forgetting" if split == "forget" else f"zero_retrain_forgetting_{split}"
        metrics[key] = zero_retrain_forgetting(outputs[split], rows)
    return metrics, missing


def gaps(metrics: dict[str, float], yardstick: dict[str, float]) -> dict[str, float]:
    """
    Average gap and tug of war between a model and the retrained model, over the accuracies on forget set, retain set
    and retain test. Both arguments are the metrics of a model by name.
    """
    kinds = ("forget_accuracy", "retain_accuracy", "retain_test_accuracy")
    accuracies = {kind: metrics[kind] for kind in kinds}
    with_attack = accuracies | {"membership_inference": metrics["membership_inference"]}
    return {
        "average_gap": average_gap(accuracies, yardstick),
        "average_gap_with_membership_inference": average_gap(with_attack, yardstick),
        "tug_of_war": tug_of_war(accuracies, yardstick),
    }


def what_is_there(
    probabilities: dict[str, dict[str, np.ndarray]], labels: dict[str, np.ndarray | None]
) -> tuple[set[str], dict[str, str]]:
    """
    The keys of [`~publication.report.NEEDS`] that are met, and the reason for each metric that cannot be computed.
    """
    have = {"original", "retrained"} & set(probabilities) | set(labels)
    have |= {f"{split} labels" for split in labels if labels[split] is not None}
    unseen = unseen_split(labels)
    have |= {"unseen"} if unseen else set()
    have |= {"unseen labels"} if unseen and labels[unseen] is not None else set()
    missing = {}
    for name, metric in METRICS.items():
        lacking = [need for need in metric.needs if need not in have]
        # If the images are missing, the reason names them and not their labels.
        lacking = [need for need in lacking if need.removesuffix(" labels") in have or not need.endswith(" labels")]
        if lacking:
            missing[name] = "there is no " + " and no ".join(NEEDS[need] for need in lacking)
    return have, missing


def unseen_split(splits: dict) -> str | None:
    """The split of unseen images that the attacks compare with the forget set: `forget_test`, else `retain_test`."""
    return next((split for split in ("forget_test", "retain_test") if split in splits), None)


def attack_scores(
    outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray | None], unseen: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores of the attacks for the forget images (members) and for unseen images (non-members), by statistic."""
    has_labels = labels["forget"] is not None and labels[unseen] is not None
    members, others = (scores(outputs[split], labels[split] if has_labels else None) for split in ("forget", unseen))
    return members, others


def roc_curves(outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray | None]) -> dict[str, list[float]]:
    """By attack, the true positive rates at [`~publication.report.ROC_FPR`]. Empty without forget or unseen images."""
    if "forget" not in outputs or (unseen := unseen_split(outputs)) is None:
        return {}
    members, others = attack_scores(outputs, labels, unseen)
    return {
        name: [round(tpr_at_fpr(members[name], others[name], fpr), 4) for fpr in ROC_FPR]
        for name in members
        # `confidence` orders the images as `loss` does, so its curve is the same.
        if name != "confidence"
    }


def confusion_classes(answers: dict[str, np.ndarray], labels: np.ndarray, num_classes: int) -> list[int]:
    """
    Label ids of the classes that the confusion matrix shows: all, or, if there are too many, those with the largest
    share of images for which the original and the unlearned model name different classes. Without an original model,
    the labels take its place. `answers` are the predicted classes by model.
    """
    if num_classes <= MAX_CONFUSION_CLASSES:
        return list(range(num_classes))
    changed = answers["unlearned"] != answers.get("original", labels)
    images = np.bincount(labels, minlength=num_classes)
    share = np.bincount(labels, weights=changed, minlength=num_classes) / np.maximum(images, 1)
    share[images == 0] = -1
    return sorted(np.argsort(-share, kind="stable")[:MAX_CONFUSION_CLASSES].tolist())


def confusion(answer: np.ndarray, labels: np.ndarray, shown: list[int], num_classes: int) -> list[list[int]]:
    """
    The confusion matrix of one model: numbers of images, one row per class of `shown` and one column per predicted
    class. If not all classes are shown, each row has a last column for all other predictions.
    """
    column = np.full(num_classes, len(shown))
    column[shown] = np.arange(len(shown))
    width = len(shown) + (len(shown) < num_classes)
    return [np.bincount(column[answer[labels == label]], minlength=width).tolist() for label in shown]


def band_of(metrics: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """
    The lowest and the highest value of each metric over the retrained models, from the metrics by model. For a
    distance to the first retrained model, the value of that model itself is agreement: 0, or 1 for tug of war. Empty
    with fewer than two retrained models.
    """
    retrained = [values for name, values in metrics.items() if name.startswith("retrained")]
    if len(retrained) < 2:
        return {}
    # The first retrained model has no distance to itself: it agrees with itself.
    band = {}
    for name in retrained[1]:
        values = [of_model[name] for of_model in retrained if name in of_model]
        if name not in retrained[0]:
            values.append(1.0 if name == "tug_of_war" else 0.0)
        band[name] = [min(values), max(values)]
    return band


def label_ids_of(
    dataset: Dataset, split: str, label_column: str | None, id2label: dict[int, str]
) -> np.ndarray | None:
    """
    The model's label id of each image of a split, int64 of shape `(n,)`, or `None` if the split has no labels. An
    [`InputError`] if only some of the images have a label.
    """
    column = find_label_column(dataset, label_column, id2label)
    if column is None:
        return None
    label_ids = match_labels(dataset, column, id2label)
    values = read_column(dataset, column)
    without = sum(value not in label_ids for value in values)
    if without:
        raise InputError(
            "label_column_name",
            f"{without} of {len(values)} images of the split {split!r} have no label in {column!r}.",
        )
    return np.array([label_ids[value] for value in values], dtype=np.int64)


def unique_names(id2label: dict[int, str]) -> list[str]:
    """Label names in the order of their ids. A name that occurs more than once is followed by its id."""
    names = [id2label[label] for label in range(len(id2label))]
    return [f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names)]
