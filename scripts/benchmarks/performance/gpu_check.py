"""
What a GPU makes of the package, in one call of about four minutes, from a bare checkout with the packages at hand:

    python -m scripts.benchmarks.performance.gpu_check --output_dir gpu
    python -m scripts.benchmarks.performance.gpu_check --output_dir gpu --model_name_or_path mobilenet-v2 \\
        --dataset_name photographs.parquet --train_dataset_name cifar10.parquet
    python -m scripts.benchmarks.performance.gpu_check --output_dir gpu --device cpu --small      # does it run at all?

The parts, in this order, each in a process of its own with a time limit, so that none takes the others along:

- `machine`: the card, its driver, torch, and the rate of a matrix product;
- `update`: the update of ViT-B at 224 × 224, the package's against the released loop, with and without torch.compile;
- `passes`: images per second by the size of a pass, 16 MiB to 4 GiB of its largest activation;
- `jit`: JiT from raw photographs to the card, a class and 60 single images, stage by stage;
- `memory`: the peak of an update against that of fine-tuning, and passes that memory is refused for;
- `vit`: a ViT trained on the spot, JiT and rebuild on it from beginning to end;
- `rebuild`: rebuild on the model of `jit`, for `--rebuild_seconds` of updates at most.

Without --model_name_or_path the weights of `jit` and `rebuild` are random, and without --dataset_name and
--train_dataset_name (parquet files with the columns `image` and `label`, or `img` and `label`) pictures are made: then times
mean something there and accuracies do not. Rows are written as soon as they are measured; summary.json says how each part
ended and what was left out. In the end a request for a million images is estimated with the rates that were measured.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.benchmarks.results import markdown, read_rows


# Where each part is, and the seconds it may take. The modules are imported by the part's own process alone.
PARTS = {
    "machine": ("gpu_kernels", 60),
    "update": ("gpu_kernels", 140),
    "passes": ("gpu_kernels", 60),
    "jit": ("gpu_runs", 90),
    "memory": ("gpu_kernels", 40),
    "vit": ("gpu_runs", 150),
    "rebuild": ("gpu_runs", 120),
}
# On a CPU, so many times as long. With less time left than the second, no part is begun.
ON_CPU, SHORTEST = 10, 8

# ---- A million images, on paper ----

# A forward pass of ViT-L/16 at 224 × 224, from the sizes of its layers.
VIT_LARGE_GFLOP = 2 * 24 * (12 * 1024**2 * 197 + 2 * 197**2 * 1024) / 1e9
# Forward passes over the forget set: answers, perturbed images, and ten passes with one backward pass through one of 24 blocks.
JIT_PASSES = 2 + 12 / 24
# Of an update of rebuild: the teacher's images, the student's with their backward pass, and the impressions once more.
REBUILD_IMAGES = 128 + 3 * (128 + 16) + 32
REBUILD_UPDATES = (800, 3200)
# A thousand impressions of up to twenty steps, each forward and backward to the pixels.
IMPRESSION_IMAGES = 1000 * 20 * 2


def million_images(
    read_per_second: float, gflops: float, num_devices: int, num_cores: int, num_images: int = 1_000_000
) -> dict[str, float]:
    """
    Seconds that a request takes with ViT-L, if its parts run at the rates measured for others.

    Args:
        read_per_second (`float`): photographs that one core reads, decodes and prepares.
        gflops (`float`): GFLOP/s of one device in an update, what it reached and not what it could.
        num_devices (`int`): devices that share the images.
        num_cores (`int`): cores that read.
    """
    of_image = VIT_LARGE_GFLOP / gflops / num_devices
    once, most = (of_image * (updates * REBUILD_IMAGES + IMPRESSION_IMAGES) for updates in REBUILD_UPDATES)
    return {
        "reading": num_images / read_per_second / num_cores,
        "jit": of_image * num_images * JIT_PASSES,
        # Two passes look at all images; what is taught again does not grow with them.
        "rebuild, one round": of_image * 2 * num_images + once,
        "rebuild, four rounds": of_image * 2 * num_images + most,
    }


def estimate(folder: Path) -> str:
    """The table of a million images with the rates that lie in a folder; what is missing, if they do not."""
    updates = [row for row in read_rows(folder / "update.csv") if row["way"] in PACKAGE_WAYS]
    decoded = [row for row in read_rows(folder / "runs.csv") if row["stage"] == "decode" and row["images_per_second"]]
    if not updates or not decoded:
        return "A million images: not estimated, no rate of an update or of reading was measured."
    best = max(updates, key=lambda row: float(row["gflop"]) / float(row["seconds"]))
    gflops, read = float(best["gflop"]) / float(best["seconds"]), float(decoded[0]["images_per_second"])
    rows = []
    for num_devices, num_cores in ((1, 1), (1, 16), (8, 64), (64, 512)):
        seconds = million_images(read, gflops, num_devices, num_cores)
        rows.append([f"{num_devices} with {num_cores}", *(duration(value) for value in seconds.values())])
    header = ["devices with cores", *million_images(read, gflops, 1, 1)]
    return (
        f"A million images with ViT-L at {gflops:,.0f} GFLOP/s a device ({best['way']}, {best['model']}) and "
        f"{read:,.0f} images read per second and core, computed:\n{markdown(header, rows)}"
    )


# Ways of `update` that a user gets with flags of the package.
PACKAGE_WAYS = ("ours", "ours, bf16 perturbations", "ours, bf16", "ours, bf16, compiled")


def duration(seconds: float) -> str:
    """In the unit that a person would choose."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


