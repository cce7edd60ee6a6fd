"""The whole command on one process and on two: what is shared, and what every process does for itself."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import psutil

from hf_unlearn.commands.main import main
from scripts.benchmarks.results import show, write_rows


def measure_whole(options) -> None:
    """
    `hf-unlearn run` of one class, from the start of Python to the card, on one process and on two, one thread each. By the
    clock and by the time that each process had of the processor, which other work on the machine disturbs less.
    """
    found = {1: [], 2: []}
    for _ in range(options.repeats):
        for processes in found:
            found[processes].append(processes_of_run(options, processes))
    rows = []
    for processes, runs in found.items():
        clock, busiest, total = (statistics.median(times) for times in zip(*runs, strict=True))
        rows.append(
            {
                "model": os.path.basename(options.model_name_or_path),
                "images": options.num_images,
                "processes": processes,
                "seconds": f"{clock:.4g}",
                "efficiency": f"{statistics.median(run[0] for run in found[1]) / (processes * clock):.2f}",
                "busiest_process": f"{busiest:.4g}",
                "efficiency_by_busiest": f"{statistics.median(run[1] for run in found[1]) / (processes * busiest):.2f}",
                "all_processes": f"{total:.4g}",
            }
        )
    show(rows)
    write_rows(options.output_dir / "whole_processes.csv", rows)


def processes_of_run(options, processes: int) -> tuple[float, float, float]:
    """Seconds by the clock, those of the processor that the busiest process had, and those that all had."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
        "-m", "scripts.benchmarks.performance.run", "command", "--model_name_or_path", options.model_name_or_path,
        "--dataset_name", options.dataset_name, "--forget_class", options.forget_class, "--num_images", str(options.num_images),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WHOLE_RUN": f"{folder}/out"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = [line.split("command:")[1].split() for line in done.stdout.splitlines() if "command:" in line]
    clocks, busy = zip(*[(float(clock), float(processor)) for clock, processor in lines], strict=True)
    return max(clocks), max(busy), sum(busy)


def run_command(options) -> None:
    """One process of the command. All of them write into the folder that their launcher made."""
    flags = ["--model_name_or_path", options.model_name_or_path, "--dataset_name", options.dataset_name]
    flags += ["--forget_class", options.forget_class, "--max_eval_samples", str(options.num_images)]
    flags += ["--output_dir", os.environ["WHOLE_RUN"], "--use_cpu", "True", "--disable_tqdm", "True"]
    if main(["run", *flags]) != 0:
        sys.exit(1)
    print("command:", time.time() - psutil.Process().create_time(), time.process_time(), flush=True)
