"""Single images are forgotten by the head: the features of the model stay, and the last layer is solved for."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn

from ..publication.search import Search
from .head_edit import NUM_HELD, Features, edit_head, head_inputs, head_weight, put_head
from .shares import share
from .step_size import shift, turn


if TYPE_CHECKING:
    from .trainer import UnlearningTrainer


# What leaves an image the same to the eye: an answer that holds for these copies holds around the image.
SMALL_CHANGES = (
    turn,
    lambda pixel_values: turn(pixel_values, -5.0),
    shift,
    lambda pixel_values: shift(pixel_values.flip(2)).flip(2),
    lambda pixel_values: pixel_values.flip(3),
)


@torch.no_grad()
def forget_by_head(trainer: "UnlearningTrainer", heads: list[nn.Linear], target: float) -> Search:
    """
    Puts the head that [`edit_head`] finds into the model of a trainer.

    Args:
        trainer ([`UnlearningTrainer`]):
            Its last update has run; its head has its original weights.
        heads (`list[nn.Linear]`):
            What [`~unlearning.head_edit.find_heads`] finds in its model.
        target (`float`):
            The accuracy on the forget set to aim at, between 0 and 1.

    Returns:
        [`~publication.search.Search`]: what was found.
    """
    start = trainer.start
    if start <= target:
        return Search(target, start, start, reached=True, kind="head")
    num_images = len(trainer.train_dataset)
    # Spread over the whole, which may be sorted by class.
    rows = torch.linspace(0, num_images - 1, min(num_images, NUM_HELD)).round().long()
    forget, answers = head_features(trainer, heads), trainer.answers.cpu()
    weight = head_weight(heads)
    struck_out = (forget @ weight.T).scatter(1, answers[:, None], -torch.inf)
    features = Features(
        forget=forget,
        answers=answers,
        instead=struck_out.argmax(dim=-1),
        held=features_of_changed_copies(trainer, heads, rows),
        held_from=rows.repeat(len(SMALL_CHANGES)),
    )
    edited, _ = edit_head(weight, features, target)
    # One process decides for all.
    put_head(heads, broadcast(edited.to(trainer.args.device, heads[0].weight.dtype)))
    accuracy = trainer.forget_accuracy()
    reached = accuracy <= target
    return Search(target, start, accuracy, trainer.distance_moved(), evaluations=1, reached=reached, kind="head")


def head_features(trainer: "UnlearningTrainer", heads: list[nn.Linear]) -> torch.Tensor:
    """What the heads see of each forget image, of shape `(n, d)`, on the CPU; the same on all processes."""
    width = sum(head.in_features for head in heads)
    features = torch.zeros(len(trainer.train_dataset), width, device=trainer.args.device)
    with head_inputs(heads) as seen:
        for batch, _ in trainer.forget_outputs():
            share = seen.pop() * batch["sample_weight"][:, None]
            features.index_add_(0, batch["sample_index"], share.float())
    return with_bias(heads, trainer.accelerator.reduce(features, reduction="sum"))


def features_of_changed_copies(
    trainer: "UnlearningTrainer", heads: list[nn.Linear], rows: torch.Tensor
) -> torch.Tensor:
    """What the heads see of the forget images `rows`, changed in each small way; the processes share the work."""
    number, at_once = len(rows), trainer.args.per_device_train_batch_size
    batches = [
        change * number + some for change in range(len(SMALL_CHANGES)) for some in torch.arange(number).split(at_once)
    ]

    def features(positions: torch.Tensor) -> torch.Tensor:
        """Of a batch, which has one change."""
        change, some = SMALL_CHANGES[int(positions[0]) // number], rows[positions % number]
        pixel_values = torch.stack([trainer.train_dataset[row]["pixel_values"] for row in some.tolist()])
        with head_inputs(heads) as seen:
            trainer.model(pixel_values=change(pixel_values.to(trainer.args.device)))
        return seen[0]

    changed = share(batches, features)
    trainer.passes += len(SMALL_CHANGES) * len(rows) / len(trainer.train_dataset)
    return with_bias(heads, changed)


def with_bias(heads: list[nn.Linear], features: torch.Tensor) -> torch.Tensor:
    """In double precision, on the CPU, with a last feature of 1 where the heads have a bias."""
    features = features.double().cpu()
    return features if heads[0].bias is None else F.pad(features, (0, 1), value=1.0)
