"""
How far `--late_shrink`, the length and given images move what rebuild loses and what it leaves; docs/removal.md:

    python -m scripts.benchmarks.removal.sweep --models_dir models --cifar_dir cifar10
    python -m scripts.benchmarks.removal.sweep --summary

Nineteen cases: a class of the digits, of an over-fitted ResNet on CIFAR-10, of four architectures on Fashion-MNIST and of
50 kinds of small pictures, each with an original and three models retrained without the class, which are trained where
they are not there. Minutes on a GPU, where the committed rows were measured; many hours on a CPU. What has a row is not
done again. Rows with a setting that SETTINGS does not have are from research code, or of the default before ("before").
"""

import argparse
import copy
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn.commands.demo import train as train_digits
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.evaluation.model_attacks import Attacker, curve, of_features
from hf_unlearn.evaluation.probes import Images, accuracy
from hf_unlearn.evaluation.relearning import MEASURED_STEPS
from hf_unlearn.evaluation.verification import mean_of_curve
from hf_unlearn.methods.rebuild import RebuildTrainer
from hf_unlearn.methods.rebuild_config import RebuildConfig
from hf_unlearn.terminal import printing
from scripts.benchmarks.auto_step.train_networks import EPOCHS_MANY, RECIPES
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.networks import (
    IMAGE_PROCESSOR,
    Options,
    add_data_arguments,
    be_quiet,
    load_data,
)
from scripts.benchmarks.networks import train as train_network
from scripts.benchmarks.results import append_rows, markdown, new_figure, read_rows, save_figure
from scripts.benchmarks.verification.run import load_case, train_cifar


@dataclass(frozen=True)
class Case:
    """A class of a model: the data, the architecture, the class, and the seed of the original."""

    data: str
    architecture: str
    label: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}, {self.architecture}, class {self.label}"


