"""Parts of run.py that time one update or one forward pass."""

import copy
import statistics
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from matplotlib import colormaps
from torch.nn.functional import cross_entropy

from hf_unlearn.unlearning.layout import ACTIVATION_BYTES_CPU, largest_activation
from hf_unlearn.unlearning.losses import KeyedNoise
from hf_unlearn.unlearning.precision import weights_cast_once
from scripts.benchmarks.performance.clocks import (
    COLOURS,
    alternate,
    clear_gradients,
    flops_of,
    matmul_rate,
    median_ratio,
    peak_mebibytes,
    relative_difference,
    seconds_of,
)
from scripts.benchmarks.performance.models import (
    MODELS,
    SEED,
    SIGMA,
    make_batch,
    make_demo_model,
    make_model,
    make_trainer,
    model_forward,
    our_update,
    released_update,
)
from scripts.benchmarks.results import new_figure, save_figure, show, write_rows


WAYS = {"ours": {}, "ours, bf16 perturbations": {"bf16_perturbations": True}, "ours, bf16": {}}
# Of the grid: an update of more is left out, ten seconds on two cores.
MOST_GFLOP = 1500


def case_of(options, name: str, image_size: int, **count: int) -> dict:
    """The first columns of a row."""
    where = {"device": options.device, "threads": torch.get_num_threads()}
    return {**where, "model": name, "image_size": image_size, **count}


# ---- The update ----


def measure_update(options) -> None:
    """Times the update of one batch for each model, batch size and number format."""
    rates = {dtype: matmul_rate(getattr(torch, dtype), options.device) for dtype in ("float32", "bfloat16")}
    print(", ".join(f"matrix product in {dtype}: {rate:,.0f} GFLOP/s" for dtype, rate in rates.items()))
    if options.device == "cpu":
        print("Not measured: a GPU. On one: update --models vit-base --batch_sizes 64 --device cuda")
    rows = []
    for name in options.models:
        for image_size in options.image_sizes:
            for batch_size in options.batch_sizes:
                new = update_rows(options, name, image_size, batch_size, rates)
                show(new)
                rows += new
    write_rows(options.output_dir / f"{options.part}.csv", rows)
    draw_update(rows, options.output_dir / f"{options.part}.png")


def measure_grid(options) -> None:
    """The same for all models, two sizes of images and batches from 1 to 256, with few perturbations."""
    options.models, options.image_sizes, options.batch_sizes = MODELS, [32, 224], [1, 8, 64, 256]
    measure_update(options)


def update_rows(options, name: str, image_size: int, batch_size: int, rates: dict[str, float]) -> list[dict]:
    """The released loop and ours, in float32, with perturbed passes in bfloat16, and all in bfloat16."""
    batch = make_batch(batch_size, image_size, options.device)
    pixel_values, num_perturbations = batch["pixel_values"], options.num_perturbations
    released = make_model(name, image_size).to(options.device)
    # Of one image: what is left out below may not fit the memory.
    forward = flops_of(lambda: model_forward(released, pixel_values[:1]))
    clean = flops_of(lambda: released(pixel_values=pixel_values[:1]).logits.sum().backward())
    flops = batch_size * (num_perturbations * forward + clean)
    clear_gradients(released)
    if options.part == "grid" and flops > 1e9 * MOST_GFLOP and options.device == "cpu":
        return []
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            way: make_trainer(copy.deepcopy(released), batch, folder, num_perturbations, **settings)
            for way, settings in WAYS.items()
        }
    ways = {"released": lambda: released_update(released, pixel_values, num_perturbations)}
    ways |= {way: lambda way=way, trainer=trainer: in_format(way, trainer, batch) for way, trainer in trainers.items()}
    models = {"released": released} | {way: trainer.model for way, trainer in trainers.items()}

    # The same noise for all: how far are the weights after a step of a hundredth of their norm?
    noise = KeyedNoise(SEED, range(batch_size), pixel_values, SIGMA)
    released_update(released, pixel_values, num_perturbations, lambda number: noise[number : number + 1][0])
    gradients = {"released": {name: p.grad for name, p in released.named_parameters() if p.grad is not None}}
    for way, trainer in trainers.items():
        ways[way]()
        gradients[way] = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    difference = {way: 0.01 * relative_difference(found, gradients["released"]) for way, found in gradients.items()}
    del gradients
    clear_gradients(*models.values())

    seconds = alternate(ways, options.repeats, options.device)
    rows = []
    for way, function in ways.items():
        clear_gradients(*models.values())
        median = statistics.median(seconds[way])
        rows.append(
            {
                **case_of(options, name, image_size, batch_size=batch_size),
                "num_perturbations": num_perturbations,
                "way": way,
                "seconds": f"{median:.4g}",
                "times_as_fast": f"{median_ratio(seconds, 'released', way):.2f}",
                "images_per_second": f"{batch_size / median:.4g}",
                "peak_mebibytes": f"{peak_mebibytes(function, options.device):.0f}",
                "gflop": f"{flops / 1e9:.4g}",
                "share_of_matmul": f"{flops / 1e9 / median / rates['bfloat16' if 'bf16' in way else 'float32']:.2f}",
                "weights_difference": f"{difference[way]:.1e}",
            }
        )
    return rows


