"""Re-learning as an attack: copies of a model are fine-tuned for a few steps, and what comes back is measured."""

import copy
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .probes import Images, accuracy


# The steps after which a re-learning model is measured. They are closest at the start, where the models differ most.
MEASURED_STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
# The steps after which a model that learns from images of what stays alone is measured.
RETAINED_STEPS = (10, 30, 100)


def relearn(
    model: nn.Module,
    support: Images | None,
    others: Images | None,
    measured: dict[str, Images],
    learning_rate: float,
    batch_size: int,
    seed: int,
    steps: Sequence[int],
) -> dict[str, list[float]]:
    """
    Fine-tunes a copy of the model on a few forget images, and measures how fast its old accuracy comes back.

    Each step of Adam takes up to 16 forget images and up to 16 other images; both kinds have the same weight. Without
    other images, a model can reach the goal by predicting the forgotten class for every image. Dropout is off and the
    BatchNorm running statistics are frozen. A head that pushes the logit of the class further down than needed makes
    re-learning slower, whatever the features hold.

    Args:
        model (`nn.Module`):
            The model to copy.
        support ([`Images`] or `None`):
            Forget images to learn from; `None` to learn from other images alone.
        others ([`Images`] or `None`):
            Images of what stays; `None` to learn from forget images alone.
        measured (`dict[str, Images]`):
            By split, the images to measure.
        learning_rate (`float`):
            Learning rate of Adam.
        batch_size (`int`):
            Images per forward pass while measuring.
        seed (`int`):
            Seed of the order of the images.
        steps (`Sequence[int]`):
            The steps after which the copy is measured, in ascending order.

    Returns:
        `dict[str, list[float]]`: by split, the accuracy after each of `steps`.
    """
    model = copy.deepcopy(model).eval()
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    batches = [endless_batches(part, 16, generator) for part in (support, others) if part is not None]
    curves = {split: [] for split in measured}
    for step in range(steps[-1] + 1):
        if step > 0:
            parts = [next(batch) for batch in batches]
            logits = model(pixel_values=torch.cat([part.pixel_values for part in parts]).to(device)).logits
            logits = logits.float().split([len(part) for part in parts])
            losses = [F.cross_entropy(rows, part.labels.to(device)) for rows, part in zip(logits, parts, strict=True)]
            optimizer.zero_grad()
            (torch.stack(losses).sum() / len(parts)).backward()
            optimizer.step()
        if step in steps:
            for split, images in measured.items():
                curves[split].append(accuracy(model, images, batch_size))
    return curves


def endless_batches(images: Images, size: int, generator: torch.Generator) -> Iterator[Images]:
    """
    Yields batches without end: shuffled passes over the images, one after the other. The last images of a pass that do
    not fill a batch are left out.
    """
    size = min(size, len(images))
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(size):
            if len(rows) == size:
                yield images[rows]
