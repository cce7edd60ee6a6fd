"""
Train shadow models, have them unlearn, and attack them with U-LiRA and RMIA; the last numbers of docs/verification.md:

    python -m scripts.benchmarks.verification.shadow_models --model_name_or_path org/model --dataset_name org/data \
        --output_dir shadows --num_train_epochs 12 --learning_rate 2e-3 --per_device_train_batch_size 32

Each shadow model has the configuration of the model, fresh weights, and all training images but a random half of
--num_targets ones; then it unlearns the other half with JiT's defaults. Give the recipe that the model was trained
with. The logits are kept by a hash of everything that they depend on: a run that was interrupted goes on where it
stopped, more models can be added with a larger --num_models, and a changed recipe, image or version
(of this package, torch or transformers) starts anew. All images are held in memory by each of --num_processes.
"""

import hashlib
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_unlearn import __version__
from hf_unlearn.commands.arguments import DataArguments, ModelArguments, message_of
from hf_unlearn.commands.loading import load_train_and_test
from hf_unlearn.data.image_dataset import ImageDataset, find_image_column
from hf_unlearn.data.labels import find_label_column, match_labels
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.attacks import ShadowModels, attack_shadow_models
from scripts.benchmarks.networks import be_quiet, quiet_trainer


@dataclass
class ShadowArguments:
    """How many shadow models, of what, and trained how."""

    model_name_or_path: str = field(
        metadata={"help": "Its configuration and image processor are used, not its weights."}
    )
    output_dir: str = field(metadata={"help": "Where the logits and the results go."})
    num_models: int = field(default=16, metadata={"help": "Shadow models: an even number, at least 6."})
    num_targets: int = field(default=100, metadata={"help": "Training images that are attacked."})
    num_population: int = field(default=400, metadata={"help": "Unseen images that RMIA compares with."})
    num_processes: int = field(default=2, metadata={"help": "Models trained at the same time, one thread each."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Of the recipe."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Of the recipe."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Of the recipe."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of the recipe."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many images alone."})
    seed: int = field(default=0, metadata={"help": "Of the choice of images and of all training runs."})


class Memory(torch.utils.data.Dataset):
    """Preprocessed images in memory."""

    def __init__(self, pixel_values: torch.Tensor, labels: torch.Tensor):
        self.pixel_values, self.labels = pixel_values, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": self.pixel_values[row], "labels": int(self.labels[row])}


@dataclass
class Images:
    """The training images, of which the first `num_targets` are the targets, and the population."""

    train: Memory
    population: Memory
    image_processor: object
    config: object


def load_images(data_args: DataArguments, args: ShadowArguments) -> Images:
    """Draws the targets and the population and preprocesses everything once."""
    image_processor = AutoImageProcessor.from_pretrained(args.model_name_or_path)
    config = AutoConfig.from_pretrained(args.model_name_or_path)
    train, test = load_train_and_test(data_args, ModelArguments(model_name_or_path=args.model_name_or_path))
    if train is None or test is None:
        raise InputError("dataset_name", "is missing, or has no unseen images: training and unseen ones are needed.")
    if args.max_train_samples is not None:
        train = train.select(range(min(args.max_train_samples, len(train))))
    if args.num_targets < 2 or args.num_targets >= len(train):
        raise InputError("num_targets", f"must lie between 2 and {len(train) - 1}, got {args.num_targets}.")
    if args.num_models < 6 or args.num_models % 2:
        raise InputError("num_models", f"must be an even number of at least 6, got {args.num_models}.")
    rng = np.random.default_rng(args.seed)
    train = train.select(rng.permutation(len(train)))
    test = test.select(rng.permutation(len(test))[: args.num_population])

    def prepare(dataset) -> Memory:
        column = find_label_column(dataset, data_args.label_column_name, config.id2label)
        if column is None:
            raise InputError("label_column_name", "the images need labels.")
        label_ids = match_labels(dataset, column, config.id2label)
        image_column = find_image_column(dataset, data_args.image_column_name)
        items = ImageDataset(dataset, image_processor, image_column, column, label_ids)
        items = [item for start in range(0, len(items), 256) for item in items.__getitems__(rows(start, len(items)))]
        return Memory(
            torch.stack([item["pixel_values"] for item in items]), torch.tensor([item["labels"] for item in items])
        )

    def rows(start: int, length: int) -> list[int]:
        return list(range(start, min(start + 256, length)))

    return Images(prepare(train), prepare(test), image_processor, config)


def members_of(number: int, args: ShadowArguments) -> np.ndarray:
    """The targets that a shadow model is trained on: a random half, and the other half for the next model."""
    half = np.random.default_rng([args.seed, number // 2]).permutation(args.num_targets) < args.num_targets // 2
    return half if number % 2 == 0 else ~half


def content_key(number: int, images: Images, args: ShadowArguments) -> str:
    """A hash of everything that a shadow model's logits depend on."""
    recipe = asdict(args)
    for name in ("model_name_or_path", "output_dir", "num_models", "num_processes"):
        del recipe[name]
    config = images.config.to_dict()
    config.pop("_name_or_path", None)
    facts = {
        "number": number, "recipe": recipe, "config": config, "image_processor": images.image_processor.to_dict(),
        "versions": [__version__, torch.__version__, transformers.__version__],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for part in (images.train, images.population):
        digest.update(part.pixel_values.numpy().tobytes())
        digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()[:32]


def train_shadow_model(number: int, images: Images, args: ShadowArguments, path: Path) -> float:
    """Trains one model, has it unlearn its targets, and writes its logits; returns the seconds that it took."""
    start = time.perf_counter()
    members = members_of(number, args)
    rows = np.concatenate([np.flatnonzero(members), np.arange(args.num_targets, len(images.train))])
    forget = Memory(
        *(values[: args.num_targets][members] for values in (images.train.pixel_values, images.train.labels))
    )
    seed = int(np.random.default_rng([args.seed, number, 1]).integers(2**31))
    set_seed(seed)
    model = AutoModelForImageClassification.from_config(images.config)
    model.accepts_loss_kwargs = False
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingArguments(
            folder, num_train_epochs=args.num_train_epochs, learning_rate=args.learning_rate,
            per_device_train_batch_size=args.per_device_train_batch_size, weight_decay=args.weight_decay, seed=seed,
            dataloader_pin_memory=False, disable_tqdm=True, logging_strategy="no", save_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, config, train_dataset=torch.utils.data.Subset(images.train, rows.tolist()))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trained = logits_of(model, images, args)
        # A collapsed model is the method's fault, and the attack is to see it.
        trainer = quiet_trainer(
            model, forget, folder, images.image_processor, forget_kind="images", allow_collapse=True, seed=seed
        )
        trainer.train()
        unlearned = logits_of(model, images, args)
    # Written aside first: what has its name is whole.
    aside = path.with_suffix(".incomplete.npz")
    np.savez(aside, trained=trained, unlearned=unlearned, members=members)
    aside.replace(path)
    return time.perf_counter() - start


@torch.no_grad()
def logits_of(model, images: Images, args: ShadowArguments) -> np.ndarray:
    """Of the targets and the population, of shape `(n + m, K)`."""
    model.eval()
    pixel_values = torch.cat([images.train.pixel_values[: args.num_targets], images.population.pixel_values])
    device = next(model.parameters()).device
    return torch.cat(
        [model(pixel_values=batch.to(device)).logits.float().cpu() for batch in pixel_values.split(64)]
    ).numpy()


# ---- The processes ----

_images = None


def start_process(data_args: DataArguments, args: ShadowArguments) -> None:
    """Loads the images once per process."""
    global _images
    be_quiet()
    torch.set_num_threads(1)
    _images = load_images(data_args, args)


def work(number: int, args: ShadowArguments, path: Path) -> tuple[int, float]:
    return number, train_shadow_model(number, _images, args, path)


def main(data_args: DataArguments, args: ShadowArguments) -> dict:
    """Trains what is missing, attacks, prints and writes `attacks.json`."""
    be_quiet()
    folder = Path(args.output_dir)
    images = load_images(data_args, args)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {number: folder / f"{content_key(number, images, args)}.npz" for number in range(args.num_models)}
    missing = [number for number, path in paths.items() if not path.exists()]
    print(f"{len(paths) - len(missing)} of {len(paths)} shadow models are there already.", flush=True)
    start = time.perf_counter()
    if missing:
        with ProcessPoolExecutor(
            min(args.num_processes, len(missing)), get_context("spawn"), start_process, (data_args, args)
        ) as pool:
            futures = [pool.submit(work, number, args, paths[number]) for number in missing]
            for done, future in enumerate(as_completed(futures), 1):
                number, seconds = future.result()
                minutes = (time.perf_counter() - start) / 60
                print(
                    f"Shadow model {number}: {seconds:.0f} s; {done} of {len(missing)} in {minutes:.1f} minutes.",
                    flush=True,
                )
    files = [np.load(paths[number]) for number in range(args.num_models)]
    labels = torch.cat([images.train.labels[: args.num_targets], images.population.labels]).numpy()
    shadow_models = ShadowModels(
        trained=np.stack([file["trained"] for file in files]),
        unlearned=np.stack([file["unlearned"] for file in files]),
        labels=labels,
        members=np.stack([file["members"] for file in files]),
    )
    results = attack_shadow_models(shadow_models)
    report(shadow_models, results)
    settings = {
        name: value for name, value in asdict(args).items() if name not in ("output_dir", "model_name_or_path")
    }
    text = json.dumps({"settings": settings, "accuracy": accuracies(shadow_models), "attacks": results}, indent=2)
    (folder / "attacks.json").write_text(text + "\n", encoding="utf-8")
    return results


def accuracies(shadow_models: ShadowModels) -> dict[str, float]:
    """Mean over the models: on targets that they were trained on, on those that they were not, and the population."""
    num_targets, shares = shadow_models.members.shape[1], {}
    for name in ("trained", "unlearned"):
        hits = getattr(shadow_models, name).argmax(axis=-1) == shadow_models.labels
        shares[f"{name}, members"] = float(hits[:, :num_targets][shadow_models.members].mean())
        shares[f"{name}, others"] = float(hits[:, :num_targets][~shadow_models.members].mean())
        shares[f"{name}, population"] = float(hits[:, num_targets:].mean())
    return shares


def report(shadow_models: ShadowModels, results: dict) -> None:
    """The tables."""
    for name, share in accuracies(shadow_models).items():
        print(f"accuracy, {name}: {100 * share:.1f} %")
    print(f"\n{'':28}{'attack':8}{'AUC':>6}{'± s.e.':>8}{'TPR at 1 % FPR':>16}{'at 0.1 %':>10}")
    for game, attacks in results.items():
        for attack, rates in attacks.items():
            print(
                f"{game:28}{attack:8}{rates['auc']:6.3f}{rates['auc_standard_error']:8.3f}"
                f"{100 * rates['tpr_at_1_percent_fpr']:14.1f} %{100 * rates['tpr_at_0.1_percent_fpr']:8.1f} %"
            )


if __name__ == "__main__":
    parser = HfArgumentParser((DataArguments, ShadowArguments), description=__doc__.strip().splitlines()[0])
    try:
        main(*parser.parse_args_into_dataclasses(look_for_args_file=False))
    except InputError as error:
        sys.exit(f"shadow_models.py: error: {message_of(error)}")
