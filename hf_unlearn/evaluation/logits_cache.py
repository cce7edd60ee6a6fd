"""
Outputs of models kept on disk, so that a second evaluation of the same model on the same images runs no model.

A file holds the logits of one model on one split and nothing else, under names that are hashes. They are still outputs
on the forget set: the folder stays on the machine, belongs to the user alone and goes when the images go.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import PIL
import torch
import transformers
from datasets import Dataset, Image
from datasets.fingerprint import Hasher
from datasets.utils.file_utils import xopen
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from ..errors import InputError, SaveError
from ..publication.report import weights_sha256


# What a configuration says about the file that it came from and about training, not about the function.
NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "problem_type", "use_cache")


def model_key(model: nn.Module, image_processor, batch_size: int) -> str | None:
    """
    SHA-256 over all that the logits depend on besides the images: weights, class and configuration of the model, the
    image processor, and, since they decide the last bits, batch size, device and versions.

    Args:
        model (`nn.Module`):
            The model.
        image_processor (`BaseImageProcessor`):
            Its image processor.
        batch_size (`int`):
            Images per forward pass.

    Returns:
        `str` or `None`: `None` for a model with adapters, whose settings are in no configuration of the model.
    """
    if not isinstance(model, transformers.PreTrainedModel) or model._hf_peft_config_loaded:
        return None
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_FUNCTION}
    facts = {
        "weights": weights_sha256(model.state_dict()),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": config,
        "attention": model.config._attn_implementation,
        "image_processor": image_processor.to_dict(),
        "image_processor_class": type(image_processor).__qualname__,
        "batch_size": batch_size,
        "device": model.device.type,
        "versions": [torch.__version__, transformers.__version__, PIL.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def split_key(dataset: Dataset, image_column: str) -> str:
    """
    SHA-256 over the images as they are stored, in their order, and how the dataset reads them. No image is decoded, and
    labels do not enter: the model does not see them. A file that is replaced under the same name gives another key.

    Args:
        dataset (`datasets.Dataset`):
            Raw images.
        image_column (`str`):
            The column of the images.
    """
    digest = hashlib.sha256(f"{dataset.features[image_column]}".encode())
    # A format can be a function of the images.
    digest.update(Hasher.hash((dataset.format["type"], dataset.format["format_kwargs"])).encode())
    raw = dataset.with_format(None).select_columns([image_column]).cast_column(image_column, Image(decode=False))
    for row in raw:
        content = row[image_column]["bytes"]
        if content is None:
            with xopen(row[image_column]["path"], "rb") as file:
                content = file.read()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def cache_file(cache_dir: str | Path, model_key: str, split_key: str) -> Path:
    """Where the logits of a model on a split are, or go."""
    return Path(cache_dir) / model_key / f"{split_key}.safetensors"


def read_logits(path: Path, num_images: int) -> np.ndarray | None:
    """
    Logits from the cache.

    Args:
        path (`Path`):
            What [`cache_file`] returns.
        num_images (`int`):
            n, the size of the split.

    Returns:
        `np.ndarray` or `None`: float32 of shape `(n, K)`, `None` if there are none.

    Raises:
        [`InputError`]: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        logits = load_file(path)["logits"]
    except (SafetensorError, KeyError) as error:
        raise InputError("logits_cache_dir", f"{str(path)!r} is damaged, delete it: {error}") from error
    if logits.ndim != 2 or len(logits) != num_images:
        raise InputError(
            "logits_cache_dir", f"{str(path)!r} is damaged, delete it: shape {logits.shape} for {num_images} images."
        )
    return logits


def write_logits(path: Path, logits: np.ndarray) -> None:
    """
    Puts logits into the cache, readable for the user alone. An interrupted write leaves nothing under the final name.

    Args:
        path (`Path`):
            What [`cache_file`] returns.
        logits (`np.ndarray` of shape `(n, K)`):
            float32.

    Raises:
        [`SaveError`]: if the disk refuses.
    """
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # The mode is that of the last folder alone.
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(save({"logits": np.ascontiguousarray(logits)}))
        os.replace(aside, path)
    except OSError as error:
        raise SaveError(f"the logits could not be written to {path.parent}: {error}") from error
