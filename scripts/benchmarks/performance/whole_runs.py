"""Parts of scripts/benchmark_speed.py that time whole runs and what surrounds the update."""

import copy
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Features, Image
from matplotlib import pyplot as plt
from speed_tools import (
    COLOURS,
    MODELS,
    SEED,
    alternate,
    make_batch,
    make_demo_model,
    make_model,
    median_ratio,
    model_forward,
    now,
    peak_mebibytes,
    released_update,
    show,
    write_csv,
)
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PrinterCallback,
    TrainerCallback,
    ViTImageProcessorPil,
)

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn import trainer as trainer_module
from hf_unlearn.data import ImageDataset, find_image_column, load_dataset
from hf_unlearn.guard import Guard


# ---- The automatic step, from raw images to the end ----


class TimedGuard(Guard):
    """Knows how long it took."""

    def __init__(self, *arguments, **named):
        start = now()
        super().__init__(*arguments, **named)
        self.seconds = now() - start

    def change(self) -> float:
        start = now()
        change = super().change()
        self.seconds += now() - start
        return change


class UnkeptImages(ImageDataset):
    """Read anew in each pass."""

    def keep(self) -> None:
        pass


class WholePasses(JiTTrainer):
    """Each pass of the automatic step goes through the whole network."""

    def find_early_features(self) -> None:
        return None


