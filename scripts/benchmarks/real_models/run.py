"""
Forget a class of ImageNet from its photographs, with the defaults and a model trained on ImageNet; docs/real_models.md:

    python -m scripts.benchmarks.real_models.run --model mobilenet-v2 --data imagenet

--model is a folder or a hub id whose labels are ImageNet's. --data is a folder with `imagenette-train.parquet`, the
photographs to forget; `imagenette-validation.parquet`, unseen ones of the same ten classes; and `sample-1000.parquet`, one
of each of the 1,000 classes. Each class adds a row to a CSV; what is there is not done again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.data.labels import match_labels
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.networks import be_quiet, hits, quiet_trainer
from scripts.benchmarks.results import append_rows, markdown, read_rows


def pixels_and_labels(rows, image_processor, id2label) -> tuple[torch.Tensor, torch.Tensor]:
    """The photographs as the model takes them, and their labels by the model's own numbers."""
    images = ImageDataset(rows, image_processor, label_column="label", label_ids=match_labels(rows, "label", id2label))
    items = images.__getitems__(list(range(len(rows))))
    return torch.stack([item["pixel_values"] for item in items]), torch.tensor([item["labels"] for item in items])


def forget(options, train, images, before, label: int) -> dict:
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    image_processor = AutoImageProcessor.from_pretrained(options.model)
    name = train.features["label"].int2str(label)
    splits = split_dataset(train, ForgetRequest(classes=[name]))
    rows = splits["forget"].select(range(min(options.num_images or len(splits["forget"]), len(splits["forget"]))))
    started, refused = time.time(), ""
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(model, rows, folder, image_processor, allow_collapse=True, forget_kind="class")
        trainer.train()
        seconds = time.time() - started
        trainer.args.allow_collapse = False
        refused = trainer.change > trainer.change_limit
    after = {split: hits(model, *images[split]) for split in images}
    values = {"model": options.model.rstrip("/").rpartition("/")[2], "label": name, "num_images": len(rows)}
    own_id = match_labels(train, "label", model.config.id2label)[label]
    for split, (_, labels) in images.items():
        own = (labels == own_id).numpy()
        for part, chosen in (("forgotten", own), ("others", ~own)):
            values[f"{split}_{part}_before"] = 100 * before[split][chosen].mean()
            values[f"{split}_{part}"] = 100 * after[split][chosen].mean()
        # Twice the standard error of the points lost, from the answers that became right and those that became wrong.
        changed = (before[split] != after[split])[~own].sum()
        values[f"{split}_others_two_errors"] = 200 * changed**0.5 / (~own).sum()
    return values | {
        "change_elsewhere": trainer.change,
        "stage_change": trainer.step.stage_change,
        "moved": trainer.args.moving_weights,
        "length": trainer.step.length,
        "reached": trainer.step.accuracy,
        "refused": refused,
        "seconds": seconds,
    }


def summarise(options) -> None:
    """The table of the page."""
    table = []
    for row in read_rows(options.csv):
        cells = [
            " → ".join(f"{float(row[f'{name}{when}']):.{digits}f}" for when in ("_before", ""))
            for name, digits in (("unseen_forgotten", 0), ("unseen_others", 1), ("thousand_others", 1))
        ]
        length = f"{100 * float(row['length']):.3f}"
        moved = row["moved"].replace("_", " ")
        table.append(
            [f"{row['model']}, {row['label']}", *cells, moved, f"{float(row['change_elsewhere']):.2f}", length]
        )
    header = [
        "model, class",
        "the class",
        "the nine others",
        "the thousand",
        "moved",
        "change elsewhere",
        "step, % of what moves",
    ]
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(fill(page, {"real models": markdown(header, table)}), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num_images", type=int, help="so many photographs of the class; default: all")
    parser.add_argument("--labels", nargs="+", help="these of the ten classes; default: all")
    parser.add_argument("--csv", type=Path, default=Path("docs/real_models/classes.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/real_models.md"))
    options = parser.parse_args()
    be_quiet()
    transformers.utils.logging.set_verbosity_error()
    names = {"unseen": "imagenette-validation", "thousand": "sample-1000"}
    read = {name: load_dataset("parquet", data_files=str(options.data / f"{file}.parquet"))["train"]
            for name, file in {"train": "imagenette-train", **names}.items()}  # fmt: skip
    image_processor = AutoImageProcessor.from_pretrained(options.model)
    original = AutoModelForImageClassification.from_pretrained(options.model).eval()
    images = {split: pixels_and_labels(read[split], image_processor, original.config.id2label) for split in names}
    before = {split: hits(original, *images[split]) for split in images}
    model_name = options.model.rstrip("/").rpartition("/")[2]
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], row["label"], row["num_images"]) for row in read_rows(options.csv)}
    for label in np.unique(read["train"]["label"]).tolist():
        name = read["train"].features["label"].int2str(label)
        if options.labels and name not in options.labels:
            continue
        count = read["train"]["label"].count(label)
        if (model_name, name, str(min(options.num_images or count, count))) in done:
            continue
        row = forget(options, read["train"], images, before, label)
        append_rows(options.csv, [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}])
        print(*(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    summarise(options)
