"""
Measure what each difference between the published definitions of JiT does, switched on alone, on one model; the table
of docs/definitions.md:

    python -m scripts.paper.definitions.compare --output_dir definitions

A ViT with dropout is trained on scikit-learn's digits; JiT forgets one class of it with a fixed step, once as a base,
then with one setting changed at a time, then with the two presets. Writes definitions.md and definitions.csv.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.commands.demo import FORGOTTEN_DIGIT, load_digits
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.evaluation.logits import collect_logits
from hf_unlearn.evaluation.train_classifier import train_classifier
from scripts.benchmarks.networks import quiet_trainer
from scripts.benchmarks.results import markdown, write_rows


BATCH, SEEDS = 16, 3
BASE = {
    "step_rule": "fixed", "sigma": 0.5, "num_perturbations": 25, "per_device_train_batch_size": BATCH,
    "noise_clamp": "none", "learning_rate": 0.05,
}  # fmt: skip
DIFFERENCES = {
    "base: mean over batches of 16, noise not clamped, output of x + ξ constant, no dropout": {},
    "noise clamped to the range of the batch (released)": {"noise_clamp": "batch"},
    "noise clamped to the valid pixel range (ours)": {"noise_clamp": "range"},
    "gradient through both outputs (Algorithm 1)": {"stop_gradient": False},
    "one image a step, same rate (Algorithm 1)": {"per_device_train_batch_size": 1},
    "sum over the batch, same rate (released)": {"loss_reduction": "sum"},
    "gradients never zeroed = momentum 1 (released)": {"optim_args": "momentum=1.0"},
    "dropout active (released)": {"dropout": True},
    "unshuffled (both)": {"train_sampling_strategy": "sequential"},
    "probabilities compared (ours)": {"output_space": "probabilities"},
    "last stage and head alone (ours)": {"moving_weights": "last_stage"},
    "preset algorithm1, its rate divided by 16": {"preset": "algorithm1", "learning_rate": 0.05 / BATCH},
    "preset as_released, its rate divided by 16": {"preset": "as_released", "learning_rate": 0.05 / BATCH},
    "automatic step (ours, all of it)": {"step_rule": "auto", "num_perturbations": 1, "learning_rate": 5e-5},
}


def main(output_dir: Path) -> None:
    dataset = load_digits("class")
    names = dataset["train"].features["label"].names
    set_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
        hidden_dropout_prob=0.1, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model = ViTForImageClassification(config)
    args = TrainingArguments(
        output_dir=str(output_dir / "original"), num_train_epochs=25, per_device_train_batch_size=32,
        learning_rate=1e-3, save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    train_classifier(model, image_processor, dataset["train"], args)

    request = ForgetRequest(classes=[str(FORGOTTEN_DIGIT)])
    forget_set = split_dataset(dataset["train"], request)["forget"]
    test = split_dataset(dataset["test"], request)
    label_ids = {number: number for number in range(10)}

    def accuracy(model, split):
        logits, labels = collect_logits(
            model, ImageDataset(split, image_processor, label_column="label", label_ids=label_ids)
        )
        return 100 * (logits.argmax(axis=1) == labels).mean()

    rows = [("original", *(accuracy(model, test[name]) for name in ("forget", "retain")), 0.0)]
    for difference, settings in DIFFERENCES.items():
        measured = []
        for seed in range(SEEDS):
            unlearned = copy.deepcopy(model)
            # Some of them destroy the model, which is what the table is to show.
            trainer = quiet_trainer(
                unlearned, forget_set, str(output_dir / "unlearned"), image_processor, seed=seed, allow_collapse=True,
                **{**BASE, **settings} if "preset" not in settings else {"sigma": 0.5, **settings, "num_perturbations": 25},
            )  # fmt: skip
            trainer.train()
            measured.append(
                (accuracy(unlearned, test["forget"]), accuracy(unlearned, test["retain"]), trainer.distance_moved())
            )
        rows.append((difference, *np.mean(measured, axis=0)))
    write(rows, output_dir)


def write(rows: list[tuple], output_dir: Path) -> None:
    """The table as CSV and as Markdown."""
    header = ("what ran", "forget test", "retain test", "distance moved")
    write_rows(output_dir / "definitions.csv", [dict(zip(header, row, strict=True)) for row in rows])
    table = markdown(
        ["what ran", "forget test, %", "retain test, %", "distance moved"],
        [[name, f"{forget:.1f}", f"{retain:.1f}", f"{moved:.1e}"] for name, forget, retain, moved in rows],
    )
    (output_dir / "definitions.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("definitions"))
    main(parser.parse_args().output_dir)
