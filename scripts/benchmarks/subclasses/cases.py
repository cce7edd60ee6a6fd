"""
Cases in which a part of a class is to be forgotten, and the small networks that they are measured on.

`clothes`: Fashion-MNIST with three labels (tops; footwear; bags, trousers and dresses), 14 pixels. `animals`: CIFAR-10 with two,
vehicle and animal, 16 pixels. `pairs`: faces of 18 persons, two persons to a class, 16 pixels. Each problem has one original
network, and each case three that never saw what is to be forgotten, trained where they are not there.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from datasets import load_dataset
from transformers import ResNetConfig, ResNetForImageClassification

from scripts.benchmarks.networks import GROUPS, NAMES, fashion_mnist, read_cifar10


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PERSONS = tuple(f"person {number}" for number in range(18))
HIDDEN_SIZES = (16, 32, 64)


@dataclass
class Problem:
    """
    Args:
        kinds (`tuple[str, ...]`): what the images show.
        label_of_kind (`tuple[int, ...]`): the label of each kind.
        side (`int`): of the images, in pixels.
        epochs (`int`), batch_size (`int`): of the training.
        changes (`bool`): whether networks learn from mirrored and moved images.
        num_train (`int`), num_unseen (`int`): images of each kind.
    """

    kinds: tuple[str, ...]
    label_of_kind: tuple[int, ...]
    side: int
    epochs: int
    batch_size: int
    changes: bool
    num_train: int
    num_unseen: int


PROBLEMS = {
    "clothes": Problem(
        NAMES, tuple(("tops", "footwear", "other").index(group) for group in GROUPS), 14, 5, 128, False, 500, 300
    ),
    "animals": Problem(CIFAR10, (0, 0, 1, 1, 1, 1, 1, 1, 0, 0), 16, 6, 128, True, 600, 300),
    "pairs": Problem(PERSONS, tuple(number // 2 for number in range(18)), 16, 40, 64, True, 26, 14),
}
CASES = [
    *(("clothes", kind) for kind in ("Bag", "Sandal", "Trouser", "Sneaker")),
    *(("animals", kind) for kind in ("airplane", "dog", "bird", "truck")),
    *(("pairs", kind) for kind in ("person 0", "person 7", "person 12", "person 15")),
]
RETRAINED_SEEDS = (1, 2, 3)
# Of the retained images.
SHARE = 0.05


def first_of_each(kinds: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of the images of each kind from number `start` to before number `stop`."""
    return np.sort(np.concatenate([(kinds == kind).nonzero()[0][start:stop] for kind in np.unique(kinds)]))


@cache
def load_images(options, problem: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values between -1 and 1 of shape (B, 3, side, side), and kinds. The faces are one split of which the last are unseen."""
    given, train = PROBLEMS[problem], split == "train"
    start, number = 0, given.num_train if train else given.num_unseen
    if problem == "clothes":
        x, kinds = fashion_mnist(options, split)
        rows = first_of_each(kinds, start, number)
        x, kinds = np.repeat(x[rows][..., None], 3, axis=-1), kinds[rows]
    else:
        if problem == "animals":
            data = read_cifar10(options.cifar_dir, split)
        else:
            data = load_dataset("parquet", data_files=str(options.faces), split="train")
            start = 0 if train else given.num_train
        kinds = np.array(data["label"])
        rows = first_of_each(kinds, start, start + number)
        images = data.select(rows)["img" if problem == "animals" else "image"]
        x, kinds = np.stack([np.array(image.convert("RGB")) for image in images]), kinds[rows]
    x = F.adaptive_avg_pool2d(torch.tensor(x).permute(0, 3, 1, 2).float(), given.side)
    return x / 127.5 - 1, torch.tensor(kinds)


def labels_of(problem: str, kinds: torch.Tensor) -> torch.Tensor:
    return torch.tensor(PROBLEMS[problem].label_of_kind)[kinds]


def changed(images: torch.Tensor) -> torch.Tensor:
    """Mirrored at random, moved by up to an eighth of the side."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    side = images.shape[-1]
    pad = side // 8
    padded = F.pad(images, (pad,) * 4, mode="replicate")
    tops, lefts = torch.randint(0, 2 * pad + 1, (2, len(images))).tolist()
    moved = [
        image[:, top : top + side, left : left + side] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(moved)


def new_network(problem: str) -> ResNetForImageClassification:
    names = {number: str(number) for number in sorted(set(PROBLEMS[problem].label_of_kind))}
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=list(HIDDEN_SIZES), depths=[1] * len(HIDDEN_SIZES), layer_type="basic",
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    return ResNetForImageClassification(config)


def fit(model, x: torch.Tensor, y: torch.Tensor, given: Problem, rate: float = 3e-3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    batches = max(1, len(y) // given.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=given.epochs * batches, pct_start=0.2)
    model.train()
    for _ in range(given.epochs):
        for rows in torch.randperm(len(y)).split(given.batch_size)[:batches]:
            optimizer.zero_grad()
            images = changed(x[rows]) if given.changes else x[rows]
            F.cross_entropy(model(pixel_values=images).logits, y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()


def network(options, problem: str, without: str | None, seed: int) -> ResNetForImageClassification:
    """The original, or one that never saw a kind; trained where it is not there."""
    left_out = "" if without is None else f"-without-{without.replace(' ', '-')}"
    folder = options.models_dir / f"{problem}{left_out}-seed{seed}"
    if not (folder / "model.safetensors").exists():
        x, kinds = load_images(options, problem, "train")
        if without is not None:
            stays = kinds != PROBLEMS[problem].kinds.index(without)
            x, kinds = x[stays], kinds[stays]
        torch.manual_seed(seed)
        model = new_network(problem)
        fit(model, x, labels_of(problem, kinds), PROBLEMS[problem])
        model.save_pretrained(folder)
    return ResNetForImageClassification.from_pretrained(folder).eval()


@dataclass
class Case:
    """Images and labels of a case: to forget, retained, a sample of the retained ones, and unseen ones of both."""

    forget: tuple[torch.Tensor, torch.Tensor]
    retain: tuple[torch.Tensor, torch.Tensor]
    sample: tuple[torch.Tensor, torch.Tensor]
    unseen: tuple[torch.Tensor, torch.Tensor]
    unseen_rest: tuple[torch.Tensor, torch.Tensor]


def load_case(options, problem: str, kind: str, draw: int = 0, share: float = SHARE) -> Case:
    number = PROBLEMS[problem].kinds.index(kind)
    x, kinds = load_images(options, problem, "train")
    other_x, other_kinds = load_images(options, problem, "test")
    y, other_y = labels_of(problem, kinds), labels_of(problem, other_kinds)
    own, other_own = kinds == number, other_kinds == number
    retained = (~own).nonzero()[:, 0]
    order = np.random.RandomState(draw).permutation(len(retained))[: round(share * len(retained))]
    some = retained[torch.tensor(order)]
    return Case(
        (x[own], y[own]), (x[~own], y[~own]), (x[some], y[some]), (other_x[other_own], other_y[other_own]),
        (other_x[~other_own], other_y[~other_own]),
    )  # fmt: skip


@torch.no_grad()
def logits_of(model, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(pixel_values=part).logits for part in x.split(250)])


def accuracy(model, images: tuple[torch.Tensor, torch.Tensor]) -> float:
    """In percent."""
    return 100 * (logits_of(model, images[0]).argmax(dim=-1) == images[1]).double().mean().item()
