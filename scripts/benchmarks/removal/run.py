"""
Is a class removed, or hidden? `--method rebuild` on the networks of the page on verification; docs/removal.md:

    python -m scripts.benchmarks.verification.run train --models_dir models --cifar_dir cifar10     # 24 networks
    python -m scripts.benchmarks.removal.run --models_dir models --cifar_dir cifar10
    python -m scripts.benchmarks.removal.run --summary

Each case and seed adds its rows to a CSV: the accuracies of the original, the rebuilt and three retrained models, what
`hf-unlearn verify` says of them, and the time. What is there is not done again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from datasets import DatasetDict
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.evaluation.probes import accuracy
from hf_unlearn.evaluation.verification import draw_images, verify_unlearning
from hf_unlearn.evaluation.verification_report import grouped
from hf_unlearn.methods.rebuild import RebuildConfig, RebuildTrainer
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.networks import be_quiet, quiet_trainer
from scripts.benchmarks.results import append_rows, markdown, read_rows
from scripts.benchmarks.verification.run import FORGOTTEN, RETRAINED, SEEDS, load_case, model_folder


# The measures of the tables, whose values fall as a class is removed.
SHOWN = ("relearning_accuracy", "prototype_accuracy", "probe_accuracy", "information")


def rebuild(folder: Path, image_processor, forget) -> tuple[RebuildTrainer, float]:
    """The package's defaults; the seconds that they took."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as output_dir:
        model = AutoModelForImageClassification.from_pretrained(folder)
        trainer = quiet_trainer(
            model, forget, output_dir, image_processor, RebuildTrainer, RebuildConfig, allow_collapse=True
        )
        trainer.train()
    return trainer, time.process_time() - started


def measure(options, case: str, seed: int) -> None:
    dataset, forgotten = load_case(options, case), FORGOTTEN[case][seed]
    request = ForgetRequest(classes=[forgotten])
    train, test = (split_dataset(dataset[split], request, "label") for split in ("train", "test"))
    splits = DatasetDict(
        forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
    )
    folders = {model: model_folder(options, case, seed, model) for model in ("original", *RETRAINED)}
    models = {model: AutoModelForImageClassification.from_pretrained(folder) for model, folder in folders.items()}
    image_processor = AutoImageProcessor.from_pretrained(folders["original"])
    trainer, seconds = rebuild(folders["original"], image_processor, splits["forget"])
    models["rebuilt"] = trainer.model
    report = verify_unlearning(
        models["original"], models["rebuilt"], splits, image_processor, [models[name] for name in RETRAINED]
    )
    key = {"case": case, "seed": seed, "forgotten": forgotten}
    rows = []
    for split, images in splits.items():
        drawn = draw_images(images, image_processor, models["original"], len(images), 500, 0, label_column="label")
        rows += [
            key
            | {"measure": f"accuracy of all/{split}", "model": name, "value": accuracy(model, drawn, 500), "side": ""}
            for name, model in models.items()
        ]
    for name, values in report.measures.items():
        for model, value in values.items():
            shown = "rebuilt" if model == "unlearned" else model
            rows.append(key | {"measure": name, "model": shown, "value": value, "side": report.side(name, model)})
    for name, value in (
        ("seconds", seconds),
        ("updates", trainer.state.global_step),
        ("estimate", trainer.accuracy_lost),
    ):
        rows.append(key | {"measure": name, "model": "rebuilt", "value": value, "side": ""})
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    append_rows(options.csv, rows)
    print(case, seed, forgotten, f"{seconds:.0f} s", report.text(), sep="\n", flush=True)


def summarise(options) -> None:
    rows = read_rows(options.csv)
    keys = list(dict.fromkeys((row["case"], row["seed"], row["forgotten"]) for row in rows))
    table = []
    for case, seed, forgotten in keys:
        own = [row for row in rows if (row["case"], row["seed"]) == (case, seed)]
        value = {(row["measure"], row["model"]): float(row["value"]) for row in own if row["value"]}
        side = {row["measure"]: row["side"] for row in own if row["model"] == "rebuilt"}
        kept = [value["accuracy of all/retain_test", model] for model in ("original", "rebuilt")]
        learned = [value["accuracy of all/retain", model] for model in ("original", "rebuilt")]
        cells = [
            f"{100 * (kept[0] - kept[1]):.1f}",
            f"{100 * learned[1]:.0f}",
            f"{100 * value['accuracy of all/forget_test', 'rebuilt']:.1f}",
        ]
        for name in SHOWN:
            for measure in [measure for measure in side if measure.split("/")[0] == name]:
                band = [value[measure, model] for model in RETRAINED]
                original, rebuilt, edge = value[measure, "original"], value[measure, "rebuilt"], max(band)
                way = f", {100 * (original - rebuilt) / (original - edge):.0f} %" if original - edge > 0.02 else ""
                mark = {"1": " ↑", "-1": " ↓"}.get(side[measure], "")
                cells.append(f"{100 * rebuilt:.0f}{mark} ({100 * min(band):.0f} to {100 * max(band):.0f}{way})")
        cells += [f"{value['updates', 'rebuilt']:.0f}", f"{value['seconds', 'rebuilt']:.0f}"]
        table.append([f"{case} {seed}, {forgotten}", *cells])
    measures = [grouped([measure]) for name in SHOWN for measure in side if measure.split("/")[0] == name]
    header = ["case", "lost", "training images of the rest, %", "class, unseen, %", *measures, "updates", "seconds"]
    print(markdown(header, table))
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(fill(page, {"removal": markdown(header, table)}), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    parser.add_argument("--cifar_dir", type=Path, default=Path("cifar10"))
    parser.add_argument("--csv", type=Path, default=Path("docs/removal/measures.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/removal.md"))
    parser.add_argument("--summary", action="store_true", help="the table of the page alone")
    options = parser.parse_args()
    be_quiet()
    if not options.summary:
        torch.set_num_threads(1)
        done = {(row["case"], row["seed"]) for row in read_rows(options.csv)}
        for case in FORGOTTEN:
            for seed in SEEDS:
                if (case, str(seed)) not in done:
                    measure(options, case, seed)
    summarise(options)
