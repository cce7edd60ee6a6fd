"""
Do forgotten single images look as images never seen? The numbers of docs/auto_step.md, on the networks of its train_networks.py:

    python -m scripts.benchmarks.single_images.run many full --models_dir models --cifar_dir cifar10
    python -m scripts.benchmarks.single_images.run mobilenet --mobilenet mobilenet-v2 --imagenet_dir imagenet
    python -m scripts.benchmarks.single_images.run summary

120 random training images are forgotten from each network by the default, by the head alone (the default until then), and by the
released rule with N = 25, for its time. `many`: the over-fitted networks, each with a model retrained without the images,
trained where it is not there. `full`: Fashion-MNIST. `mobilenet`: 60 images of ImageNet's training set. Each run adds a row to a
CSV in --output_dir; a part that was interrupted goes on where it stopped.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn.errors import CollapsedModelError
from scripts.benchmarks.auto_step.train_networks import RECIPES, train_network
from scripts.benchmarks.networks import (
    IMAGE_PROCESSOR,
    as_rows,
    be_quiet,
    labels_of,
    load_data,
    load_model,
    model_folder,
    parse_arguments,
    quiet_trainer,
)
from scripts.benchmarks.results import append_rows, markdown, median_and_range, read_rows


NUM_IMAGES, DRAWS, FULL_SEEDS = 120, (7, 8), (0, 1, 2)
# The default first: the others are compared with it.
RULES = {
    "surroundings": {},
    "head": {"moving_weights": "head"},
    # A rate at which nothing moves: its time is what is asked.
    "released": {"preset": "as_released", "learning_rate": 1e-12},
}


NOT_UNLEARNED = dict.fromkeys(("change_elsewhere", "slope", "moved", "refused", "seconds"), "")


def split(options, problem: str, draw: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels to forget, 2,000 retained and 2,000 unseen ones."""
    x, kinds = load_data(options, problem, "train")
    order = torch.tensor(np.random.RandomState(draw).permutation(len(kinds)))
    test_x, test_kinds = load_data(options, problem, "test")
    some = torch.tensor(np.random.RandomState(0).permutation(len(test_kinds))[:2000])
    rows = {"forget": order[:NUM_IMAGES], "retain": order[NUM_IMAGES:][:2000]}
    y, test_y = labels_of(problem, kinds), labels_of(problem, test_kinds)
    return {name: (x[some], y[some]) for name, some in rows.items()} | {"unseen": (test_x[some], test_y[some])}


