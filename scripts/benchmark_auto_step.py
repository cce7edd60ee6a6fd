"""
Measure the automatic step and its guard on small networks trained on Fashion-MNIST; the numbers of docs/auto_step.md:

    python scripts/benchmark_auto_step.py train --models_dir models   # 12 networks, about 20 minutes on one CPU core
    python scripts/benchmark_auto_step.py all --models_dir models     # all parts below

`class` forgets each class of each network with the defaults, `images` a random hundredth of the images. `bad` runs settings that destroy a model, to see whether
the guard notices. `released` searches σ and η of the authors' rule with the test set in sight: no real request can.
`summary` prints the tables and draws the guard's scatter. Each run adds one row to a CSV in --output_dir; a part that
was interrupted goes on where it stopped. --data_dir holds the four files of the Debian package dataset-fashion-mnist.
"""

import argparse
import csv
import gzip
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    PrinterCallback,
    ResNetConfig,
    ViTConfig,
)

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import CollapsedModelError
from hf_unlearn.trainer import CHANGE_LIMIT, DISTANCE_LIMIT


NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SEEDS = (0, 1, 2)
# Configuration, peak learning rate, epochs.
RECIPES = {
    "resnet": (
        ResNetConfig(
            embedding_size=16, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", num_labels=10
        ), 3e-3, 9,
    ),
    "convnext": (
        ConvNextConfig(
            image_size=28, patch_size=2, num_stages=3, hidden_sizes=[24, 48, 96], depths=[1, 1, 2],
            layer_scale_init_value=0.1, num_labels=10,
        ), 3e-3, 10,
    ),
    "vit": (
        ViTConfig(
            image_size=28, patch_size=4, hidden_size=64, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=128, initializer_range=0.08, num_labels=10,
        ), 2e-3, 12,
    ),
    "bit": (
        BitConfig(embedding_size=32, hidden_sizes=[64, 128, 256], depths=[1, 1, 1], num_groups=8, num_labels=10),
        4e-3, 12,
    ),
}  # fmt: skip

# What `bad` does: settings of JiTConfig, changes of the images, of the weights, or of the step that was found.
# The released preset with 5 perturbations in place of 25, which costs a fifth.
RELEASED = {"preset": "as_released", "num_perturbations": 5}
BAD = {
    "released rule, η 0.01": {"settings": {**RELEASED, "learning_rate": 0.01}},
    "released rule, η 0.1": {"settings": {**RELEASED, "learning_rate": 0.1}},
    "fixed, η 1": {"settings": {"step_rule": "fixed", "learning_rate": 1.0}},
    "algorithm1, η 0.03": {"settings": {"preset": "algorithm1", "learning_rate": 0.03}},
    "released rule, σ 0.001, η 0.01": {"settings": {**RELEASED, "sigma": 1e-3, "learning_rate": 0.01}},
    "released rule, σ 1e-7, η 0.001": {"settings": {**RELEASED, "sigma": 1e-7, "learning_rate": 1e-3}},
    "automatic, σ 1e-7": {"settings": {"sigma": 1e-7}},
    "automatic, step 4 times too long": {"stretch": 4.0},
    "automatic, step 10 times too long": {"stretch": 10.0},
    "a weight is NaN before": {"nan_weight": True},
    "fixed, η 1e38: weights overflow": {"settings": {"step_rule": "fixed", "learning_rate": 1e38}},
    "wrong processor: inverted": {"images": lambda x: -x},
    "wrong processor: bytes 0..255": {"images": lambda x: 127.5 * x + 127.5},
    "wrong processor: 0..1": {"images": lambda x: 0.5 * x + 0.5},
    "wrong processor: ImageNet's mean and deviation": {"images": lambda x: (0.5 * x + 0.05) / 0.225},
}
DRAWS = (7, 8)
BAD_SEED, BAD_CLASSES, BAD_IMAGES = 1, (4, 7), 200
RELEASED_SEED, RELEASED_CLASSES, RELEASED_IMAGES = 0, (3, 5), 300
SIGMAS, RATES = (0.5, 2.0, 0.1), [1e-4 * 2**k for k in range(8)]
WRECK = 10.0  # points of retained accuracy


