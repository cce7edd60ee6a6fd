"""
The command `hf-unlearn demo`: trains a classifier of handwritten digits, unlearns, measures and writes the model card.
It needs no network.
"""

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


SCENARIOS = ("class", "random", "subclass")
FORGOTTEN_DIGIT = 3
METHODS_SHOWN = ("jit", "rebuild")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the flags of `hf-unlearn demo`."""
    parser = argparse.ArgumentParser(
        prog="hf-unlearn demo",
        description="Train a small classifier of handwritten digits, make it forget, and compare with a retrained one.",
    )
    parser.add_argument("--output_dir", default="demo", help="Where all goes (default: %(default)s).")
    parser.add_argument(
        "--scenario",
        choices=SCENARIOS,
        default="class",
        help=f"Forget the class {FORGOTTEN_DIGIT}; the {FORGOTTEN_DIGIT}s of a model that tells odd from even; "
        "or random images (default: %(default)s).",
    )
    parser.add_argument(
        "--method",
        choices=METHODS_SHOWN,
        default="jit",
        help="jit hides the class in a second; rebuild, for the class alone, goes deeper, in two minutes (default: %(default)s).",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace an earlier demo in --output_dir.")
    parser.add_argument(
        "--app", action="store_true", help="Afterwards, open a page that shows what both models say of a picture."
    )
    return parser


def demo(
    output_dir: str = "demo", scenario: str = "class", method: str = "jit", overwrite: bool = False, app: bool = False
) -> None:
    """
    Runs the demo.

    Args:
        output_dir (`str`, *optional*, defaults to `"demo"`):
            The folder for `digits` (the dataset), `digits-original`, `digits-retrained`, `digits-retrained-2` and
            `digits-unlearned` (the models).
        scenario (`str`, *optional*, defaults to `"class"`):
            What is forgotten: `"class"`, `"subclass"` or `"random"` images.
        method (`str`, *optional*, defaults to `"jit"`):
            `"jit"` or `"rebuild"`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace an earlier demo.
        app (`bool`, *optional*, defaults to `False`):
            Whether to serve a page on this machine afterwards, until it is stopped.

    Raises:
        [`InputError`]: if the folder holds an earlier demo and `overwrite` is `False`, if the method does not forget what
            the scenario asks for, or if gradio is not installed, which the page needs.
    """
    import torch

    from ..data.splits import split_dataset
    from .parsing import hide_loading_bars, parse_run_arguments
    from .run import run

    if method == "rebuild" and scenario != "class":
        raise InputError("method", "rebuild forgets whole classes. Valid with it: --scenario class.")
    if app and find_spec("gradio") is None:
        raise InputError("app", "needs the library gradio: pip install 'hf-unlearn[app]'.")
    # More threads do not make a network this small faster. On a busy machine, waiting for them takes minutes.
    torch.set_num_threads(1)
    hide_loading_bars()
    folder = Path(output_dir)
    names = ("digits", "digits-original", "digits-retrained", "digits-retrained-2", "digits-unlearned", "pictures")
    parts = [folder / name for name in names]
    if any(part.exists() for part in parts):
        if not overwrite:
            raise InputError("output_dir", f"{output_dir!r} holds an earlier demo. Choose another or add --overwrite.")
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
    data, original, *retrained, unlearned, pictures = parts

    print("1/4  Writing 1,797 handwritten digits of scikit-learn as a dataset.")
    dataset = load_digits(scenario)
    dataset.save_to_disk(str(data))

    print("2/4  Training the original classifier.")
    metrics = train(dataset["train"], dataset["test"], original)
    print(f"     Accuracy on the test images: {100 * metrics['eval_accuracy']:.1f} %.")

    print("3/4  Training the yardstick from scratch, without the forgotten images, with two seeds.")
    flags = {
        "class": ["--forget_class", str(FORGOTTEN_DIGIT)],
        "subclass": ["--forget_column", "digit", "--forget_value", str(FORGOTTEN_DIGIT)],
        "random": ["--forget_fraction", "0.05"],
    }[scenario]
    if method != "jit":
        flags += ["--method", method]
    arguments = parse_run_arguments(
        [
            *("--model_name_or_path", str(original), "--retrained_model_name_or_path", *map(str, retrained)),
            *("--dataset_name", str(data), *flags, "--output_dir", str(unlearned)),
            *("--logging_strategy", "no"),
        ]
    )
    retain = split_dataset(dataset["train"], arguments[2].to_request(), label_column="label")["retain"]
    for seed, yardstick in enumerate(retrained):
        train(retain, None, yardstick, seed=seed)

    print(f"4/4  Unlearning, as `hf-unlearn run {' '.join(flags)}` does.")
    run(*arguments)
    print(EXPLANATION.format(folder=folder))
    if app:
        serve(original, unlearned, dataset["test"], pictures)


def serve(original: Path, unlearned: Path, test_split: "Dataset", pictures: Path) -> None:
    """
    Writes two unseen pictures of each digit, and serves the page that `hf-unlearn push --space` uploads, until it is stopped.
    """
    from ..publication.space.app import Source, make_page, start

    pictures.mkdir(exist_ok=True)
    column = "digit" if "digit" in test_split.features else "label"
    for digit in range(10):
        rows = [row for row, value in enumerate(test_split[column]) if value == digit][:2]
        for number, row in enumerate(rows):
            test_split[row]["image"].save(pictures / f"{digit}-{number}.png")
    files = sorted(pictures.glob("*.png"), key=lambda file: file.stem.split("-")[::-1])
    print("\nThe page stays until you press Ctrl+C.")
    start(make_page(Source(str(original)), Source(str(unlearned)), files))


EXPLANATION = """
What the numbers mean: forgetting well is coming close to the retrained model, which never saw the forgotten images,
on every line; not reaching 0. The band is what two such models say that differ in nothing but the seed. A real request has
no retrained model to compare with.

