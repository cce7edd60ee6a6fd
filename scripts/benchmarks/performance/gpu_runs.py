"""Parts of gpu_check.py that time whole runs, stage by stage: JiT and rebuild, from raw images to the card."""

import copy
import io
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from torch.nn.functional import cross_entropy
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_unlearn import JiTTrainer, evaluate_unlearning
from hf_unlearn.data.image_dataset import ImageDataset, find_image_column
from hf_unlearn.methods.rebuild import RebuildTrainer
from hf_unlearn.methods.rebuild_config import RebuildConfig
from hf_unlearn.unlearning import surrogates
from hf_unlearn.unlearning.guard import Guard
from hf_unlearn.unlearning.head_edit import find_heads
from hf_unlearn.unlearning.original import ObserveOriginal
from scripts.benchmarks.networks import be_quiet, quiet_trainer
from scripts.benchmarks.performance.clocks import resident
from scripts.benchmarks.results import append_rows, show


# What a stage is, as methods that are timed; time inside another stage counts for the inner one.
STAGES = {
    "look": [(ObserveOriginal, "on_train_begin")],
    "guard": [(Guard, "__init__"), (Guard, "change")],
    "update": [(JiTTrainer, "training_step"), (RebuildTrainer, "training_step")],
    "search": [(JiTTrainer, "finish")],
    "prepare": [(RebuildTrainer, "prepare")],
    "judge": [(RebuildTrainer, "judge")],
    "decode": [(ImageDataset, "read")],
}
NUM_SINGLE, NUM_OTHERS = 60, 1000
# For the last estimate, saving, evaluation and card of rebuild.
SECONDS_AFTER = 20


# ---- Pictures and networks ----


