"""
Keeps what a model says about images on the disk, so that the model does not run a second time on the same images: its
logits for an evaluation, its features for `hf-unlearn find`.

A file holds the values of one model on one split and nothing else; its name consists of hashes. They still tell about
the images: the folder must stay on the machine, only its owner can read it, and it must be deleted together with the
images.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


# Entries of a model configuration that do not change the logits.
NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "problem_type", "use_cache")


def model_key(model: nn.Module, image_processor: "BaseImageProcessor", batch_size: int) -> str | None:
    """
    SHA-256 over everything that the logits depend on, except the images: weights, class and configuration of the
    model, the image processor, and what decides the last bits (batch size, device and versions of the libraries).

    Args:
        model (`nn.Module`):
            The model.
        image_processor (`BaseImageProcessor`):
            Its image processor.
        batch_size (`int`):
            Images per forward pass.

    Returns:
        `str` or `None`: 64 hexadecimal digits; `None` for a model with PEFT adapters, since their settings are not
        part of the model's configuration, and for a model that is not a `PreTrainedModel`.
    """
    if not isinstance(model, transformers.PreTrainedModel) or model._hf_peft_config_loaded:
        return None
    facts = {
        "weights": weights_sha256(model.state_dict()),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        **function_of(model),
        # How it runs, see `short_passes`.
        "folded": model.device.type == "cpu",
        "image_processor": image_processor.to_dict(),
        "image_processor_class": type(image_processor).__qualname__,
        "batch_size": batch_size,
        "device": model.device.type,
        "versions": [torch.__version__, transformers.__version__, PIL.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def function_of(model: nn.Module) -> dict[str, Any]:
    """What a model's configuration says of the function that it is; empty for a model that has none."""
    if not isinstance(model, transformers.PreTrainedModel):
        return {}
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_FUNCTION}
    return {"config": config, "attention": model.config._attn_implementation}


def split_key(dataset: Dataset, image_column: str) -> str:
    """
    SHA-256 over the stored images in their order, and over how the dataset reads them. No image is decoded. Labels are
    not included, since the model does not see them. A file that is replaced by another one of the same name gives
    another key.

    Args:
        dataset (`datasets.Dataset`):
            Raw images.
        image_column (`str`):
            The column of the images.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{dataset.features[image_column]}".encode())
    # A format of `datasets` can transform the images (`set_transform`).
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
    """The file of the logits of a model on a split."""
    return Path(cache_dir) / model_key / f"{split_key}.safetensors"


def read_values(path: Path, num_images: int, name: str = "logits") -> np.ndarray | None:
    """
    Reads the values of a split from the cache.

    Args:
        path (`Path`):
            What [`cache_file`] returns.
        num_images (`int`):
            n, the number of images of the split.
        name (`str`, *optional*, defaults to `"logits"`):
            What the values are; the flag of the folder is `<name>_cache_dir`.

    Returns:
        `np.ndarray` of shape `(n, K)` or `None`: as it was written; `None` if the file does not exist.

    Raises:
        [`InputError`]: if the file is damaged.
    """
    if not path.is_file():
        return None
    argument = f"{name}_cache_dir"
    try:
        values = load_file(path)[name]
    except (SafetensorError, KeyError) as error:
        raise InputError(argument, f"{str(path)!r} is damaged, delete it: {error}") from error
    if values.ndim != 2 or len(values) != num_images:
        raise InputError(
            argument, f"{str(path)!r} is damaged, delete it: shape {values.shape} for {num_images} images."
        )
    return values


def write_values(path: Path, values: np.ndarray, name: str = "logits") -> None:
    """
    Writes the values of a split into the cache. Only the user can read them. An interrupted write leaves no file under
    the final name.

    Args:
        path (`Path`):
            What [`cache_file`] returns.
        values (`np.ndarray` of shape `(n, K)`):
            A value for each image and column.
        name (`str`, *optional*, defaults to `"logits"`):
            What the values are.

    Raises:
        [`SaveError`]: if the disk refuses, for example because it is full.
    """
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # `mkdir` applies the mode to the last folder of a path only, so both folders are made one by one.
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(save({name: np.ascontiguousarray(values)}))
        os.replace(aside, path)
    except OSError as error:
        raise SaveError(f"the {name} could not be written to {path.parent}: {error}") from error