Where things lie, in {folder}:
  digits-unlearned            the model: pipeline("image-classification", "{folder}/digits-unlearned")
  digits-unlearned/README.md  its card, with report.json and the pictures in figures beside it
  digits-original, digits-retrained, digits-retrained-2, digits"""


def load_digits(scenario: str) -> "DatasetDict":
    """
    Loads the digits of scikit-learn.

    Args:
        scenario (`str`):
            With `"subclass"` the labels are odd and even, and the digit is in the column `digit`. Otherwise the labels
            are the digits.

    Returns:
        `DatasetDict`: `train` and `test`.
    """
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image, Value
    from PIL import Image as PILImage
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Images have 8×8 pixels with values from 0 to 16.
    images = [PILImage.fromarray((image * 255 / 16).round().astype(np.uint8)) for image in digits.images]
    columns, features = {"image": images}, Features(image=Image())
    if scenario == "subclass":
        columns |= {"label": (digits.target % 2).tolist(), "digit": digits.target.tolist()}
        features |= {"label": ClassLabel(names=["even", "odd"]), "digit": Value("int64")}
    else:
        columns["label"] = digits.target.tolist()
        features["label"] = ClassLabel(names=[str(digit) for digit in range(10)])
    return Dataset.from_dict(columns, features=features).train_test_split(test_size=0.25, seed=0)


def train(train_split: "Dataset", test_split: "Dataset | None", folder: Path, seed: int = 0) -> dict[str, float]:
    """
    Trains a small ResNet from random weights, and saves it in `folder`. Returns what
    [`~evaluation.train_classifier.train_classifier`] returns.
    """
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        TrainingArguments,
        ViTImageProcessorPil,
        set_seed,
    )

    from ..evaluation.train_classifier import train_classifier

    set_seed(seed)
    names = train_split.features["label"].names
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=12,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        seed=seed,
    )
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model = ResNetForImageClassification(config)
    return train_classifier(model, image_processor, train_split, args, test_split)
