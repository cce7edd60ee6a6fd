"""
Which measures of `hf-unlearn verify` tell forgetting from hiding? The numbers of docs/verification.md:

    python -m scripts.benchmarks.verification.run train --models_dir models --cifar_dir cifar10     # 24 networks
    python -m scripts.benchmarks.verification.run verify --models_dir models --cifar_dir cifar10
    python -m scripts.benchmarks.verification.run summary

Two cases, three seeds each: the digits of `hf-unlearn demo`, and CIFAR-10 with 500 images per class, on which the
network is over-fitted. Each seed has an original, three models retrained without one class, JiT with the package's
defaults, the control that changes the head alone, and another that masks: the original with one bias lowered.
--cifar_dir holds parquet files train-*.parquet and test-*.parquet with the columns img and label. A part that was
interrupted goes on where it stopped.
"""

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.commands.demo import load_digits
from hf_unlearn.commands.demo import train as train_digits
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.evaluation.probes import accuracy, head_only, heads_of
from hf_unlearn.evaluation.relearning import MEASURED_STEPS
from hf_unlearn.evaluation.verification import draw_images, verify_unlearning
from hf_unlearn.evaluation.verification_report import (
    DERIVED,
    MEASURES,
    NUM_IMAGES,
    grouped,
)
from scripts.benchmarks.networks import be_quiet, quiet_trainer, read_cifar10, train
from scripts.benchmarks.results import append_rows, markdown, new_figure, read_rows, save_figure


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SEEDS = (0, 1, 2)
# The class forgotten with each seed.
FORGOTTEN = {"digits": ("3", "5", "8"), "cifar10": ("automobile", "horse", "ship")}
RETRAINED = ("retrained 1", "retrained 2", "retrained 3")
CIFAR_TRAIN, CIFAR_TEST = 500, 200  # images per class


@cache
def load_cifar(cifar_dir: Path) -> DatasetDict:
    """The first images of each class of CIFAR-10."""
    splits = {}
    for split, count in (("train", CIFAR_TRAIN), ("test", CIFAR_TEST)):
        cifar = read_cifar10(cifar_dir, split)
        labels = cifar["label"]
        rows = [row for k in range(10) for row in [i for i, label in enumerate(labels) if label == k][:count]]
        chosen = cifar.select(rows).select_columns(["img", "label"])
        splits[split] = chosen.cast_column("label", ClassLabel(names=CIFAR_CLASSES))
    return DatasetDict(splits)


def load_case(options, case: str) -> DatasetDict:
    return load_digits("class") if case == "digits" else load_cifar(options.cifar_dir)


def train_cifar(images: Dataset, folder: Path, seed: int) -> None:
    """A small ResNet, until it knows every training image by heart: AdamW with one cycle of the learning rate."""
    torch.manual_seed(seed)
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    names = images.features["label"].names
    label_ids = dict(enumerate(range(len(names))))
    items = ImageDataset(images, image_processor, label_column="label", label_ids=label_ids)
    items = items.__getitems__(list(range(len(images))))
    x, y = torch.stack([item["pixel_values"] for item in items]), torch.tensor([item["labels"] for item in items])
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic",
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    model = ResNetForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    train(model, optimizer, x, y, epochs=14, batch_size=64)
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)


def model_folder(options, case: str, seed: int, model: str) -> Path:
    return options.models_dir / f"{case}-{seed}-{model.replace(' ', '-')}"


def train_models(options) -> None:
    """An original and three retrained models per case and seed; skips what is there."""
    for case in FORGOTTEN:
        dataset = load_case(options, case)
        for seed in SEEDS:
            request = ForgetRequest(classes=[FORGOTTEN[case][seed]])
            retain = split_dataset(dataset["train"], request, "label")["retain"]
            for number, model in enumerate(("original", *RETRAINED)):
                folder = model_folder(options, case, seed, model)
                if (folder / "preprocessor_config.json").exists():
                    continue
                start = time.time()
                images = dataset["train"] if model == "original" else retain
                if case == "digits":
                    train_digits(images, None, folder, seed=seed + 100 * number)
                else:
                    train_cifar(images, folder, seed=seed + 100 * number)
                print(f"{folder.name}: {time.time() - start:.0f} s", flush=True)


