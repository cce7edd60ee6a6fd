"""Attacks on what a model holds inside: re-learning, and classifiers of its features. Each works on a copy."""

import copy
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PrinterCallback

from ..errors import InputError
from ..methods.jit import JiTTrainer
from ..methods.jit_config import JiTConfig
from ..unlearning.head_edit import find_heads, head_inputs


# Steps after which a re-learning model is measured: closely at first, where the models differ.
MEASURED_STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
# Name of the head's input among the layers.
HEAD_INPUT = "head input"


@dataclass
class Images:
    """
    Args:
        pixel_values (`torch.Tensor` of shape `(n, C, H, W)`): preprocessed images.
        labels (`torch.Tensor` of shape `(n,)`): label ids of the model.
    """

    pixel_values: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Images":
        return Images(self.pixel_values[rows], self.labels[rows])


def rank_in_class(labels: torch.Tensor) -> torch.Tensor:
    """How many images of its class come before each image."""
    one_hot = F.one_hot(labels)
    return (one_hot.cumsum(dim=0) - 1).gather(1, labels[:, None])[:, 0]


def join(*parts: Images) -> Images:
    return Images(torch.cat([part.pixel_values for part in parts]), torch.cat([part.labels for part in parts]))


@torch.no_grad()
def forward(model: nn.Module, images: Images, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(logits, labels) batch by batch, on the CPU; the model is in eval mode meanwhile."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    for pixel_values, labels in zip(
        images.pixel_values.split(batch_size), images.labels.split(batch_size), strict=True
    ):
        yield model(pixel_values=pixel_values.to(device)).logits.float().cpu(), labels
    model.train(was_training)


def accuracy(model: nn.Module, images: Images, batch_size: int) -> float:
    """Share of images given their label; an output that is not finite is wrong."""
    hits = 0
    for logits, labels in forward(model, images, batch_size):
        hits += ((logits.argmax(dim=-1) == labels) & logits.isfinite().all(dim=-1)).sum().item()
    return hits / len(images)


# ---- The control ----


