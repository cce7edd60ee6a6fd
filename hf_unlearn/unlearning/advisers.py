"""
A part of a class is forgotten with a few retained images: networks that learned from these alone say what to answer to it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn

from ..data.rows import Rows
from ..data.sampling import random_rows
from ..errors import CollapsedModelError, InputError
from ..publication.search import Search
from .random_model import random_model
from .surrogates import keyed_draws
from .surroundings import NUM_COPY_DRAWS, Images, change_lightly, rise_and_fall, shuffled


if TYPE_CHECKING:
    from .trainer import UnlearningTrainer


# Measured in docs/auto_step.md.
NUM_ADVISERS = 3
# Of more retained images so many are used, at random.
MAX_SAMPLE = 1000
# Lightly changed copies of each image, retained or to be forgotten, beside the image itself.
SAMPLE_COPIES = 3
# Updates of an adviser, and the images of each.
ADVISER_UPDATES, ADVISER_BATCH, ADVISER_RATE, ADVISER_DECAY = 200, 32, 3e-3, 0.05
# Updates of the model, and the forget images and retained ones of each.
NUM_UPDATES, FORGET_AT_ONCE, HELD_AT_ONCE, LEARNING_RATE = 80, 24, 40, 2e-3
# What numbers are drawn for; the kinds of surroundings.py are other ones.
SAMPLE_CHANGES, FORGET_CHANGES, ORDER_OF_ADVISERS, ORDER = range(20, 24)


class Pool:
    """
    Images and lightly changed copies of them, the same on every process: the positions 0 … n − 1 are the images as they are,
    the following ones their copies.

    Args:
        images ([`Images`]): of the trainer: it knows the model, the device and the range of the pixels.
        read (`Callable`): maps rows to pixel values.
        number (`int`): n.
        kind (`int`): of the numbers by which copies are changed.
    """

    def __init__(self, images: Images, read: Callable[[torch.Tensor], torch.Tensor], number: int, kind: int):
        self.images, self.read, self.number, self.kind = images, read, number, kind
        self.size = (1 + SAMPLE_COPIES) * number
        # What the part of the network that does not move makes of them is computed once.
        self.forward = images.trainer.forward_again(self.size)

    def pixel_values(self, positions: torch.Tensor) -> torch.Tensor:
        rows = positions % self.number
        plain = self.read(rows)
        draws = keyed_draws(self.images.seed, 0, self.kind, (self.size, NUM_COPY_DRAWS))[positions].to(plain.device)
        changed = change_lightly(plain, draws, self.images.low, self.images.high)
        return torch.where((positions < self.number).to(plain.device)[:, None, None, None], plain, changed)

    def logits(self, positions: torch.Tensor) -> torch.Tensor:
        """What the model says, with the weights that it has."""
        return self.forward(positions.tolist(), self.pixel_values(positions)).float()

    @torch.no_grad()
    def all_logits(self, number: int) -> torch.Tensor:
        """Of the first `number` positions, in batches of one size."""
        return torch.cat([self.logits(part) for part in torch.arange(number).split(self.images.batch_size)])


def forget_by_advisers(trainer: "UnlearningTrainer", retained: Rows) -> Search:
    r"""
    Makes the model answer to forget images as networks do that never saw them.

    An adviser a has the model's early part, and a late part that starts anew and learns the labels of the retained images
    (cross-entropy, AdamW). Of the retained images h, the forget images x and lightly changed copies of both, the model then learns

        mean_x KL(p_a(x) ‖ p(x)) + mean_h KL(p₀(h) ‖ p(h))

    with Adam, where p₀ is the original, and a one of the advisers, another one for the next x: forgotten images differ among
    each other as those do that were never seen. Every process computes the same, whatever the batch size of the run.

    Args:
        trainer ([`UnlearningTrainer`]):
            Its last update has run; it has its original weights.
        retained (`datasets.Dataset` or `torch.utils.data.Dataset`):
            Retained training images with labels.

    Returns:
        [`~publication.search.Search`]: what was found; its target is the accuracy of the advisers' answers.
    """
    device, seed = trainer.args.device, trainer.args.seed
    images = Images(trainer)
    rows = random_rows(len(retained), MAX_SAMPLE)
    if "labels" not in retained[rows[0]]:
        raise InputError("retain_dataset", "has no labels, which tell networks that learn from it what is what.")
    labels = torch.tensor([int(retained[row]["labels"]) for row in rows], device=device)

    def read_retained(places: torch.Tensor) -> torch.Tensor:
        return torch.stack([retained[rows[place]]["pixel_values"] for place in places.tolist()]).to(device)

    sample = Pool(images, read_retained, len(rows), SAMPLE_CHANGES)
    forget = Pool(images, images.read, images.number, FORGET_CHANGES)
    trainer.model.eval()
    held_targets = sample.all_logits(sample.size)
    # Keeps the early features; the answers themselves are those that are to go.
    if not (held_targets.isfinite().all() and forget.all_logits(forget.size).isfinite().all()):
        raise CollapsedModelError("the outputs of the original model are not finite; nothing is saved.")
    advised = []
    for number in range(NUM_ADVISERS):
        with new_late_part(trainer, seed + number) as modules:
            learn_labels(trainer, sample, labels, modules, number)
            advised.append(forget.all_logits(forget.number))
    targets = torch.stack(advised)[torch.arange(forget.number) % NUM_ADVISERS, torch.arange(forget.number)]
    targets = broadcast(targets)
    aim = (targets.argmax(dim=-1) == trainer.answers).double().mean().item()
    learn_answers(trainer, sample, held_targets, forget, targets)
    shown = NUM_ADVISERS * ADVISER_UPDATES * ADVISER_BATCH + NUM_UPDATES * (FORGET_AT_ONCE + HELD_AT_ONCE)
    trainer.passes += (sample.size + forget.size) / forget.number + 3 * shown / forget.number
    found = Search(aim, trainer.start, trainer.forget_accuracy(), trainer.distance_moved(), kind="advisers")
    found.moved, found.reached = len(rows), True
    return found


@contextmanager
def new_late_part(trainer: "UnlearningTrainer", seed: int) -> Generator[list[nn.Module]]:
    """Puts weights that know nothing where the weights move, and gives those modules; afterwards all is as it was."""
    model = trainer.model
    modules = {
        name: module
        for name, module in model.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    }
    new = dict(random_model(model, seed).named_modules())
    before = {name: {key: value.clone() for key, value in own_state(module)} for name, module in modules.items()}
    try:
        for name, module in modules.items():
            fill(module, dict(own_state(new[name])))
        yield list(modules.values())
    finally:
        for name, module in modules.items():
            fill(module, before[name])
        model.eval()


def own_state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of a module itself."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


@torch.no_grad()
def fill(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, value in own_state(module):
        value.copy_(values[name])


def learn_labels(
    trainer: "UnlearningTrainer", sample: Pool, labels: torch.Tensor, modules: list[nn.Module], number: int
) -> None:
    """Trains an adviser: what moves in the model learns the labels of the sample."""
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=ADVISER_RATE, weight_decay=ADVISER_DECAY)
    order = shuffled(trainer.args.seed + number, ADVISER_UPDATES, sample.size, ADVISER_BATCH, ORDER_OF_ADVISERS)
    trainer.model.eval()
    for module in modules:
        # Norms of new weights know no statistics yet.
        module.train()
    for update, positions in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = ADVISER_RATE * rise_and_fall(update / ADVISER_UPDATES, 1 / ADVISER_UPDATES)
        with torch.enable_grad():
            loss = F.cross_entropy(sample.logits(positions), labels[(positions % sample.number).to(labels.device)])
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        step(optimizer, parameters, gradients)
    trainer.model.eval()


def learn_answers(
    trainer: "UnlearningTrainer", sample: Pool, held_targets: torch.Tensor, forget: Pool, targets: torch.Tensor
) -> None:
    """Trains the model: the advisers' answers to forget images, its own to retained ones."""
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    deck = partial(shuffled, trainer.args.seed, NUM_UPDATES)
    decks = deck(forget.size, FORGET_AT_ONCE, ORDER), deck(sample.size, HELD_AT_ONCE, ORDER + 1)
    for update, (some, held) in enumerate(zip(*decks, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rise_and_fall(update / NUM_UPDATES, 1 / NUM_UPDATES)
        trainer.set_mode(trainer.model)
        with torch.enable_grad():
            loss = divergence(targets[(some % forget.number).to(targets.device)], forget.logits(some))
            loss = loss + divergence(held_targets[held.to(held_targets.device)], sample.logits(held))
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        step(optimizer, parameters, gradients)
    with torch.no_grad():
        # Processes agree but for rounding; one of them decides.
        for parameter in parameters:
            parameter.copy_(cast(torch.Tensor, broadcast(parameter.detach().clone())))


def divergence(wanted: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(wanted) ‖ softmax(logits)), the mean over the images."""
    return F.kl_div(logits.log_softmax(dim=-1), wanted.softmax(dim=-1), reduction="batchmean")


def step(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: Sequence[torch.Tensor | None]
) -> None:
    """An update; no gradient stays in the weights."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
