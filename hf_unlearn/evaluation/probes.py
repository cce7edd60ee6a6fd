"""
What a model holds inside: its features, and classifiers of them. The controls that the models are compared with are
made here as well. No model is changed.
"""

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
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import BaseImageProcessor

from ..data.forget_kind import ForgetKind
from ..data.rows import Rows
from ..errors import InputError
from ..methods.jit import JiTTrainer
from ..methods.jit_config import JiTConfig
from ..terminal import printing
from ..unlearning.compatibility import ImageClassifier
from ..unlearning.head_edit import find_heads, head_inputs


# Name of the input of the head among the layers.
HEAD_INPUT = "head input"


@dataclass
class Images:
    """
    Images in memory, with their labels.

    Args:
        pixel_values (`torch.Tensor` of shape `(n, C, H, W)`): preprocessed images.
        labels (`torch.Tensor` of shape `(n,)`): label ids of the model.
    """

    pixel_values: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: torch.Tensor) -> "Images":
        return Images(self.pixel_values[rows], self.labels[rows])


def rank_in_class(labels: torch.Tensor) -> torch.Tensor:
    """
    For each image, the number of images of the same class that come before it.

    Args:
        labels (`torch.Tensor` of shape `(n,)`): label ids.

    Returns:
        `torch.Tensor` of shape `(n,)`: int64.
    """
    one_hot = F.one_hot(labels)
    return (one_hot.cumsum(dim=0) - 1).gather(1, labels[:, None])[:, 0]


def join(*parts: Images) -> Images:
    """Puts the images of several parts one after the other."""
    return Images(torch.cat([part.pixel_values for part in parts]), torch.cat([part.labels for part in parts]))


@torch.no_grad()
def forward(model: nn.Module, images: Images, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields (logits, labels) batch by batch, on the CPU. The model is in eval mode during the pass."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    for pixel_values, labels in zip(
        images.pixel_values.split(batch_size), images.labels.split(batch_size), strict=True
    ):
        yield model(pixel_values=pixel_values.to(device)).logits.float().cpu(), labels
    model.train(was_training)


def accuracy(model: nn.Module, images: Images, batch_size: int) -> float:
    """Share of images whose predicted class is their label. An output that is not finite counts as wrong."""
    hits = 0
    for logits, labels in forward(model, images, batch_size):
        hits += ((logits.argmax(dim=-1) == labels) & logits.isfinite().all(dim=-1)).sum().item()
    return hits / len(images)


# ---- The controls ----