def in_format(way: str, trainer, batch: dict[str, torch.Tensor]) -> None:
    """Our update, in bfloat16 throughout if its name says so, as accelerate has it with `--bf16`."""
    with torch.autocast(trainer.args.device.type, torch.bfloat16) if way == "ours, bf16" else nullcontext():
        our_update(trainer, batch)


def draw_update(rows: list[dict], path: Path) -> None:
    """How many times as fast as the released loop, a line of dots for each model, image size and batch size."""
    groups = list(dict.fromkeys(f"{row['model']}, {row['image_size']} px, batch {row['batch_size']}" for row in rows))
    figure = new_figure(7, 1.3 + 0.28 * len(groups))
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=0.8)
    for number, way in enumerate(WAYS):
        ratios = [float(row["times_as_fast"]) for row in rows if row["way"] == way]
        axes.scatter(ratios, range(len(groups)), 36, label=way, color=COLOURS[number], zorder=3)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 2, 4, 8, 16) if tick < 1.3 * max(float(row["times_as_fast"]) for row in rows)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("times as fast as the released loop")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    save_figure(figure, path)


# ---- How many images share a pass ----


def measure_chunks(options) -> None:
    """A forward pass without a gradient by the number of images in it, in float32 and in bfloat16."""
    sizes = {"vit-tiny": (224, 32), "resnet-18": (224, 32), "convnext-tiny": (224,), "vit-base": (224,), "demo": (32,)}
    rows = [
        chunk_row(options, name, image_size, number)
        for name, image_sizes in sizes.items()
        for image_size in image_sizes
        for number in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        if number * image_size**2 <= 32 * 224**2 and (name != "vit-base" or number <= 16)
    ]
    write_rows(options.output_dir / "chunks.csv", rows)
    draw_chunks(rows, options.output_dir / "chunks.png")


@torch.no_grad()
def chunk_row(options, name: str, image_size: int, number: int) -> dict:
    model = (make_demo_model() if name == "demo" else make_model(name, image_size)).to(options.device)
    batch = make_batch(number, image_size, options.device)
    with tempfile.TemporaryDirectory() as folder:
        # As the trainer lays them out.
        make_trainer(model, make_batch(1, image_size, options.device), folder, 1)

    def in_bf16():
        with torch.autocast(options.device, torch.bfloat16):
            model(pixel_values=batch["pixel_values"])

    ways = {"float32": lambda: model(pixel_values=batch["pixel_values"]), "bfloat16": in_bf16}
    with weights_cast_once(options.device):
        seconds = alternate(ways, options.repeats, options.device)
    row = case_of(options, name, image_size, images=number)
    # Of one in float32; half as much in bfloat16.
    row["largest_activation_bytes"] = 4 * largest_activation(model, batch["pixel_values"][:1])
    row |= {f"{way}_ms_per_image": f"{1000 * min(taken) / number:.4g}" for way, taken in seconds.items()}
    show([row])
    return row


