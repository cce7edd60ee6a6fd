"""Parts of gpu_check.py that time kernels, updates and passes, and measure memory."""

import copy
import math
import os
import platform
import statistics
import subprocess
import tempfile
from contextlib import nullcontext
from functools import partial

import torch
import transformers
from torch.nn.functional import cross_entropy

from hf_unlearn.unlearning import layout
from hf_unlearn.unlearning.precision import weights_cast_once
from scripts.benchmarks.networks import be_quiet
from scripts.benchmarks.performance.clocks import clear_gradients, flops_of, matmul_rate, peak_mebibytes, seconds_of
from scripts.benchmarks.performance.models import (
    make_batch,
    make_model,
    make_trainer,
    model_forward,
    our_update,
    released_update,
)
from scripts.benchmarks.results import append_rows, show


MEBIBYTE = 2**20


def write(options, name: str, row: dict) -> None:
    """Shows a row and keeps it at once: the next measurement may be stopped."""
    show([row])
    append_rows(options.output_dir / f"{name}.csv", [row])


def autocast(options, is_on: bool = True):
    return torch.autocast(options.device, torch.bfloat16) if is_on else nullcontext()


def rate_of(options, dtype: str) -> float:
    """GFLOP/s of a matrix product."""
    return matmul_rate(getattr(torch, dtype), options.device, 256 if options.small else None)


# ---- The machine ----