def measure_auto(options) -> None:
    """Times whole runs on the first images of a dataset; what the model says of them is to change for half of them."""
    original, image_processor = load_model(options)
    dataset = load_images(options)
    found = {}

    def automatic(way, trainer_class, images_class):
        def run():
            with tempfile.TemporaryDirectory() as folder:
                args = JiTConfig(
                    output_dir=folder, forget_kind="subclass", forget_target=0.5, allow_collapse=True, disable_tqdm=True,
                    per_device_train_batch_size=options.batch_sizes[0], use_cpu=options.device == "cpu",
                    logging_strategy="no",
                )  # fmt: skip
                trainer = trainer_class(
                    model=copy.deepcopy(original), args=args, processing_class=image_processor,
                    forget_dataset=images_class(dataset, image_processor),
                )  # fmt: skip
                trainer.remove_callback(PrinterCallback)
                trainer.train()
                found[way] = trainer

        return run

    def released():
        model = copy.deepcopy(original).to(options.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
        for batch in torch.utils.data.DataLoader(UnkeptImages(dataset, image_processor), options.batch_sizes[0]):
            # As released, gradients are never zeroed.
            released_update(model, batch["pixel_values"].to(options.device), options.num_perturbations)
            optimizer.step()

    ways = {
        "released": released,
        "auto, nothing kept": automatic("auto, nothing kept", WholePasses, UnkeptImages),
        "auto, images kept": automatic("auto, images kept", WholePasses, ImageDataset),
        "auto": automatic("auto", JiTTrainer, ImageDataset),
    }
    trainer_module.Guard = TimedGuard
    # The first round is as good as the others: nothing lasts shorter than seconds.
    seconds = alternate(ways, options.repeats, options.device, warm_up=False)
    trainer = found["auto"]
    print(
        f"{trainer.passes} passes over the forget set, {trainer.step.evaluations} of them to find the length; "
        f"{trainer.guard.passes} single images passed by the guard."
    )
    rows = [
        {
            "device": options.device,
            "threads": torch.get_num_threads(),
            "model": Path(options.model_name_or_path).name,
            "images": f"{len(dataset)} of {tuple(trainer.train_dataset[0]['pixel_values'].shape)}",
            "way": way,
            "seconds": f"{statistics.median(taken):.4g}",
            "share_of_released": f"{median_ratio(seconds, way, 'released'):.3f}",
            "guard_seconds": f"{found[way].guard.seconds:.4g}" if way in found else "",
        }
        for way, taken in seconds.items()
    ]
    show(rows)
    size = trainer.train_dataset[0]["pixel_values"].shape[-1]
    write_csv(options.output_dir / f"auto-{rows[0]['model']}-{size}-{len(dataset)}.csv", rows)


def load_model(options):
    """The model and its image processor: from a folder, or with random weights and ten classes."""
    if options.model_name_or_path in MODELS:
        size = options.image_sizes[0]
        image_processor = ViTImageProcessorPil(size={"height": size, "width": size})
        return make_model(options.model_name_or_path, size, num_labels=10), image_processor
    image_processor = AutoImageProcessor.from_pretrained(options.model_name_or_path, use_fast=False)
    model = AutoModelForImageClassification.from_pretrained(options.model_name_or_path, dtype=torch.float32)
    return model, image_processor


def load_images(options):
    """The first images of the dataset, as photographs with `--jpeg_size`."""
    dataset = load_dataset(options.dataset_name)
    dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
    dataset = dataset.select(range(options.num_images)).select_columns([find_image_column(dataset)])
    return as_jpeg(dataset, options.jpeg_size) if options.jpeg_size else dataset


def as_jpeg(dataset, width: int):
    """The images, enlarged and compressed as photographs are."""
    column = dataset.column_names[0]

    def compress(row):
        buffer = io.BytesIO()
        row[column].convert("RGB").resize((width, 3 * width // 4)).save(buffer, "JPEG", quality=90)
        return {column: {"bytes": buffer.getvalue(), "path": None}}

    return dataset.map(compress, features=Features({column: Image()}))


# ---- Loader workers ----


def measure_loading(options) -> None:
    """The first pass over the images, which alone reads them, with none, one and two workers beside the process."""
    model, image_processor = load_model(options)
    images = UnkeptImages(load_images(options), image_processor)

    def first_pass(num_workers):
        loader = torch.utils.data.DataLoader(images, options.batch_sizes[0], num_workers=num_workers)
        for batch in loader:
            model_forward(model, batch["pixel_values"])

    ways = {f"{number} workers": lambda number=number: first_pass(number) for number in (0, 1, 2)}
    ways["reading alone"] = lambda: [images[row] for row in range(len(images))]
    seconds = alternate(ways, options.repeats, warm_up=False)
    rows = [
        {
            "threads": torch.get_num_threads(),
            "model": Path(options.model_name_or_path).name,
            "images": f"{len(images)} of {tuple(images[0]['pixel_values'].shape)}",
            "way": way,
            "seconds": f"{statistics.median(taken):.4g}",
            "times_as_fast": f"{median_ratio(seconds, '0 workers', way):.2f}",
        }
        for way, taken in seconds.items()
    ]
    show(rows)
    write_csv(options.output_dir / "loading.csv", rows)


# ---- What bfloat16 changes ----


def measure_precision(options) -> None:
    """Accuracies of the networks of small_networks.py without sandals, perturbed passes in float32 and in bfloat16."""
    from small_networks import SANDAL, Options, hits, load_data, load_model

    fashion = Options(
        models_dir=options.models_dir, data_dir=Path("/usr/share/datasets/fashion-mnist"), cifar_dir=None
    )
    train_x, train_y = load_data(fashion, "full", "train")
    test_x, test_y = load_data(fashion, "full", "test")
    forget = [{"pixel_values": pixels, "labels": SANDAL} for pixels in train_x[train_y == SANDAL][:500]]
    rules = {
        "auto": {"step_rule": "auto"},
        "fixed": {"step_rule": "fixed", "learning_rate": 0.01, "loss_reduction": "mean"},
    }
    rows = []
    for architecture in ("resnet", "convnext", "vit", "bit"):
        for rule, settings in rules.items():
            for bf16_perturbations in (False, True):
                model = load_model(fashion, architecture, "full", 0)
                with tempfile.TemporaryDirectory() as folder:
                    args = JiTConfig(
                        output_dir=folder, num_perturbations=5, noise_clamp="none", seed=SEED, allow_collapse=True,
                        per_device_train_batch_size=50, disable_tqdm=True, logging_strategy="no", use_cpu=True,
                        bf16_perturbations=bf16_perturbations, **settings,
                    )  # fmt: skip
                    trainer = JiTTrainer(model=model, args=args, forget_dataset=forget)
                    trainer.remove_callback(PrinterCallback)
                    trainer.train()
                right = hits(model, test_x, test_y)
                forgotten = (test_y == SANDAL).numpy()
                rows.append(
                    {
                        "model": architecture,
                        "rule": rule,
                        "perturbed_passes": "bfloat16" if bf16_perturbations else "float32",
                        "retained_test_accuracy": f"{100 * right[~forgotten].mean():.2f}",
                        "forgotten_test_accuracy": f"{100 * right[forgotten].mean():.2f}",
                    }
                )
                show(rows[-1:])
    write_csv(options.output_dir / "precision.csv", rows)


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
    stopwatch = {}

    def settings(folder):
        return {
            "output_dir": folder, "step_rule": "fixed", "num_perturbations": options.num_perturbations, "seed": SEED,
            "noise_clamp": "batch", "learning_rate": 1e-9, "num_train_epochs": epochs, "allow_collapse": True,
            "per_device_train_batch_size": batch_size, "disable_tqdm": True, "use_cpu": True,
            "train_sampling_strategy": "sequential",
        }  # fmt: skip

    def by_trainer(logging_steps):
        with tempfile.TemporaryDirectory() as folder:
            args = JiTConfig(**settings(folder), logging_steps=logging_steps)
            trainer = JiTTrainer(model=make_demo_model(), args=args, forget_dataset=images)
            trainer.remove_callback(PrinterCallback)
            stopwatch["trainer"] = Stopwatch()
            trainer.add_callback(stopwatch["trainer"])
            trainer.train()
            return stopwatch["trainer"].seconds

    def bare():
        with tempfile.TemporaryDirectory() as folder:
            trainer = JiTTrainer(model=make_demo_model(), args=JiTConfig(**settings(folder)), forget_dataset=images)
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
    write_csv(options.output_dir / "overhead.csv", rows)


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
    write_csv(options.output_dir / "processes.csv", rows)


def seconds_on(options, name: str, processes: int, threads: int) -> float:
    """Runs `updates` on so many processes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
        str(Path(__file__).with_name("benchmark_speed.py")), "updates", "--models", name,
        "--image_sizes", str(options.image_sizes[0]), "--batch_sizes", str(options.batch_sizes[0] // processes),
        "--num_perturbations", str(options.num_perturbations), "--num_images", str(options.num_images), "--device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("updates: "))


class NoGuard:
    """In place of the guard, which each process runs for itself."""

    passes = 0

    def __init__(self, *arguments, **named):
        pass

    def change(self) -> float:
        return 0.0


def measure_updates(options) -> None:
    """The updates of one run, on as many processes as were started; by the clock, for processes wait for each other."""
    trainer_module.Guard = NoGuard
    name, image_size = options.models[0], options.image_sizes[0]
    pixel_values = make_batch(options.num_images, image_size, "cpu")["pixel_values"]
    with tempfile.TemporaryDirectory() as folder:
        args = JiTConfig(
            output_dir=folder, step_rule="fixed", num_perturbations=options.num_perturbations, learning_rate=1e-9,
            noise_clamp="none", per_device_train_batch_size=options.batch_sizes[0], allow_collapse=True,
            disable_tqdm=True, logging_strategy="no", use_cpu=options.device == "cpu",
        )  # fmt: skip
        trainer = JiTTrainer(
            model=make_model(name, image_size), args=args, forget_dataset=[{"pixel_values": x} for x in pixel_values]
        )
        trainer.remove_callback(PrinterCallback)
        stopwatch = Stopwatch(time.perf_counter)
        trainer.add_callback(stopwatch)
        trainer.train()
    if trainer.is_world_process_zero():
        print("updates:", stopwatch.seconds, flush=True)
    trainer.end()


# ---- How cost grows ----


class SyntheticImages(torch.utils.data.Dataset):
    """Images made when they are asked for: none is kept."""

    def __init__(self, num_images: int, image_size: int):
        self.num_images = num_images
        self.image_size = image_size

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, row: int) -> dict:
        if row >= self.num_images:
            raise IndexError(row)
        generator = torch.Generator().manual_seed(row)
        return {"pixel_values": 2 * torch.rand(3, self.image_size, self.image_size, generator=generator) - 1}


def measure_growth(options) -> None:
    """Time and memory of a run of the fixed rule on the network of the demo, one thing varied at a time."""
    usual = {"images": 500, "perturbations": 5, "image_size": 32}
    varied = {
        "images": options.growth_images,
        "perturbations": [1, 4, 16, 100],
        "image_size": [32, 64, 128, 224],
    }
    rows = []
    for name, values in varied.items():
        for value in values:
            case = usual | {name: value} | ({"images": 100} if name == "image_size" else {})
            images = SyntheticImages(case["images"], case["image_size"])
            with tempfile.TemporaryDirectory() as folder:
                args = JiTConfig(
                    output_dir=folder, step_rule="fixed", num_perturbations=case["perturbations"], noise_clamp="batch",
                    learning_rate=1e-9, per_device_train_batch_size=32, allow_collapse=True, disable_tqdm=True,
                    logging_strategy="no", use_cpu=options.device == "cpu",
                )  # fmt: skip
                trainer = JiTTrainer(model=make_demo_model(), args=args, forget_dataset=images)
                trainer.remove_callback(PrinterCallback)
                stopwatch = Stopwatch()
                trainer.add_callback(stopwatch)
                peak = peak_mebibytes(trainer.train, options.device)
            rows.append(
                {"varied": name, **case, "seconds": f"{stopwatch.seconds:.4g}", "peak_mebibytes": f"{peak:.0f}"}
            )
            show(rows[-1:])
    write_csv(options.output_dir / "growth.csv", rows)
    draw_growth(rows, options.output_dir / "growth.png")


def draw_growth(rows: list[dict], path: Path) -> None:
    """Time, with a line of slope one through its last point, and memory."""
    names = {"images": "forget images", "perturbations": "perturbations N", "image_size": "image size, pixels"}
    figure, grid = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
    for (name, label), (above, below) in zip(names.items(), grid.T, strict=True):
        points = [
            (row[name], float(row["seconds"]), float(row["peak_mebibytes"])) for row in rows if row["varied"] == name
        ]
        values, seconds, peaks = zip(*points, strict=True)
        slope = 2 if name == "image_size" else 1
        above.loglog(values, [seconds[-1] * (v / values[-1]) ** slope for v in values], color="0.7", linestyle="--",
                     label="proportional" if slope == 1 else "proportional to pixels")  # fmt: skip
        above.loglog(values, seconds, "o-", color=COLOURS[0])
        below.semilogx(values, peaks, "o-", color=COLOURS[1])
        below.set_ylim(0, 1.3 * max(peaks))
        below.set_xlabel(label)
        above.legend(frameon=False)
        for axes in (above, below):
            axes.set_xticks(values, [f"{value:,}" for value in values])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("seconds of the updates")
    grid[1, 0].set_ylabel("peak memory of the run, MiB")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"Written: {path}")


# ---- Start-up ----

FIRST_UPDATE = """
import sys, time
start = time.perf_counter()
way = sys.argv.pop(1)
if way != "with peft":
    # transformers' Trainer imports it wherever it is installed; a plain installation of the package has none.
    import importlib.util as util
    find_spec = util.find_spec
    util.find_spec = lambda name, *rest: None if name == "peft" else find_spec(name, *rest)
from hf_unlearn import cli
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
        subprocess.run([sys.executable, "-m", "hf_unlearn.cli", "--help"], capture_output=True, check=True)
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
    write_csv(options.output_dir / "startup.csv", rows)