# ---- The parts, one after the other ----


def run_part(name: str, limit: float) -> str:
    """How a part ended that had a process of its own, and `limit` seconds."""
    command = [sys.executable, "-m", "scripts.benchmarks.performance.gpu_check", *sys.argv[1:], "--only", name]
    # The clock is the same for all processes.
    command += ["--until", str(time.monotonic() + limit)]
    # A session of its own: compilers that it started end with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(timeout=limit)
        return "done" if status == 0 else f"failed with exit status {status}"
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} seconds; its rows until then are there"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            # All have ended.
            pass
        process.wait()


def run_parts(options: argparse.Namespace) -> dict[str, dict]:
    """Runs the parts, and writes after each how it ended."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for old in options.output_dir.glob("*.csv"):
        old.unlink()
    slower = ON_CPU if options.device == "cpu" else 1
    end, ended = time.monotonic() + slower * options.limit_seconds, {}
    for name in options.parts:
        limit, start = min(slower * PARTS[name][1], end - time.monotonic()), time.monotonic()
        print(f"\n== {name}, at most {max(0, limit):.0f} seconds", flush=True)
        outcome = run_part(name, limit) if limit > SHORTEST else "left out: no time was left"
        ended[name] = {"outcome": outcome, "seconds": round(time.monotonic() - start, 1)}
        print(f"== {name}: {outcome}, {ended[name]['seconds']} seconds", flush=True)
        summary = {
            "device": options.device,
            "small": options.small,
            "weights": options.model_name_or_path or "random",
            "photographs": options.dataset_name or "made",
            "training_images": options.train_dataset_name or "made",
            "parts": ended,
            "left_out": [name for name in PARTS if ended.get(name, {}).get("outcome") != "done"],
        }
        (options.output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return ended


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="Tiny networks and few images: does it run at all?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit_seconds", type=float, default=400, help="Of all parts together, on a GPU.")
    parser.add_argument("--model_name_or_path", help="A folder, for `jit` and `rebuild`.")
    parser.add_argument("--dataset_name", help="A parquet file of photographs.")
    parser.add_argument("--train_dataset_name", help="A parquet file of small pictures, for `vit`.")
    parser.add_argument("--train_seconds", type=float, default=25, help="Of the ViT.")
    parser.add_argument("--rebuild_seconds", type=float, default=45, help="Of its updates on the model of `jit`.")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    options = parse_options()
    if options.only:
        module = importlib.import_module(f"scripts.benchmarks.performance.{PARTS[options.only][0]}")
        getattr(module, f"measure_{options.only}")(options)
        sys.exit()
    ended = run_parts(options)
    print(f"\n{estimate(options.output_dir)}")
    left_out = [f"{name} ({how['outcome']})" for name, how in ended.items() if how["outcome"] != "done"]
    print(f"Left out: {', '.join(left_out) or 'nothing'}. Written: {options.output_dir}")
    sys.exit(1 if left_out else 0)
