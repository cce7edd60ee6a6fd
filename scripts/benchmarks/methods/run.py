# /// script
# dependencies = ["hf-unlearn"]
# ///
"""
Methods × scenarios × seeds on the models and the dataset of a YAML file:

    python scripts/offline_datasets.py --output_dir data
    python scripts/benchmark.py scripts/benchmark_configs/fashion_mnist.yaml --output_dir benchmark
    python scripts/make_tables.py benchmark/results.parquet

Each case is a model, a scenario and a request: the original and a model retrained without the forget set are trained by
scripts/train_classifier.py, with the same recipe and other seeds. A method that has settings to choose tries the values
of its `search` on one request that is used for nothing else, with a model trained from its own seed, and keeps those with
the smallest average gap to the model retrained there (accuracy on the forget set, on retained training images and on
retained test images). With them, unchanged, it runs on the requests that are reported. What is timed is the unlearning,
guard included; loading, training and measuring are not.

Every run is one row in OUTPUT_DIR/runs, written when it is done: started again, the benchmark goes on where it was
stopped, and several processes may work on the same folder.
"""

import argparse
import copy
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import train_classifier
import vgg  # noqa: F401  (makes the model type plain_vgg known)
import yaml
from datasets.utils.logging import disable_progress_bar
from filelock import FileLock, Timeout
from torch.utils.data import Subset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PrinterCallback,
    TrainingArguments,
    utils,
)

from hf_unlearn import ForgetRequest, data
from hf_unlearn.arguments import DataArguments, ForgetArguments, ModelArguments
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.evaluation import make_report, unique_names
from hf_unlearn.labels import match_labels
from hf_unlearn.loading import load_train_and_test
from hf_unlearn.logits import collect_logits_of_all, random_model
from hf_unlearn.methods import load_method
from hf_unlearn.report import METRICS


# What the search looks at.
SCORE = "average_gap"


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
    def images(self) -> dict[str, data.ImageDataset]:
        """By split, read once."""
        train, test = load_train_and_test(self.data_args, ModelArguments())
        image_column = data.find_image_column(train)
        splits = data.split_dataset(train, self.request, self.label_column, image_column, test_dataset=test)
        image_processor = AutoImageProcessor.from_pretrained(self.base_folder())
        images = {}
        for name, split in splits.items():
            label_ids = match_labels(split, self.label_column, self.original.config.id2label)
            images[name] = data.ImageDataset(split, image_processor, image_column, self.label_column, label_ids)
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
            logits, self.labels[name] = collect_logits_of_all({"model": model}, images)
            logits = torch.from_numpy(logits["model"]).double()
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
        # Else it prints its dictionaries.
        trainer.remove_callback(PrinterCallback)
        started = time.process_time()
        trainer.train()
        # What other processes of the machine do does not count.
        self.cpu_seconds = time.process_time() - started
        return trainer


