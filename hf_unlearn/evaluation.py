"""Measures models on the splits: logits once per model and split, then every metric from them."""

import math

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather, send_to_device
from datasets import DatasetDict
from torch import nn
from tqdm.auto import tqdm

from .data import ImageDataset, find_label_column, match_labels
from .errors import InputError
from .metrics.membership_inference.membership_inference import entropy, entropy_attack
from .metrics.unlearning_accuracy.unlearning_accuracy import accuracy, class_accuracy
from .report import UnlearningReport


SPLITS = ("forget", "retain", "forget_test", "retain_test")


def evaluate_unlearning(
    model: nn.Module,
    splits: DatasetDict,
    image_processor,
    original_model: nn.Module | None = None,
    retrained_model: nn.Module | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
) -> UnlearningReport:
    """
    Compares the unlearned model with the original and, if there is one, with a model retrained without the forget set.

    Each model runs once over each split; on several processes each takes its share, and the numbers are those of a
    single process.

    Args:
        model (`PreTrainedModel`):
            The unlearned model.
        splits (`DatasetDict`):
            Any of `forget` and `retain` (training images), `forget_test` and `retain_test` (unseen images).
        image_processor (`BaseImageProcessor`):
            The models' image processor.
        original_model (`PreTrainedModel`, *optional*):
            The model before unlearning.
        retrained_model (`PreTrainedModel`, *optional*):
            The yardstick.
        image_column (`str`, *optional*):
            Found from the features when not given.
        label_column (`str`, *optional*):
            Found from the features when not given. Without labels no accuracy is measured.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass and process.

    Returns:
        [`UnlearningReport`]: on every process.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise InputError("splits", f"unknown split {unknown[0]!r}. Valid: {', '.join(SPLITS)}.")
    models = {"original": original_model, "unlearned": model, "retrained": retrained_model}
    models = {name: model for name, model in models.items() if model is not None}

    results, missing = {}, {}
    label_names = model.config.id2label
    bins = np.linspace(0, math.log(len(label_names)), 26)
    for name, candidate in models.items():
        probabilities, labels = {}, {}
        for split, dataset in splits.items():
            column = find_label_column(dataset, label_column)
            label_ids = match_labels(dataset, column, candidate.config.label2id) if column else None
            images = ImageDataset(dataset, image_processor, image_column, column, label_ids)
            logits, labels[split] = collect_logits(candidate, images, batch_size, description=f"{name}: {split}")
            probabilities[split] = torch.from_numpy(logits).double().softmax(dim=-1).numpy()
        metrics, missing = measure(probabilities, labels)
        entropies = {split: entropy(values) for split, values in probabilities.items()}
        test = [split for split in ("forget_test", "retain_test") if labels.get(split) is not None]
        by_class = {}
        if test:
            by_class = class_accuracy(
                np.concatenate([probabilities[split] for split in test]),
                np.concatenate([labels[split] for split in test]),
            )
        results[name] = {
            "metrics": metrics,
            "class_accuracy": {label_names[label]: value for label, value in by_class.items()},
            "entropy_histogram": {
                split: np.histogram(values.clip(0, bins[-1]), bins=bins)[0].tolist()
                for split, values in entropies.items()
            },
        }
    return UnlearningReport(
        results=results,
        splits={split: len(dataset) for split, dataset in splits.items()},
        entropy_bins=bins.tolist(),
        missing=missing,
    )


def measure(
    probabilities: dict[str, np.ndarray], labels: dict[str, np.ndarray | None]
) -> tuple[dict[str, float], dict[str, str]]:
    """
    Every metric that the splits at hand allow, and the reason for each that they do not.

    Args:
        probabilities (`dict[str, np.ndarray]`): per split, of shape `(n, K)`.
        labels (`dict[str, np.ndarray | None]`): per split, of shape `(n,)`, or `None` without labels.
    """
    metrics, missing = {}, {}
    for split in SPLITS:
        if split not in probabilities:
            missing[f"{split}_accuracy"] = f"there is no {split.replace('_', ' ')} split"
        elif labels[split] is None:
            missing[f"{split}_accuracy"] = "the images have no labels"
        else:
            metrics[f"{split}_accuracy"] = accuracy(probabilities[split], labels[split])

    test = [probabilities[split] for split in ("forget_test", "retain_test") if split in probabilities]
    if "retain" in probabilities and "forget" in probabilities and test:
        metrics["membership_inference"] = entropy_attack(
            retain=entropy(probabilities["retain"]),
            test=entropy(np.concatenate(test)),
            forget=entropy(probabilities["forget"]),
        )
    else:
        missing["membership_inference"] = "it needs forget, retained and unseen images"
    return metrics, missing


@torch.no_grad()
def collect_logits(
    model: nn.Module, dataset: torch.utils.data.Dataset, batch_size: int = 64, description: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    The model's output on every image, in the order of the dataset.

    Batches are dealt out to the processes in turn, each filled up to `batch_size` and their number to a multiple of
    the number of processes. So a batch holds the same images whoever computes it, its result is the same to the last
    bit, and all processes run the same number of forward passes.

    Args:
        model (`nn.Module`):
            Set to eval mode for the pass, and back.
        dataset (`torch.utils.data.Dataset`):
            Gives `pixel_values` and, if known, `labels`.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        description (`str`, *optional*):
            Text before the progress bar.

    Returns:
        Logits, float32 of shape `(n, K)`, and labels, int64 of shape `(n,)` or `None`.
    """
    state = PartialState()
    num_images = len(dataset)
    if num_images == 0:
        raise InputError("splits", f"{description or 'a split'} is empty.")
    batches = [
        [row % num_images for row in range(start, start + batch_size)] for start in range(0, num_images, batch_size)
    ]
    while len(batches) % state.num_processes:
        batches.append(batches[-1])
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches[state.process_index :: state.num_processes])

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits, labels = [], []
    # None: no bar where the output is no terminal.
    for batch in tqdm(loader, desc=description, leave=False, disable=None if state.is_local_main_process else True):
        batch = send_to_device(batch, device)
        logits.append(model(pixel_values=batch["pixel_values"]).logits.float())
        if "labels" in batch:
            labels.append(batch["labels"])
    model.train(was_training)

    def in_order(parts: list[torch.Tensor]) -> np.ndarray:
        # (processes, batches of each, batch size, ...) → the order in which the batches were dealt out.
        gathered = gather(torch.stack(parts)[None].contiguous())
        return gathered.transpose(0, 1).flatten(0, 2)[:num_images].cpu().numpy()

    return in_order(logits), in_order(labels) if labels else None