@cache
def load_data(data_dir: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values between -1 and 1 and labels: 12,000 fixed training images, or all 10,000 test images."""
    prefix = data_dir / {"train": "train", "test": "t10k"}[split]
    with gzip.open(f"{prefix}-images-idx3-ubyte.gz") as images, gzip.open(f"{prefix}-labels-idx1-ubyte.gz") as labels:
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        y = np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)
    if split == "train":
        rows = np.random.RandomState(0).permutation(len(y))[:12000]
        x, y = x[rows], y[rows]
    return (torch.tensor(x).float() / 127.5 - 1).expand(-1, 3, -1, -1).contiguous(), torch.tensor(y)


def train_models(options) -> None:
    """AdamW with one cycle of the learning rate; skips what is there."""
    x, y = load_data(options.data_dir, "train")
    for seed in SEEDS:
        for architecture, (config, rate, epochs) in RECIPES.items():
            folder = model_folder(options, architecture, seed)
            if (folder / "model.safetensors").exists():
                continue
            torch.manual_seed(seed)
            config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
            model = AutoModelForImageClassification.from_config(config).train()
            matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
            others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
            groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=rate)
            steps = epochs * (len(y) // 128)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
            for _ in range(epochs):
                for rows in torch.randperm(len(y)).split(128)[: len(y) // 128]:
                    optimizer.zero_grad()
                    cross_entropy(model(pixel_values=x[rows]).logits, y[rows]).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
            model.eval().save_pretrained(folder)
            processor = ConvNextImageProcessorPil(
                size={"shortest_edge": 28}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
            )
            processor.save_pretrained(folder)
            print(f"{folder.name}: test accuracy {100 * test_hits(model, options).mean():.1f} %", flush=True)


def model_folder(options, architecture: str, seed: int) -> Path:
    return options.models_dir / f"{architecture}-full-seed{seed}"


@torch.no_grad()
def test_hits(model, options) -> np.ndarray:
    """Whether the model is right, 0 or 1 for each test image."""
    x, y = load_data(options.data_dir, "test")
    model.eval()
    logits = torch.cat([model(pixel_values=batch).logits for batch in x.split(500)])
    # argmax takes NaN for the largest value.
    right = ((logits.argmax(dim=-1) == y) & logits.isfinite().all(dim=-1)).double()
    return right.numpy()


class BenchmarkTrainer(JiTTrainer):
    """The package's trainer; `stretch` makes the step that it found that many times as long."""

    stretch = 1.0

    def finish(self):
        super().finish()
        if self.stretch != 1:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if name in self._original_weights:
                        original = self._original_weights[name]
                        parameter.copy_(original + self.stretch * (parameter - original))


def unlearn(
    options, architecture, seed, forget_class=None, draw=None, num_images=None, settings=None, images=None, stretch=1.0,
    nan_weight=False,
) -> dict:  # fmt: skip
    """
    One request, for a class or else for the random images of a draw, with the defaults if nothing else is given, and
    what became of the model.
    """
    folder = model_folder(options, architecture, seed)
    model = AutoModelForImageClassification.from_pretrained(folder)
    hits = original_hits(options, architecture, seed)
    forget_before, retain_before = test_accuracy(hits, options, forget_class)
    if nan_weight:
        with torch.no_grad():
            list(model.parameters())[-1].view(-1)[0] = torch.nan
    passes = {"forward": 0, "backward": 0}

    def count(module, args, kwargs, output):
        passes["forward"] += len(output.logits)
        passes["backward"] += len(output.logits) * output.logits.requires_grad

    hook = model.register_forward_hook(count, with_kwargs=True)
    x, y = load_data(options.data_dir, "train")
    if forget_class is None:
        rows = torch.tensor(np.random.RandomState(draw).permutation(len(y))[:num_images])
    else:
        rows = (y == forget_class).nonzero()[:num_images, 0]
    x, y = x[rows], y[rows]
    x = images(x) if images else x
    settings = {"per_device_train_batch_size": 64} | (settings or {})
    if "preset" in settings:
        # Presets fill in what was left at its default.
        del settings["per_device_train_batch_size"]
    started, raised, changed = time.time(), False, float("nan")
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = BenchmarkTrainer(
            model=model,
            args=JiTConfig(
                output_dir=output_dir, disable_tqdm=True, logging_strategy="no", report_to="none", allow_collapse=True,
                **settings,
            ),
            processing_class=AutoImageProcessor.from_pretrained(folder),
            forget_dataset=[{"pixel_values": image, "labels": k} for image, k in zip(x, y.tolist(), strict=True)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.stretch = stretch
        try:
            trainer.train()
            changed = trainer.change
        except CollapsedModelError:
            # Even --allow_collapse does not take a step along a gradient that is not finite.
            raised = True
    seconds = time.time() - started
    hook.remove()
    forget, retain = test_accuracy(test_hits(model, options), options, forget_class)
    membership = {} if forget_class is not None else {"membership_auc": membership_auc(model, options, x, y)}
    distance = trainer.distance_moved()
    if not raised:
        # The package's own verdict on the same weights; it puts the original ones back.
        trainer.args.allow_collapse = False
        try:
            trainer.check_collapse()
        except CollapsedModelError:
            raised = True
    step = trainer.step
    return {
        "num_images": len(x),
        "forget_test_before": forget_before,
        "forget_test": forget,
        "retain_test_before": retain_before,
        "retain_test": retain,
        "lost": retain_before - retain,
        "change_elsewhere": changed,
        "distance_moved": distance,
        "stopped": int(raised),
        "start": 100 * trainer.start,
        "target": 100 * step.target if step else "",
        "reached": 100 * step.accuracy if step else "",
        "evaluations": step.evaluations if step else "",
        **membership,
        **passes,
        "seconds": seconds,
    }


@cache
def original_hits(options, architecture: str, seed: int) -> np.ndarray:
    model = AutoModelForImageClassification.from_pretrained(model_folder(options, architecture, seed))
    return test_hits(model, options)


def test_accuracy(hits: np.ndarray, options, forget_class: int | None) -> tuple[float, float]:
    """In percent, on the class to forget and on the others; without a class, on none and on all."""
    _, y = load_data(options.data_dir, "test")
    if forget_class is None:
        return float("nan"), 100 * hits.mean()
    return 100 * hits[y == forget_class].mean(), 100 * hits[y != forget_class].mean()


@torch.no_grad()
def membership_auc(model, options, x: torch.Tensor, y: torch.Tensor) -> float:
    """How well the loss tells forget images from 2,000 test images; 0.5: not at all."""
    test_x, test_y = load_data(options.data_dir, "test")
    losses = [
        cross_entropy(model(pixel_values=images).logits, labels, reduction="none").numpy()
        for images, labels in ((x, y), (test_x[:2000], test_y[:2000]))
    ]
    return roc_auc_score(np.repeat([1, 0], [len(x), 2000]), -np.concatenate(losses))


# ---- The parts ----


class Options(argparse.Namespace):
    """The command line, as a key of caches."""

    def __hash__(self):
        return hash(str(self))


def benchmark(options, part: str, jobs: list[tuple[dict, dict]], enough: float = float("inf")) -> None:
    """
    Runs the jobs, (what names the row, arguments of `unlearn`), that have no row in the CSV of the part; ends after one
    that lost more than `enough` points.
    """
    path = options.output_dir / f"{part}.csv"
    done = {tuple(row[name] for name in jobs[0][0]): float(row["lost"]) for row in read(path)}
    for key, arguments in jobs:
        name = tuple(str(value) for value in key.values())
        if name in done:
            if done[name] > enough:
                return
            continue
        result = unlearn(options, key["architecture"], key["seed"], key.get("forget_class"), **arguments)
        row = key | {name: round(v, 5) if isinstance(v, float) else v for name, v in result.items()}
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(part, *key.values(), f"forget {result['forget_test']:.1f} lost {result['lost']:.2f}", flush=True)
        if result["lost"] > enough:
            return


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def name_row(architecture: str, seed: int, forget_class: int, **more) -> dict:
    return {"architecture": architecture, "seed": seed, "forget_class": forget_class, **more}


def run_class(options) -> None:
    rows = [(name_row(a, seed, k), {}) for seed in SEEDS for a in RECIPES for k in range(len(NAMES))]
    benchmark(options, "class", rows)


def run_bad(options) -> None:
    benchmark(
        options,
        "bad",
        [
            (name_row(a, BAD_SEED, k, setting=name), {"num_images": BAD_IMAGES, **arguments})
            for k in BAD_CLASSES
            for a in RECIPES
            for name, arguments in BAD.items()
        ],
    )


def run_images(options) -> None:
    jobs = []
    for seed in SEEDS:
        for a in RECIPES:
            # With unseen images at hand, the accuracy on them is the target.
            unseen = {"forget_target": float(original_hits(options, a, seed).mean())}
            for draw in DRAWS:
                for target, more in (("stand-in", {}), ("unseen images", unseen)):
                    key = {"architecture": a, "seed": seed, "draw": draw, "target_from": target}
                    arguments = {"draw": draw, "num_images": 120, "settings": {"forget_kind": "images", **more}}
                    jobs.append((key, arguments))
    benchmark(options, "images", jobs)


def run_released(options) -> None:
    images = {"num_images": RELEASED_IMAGES}
    cells = [(a, RELEASED_SEED, k) for k in RELEASED_CLASSES for a in RECIPES]
    automatic = [(name_row(*cell, rule="automatic", sigma=0.5, rate=""), images) for cell in cells]
    benchmark(options, "released", automatic)
    for sigma in SIGMAS:
        for cell in cells:
            jobs = []
            for rate in RATES:
                settings = {**RELEASED, "sigma": sigma, "learning_rate": rate}
                jobs.append(
                    (name_row(*cell, rule="released", sigma=sigma, rate=rate), {"settings": settings, **images})
                )
            # Rates above one that destroys half the model are skipped.
            benchmark(options, "released", jobs, enough=40.0)


# ---- What came out ----


def summarise(options) -> None:
    rows = {
        part: [
            {name: number(value) for name, value in row.items()} for row in read(options.output_dir / f"{part}.csv")
        ]
        for part in ("class", "images", "bad", "released")
    }

    def spread(values):
        return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(
        "\n| defaults, full class | runs | forget test, % | points lost | change elsewhere | distance, % | stopped |"
    )
    print("|:--|--:|--:|--:|--:|--:|--:|")
    for architecture in [*RECIPES, "all"]:
        those = [row for row in rows["class"] if architecture in (row["architecture"], "all")]
        if those:
            columns = [[row[name] for row in those] for name in ("forget_test", "lost", "change_elsewhere")]
            columns.append([100 * row["distance_moved"] for row in those])
            cells = " | ".join(map(spread, columns))
            print(f"| {architecture} | {len(those)} | {cells} | {sum(row['stopped'] for row in those):.0f} |")
    if rows["class"]:
        # Of the first passes, one is spent to find the answers, two and one backward on the loss.
        search = [row["evaluations"] + 4 for row in rows["class"]]
        everything = [(row["forward"] + row["backward"]) / row["num_images"] for row in rows["class"]]
        print(f"passes per image: {spread(search)} without the guard, {spread(everything)} with it")
        for row in sorted(rows["class"], key=lambda row: -row["lost"])[:5]:
            print("  most lost:", row["architecture"], row["seed"], NAMES[row["forget_class"]], row["lost"])

    print("\n| random images, target from | runs | set minus unseen, points | points lost | AUC after | stopped |")
    print("|:--|--:|--:|--:|--:|--:|")
    for target in ("stand-in", "unseen images"):
        those = [row for row in rows["images"] if row["target_from"] == target]
        if those:
            # Compared with the unlearned model's own accuracy on unseen images.
            gaps = [row["reached"] - row["retain_test"] for row in those]
            cells = " | ".join(map(spread, [gaps, *([row[n] for row in those] for n in ("lost", "membership_auc"))]))
            print(f"| {target} | {len(those)} | {cells} | {sum(row['stopped'] for row in those)} |")
            print(
                f"  further than 2: {sum(abs(g) > 2 for g in gaps)}, lost over 1: {sum(r['lost'] > 1 for r in those)}"
            )

    print(
        f"\n| bad setting | runs | points lost, each | forget test, median % | stopped | of those that lost > {WRECK:g} |"
    )
    print("|:--|--:|--:|--:|--:|--:|")
    for setting in BAD:
        those = [row for row in rows["bad"] if row["setting"] == setting]
        wrecks = [row["stopped"] for row in those if row["lost"] > WRECK]
        if those:
            print(
                f"| {setting} | {len(those)} | {spread([row['lost'] for row in those])} | "
                f"{np.median([row['forget_test'] for row in those]):.1f} | {sum(row['stopped'] for row in those)} | "
                f"{sum(wrecks)} of {len(wrecks)} |"
            )
    wrecks = [row["stopped"] for row in rows["bad"] if row["lost"] > WRECK]
    print(f"lost more than {WRECK:g} points: {len(wrecks)} of {len(rows['bad'])}, stopped {sum(wrecks)}")

    print(
        f"\n| network, class | automatic: forget test, lost | released, best of {len(SIGMAS) * len(RATES)} | its σ, η |"
    )
    print("|:--|--:|--:|--:|")
    for k in RELEASED_CLASSES:
        for architecture in RECIPES:
            those = [
                row for row in rows["released"] if (row["architecture"], row["forget_class"]) == (architecture, k)
            ]
            ours = [row for row in those if row["rule"] == "automatic"]
            usable = [row for row in those if row["rule"] == "released" and row["forget_test"] <= 5]
            best = min(usable, key=lambda row: row["lost"], default=None)
            if ours:
                text = (
                    f"{best['forget_test']:.1f}, {best['lost']:.1f} | {best['sigma']}, {best['rate']:g}"
                    if best
                    else "none | –"
                )
                ours = f"{ours[0]['forget_test']:.1f}, {ours[0]['lost']:.1f}"
                print(f"| {architecture}, {NAMES[k]} | {ours} | {text} |")

    parts = {
        "defaults": rows["class"],
        "bad settings": [row for row in rows["bad"] if not row["setting"].startswith("wrong")],
        "wrong image processor": [row for row in rows["bad"] if row["setting"].startswith("wrong")],
        "released rule, grid": [row for row in rows["released"] if row["rule"] == "released"],
    }
    parts = {name: [row for row in those if np.isfinite(row["change_elsewhere"])] for name, those in parts.items()}
    for names in (list(parts)[:2], list(parts)[:3], list(parts)):
        pairs = np.array([(row["change_elsewhere"], row["lost"]) for name in names for row in parts[name]])
        if len(pairs) > 2:
            print(f"Spearman over {', '.join(names)}: {spearman(*pairs.T):.3f} ({len(pairs)} runs)")
    if any(parts.values()):
        draw(parts, options.output_dir / "guard_scatter.png")


def number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks; equal values share the mean of their ranks."""

    def ranks(values):
        _, group, size = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(size) - (size - 1) / 2)[group]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def draw(parts: dict[str, list[dict]], path: Path) -> None:
    """The guard's estimate against the truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), facecolor="white")
    # Okabe and Ito's colours, told apart by the shape as well.
    styles = zip(("#0072B2", "#D55E00", "#CC79A7", "#999999"), ("o", "^", "s", "x"), strict=True)
    for (name, those), (colour, marker) in zip(parts.items(), styles, strict=True):
        points = [(row["change_elsewhere"], row["lost"]) for row in those]
        if points:
            axes.scatter(
                *zip(*points, strict=True), s=22, c=colour, marker=marker, alpha=0.7, label=f"{name} ({len(points)})"
            )
    axes.axvline(CHANGE_LIMIT, color="black", linewidth=1, linestyle="--")
    axes.text(CHANGE_LIMIT + 0.01, 0.97, "limit", transform=axes.get_xaxis_transform(), va="top")
    axes.axhline(WRECK, color="black", linewidth=0.5, linestyle=":")
    axes.set_xlabel("change elsewhere, estimated without retained data (0: untouched, 1: destroyed)")
    axes.set_ylabel("retained test accuracy lost, points")
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0, 0.95))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"{path} (limits: {CHANGE_LIMIT}, {100 * DISTANCE_LIMIT:.0f} % of the weights)")


PARTS = {
    "train": train_models,
    "class": run_class,
    "images": run_images,
    "bad": run_bad,
    "released": run_released,
    "summary": summarise,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--models_dir", type=Path, default=Path("models"))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/auto_step"))
    parser.add_argument("--data_dir", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    options = parser.parse_args(namespace=Options())
    transformers.utils.logging.disable_progress_bar()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for part in ["class", "images", "bad", "released", "summary"] if options.part == "all" else [options.part]:
        PARTS[part](options)
