"""
Train shadow models, have them unlearn, and attack them with U-LiRA and RMIA; the last numbers of docs/verification.md:

    python -m scripts.benchmarks.verification.shadow_models --model_name_or_path org/model --dataset_name org/data \
        --output_dir shadows --num_train_epochs 12 --learning_rate 2e-3 --per_device_train_batch_size 32

Each shadow model has the configuration of the model, fresh weights, and all training images but a random half of
--num_targets ones; then it unlearns the other half, by JiT's default and by the head alone, and a third is trained without
any of the targets, as retraining would. Give the recipe that the model was trained with. The logits are kept by a hash of everything that they depend on: a run that was interrupted goes on where it
stopped, more models can be added with a larger --num_models, and a changed recipe, image or version
(of this package, torch or transformers) starts anew. All images are held in memory by each of --num_processes.
"""

import copy
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
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_unlearn import __version__
from hf_unlearn.commands.arguments import DataArguments, ModelArguments, message_of
from hf_unlearn.commands.training_data import load_train_and_test
from hf_unlearn.data.image_dataset import ImageDataset, find_image_column
from hf_unlearn.data.labels import find_label_column, match_labels
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.attacks import ShadowModels, attack_shadow_models
from scripts.benchmarks.networks import be_quiet, quiet_trainer


# How the targets are forgotten; None: another model is trained without them.
WAYS = {"default": {}, "head": {"moving_weights": "head"}, "retrained": None}


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
    """Trains one model, has its targets forgotten in each way, and writes all logits; returns the seconds that it took."""
    start = time.perf_counter()
    members = members_of(number, args)
    others = np.arange(args.num_targets, len(images.train))
    seed = int(np.random.default_rng([args.seed, number, 1]).integers(2**31))
    model = train_model(images, np.concatenate([np.flatnonzero(members), others]), args, seed)
    logits = {"trained": logits_of(model, images, args)}
    for way, settings in WAYS.items():
        if settings is None:
            forgetful = train_model(images, others, args, seed + 1)
        else:
            forgetful = unlearn(copy.deepcopy(model), images, members, settings, seed)
        logits[way] = logits_of(forgetful, images, args)
    # Written aside first: what has its name is whole.
    aside = path.with_suffix(".incomplete.npz")
    np.savez(aside, members=members, **logits)
    aside.replace(path)
    return time.perf_counter() - start


def train_model(images: Images, rows: np.ndarray, args: ShadowArguments, seed: int) -> PreTrainedModel:
    """A model of the recipe, trained on these images."""
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
    return model


def unlearn(model: PreTrainedModel, images: Images, members: np.ndarray, settings: dict, seed: int) -> PreTrainedModel:
    """The model after JiT on its targets."""
    values = (images.train.pixel_values, images.train.labels)
    forget = Memory(*(value[: len(members)][members] for value in values))
    with tempfile.TemporaryDirectory() as folder:
        # A collapsed model is the method's fault, and the attack is to see it.
        trainer = quiet_trainer(
            model, forget, folder, images.image_processor, forget_kind="images", allow_collapse=True, seed=seed, **settings
        )  # fmt: skip
        trainer.train()
    return model


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
    stacked = {name: np.stack([file[name] for file in files]) for name in ("members", "trained", *WAYS)}
    ways = {
        way: ShadowModels(stacked["trained"], stacked[way], labels=labels, members=stacked["members"]) for way in WAYS
    }
    attacks = {way: attack_shadow_models(shadow_models) for way, shadow_models in ways.items()}
    # Before unlearning there is one model, whatever comes after.
    results = {"original": attacks["default"]["original"]}
    results |= {
        f"{game}, {way}": found
        for way, games in attacks.items()
        for game, found in games.items()
        if game != "original"
    }
    shares = accuracies({"trained": stacked["trained"]} | {way: stacked[way] for way in WAYS}, ways["default"])
    report(shares, results)
    settings = {
        name: value for name, value in asdict(args).items() if name not in ("output_dir", "model_name_or_path")
    }
    text = json.dumps({"settings": settings, "accuracy": shares, "attacks": results}, indent=2)
    (folder / "attacks.json").write_text(text + "\n", encoding="utf-8")
    return results


def accuracies(logits: dict[str, np.ndarray], shadow_models: ShadowModels) -> dict[str, float]:
    """Mean over the models: on targets that they were trained on, on those that they were not, and the population."""
    members, shares = shadow_models.members, {}
    for name, values in logits.items():
        hits = values.argmax(axis=-1) == shadow_models.labels
        shares[f"{name}, members"] = float(hits[:, : members.shape[1]][members].mean())
        shares[f"{name}, others"] = float(hits[:, : members.shape[1]][~members].mean())
        shares[f"{name}, population"] = float(hits[:, members.shape[1] :].mean())
    return shares


def report(shares: dict[str, float], results: dict) -> None:
    """The tables."""
    for name, share in shares.items():
        print(f"accuracy, {name}: {100 * share:.1f} %")
    print(f"\n{'':40}{'attack':8}{'AUC':>6}{'± s.e.':>8}{'TPR at 1 % FPR':>16}{'at 0.1 %':>10}")
    for game, attacks in results.items():
        for attack, rates in attacks.items():
            print(
                f"{game:40}{attack:8}{rates['auc']:6.3f}{rates['auc_standard_error']:8.3f}"
                f"{100 * rates['tpr_at_1_percent_fpr']:14.1f} %{100 * rates['tpr_at_0.1_percent_fpr']:8.1f} %"
            )


if __name__ == "__main__":
    parser = HfArgumentParser((DataArguments, ShadowArguments), description=__doc__.strip().splitlines()[0])
    try:
        main(*parser.parse_args_into_dataclasses(look_for_args_file=False))
    except InputError as error:
        sys.exit(f"shadow_models.py: error: {message_of(error)}")
