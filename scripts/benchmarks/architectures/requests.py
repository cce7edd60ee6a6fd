"""One request, from Python or by the command, and what became of the model."""

import io
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, evaluate_unlearning, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.unlearning.original import check_collapse
from scripts.benchmarks.architectures.fit import model_folder, pixels_and_labels
from scripts.benchmarks.architectures.models import make_refused
from scripts.benchmarks.architectures.pictures import CLASSES, KINDS, make_pictures
from scripts.benchmarks.auto_step.measure import BenchmarkTrainer
from scripts.benchmarks.networks import hits, quiet_trainer


NUM_IMAGES = 24  # Of a request for single images.
# The columns of the CSV; a run that breaks has no more than the first four and `error`.
COLUMNS = (
    "architecture", "kind", "request", "by", "num_images", "forget_train_before", "forget_train",
    "forget_test_before", "forget_test", "retain_train_before", "retain_train", "retain_test_before", "retain_test",
    "lost", "lost_train", "change_elsewhere", "distance_moved", "moved", "target", "reached", "refused", "saved",
    "logits_equal", "same_as_python", "seconds", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """
    Args:
        kind (`str`): `class`, `subclass` or `images`.
        name (`str`): of the class, of the kind of picture, or the seed of the draw.
    """

    kind: str
    name: str

    @property
    def request(self) -> ForgetRequest:
        if self.kind == "class":
            return ForgetRequest(classes=[self.name])
        if self.kind == "subclass":
            return ForgetRequest(column="kind", values=[self.name])
        return ForgetRequest(count=NUM_IMAGES, seed=int(self.name))

    @property
    def flags(self) -> list[str]:
        if self.kind == "class":
            return ["--forget_class", self.name]
        if self.kind == "subclass":
            return ["--forget_column", "kind", "--forget_value", self.name]
        return ["--forget_count", str(NUM_IMAGES), "--forget_seed", self.name]

    def forgotten(self, split: str) -> torch.Tensor:
        """True for each picture of a split that is asked to be forgotten, or is one of the same class or kind."""
        rows = make_pictures()[split]
        if self.kind == "class":
            return torch.tensor(rows["label"]) == CLASSES.index(self.name)
        if self.kind == "subclass":
            return torch.tensor(rows["kind"]) == KINDS.index(self.name)
        chosen = torch.zeros(len(rows), dtype=torch.bool)
        if split == "train":
            chosen[self.request.choose_random(len(rows))] = True
        return chosen


def unlearn_in_python(
    output_dir: Path, name: str, job: Job, keep: Path | None = None, stretch: float = 1.0, settings: dict | None = None
) -> dict:
    """
    The lines of the README, with allow_collapse: the damage shows, and the guard is asked afterwards.

    Args:
        stretch (`float`, *optional*, defaults to 1): the step that was found is made so many times as long.
        settings (`dict`, *optional*): of [`JiTConfig`], in place of the defaults.
        keep (`Path`, *optional*): where the unlearned model stays, one without a class with report and card, if the guard
            lets it.
    """
    model, image_processor, before = load_trained(output_dir, name, job)
    splits = split_dataset(make_pictures()["train"], job.request, test_dataset=make_pictures()["test"])
    with tempfile.TemporaryDirectory() as folder:
        folder, started = keep or Path(folder), time.time()
        trainer = quiet_trainer(
            model, splits["forget"], str(folder), image_processor, BenchmarkTrainer, allow_collapse=True,
            **(settings or {}),
        )  # fmt: skip
        trainer.stretch = stretch
        refused = ""
        try:
            trainer.train()
        except CollapsedModelError:
            # Even with allow_collapse no step is taken along a gradient that is not finite.
            refused = "not finite"
        row = {"num_images": len(splits["forget"]), **before, **accuracies(model, name, job)}
        if not refused:
            row |= {
                "change_elsewhere": trainer.change,
                "distance_moved": trainer.distance_moved(),
                "moved": trainer.args.moving_weights,
            }
            if trainer.step is not None:
                row |= {"target": 100 * trainer.step.target, "reached": 100 * trainer.step.accuracy}
            refused = "" if passes_guard(trainer) else "collapsed"
        if not refused:
            if keep and job.kind == "class":
                # Once an architecture: the command does it for each kind of request.
                original, _, _ = load_trained(output_dir, name, job)
                trainer.save_report(evaluate_unlearning(model, splits, image_processor, original_model=original))
            else:
                trainer.save_model()
            row |= {"logits_equal": same_logits(model, load(folder)[0], name)}
        return row | {"refused": refused, "saved": not refused, "seconds": time.time() - started}


def passes_guard(trainer: JiTTrainer) -> bool:
    """The package's own verdict; on `False` the model has its original weights again."""
    trainer.args.allow_collapse = False
    try:
        check_collapse(trainer)
    except CollapsedModelError:
        return False
    return True


def unlearn_by_command(output_dir: Path, name: str, job: Job, from_python: Path) -> dict:
    """`hf-unlearn run` with the defaults; the result is compared with that of Python in the folder `from_python`."""
    _, _, before = load_trained(output_dir, name, job)
    pictures = output_dir / "pictures"
    if not pictures.exists():
        make_pictures().save_to_disk(str(pictures))
    with tempfile.TemporaryDirectory() as folder:
        out, started = Path(folder) / "out", time.time()
        source = ["--model_name_or_path", str(model_folder(output_dir, name)), "--dataset_name", str(pictures)]
        code, last_line = run_command(["run", *source, *job.flags, "--output_dir", str(out), "--use_cpu", "True"])
        seconds = time.time() - started
        if code != 0:
            refused = {2: "input", 3: "collapsed"}.get(code, f"exit code {code}")
            # Not where this machine keeps its models.
            message = last_line.replace(f"{output_dir}/", "").replace(f"{folder}/", "")
            return {**before, "refused": refused, "saved": is_saved(out), "seconds": seconds, "error": message}
        model, _ = load(out)
        row = {"num_images": int(job.forgotten("train").sum()), **before, **accuracies(model, name, job)}
        if from_python.exists():
            row["same_as_python"] = same_logits(model, load(from_python)[0], name)
        return row | {"refused": "", "saved": True, "seconds": seconds}


def run_command(argv: list[str]) -> tuple[int, str]:
    """The exit code and the last line on standard error."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main(argv)
    lines = errors.getvalue().strip().splitlines()
    return code, lines[-1] if lines else ""


def refuse(output_dir: Path, model_type: str) -> list[dict]:
    """What Python and the command say to a model that gives no logits or takes no pixel values."""
    model, image_processor = make_refused(model_type)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        forget = split_dataset(make_pictures()["train"], ForgetRequest(classes=[CLASSES[0]]))["forget"]
        try:
            JiTTrainer(model, JiTConfig(str(folder / "out")), processing_class=image_processor, forget_dataset=forget)
            message = ""
        except InputError as error:
            message = str(error)
        rows.append({"by": "python", "refused": "input" if message else "", "error": message})
        model.save_pretrained(folder / "model")
        image_processor.save_pretrained(folder / "model")
        make_pictures().save_to_disk(str(folder / "pictures"))
        source = ["--model_name_or_path", str(folder / "model"), "--dataset_name", str(folder / "pictures")]
        code, last_line = run_command(
            ["run", *source, "--forget_class", CLASSES[0], "--output_dir", str(folder / "out"), "--use_cpu", "True"]
        )
        rows.append({"by": "command", "refused": "input" if code == 2 else f"exit code {code}", "error": last_line})
        saved = is_saved(folder / "out")
    return [
        dict.fromkeys(COLUMNS, "")
        | {"architecture": model_type, "kind": "refused", "request": CLASSES[0], "saved": saved, **row}
        for row in rows
    ]


def is_saved(folder: Path) -> bool:
    """Of a run that was refused an empty folder may stay, and no weights."""
    return any(folder.glob("*.safetensors"))


def one_line(error: Exception) -> str:
    """What went wrong and in which function of the package it began."""
    lines = str(error).splitlines() or [""]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "hf_unlearn" in frame.filename]
    where = f" ({Path(frames[-1].filename).name}, {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {lines[0]}{where}"


def load(folder: Path):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return model, AutoImageProcessor.from_pretrained(folder)


def load_trained(output_dir: Path, name: str, job: Job):
    """The trained model, its image processor, and its accuracies on what the job forgets and on the rest."""
    model, image_processor = load(model_folder(output_dir, name))
    before = accuracies(model, name, job)
    return model, image_processor, {f"{key}_before": value for key, value in before.items() if "lost" not in key}


def accuracies(model, name: str, job: Job) -> dict:
    """In percent, on what is forgotten and on the rest, of the training pictures and of the unseen ones."""
    values = {}
    for split in ("train", "test"):
        found, forgotten = torch.tensor(hits(model, *pixels_and_labels(name, split))), job.forgotten(split)
        if forgotten.any():
            values[f"forget_{split}"] = 100 * found[forgotten].mean().item()
        values[f"retain_{split}"] = 100 * found[~forgotten].mean().item()
    return values


@torch.no_grad()
def same_logits(model, other, name: str) -> bool:
    """Whether two models say the same, to the bit, of the first unseen pictures."""
    pixel_values = pixels_and_labels(name, "test")[0][:64]
    return torch.equal(model(pixel_values=pixel_values).logits, other(pixel_values=pixel_values).logits)
