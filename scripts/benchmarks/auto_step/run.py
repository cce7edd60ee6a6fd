"""
Measure the automatic step and its guard on the networks of scripts/small_networks.py; the numbers of docs/auto_step.md:

    python scripts/small_networks.py --models_dir models --cifar_dir cifar10        # trains them
    python scripts/benchmark_auto_step.py all --models_dir models --cifar_dir cifar10   # all parts below

`class` forgets each class of each network with the defaults, `images` a random hundredth of the images, `subclass`
sandals and bags of networks that know groups alone, `many` 25 of 50 classes of the over-fitted networks, `sigma` a class
over σ and N. `bad` runs settings that destroy a model, to see whether the guard notices. `released` searches σ and η of
the authors' rule with the test set in sight: no real request can. `summary` prints the tables and draws the guard's
scatter. Each run adds one row to a CSV in --output_dir; a part that was interrupted goes on where it stopped.
"""

import argparse
import csv
import itertools
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from small_networks import BAG, NAMES, RECIPES, SANDAL, SEEDS, hits, labels_of, load_data, load_model, parse_arguments
from torch.nn.functional import cross_entropy
from transformers import ConvNextImageProcessorPil, PrinterCallback

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.guard import CHANGE_LIMIT, DISTANCE_LIMIT


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
SIGMAS, RATES = (0.5, 2.0, 0.1), [1e-6 * 2**k for k in range(14)]
ROBUST_CLASSES, ROBUST_SIGMAS, ROBUST_COPIES, ROBUST_IMAGES = (3, 5), (0.25, 0.5, 1.0, 2.0), (1, 4, 25), 300
MANY_CLASSES = range(0, 50, 2)
PROCESSOR = ConvNextImageProcessorPil(
    size={"shortest_edge": 28}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
)
WRECK = 10.0  # points of retained accuracy


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
    options, architecture, problem, seed, kind=None, draw=None, num_images=None, settings=None, images=None,
    stretch=1.0, nan_weight=False,
) -> dict:  # fmt: skip
    """
    One request, for the images of a kind or else for the random images of a draw, with the defaults if nothing else is
    given, and what became of the model.
    """
    model = load_model(options, architecture, problem, seed)
    forget_before, retain_before = test_accuracy(
        original_hits(options, architecture, problem, seed), options, problem, kind
    )
    if nan_weight:
        with torch.no_grad():
            list(model.parameters())[-1].view(-1)[0] = torch.nan
    passes = {"forward": 0, "backward": 0}

    def count(module, args, kwargs, output):
        passes["forward"] += len(output.logits)
        passes["backward"] += len(output.logits) * output.logits.requires_grad

    hook = model.register_forward_hook(count, with_kwargs=True)
    x, kinds = load_data(options, problem, "train")
    if kind is None:
        rows = torch.tensor(np.random.RandomState(draw).permutation(len(kinds))[:num_images])
    else:
        rows = (kinds == kind).nonzero()[:num_images, 0]
    x, y = x[rows], labels_of(problem, kinds)[rows]
    # What an unprepared image would be: all networks were trained on pixel values between -1 and 1.
    x = images(x) if images else x
    settings = {"per_device_train_batch_size": 64} | (settings or {})
    if "preset" in settings:
        # Presets fill in what was left at its default.
        del settings["per_device_train_batch_size"]
    started, refused, changed = time.time(), "", float("nan")
    with tempfile.TemporaryDirectory() as output_dir:

        def train(**more):
            trainer = BenchmarkTrainer(
                model=model,
                args=JiTConfig(
                    output_dir=output_dir, disable_tqdm=True, logging_strategy="no", report_to="none", **settings, **more
                ),
                processing_class=PROCESSOR,
                forget_dataset=[{"pixel_values": image, "labels": k} for image, k in zip(x, y.tolist(), strict=True)],
            )  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.stretch = stretch
            trainer.train()
            return trainer

        original = {name: weight.clone() for name, weight in model.state_dict().items()}
        try:
            trainer = train(allow_collapse=True)
            changed, start, step = trainer.change, 100 * trainer.start, trainer.step
            distance = trainer.distance_moved()
        except CollapsedModelError:
            # Even --allow_collapse does not take a step along a gradient that is not finite.
            refused, start, step, distance = "collapsed", float("nan"), None, float("nan")
        seconds = time.time() - started
        hook.remove()
        found = hits(model, *test_images(options, problem))
        forget, retain = test_accuracy(found, options, problem, kind)
        membership = {} if kind is not None else {"membership_auc": membership_auc(model, options, problem, x, y)}
        if not refused:
            # The package's own verdict on the same weights; it puts the original ones back.
            trainer.args.allow_collapse = False
            try:
                trainer.check_collapse()
                if images:
                    # Such a run may end before it begins.
                    model.load_state_dict(original)
                    train()
            except CollapsedModelError:
                refused = "collapsed"
            except InputError:
                refused = "input"
    return {
        "num_images": len(x),
        "forget_test_before": forget_before,
        "forget_test": forget,
        "retain_test_before": retain_before,
        "retain_test": retain,
        "lost": retain_before - retain,
        "change_elsewhere": changed,
        "distance_moved": distance,
        "refused": refused,
        "start": start,
        "target": 100 * step.target if step else "",
        "reached": 100 * step.accuracy if step else "",
        "evaluations": step.evaluations if step else "",
        **membership,
        **passes,
        "seconds": seconds,
    }


