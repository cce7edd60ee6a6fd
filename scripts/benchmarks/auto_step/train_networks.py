"""
The small networks that docs/auto_step.md and docs/performance.md are measured on:

    python -m scripts.benchmarks.auto_step.train_networks --models_dir models --cifar_dir cifar10

About 40 minutes on one CPU core. Four architectures on three problems, of which networks.py tells. `full`: three seeds.
`groups`: one seed, also retrained without sandals and without bags. `many`: one seed, over-fitted. Networks that are
there are left alone.
"""

import argparse

import torch
from transformers import AutoModelForImageClassification, BitConfig, ConvNextConfig, ResNetConfig, ViTConfig

from scripts.benchmarks.networks import (
    BAG,
    IMAGE_PROCESSOR,
    LABELS,
    SANDAL,
    be_quiet,
    hits,
    labels_of,
    load_data,
    model_folder,
    parse_arguments,
    train,
)


SEEDS = (0, 1, 2)
# What is trained: problem, the kind left out, seed.
NETWORKS = [
    *(("full", None, seed) for seed in SEEDS),
    *(("groups", without, 0) for without in (None, SANDAL, BAG)),
    ("many", None, 0),
]
# Configuration, peak learning rate, epochs on `full`.
RECIPES = {
    "resnet": (
        ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic"), 3e-3, 9,
    ),
    "convnext": (
        ConvNextConfig(
            image_size=28, patch_size=2, num_stages=3, hidden_sizes=[24, 48, 96], depths=[1, 1, 2],
            layer_scale_init_value=0.1,
        ), 3e-3, 10,
    ),
    "vit": (
        ViTConfig(
            image_size=28, patch_size=4, hidden_size=64, num_hidden_layers=4, num_attention_heads=2,
            intermediate_size=128, initializer_range=0.08,
        ), 2e-3, 12,
    ),
    "bit": (BitConfig(embedding_size=32, hidden_sizes=[64, 128, 256], depths=[1, 1, 1], num_groups=8), 4e-3, 12),
}  # fmt: skip
# A third as many images and ten times as many epochs: the training images are learned by heart.
EPOCHS_MANY = 30


def train_network(
    options, architecture: str, problem: str, without: int | None, seed: int, rows=None, folder=None
) -> None:
    """AdamW with one cycle of the learning rate; of the training images, `rows` alone if they are given."""
    config, rate, epochs = RECIPES[architecture]
    x, kinds = load_data(options, problem, "train")
    if without is not None:
        x, kinds = x[kinds != without], kinds[kinds != without]
    if rows is not None:
        x, kinds = x[rows], kinds[rows]
    y = labels_of(problem, kinds)
    torch.manual_seed(seed)
    names = LABELS[problem]
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model = AutoModelForImageClassification.from_config(config)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    epochs = EPOCHS_MANY if problem == "many" else epochs
    train(model, torch.optim.AdamW(groups, lr=rate), x, y, epochs, batch_size=128, max_norm=1.0, pct_start=0.2)
    folder = folder or model_folder(options, architecture, problem, seed, without)
    model.save_pretrained(folder)
    IMAGE_PROCESSOR.save_pretrained(folder)
    accuracies = [100 * hits(model, x, y).mean()]
    x, kinds = load_data(options, problem, "test")
    accuracies.append(100 * hits(model, x, labels_of(problem, kinds)).mean())
    print(
        f"{folder.name}: accuracy {accuracies[0]:.1f} % on training, {accuracies[1]:.1f} % on test images", flush=True
    )


if __name__ == "__main__":
    options = parse_arguments(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    )
    be_quiet()
    for problem, without, seed in NETWORKS:
        for architecture in RECIPES:
            if problem == "many" and options.cifar_dir is None:
                print(f"{architecture}-many: left out, it needs --cifar_dir.")
            elif not (model_folder(options, architecture, problem, seed, without) / "model.safetensors").exists():
                train_network(options, architecture, problem, without, seed)