CASES = [
    *(Case("digits", "resnet", label, seed) for seed, label in enumerate((3, 5, 8))),
    *(Case("cifar10", "resnet", label, seed) for seed, label in enumerate((1, 7, 8))),
    *(Case("full", architecture, label, seed) for architecture in RECIPES for seed, label in enumerate((1, 5, 8))),
    Case("many", "resnet", 23, 0),
]
NUM_RETRAINED = 3
# One round, however much is lost; `retain`: the share of the retained images that is given.
SETTINGS = {
    "default": {"max_steps": 800},
    "late stage new": {"late_shrink": 1.0, "max_steps": 800},
    "2,400 updates": {"num_updates": 2400, "max_steps": 2400},
    "late stage new, 5 % retained": {"late_shrink": 1.0, "retain": 0.05, "max_steps": 800},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ---- Images and networks ----


def pixels(options, case: Case, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    if case.data in ("full", "many"):
        x, y = load_data(options, case.data, split)
        if split == "test":
            # As many as are needed for half a point.
            x, y = (x[:4000], y[:4000]) if case.data == "full" else (x[::2], y[::2])
        return x, y
    dataset = load_case(options, case.data)[split]
    image_processor = AutoImageProcessor.from_pretrained(folder_of(options, case, 0))
    items = ImageDataset(dataset, image_processor).__getitems__(list(range(len(dataset))))
    return torch.stack([item["pixel_values"] for item in items]), torch.tensor(dataset["label"])


def folder_of(options, case: Case, number: int) -> Path:
    """Of the original, number 0, or a retrained model."""
    return options.models_dir / f"{case.data}-{case.architecture}-{case.label}-{number}"


def train_model(options, case: Case, number: int) -> None:
    folder, seed = folder_of(options, case, number), case.seed + 100 * number
    if (folder / "preprocessor_config.json").exists():
        return
    if case.data in ("digits", "cifar10"):
        images = load_case(options, case.data)["train"]
        if number:
            images = images.filter(lambda label: label != case.label, input_columns="label")
        train_cifar(images, folder, seed) if case.data == "cifar10" else train_digits(images, None, folder, seed=seed)
        return
    x, y = load_data(options, case.data, "train")
    names = {label: str(label) for label in y.unique().tolist()}
    config, rate, epochs = copy.deepcopy(RECIPES[case.architecture])
    config.id2label, config.label2id = names, {name: label for label, name in names.items()}
    if number:
        x, y = x[y != case.label], y[y != case.label]
    torch.manual_seed(seed)
    model = AutoModelForImageClassification.from_config(config).to(DEVICE)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    epochs = EPOCHS_MANY if case.data == "many" else epochs
    optimizer = torch.optim.AdamW(groups, lr=rate)
    train_network(model, optimizer, x.to(DEVICE), y.to(DEVICE), epochs, 128, max_norm=1.0, pct_start=0.2)
    model.save_pretrained(folder)
    IMAGE_PROCESSOR.save_pretrained(folder)


def load(options, case: Case, number: int):
    return AutoModelForImageClassification.from_pretrained(folder_of(options, case, number)).to(DEVICE).eval()


# ---- Measuring ----


def images_of(options, case: Case) -> tuple[Attacker, dict[str, Images]]:
    """What the attacker has, half of the forget set at most, and the images that accuracies are of."""
    (x, y), (u, v) = (pixels(options, case, split) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(0)

    def draw(chosen: torch.Tensor, x: torch.Tensor, y: torch.Tensor, limit: int) -> Images:
        rows = chosen.nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)[:limit]]
        return Images(x[rows], y[rows])

    forget = draw(y == case.label, x, y, 400)
    second = torch.arange(len(forget)) % 2 == 1
    measured = {"forget": forget[second], "forget_test": draw(v == case.label, u, v, 200)}
    others = draw(y != case.label, x, y, 400)
    kept = {
        "unseen": Images(u[v != case.label], v[v != case.label]),
        "learned": Images(x[y != case.label], y[y != case.label]),
        "forgotten": measured["forget_test"],
    }
    return Attacker(forget[~second], others, measured, None, 1e-4, 500, 0), kept


def measure(model, attacker: Attacker, kept: dict[str, Images]) -> dict:
    found = curve(model, attacker, 20)["curve 20"]
    values = {f"relearning/{split}": mean_of_curve(list(MEASURED_STEPS), shares) for split, shares in found.items()}
    features = of_features(model, attacker)
    for name in ("prototype_accuracy", "probe_accuracy"):
        values |= {f"{name.partition('_')[0]}/{split}": value for split, value in features[name].items()}
    values["information"] = float(np.mean(list(features["layers"][""].values())))
    return {f"accuracy/{name}": accuracy(model, images, 500) for name, images in kept.items()} | values


def rebuild(options, case: Case, settings: dict) -> tuple[RebuildTrainer, dict]:
    settings = dict(settings)
    x, y = pixels(options, case, "train")
    share, retained = settings.pop("retain", 0.0), None
    if share:
        others = x[y != case.label]
        rows = torch.randperm(len(others), generator=torch.Generator().manual_seed(7))[: int(share * len(others))]
        retained = [{"pixel_values": image} for image in others[rows]]
    forget = [{"pixel_values": image, "labels": case.label} for image in x[y == case.label]]
    args = {"forget_kind": "class", "allow_collapse": True, **settings}
    with tempfile.TemporaryDirectory() as folder:
        config = RebuildConfig(folder, disable_tqdm=True, logging_strategy="no", **args)
        trainer = RebuildTrainer(load(options, case, 0), config, forget_dataset=forget, proxy_dataset=retained)
        with printing(quiet=True):
            trainer.train()
    return trainer, {
        "estimate": trainer.accuracy_lost,
        "updates": trainer.state.global_step,
        "seconds": trainer.seconds,
    }


def run(options) -> None:
    done = {(row["case"], row["model"]) for row in read_rows(options.csv)}
    for case in CASES:
        for number in range(NUM_RETRAINED + 1):
            train_model(options, case, number)
        attacker, kept = images_of(options, case)
        jobs = {"original": 0} | {f"retrained {number}": number for number in range(1, NUM_RETRAINED + 1)}
        for name in (*jobs, *SETTINGS):
            if (case.name, name) in done:
                continue
            more = {"estimate": "", "updates": "", "seconds": ""}
            if name in jobs:
                model = load(options, case, jobs[name])
            else:
                trainer, more = rebuild(options, case, SETTINGS[name])
                model = trainer.model
            row = {"case": case.name, "model": name} | measure(model, attacker, kept) | more
            append_rows(options.csv, [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}])
            print(case.name, name, flush=True)


