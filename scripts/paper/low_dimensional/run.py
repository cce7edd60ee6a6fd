"""
Look at JiT where everything can be seen: a boundary in the plane, a sigmoid, and the entropy of forgotten digits, as
on docs/low_dimensional.md:

    python -m scripts.paper.low_dimensional.run --output_dir docs/low_dimensional

Writes blobs.png, sigmoid.png, entropy.png and numbers.json, and prints the tables of the page, which explains what is
measured. About a minute on one CPU core, without a network.
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch

from scripts.paper.low_dimensional.blobs import blobs_tables, draw_blobs, measure_blobs
from scripts.paper.low_dimensional.entropy import draw_entropy, entropy_tables, measure_entropy
from scripts.paper.low_dimensional.sigmoid import draw_sigmoid, measure_sigmoid, sigmoid_tables


def main(output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for name, measure, draw in (
        ("blobs", measure_blobs, draw_blobs),
        ("sigmoid", measure_sigmoid, draw_sigmoid),
        ("entropy", measure_entropy, draw_entropy),
    ):
        start = time.perf_counter()
        numbers[name] = measure()
        draw(numbers, output_dir / f"{name}.png")
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    # Lists of numbers on one line.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(numbers, indent=1))
    (output_dir / "numbers.json").write_text(text + "\n")
    print("", *tables(numbers), sep="\n\n")


def tables(numbers: dict) -> list[str]:
    """The tables of the page, in Markdown."""
    return [*blobs_tables(numbers["blobs"]), *sigmoid_tables(numbers["sigmoid"]), *entropy_tables(numbers["entropy"])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/low_dimensional"))
    arguments = parser.parse_args()
    # Networks this small gain nothing from more threads.
    torch.set_num_threads(1)
    main(arguments.output_dir)