def verify_models(options) -> None:
    """One verification per case and seed; skips what has rows."""
    done = {(row["case"], int(row["seed"])) for row in read_rows(csv_file(options, "measures"))}
    for case in FORGOTTEN:
        dataset = load_case(options, case)
        for seed in SEEDS:
            if (case, seed) in done:
                continue
            start = time.time()
            forgotten = FORGOTTEN[case][seed]
            request = ForgetRequest(classes=[forgotten])
            train, test = (split_dataset(dataset[split], request, "label") for split in ("train", "test"))
            splits = DatasetDict(
                forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
            )
            names = ("original", *RETRAINED)
            folders = {model: model_folder(options, case, seed, model) for model in names}
            models = {model: AutoModelForImageClassification.from_pretrained(folders[model]) for model in names}
            image_processor = AutoImageProcessor.from_pretrained(folders["original"])
            original, retrained = models["original"], [models[model] for model in RETRAINED]
            models["unlearned"] = unlearn(folders["original"], image_processor, splits["forget"])
            models["masked"] = mask(folders["original"], forgotten)
            # The same that verify_unlearning builds.
            models["head-only"] = head_only(original, splits["forget"], image_processor)
            report = verify_unlearning(original, models["unlearned"], splits, image_processor, retrained)
            masked = verify_unlearning(original, models["masked"], splits, image_processor)
            key = {"case": case, "seed": seed, "forgotten": forgotten}
            rows = []
            for split, images in {"train": dataset["train"], "retain_test": test["retain"]}.items():
                drawn = draw_images(images, image_processor, original, len(images), 500, 0, label_column="label")
                for model, network in models.items():
                    share = accuracy(network, drawn, 500)
                    rows.append(key | {"measure": f"accuracy/{split}", "model": model, "value": share, "side": ""})
            for measure, values in report.measures.items():
                if measure.split("/")[0] not in ("anamnesis_index", "idi"):
                    values["masked"] = masked.measures[measure]["unlearned"]
                for model, value in values.items():
                    side = report.side(measure, model)
                    rows.append(key | {"measure": measure, "model": model, "value": value, "side": side})
            curves = []
            for split, by_model in report.curves.items():
                by_model["masked"] = masked.curves[split]["unlearned"]
                for model, by_count in by_model.items():
                    shares = [f"{share:.3f}" for share in by_count[str(NUM_IMAGES[-1])]]
                    curves.append(
                        key | {"split": split, "model": model} | dict(zip(MEASURED_STEPS, shares, strict=True))
                    )
            write(options, "curves", curves)
            write(options, "measures", rows)
            print(f"{case} {seed} {forgotten}: {time.time() - start:.0f} s", flush=True)
            print(report.text(), *report.notes, sep="\n", flush=True)


def unlearn(folder: Path, image_processor, forget: Dataset):
    """JiT with the package's defaults."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = quiet_trainer(model, forget, output_dir, image_processor)
        trainer.train()
    return trainer.model


def mask(folder: Path, forgotten: str):
    """The original with the bias of the forgotten class lowered so far that it never wins."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    (head,) = heads_of(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        head.bias[model.config.label2id[forgotten]] -= 30
    return model


def csv_file(options, name: str) -> Path:
    return options.output_dir / f"{name}.csv"


def write(options, name: str, rows: list[dict]) -> None:
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    append_rows(csv_file(options, name), rows)


# ---- What came out ----

MODELS = ("original", "unlearned", "head-only", "BatchNorm", "masked")


