"""Collects the facts of a run for the report, the model card and the deletion record."""

import math
import os
import platform
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import datasets
import torch
import transformers
from datasets import Dataset

from .. import __version__
from ..data.image_dataset import ImageDataset, common_folder
from ..data.splits import ForgetSource
from ..data.streaming import StreamedRows
from ..request.forget_request import ForgetRequest
from .record import (
    Provenance,
    hub_source,
    image_names,
    lineage_of,
)
from .report import weights_sha256


if TYPE_CHECKING:
    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.trainer import UnlearningTrainer


def run_facts(
    trainer: "UnlearningTrainer", request: ForgetRequest | None, dataset_name: str | None, provenance: Provenance
) -> dict[str, Any]:
    """
    Collects what ran, on which model and data, and with which outcome. Must be called on all processes, after
    training.

    Args:
        trainer ([`UnlearningTrainer`]):
            A trainer whose `train` has ended.
        request ([`ForgetRequest`], *optional*):
            What was forgotten. Only its id, date and general description are used.
        dataset_name (`str`, *optional*):
            Hub id or path of the dataset.
        provenance ([`~publication.record.Provenance`]):
            Where the forgotten images and the model come from.

    Returns:
        `dict`: JSON values. No path of the machine, no token and no name of an image is among them.
    """
    step = trainer.step
    return {
        "request": {
            "kind": request.kind if request else trainer.args.forget_kind,
            "description": description_of(request),
            # The id and the date may be published. The reason and the requester may not.
            **({"id": request.id} if request and request.id else {}),
            **({"date": request.date} if request and request.date else {}),
        },
        "model": public_name(trainer.model.name_or_path or "model"),
        "model_revision": getattr(trainer.model.config, "_commit_hash", None),
        "dataset": public_name(dataset_name),
        "architecture": architecture_of(trainer.model),
        "method": trainer._name,
        "preset": trainer.args.preset,
        "data_used": trainer.data_used,
        "paper": trainer._paper,
        "hyperparameters": trainer.args.settings(),
        "forget_kind": trainer.args.forget_kind,
        "change_elsewhere": trainer.change,
        # JSON has no infinity: `None` stands for no limit.
        "change_limit": trainer.change_limit if math.isfinite(trainer.change_limit) else None,
        "accuracy_lost": trainer.accuracy_lost,
        "step": asdict(step) if step is not None else None,
        "passes": {"forget_set": trainer.passes, "guard_images": trainer.guard.passes} if step is not None else None,
        "updates": 1 if step is not None else trainer.state.global_step,
        "distance_moved": trainer.distance_moved(),
        "seconds": round(trainer.seconds, 3),
        "started": trainer.started,
        "ended": (datetime.fromisoformat(trainer.started) + timedelta(seconds=trainer.seconds)).isoformat(
            timespec="seconds"
        ),
        "energy_kwh": provenance.energy_kwh,
        "lineage": provenance.lineage,
        "replay": {
            **trainer.given,
            "split": provenance.split,
            "image_column": provenance.image_column,
            "label_column": provenance.label_column,
            "threads": torch.get_num_threads(),
        },
        "sequence": provenance.sequence,
        "weights_sha256_before": trainer.sha256_before,
        "weights_sha256_after": weights_sha256(trainer.weights_as_saved()),
        "environment": environment(trainer),
    }


def provenance_of(
    trainer: "UnlearningTrainer",
    request: ForgetRequest | None,
    folder: str | None = None,
    dataset_revision: str | None = None,
) -> Provenance:
    """
    Collects where the forgotten images and the model come from, from what the trainer and its forget set know.

    Args:
        trainer ([`UnlearningTrainer`]):
            A trainer whose `train` has ended.
        request ([`ForgetRequest`], *optional*):
            What was forgotten.
        folder (`str`, *optional*):
            The data folder, to which the paths of the images are relative; found from the dataset if not given.
        dataset_revision (`str`, *optional*):
            Branch, tag or commit of the dataset. Used only if the dataset itself does not know its commit.

    Returns:
        [`~publication.record.Provenance`]
    """
    images, source = trainer.train_dataset.parts["forget"], trainer.source
    facts: dict[str, Any] = {}
    if isinstance(images, ImageDataset):
        # The paths of all images of a streamed dataset were not read.
        whole = source.dataset if source is not None and isinstance(source.dataset, Dataset) else images.dataset
        root = folder or common_folder(whole, images.image_column)
        facts |= {"image_column": images.image_column, "label_column": images.label_column}
        facts["forgotten"] = image_names(images.dataset, images.image_column, request, root)
    if source is not None:
        facts |= {
            "dataset_revision": hub_source(source.dataset)[1] or dataset_revision,
            "dataset_fingerprint": source.dataset._fingerprint,
            "training_images": len(source.dataset),
            "split": str(source.dataset.split) if source.dataset.split is not None else None,
        }
    if source is not None and isinstance(source.dataset, StreamedRows):
        facts |= {"streamed_columns": source.dataset.columns_read, "streamed_rows": source.dataset.seen}
    return Provenance(
        lineage=lineage_of(
            trainer.model.name_or_path or "",
            getattr(trainer.model.config, "_commit_hash", None) or "main",
            trainer.args.hub_token,
        ),
        energy_kwh=trainer.energy_kwh,
        **facts,
    )


def name_of_dataset(source: ForgetSource | None, request: ForgetRequest | None) -> str | None:
    """Name of the dataset: as the request gives it, else its id on the hub, else `None`."""
    if request is not None and request.dataset is not None:
        return request.dataset
    return hub_source(source.dataset)[0] if source is not None else None


def description_of(request: ForgetRequest | None) -> str:
    """Describes what is forgotten in words that can be published: they name no single image."""
    return request.describe() if request is not None else "a set of images"


def public_name(name_or_path: str | None) -> str | None:
    """
    A name that can be published: a hub id as it is, and only the last part of a local path, since the rest would tell
    about the machine.
    """
    if name_or_path is not None and Path(name_or_path).exists():
        return Path(name_or_path).absolute().name
    return name_or_path


def architecture_of(model: "ImageClassifier") -> str:
    """The class of a model, of one with adapters that of its base. A base that was never stored does not know its own."""
    if model.config.architectures:
        return model.config.architectures[0]
    return type(model if isinstance(model, transformers.PreTrainedModel) else model.get_base_model()).__name__


def environment(trainer: "UnlearningTrainer") -> dict[str, Any]:
    """Versions of the libraries, the device and the number of processes."""
    return {
        "hf_unlearn": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else trainer.args.device.type,
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "processes": trainer.accelerator.num_processes,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
