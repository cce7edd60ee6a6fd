"""
How long `hf-unlearn find` searches 1,000,000 images whose features are kept on the disk, and how much memory that takes;
docs/finding.md:

    python -m scripts.benchmarks.finding.speed --dims 512 1280
    python -m scripts.benchmarks.finding.speed --data imagenette-train.parquet --model mobilenet-v2

The first writes random features in blocks as the cache holds them, and then reads and compares them block by block, each
size in a process of its own. The second times what comes before: reading and hashing images, perceptual hashes, and the
passes of a model.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn.evaluation.find import (
    BLOCK,
    cosines_of,
    features_of_block,
    fewest_differing_bits,
    hash_block,
    suggest_threshold,
)
from hf_unlearn.evaluation.logits_cache import read_values, split_key, write_values
from scripts.benchmarks.networks import be_quiet


NUM_EXAMPLES = 3


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_features(folder: Path, num_rows: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    for start in range(0, num_rows, BLOCK):
        number = min(BLOCK, num_rows - start)
        write_values(folder / "model" / f"{start}.safetensors", rng.random((number, dim), np.float32), "features")
        hashes = rng.integers(0, 256, (number, 8), dtype=np.uint8)
        write_values(folder / "hash" / f"{start}.safetensors", hashes, "features")


def search(folder: Path, num_rows: int, dim: int) -> None:
    rng = np.random.default_rng(1)
    examples = rng.random((NUM_EXAMPLES, dim), np.float32)
    example_hashes = rng.integers(0, 256, (2 * NUM_EXAMPLES, 8), dtype=np.uint8)
    before, started, scores = peak(), time.perf_counter(), []
    for start in range(0, num_rows, BLOCK):
        number = min(BLOCK, num_rows - start)
        features = read_values(folder / "model" / f"{start}.safetensors", number, "features")
        hashes = read_values(folder / "hash" / f"{start}.safetensors", number, "features")
        scores.append(cosines_of(features, examples).mean(axis=1))
        fewest_differing_bits(hashes, example_hashes)
    suggest_threshold(np.concatenate(scores))
    print(f"{num_rows:,} rows of {dim}: {time.perf_counter() - started:.1f} s, {peak() - before:.0f} MiB more than before "
          f"({before:.0f} MiB)", flush=True)  # fmt: skip


def passes(data: str, name: str) -> None:
    block = load_dataset("parquet", data_files=data, split="train").select(range(256))
    model, image_processor = (
        AutoModelForImageClassification.from_pretrained(name),
        AutoImageProcessor.from_pretrained(name),
    )
    steps = {
        "bytes read and hashed": lambda: split_key(block, "image"),
        "perceptual hashes": lambda: hash_block(block, "image"),
        "features, with reading and preparing": lambda: features_of_block(model, image_processor, block, "image", 64),
    }
    for step, call in steps.items():
        started = time.process_time()
        call()
        print(f"{step}: {len(block) / (time.process_time() - started):.0f} images a second of CPU", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, nargs="*", default=[])
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--search_in", type=Path, help="Of the process that searches.")
    options = parser.parse_args()
    be_quiet()
    torch.set_num_threads(1)
    if options.search_in is not None:
        search(options.search_in, options.num_rows, options.dims[0])
    elif options.model is not None:
        passes(options.data, options.model)
    else:
        for dim in options.dims:
            for num_rows in (options.num_rows // 10, options.num_rows):
                with tempfile.TemporaryDirectory() as folder:
                    write_features(Path(folder), num_rows, dim)
                    own = [sys.executable, "-m", "scripts.benchmarks.finding.speed", "--num_rows", str(num_rows)]
                    subprocess.run([*own, "--dims", str(dim), "--search_in", folder], check=True)