def made_pictures(number: int, num_classes: int, size: int, seed: int, names: list[str] | None = None) -> Dataset:
    """Stripes, a direction and a colour for each class, with noise; the first third is of class 0, as JPEG."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.zeros(number // 3, int), np.arange(number - number // 3) % num_classes])
    down, across = np.mgrid[:size, :size] / size
    rows = []
    for label in labels:
        colour = np.random.default_rng(label).uniform(0.3, 1.0, 3)
        angle, phase = np.pi * label / num_classes, random.uniform(0, 2 * np.pi)
        stripes = np.sin(25 * (across * np.cos(angle) + down * np.sin(angle)) + phase)
        picture = 127 + 70 * stripes[..., None] * colour + random.normal(0, 25, (size, size, 3))
        file = io.BytesIO()
        PILImage.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        rows.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(names=names or [str(k) for k in range(num_classes)])})
    return Dataset.from_dict({"image": rows, "label": labels.tolist()}, features=features)


def read_parquet(path: str) -> Dataset:
    """The images and labels of a parquet file, in columns of these names."""
    rows = load_dataset("parquet", data_files=path, split="train")
    column = find_image_column(rows)
    rows = rows.select_columns([column, "label"])
    return rows if column == "image" else rows.rename_column(column, "image")


def classifier_and_photographs(options) -> tuple:
    """What was given, or MobileNetV2 with random weights and pictures that are made."""
    given = read_parquet(options.dataset_name) if options.dataset_name else None
    if options.model_name_or_path:
        model = AutoModelForImageClassification.from_pretrained(options.model_name_or_path, dtype=torch.float32)
        image_processor = AutoImageProcessor.from_pretrained(options.model_name_or_path)
    else:
        names = given.features["label"].names if given is not None else [str(k) for k in range(1000)]
        config = MobileNetV2Config(id2label=dict(enumerate(names)), label2id={name: k for k, name in enumerate(names)})
        torch.manual_seed(0)
        model = MobileNetV2ForImageClassification(config)
        size = 64 if options.small else 224
        image_processor = ViTImageProcessorPil(size={"height": size, "width": size})
    if given is None:
        names = [model.config.id2label[k] for k in range(model.config.num_labels)]
        given = made_pictures(36 if options.small else 360, len(names), 64 if options.small else 224, 0, names)
    print(f"Weights: {options.model_name_or_path or 'random'}. Photographs: {options.dataset_name or 'made'}.")
    return model.eval(), image_processor, given


def forget_and_others(rows: Dataset, at_most: int = NUM_OTHERS) -> tuple[Dataset, Dataset]:
    """The class that has most images, and the others, in random order."""
    labels = np.array(rows["label"])
    most = np.bincount(labels[labels >= 0]).argmax()
    others = np.random.default_rng(0).permutation((labels != most).nonzero()[0])[:at_most]
    return rows.select((labels == most).nonzero()[0]), rows.select(others)


# ---- A run, stage by stage ----


class Stages:
    """Seconds of each stage, without those of stages inside it, and the images that passed through the network."""

    def __init__(self, device: str):
        self.device, self.open, self.last = device, [], time.perf_counter()
        self.seconds, self.images = Counter(), Counter()

    def charge(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.last
        self.last = now

    @contextmanager
    def stage(self, name: str):
        self.charge()
        self.open.append(name)
        try:
            yield
        finally:
            self.charge()
            self.open.pop()

    def count(self, number: int) -> None:
        if self.open:
            self.images[self.open[-1]] += number

    def timed(self, name: str, method: Callable) -> Callable:
        def wrapped(owner, *arguments, **named):
            with self.stage(name):
                if name == "decode":
                    self.count(len(arguments[0]))
                return method(owner, *arguments, **named)

        return wrapped

    def watch(self, *models) -> None:
        """Counts the images that reach the last layer of these models, which is where features pass as well."""
        for model in models:
            size = 32 if getattr(model.config, "image_size", 224) == 32 else 64
            device = next(model.parameters()).device
            for head in find_heads(model, torch.zeros(1, 3, size, size, device=device))[:1]:
                head.register_forward_pre_hook(lambda module, args: self.count(len(args[0])))


def timed_run(
    options, run: str, model, image_processor, forget: Dataset, others: Dataset, note: Callable[..., str], **settings
):
    """
    A whole run from raw images to the card, and a row for each of its stages.

    Args:
        run (`str`): what to call it.
        note (`Callable`): what to say of the trainer when it has ended.
        settings: of [`quiet_trainer`], and `callback`.
    """
    callback = settings.pop("callback", None)
    original, stages = copy.deepcopy(model).to(options.device), Stages(options.device)
    model = copy.deepcopy(model).to(options.device)
    stages.watch(model, original)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as timing:
        for name, methods in STAGES.items():
            for owner, attribute in methods:
                timed = stages.timed(name, getattr(owner, attribute))
                timing.enter_context(patch.object(owner, attribute, timed))
        timing.enter_context(stages.stage("rest"))
        trainer = quiet_trainer(
            model, forget, folder, image_processor, allow_collapse=True, use_cpu=options.device == "cpu", **settings
        )
        if callback is not None:
            trainer.add_callback(callback)
        trainer.train()
        with stages.stage("save"):
            trainer.save_model(_internal_call=True)
        with stages.stage("evaluation"):
            splits = {"forget": forget, "retain_test": others}
            report = evaluate_unlearning(trainer.model, splits, image_processor, original_model=original)
        with stages.stage("card"):
            trainer.save_report(report)
    metrics = {name: report.results[name]["metrics"] for name in ("original", "unlearned")}
    said = ", ".join(
        f"{split} {100 * metrics['original'][f'{split}_accuracy']:.1f} -> {100 * metrics['unlearned'][f'{split}_accuracy']:.1f} %"
        for split in ("forget", "retain_test")
    )
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resident("VmHWM")
    rows = []
    for name, seconds in stages.seconds.most_common():
        number = stages.images[name]
        rows.append(row_of(run, name, seconds, number, f"{number / seconds:.4g}" if number else ""))
    total = row_of(
        run, "all", sum(stages.seconds.values()), len(forget), f"{len(forget) / stages.seconds.total():.4g}"
    )
    total |= {"peak_mebibytes": f"{peak:.0f}", "note": f"{said}; {note(trainer)}"}
    write(options, [*rows, total])
    return trainer


def row_of(run: str, stage: str, seconds: float, images: int, rate: str) -> dict:
    """Images are those that went through the network, forward, and that were read in `decode`."""
    row = {"run": run, "stage": stage, "seconds": f"{seconds:.3f}", "images": images, "images_per_second": rate}
    return row | {"peak_mebibytes": "", "note": ""}


def write(options, rows: list[dict]) -> None:
    show(rows)
    append_rows(options.output_dir / "runs.csv", rows)


def step_of(trainer) -> str:
    step = trainer.step
    return (
        f"{step.kind}, step {step.length:.2g}, {step.evaluations} evaluations, change elsewhere {trainer.change:.2f}"
    )


def updates_of(trainer) -> str:
    return f"{trainer.state.global_step} updates, estimated {trainer.accuracy_lost:.1f} points lost"


class StopAfter(TrainerCallback):
    """Ends the updates after `--rebuild_seconds`, or so early that what comes after them has time."""

    def __init__(self, options):
        self.seconds, self.end = options.rebuild_seconds, options.until - SECONDS_AFTER

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 0:
            self.end = min(self.end, time.monotonic() + self.seconds)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop |= time.monotonic() > self.end


# ---- The parts ----


def measure_jit(options) -> None:
    """JiT with its defaults on a class and on single images, each once to warm up and once measured."""
    quiet()
    model, image_processor, rows = classifier_and_photographs(options)
    forget, others = forget_and_others(rows, 12 if options.small else NUM_OTHERS)
    number = 6 if options.small else NUM_SINGLE
    single = rows.select(np.random.default_rng(1).permutation(len(rows))[:number])
    run = partial(timed_run, options, model=model, image_processor=image_processor, others=others, note=step_of)
    for turn in ("first run of the process", "again"):
        run(f"jit, class of {len(forget)}, {turn}", forget=forget, forget_kind="class")
        run(f"jit, {len(single)} single images, {turn}", forget=single, forget_kind="images")
        if options.small:
            break


def measure_rebuild(options) -> None:
    """Rebuild on the model of `jit`, stopped by the clock."""
    quiet()
    model, image_processor, rows = classifier_and_photographs(options)
    forget, others = forget_and_others(rows, 12 if options.small else NUM_OTHERS)
    rebuild(
        options, f"rebuild, class of {len(forget)}", model, image_processor, forget, others, options.rebuild_seconds
    )


def rebuild(options, run: str, model, image_processor, forget: Dataset, others: Dataset) -> None:
    # Two updates and few impressions, which take longer than they.
    settings = {"num_updates": 2, "max_accuracy_lost": 100.0} if options.small else {}
    with patch.object(surrogates, "MAX_IMPRESSIONS", 20) if options.small else nullcontext():
        timed_run(
            options, run, model, image_processor, forget, others, updates_of, trainer_class=RebuildTrainer,
            config_class=RebuildConfig, forget_kind="class", callback=StopAfter(options), **settings,
        )  # fmt: skip


def measure_vit(options) -> None:
    """A ViT trained on the spot, and JiT and the whole of rebuild on it."""
    quiet()
    if options.train_dataset_name:
        rows = read_parquet(options.train_dataset_name)
    else:
        rows = made_pictures(120 if options.small else 6000, 10, 32, 0)
    print(f"Training images: {options.train_dataset_name or 'made'}.")
    names = rows.features["label"].names
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    order = np.random.default_rng(0).permutation(len(rows))
    test, train = rows.select(order[: len(rows) // 6]), rows.select(order[len(rows) // 6 :])
    model = train_vit(options, train, image_processor, names)
    forget, _ = forget_and_others(train)
    forget = forget.select(range(min(len(forget), 500)))
    _, others = forget_and_others(test)
    # Of the test images the same class: the most common one of the training images.
    own = forget[0]["label"]
    others = test.select([row for row, label in enumerate(test["label"]) if label != own][:NUM_OTHERS])
    run = partial(timed_run, options, model=model, image_processor=image_processor, others=others, note=step_of)
    run(f"vit, jit, class of {len(forget)}", forget=forget, forget_kind="class")
    single = train.select(range(6 if options.small else NUM_SINGLE))
    run(f"vit, jit, {len(single)} single images", forget=single, forget_kind="images")
    # To its end, unless the time of the part comes first.
    options.rebuild_seconds = math.inf
    rebuild(options, f"vit, rebuild, class of {len(forget)}", model, image_processor, forget, others)


def train_vit(options, train: Dataset, image_processor, names: list[str]):
    """A small ViT, trained for `--train_seconds` with all images on the device."""
    depth, width = (2, 48) if options.small else (6, 192)
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=4, hidden_size=width, num_hidden_layers=depth, num_attention_heads=3,
        intermediate_size=4 * width, id2label=dict(enumerate(names)), label2id={name: k for k, name in enumerate(names)},
    )  # fmt: skip
    model = ViTForImageClassification(config).to(options.device)
    images = ImageDataset(train, image_processor)
    x = torch.stack(images.read(list(range(len(images))))).to(options.device)
    y = torch.tensor(train["label"]).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    start, seen, share = time.monotonic(), 0, 0.0
    model.train()
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 10 * share + 0.01) * (1 - share)
        rows = torch.randint(len(x), (min(256, len(x)),), device=options.device)
        batch = x[rows]
        batch = torch.where(torch.rand(len(rows), 1, 1, 1, device=options.device) < 0.5, batch, batch.flip(3))
        batch = batch.roll(torch.randint(-3, 4, (2,)).tolist(), dims=(2, 3))
        in_bf16 = torch.autocast("cuda", torch.bfloat16) if options.device == "cuda" else nullcontext()
        with in_bf16:
            loss = cross_entropy(model(pixel_values=batch).logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(rows)
        if options.device == "cuda":
            torch.cuda.synchronize()
        share = (time.monotonic() - start) / options.train_seconds
    seconds = time.monotonic() - start
    write(options, [row_of("vit, training", "all", seconds, seen, f"{seen / seconds:.5g}")])
    return model.eval()


def quiet() -> None:
    be_quiet()
    transformers.utils.logging.set_verbosity_error()
