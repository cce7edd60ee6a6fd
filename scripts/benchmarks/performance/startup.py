"""The part of run.py that times the way from the command to the first update."""

import statistics
import subprocess
import sys
import tempfile
import time

from scripts.benchmarks.results import show, write_rows


FIRST_UPDATE = """
import sys, time
start = time.perf_counter()
way = sys.argv.pop(1)
if way != "with peft":
    # transformers' Trainer imports it wherever it is installed; a plain installation of the package has none.
    import importlib.util as util
    find_spec = util.find_spec
    util.find_spec = lambda name, *rest: None if name == "peft" else find_spec(name, *rest)
from hf_unlearn.commands import main as cli
if way == "without peft, imports looked through for garbage":
    from contextlib import nullcontext
    cli.first_imports = nullcontext
def first_update(self, *arguments, **named):
    print("first update:", time.perf_counter() - start, flush=True)
    sys.exit()
parse = cli.parse_run_arguments
def parse_and_stop_the_update(argv):
    arguments = parse(argv)
    print("imported:", time.perf_counter() - start, flush=True)
    from hf_unlearn.methods import jit
    jit.JiTTrainer.unlearning_loss = first_update
    return arguments
cli.parse_run_arguments = parse_and_stop_the_update
cli.main(sys.argv[1:])
"""


def measure_startup(options) -> None:
    """Seconds by the clock, each in a process of its own."""
    command = [
        "run", "--model_name_or_path", options.model_name_or_path, "--dataset_name", options.dataset_name,
        "--forget_class", "3", "--output_dir",
    ]  # fmt: skip
    taken = {"hf-unlearn --help": []}
    for _ in range(options.repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hf_unlearn.commands.main", "--help"], capture_output=True, check=True)
        taken["hf-unlearn --help"].append(time.perf_counter() - start)
        for way in ("with peft", "without peft", "without peft, imports looked through for garbage"):
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [sys.executable, "-c", FIRST_UPDATE, way, *command, f"{folder}/out"],
                    capture_output=True,
                    text=True,
                )
            for line in done.stdout.splitlines():
                if line.startswith(("imported:", "first ")):
                    what, seconds = line.split(":")
                    taken.setdefault(f"{what}, {way}", []).append(float(seconds))
    rows = [{"what": what, "seconds": f"{statistics.median(seconds):.2f}"} for what, seconds in taken.items()]
    show(rows)
    write_rows(options.output_dir / "startup.csv", rows)
