"""How run.py measures: clocks, memory, operations, and ways in alternation."""

import ctypes
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


# Of the lines and dots of all pictures.
COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c")


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


def matmul_rate(dtype: torch.dtype, device: str, size: int | None = None) -> float:
    """GFLOP/s of a matrix product, a large one if no size is given."""
    if size is None:
        # A processor without bf16 takes half a minute for a large product in it.
        small = torch.randn(256, 256, device=device).to(dtype)
        takes_long = min(alternate({"small": lambda: small @ small}, 3, device)["small"]) > 0.01
        size = 8192 if device == "cuda" else 512 if takes_long else 2048
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
