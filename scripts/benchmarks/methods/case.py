"""One request to one model, as run.py runs it: its models, its images, and what a method makes of them."""

import copy
import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import Subset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    TrainingArguments,
)

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.arguments import DataArguments, ForgetArguments, ModelArguments
from hf_unlearn.commands.training_data import load_train_and_test
from hf_unlearn.data.image_dataset import ImageDataset, find_image_column
from hf_unlearn.data.labels import match_labels
from hf_unlearn.data.splits import split_dataset
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.evaluation.evaluate import make_report, unique_names
from hf_unlearn.evaluation.logits import collect_logits
from hf_unlearn.methods import load_method
from hf_unlearn.publication.report import METRICS
from hf_unlearn.terminal import printing
from hf_unlearn.unlearning.random_model import random_model
from scripts import train_classifier
from scripts.benchmarks.methods import vgg  # noqa: F401  (makes the model type plain_vgg known)


@dataclass
class Case:
    """
    A request to one model, with everything that all methods share.

    Args:
        config (`dict`): the YAML file.
        output_dir (`Path`): where models and rows go.
        model_name, scenario (`str`): keys of the file.
        number (`int`): which of the scenario's requests and of the seeds; -1: those of the search.
    """

    config: dict
    output_dir: Path
    model_name: str
    scenario: str
    number: int

    @property
    def seeds(self) -> dict[str, int]:
        """Of training, request, unlearning and evaluation: four streams that have no seed in common."""
        position = self.number % (len(self.config["seeds"]["training"]))
        return {name: seeds[position] for name, seeds in self.config["seeds"].items()}

    @property
    def request_flags(self) -> dict:
        scenario = self.config["scenarios"][self.scenario]
        request = scenario["search"] if self.number < 0 else scenario["requests"][self.number]
        return {**request, "forget_seed": self.seeds["request"]}

    @property
    def description(self) -> dict:
        """What the outcome depends on, but for the method."""
        return {
            "dataset": {name: self.config.get(name) for name in ("dataset_name", "max_eval_samples")},
            "image_processor": self.config.get("image_processor"),
            "model": {name: value for name, value in self.model.items() if name not in ("methods", "scenarios")},
            "label_column": self.label_column,
            "request": self.request_flags,
            "seeds": self.seeds,
        }

    @property
    def model(self) -> dict:
        return self.config["models"][self.model_name]

    @property
    def label_column(self) -> str:
        return self.config["scenarios"][self.scenario]["label_column"]

    @property
    def data_args(self) -> DataArguments:
        return DataArguments(dataset_name=self.config["dataset_name"], label_column_name=self.label_column)

    # ---- Models ----

    def base_folder(self) -> str:
        """A configuration and an image processor, or the model of the hub that is fine-tuned."""
        if "base_model" in self.model:
            return self.model["base_model"]
        folder = self.output_dir / "models" / f"base-{self.model_name}"
        with FileLock(f"{folder}.lock"):
            AutoConfig.for_model(**self.model["config"]).save_pretrained(folder)
            processor = {"image_processor_type": "ViTImageProcessor", **self.config["image_processor"]}
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return str(folder)

    def train(self, forget_args: ForgetArguments, seed: int) -> Path:
        """The folder of a trained model; training is done once."""
        parts = {name: self.description[name] for name in ("dataset", "image_processor", "model", "label_column")}
        name = f"{self.model_name}-{key_of({**parts, 'seed': seed, 'without': vars(forget_args)})}"
        folder = self.output_dir / "models" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        base = self.base_folder()
        with FileLock(f"{folder}.lock"):
            if not (folder / "trained").exists():
                args = TrainingArguments(
                    output_dir=str(folder),
                    seed=seed,
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                    dataloader_pin_memory=torch.cuda.is_available(),
                    **self.model["training"],
                )
                train_args = train_classifier.TrainArguments(base, self.model.get("from_pretrained", False))
                metrics = train_classifier.main(train_args, self.data_args, forget_args, args)
                (folder / "trained").write_text(json.dumps(metrics))
                print(f"{name}: test accuracy {100 * metrics['eval_accuracy']:.1f} %", flush=True)
        return folder

    @cached_property
    def original(self):
        return self.load(self.train(ForgetArguments(), self.seeds["training"]))

    @cached_property
    def retrained(self):
        """The yardstick, from another seed than the original."""
        return self.load(self.train(ForgetArguments(**self.request_flags), self.seeds["training"] + 1000))

    def load(self, folder: Path):
        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    # ---- Images ----

    @cached_property
    def request(self) -> ForgetRequest:
        return ForgetArguments(**self.request_flags).to_request()

    @cached_property
    def images(self) -> dict[str, ImageDataset]:
        """By split, read once."""
        train, test = load_train_and_test(self.data_args, ModelArguments())
        image_column = find_image_column(train)
        splits = split_dataset(train, self.request, self.label_column, image_column, test_dataset=test)
        image_processor = AutoImageProcessor.from_pretrained(self.base_folder())
        images = {}
        for name, split in splits.items():
            label_ids = match_labels(split, self.label_column, self.original.config.id2label)
            images[name] = ImageDataset(split, image_processor, image_column, self.label_column, label_ids)
            images[name].keep()
        return images

    @cached_property
    def measured(self) -> dict[str, Subset]:
        """The images that are looked at: the forget set and so many of each other split."""
        limit, generator = self.config.get("max_eval_samples"), np.random.RandomState(self.seeds["evaluation"])
        return {
            name: Subset(images, generator.permutation(len(images))[: None if name == "forget" else limit].tolist())
            for name, images in self.images.items()
        }

    def probabilities(self, model) -> dict[str, np.ndarray]:
        """By split, of shape (n, K). An output that is not finite says nothing: all classes alike."""
        outputs = {}
        for name, images in self.measured.items():
            logits, self.labels[name] = collect_logits(model, images)
            logits = torch.from_numpy(logits).double()
            logits[~logits.isfinite().all(dim=1)] = 0
            outputs[name] = logits.softmax(dim=-1).numpy()
        return outputs

    @cached_property
    def known(self) -> dict:
        """What is the same for all methods: the outputs of the original, the yardstick and a random network."""
        self.labels = {}
        return {
            "original": self.probabilities(self.original),
            "retrained": self.probabilities(self.retrained),
            "random": self.probabilities(random_model(self.original)),
        }

    # ---- Runs ----

    def run(self, label: str, settings: dict) -> dict:
        """One row: what a method, or the original or the yardstick as they are, says of this case."""
        known = self.known
        row = {"status": "done", "reason": None, "seconds": None, "cpu_seconds": None}
        row |= {"change_elsewhere": None, "guard": None}
        if label in ("original", "retrained model"):
            outputs = known["original" if label == "original" else "retrained"]
        else:
            model = copy.deepcopy(self.original)
            try:
                trainer = self.unlearn(model, dict(settings))
            except InputError as error:
                return {**row, "status": "refused", "reason": str(error)}
            except CollapsedModelError as error:
                return {**row, "status": "destroyed", "reason": str(error)}
            stopped = trainer.change > trainer.change_limit or trainer.distance_moved() > trainer.distance_limit
            row |= {"seconds": trainer.seconds, "cpu_seconds": self.cpu_seconds, "change_elsewhere": trainer.change}
            row["guard"] = "would stop it" if stopped else "passed"
            outputs = self.probabilities(trainer.model)
        report = make_report(
            {"original": known["original"], "unlearned": outputs, "retrained": known["retrained"]},
            self.labels,
            unique_names(self.original.config.id2label),
            known["random"],
        )
        for name in METRICS:
            row[name] = report.results["unlearned"]["metrics"].get(name)
            row[f"retrained_{name}"] = report.results["retrained"]["metrics"].get(name)
        return row

    def unlearn(self, model, settings: dict):
        config_class, trainer_class = load_method(settings.pop("method"))
        kind = {"classes": "class", "column": "subclass"}.get(self.request.kind, "images")
        if kind != "class" and "unseen_accuracy" in config_class.__dataclass_fields__:
            # The one number that LoTUS needs of unseen images.
            seen, labels = self.known["original"]["retain_test"], self.labels["retain_test"]
            settings["unseen_accuracy"] = float((seen.argmax(axis=1) == labels).mean())
        args = config_class(
            output_dir=str(self.output_dir / "unused"),
            **{
                "forget_kind": kind,
                "allow_collapse": True,
                "seed": self.seeds["unlearning"],
                "per_device_train_batch_size": 64,
                "logging_strategy": "no",
                "disable_tqdm": True,
                **settings,
            },
        )
        trainer = trainer_class(
            model=model,
            args=args,
            processing_class=self.images["forget"].image_processor,
            forget_dataset=self.images["forget"],
            retain_dataset=self.images["retain"] if trainer_class.needs_retain else None,
        )
        started = time.process_time()
        with printing(quiet=True):
            trainer.train()
        # What other processes of the machine do does not count.
        self.cpu_seconds = time.process_time() - started
        return trainer


def key_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
