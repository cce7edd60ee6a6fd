"""
Where the time of a whole command goes, stage by stage, with this checkout and with another one, in turns; docs/real_models.md:

    python -m scripts.benchmarks.real_models.stages --models models --data imagenet --before OTHER_CHECKOUT --repeats 3

--models is a folder with `mobilenet-v2` and `efficientnet-lite0`, --data that of run.py. Two runs: *single*, 60 images of
MobileNetV2; *class*, English springer of EfficientNet-lite0, at most 600 images of a split measured. Each run adds rows to a CSV: seconds
by the clock and of the processor, and how many other processes wanted it (the load of the last minute).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import DatasetDict, load_dataset

from scripts.benchmarks.results import append_rows, markdown, read_rows


STAGES = ("imports", "reading", "looking", "single images", "update", "search", "guard", "evaluation", "card", "other")
RUNS = {
    "single": ("mobilenet-v2", ["--forget_count", "60"]),
    "class": (
        "efficientnet-lite0",
        ["--forget_class", "English springer", "--labels_by_position", "True", "--label_column_name", "label"]
        + ["--max_eval_samples", "600"],
    ),
}
ROOT = Path(__file__).parents[3]


def measure(options, run: str, code: str, checkout: Path, dataset: Path) -> list[dict]:
    """One run of the command, a row for each stage."""
    model, flags = RUNS[run]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, str(ROOT / "scripts/benchmarks/real_models/timed_command.py"), str(report)]
        command += ["--model_name_or_path", str(options.models / model), "--dataset_name", str(dataset)]
        command += ["--output_dir", f"{folder}/out", "--disable_tqdm", "True", *flags]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(checkout)}, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text(encoding="utf-8"))
    facts = {"run": run, "code": code, "date": time.strftime("%Y-%m-%d"), "load": round(load, 1)}
    facts |= {"threads": os.environ.get("OMP_NUM_THREADS", ""), "peak_mib": round(found["peak_mib"])}
    return [
        facts | {"stage": stage, "seconds": round(seconds[0], 2), "cpu_seconds": round(seconds[1], 2)}
        for stage, seconds in found["seconds"].items()
    ]


def summarise(options) -> None:
    """The table: the median of the seconds of the processor of each stage."""
    rows = read_rows(options.csv)
    for run in RUNS:
        table = []
        for stage in (*STAGES, "all"):
            cells = []
            for code in ("before", "now"):
                of_code = [row for row in rows if (row["run"], row["code"]) == (run, code)]
                for column in ("cpu_seconds", "seconds"):
                    # A run has as many rows as stages; they stand together.
                    runs: list[dict[str, float]] = []
                    for row in of_code:
                        if not runs or row["stage"] in runs[-1]:
                            runs.append({})
                        runs[-1][row["stage"]] = float(row[column])
                    sums = [sum(one.values()) if stage == "all" else one.get(stage, 0.0) for one in runs]
                    cells.append(f"{np.median(sums):.1f}" if sums else "–")
            table.append([stage, *cells])
        header = ["stage", "before, processor", "before, clock", "now, processor", "now, clock"]
        print(f"\n{run}\n\n{markdown(header, table)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="another checkout; default: this one alone")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("docs/real_models/stages.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {"train": "imagenette-train", "validation": "imagenette-validation"}
        paths = {split: str(options.data / f"{name}.parquet") for split, name in files.items()}
        DatasetDict(load_dataset("parquet", data_files=paths).items()).save_to_disk(folder)
        for _ in range(options.repeats):
            for run in options.runs:
                for code, checkout in (("before", options.before), ("now", ROOT)):
                    if checkout is not None:
                        append_rows(options.csv, measure(options, run, code, checkout, Path(folder)))
    summarise(options)