def measure_machine(options) -> None:
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": os.cpu_count(),
        "tf32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
    }
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {"device": card.name, "memory, MiB": card.total_memory // MEBIBYTE, "cuda": torch.version.cuda}
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    else:
        facts["device"] = "CPU"
        print("Not measured: a GPU.")
    for what, value in facts.items():
        write(options, "machine", {"what": what, "value": value})
    for dtype in ("float32", "bfloat16"):
        rate = rate_of(options, dtype)
        write(options, "machine", {"what": f"matrix product, {dtype}, GFLOP/s", "value": f"{rate:.0f}"})
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        rate = rate_of(options, "float32")
        write(options, "machine", {"what": "matrix product, TF32, GFLOP/s", "value": f"{rate:.0f}"})


# ---- The update ----


def measure_update(options) -> None:
    """The released loop and the package's loss, each with its backward pass, in several number formats."""
    be_quiet()
    name, size, batch_size, perturbations = ("vit-tiny", 32, 2, 2) if options.small else ("vit-base", 224, 64, 25)
    rates = {dtype: rate_of(options, dtype) for dtype in ("float32", "bfloat16")}
    batch = make_batch(batch_size, size, options.device)
    pixel_values = batch["pixel_values"]
    model = make_model(name, size).to(options.device)
    forward = flops_of(lambda: model_forward(model, pixel_values[:1]))
    clean = flops_of(lambda: model(pixel_values=pixel_values[:1]).logits.sum().backward())
    gflop = batch_size * (perturbations * forward + clean) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(copy.deepcopy(model), batch, folder, perturbations)
        mixed = make_trainer(copy.deepcopy(model), batch, folder, perturbations, bf16_perturbations=True)
        # What passes could be without autocast, which goes back and forth between two formats.
        plain = make_trainer(copy.deepcopy(model), batch, folder, perturbations)
        plain.model.to(torch.bfloat16)
    compiled = torch.compile(trainer.model)

    def released(in_bf16: bool):
        with autocast(options, in_bf16):
            released_update(model, pixel_values, perturbations)

    def ours(own_trainer, called, in_bf16: bool):
        with autocast(options, in_bf16):
            own_trainer.compute_loss(called, dict(batch)).backward()

    ways = {
        "released": lambda: released(False),
        "ours, bf16": lambda: ours(trainer, trainer.model, True),
        "ours, bf16 perturbations": lambda: ours(mixed, mixed.model, False),
        "ours": lambda: ours(trainer, trainer.model, False),
        "ours, weights in bf16": lambda: ours(plain, plain.model, False),
        "released, bf16": lambda: released(True),
    }
    if not options.small:
        # Takes a minute, and longer on a CPU: last.
        ways["ours, bf16, compiled"] = lambda: ours(trainer, compiled, True)
    seconds = {}
    for way, function in ways.items():
        first = seconds_of(function, options.device)
        repeats = 1 if options.small else 3 if way.startswith("released") else 7
        taken = [seconds_of(function, options.device) for _ in range(repeats)]
        seconds[way] = statistics.median(taken)
        clear_gradients(model, trainer.model, mixed.model, plain.model)
        share = gflop / seconds[way] / rates["bfloat16" if "bf16" in way else "float32"]
        row = {
            "model": name,
            "image_size": size,
            "batch_size": batch_size,
            "num_perturbations": perturbations,
            "way": way,
            "seconds": f"{seconds[way]:.4g}",
            "first_call_seconds": f"{first:.3g}",
            "times_as_fast": f"{seconds['released'] / seconds[way]:.2f}",
            "images_per_second": f"{batch_size / seconds[way]:.4g}",
            "peak_mebibytes": f"{peak_mebibytes(function, options.device):.0f}",
            "gflop": f"{gflop:.5g}",
            "share_of_matmul": f"{share:.3f}",
        }
        clear_gradients(model, trainer.model, mixed.model, plain.model)
        write(options, "update", row)
    print("Goals: 8 times as fast as the released loop, 0.45 of the matrix product.")


# ---- How many images share a pass ----


def measure_passes(options) -> None:
    """
    Forward passes without a gradient by their number of images, in float32 and bfloat16; and from them the least bytes at which
    no network is far from its best.
    """
    be_quiet()
    cases = {"vit-tiny": 32} if options.small else {"vit-base": 224, "resnet-18": 224, "convnext-tiny": 224, "vit-tiny": 32}  # fmt: skip
    sizes = [1] if options.small else [16, 32, 64, 128, 256, 512, 1024, 4096]
    rates = {}
    for name, image_size in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            # As the trainer lays the weights out.
            trainer = make_trainer(make_model(name, image_size), make_batch(1, image_size, options.device), folder, 1)
        model = trainer.model.eval()
        of_one = 4 * layout.largest_activation(model, make_batch(1, image_size, options.device)["pixel_values"])
        for dtype, share in (("float32", 1), ("bfloat16", 2)):
            for mebibytes in sizes:
                number = max(1, share * mebibytes * MEBIBYTE // of_one)
                rate = pass_row(options, model, (name, image_size, dtype), mebibytes, number)
                if rate is not None:
                    rates.setdefault((name, dtype), {})[mebibytes] = rate
        del model, trainer
    for limit in (0.9, 0.95):
        enough = [
            min(size for size, rate in those.items() if rate >= limit * max(those.values()))
            for those in rates.values()
        ]
        print(f"At {max(enough)} MiB every network has {limit:.0%} of its best rate, at {min(enough)} MiB the first.")
    if not options.small:
        measure_joined(options)


def pass_row(options, model, case: tuple[str, int, str], mebibytes: int, number: int) -> float | None:
    """Images per second of passes of so many images; nothing where memory is refused."""
    name, image_size, dtype = case
    row = {"model": name, "image_size": image_size, "dtype": dtype, "largest_activation_mebibytes": mebibytes}
    row |= {"images": number, "images_per_second": "", "peak_mebibytes": ""}
    rate = None
    try:
        pixel_values = torch.randn(number, 3, image_size, image_size, device=options.device)
        with autocast(options, dtype == "bfloat16"), weights_cast_once(options.device):
            taken = []
            for _ in range(2):
                seconds_of(lambda: model_forward(model, pixel_values), options.device)
            while len(taken) < 3 or (len(taken) < 15 and sum(taken) < 0.3):
                taken.append(seconds_of(lambda: model_forward(model, pixel_values), options.device))
            peak = peak_mebibytes(lambda: model_forward(model, pixel_values), options.device)
        rate = number / statistics.median(taken)
        row |= {"images_per_second": f"{rate:.5g}", "peak_mebibytes": f"{peak:.0f}"}
    except torch.OutOfMemoryError:
        row["peak_mebibytes"] = "refused"
    write(options, "passes", row)
    return rate


def measure_joined(options) -> None:
    """The update of a small batch, whose perturbations are joined to passes of half the images that fit."""
    batch = make_batch(8, 224, options.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(make_model("vit-base", 224), batch, folder, 25)
    of_one = 4 * layout.largest_activation(trainer.model, batch["pixel_values"][:1])
    for mebibytes in (16, 64, 128, 256, 512, 1024):
        trainer.images_at_once = max(1, mebibytes * MEBIBYTE // of_one)

        def update():
            with autocast(options):
                our_update(trainer, batch)

        taken = [seconds_of(update, options.device) for _ in range(5)]
        row = {"model": "vit-base, update of 8 images", "image_size": 224, "dtype": "bfloat16"}
        row |= {"largest_activation_mebibytes": mebibytes, "images": 2 * trainer.images_at_once}
        row |= {"images_per_second": f"{8 / statistics.median(taken[1:]):.5g}"}
        row |= {"peak_mebibytes": f"{peak_mebibytes(update, options.device):.0f}"}
        clear_gradients(trainer.model)
        write(options, "passes", row)


# ---- Memory ----


def measure_memory(options) -> None:
    """The peak of an update against that of a fine-tuning step; and an update where memory is refused."""
    be_quiet()
    name, size, batch_size = ("vit-tiny", 32, 2) if options.small else ("vit-base", 224, 32)
    batch = make_batch(batch_size, size, options.device)
    tuned = make_model(name, size).to(options.device).train()
    labels = torch.zeros(batch_size, dtype=torch.long, device=options.device)

    def tune(in_bf16: bool):
        with autocast(options, in_bf16):
            loss = cross_entropy(tuned(pixel_values=batch["pixel_values"]).logits, labels)
        loss.backward()

    def step(trainer, in_bf16: bool):
        with autocast(options, in_bf16):
            our_update(trainer, batch)

    for perturbations in (1, 2 if options.small else 25):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(make_model(name, size), batch, folder, perturbations)
        for in_bf16 in (False, True):
            # The first call makes what stays.
            tune(in_bf16)
            clear_gradients(tuned)
            usual = peak_mebibytes(partial(tune, in_bf16), options.device)
            step(trainer, in_bf16)
            clear_gradients(tuned, trainer.model)
            peak = peak_mebibytes(partial(step, trainer, in_bf16), options.device)
            clear_gradients(trainer.model)
            row = {"what": "update", "model": name, "batch_size": batch_size, "dtype": "bfloat16" if in_bf16 else "float32"}  # fmt: skip
            row |= {"num_perturbations": perturbations, "peak_mebibytes": f"{peak:.0f}"}
            row |= {"fine_tuning_mebibytes": f"{usual:.0f}", "note": ""}
            write(options, "memory", row)
    if options.device == "cuda":
        measure_refused(options, trainer, batch, row)
    else:
        print("Not measured: memory that is refused. A CPU refuses none.")


def measure_refused(options, trainer, batch: dict[str, torch.Tensor], row: dict) -> None:
    """Passes of two thousand images, with and without the room for them: the loss is to be the same."""
    small = {name: values[:8] for name, values in batch.items()}
    trainer.args.num_perturbations = 128
    losses, fitting = [], []
    for room in (math.inf, 5000, 2500):
        # Joined to passes of half as many.
        trainer.images_at_once, trainer.most_at_once = 2048, 2**62
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        share = min(1.0, (torch.cuda.memory_reserved() + room * MEBIBYTE) / total)
        torch.cuda.set_per_process_memory_fraction(share)
        loss = trainer.compute_loss(trainer.model, dict(small))
        loss.backward()
        clear_gradients(trainer.model)
        losses.append(loss.item())
        fitting.append(min(trainer.most_at_once, 1024))
        note = (
            f"room for {room} MiB: passes of {fitting[-1]}, the loss differs by {abs(losses[-1] / losses[0] - 1):.1e}"
        )
        del loss
        write(options, "memory", row | {"what": "memory refused", "batch_size": 8, "dtype": "float32", "num_perturbations": 128, "peak_mebibytes": "", "fine_tuning_mebibytes": "", "note": note})  # fmt: skip
    torch.cuda.set_per_process_memory_fraction(1.0)