def head_only(
    original_model: ImageClassifier, forget_dataset: Rows, image_processor: BaseImageProcessor, *,
    forget_kind: ForgetKind | None = None, retained: Rows | None = None, batch_size: int = 64, seed: int = 0,
    image_column: str | None = None, label_column: str | None = None,
) -> ImageClassifier:  # fmt: skip
    """
    Makes the head-only control: a copy of the original model in which JiT's automatic step changes only the head (the
    last linear layer). The control hides the forget set: its outputs change, but its features are those of the
    original model, bit for bit.

    The control uses the same rule as JiT, so for a class it differs from JiT's default only in the weights that move;
    for single images it is `moving_weights="head"`. The rule works for every kind of forget set and needs no labels and no
    retained images, unlike a head that is distilled or masked.

    Args:
        original_model (`PreTrainedModel`):
            The model to copy.
        forget_dataset (`datasets.Dataset`):
            Raw images.
        image_processor (`BaseImageProcessor`):
            The model's image processor.
        forget_kind (`str`, *optional*):
            `"class"`, `"subclass"` or `"images"`. If not given, it follows from the request that `forget_dataset`
            remembers or from the labels.
        retained (`datasets.Dataset`, *optional*):
            Retained images. If there is no request and no `forget_kind`, they tell whether a whole class is forgotten.
        batch_size (`int`, *optional*, defaults to 64):
            Images per forward pass.
        seed (`int`, *optional*, defaults to 0):
            Seed of the run.
        image_column (`str`, *optional*):
            The column of the images; found from the features if not given.
        label_column (`str`, *optional*):
            The column of the labels; found from the features if not given.

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
        with printing(quiet=True):
            trainer.train()
    for parameter, original in zip(model.parameters(), original_model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return model.to(next(original_model.parameters()).device).eval()


@torch.no_grad()
def recalibrated(model: nn.Module, images: Images, batch_size: int) -> nn.Module | None:
    """
    Makes a further control of a control: a copy in which the running statistics of BatchNorm are taken anew from these
    images, as their mean over the batches. No weight moves, but the features do. What a measure finds less of in it
    than in the original was not removed.

    Args:
        model (`nn.Module`): the model to copy.
        images ([`Images`]): images of what stays, in a random order.
        batch_size (`int`): largest number of images per forward pass. The batches have equal sizes, or one less.

    Returns:
        `nn.Module` or `None`: in eval mode; `None` if the model has no BatchNorm with running statistics, or if there
        is only one image.
    """
    model = copy.deepcopy(model).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers or len(images) < 2:
        return None
    device = next(model.parameters()).device
    for layer in layers:
        layer.reset_running_stats()
        # The mean of all batches, in place of a moving average.
        layer.momentum = None
        layer.train()
    # No batch of one image, whose variance may be undefined.
    num_batches = math.ceil(len(images) / max(3, batch_size))
    for pixel_values in images.pixel_values.tensor_split(num_batches):
        model(pixel_values=pixel_values.to(device))
    return model.eval()


# ---- Features ----


def heads_of(model: nn.Module, pixel_values: torch.Tensor) -> list[nn.Linear]:
    """
    The head of a model: the linear layer whose output is the logits, or several layers whose mean output is the logits.

    Args:
        model (`nn.Module`):
            An image classifier; called once.
        pixel_values (`torch.Tensor` of shape `(1, C, H, W)`):
            Any image.

    Raises:
        [`InputError`]: if the model does not end in a linear layer.
    """
    was_training = model.training
    # In training mode, the call would change the BatchNorm running statistics.
    model.eval()
    heads = find_heads(model, pixel_values)
    model.train(was_training)
    if not heads:
        raise InputError("original", f"{type(model).__name__} has no linear layer at its end, whose input is needed.")
    return heads


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """
    The layers whose outputs are examined, by name: the parts of the `ModuleList` or `Sequential` with the most
    weights. These are the stages of a ResNet or the blocks of a ViT.
    """
    chain, most = {}, 0
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            size = sum(parameter.numel() for parameter in module.parameters())
            parts = {f"{name}.{part}": child for part, child in module.named_children() if list(child.parameters())}
            # A `ModuleList` is never called, so it has no output.
            callable_parts = not any(isinstance(part, nn.ModuleList) for part in parts.values())
            if len(parts) > 1 and size > most and callable_parts:
                chain, most = parts, size
    return chain


def collect_features(model: nn.Module, images: Images, batch_size: int) -> dict[str, np.ndarray]:
    """
    Collects the outputs of the layers of [`find_layers`] and the input of the head for each image. Feature maps and
    tokens are averaged over their positions.

    Args:
        model (`nn.Module`): an image classifier; it is in eval mode during the pass.
        images ([`Images`]): the images.
        batch_size (`int`): images per forward pass.

    Returns:
        `dict[str, np.ndarray]`: by layer, float64 of shape `(n, d)`, where d is the number of features of the layer;
        [`HEAD_INPUT`] is the last.
    """
    collected = defaultdict(list)
    layers = find_layers(model)
    heads = heads_of(model, images.pixel_values[:1].to(next(model.parameters()).device))

    def keep(name: str, values: torch.Tensor) -> None:
        # Feature maps (n, C, H, W) or tokens (n, T, C).
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


def prototype_accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    num_images: int,
    seed: int,
    draws: int = 5,
) -> float:
    """
    Few-shot attack with prototypes (Snell et al., arXiv 1703.05175; as an attack on unlearned models:
    arXiv 2506.01318). The prototype of a class is the mean of the features of a few images, which are scaled to length
    1. An image gets the class whose prototype has the largest cosine with its features. The head of the model is not
    used.

    Args:
        features (`np.ndarray` of shape `(n, d)`): features of the attacker's images.
        labels (`np.ndarray` of shape `(n,)`): label ids of these images.
        queries (`np.ndarray` of shape `(m, d)`): features of the images to measure.
        query_labels (`np.ndarray` of shape `(m,)`): label ids of these images.
        num_images (`int`): images per prototype; fewer if a class has fewer.
        seed (`int`): seed of the choice of images.
        draws (`int`, *optional*, defaults to 5): number of random choices to average over.

    Returns:
        `float`: share of the measured images that get their own class.
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


def probe_accuracy(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray) -> float:
    """
    Linear probe (Alain and Bengio, arXiv 1610.01644): a logistic regression on the features, fitted to all images of
    the attacker. Each class has the same weight. For the arguments see [`prototype_accuracy`].

    Returns:
        `float`: share of the measured images that get their own class.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    return float((probe.fit(features, labels).predict(queries) == query_labels).mean())


def information_of_layers(
    features: dict[str, np.ndarray], is_forget: np.ndarray, seed: int
) -> tuple[dict[str, float], float]:
    """
    How much each layer tells about whether an image belongs to the forget set. It is a lower bound of the mutual
    information I(Z_l; Y) between the features Z_l of layer l and Y, which is 1 for forget images and 0 for others:
    H(Y) minus the cross-entropy of a logistic regression in 5-fold cross-validation (Xu et al., arXiv 2002.10689). The
    authors of the IDI (arXiv 2405.17878) train an InfoNCE critic for it, which needs a network per layer.

    Args:
        features (`dict[str, np.ndarray]`): by layer, of shape `(n, d)`.
        is_forget (`np.ndarray` of shape `(n,)`): Y, as bool. Both values have the same total weight.
        seed (`int`): seed of the folds.

    Returns:
        `tuple[dict[str, float], float]`: by layer, the information in nats, between 0 and H(Y) = ln 2; and two
        standard errors of the mean over the layers, in nats.
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