def summarise(options) -> None:
    """The tables of docs/verification.md and the picture."""
    rows = read_rows(csv_file(options, "measures"))
    for case in FORGOTTEN:
        those = [row for row in rows if row["case"] == case]
        # The rows of a measurement from before the BatchNorm control have none of it.
        models = [model for model in MODELS if any(row["model"] == model for row in those)]
        table = []
        for measure in dict.fromkeys(row["measure"] for row in those):
            cells = []
            for model in (*models, "retrained"):
                chosen = [row for row in those if row["measure"] == measure and row["model"].startswith(model)]
                cells.append(spread(measure, [row["value"] for row in chosen]) if chosen else "–")
            label = {
                "accuracy/train": "accuracy, training images", "accuracy/retain_test": "accuracy, unseen images of the rest"
            }.get(measure) or grouped([measure])  # fmt: skip
            table.append([label, *cells])
        print("", markdown([case, *models, "retrained"], table), sep="\n")
        table = []
        for measure in dict.fromkeys(row["measure"] for row in those if row["side"] != ""):
            if measure.split("/")[0] in (*DERIVED, "accuracy"):
                continue
            sides = [
                [int(row["side"]) for row in those if row["measure"] == measure and row["model"] == model]
                for model in models
            ]
            cells = [f"{side.count(1)}" + (f" (below: {side.count(-1)})" if -1 in side else "") for side in sides]
            table.append([grouped([measure]), *cells])
        print("", markdown([f"{case}: seeds above the band, of {len(SEEDS)}", *models], table), sep="\n")
    draw(read_rows(csv_file(options, "curves")), options.output_dir / "relearning.png")


def spread(measure: str, values: list[str]) -> str:
    """Median (lowest to highest), in the unit of the table; what was not reached counts as more than all."""
    kind = MEASURES[measure.split("/")[0]][1]
    if kind == "ratio" and "" in values:
        values = [value for value in values if value]
        if not values:
            return "–"
    numbers = sorted(float(value) if value else np.inf for value in values)
    show = {"share": lambda v: f"{100 * v:.0f}", "count": lambda v: f"{v:g}"}.get(kind, lambda v: f"{v:.2f}")
    texts = [
        f"> {MEASURED_STEPS[-1] if 'steps' in measure else NUM_IMAGES[-1]}" if np.isinf(v) else show(v)
        for v in (numbers[len(numbers) // 2], numbers[0], numbers[-1])
    ]
    return texts[0] if texts[1] == texts[2] else f"{texts[0]} ({texts[1]} to {texts[2]})"


def draw(rows: list[dict], path: Path) -> None:
    """Re-learning: the mean over the seeds, and the range of the retrained models."""
    # Okabe and Ito's colours, told apart by the lines as well.
    styles = {
        "original": ("#0072B2", "-", 1.3, "o"), "unlearned": ("#D55E00", "-", 2.4, "D"),
        "head-only": ("#CC79A7", ":", 2.0, "^"), "masked": ("#000000", "-.", 1.3, "v"),
        "retrained": ("#009E73", "--", 1.3, "s"),
    }  # fmt: skip
    figure = new_figure(8, 3.8)
    panels = figure.subplots(1, len(FORGOTTEN), sharey=True)
    for axes, case in zip(panels, FORGOTTEN, strict=True):
        for model, (color, line, width, marker) in styles.items():
            curves = np.array(
                [
                    [100 * float(row[str(step)]) for step in MEASURED_STEPS]
                    for row in rows
                    if row["case"] == case and row["split"] == "forget" and row["model"].startswith(model)
                ]
            )
            axes.fill_between(MEASURED_STEPS, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
            axes.plot(
                MEASURED_STEPS, curves.mean(0), color=color, linestyle=line, linewidth=width, marker=marker,
                markersize=4, label=model,
            )  # fmt: skip
        axes.set_title({"digits": "digits", "cifar10": "CIFAR-10, over-fitted"}[case], fontsize=10)
        axes.set_xlabel("steps of re-learning, 20 forget images")
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks([0, 2, 5, 10, 20, 50, 100], ["0", "2", "5", "10", "20", "50", "100"])
        axes.set_xlim(-0.3, 105)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on left-out forget images, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False)
    save_figure(figure, path)


PARTS = {"train": train_models, "verify": verify_models, "summary": summarise}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/verification"))
    parser.add_argument("--cifar_dir", type=Path, default=Path("cifar10"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    be_quiet()
    PARTS[options.part](options)
