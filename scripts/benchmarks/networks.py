"""
The small networks that the automatic step is measured on, and the images that they are trained on:

    python scripts/small_networks.py --models_dir models --cifar_dir cifar10   # about 40 minutes on one CPU core

Four architectures on three problems. `full`: Fashion-MNIST, three seeds. `groups`: the same images with three labels
(tops; footwear; bags, trousers and dresses), and retrained without sandals and without bags. `many`: 50 classes of 80
images each (Fashion-MNIST and CIFAR-10, each upright and turned by 90°, and handwritten digits), over-fitted.
--data_dir holds the four files of the Debian package dataset-fashion-mnist; --cifar_dir the two parquet files of the
hub's CIFAR-10, which `many` alone needs. Networks that are there are left alone.
"""

import argparse
import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ViTConfig,
)


NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
GROUPS = ("tops", "other", "tops", "other", "tops", "footwear", "tops", "footwear", "other", "footwear")
SANDAL, BAG = NAMES.index("Sandal"), NAMES.index("Bag")
LABELS = {"full": NAMES, "groups": ("tops", "footwear", "other"), "many": tuple(str(k) for k in range(50))}
SEEDS = (0, 1, 2)
# What is trained: problem, the kind left out, seed.
NETWORKS = [
    *(("full", None, seed) for seed in SEEDS),
    *(("groups", without, 0) for without in (None, SANDAL, BAG)),
    ("many", None, 0),
]
# Configuration, peak learning rate, epochs on `full`.
RECIPES = {
    "resnet": (
        ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic"), 3e-3, 9,
    ),
    "convnext": (
        ConvNextConfig(
            image_size=28, patch_size=2, num_stages=3, hidden_sizes=[24, 48, 96], depths=[1, 1, 2],
            layer_scale_init_value=0.1,
        ), 3e-3, 10,
    ),
    "vit": (
        ViTConfig(
            image_size=28, patch_size=4, hidden_size=64, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=128, initializer_range=0.08,
        ), 2e-3, 12,
    ),
    "bit": (BitConfig(embedding_size=32, hidden_sizes=[64, 128, 256], depths=[1, 1, 1], num_groups=8), 4e-3, 12),
}  # fmt: skip
# A third as many images and ten times as many epochs: the training images are learned by heart.
EPOCHS_MANY = 30


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    parser.add_argument("--data_dir", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cifar_dir", type=Path)
    transformers.utils.logging.disable_progress_bar()
    return parser.parse_args(namespace=Options())


class Options(argparse.Namespace):
    """The command line, as a key of caches."""

    def __hash__(self):
        return hash(str(self))


def fashion_mnist(options, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (B, 28, 28), bytes, and kinds."""
    prefix = options.data_dir / {"train": "train", "test": "t10k"}[split]
    with gzip.open(f"{prefix}-images-idx3-ubyte.gz") as images, gzip.open(f"{prefix}-labels-idx1-ubyte.gz") as labels:
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        return x, np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)


def cifar10(options, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (B, 28, 28, 3), bytes, and classes."""
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(options.cifar_dir / f"{split}-*.parquet"), split="train")
    # The first images of each class are enough, and decoding all of them is slow.
    labels = np.array(rows["label"])
    first = np.sort(np.concatenate([(labels == k).nonzero()[0][:300] for k in range(10)]))
    images = np.stack([np.array(image.convert("RGB").resize((28, 28))) for image in rows.select(first)["img"]])
    return images, labels[first]


@cache
def load_data(options, problem: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Pixel values between -1 and 1 of shape (B, 3, 28, 28) and kinds: 12,000 fixed training images of Fashion-MNIST, or
    all 10,000 test images; for `many`, 80 training images and up to 100 test images of each class.
    """
    x, y = fashion_mnist(options, split)
    if problem != "many":
        if split == "train":
            rows = np.random.RandomState(0).permutation(len(y))[:12000]
            x, y = x[rows], y[rows]
        return (torch.tensor(x).float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1).contiguous(), torch.tensor(y)
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.arange(len(digits.target)) % 2 == (split == "test")
    digit_images = np.kron(digits.images[rows], np.ones((3, 3))).clip(0, 16) * (255 / 16)
    digit_images = np.pad(digit_images, ((0, 0), (2, 2), (2, 2)))
    images, kinds = [], []
    sources = ((0, (x, y)), (20, cifar10(options, split)), (40, (digit_images, digits.target[rows])))
    for offset, (x, y) in sources:
        x = x if x.ndim == 4 else np.repeat(x[..., None], 3, axis=-1)
        for kind in range(10):
            # Turned images are other images than the upright ones.
            those = x[y == kind][: 160 if split == "train" else 200].astype(np.float32)
            half = 80 if split == "train" else 100
            images.append(those[:half])
            kinds += [offset + kind] * len(those[:half])
            if offset < 40:
                images.append(np.rot90(those[half:], axes=(1, 2)))
                kinds += [offset + 10 + kind] * len(those[half:])
    x = torch.tensor(np.concatenate(images)).permute(0, 3, 1, 2) / 127.5 - 1
    return x.contiguous(), torch.tensor(kinds)


def labels_of(problem: str, kinds: torch.Tensor) -> torch.Tensor:
    """The labels that the network is trained on."""
    if problem != "groups":
        return kinds
    return torch.tensor([LABELS["groups"].index(group) for group in GROUPS])[kinds]


def model_folder(options, architecture: str, problem: str, seed: int, without: int | None = None) -> Path:
    left_out = "" if without is None else f"-without-{NAMES[without].lower()}"
    return options.models_dir / f"{architecture}-{problem}{left_out}-seed{seed}"


def load_model(options, architecture: str, problem: str, seed: int, without: int | None = None):
    folder = model_folder(options, architecture, problem, seed, without)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def train(options, architecture: str, problem: str, without: int | None, seed: int) -> None:
    """AdamW with one cycle of the learning rate."""
    config, rate, epochs = RECIPES[architecture]
    x, kinds = load_data(options, problem, "train")
    if without is not None:
        x, kinds = x[kinds != without], kinds[kinds != without]
    y = labels_of(problem, kinds)
    epochs = EPOCHS_MANY if problem == "many" else epochs
    torch.manual_seed(seed)
    names = LABELS[problem]
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model = AutoModelForImageClassification.from_config(config).train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    steps = epochs * (len(y) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(128)[: len(y) // 128]:
            optimizer.zero_grad()
            cross_entropy(model(pixel_values=x[rows]).logits, y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    folder = model_folder(options, architecture, problem, seed, without)
    model.eval().save_pretrained(folder)
    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(folder)
    accuracies = [100 * hits(model, x, y).mean()]
    x, kinds = load_data(options, problem, "test")
    accuracies.append(100 * hits(model, x, labels_of(problem, kinds)).mean())
    print(
        f"{folder.name}: accuracy {accuracies[0]:.1f} % on training, {accuracies[1]:.1f} % on test images", flush=True
    )


@torch.no_grad()
def hits(model, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Whether the model is right, 0 or 1 for each image; an output that is not finite is wrong."""
    model.eval()
    logits = torch.cat([model(pixel_values=batch).logits for batch in x.split(500)])
    return ((logits.argmax(dim=-1) == y) & logits.isfinite().all(dim=-1)).double().numpy()


if __name__ == "__main__":
    options = parse_arguments(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    )
    for problem, without, seed in NETWORKS:
        for architecture in RECIPES:
            if problem == "many" and options.cifar_dir is None:
                print(f"{architecture}-many: left out, it needs --cifar_dir.")
            elif not (model_folder(options, architecture, problem, seed, without) / "model.safetensors").exists():
                train(options, architecture, problem, without, seed)
