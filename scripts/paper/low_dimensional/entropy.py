"""Digits: the entropy of the forget set under growing noise."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, set_seed

from hf_unlearn.unlearning.losses import jit_loss
from scripts.benchmarks.networks import as_rows, quiet_trainer, train
from scripts.benchmarks.results import markdown, median_and_range, new_figure, save_figure


ENTROPY_SEEDS = (0, 1, 2)
NOISE_LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
EPOCHS = 20
AUTOMATIC, RELEASED, OTHER_SEED = "JiT, automatic", "JiT, released loss", "retrained, other seed"


def load_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's 1,797 digits: pixel values between -1 and 1 of shape (B, 1, 8, 8), and labels."""
    digits = load_digits()
    return torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None], torch.tensor(digits.target)


def train_vit(images: torch.Tensor, labels: torch.Tensor, seed: int):
    """A small ViT from new weights: AdamW, one cycle up to 3e-3, batches of 64."""
    set_seed(seed)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=48, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, initializer_range=0.08, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    train(model, optimizer, images, labels, EPOCHS, batch_size=64, keep_last=True)
    return model


def unlearn_automatically(model, images: torch.Tensor, labels: torch.Tensor, target: float, seed: int):
    """A copy after the package's default for single images."""
    model = copy.deepcopy(model)
    forget_set = as_rows(images, labels)
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            model, forget_set, folder, forget_kind="images", forget_target=target, noise_clamp="none", seed=seed,
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer.train()
    return model.eval()


def unlearn_by_released_loss(model, images: torch.Tensor, labels: torch.Tensor, target: float, seed: int):
    """
    A copy after steps of the released loss (raw logits, f(x + ξ) constant, σ = 0.5, N = 25, all weights), each along the
    gradient of the whole forget set and 0.1 % of the norm of the weights long, until the accuracy there is the target.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    while accuracy(model, images, labels) > target:
        loss = jit_loss(
            lambda pixel_values: model(pixel_values=pixel_values).logits,
            images,
            sigma=0.5,
            num_perturbations=25,
            chunk_size=25,
            generator=generator,
        )
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradient = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
        norms = [sum(t.square().sum() for t in tensors if t is not None).sqrt() for tensors in (weights, gradient)]
        with torch.no_grad():
            for weight, slope in zip(weights, gradient, strict=True):
                if slope is not None:
                    weight -= 1e-3 * norms[0] / norms[1] * slope
    return model


@torch.no_grad()
def accuracy(model, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (model(pixel_values=images).logits.argmax(dim=1) == labels).double().mean().item()


def output_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the softmax in nats, of shape (B,)."""
    log_probabilities = logits.double().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def compare_entropies(entropies: dict[str, np.ndarray]) -> dict[str, float]:
    """Two-sided p of Wilcoxon's signed-rank test for each model beside the retrained one, image by image."""
    others = [name for name in entropies if name != "retrained"]
    return {name: float(stats.wilcoxon(entropies[name], entropies["retrained"]).pvalue) for name in others}


def measure_entropy() -> dict:
    """By seed (of weights, test set, forget set and noise): entropies, accuracies and the tests."""
    images, labels = load_images()
    numbers = {"noise_levels": NOISE_LEVELS, "seeds": []}
    for seed in ENTROPY_SEEDS:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(images), generator=generator)
        test, train = rows[:450], rows[450:]
        # The order is random already.
        forget_set, retain_set = train[: len(train) // 10], train[len(train) // 10 :]
        original = train_vit(images[train], labels[train], seed)
        # Unseen images, not the retrained model, say where to stop.
        target = accuracy(original, images[test], labels[test])
        models = {
            "original": original,
            AUTOMATIC: unlearn_automatically(original, images[forget_set], labels[forget_set], target, seed),
            RELEASED: unlearn_by_released_loss(original, images[forget_set], labels[forget_set], target, seed),
            "retrained": train_vit(images[retain_set], labels[retain_set], seed),
            OTHER_SEED: train_vit(images[retain_set], labels[retain_set], seed + 100),
        }
        noise = torch.randn(images[forget_set].shape, generator=generator)
        entropies = {
            name: [clean_or_noisy(model, images[forget_set], level * noise) for level in NOISE_LEVELS]
            for name, model in models.items()
        }
        numbers["seeds"].append(
            {
                "num_images": len(forget_set),
                "mean_entropy": {
                    name: [round(level.mean().item(), 4) for level in levels] for name, levels in entropies.items()
                },
                "median_entropy": {name: round(np.median(levels[0]), 5) for name, levels in entropies.items()},
                "accuracy": {
                    name: {
                        split: round(100 * accuracy(model, images[rows], labels[rows]), 2)
                        for split, rows in (("forget", forget_set), ("retain", retain_set), ("test", test))
                    }
                    for name, model in models.items()
                },
                "p": compare_entropies({name: levels[0] for name, levels in entropies.items()}),
            }
        )
    return numbers


@torch.no_grad()
def clean_or_noisy(model, images: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
    return output_entropy(model(pixel_values=images + noise).logits).numpy()


def entropy_tables(numbers: dict) -> list[str]:
    seeds = numbers["seeds"]
    measured, tested = [], []
    for name in seeds[0]["accuracy"]:
        values = [[seed["mean_entropy"][name][0] for seed in seeds], [seed["median_entropy"][name] for seed in seeds]]
        values += [[seed["accuracy"][name][split] for seed in seeds] for split in ("forget", "retain", "test")]
        digits = (3, 4, 1, 1, 1)
        measured.append([name, *(median_and_range(v, d) for v, d in zip(values, digits, strict=True))])
    for name in seeds[0]["p"]:
        tested.append([f"{name} / retrained", *(f"{seed['p'][name]:.1e}" for seed in seeds)])
    header = ["model", "mean entropy, nats", "median", "forget, %", "retain, %", "test, %"]
    return [markdown(header, measured), markdown(["p of", *(f"seed {seed}" for seed in ENTROPY_SEEDS)], tested)]


def draw_entropy(numbers: dict, path: Path) -> None:
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    styles = {
        "original": ("#0072B2", "solid"),
        AUTOMATIC: ("#D55E00", "solid"),
        RELEASED: ("#CC79A7", "dotted"),
        "retrained": ("#009E73", "dashed"),
        OTHER_SEED: ("#009E73", "dotted"),
    }
    for name, (color, style) in styles.items():
        levels = [seed["mean_entropy"][name] for seed in numbers["entropy"]["seeds"]]
        axes.plot(NOISE_LEVELS, np.median(levels, axis=0), color=color, linestyle=style, marker="o", ms=3, label=name)
        axes.fill_between(NOISE_LEVELS, np.min(levels, axis=0), np.max(levels, axis=0), color=color, alpha=0.1)
    axes.axhline(np.log(10), color="grey", linewidth=0.8)
    axes.annotate(
        "all ten digits alike", (0, np.log(10)), (0, -11), textcoords="offset points", fontsize=8, color="grey"
    )
    axes.set(xlabel="standard deviation of the noise, pixel values from -1 to 1")
    axes.set(ylabel="mean entropy on the forget set, nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path, dpi=100)
