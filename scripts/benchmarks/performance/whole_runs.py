"""Parts of run.py that time whole runs, and measure what they need and give."""

import copy
import io
import statistics
import tempfile
from pathlib import Path

import torch
from datasets import Features, Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from hf_unlearn import JiTTrainer
from hf_unlearn.data.image_dataset import ImageDataset, find_image_column
from hf_unlearn.data.sources import load_dataset
from hf_unlearn.unlearning.guard import Guard
from scripts.benchmarks.networks import FASHION_MNIST, SANDAL, Options, hits, load_data, quiet_trainer
from scripts.benchmarks.networks import load_model as load_network
from scripts.benchmarks.performance.clocks import COLOURS, alternate, median_ratio, now, peak_mebibytes
from scripts.benchmarks.performance.models import (
    MODELS,
    SEED,
    make_demo_model,
    make_model,
    model_forward,
    released_update,
)
from scripts.benchmarks.performance.trainer_loop import Stopwatch
from scripts.benchmarks.results import new_figure, save_figure, show, write_rows


# ---- The automatic step, from raw images to the end ----


def timed(method):
    """A method of the guard that adds its seconds to the guard's own."""

    def wrapped(self, *arguments, **named):
        start = now()
        result = method(self, *arguments, **named)
        self.seconds = getattr(self, "seconds", 0) + now() - start
        return result

    return wrapped


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
                images = images_class(dataset, image_processor)
                trainer = quiet_trainer(
                    copy.deepcopy(original), images, folder, image_processor, trainer_class, forget_kind="subclass",
                    forget_target=0.5, allow_collapse=True, per_device_train_batch_size=options.batch_sizes[0],
                    use_cpu=options.device == "cpu",
                )  # fmt: skip
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
    Guard.__init__, Guard.change = timed(Guard.__init__), timed(Guard.change)
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
    write_rows(options.output_dir / f"auto-{rows[0]['model']}-{size}-{len(dataset)}.csv", rows)


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
    write_rows(options.output_dir / "loading.csv", rows)


# ---- What bfloat16 changes ----


def measure_precision(options) -> None:
    """Accuracies of small networks without sandals, perturbed passes in float32 and in bfloat16."""
    fashion = Options(models_dir=options.models_dir, data_dir=FASHION_MNIST, cifar_dir=None)
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
                model = load_network(fashion, architecture, "full", 0)
                with tempfile.TemporaryDirectory() as folder:
                    trainer = quiet_trainer(
                        model, forget, folder, num_perturbations=5, noise_clamp="none", seed=SEED, allow_collapse=True,
                        per_device_train_batch_size=50, use_cpu=True, bf16_perturbations=bf16_perturbations,
                        forget_kind="class", **settings,
                    )  # fmt: skip
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
    write_rows(options.output_dir / "precision.csv", rows)


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
                trainer = quiet_trainer(
                    make_demo_model(), images, folder, step_rule="fixed", num_perturbations=case["perturbations"],
                    noise_clamp="batch", learning_rate=1e-9, per_device_train_batch_size=32, allow_collapse=True,
                    use_cpu=options.device == "cpu",
                )  # fmt: skip
                stopwatch = Stopwatch()
                trainer.add_callback(stopwatch)
                peak = peak_mebibytes(trainer.train, options.device)
            rows.append(
                {"varied": name, **case, "seconds": f"{stopwatch.seconds:.4g}", "peak_mebibytes": f"{peak:.0f}"}
            )
            show(rows[-1:])
    write_rows(options.output_dir / "growth.csv", rows)
    draw_growth(rows, options.output_dir / "growth.png")


def draw_growth(rows: list[dict], path: Path) -> None:
    """Time, with a line of slope one through its last point, and memory."""
    names = {"images": "forget images", "perturbations": "perturbations N", "image_size": "image size, pixels"}
    figure = new_figure(10, 5)
    grid = figure.subplots(2, 3)
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
    save_figure(figure, path)
