"""Parts of run.py that time what the Trainer adds to the updates, and the updates on several processes."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from transformers import TrainerCallback

from hf_unlearn.unlearning.guard import Guard
from scripts.benchmarks.networks import quiet_trainer
from scripts.benchmarks.performance.clocks import median_ratio, now
from scripts.benchmarks.performance.models import SEED, make_batch, make_demo_model, make_model
from scripts.benchmarks.results import show, write_rows


# ---- The Trainer around the update ----


class Stopwatch(TrainerCallback):
    """Seconds from before the first to after the last update; what surrounds them is no overhead of the loop."""

    def __init__(self, clock=now):
        self.clock = clock
        self.start = self.seconds = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.start = self.start or self.clock()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds = self.clock() - self.start


def measure_overhead(options) -> None:
    """The loop of the Trainer against a bare one that calls the same loss, on images in memory."""
    num_images, epochs, batch_size = 256, 4, 32
    images = [{"pixel_values": pixels} for pixels in make_batch(num_images, 32, "cpu")["pixel_values"]]

    def make_trainer(folder, **logging):
        return quiet_trainer(
            make_demo_model(), images, folder, step_rule="fixed", num_perturbations=options.num_perturbations,
            seed=SEED, noise_clamp="batch", learning_rate=1e-9, num_train_epochs=epochs, allow_collapse=True,
            per_device_train_batch_size=batch_size, use_cpu=True, train_sampling_strategy="sequential", **logging,
        )  # fmt: skip

    def by_trainer(logging_steps):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(folder, logging_strategy="steps", logging_steps=logging_steps)
            stopwatch = Stopwatch()
            trainer.add_callback(stopwatch)
            trainer.train()
            return stopwatch.seconds

    def bare():
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(folder)
        trainer.answers = torch.zeros(num_images, dtype=torch.long)
        trainer.model.to(memory_format=trainer.memory_format())
        model = trainer.model.eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
        start = now()
        for _ in range(epochs):
            for batch in torch.utils.data.DataLoader(
                trainer.training_set, batch_size, collate_fn=trainer.data_collator
            ):
                loss, _ = trainer.unlearning_loss(model, batch)
                loss.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        return now() - start

    ways = {"bare loop": bare, "Trainer, every step logged": lambda: by_trainer(1), "Trainer": lambda: by_trainer(10)}
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(options.repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    rows = [
        {
            "way": way,
            "num_perturbations": options.num_perturbations,
            "seconds": f"{statistics.median(taken):.4g}",
            "milliseconds_per_update": f"{1000 * statistics.median(taken) / (epochs * num_images / batch_size):.1f}",
            "over_bare_loop": f"{median_ratio(seconds, way, 'bare loop') - 1:.3f}",
        }
        for way, taken in seconds.items()
    ]
    show(rows)
    write_rows(options.output_dir / "overhead.csv", rows)


# ---- Several processes ----


def measure_processes(options) -> None:
    """The updates of a run on one process and on two, one thread each, and on one process with two threads."""
    rows = []
    for name in options.models:
        ways = {"1 process of 1 thread": (1, 1), "2 processes of 1 thread": (2, 1), "1 process of 2 threads": (1, 2)}
        seconds = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, (processes, threads) in ways.items():
                seconds[way].append(seconds_on(options, name, processes, threads))
        for way in ways:
            ratio = median_ratio(seconds, "1 process of 1 thread", way)
            row = {"model": name, "image_size": options.image_sizes[0], "batch_size": options.batch_sizes[0]}
            row |= {"num_perturbations": options.num_perturbations, "way": way}
            row |= {"seconds": f"{statistics.median(seconds[way]):.4g}", "times_as_fast": f"{ratio:.2f}"}
            rows.append(row | {"efficiency": f"{ratio / (1 if way.startswith('1 process of 1') else 2):.2f}"})
        show(rows[-3:])
    write_rows(options.output_dir / "processes.csv", rows)


def seconds_on(options, name: str, processes: int, threads: int) -> float:
    """Runs `updates` on so many processes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
        "-m", "scripts.benchmarks.performance.run", "updates", "--models", name,
        "--image_sizes", str(options.image_sizes[0]), "--batch_sizes", str(options.batch_sizes[0] // processes),
        "--num_perturbations", str(options.num_perturbations), "--num_images", str(options.num_images), "--device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("updates: "))


def measure_updates(options) -> None:
    """The updates of one run, on as many processes as were started; by the clock, for processes wait for each other."""
    # The updates alone are measured.
    Guard.__init__, Guard.change, Guard.passes = lambda *arguments, **named: None, lambda self: 0.0, 0
    name, image_size = options.models[0], options.image_sizes[0]
    pixel_values = make_batch(options.num_images, image_size, "cpu")["pixel_values"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            make_model(name, image_size), [{"pixel_values": x} for x in pixel_values], folder, step_rule="fixed",
            num_perturbations=options.num_perturbations, learning_rate=1e-9, noise_clamp="none",
            per_device_train_batch_size=options.batch_sizes[0], allow_collapse=True,
            use_cpu=options.device == "cpu",
        )  # fmt: skip
        stopwatch = Stopwatch(time.perf_counter)
        trainer.add_callback(stopwatch)
        trainer.train()
    if trainer.is_world_process_zero():
        print("updates:", stopwatch.seconds, flush=True)
    trainer.end()
