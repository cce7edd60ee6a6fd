"""
Images and small networks that several pages are measured on, and how they are trained, loaded, unlearned and asked.

Four architectures on three problems, trained by auto_step/train_networks.py. `full`: Fashion-MNIST. `groups`: the
same images with three labels (tops; footwear; bags, trousers and dresses). `many`: 50 classes of 80 images each
(Fashion-MNIST and CIFAR-10, each upright and turned by 90°, and handwritten digits). --data_dir holds the four files
of the Debian package dataset-fashion-mnist; --cifar_dir the two parquet files of the hub's CIFAR-10, which `many`
alone needs.
"""

import argparse
import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset, disable_progress_bars, load_dataset
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, ConvNextImageProcessorPil

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.terminal import printing


NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
GROUPS = ("tops", "other", "tops", "other", "tops", "footwear", "tops", "footwear", "other", "footwear")
SANDAL, BAG = NAMES.index("Sandal"), NAMES.index("Bag")
LABELS = {"full": NAMES, "groups": ("tops", "footwear", "other"), "many": tuple(str(k) for k in range(50))}
# Where the Debian package puts it.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# Pixel values from -1 to 1.
IMAGE_PROCESSOR = ConvNextImageProcessorPil(
    size={"shortest_edge": 28}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
)


# ---- The command line ----


def be_quiet() -> None:
    """No progress bars."""
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_dir", type=Path, default=FASHION_MNIST)
    parser.add_argument("--cifar_dir", type=Path)


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parser's flags, and where networks and images are."""
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    add_data_arguments(parser)
    return parser.parse_args(namespace=Options())


class Options(argparse.Namespace):
    """The command line, as a key of caches."""

    def __hash__(self):
        return hash(str(self))


# ---- Images ----


def fashion_mnist(options, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (B, 28, 28), bytes, and kinds."""
    prefix = options.data_dir / {"train": "train", "test": "t10k"}[split]
    with gzip.open(f"{prefix}-images-idx3-ubyte.gz") as images, gzip.open(f"{prefix}-labels-idx1-ubyte.gz") as labels:
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        return x, np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)


def read_cifar10(cifar_dir: Path, split: str) -> Dataset:
    """As on the hub: the columns `img` and `label`."""
    return load_dataset("parquet", data_files=str(cifar_dir / f"{split}-*.parquet"), split="train")


def cifar10(options, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (B, 28, 28, 3), bytes, and classes."""
    rows = read_cifar10(options.cifar_dir, split)
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


# ---- Networks ----


def model_folder(options, architecture: str, problem: str, seed: int, without: int | None = None) -> Path:
    left_out = "" if without is None else f"-without-{NAMES[without].lower()}"
    return options.models_dir / f"{architecture}-{problem}{left_out}-seed{seed}"


def load_model(options, architecture: str, problem: str, seed: int, without: int | None = None):
    folder = model_folder(options, architecture, problem, seed, without)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def train(
    model, optimizer, x: torch.Tensor, y: torch.Tensor, epochs: int, batch_size: int, keep_last=False, max_norm=None,
    pct_start=0.3,
) -> None:  # fmt: skip
    """
    Cross entropy with one cycle of the learning rate, up to the optimizer's.

    Args:
        keep_last (`bool`): the odd last batch of an epoch counts, too.
        max_norm (`float`, *optional*): of the gradient; longer ones are cut.
        pct_start (`float`): the part of the updates in which the rate rises.
    """
    batches = -(-len(y) // batch_size) if keep_last else len(y) // batch_size
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=epochs * batches, pct_start=pct_start)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(batch_size)[:batches]:
            optimizer.zero_grad()
            cross_entropy(model(pixel_values=x[rows]).logits, y[rows]).backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            schedule.step()
    model.eval()


def as_rows(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    """Images and labels as a dataset that a trainer takes."""
    return [{"pixel_values": image, "labels": label} for image, label in zip(x, y.tolist(), strict=True)]


def quiet_trainer(
    model, forget_dataset, output_dir: str, image_processor=None, trainer_class=JiTTrainer, config_class=JiTConfig,
    retain_dataset=None, **settings,
):  # fmt: skip
    """A trainer with the package's defaults, but for the settings, that prints nothing."""

    class QuietTrainer(trainer_class):
        def train(self, *args, **kwargs):
            with printing(quiet=True):
                return super().train(*args, **kwargs)

    args = config_class(output_dir=output_dir, **{"disable_tqdm": True, "logging_strategy": "no", **settings})
    return QuietTrainer(
        model=model, args=args, processing_class=image_processor, forget_dataset=forget_dataset,
        retain_dataset=retain_dataset,
    )  # fmt: skip


@torch.no_grad()
def hits(model, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Whether the model is right, 0 or 1 for each image; an output that is not finite is wrong."""
    model.eval()
    logits = torch.cat([model(pixel_values=batch).logits for batch in x.split(500)])
    return ((logits.argmax(dim=-1) == y) & logits.isfinite().all(dim=-1)).double().numpy()
