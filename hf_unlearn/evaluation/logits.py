"""Runs models over images and collects their logits. Each image is read once, on any number of processes."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather
from torch import nn

from ..data.image_dataset import ImageDataset
from ..errors import InputError
from ..terminal import progress
from .logits_cache import cache_file, read_values, split_key, write_values
from .short_passes import ShortPasses


def cached_logits(
    passes: ShortPasses,
    names: Collection[str],
    keys: dict[str, str | None],
    images: ImageDataset,
    split: str,
    batch_size: int,
    cache_dir: str | Path | None,
) -> dict[str, np.ndarray]:
    """
    The logits of each model on a split: from the cache if they are there, else from one pass over the images.

    Args:
        passes ([`~evaluation.short_passes.ShortPasses`]):
            The models.
        names (`Collection[str]`):
            Of those that are asked.
        keys (`dict[str, str | None]`):
            By model, what [`~evaluation.logits_cache.model_key`] returns. Used on the main process only, which alone
            reads and writes the files.
        images ([`~data.image_dataset.ImageDataset`]):
            The images of the split.
        split (`str`):
            Name of the split, for the progress bar and for error messages.
        batch_size (`int`):
            Images per forward pass.
        cache_dir (`str`, `Path` or `None`):
            Folder of the cache; `None` for no cache.

    Returns:
        `dict[str, np.ndarray]`: by model, float32 of shape `(n, K)`; the same on every process.
    """
    paths, found = {}, [{}]
    if cache_dir is not None and PartialState().is_main_process:
        split_hash = split_key(images.dataset, images.image_column)
        paths = {name: cache_file(cache_dir, key, split_hash) for name in names if (key := keys[name]) is not None}
        read = {name: read_values(path, len(images)) for name, path in paths.items()}
        found = [{name: logits for name, logits in read.items() if logits is not None}]
    logits = broadcast_object_list(found)[0]
    to_run = set(names) - logits.keys()
    if to_run:
        new, _ = collect_logits_of_all(passes, images, batch_size, description=split, names=to_run)
        for name in to_run & paths.keys():
            write_values(paths[name], new[name])
        logits = logits | new
    return logits


def collect_logits(
    model: nn.Module, dataset: ImageDataset, batch_size: int = 64, description: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    The logits of one model on every image, in the order of the dataset. For the arguments other than `model` see
    [`collect_logits_of_all`].

    Args:
        model (`nn.Module`):
            An image classifier. It is in eval mode during the pass.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: logits, float32 of shape `(n, K)`, and label ids, int64 of shape
        `(n,)`, or `None` without labels.
    """
    with ShortPasses({"model": model}) as passes:
        logits, labels = collect_logits_of_all(passes, dataset, batch_size, description)
    return logits["model"], labels


@torch.no_grad()
def collect_logits_of_all(
    passes: ShortPasses,
    dataset: ImageDataset,
    batch_size: int = 64,
    description: str | None = None,
    names: Collection[str] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """
    The logits of several models on every image, in the order of the dataset. Each image is read once.

    The batches are given to the processes in turn, so a batch has the same images on any number of processes, and its
    logits are the same to the last bit. The last batch is repeated until the number of batches is a multiple of the
    number of processes: all processes must run the same number of forward passes.

    Args:
        passes ([`~evaluation.short_passes.ShortPasses`]):
            The models.
        dataset (`torch.utils.data.Dataset`):
            Items with `pixel_values` and, if known, `labels`.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        description (`str`, *optional*):
            Name of the split, for the progress bar and for error messages.
        names (`Collection[str]`, *optional*):
            Of the models to run, all by default.

    Returns:
        `tuple[dict[str, np.ndarray], np.ndarray | None]`: by model, the logits, float32 of shape `(n, K)`; and the
        label ids, int64 of shape `(n,)`, or `None` without labels.

    Raises:
        [`InputError`]: if the dataset is empty.
    """
    state = PartialState()
    num_images = len(dataset)
    if num_images == 0:
        raise InputError("splits", f"the split {description!r} is empty." if description else "a split is empty.")
    batches = [list(range(start, min(start + batch_size, num_images))) for start in range(0, num_images, batch_size)]
    while len(batches) % state.num_processes:
        batches.append(batches[-1])
    own = batches[state.process_index :: state.num_processes]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=own,
        # Without this, the loader would take a number from torch's global random generator.
        generator=torch.Generator(),
    )

    logits, labels = {}, {}

    def put(found: dict[str, torch.Tensor], name: str, number: int, part: torch.Tensor) -> None:
        # One tensor for all batches. Separate tensors would lie between the temporary tensors of the batches and
        # fragment the memory.
        if name not in found:
            found[name] = part.new_zeros(len(own), batch_size, *part.shape[1:])
        # Only the last batch can be shorter. The unused part of its row comes after all images and is cut off at the
        # end.
        found[name][number, : len(part)] = part

    for number, batch in enumerate(progress(description or "images", items=loader)):
        for name, part in passes.logits(batch["pixel_values"], names).items():
            put(logits, name, number, part)
        if "labels" in batch:
            put(labels, "labels", number, batch["labels"])

    def in_order(parts: torch.Tensor) -> np.ndarray:
        # From shape (processes, batches per process, batch size, …) to the order in which the batches were given out.
        return gather(parts[None]).transpose(0, 1).flatten(0, 2)[:num_images].cpu().numpy()

    return {name: in_order(parts) for name, parts in logits.items()}, in_order(labels["labels"]) if labels else None
