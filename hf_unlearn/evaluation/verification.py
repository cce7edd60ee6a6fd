"""
Verifies an unlearned model: attacks it, the original model, retrained models and a control, to tell forgetting from
hiding.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor

from ..data.forget_kind import ForgetKind
from ..data.image_dataset import ImageDataset
from ..data.labels import find_label_column, match_labels, read_column
from ..data.splits import check_dataset
from ..errors import InputError
from ..unlearning.compatibility import ImageClassifier, id2label_of
from ..unlearning.precision import in_float32
from .model_attacks import Attacker, run_attacks
from .probes import Images, forward, head_only, heads_of, rank_in_class, recalibrated
from .relearning import MEASURED_STEPS
from .verification_report import MEASURED, MEASURES, NUM_IMAGES, ON_LOGITS, VerificationReport


# A re-learning model has its accuracy back when it is at most this share below that of the original (α of the
# anamnesis index).
TOLERANCE = 0.05


def verify_unlearning(
    original_model: ImageClassifier,
    unlearned_model: ImageClassifier,
    splits: DatasetDict,
    image_processor: BaseImageProcessor,
    retrained_models: Sequence[ImageClassifier] = (),
    *,
    forget_kind: ForgetKind | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    learning_rate: float = 1e-4,
    max_images: int = 200,
    batch_size: int = 64,
    seed: int = 0,
) -> VerificationReport:
    """
    Attacks the models to find out what they still hold of the forget set. The attacks work on copies: the models given
    do not change.

    Controls are attacked as well. The head-only control is a copy of the original model that only hides the forget set,
    see [`~evaluation.probes.head_only`]. The BatchNorm control, for models that have BatchNorm, is a copy of that one with
    other running statistics, see [`~evaluation.probes.recalibrated`]. The retrained models never saw the forget set, so
    their values give the band of each measure: what the attacks find in a model that has nothing to forget.

    Several processes share the attacks, and all of them get the report of a single process.

    Args:
        original_model (`PreTrainedModel`):
            The model before unlearning.
        unlearned_model (`PreTrainedModel`):
            The model to verify.
        splits (`DatasetDict`):
            Only `forget` is needed. Images without labels get the original model's predictions as labels.

            - `forget`: the forget set. The attacker uses one half of it, the other half is measured.
            - `forget_test`: unseen images of what is forgotten. They are measured.
            - `retain`, or else `retain_test`: images of what stays. The attacker uses them.
            - `retain_test`: unseen images of what stays. The attacks on logits measure them. If there are none, or the
              attacker has them, a third of the images of what stays is kept from the attacker and measured.
        image_processor (`BaseImageProcessor`):
            The image processor of all models.
        retrained_models (`list[PreTrainedModel]`, *optional*, defaults to `()`):
            Models that were trained without the forget set, preferably with different seeds.
        forget_kind (`str`, *optional*):
            `"class"`, `"subclass"` or `"images"`, for the control. If not given, it follows from the request that
            `splits["forget"]` remembers (see [`split_dataset`]) or from the labels.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given.
        label_column (`str`, *optional*):
            The column of the labels; found from the features if not given.
        learning_rate (`float`, *optional*, defaults to 1e-4):
            Learning rate of Adam when the models re-learn.
        max_images (`int`, *optional*, defaults to 200):
            Largest number of images per split that are measured. The attacker has at most as many forget images, and
            at most twice as many others.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        seed (`int`, *optional*, defaults to 0):
            Seed of all random choices. The same seed gives the same report.

    Returns:
        [`~evaluation.verification_report.VerificationReport`]

    Raises:
        [`InputError`]: if there is no forget set, or if no image of it is left to measure.
    """
    if "forget" not in splits:
        raise InputError("splits", f"there is no split 'forget'. Given: {', '.join(map(str, splits)) or 'none'}.")
    for name, split in splits.items():
        check_dataset(f"splits[{name!r}]", split)
    columns = {"image_column": image_column, "label_column": label_column}
    with in_float32(original_model, unlearned_model, *retrained_models):
        return attack_models(
            original_model, unlearned_model, splits, image_processor, retrained_models, forget_kind, columns,
            learning_rate, max_images, batch_size, seed,
        )  # fmt: skip


def attack_models(
    original_model: ImageClassifier, unlearned_model: ImageClassifier, splits: DatasetDict,
    image_processor: BaseImageProcessor, retrained_models: Sequence[ImageClassifier], forget_kind: ForgetKind | None,
    columns: dict[str, str | None], learning_rate: float, max_images: int, batch_size: int, seed: int,
) -> VerificationReport:  # fmt: skip
    """Runs all attacks on models in float32. For the arguments see [`verify_unlearning`]."""

    def draw(split: str, limit: int) -> Images:
        return draw_images(splits[split], image_processor, original_model, limit, batch_size, seed, **columns)

    forget = draw("forget", 2 * max_images)
    # The images are in a random order, so every second image of each class is a random half.
    left_out = rank_in_class(forget.labels) % 2 == 1
    measured = {"forget": forget[left_out]}
    if "forget_test" in splits:
        measured["forget_test"] = draw("forget_test", max_images)
    measured = {split: images for split, images in measured.items() if len(images)}
    if not measured:
        raise InputError("splits", "one forget image per class leaves none to measure; there must be two or more.")
    source = next((split for split in ("retain", "retain_test") if split in splits), None)
    others, measured_others = None, None
    if source == "retain" and "retain_test" in splits:
        others, measured_others = draw("retain", 2 * max_images), draw("retain_test", max_images)
    elif source:
        drawn = draw(source, 3 * max_images)
        kept = torch.arange(len(drawn)) < math.ceil(2 * len(drawn) / 3)
        others, measured_others = drawn[kept], drawn[~kept] if len(drawn) > 1 else None
    attacker = Attacker(forget[~left_out], others, measured, measured_others, learning_rate, batch_size, seed)

    models = {"original": original_model, "unlearned": unlearned_model}
    models["head-only"] = head_only(
        original_model, splits["forget"], image_processor, forget_kind=forget_kind, retained=splits.get("retain"),
        batch_size=batch_size, seed=seed, **columns,
    )  # fmt: skip
    with_other_statistics = recalibrated(models["head-only"], others, batch_size) if others is not None else None
    if with_other_statistics is not None:
        models["BatchNorm"] = with_other_statistics
    models |= {f"retrained {number}": model for number, model in enumerate(retrained_models, 1)}
    for model in models.values():
        # An error in one of several processes would leave the others waiting, so it is raised here by all of them.
        heads_of(model, forget.pixel_values[:1].to(next(model.parameters()).device))

    found = run_attacks(models, attacker)
    report = VerificationReport(
        models=list(models),
        measures={},
        margins={},
        curves={
            split: {model: {str(n): found[f"curve {n}"][split][model] for n in NUM_IMAGES} for model in models}
            for split in measured
        },
        layer_information={model: found["layers"][""][model] for model in models} if others is not None else {},
        steps=list(MEASURED_STEPS),
        images={
            "attacker, forget": len(attacker.forget),
            "attacker, others": len(others) if others is not None else 0,
            "measured, others": len(measured_others) if measured_others is not None else 0,
        }
        | {f"measured, {split}": len(images) for split, images in measured.items()},
        seed=seed,
    )
    for split, by_model in report.curves.items():
        found["accuracy"][split] = {model: by_count[str(NUM_IMAGES[0])][0] for model, by_count in by_model.items()}
    if others is None:
        report.notes.append("The models re-learned from forget images alone, since there were no others.")
    if source == "retain_test":
        report.notes.append("The images of what stays are unseen ones, since there are no retained ones.")
    summarise_relearning(report, found)
    summarise_information(report, found)
    report.missing |= not_taken(attacker, found)
    num_others = report.images["measured, others"]
    for measure in MEASURES:
        for split, values in found[measure].items():
            name = f"{measure}/{split}" if split else measure
            report.measures[name] = {model: values[model] for model in models}
            if MEASURES[measure][1] in ("share", "auroc"):
                # Two standard errors of a share of n images are at most 1/√n. So are those of an AUROC, n being the
                # smaller of the two numbers of images (its variance is at most A (1 − A) / n: Birnbaum and Klose 1957).
                size = len(measured[split]) if split else num_others
                report.margins[name] = 1 / math.sqrt(min(size, num_others) if measure == "logit_auroc" else size)
            elif measure == "information":
                report.margins[name] = max(found["information margin"][""].values())
            else:
                report.margins[name] = 1.0 if MEASURES[measure][1] == "count" else 0.0
    if not report.control_hides:
        report.notes.append("The head-only control hides less than half of what the unlearned model hides.")
    return report


def not_taken(attacker: Attacker, found: dict) -> dict[str, str]:
    """Why a measure could not be taken, by measure. Those that need a retrained model are not among them."""
    missing = {}
    if attacker.others is None:
        missing |= dict.fromkeys(
            ("retained_accuracy", *ON_LOGITS, "information", "idi"), "it needs images of what stays"
        )
    elif attacker.measured_others is None:
        missing |= dict.fromkeys(ON_LOGITS, "it needs two images of what stays or more")
    elif not attacker.classes:
        missing |= dict.fromkeys(ON_LOGITS, "it needs a class of which no image stays")
    if not found["probe_accuracy"]:
        missing |= dict.fromkeys(("prototype_accuracy", "probe_accuracy"), "it needs images of two classes or more")
    return missing


def summarise_relearning(report: VerificationReport, found: dict) -> None:
    """
    Computes these measures from the re-learning curves: the steps and the number of images until the accuracy of the
    original model is back, the mean accuracy, and the anamnesis index.

    The anamnesis index is r(unlearned) / r(retrained), where r is the number of steps until the accuracy on the forget
    set is within the share α of that of the original model (Chundawat et al., arXiv 2201.05629). 1 is ideal, and 0
    means that nothing was forgotten. The index of a retrained model is taken against the mean of the other retrained
    models.
    """
    many = str(NUM_IMAGES[-1])
    for split, curves in report.curves.items():
        goal = (1 - TOLERANCE) * curves["original"][many][0]
        steps = {}
        for model, by_count in curves.items():
            reached = {count: first_step(report.steps, curve, goal) for count, curve in by_count.items()}
            steps[model] = reached[many]
            found["relearning_steps"][split][model] = reached[many]
            counts = [int(count) for count, step in reached.items() if step is not None]
            found["relearning_images"][split][model] = min(counts, default=None)
            found["relearning_accuracy"][split][model] = mean_of_curve(report.steps, by_count[many])
        for model in curves if report.retrained else ():
            references = [name for name in report.retrained if name != model]
            if not references:
                # A single retrained model has the index 1 by definition.
                found["anamnesis_index"][split][model] = 1.0
            else:
                # A retrained model that did not reach the goal would need more steps than were run: the index is an
                # upper bound.
                mean = np.mean([report.steps[-1] if steps[name] is None else steps[name] for name in references])
                index = float(steps[model] / mean) if steps[model] is not None and mean > 0 else None
                found["anamnesis_index"][split][model] = index
        late = [name for name in report.retrained if steps[name] is None]
        if late:
            report.notes.append(
                f"{', '.join(late)} did not get back to the original's accuracy ({MEASURED[split]}) in "
                f"{report.steps[-1]} steps: the anamnesis index there is an upper bound."
            )
    if not report.retrained:
        report.missing["anamnesis_index"] = "it needs a retrained model"


def summarise_information(report: VerificationReport, found: dict) -> None:
    """
    Computes the mean information over the layers, and the information difference index (Jeon et al.,
    arXiv 2405.17878):

        IDI = Σ_l [I(Z_l of the unlearned; Y) − I(Z_l of the retrained; Y)] / Σ_l [I(Z_l of the original; Y) − I(…)]

    where I(…) is that of the retrained model again. 0 means that no more is left than in a retrained model, 1 that
    nothing was forgotten. The index of a retrained model is taken against the mean of the other retrained models. It
    is `None` if the layers of the original model hold no more than those of the retrained ones.
    """
    means = {model: float(np.mean(list(layers.values()))) for model, layers in report.layer_information.items()}
    if not means:
        return
    found["information"][""] = means
    if not report.retrained:
        report.missing["idi"] = "it needs a retrained model"
        return
    for model, value in means.items():
        references = [means[name] for name in report.retrained if name != model] or [means[model]]
        reference = float(np.mean(references))
        difference = means["original"] - reference
        found["idi"][""][model] = (value - reference) / difference if difference > 0 else None


def first_step(steps: list[int], curve: list[float], goal: float) -> int | None:
    """The first measured step at which the accuracy is at least `goal`; `None` if there is none."""
    return next((step for step, accuracy in zip(steps, curve, strict=True) if accuracy >= goal), None)


def mean_of_curve(steps: list[int], curve: list[float]) -> float:
    """The mean accuracy over all steps, interpolated linearly between the measured steps."""
    heights, places = np.asarray(curve), np.asarray(steps)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(places)).sum() / (places[-1] - places[0]))


# ---- Images ----


def draw_images(
    dataset: Dataset, image_processor: BaseImageProcessor, original_model: ImageClassifier, limit: int, batch_size: int,
    seed: int, image_column: str | None = None, label_column: str | None = None,
) -> Images:  # fmt: skip
    """
    Draws at most `limit` images in a random order in which the classes alternate. Images without labels get the
    original model's predictions as labels. For the other arguments see [`verify_unlearning`].
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator)
    if label_column is None or label_column in dataset.column_names:
        label_column = find_label_column(dataset, label_column, id2label_of(original_model))
    else:
        label_column = None
    label_ids, labels = None, None
    if label_column is not None:
        label_ids = match_labels(dataset, label_column, id2label_of(original_model))
        labels = torch.tensor([label_ids[value] for value in read_column(dataset, label_column)])
        order = order[rank_in_class(labels[order]).argsort(stable=True)]
    items = ImageDataset(dataset, image_processor, image_column, label_column, label_ids)
    pixel_values = torch.stack([items[row]["pixel_values"] for row in order[:limit].tolist()])
    if labels is not None:
        return Images(pixel_values, labels[order[:limit]])
    answers = Images(pixel_values, torch.zeros(len(pixel_values), dtype=torch.long))
    logits = [batch for batch, _ in forward(original_model, answers, batch_size)]
    return Images(pixel_values, torch.cat(logits).argmax(dim=-1))
