"""
Trains a model that has persons as classes, for docs/finding.md:

    python -m scripts.benchmarks.finding.train_faces --faces faces.parquet --output_dir faces-model

--faces has the columns `image` and `label`, a person each. A small ResNet learns from the first 30 photographs of every
person, in five minutes of one core; the others are never shown to it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import load_dataset
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

from scripts.benchmarks.networks import be_quiet


NUM_LEARNED = 30
SIDE = 64


def place_in_class(labels: torch.Tensor) -> torch.Tensor:
    """Of each image, how many of its class come before it."""
    return torch.tensor([int((labels[:row] == label).sum()) for row, label in enumerate(labels)])


def changed(images: torch.Tensor) -> torch.Tensor:
    """Images of shape (B, 1, 64, 64), turned, moved, mirrored, made brighter or darker, and half of them patched."""
    count = len(images)

    def spread(width: float, *shape: int) -> torch.Tensor:
        return width * (torch.rand(count, *shape) - 0.5)

    mirror = 1 - 2 * (torch.rand(count) < 0.5).float()
    angle, size = spread(0.3), 1 + spread(0.3)
    across = torch.stack([mirror * size * angle.cos(), -size * angle.sin(), spread(0.2)], dim=1)
    down = torch.stack([mirror * size * angle.sin(), size * angle.cos(), spread(0.2)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    images = (images * (1 + spread(0.6, 1, 1, 1)) + spread(0.5, 1, 1, 1)).clamp(-1, 1)
    for image in images[: count // 2]:
        side = int(torch.randint(8, 24, ()))
        top, left = torch.randint(0, SIDE - side, (2,)).tolist()
        image[:, top : top + side, left : left + side] = spread(2.0)[0]
    return images


def train(model, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(y) // 32), pct_start=0.2)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(32)[: len(y) // 32]:
            optimizer.zero_grad()
            logits = model(pixel_values=changed(x[rows]).expand(-1, 3, -1, -1)).logits
            F.cross_entropy(logits, y[rows], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    be_quiet()
    torch.manual_seed(0)
    faces = load_dataset("parquet", data_files=options.faces, split="train")
    names, y = faces.features["label"].names, torch.tensor(faces["label"])
    small = [np.array(image.convert("L").resize((SIDE, SIDE))) for image in faces["image"]]
    x = torch.tensor(np.stack(small))[:, None].float() / 127.5 - 1
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    model = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic", **labels
        )
    )
    learned = place_in_class(y) < NUM_LEARNED
    train(model, x[learned], y[learned], options.epochs)
    with torch.no_grad():
        right = (
            torch.cat([model(pixel_values=part.expand(-1, 3, -1, -1)).logits for part in x.split(90)]).argmax(1) == y
        )
    for name, rows in (("learned", learned), ("never seen", ~learned)):
        print(f"Accuracy on the {int(rows.sum())} photographs {name}: {100 * right[rows].float().mean():.1f} %.")
    model.save_pretrained(options.output_dir)
    ConvNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(options.output_dir)
