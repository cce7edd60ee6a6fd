"""
Memory, time and bytes read when a class is split off a streamed dataset, against the number of rows.

```
python -m scripts.benchmarks.performance.streaming
python -m scripts.benchmarks.performance.streaming --rows 2000 --image_kb 2 20 100
```

Each case is a process of its own. Memory is the highest above that after the imports.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars, load_dataset

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.parquet_files import ParquetFile
from hf_unlearn.data.streaming import StreamedRows


FORGET, SAMPLES, CLASSES, SHARD = 100, 500, 100, 5000


def write_data(folder: Path, rows: int, image_kb: float) -> None:
    """Parquet files of bytes in place of images, which are never decoded here, with 100 rows of class 0 at random places."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, CLASSES, size=rows)
    labels[rng.choice(rows, FORGET, replace=False)] = 0
    features = Features(image=Image(), label=ClassLabel(num_classes=CLASSES))
    for number, start in enumerate(range(0, rows, SHARD)):
        part = labels[start : start + SHARD].tolist()
        sizes = (1000 * image_kb * rng.uniform(0.5, 1.5, size=len(part))).astype(int)
        images = [{"bytes": rng.bytes(size), "path": None} for size in sizes]
        Dataset.from_dict({"image": images, "label": part}, features=features).to_parquet(
            folder / f"train-{number:05}.parquet"
        )


class Peak(threading.Thread):
    """Watches the memory of this process."""

    def __init__(self):
        super().__init__(daemon=True)
        self.process, self.runs = psutil.Process(), True
        self.start_mb = self.peak_mb = self.now()

    def now(self) -> float:
        memory = self.process.memory_full_info()
        return memory.uss / 1e6

    def run(self) -> None:
        while self.runs:
            self.peak_mb = max(self.peak_mb, self.now())
            time.sleep(0.02)


def measure(folder: Path, cache_dir: Path) -> None:
    """Splits the data of a folder, and prints a row of the table."""
    disable_progress_bars()
    crossed = 0
    read = ParquetFile.read

    def counted(self: ParquetFile, start: int, end: int) -> bytes:
        nonlocal crossed
        crossed += end - start
        return read(self, start, end)

    ParquetFile.read = counted
    peak, start = Peak(), time.perf_counter()
    peak.start()
    data = load_dataset("parquet", data_files={"train": str(folder / "*.parquet")}, split="train", streaming=True)
    rows = StreamedRows("dataset", data, str(cache_dir))
    splits = split_dataset(rows, ForgetRequest(classes=[0]), max_eval_samples=SAMPLES)
    seconds = time.perf_counter() - start
    peak.runs = False
    raw = [split.cast_column("image", Image(decode=False)) for split in splits.values()]
    needed = sum(len(image["bytes"]) for split in raw for image in split["image"])
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    print(
        f"| {len(rows):,} | {size / 1e6:.0f} | {len(splits['forget'])} + {len(splits['retain'])} "
        f"| {needed / 1e6:.1f} | {crossed / 1e6:.1f} | {peak.peak_mb - peak.start_mb:.0f} | {seconds:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--image_kb", type=float, nargs="+", default=[1.0])
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        measure(Path(args.folder) / "data", Path(args.folder) / "cache")
        return
    print(
        "| rows | MB | images kept | of them MB | read MB | memory MB | seconds |\n|--:|--:|--:|--:|--:|--:|--:|",
        flush=True,
    )
    for rows in args.rows:
        for image_kb in args.image_kb:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "data").mkdir()
                disable_progress_bars()
                write_data(Path(folder) / "data", rows, image_kb)
                command = [sys.executable, "-m", "scripts.benchmarks.performance.streaming", "--folder", folder]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
