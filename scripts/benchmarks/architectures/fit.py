"""Trains the models of models.py on the pictures of pictures.py, or finds them trained."""

import time
from functools import cache
from pathlib import Path

import torch
from datasets import Dataset

from scripts.benchmarks.architectures.models import ARCHITECTURES, make_image_processor, make_model
from scripts.benchmarks.architectures.pictures import make_pictures
from scripts.benchmarks.networks import hits, train


BATCH_SIZE = 32


@cache
def pixels_and_labels(name: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures as the architecture's image processor prepares them, and their labels."""
    rows: Dataset = make_pictures()[split]
    pixel_values = make_image_processor(name)(list(rows["image"]), return_tensors="pt")["pixel_values"]
    return pixel_values, torch.tensor(rows["label"])


def model_folder(output_dir: Path, name: str) -> Path:
    return output_dir / "models" / name.replace(", ", "-").replace(" ", "-")


def is_trained(output_dir: Path, name: str) -> bool:
    return (model_folder(output_dir, name) / "model.safetensors").exists()


def fit(output_dir: Path, name: str) -> dict:
    """Trains a model, saves it with its image processor, and says how well it fits."""
    architecture, started = ARCHITECTURES[name], time.process_time()
    x, y = pixels_and_labels(name, "train")
    model = make_model(name)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=architecture.rate)
    # A picture upside down or mirrored is one of the same class.
    copies = torch.cat([x, x.flip(2), x.flip(3), x.flip(2, 3)])
    train(model, optimizer, copies, y.repeat(4), architecture.epochs, BATCH_SIZE, max_norm=1.0, pct_start=0.2)
    seconds = time.process_time() - started
    folder = model_folder(output_dir, name)
    # Before the weights, by which a trained model is known.
    make_image_processor(name).save_pretrained(folder)
    model.save_pretrained(folder)
    return {
        "architecture": name,
        "model_class": architecture.model_class,
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "pixels": x.shape[-1],
        "epochs": architecture.epochs,
        "rate": architecture.rate,
        "train_accuracy": round(100 * hits(model, x, y).mean(), 2),
        "test_accuracy": round(100 * hits(model, *pixels_and_labels(name, "test")).mean(), 2),
        "seconds": round(seconds, 1),
    }
