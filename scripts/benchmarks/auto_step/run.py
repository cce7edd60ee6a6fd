"""
Measure the automatic step and its guard on the networks of train_networks.py; the numbers of docs/auto_step.md:

    python -m scripts.benchmarks.auto_step.train_networks --models_dir models --cifar_dir cifar10
    python -m scripts.benchmarks.auto_step.run all --models_dir models --cifar_dir cifar10          # all parts below

`class` forgets each class of each network with the defaults, `images` a random hundredth of the images, `subclass`
sandals and bags of networks that know groups alone, `many` 25 of 50 classes of the over-fitted networks, `sigma` a class
over σ and N. `bad` runs settings that destroy a model, to see whether the guard notices. `released` searches σ and η of
the authors' rule with the test set in sight: no real request can. `summary` prints the tables and draws the guard's
scatter. Each run adds one row to a CSV in --output_dir; a part that was interrupted goes on where it stopped.
"""

import argparse
from pathlib import Path

from scripts.benchmarks.auto_step.measure import original_hits, test_accuracy, unlearn
from scripts.benchmarks.auto_step.settings import (
    BAD,
    BAD_CLASSES,
    BAD_IMAGES,
    BAD_SEED,
    DRAWS,
    MANY_CLASSES,
    RATES,
    RELEASED,
    RELEASED_CLASSES,
    RELEASED_IMAGES,
    RELEASED_SEED,
    ROBUST_CLASSES,
    ROBUST_COPIES,
    ROBUST_IMAGES,
    ROBUST_SIGMAS,
    SIGMAS,
)
from scripts.benchmarks.auto_step.summary import summarise
from scripts.benchmarks.auto_step.train_networks import RECIPES, SEEDS
from scripts.benchmarks.networks import BAG, NAMES, SANDAL, be_quiet, parse_arguments
from scripts.benchmarks.results import append_rows, read_rows


def benchmark(options, part: str, jobs: list[tuple[dict, dict]], enough: float = float("inf")) -> None:
    """
    Runs the jobs, (what names the row, arguments of `unlearn`), that have no row in the CSV of the part; ends after one
    that lost more than `enough` points.
    """
    path = options.output_dir / f"{part}.csv"
    done = {tuple(row[name] for name in jobs[0][0]): float(row["lost"]) for row in read_rows(path)}
    for key, arguments in jobs:
        name = tuple(str(value) for value in key.values())
        if name in done:
            if done[name] > enough:
                return
            continue
        result = unlearn(options, key["architecture"], key["problem"], key["seed"], key["kind"], **arguments)
        row = key | {name: round(v, 5) if isinstance(v, float) else v for name, v in result.items()}
        append_rows(path, [row])
        print(part, *key.values(), f"forget {result['forget_test']:.1f} lost {result['lost']:.2f}", flush=True)
        if result["lost"] > enough:
            return


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
    # single_images/run.py measures the default.
    by_head = {"moving_weights": "head"}
    jobs = []
    for problem, seed in (*(("full", seed) for seed in SEEDS), ("many", 0)):
        for a in RECIPES:
            # With unseen images at hand, the accuracy on them is the target.
            unseen = {"forget_target": float(original_hits(options, a, problem, seed).mean())}
            for draw in DRAWS:
                for target, more in (("stand-in", {}), ("unseen images", unseen)):
                    key = name_row(a, problem, seed, None, draw=draw, target_from=target)
                    arguments = {
                        "draw": draw,
                        "num_images": 120,
                        "settings": {"forget_kind": "images", **by_head, **more},
                    }
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
    be_quiet()
    for part in PARTS if options.part == "all" else [options.part]:
        PARTS[part](options)