def read_config(path: Path) -> dict:
    """The YAML file; its `methods` may be the name of a file beside it."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(config["methods"], str):
        config["methods"] = yaml.safe_load((path.parent / config["methods"]).read_text(encoding="utf-8"))
    return config


def key_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def settings_of(config: dict, model_name: str, label: str) -> list[dict]:
    """The settings that a label of the file tries: one, or one for each value of its search."""
    settings = {"method": label, **config["methods"][label]}
    settings |= config["models"][model_name].get("methods", {}).get(label, {})
    search = settings.pop("search", {})
    return [{**settings, **dict(zip(search, values, strict=True))} for values in product(*search.values())]


def row_file(case: Case, label: str, settings: dict) -> Path:
    return case.output_dir / "runs" / f"{key_of([case.description, label, settings])}.json"


def try_run(case: Case, label: str, settings: dict) -> bool:
    """Carries a run out, unless it is done or another process is at it; returns whether its row is there."""
    path = row_file(case, label, settings)
    if path.exists():
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The lock of a process that was killed is free again.
        with FileLock(path.with_suffix(".lock"), timeout=0):
            if path.exists():
                return True
            started = time.perf_counter()
            row = {
                "benchmark": case.config["name"],
                "model": case.model_name,
                "scenario": case.scenario,
                "phase": "search" if case.number < 0 else "final",
                "number": case.number,
                "label": label,
                "settings": json.dumps(settings),
                "date": date.today().isoformat(),
                **case.run(label, settings),
            }
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(row))
            aside.replace(path)
    except Timeout:
        return False
    gap = "" if row.get(SCORE) is None else f" average gap {100 * row[SCORE]:.1f},"
    print(
        f"{case.model_name} {case.scenario} {row['phase']} {case.number}: {label} {row['settings']}: {row['status']},{gap} "
        f"{time.perf_counter() - started:.1f} s",
        flush=True,
    )
    return True


def best_settings(config: dict, output_dir: Path, model_name: str, scenario: str, label: str) -> dict | None:
    """The settings with the smallest score on the request of the search; `None` while runs of it are missing."""
    tried = settings_of(config, model_name, label)
    if len(tried) == 1:
        return tried[0]
    case = Case(config, output_dir, model_name, scenario, -1)
    scores = []
    for settings in tried:
        path = row_file(case, label, settings)
        if not path.exists():
            return None
        score = json.loads(path.read_text()).get(SCORE)
        scores.append(float("inf") if score is None else score)
    return tried[scores.index(min(scores))]


def run_all(config: dict, output_dir: Path, models: list[str], scenarios: list[str]) -> None:
    """
    All runs of these models and scenarios, in several rounds if other processes are at some of them. The last of the
    seeds are those of the search.
    """
    for model_name, scenario in product(models, scenarios):
        if scenario not in config["models"][model_name].get("scenarios", config["scenarios"]):
            continue
        numbers = (-1, *range(len(config["seeds"]["training"]) - 1))
        cases = [Case(config, output_dir, model_name, scenario, number) for number in numbers]
        for case in cases:
            labels = list(config["methods"])
            while labels:
                left = []
                for label in labels:
                    if case.number < 0:
                        tried = settings_of(config, model_name, label)
                        done = len(tried) == 1 or all(try_run(case, label, settings) for settings in tried)
                    else:
                        settings = best_settings(config, output_dir, model_name, scenario, label)
                        done = settings is not None and try_run(case, label, settings)
                    if not done:
                        left.append(label)
                if left == labels:
                    time.sleep(1)
                labels = left
            if case.number >= 0:
                for label in ("original", "retrained model"):
                    while not try_run(case, label, {}):
                        time.sleep(1)


def write_results(output_dir: Path) -> Path:
    """All rows in one parquet file."""
    rows = [json.loads(path.read_text()) for path in sorted((output_dir / "runs").glob("*.json"))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = output_dir / "results.parquet"
    aside = path.with_suffix(".part")
    pa.parquet.write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), aside)
    aside.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="The YAML file.")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmark"))
    parser.add_argument("--models", nargs="+", help="Default: all of the file.")
    parser.add_argument("--scenarios", nargs="+", help="Default: all of the file.")
    options = parser.parse_args()
    utils.logging.disable_progress_bar()
    utils.logging.set_verbosity_error()
    disable_progress_bar()
    config = read_config(options.config)
    for chosen, known in ((options.models, config["models"]), (options.scenarios, config["scenarios"])):
        unknown = set(chosen or ()) - set(known)
        if unknown:
            sys.exit(f"benchmark.py: error: got {', '.join(sorted(unknown))}. Valid: {', '.join(known)}.")
    run_all(
        config,
        options.output_dir,
        options.models or list(config["models"]),
        options.scenarios or list(config["scenarios"]),
    )
    print(f"Written: {write_results(options.output_dir)}")


if __name__ == "__main__":
    main()