def head_only(
    original_model: nn.Module, forget_dataset, image_processor, *, forget_kind: str | None = None, retained=None,
    batch_size: int = 64, seed: int = 0, image_column: str | None = None, label_column: str | None = None,
) -> nn.Module:  # fmt: skip
    """
    A copy of the original that hides the forget set and has forgotten nothing: JiT's automatic step, taken by the last
    layer alone. Its features are the original's, bit for bit.

    The rule is the package's own, so that for a class only the depth differs; it serves every kind of request, and needs
    no labels and no retained data, which a distilled or masked head would. For single images it is the default itself.

    Args:
        original_model (`PreTrainedModel`):
            Copied.
        forget_dataset (`datasets.Dataset`):
            Raw images.
        image_processor (`BaseImageProcessor`):
            The model's own.
        retained (`datasets.Dataset`, *optional*):
            Images that stay: where nothing else says so, they tell whether a whole class is forgotten.

        For the others see [`verify_unlearning`].

    Returns:
        `PreTrainedModel`: in eval mode.
    """
    model = copy.deepcopy(original_model).requires_grad_(True)
    with tempfile.TemporaryDirectory() as output_dir:
        config = JiTConfig(
            output_dir, moving_weights="head", forget_kind=forget_kind, per_device_train_batch_size=batch_size, seed=seed,
            allow_collapse=True, disable_tqdm=True, logging_strategy="no", report_to="none",
        )  # fmt: skip
        trainer = JiTTrainer(
            model=model, args=config, processing_class=image_processor, forget_dataset=forget_dataset,
            eval_dataset={"retain": retained} if retained is not None else None, image_column=image_column, label_column=label_column,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    for parameter, original in zip(model.parameters(), original_model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return model.to(next(original_model.parameters()).device).eval()


# ---- Re-learning ----


def relearn(
    model: nn.Module,
    support: Images,
    others: Images | None,
    measured: dict[str, Images],
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> dict[str, list[float]]:
    """
    Fine-tunes a copy on a few forget images and measures how fast it answers as before.

    Each step of Adam sees up to 16 of the forget images and as many others, with equal weight; without others a model
    can get there by giving every image the forgotten class. Dropout is off and BatchNorm's statistics are frozen. A head
    that pushes the class further down than needed delays re-learning, whatever the features hold.

    Args:
        model (`nn.Module`):
            Copied.
        support (`Images`):
            Forget images to learn from.
        others (`Images`, *optional*):
            Images of what stays.
        measured (`dict[str, Images]`):
            By split, the images measured.

    Returns:
        `dict[str, list[float]]`: by split, the accuracy after each of `MEASURED_STEPS`.
    """
    model = copy.deepcopy(model).eval()
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    batches = [endless_batches(part, 16, generator) for part in (support, others) if part is not None]
    curves = {split: [] for split in measured}
    for step in range(MEASURED_STEPS[-1] + 1):
        if step > 0:
            parts = [next(batch) for batch in batches]
            logits = model(pixel_values=torch.cat([part.pixel_values for part in parts]).to(device)).logits
            logits = logits.float().split([len(part) for part in parts])
            loss = sum(F.cross_entropy(rows, part.labels.to(device)) for rows, part in zip(logits, parts, strict=True))
            optimizer.zero_grad()
            (loss / len(parts)).backward()
            optimizer.step()
        if step in MEASURED_STEPS:
            for split, images in measured.items():
                curves[split].append(accuracy(model, images, batch_size))
    return curves


def endless_batches(images: Images, size: int, generator: torch.Generator) -> Iterator[Images]:
    """Batches of one shuffled pass after another; what is left over at the end of a pass is dropped."""
    size = min(size, len(images))
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(size):
            if len(rows) == size:
                yield images[rows]


# ---- Features ----


def heads_of(model: nn.Module, pixel_values: torch.Tensor) -> list[nn.Linear]:
    """
    The linear layers whose mean output are the logits.

    Raises:
        [`InputError`]: if something else comes last.
    """
    was_training = model.training
    # In training mode BatchNorm would take the image into its statistics.
    model.eval()
    heads = find_heads(model, pixel_values)
    model.train(was_training)
    if not heads:
        raise InputError("original", f"{type(model).__name__} has no linear layer at its end, whose input is needed.")
    return heads


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of the `ModuleList` or `Sequential` that holds most weights: stages of a ResNet, blocks of a ViT."""
    chain, most = {}, 0
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            size = sum(parameter.numel() for parameter in module.parameters())
            parts = {f"{name}.{part}": child for part, child in module.named_children() if list(child.parameters())}
            # A list in a list is never called, and so has no output.
            callable_parts = not any(isinstance(part, nn.ModuleList) for part in parts.values())
            if len(parts) > 1 and size > most and callable_parts:
                chain, most = parts, size
    return chain


def collect_features(model: nn.Module, images: Images, batch_size: int) -> dict[str, np.ndarray]:
    """
    What the layers hold of each image: the mean over positions of each part of the network's longest chain, and the
    head's input.

    Returns:
        `dict[str, np.ndarray]`: by layer, float64 of shape `(n, number of features)`; [`HEAD_INPUT`] is the last.
    """
    collected = defaultdict(list)
    layers = find_layers(model)
    heads = heads_of(model, images.pixel_values[:1].to(next(model.parameters()).device))

    def keep(name, values):
        # A feature map (n, C, H, W), or tokens (n, T, C).
        pooled = values.flatten(2).mean(dim=2) if values.dim() == 4 else values
        pooled = pooled.mean(dim=1) if pooled.dim() == 3 else pooled
        collected[name].append(pooled.flatten(1).double().cpu())

    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: keep(name, output if torch.is_tensor(output) else output[0])
        )
        for name, layer in layers.items()
    ]
    with head_inputs(heads) as seen:
        for _ in forward(model, images, batch_size):
            keep(HEAD_INPUT, seen.pop())
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(values).numpy() for name, values in collected.items()}


def prototype_accuracy(features, labels, queries, query_labels, num_images: int, seed: int, draws: int = 5) -> float:
    """
    Few-shot attack: each class is the mean of a few images' features, scaled to length 1, and an image belongs to the
    class with the largest cosine (prototypes: Snell et al., arXiv 1703.05175; as an attack on unlearned models:
    arXiv 2506.01318). No weight of the head is used.

    Args:
        features (`np.ndarray` of shape `(n, d)`): of the attacker's images.
        labels (`np.ndarray` of shape `(n,)`): their labels.
        queries (`np.ndarray` of shape `(m, d)`): of the images measured.
        query_labels (`np.ndarray` of shape `(m,)`): their labels.
        num_images (`int`): images per class, or as many as there are.
        seed (`int`): of the choice of images.
        draws (`int`, *optional*, defaults to 5): how many choices to average over.

    Returns:
        `float`: share of the images measured that get their class.
    """
    rng = np.random.default_rng(seed)
    features, queries = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12) for rows in (features, queries)
    )
    classes = np.unique(labels)
    hits = []
    for _ in range(draws):
        prototypes = []
        for label in classes:
            rows = np.flatnonzero(labels == label)
            prototype = features[rng.choice(rows, min(num_images, len(rows)), replace=False)].mean(axis=0)
            prototypes.append(prototype / max(np.linalg.norm(prototype), 1e-12))
        answers = classes[(queries @ np.stack(prototypes).T).argmax(axis=1)]
        hits.append((answers == query_labels).mean())
    return float(np.mean(hits))


def probe_accuracy(features, labels, queries, query_labels) -> float:
    """
    A linear classifier of the features, fitted on all images that the attacker has, each class with equal weight
    (Alain and Bengio, arXiv 1610.01644).

    Returns:
        `float`: share of the images measured that get their class.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    return float((probe.fit(features, labels).predict(queries) == query_labels).mean())


def information_of_layers(
    features: dict[str, np.ndarray], is_forget: np.ndarray, seed: int
) -> tuple[dict[str, float], float]:
    """
    How much each layer tells of whether an image belongs to the forget set, in nats: a lower bound of the mutual
    information I(Z_l; Y), namely H(Y) minus the cross entropy of a linear classifier on images that it was not fitted
    on, 5 folds (Xu et al., arXiv 2002.10689; the paper of the IDI trains an InfoNCE critic, which takes a network per
    layer). Between 0 and H(Y) = ln 2.

    Args:
        features (`dict[str, np.ndarray]`): by layer, of shape `(n, d)`.
        is_forget (`np.ndarray` of shape `(n,)`): Y; both values count half, whatever their numbers.
        seed (`int`): of the folds.

    Returns:
        By layer, in nats, and two standard errors of the mean over the layers.
    """
    folds = min(5, np.bincount(is_forget.astype(int), minlength=2).min())
    if folds < 2:
        return dict.fromkeys(features, 0.0), 0.0
    weight = np.where(is_forget, 0.5 / is_forget.sum(), 0.5 / (~is_forget).sum())
    losses = {}
    for name, rows in features.items():
        losses[name] = np.zeros(len(rows))
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, is_forget):
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
            log_probabilities = probe.fit(rows[train], is_forget[train]).predict_log_proba(rows[test])
            losses[name][test] = -log_probabilities[np.arange(len(test)), is_forget[test].astype(int)]
    information = {name: max(0.0, math.log(2) - float(weight @ loss)) for name, loss in losses.items()}
    mean_loss = np.mean(list(losses.values()), axis=0)
    error = math.sqrt(float((weight**2) @ (mean_loss - weight @ mean_loss) ** 2))
    return information, 2 * error