def test_images(options, problem: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, kinds = load_data(options, problem, "test")
    return x, labels_of(problem, kinds)


@cache
def original_hits(options, architecture: str, problem: str, seed: int, without: int | None = None) -> np.ndarray:
    model = load_model(options, architecture, problem, seed, without)
    return hits(model, *test_images(options, problem))


def test_accuracy(found: np.ndarray, options, problem: str, kind: int | None) -> tuple[float, float]:
    """In percent, on the kind to forget and on the others; without a kind, on none and on all."""
    _, kinds = load_data(options, problem, "test")
    if kind is None:
        return float("nan"), 100 * found.mean()
    return 100 * found[kinds == kind].mean(), 100 * found[kinds != kind].mean()


@torch.no_grad()
def membership_auc(model, options, problem: str, x: torch.Tensor, y: torch.Tensor) -> float:
    """How well the loss tells forget images from up to 2,000 test images; 0.5: not at all."""
    test_x, test_y = test_images(options, problem)
    some = torch.tensor(np.random.RandomState(0).permutation(len(test_y))[:2000])
    losses = [
        torch.cat([
            cross_entropy(model(pixel_values=images).logits, labels, reduction="none")
            for images, labels in zip(all_images.split(500), all_labels.split(500), strict=True)
        ]).numpy()
        for all_images, all_labels in ((x, y), (test_x[some], test_y[some]))
    ]  # fmt: skip
    return roc_auc_score(np.repeat([1, 0], [len(x), len(some)]), -np.concatenate(losses))


# ---- The parts ----


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
        result = unlearn(options, key["architecture"], key["problem"], key["seed"], key["kind"], **arguments)
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


def name_row(architecture: str, problem: str, seed: int, kind: int | None, **more) -> dict:
    return {"architecture": architecture, "problem": problem, "seed": seed, "kind": kind, **more}


def run_class(options) -> None:
    rows = [(name_row(a, "full", seed, k), {}) for seed in SEEDS for a in RECIPES for k in range(len(NAMES))]
    benchmark(options, "class", rows)


def run_bad(options) -> None:
    benchmark(
        options,
        "bad",
        [
            (name_row(a, "full", BAD_SEED, k, setting=name), {"num_images": BAD_IMAGES, **arguments})
            for k in BAD_CLASSES
            for a in RECIPES
            for name, arguments in BAD.items()
        ],
    )


def run_images(options) -> None:
    jobs = []
    for problem, seed in (*(("full", seed) for seed in SEEDS), ("many", 0)):
        for a in RECIPES:
            # With unseen images at hand, the accuracy on them is the target.
            unseen = {"forget_target": float(original_hits(options, a, problem, seed).mean())}
            for draw in DRAWS:
                for target, more in (("stand-in", {}), ("unseen images", unseen)):
                    key = name_row(a, problem, seed, None, draw=draw, target_from=target)
                    arguments = {"draw": draw, "num_images": 120, "settings": {"forget_kind": "images", **more}}
                    jobs.append((key, arguments))
    benchmark(options, "images", jobs)


def run_subclass(options) -> None:
    jobs = []
    for a in RECIPES:
        for kind in (SANDAL, BAG):
            retrained, _ = test_accuracy(original_hits(options, a, "groups", 0, kind), options, "groups", kind)
            for target, more in (("default", {}), ("retrained", {"forget_target": retrained / 100})):
                key = name_row(a, "groups", 0, kind, target_from=target, retrained_says=round(retrained, 1))
                jobs.append((key, {"settings": {"forget_kind": "subclass", **more}}))
    benchmark(options, "subclass", jobs)


def run_many(options) -> None:
    benchmark(options, "many", [(name_row(a, "many", 0, k), {}) for a in RECIPES for k in MANY_CLASSES])


def run_sigma(options) -> None:
    jobs = []
    for a in RECIPES:
        for k in ROBUST_CLASSES:
            for sigma in ROBUST_SIGMAS:
                for copies in ROBUST_COPIES:
                    settings = {"sigma": sigma, "num_perturbations": copies}
                    key = name_row(a, "full", RELEASED_SEED, k, sigma=sigma, num_perturbations=copies)
                    jobs.append((key, {"settings": settings, "num_images": ROBUST_IMAGES}))
    benchmark(options, "sigma", jobs)


def run_released(options) -> None:
    images = {"num_images": RELEASED_IMAGES}
    cells = [(a, "full", RELEASED_SEED, k) for k in RELEASED_CLASSES for a in RECIPES]
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
        for part in PARTS
        if part != "summary"
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
            print(f"| {architecture} | {len(those)} | {cells} | {sum(row['refused'] != '' for row in those)} |")
    if rows["class"]:
        # Of the first passes, one is spent to find the answers, two and one backward on the loss.
        search = [row["evaluations"] + 4 for row in rows["class"]]
        everything = [(row["forward"] + row["backward"]) / row["num_images"] for row in rows["class"]]
        print(f"passes per image: {spread(search)} without the guard, {spread(everything)} with it")
        for row in sorted(rows["class"], key=lambda row: -row["lost"])[:5]:
            print("  most lost:", row["architecture"], row["seed"], NAMES[row["kind"]], row["lost"])

    print("\n| random images, target from | runs | set minus unseen, points | points lost | AUC after | stopped |")
    print("|:--|--:|--:|--:|--:|--:|")
    for problem, target in itertools.product(("full", "many"), ("stand-in", "unseen images")):
        those = [row for row in rows["images"] if (row["problem"], row["target_from"]) == (problem, target)]
        if those:
            # Compared with the unlearned model's own accuracy on unseen images.
            gaps = [row["reached"] - row["retain_test"] for row in those]
            cells = " | ".join(map(spread, [gaps, *([row[n] for row in those] for n in ("lost", "membership_auc"))]))
            print(f"| {problem}, {target} | {len(those)} | {cells} | {sum(row['refused'] != '' for row in those)} |")
            print(
                f"  further than 2: {sum(abs(g) > 2 for g in gaps)}, lost over 1: {sum(r['lost'] > 1 for r in those)}"
            )

    print("\n| sub-class, network | target | retrained says | forget test, % | points lost |\n|:--|--:|--:|--:|--:|")
    for row in rows["subclass"]:
        numbers = [row[name] for name in ("target", "retrained_says", "forget_test", "lost")]
        cells = " | ".join(f"{number:.1f}" for number in numbers)
        print(f"| {NAMES[row['kind']]}, {row['architecture']}, {row['target_from']} | {cells} |")

    print("\n| over-fitted, 50 classes | runs | points lost | forget test, % | lost over 2 |\n|:--|--:|--:|--:|--:|")
    for architecture in [*RECIPES, "all"]:
        those = [row for row in rows["many"] if architecture in (row["architecture"], "all")]
        if those:
            cells = " | ".join(spread([row[name] for row in those]) for name in ("lost", "forget_test"))
            print(f"| {architecture} | {len(those)} | {cells} | {sum(row['lost'] > 2 for row in those)} |")

    print("\n| σ and N: network, class | retained, range in points | forget test, range in points |\n|:--|--:|--:|")
    for cell in sorted({(row["architecture"], row["kind"]) for row in rows["sigma"]}):
        those = [row for row in rows["sigma"] if (row["architecture"], row["kind"]) == cell]
        ranges = [np.ptp([row[name] for row in those]) for name in ("retain_test", "forget_test")]
        print(f"| {cell[0]}, {NAMES[cell[1]]} | {ranges[0]:.2f} | {ranges[1]:.2f} |")

    print(
        f"\n| bad setting | runs | points lost, each | forget test, median % | stopped | of those that lost > {WRECK:g} |"
    )
    print("|:--|--:|--:|--:|--:|--:|")
    for setting in BAD:
        those = [row for row in rows["bad"] if row["setting"] == setting]
        wrecks = [row["refused"] != "" for row in those if row["lost"] > WRECK]
        if those:
            print(
                f"| {setting} | {len(those)} | {spread([row['lost'] for row in those])} | "
                f"{np.median([row['forget_test'] for row in those]):.1f} | {sum(row['refused'] != '' for row in those)} | "
                f"{sum(wrecks)} of {len(wrecks)} |"
            )
    wrecks = [row["refused"] != "" for row in rows["bad"] if row["lost"] > WRECK]
    print(f"lost more than {WRECK:g} points: {len(wrecks)} of {len(rows['bad'])}, stopped {sum(wrecks)}")

    print(
        f"\n| network, class | automatic: forget test, lost | released, best of {len(SIGMAS) * len(RATES)} | its σ, η |"
    )
    print("|:--|--:|--:|--:|")
    for k in RELEASED_CLASSES:
        for architecture in RECIPES:
            those = [row for row in rows["released"] if (row["architecture"], row["kind"]) == (architecture, k)]
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
    "class": run_class,
    "bad": run_bad,
    "images": run_images,
    "subclass": run_subclass,
    "many": run_many,
    "sigma": run_sigma,
    "released": run_released,
    "summary": summarise,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/auto_step"))
    options = parse_arguments(parser)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for part in PARTS if options.part == "all" else [options.part]:
        PARTS[part](options)
