"""
The images of docs/methods.md, written as datasets with the columns that those of the hub have:

    python -m scripts.benchmarks.methods.make_datasets --output_dir data --cifar_dir cifar10

- `fashion-mnist`: 4,000 training and 3,000 test images with a `label` and the `group` it belongs to;
- `digits`: scikit-learn's 1,797 digits, three quarters of them for training, with `label` and `parity`;
- `cifar10`, if --cifar_dir holds its two parquet files: 5,000 training and 3,000 test images with `label` and
  `superclass`.

--data_dir holds the four files of the Debian package dataset-fashion-mnist.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from scripts.benchmarks.networks import (
    GROUPS,
    LABELS,
    NAMES,
    add_data_arguments,
    fashion_mnist,
    read_cifar10,
)


def make_dataset(images: np.ndarray, columns: dict[str, tuple[list[int], list[str]]]) -> Dataset:
    """Images of shape (n, height, width), bytes, and by column the ids and the names of classes."""
    values = {"image": [PILImage.fromarray(image) for image in images]}
    values |= {name: ids for name, (ids, _) in columns.items()}
    features = Features(image=Image(), **{name: ClassLabel(names=names) for name, (_, names) in columns.items()})
    return Dataset.from_dict(values, features=features)


def some(count: int, total: int) -> np.ndarray:
    """Positions of `count` images out of `total`, always the same ones."""
    return np.random.RandomState(0).permutation(total)[:count]


def fashion_mnist_dataset(options) -> DatasetDict:
    splits = {}
    for split, count in (("train", 4000), ("test", 3000)):
        images, kinds = fashion_mnist(options, split)
        rows = some(count, len(kinds))
        groups = [LABELS["groups"].index(GROUPS[kind]) for kind in kinds[rows]]
        columns = {"label": (kinds[rows].tolist(), list(NAMES)), "group": (groups, list(LABELS["groups"]))}
        splits[split] = make_dataset(images[rows], columns)
    return DatasetDict(splits)


def digits_dataset() -> DatasetDict:
    digits = load_digits()
    # 8×8 pixels of 17 grey levels.
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    rows = some(len(images), len(images))
    splits = {}
    for split, part in (("train", rows[: 3 * len(rows) // 4]), ("test", rows[3 * len(rows) // 4 :])):
        labels = digits.target[part]
        parity = ((labels % 2).tolist(), ["even", "odd"])
        splits[split] = make_dataset(
            images[part], {"label": (labels.tolist(), [str(k) for k in range(10)]), "parity": parity}
        )
    return DatasetDict(splits)


def cifar10_dataset(options) -> DatasetDict:
    splits = {}
    for split, count in (("train", 5000), ("test", 3000)):
        rows = read_cifar10(options.cifar_dir, split)
        splits[split] = rows.select(some(count, len(rows))).select_columns(["img", "label", "superclass"])
    return DatasetDict(splits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("data"))
    add_data_arguments(parser)
    options = parser.parse_args()
    made = {"digits": digits_dataset(), "fashion-mnist": fashion_mnist_dataset(options)}
    if options.cifar_dir is not None:
        made["cifar10"] = cifar10_dataset(options)
    for name, dataset in made.items():
        dataset.save_to_disk(str(options.output_dir / name))
        print(f"{options.output_dir / name}: {', '.join(f'{split} {len(rows):,}' for split, rows in dataset.items())}")


if __name__ == "__main__":
    main()