# ---- What came out ----

GROUPS = {"digits": "digits", "cifar10": "CIFAR-10, over-fitted", "full": "Fashion-MNIST", "many": "fifty kinds"}


def ways(row: dict, original: dict, retrained: list[dict], name: str) -> list[float]:
    """How much of the way from the original to the upper edge of the retrained models is gone, in %, by split."""
    found = []
    for measure in [key for key in row if key.split("/")[0] == name]:
        edge = max(float(other[measure]) for other in retrained)
        if float(original[measure]) - edge > 0.02:
            found.append(100 * (float(original[measure]) - float(row[measure])) / (float(original[measure]) - edge))
    return found


def summarise(options) -> None:
    rows = read_rows(options.csv)
    by_case = defaultdict(dict)
    for row in rows:
        by_case[row["case"]][row["model"]] = row
    collected, scatter = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for case, models in by_case.items():
        data, original = case.split(",")[0], models["original"]
        retrained = [row for name, row in models.items() if name.startswith("retrained")]
        for name, row in models.items():
            if row["estimate"] == "":
                continue
            lost = 100 * (float(original["accuracy/unseen"]) - float(row["accuracy/unseen"]))
            collected[data, name]["lost"].append(lost)
            for measure in ("relearning", "prototype", "information"):
                collected[data, name][measure] += ways(row, original, retrained, measure)
            if "retained" not in name:
                scatter[data, name.startswith("before")].append((float(row["estimate"]), lost))
    table = []
    order = [*SETTINGS, *sorted({name for _, name in collected} - SETTINGS.keys())]
    for data, name in sorted(collected, key=lambda pair: (list(GROUPS).index(pair[0]), order.index(pair[1]))):
        values = collected[data, name]
        lost = values["lost"]
        cells = [
            f"{np.median(values[m]):.0f}" if values[m] else "–" for m in ("relearning", "prototype", "information")
        ]
        table.append(
            [GROUPS[data], name, str(len(lost)), f"{np.median(lost):.1f}", f"{max(lost):.1f}", *cells]
        )  # fmt: skip
    header = [
        "networks",
        "setting",
        "cases",
        "lost, median",
        "worst",
        "re-learning, %",
        "prototypes, %",
        "information, %",
    ]
    page = options.page.read_text(encoding="utf-8")
    lines = []
    for (data, before), pairs in sorted(
        scatter.items(), key=lambda item: (item[0][1], list(GROUPS).index(item[0][0]))
    ):
        estimated, lost = np.array(pairs).T
        low = lost - estimated
        lines.append(
            [GROUPS[data] + (", before" if before else ""), str(len(pairs)), f"{np.median(estimated):.1f}",
             f"{np.median(lost):.1f}", f"{np.median(low):.1f} ({low.min():.1f} to {low.max():.1f})"]
        )  # fmt: skip
    estimates = markdown(["networks", "runs", "estimated, median", "lost, median", "lost less estimated"], lines)
    options.page.write_text(fill(page, {"sweep": markdown(header, table), "estimate": estimates}), encoding="utf-8")
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    styles = dict(zip(GROUPS, (("#D55E00", "s"), ("#0072B2", "o"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True))
    for (data, before), pairs in scatter.items():
        color, marker = styles[data]
        face = "none" if before else color
        axes.scatter(
            *zip(*pairs, strict=True), edgecolors=color, facecolors=face, marker=marker, s=16, linewidths=0.8,
            label=GROUPS[data] + (", before" if before else ""),
        )  # fmt: skip
    axes.plot([0, 6], [0, 6], color="0.6", linewidth=1)
    axes.set_xlabel("estimated, points")
    axes.set_ylabel("lost on unseen images, points")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
    save_figure(figure, options.csv.with_name("estimate.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    add_data_arguments(parser)
    parser.add_argument("--csv", type=Path, default=Path("docs/removal/sweep.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/removal.md"))
    parser.add_argument("--summary", action="store_true", help="the tables and the picture alone")
    options = parser.parse_args(namespace=Options())
    be_quiet()
    if not options.summary:
        torch.set_num_threads(1)
        run(options)
    summarise(options)
