"""What scripts/benchmark_speed.py measures, the models and the two updates, and how: clocks, memory, operations."""

import csv
import ctypes
import statistics
import time
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_unlearn import JiTConfig, JiTTrainer


NUM_LABELS = 100
SIGMA = 0.5
SEED = 0
COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c")


# ---- What is measured ----


def make_model(name: str, image_size: int, num_labels: int = NUM_LABELS):
    """A classifier of the usual size, with random weights, always the same ones."""
    torch.manual_seed(SEED)
    patch_size = 16 if image_size >= 128 else 4
    if name == "vit-tiny":
        config = ViTConfig(
            image_size=image_size, patch_size=patch_size, hidden_size=192, num_attention_heads=3,
            intermediate_size=768, num_labels=NUM_LABELS,
        )  # fmt: skip
        return ViTForImageClassification(config).eval()
    if name == "vit-base":
        config = ViTConfig(image_size=image_size, patch_size=patch_size, num_labels=num_labels)
        return ViTForImageClassification(config).eval()
    if name == "resnet-18":
        config = ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=num_labels
        )
        return ResNetForImageClassification(config).eval()
    return ConvNextForImageClassification(ConvNextConfig(num_labels=num_labels)).eval()


MODELS = ("vit-tiny", "resnet-18", "convnext-tiny", "vit-base")


def make_batch(batch_size: int, image_size: int, device: str) -> dict[str, torch.Tensor]:
    """What the collator gives, of random images in the range of normalised pixels."""
    generator = torch.Generator().manual_seed(SEED)
    pixel_values = 2 * torch.rand(batch_size, 3, image_size, image_size, generator=generator) - 1
    return {
        "pixel_values": pixel_values.to(device),
        "sample_index": torch.arange(batch_size, device=device),
        "positions": list(range(batch_size)),
        "sample_weight": torch.ones(batch_size, device=device),
    }


def make_trainer(model, batch, folder: str, num_perturbations: int, **settings) -> JiTTrainer:
    """The package's trainer, set to the definition of the released code."""
    args = JiTConfig(
        output_dir=folder,
        step_rule="fixed",
        num_perturbations=num_perturbations,
        noise_clamp="batch",
        loss_reduction="sum",
        seed=SEED,
        sigma=SIGMA,
        use_cpu=batch["pixel_values"].device.type == "cpu",
        **settings,
    )
    images = [{"pixel_values": pixels} for pixels in batch["pixel_values"].cpu()]
    trainer = JiTTrainer(model=model, args=args, forget_dataset=images)
    # As `train` does.
    trainer.answers = torch.zeros(len(images), dtype=torch.long, device=args.device)
    trainer.model.to(memory_format=trainer.memory_format())
    return trainer


def released_update(model, pixel_values: torch.Tensor, num_perturbations: int, noise_of=None) -> None:
    """
    Gradients of one batch as the released code computes them: noise made on the CPU, cut to the range of the batch, one
    forward pass for each perturbation, the mean over perturbations summed over the batch.

    Args:
        noise_of (`Callable`, *optional*):
            Gives the noise of a perturbation, in place of a draw.
    """
    low, high = pixel_values.min().item(), pixel_values.max().item()
    outputs = model(pixel_values=pixel_values).logits
    total = 0
    for number in range(num_perturbations):
        if noise_of is None:
            noise = (torch.randn(pixel_values.shape) * SIGMA).to(pixel_values.device)
        else:
            noise = noise_of(number)
        perturbed = torch.clamp(pixel_values + noise, low, high)
        distance = (perturbed - pixel_values).flatten(1).norm(dim=1)
        with torch.no_grad():
            perturbed_outputs = model(pixel_values=perturbed).logits
        total = total + (outputs - perturbed_outputs).norm(dim=1) / distance
    (total / num_perturbations).sum().backward()


def our_update(trainer: JiTTrainer, batch: dict[str, torch.Tensor]) -> None:
    """The same by the package's own code."""
    trainer.compute_loss(trainer.model, dict(batch)).backward()


def make_demo_model():
    """The network of `hf-unlearn demo`, with random weights."""
    torch.manual_seed(SEED)
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config).eval()


@torch.no_grad()
def model_forward(model, pixel_values: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixel_values).logits


# ---- How it is measured ----


def now() -> float:
    """Seconds: of the processor where one thread computes, which other work on the machine disturbs less."""
    one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if one_thread else time.perf_counter()


def seconds_of(function, device: str) -> float:
    """Time of a call, until the device is done."""
    start = now()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def alternate(ways: dict, repeats: int, device: str = "cpu", warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each way, in the order A B C A B C …, after one call of each that does not count."""
    for function in ways.values() if warm_up else ():
        seconds_of(function, device)
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            seconds[name].append(seconds_of(function, device))
    return seconds


def peak_mebibytes(function, device: str) -> float:
    """Memory that a call takes at its peak, above what was taken before it. On a CPU: Linux counts."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Or the call would fill what earlier ones left.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def resident(which: str) -> float:
    """Resident memory of this process in MiB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def flops_of(function) -> int:
    """Floating-point operations of a call: those of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """GFLOP/s of a large matrix product."""
    size = 8192 if device == "cuda" else 2048
    matrix = torch.randn(size, size, device=device).to(dtype)
    seconds = alternate({"matmul": lambda: matrix @ matrix}, 5, device)["matmul"]
    return 2 * size**3 / statistics.median(seconds) / 1e9


def median_ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """The median over the rounds of how many times as long `one` took as `other`."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def clear_gradients(*models) -> None:
    for model in models:
        model.zero_grad(set_to_none=True)


def relative_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """‖a − b‖ / ‖b‖ over all tensors as one vector."""
    difference = sum((ours[name].double() - theirs[name].double()).square().sum() for name in theirs)
    return float((difference / sum(value.double().square().sum() for value in theirs.values())).sqrt())


def show(rows: list[dict]) -> None:
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"Written: {path}")


def finish_figure(figure, axes, path: Path) -> None:
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"Written: {path}")
