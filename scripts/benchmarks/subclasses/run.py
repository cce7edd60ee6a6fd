"""
What is said of a part of a class that was forgotten, beside retrained models. The numbers of docs/auto_step.md:

    python -m scripts.benchmarks.subclasses.run --models_dir models --cifar_dir cifar10 --faces faces.parquet
    python -m scripts.benchmarks.subclasses.run --summary

Twelve cases of cases.py; `--problems` names some of them. Each adds rows to a CSV in --output_dir: the original, three retrained models, the
default with 5 % of the retained images, and the default without any. What was interrupted goes on where it stopped.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from hf_unlearn.errors import CollapsedModelError
from scripts.benchmarks.networks import IMAGE_PROCESSOR, as_rows, be_quiet, parse_arguments, quiet_trainer
from scripts.benchmarks.results import append_rows, markdown, read_rows
from scripts.benchmarks.subclasses.cases import (
    CASES,
    PROBLEMS,
    RETRAINED_SEEDS,
    Case,
    accuracy,
    load_case,
    logits_of,
    network,
)


GIVEN, ALONE = "with 5 % retained", "without"
MODELS = ("original", *(f"retrained {seed}" for seed in RETRAINED_SEEDS), GIVEN, ALONE)


def auc_unseen(model, case: Case) -> float:
    """How well the loss tells the forgotten training images from unseen ones of the same part; 0.5: not at all."""
    losses = [
        torch.nn.functional.cross_entropy(logits_of(model, x), y, reduction="none").numpy()
        for x, y in (case.forget, case.unseen)
    ]
    members = np.repeat([1, 0], [len(part) for part in losses])
    return float(roc_auc_score(members, -np.concatenate(losses)))


def measure(model, case: Case) -> dict:
    return {
        "forget": accuracy(model, case.forget),
        "unseen": accuracy(model, case.unseen),
        "rest": accuracy(model, case.unseen_rest),
        "auc_unseen": auc_unseen(model, case),
    }


def forget(model, case: Case, with_retained: bool) -> dict:
    retained = as_rows(*case.sample) if with_retained else None
    started, refused = time.process_time(), ""
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = quiet_trainer(
            model, as_rows(*case.forget), output_dir, IMAGE_PROCESSOR, retain_dataset=retained, forget_kind="subclass",
            use_cpu=True, per_device_train_batch_size=64, report_to="none",
        )  # fmt: skip
        try:
            trainer.train()
        except CollapsedModelError:
            refused = "collapsed"
    seconds, step = time.process_time() - started, trainer.step
    return {
        **measure(model, case),
        "target": 100 * step.target if step else "",
        "change_elsewhere": trainer.change,
        "refused": refused,
        "seconds": seconds,
    }


def row_of(options, problem: str, kind: str, model: str, case: Case) -> dict:
    nothing = dict.fromkeys(("target", "change_elsewhere", "refused", "seconds"), "")
    if model.startswith("retrained"):
        return measure(network(options, problem, kind, int(model.split()[-1])), case) | nothing
    original = network(options, problem, None, 0)
    return measure(original, case) | nothing if model == "original" else forget(original, case, model == GIVEN)


def run(options) -> None:
    path = options.output_dir / "cases.csv"
    for problem, kind in CASES:
        if problem not in options.problems:
            continue
        done = {row["model"] for row in read_rows(path) if (row["problem"], row["kind"]) == (problem, kind)}
        case = load_case(options, problem, kind)
        for model in MODELS:
            if model not in done:
                found = row_of(options, problem, kind, model, case)
                row = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
                append_rows(path, [{"problem": problem, "kind": kind, "model": model} | row])
                print(problem, kind, model, *row.values(), flush=True)


def summarise(options) -> None:
    """The table of docs/auto_step.md."""
    found = {(row["problem"], row["kind"], row["model"]): row for row in read_rows(options.output_dir / "cases.csv")}
    table = []
    for problem, kind in CASES:
        known = [found[problem, kind, model] for model in MODELS if (problem, kind, model) in found]
        if len(known) < len(MODELS):
            continue
        original, *retrained, given, alone = known
        band = [float(row["unseen"]) for row in retrained]
        lost = [float(original["rest"]) - float(row["rest"]) for row in (given, alone)]
        table.append([
            f"{problem}: {kind}",
            f"{np.mean(band):.0f} ({min(band):.0f} to {max(band):.0f})",
            *(f"{float(row['unseen']):.0f}" for row in (original, given)),
            f"{lost[0]:.1f}",
            f"{float(alone['unseen']):.0f}",
            f"{lost[1]:.1f}",
        ])  # fmt: skip
    header = ["case", "retrained, unseen", "original", "5 % retained: unseen", "lost", "without: unseen", "lost"]
    if table:
        print(markdown(header, table))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/subclasses"))
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--summary", action="store_true")
    options = parse_arguments(parser)
    be_quiet()
    torch.set_num_threads(1)
    if options.summary:
        summarise(options)
    else:
        run(options)