@torch.no_grad()
def losses_and_hits(model, x: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    logits = torch.cat([model.eval()(pixel_values=batch).logits for batch in x.split(100)])
    return cross_entropy(logits, y, reduction="none").numpy(), (logits.argmax(dim=-1) == y).double().numpy()


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """How well the loss tells the first from the second; 0.5: not at all."""
    return roc_auc_score(np.repeat([1, 0], [len(members), len(others)]), -np.concatenate([members, others]))


def measure(model, images: dict) -> dict:
    found = {name: losses_and_hits(model, *pair) for name, pair in images.items()}
    measured = {f"{name}_accuracy": 100 * hits.mean() for name, (_, hits) in found.items()}
    for other in ("unseen", "retain"):
        if other in found:
            measured[f"auc_{other}"] = auc(found["forget"][0], found[other][0])
    return measured


def forget(model, images: dict, rule: str, image_processor=IMAGE_PROCESSOR) -> dict:
    x, y = images["forget"]
    forget_set = as_rows(x, y)
    settings = {"forget_kind": "images", "per_device_train_batch_size": 64, **RULES[rule]}
    if rule == "released":
        del settings["per_device_train_batch_size"]
    started, refused = time.time(), ""
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = quiet_trainer(model, forget_set, output_dir, image_processor, **settings)
        try:
            trainer.train()
        except CollapsedModelError:
            refused = "collapsed"
    seconds, step = time.time() - started, trainer.step
    return {
        **measure(model, images),
        "change_elsewhere": trainer.change,
        "slope": step.slope if step and step.slope is not None else "",
        "moved": step.moved if step else "",
        "refused": refused,
        "seconds": seconds,
    }


def retrained(options, architecture: str, problem: str, draw: int):
    """The model of train_networks.py that never saw the images of the draw."""
    folder = model_folder(options, architecture, f"{problem}-without-draw{draw}", 0)
    if not (folder / "model.safetensors").exists():
        keep = np.random.RandomState(draw).permutation(len(load_data(options, problem, "train")[1]))[NUM_IMAGES:]
        train_network(options, architecture, problem, None, 0, rows=torch.tensor(np.sort(keep)), folder=folder)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def add(options, part: str, key: dict, make) -> None:
    """The row of `make()`, unless it is there."""
    path = options.output_dir / f"{part}.csv"
    name = {column: str(value) for column, value in key.items()}
    if any(all(row[column] == value for column, value in name.items()) for row in read_rows(path)):
        return
    row = key | {name: round(value, 4) if isinstance(value, float) else value for name, value in make().items()}
    append_rows(path, [row])
    print(part, *row.values(), flush=True)


def run_networks(options, part: str, seeds, draws) -> None:
    for seed in seeds:
        for architecture in RECIPES:
            if not (model_folder(options, architecture, part, seed) / "model.safetensors").exists():
                train_network(options, architecture, part, None, seed)
            for draw in draws:
                images, key = split(options, part, draw), {"network": architecture, "seed": seed, "draw": draw}
                original = partial(load_model, options, architecture, part, seed)
                without = partial(retrained, options, architecture, part, draw)
                measure_all(options, part, key, original, images, without if part == "many" else None)


def measure_all(options, part: str, key: dict, original, images: dict, without=None, image_processor=IMAGE_PROCESSOR):
    """The rows of one draw: `original()` as it is, `without()`, and `original()` after each rule."""
    for name, load in (("original", original), ("retrained", without)):
        if load is not None:
            add(options, part, key | {"model": name}, lambda load=load: measure(load(), images) | NOT_UNLEARNED)
    for rule in RULES:
        add(
            options, part, key | {"model": rule}, lambda rule=rule: forget(original(), images, rule, image_processor)
        )  # fmt: skip


def run_many(options) -> None:
    run_networks(options, "many", (0,), options.draws)


def run_full(options) -> None:
    run_networks(options, "full", options.seeds, options.draws)


def run_mobilenet(options) -> None:
    """60 images of each of two draws; unseen: ImageNet's validation images of the same ten classes."""
    image_processor = AutoImageProcessor.from_pretrained(options.mobilenet)

    def prepared(name: str, rows=None):
        data = load_dataset("parquet", data_files=str(options.imagenet_dir / f"{name}.parquet"), split="train")
        data = data if rows is None else data.select(rows)
        pixels = [
            image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0] for image in data["image"]
        ]
        return torch.stack(pixels), torch.tensor(data["label"])

    unseen, sample = prepared("imagenette-validation"), prepared("sample-1000")
    for draw in options.draws:
        rows = np.random.RandomState(draw).permutation(2800)[:60]
        images = {"forget": prepared("imagenette-train", rows), "unseen": unseen, "sample": sample}
        key = {"network": "mobilenet-v2", "seed": 0, "draw": draw}
        original = partial(AutoModelForImageClassification.from_pretrained, options.mobilenet)
        measure_all(options, "mobilenet", key, original, images, image_processor=image_processor)


def summarise(options) -> None:
    """The tables of docs/auto_step.md."""
    for part in ("many", "full", "mobilenet"):
        rows = read_rows(options.output_dir / f"{part}.csv")
        table = []
        for model in ("original", "retrained", *RULES):
            those = [row for row in rows if row["model"] == model]
            if not those:
                continue
            before = {(row["network"], row["seed"], row["draw"]): row for row in rows if row["model"] == "original"}
            cells = [median_and_range([float(row["forget_accuracy"]) for row in those])]
            for column in ("auc_unseen", "auc_retain"):
                values = [float(row[column]) for row in those if row.get(column)]
                cells.append(f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "–")
            lost = [
                float(before[row["network"], row["seed"], row["draw"]]["unseen_accuracy"])
                - float(row["unseen_accuracy"])
                for row in those
            ]
            cells.append("–" if model == "retrained" else median_and_range(lost))
            seconds = [float(row["seconds"]) for row in those if row["seconds"]]
            table.append([model, str(len(those)), *cells, median_and_range(seconds) if seconds else "–"])
        header = ["model", "runs", "forget set, %", "AUC, unseen", "AUC, retained", "points lost", "seconds"]
        if table:
            print("", part, markdown(header, table), sep="\n")


PARTS = {"many": run_many, "full": run_full, "mobilenet": run_mobilenet, "summary": summarise}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/single_images"))
    parser.add_argument("--mobilenet", type=Path)
    parser.add_argument("--imagenet_dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=FULL_SEEDS)
    parser.add_argument("--draws", type=int, nargs="+", default=DRAWS)
    options = parse_arguments(parser)
    be_quiet()
    for part in options.parts:
        PARTS[part](options)
