"""
Train a small model of every image classifier of transformers and make it forget; the numbers of docs/architectures.md:

    python -m scripts.benchmarks.architectures.run --output_dir architectures
    python -m scripts.benchmarks.architectures.run --output_dir architectures --part requests --architectures vit resnet
    python -m scripts.benchmarks.architectures.table

`fit` trains what is not trained yet. `requests` forgets classes, kinds within a class and single images with the
defaults, from Python and by the command. `bad` runs settings that damage a model, for the guard. Models go to --output_dir, rows to a CSV for each part in --csv_dir; what is
there is not done again, but for rows with an error under --again. An error in one architecture is a row.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path

import transformers

from scripts.benchmarks.architectures.fit import fit, is_trained, model_folder
from scripts.benchmarks.architectures.models import ARCHITECTURES, REFUSED
from scripts.benchmarks.architectures.pictures import CLASSES, KINDS
from scripts.benchmarks.architectures.requests import (
    COLUMNS,
    Job,
    one_line,
    refuse,
    unlearn_by_command,
    unlearn_in_python,
)
from scripts.benchmarks.auto_step.settings import BAD
from scripts.benchmarks.networks import be_quiet
from scripts.benchmarks.results import append_rows, read_rows, write_rows


# The first of each kind of request is also given to the command, and what Python makes of it is kept to compare.
JOBS = [
    *(Job("class", name) for name in CLASSES),
    *(Job("subclass", KINDS[kind]) for kind in (0, 5, 10)),
    *(Job("images", str(seed)) for seed in range(3)),
]
KINDS_OF_REQUEST = ("class", "subclass", "images")
FIRST = [next(job for job in JOBS if job.kind == kind) for kind in KINDS_OF_REQUEST]
# Of those of docs/auto_step.md.
BAD_JOB = Job("class", CLASSES[1])
BAD_SETTINGS = (
    "released rule, η 0.01", "automatic, step 4 times too long", "automatic, step 10 times too long",
)  # fmt: skip

WAYS = ("python", "command")


def run_fit(options) -> None:
    path = options.csv_dir / "fit.csv"
    for name in options.architectures:
        has_row = name in {row["architecture"] for row in read_rows(path)}
        if name in REFUSED or (has_row and is_trained(options.output_dir, name)):
            continue
        try:
            row = fit(options.output_dir, name)
        except Exception as error:
            print(f"{name}: {one_line(error)}", flush=True)
            continue
        if has_row:
            # Of weights that are not there any more.
            write_rows(path, [other for other in read_rows(path) if other["architecture"] != name] + [row])
        else:
            append_rows(path, [row])
        print(f"fit {name}: train {row['train_accuracy']} test {row['test_accuracy']}, {row['seconds']} s", flush=True)


def run_requests(options) -> None:
    path = options.csv_dir / "requests.csv"
    if options.again and path.exists():
        kept = [row for row in read_rows(path) if not row["error"] or row["architecture"] not in options.architectures]
        if kept:
            write_rows(path, kept)
    done = {(row["architecture"], row["kind"], row["request"], row["by"]) for row in read_rows(path)}
    for name in options.architectures:
        if name in REFUSED:
            if (name, "refused", CLASSES[0], "command") not in done:
                append_rows(path, refuse(options.output_dir, name))
            continue
        if not is_trained(options.output_dir, name):
            print(f"{name}: not trained; --part fit does it.", flush=True)
            continue
        for job in JOBS:
            number = [other for other in JOBS if other.kind == job.kind].index(job)
            if job.kind not in options.kinds or number >= options.first:
                continue
            for by in options.by:
                if (by == "python" or job in FIRST) and (name, job.kind, job.name, by) not in done:
                    append_rows(path, [run_job(options, name, job, by)])


def run_job(options, name: str, job: Job, by: str, **more) -> dict:
    """The row of one request; of one that breaks, the line that says why. More is for [`unlearn_in_python`]."""
    # Only what the command is to be compared with is kept.
    keep = options.output_dir / "unlearned" / f"{model_folder(options.output_dir, name).name}-{job.kind}"
    if by == "python":
        if job in FIRST:
            shutil.rmtree(keep, ignore_errors=True)
        measure = partial(unlearn_in_python, keep=keep if job in FIRST else None, **more)
    else:
        measure = partial(unlearn_by_command, from_python=keep)
    try:
        values = measure(options.output_dir, name, job)
    except Exception as error:
        values = {"error": one_line(error)}
    if "retain_test" in values:
        for split, column in (("test", "lost"), ("train", "lost_train")):
            values[column] = values[f"retain_{split}_before"] - values[f"retain_{split}"]
    row = {"architecture": name, "kind": job.kind, "request": job.name, "by": by, **values}
    row = {c: round(row[c], 4) if isinstance(row.get(c), float) else row.get(c, "") for c in COLUMNS}
    shown = {c: row[c] for c in ("forget_train", "lost", "lost_train", "change_elsewhere", "refused", "error")}
    print(name, job.kind, job.name, by, *(f"{c} {v}" for c, v in shown.items() if v != ""), flush=True)
    return row


def run_bad(options) -> None:
    """Settings that damage a model, to see whether the guard notices: the second class of each architecture."""
    path = options.csv_dir / "bad.csv"
    done = {(row["architecture"], row["setting"]) for row in read_rows(path)}
    for name in options.architectures:
        if name in REFUSED or not is_trained(options.output_dir, name):
            continue
        for setting in BAD_SETTINGS:
            if (name, setting) in done:
                continue
            row = run_job(options, name, BAD_JOB, "python", **BAD[setting])
            append_rows(path, [{"setting": setting, **row}])


PARTS = {"fit": run_fit, "requests": run_requests, "bad": run_bad}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*ARCHITECTURES, *REFUSED]
    parser.add_argument("--architectures", nargs="+", choices=everything, default=everything, metavar="NAME")
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--first", type=int, default=len(JOBS), help="so many requests of each kind; default: all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS_OF_REQUEST, default=KINDS_OF_REQUEST, help="default: all")
    parser.add_argument("--by", nargs="+", choices=WAYS, default=WAYS, help="default: both")
    parser.add_argument("--again", action="store_true", help="run again what has an error in its row")
    parser.add_argument("--output_dir", type=Path, default=Path("architectures"))
    parser.add_argument("--csv_dir", type=Path, default=Path("docs/architectures"))
    options = parser.parse_args()
    be_quiet()
    transformers.utils.logging.set_verbosity_error()
    for part in [options.part] if options.part else PARTS:
        PARTS[part](options)