def draw_chunks(rows: list[dict], path: Path) -> None:
    """Time of an image against the largest activation of a pass, each relative to its best."""
    figure = new_figure(9, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys((row["model"], row["image_size"]) for row in rows))
    for ax, way, share in zip(axes, ("float32", "bfloat16"), (1, 0.5), strict=True):
        for number, (name, image_size) in enumerate(names):
            those = [row for row in rows if (row["model"], row["image_size"]) == (name, image_size)]
            times = [float(row[f"{way}_ms_per_image"]) for row in those]
            ax.plot(
                [row["images"] * share * row["largest_activation_bytes"] / 2**20 for row in those], [time / min(times) for time in times], "o-", markersize=3,
                color=colormaps["tab10"](number), label=f"{name}, {image_size} px",
            )  # fmt: skip
        ax.axvline(ACTIVATION_BYTES_CPU / 2**20, color="black", linewidth=0.8)
        ax.set(xscale="log", yscale="log", title=way)
        ax.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("time of an image, best = 1")
    figure.supxlabel("largest activation of a pass, MiB; line: what is chosen", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


# ---- torch.compile ----


def measure_compile(options) -> None:
    """A forward pass without a gradient, compiled, and after how many passes compiling has paid."""
    rows = []
    for name in options.models:
        model = make_model(name, options.image_sizes[0]).to(options.device)
        pixel_values = make_batch(options.batch_sizes[0], options.image_sizes[0], options.device)["pixel_values"]
        compiled = torch.compile(model)
        ways = {"usual": partial(model_forward, model, pixel_values), "compiled": partial(model_forward, compiled, pixel_values)}  # fmt: skip
        first = seconds_of(ways["compiled"], options.device)
        seconds = alternate(ways, options.repeats, options.device)
        saved = statistics.median(seconds["usual"]) - statistics.median(seconds["compiled"])
        rows.append(
            {
                **case_of(options, name, options.image_sizes[0], batch_size=options.batch_sizes[0]),
                "seconds": f"{statistics.median(seconds['usual']):.4g}",
                "times_as_fast": f"{median_ratio(seconds, 'usual', 'compiled'):.2f}",
                "seconds_to_compile": f"{first:.3g}",
                "paid_after_passes": f"{first / saved:.0f}" if saved > 0 else "never",
            }
        )
        show(rows[-1:])
    write_rows(options.output_dir / "compile.csv", rows)


# ---- The order of the weights in memory ----


def measure_layout(options) -> None:
    """Weights channels-last against the usual order, by the size of the images."""
    sizes = {"resnet-18": [32, 64, 96, 112, 224], "demo": [32, 64, 112]}
    rows = [
        layout_row(options, name, image_size, batch_size)
        for name, image_sizes in sizes.items()
        for image_size in image_sizes
        for batch_size in options.batch_sizes
    ]
    write_rows(options.output_dir / "layout.csv", rows)


def layout_row(options, name: str, image_size: int, batch_size: int) -> dict:
    """Times a forward pass, and a forward pass with its backward pass, in both orders."""
    usual = (make_demo_model() if name == "demo" else make_model(name, image_size)).to(options.device)
    last = copy.deepcopy(usual).to(memory_format=torch.channels_last)
    pixel_values = make_batch(batch_size, image_size, options.device)["pixel_values"]
    ways = {
        "forward": lambda: model_forward(usual, pixel_values),
        "forward, channels-last": lambda: model_forward(last, pixel_values),
        "both": lambda: usual(pixel_values=pixel_values).logits.sum().backward(),
        "both, channels-last": lambda: last(pixel_values=pixel_values).logits.sum().backward(),
    }
    seconds = alternate(ways, options.repeats, options.device)
    row = case_of(options, name, image_size, batch_size=batch_size)
    for way in ("forward", "both"):
        ratio = median_ratio(seconds, way, f"{way}, channels-last")
        row |= {f"{way}_seconds": f"{statistics.median(seconds[way]):.4g}", f"{way}_times_as_fast": f"{ratio:.2f}"}
    show([row])
    return row


# ---- Peak memory of one update ----


def measure_memory(options) -> None:
    """Peak memory of one update against that of a plain fine-tuning step of the same batch."""
    rows = [
        row
        for name in options.models
        for batch_size in options.batch_sizes
        for row in memory_rows(options, name, batch_size)
    ]
    write_rows(options.output_dir / "memory.csv", rows)


def memory_rows(options, name: str, batch_size: int) -> list[dict]:
    """Cross entropy with its backward pass and a step of SGD, and updates with one and with N perturbations."""
    image_size = options.image_sizes[0]
    batch = make_batch(batch_size, image_size, options.device)
    pixel_values, labels = batch["pixel_values"], torch.zeros(batch_size, dtype=torch.long, device=options.device)
    # In training mode, as one fine-tunes.
    tuned = make_model(name, image_size).to(options.device).train()
    models = {"fine-tuning": tuned}
    losses = {"fine-tuning": lambda: cross_entropy(tuned(pixel_values=pixel_values).logits, labels)}
    for num_perturbations in sorted({1, options.num_perturbations}):
        for way in ("ours", "ours, bf16 perturbations"):
            model = make_model(name, image_size).to(options.device)
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(model, batch, folder, num_perturbations, **WAYS[way])
            way = f"{way}, N = {num_perturbations}"
            models[way] = trainer.model
            losses[way] = lambda trainer=trainer: trainer.compute_loss(trainer.model, dict(batch))
    steps = {way: one_step(loss, models[way]) for way, loss in losses.items()}
    peaks = {way: [] for way in steps}
    for _ in range(1 + options.repeats):
        for way, step in steps.items():
            # Gradients count as part of the step, for all.
            clear_gradients(*models.values())
            peaks[way].append(peak_mebibytes(step, options.device))
    # The first round makes what libraries keep and does not count.
    peaks = {way: seen[1:] for way, seen in peaks.items()}
    rows = [
        {
            **case_of(options, name, image_size, batch_size=batch_size),
            "way": way,
            "peak_mebibytes": f"{statistics.median(seen):.0f}",
            "share_of_fine_tuning": f"{median_ratio(peaks, way, 'fine-tuning'):.2f}",
        }
        for way, seen in peaks.items()
    ]
    show(rows)
    return rows


def one_step(loss, model):
    """A call that takes a step of SGD along the gradient of the loss."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-9)

    def step():
        loss().backward()
        optimizer.step()

    return step
