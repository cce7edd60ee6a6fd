"""
Methods × scenarios × seeds on the models and the dataset of a YAML file; the numbers of docs/methods.md:

    python -m scripts.benchmarks.methods.make_datasets --output_dir data
    python -m scripts.benchmarks.methods.run scripts/benchmarks/methods/configs/fashion_mnist.yaml \\
        --output_dir benchmark
    python -m scripts.benchmarks.methods.make_tables benchmark/results.parquet

Each case is a model, a scenario and a request: the original and a model retrained without the forget set are trained by
scripts/train_classifier.py, with the same recipe and other seeds. A method that has settings to choose tries the values
of its `search` on one request that is used for nothing else, with a model trained from its own seed, and keeps those with
the smallest average gap to the model retrained there (accuracy on the forget set, on retained training images and on
retained test images). With them, unchanged, it runs on the requests that are reported. What is timed is the unlearning,
guard included; loading, training and measuring are not.

Every run is one row in OUTPUT_DIR/runs, written when it is done: started again, the benchmark goes on where it was
stopped, and several processes may work on the same folder.
"""

import argparse
import json
import sys
import time
from datetime import date
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import transformers
import yaml
from filelock import FileLock, Timeout

from scripts.benchmarks.methods.case import Case, key_of
from scripts.benchmarks.networks import be_quiet


# What the search looks at.
SCORE = "average_gap"


def read_config(path: Path) -> dict:
    """The YAML file; its `methods` may be the name of a file beside it."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(config["methods"], str):
        config["methods"] = yaml.safe_load((path.parent / config["methods"]).read_text(encoding="utf-8"))
    return config


def settings_of(config: dict, model_name: str, label: str) -> list[dict]:
    """The settings that a label of the file tries: one, or one for each value of its search."""
    settings = {"method": label, **config["methods"][label]}
    settings |= config["models"][model_name].get("methods", {}).get(label, {})
    search = settings.pop("search", {})
    return [{**settings, **dict(zip(search, values, strict=True))} for values in product(*search.values())]


def row_file(case: Case, label: str, settings: dict) -> Path:
    return case.output_dir / "runs" / f"{key_of([case.description, label, settings])}.json"


def try_run(case: Case, label: str, settings: dict) -> bool:
    """Carries a run out, unless it is done or another process is at it; returns whether its row is there."""
    path = row_file(case, label, settings)
    if path.exists():
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The lock of a process that was killed is free again.
        with FileLock(path.with_suffix(".lock"), timeout=0):
            if path.exists():
                return True
            started = time.perf_counter()
            row = {
                "benchmark": case.config["name"],
                "model": case.model_name,
                "scenario": case.scenario,
                "phase": "search" if case.number < 0 else "final",
                "number": case.number,
                "label": label,
                "settings": json.dumps(settings),
                "date": date.today().isoformat(),
                **case.run(label, settings),
            }
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(row))
            aside.replace(path)
    except Timeout:
        return False
    gap = "" if row.get(SCORE) is None else f" average gap {100 * row[SCORE]:.1f},"
    print(
        f"{case.model_name} {case.scenario} {row['phase']} {case.number}: {label} {row['settings']}: {row['status']},{gap} "
        f"{time.perf_counter() - started:.1f} s",
        flush=True,
    )
    return True


def best_settings(config: dict, output_dir: Path, model_name: str, scenario: str, label: str) -> dict | None:
    """The settings with the smallest score on the request of the search; `None` while runs of it are missing."""
    tried = settings_of(config, model_name, label)
    if len(tried) == 1:
        return tried[0]
    case = Case(config, output_dir, model_name, scenario, -1)
    scores = []
    for settings in tried:
        path = row_file(case, label, settings)
        if not path.exists():
            return None
        score = json.loads(path.read_text()).get(SCORE)
        scores.append(float("inf") if score is None else score)
    return tried[scores.index(min(scores))]


def run_all(config: dict, output_dir: Path, models: list[str], scenarios: list[str]) -> None:
    """
    All runs of these models and scenarios, in several rounds if other processes are at some of them. The last of the
    seeds are those of the search.
    """
    for model_name, scenario in product(models, scenarios):
        if scenario not in config["models"][model_name].get("scenarios", config["scenarios"]):
            continue
        numbers = (-1, *range(len(config["seeds"]["training"]) - 1))
        cases = [Case(config, output_dir, model_name, scenario, number) for number in numbers]
        for case in cases:
            labels = list(config["methods"])
            while labels:
                left = []
                for label in labels:
                    if case.number < 0:
                        tried = settings_of(config, model_name, label)
                        done = len(tried) == 1 or all(try_run(case, label, settings) for settings in tried)
                    else:
                        settings = best_settings(config, output_dir, model_name, scenario, label)
                        done = settings is not None and try_run(case, label, settings)
                    if not done:
                        left.append(label)
                if left == labels:
                    time.sleep(1)
                labels = left
            if case.number >= 0:
                for label in ("original", "retrained model"):
                    while not try_run(case, label, {}):
                        time.sleep(1)


def write_results(output_dir: Path) -> Path:
    """All rows in one parquet file."""
    rows = [json.loads(path.read_text()) for path in sorted((output_dir / "runs").glob("*.json"))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = output_dir / "results.parquet"
    aside = path.with_suffix(".part")
    pa.parquet.write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), aside)
    aside.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="The YAML file.")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmark"))
    parser.add_argument("--models", nargs="+", help="Default: all of the file.")
    parser.add_argument("--scenarios", nargs="+", help="Default: all of the file.")
    options = parser.parse_args()
    be_quiet()
    transformers.utils.logging.set_verbosity_error()
    config = read_config(options.config)
    for chosen, known in ((options.models, config["models"]), (options.scenarios, config["scenarios"])):
        unknown = set(chosen or ()) - set(known)
        if unknown:
            sys.exit(f"run.py: error: got {', '.join(sorted(unknown))}. Valid: {', '.join(known)}.")
    run_all(
        config,
        options.output_dir,
        options.models or list(config["models"]),
        options.scenarios or list(config["scenarios"]),
    )
    print(f"Written: {write_results(options.output_dir)}")


if __name__ == "__main__":
    main()
