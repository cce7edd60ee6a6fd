"""
Forget a class of ImageNet from its photographs, with the defaults and a model trained on ImageNet; docs/real_models.md:

    python -m scripts.benchmarks.real_models.run --model mobilenet-v2 --data imagenet
    python -m scripts.benchmarks.real_models.run --model efficientnet-lite0 --data imagenet --labels_by_position --num_images 40

--model is a folder or a hub id whose labels are ImageNet's, by name or, with --labels_by_position, by number. --data is a folder with `imagenette-train.parquet`, the
photographs to forget; `imagenette-validation.parquet`, unseen ones of the same ten classes; and `sample-1000.parquet`, one
of each of the 1,000 classes. Each class adds a row to a CSV; what is there is not done again.
"""

import argparse
import copy
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
from hf_unlearn.data.labels import by_position, match_labels
from hf_unlearn.unlearning.early_features import EarlyFeatures, find_cut
from hf_unlearn.unlearning.step_size import last_stage_and_head
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.networks import be_quiet, quiet_trainer
from scripts.benchmarks.results import append_rows, markdown, read_rows


def pixels_and_labels(rows, image_processor, id2label) -> tuple[torch.Tensor, torch.Tensor]:
    """The photographs as the model takes them, and their labels by the model's own numbers."""
    images = ImageDataset(rows, image_processor, label_column="label", label_ids=match_labels(rows, "label", id2label))
    items = images.__getitems__(list(range(len(rows))))
    return torch.stack([item["pixel_values"] for item in items]), torch.tensor([item["labels"] for item in items])


class Measured:
    """
    Photographs on which the model is measured again and again: what runs before its last stage, which alone moves, runs once.

    Args:
        model (`PreTrainedModel`): the original; unlearned and put back in place.
        pixel_values (`torch.Tensor` of shape `(n, C, H, W)`): the photographs.
        labels (`torch.Tensor` of shape `(n,)`): the model's label ids.
    """

    def __init__(self, model, pixel_values: torch.Tensor, labels: torch.Tensor):
        late = last_stage_and_head(model, pixel_values[:1])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in late)
        cut = find_cut(model, pixel_values[:1])
        assert cut is not None, "the model cannot be cut before its last stage"
        model.requires_grad_(True)
        self.model, self.labels, self.features = model, labels, EarlyFeatures(cut, len(labels))
        self.before = self.hits(pixel_values)

    @torch.no_grad()
    def hits(self, pixel_values: torch.Tensor | None = None) -> np.ndarray:
        """Whether the model is right, for each photograph."""
        self.model.eval()
        rows = torch.arange(len(self.labels)).split(50)
        logits = [
            self.features.logits(self.model, some.tolist(), None if pixel_values is None else pixel_values[some])
            for some in rows
        ]
        return (torch.cat(logits).argmax(dim=-1) == self.labels).numpy()


def forget(options, model, image_processor, train, images: dict[str, Measured], label: int) -> dict:
    name = options.names[label]
    request = ForgetRequest(classes=[str(label) if options.labels_by_position else name])
    splits = split_dataset(train, request, "label")
    rows = splits["forget"].select(range(min(options.num_images or len(splits["forget"]), len(splits["forget"]))))
    original = copy.deepcopy(model.state_dict())
    started, used, refused = time.time(), time.process_time(), ""
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(model, rows, folder, image_processor, allow_collapse=True, forget_kind="class")
        trainer.train()
        seconds, cpu_seconds = time.time() - started, time.process_time() - used
        trainer.args.allow_collapse = False
        refused = trainer.change > trainer.change_limit
    after = {split: measured.hits() for split, measured in images.items()}
    model.load_state_dict(original)
    values = {"model": options.model.rstrip("/").rpartition("/")[2], "label": name, "num_images": len(rows)}
    own_id = match_labels(train, "label", model.config.id2label)[label]
    for split, measured in images.items():
        own = (measured.labels == own_id).numpy()
        for part, chosen in (("forgotten", own), ("others", ~own)):
            values[f"{split}_{part}_before"] = 100 * measured.before[chosen].mean()
            values[f"{split}_{part}"] = 100 * after[split][chosen].mean()
        # Twice the standard error of the points lost, from the answers that became right and those that became wrong.
        changed = (measured.before != after[split])[~own].sum()
        values[f"{split}_others_two_errors"] = 200 * changed**0.5 / (~own).sum()
    return values | {
        "change_elsewhere": trainer.change,
        "stage_change": trainer.step.stage_change,
        "moved": trainer.args.moving_weights,
        "length": trainer.step.length,
        "reached": trainer.step.accuracy,
        "refused": refused,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "date": time.strftime("%Y-%m-%d"),
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
        few = "" if row["num_images"] == "280" else f", {row['num_images']} photographs"
        table.append(
            [f"{row['model']}, {row['label']}{few}", *cells, moved, f"{float(row['change_elsewhere']):.2f}", length]
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
    parser.add_argument(
        "--labels_by_position", action="store_true", help="class i of the data is class i of the model"
    )
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
    options.names = read["train"].features["label"].names
    image_processor = AutoImageProcessor.from_pretrained(options.model)
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    if options.labels_by_position:
        read = {name: by_position(rows, "label", model.config.id2label) for name, rows in read.items()}
    images = {
        split: Measured(model, *pixels_and_labels(read[split], image_processor, model.config.id2label))
        for split in names
    }
    model_name = options.model.rstrip("/").rpartition("/")[2]
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], row["label"], row["num_images"]) for row in read_rows(options.csv)}
    for label in np.unique(read["train"]["label"]).tolist():
        name = options.names[label]
        if options.labels and name not in options.labels:
            continue
        count = read["train"]["label"].count(label)
        if (model_name, name, str(min(options.num_images or count, count))) in done:
            continue
        row = forget(options, model, image_processor, read["train"], images, label)
        append_rows(options.csv, [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}])
        print(*(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    summarise(options)
