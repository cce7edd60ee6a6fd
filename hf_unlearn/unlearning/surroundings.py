"""
Single images are forgotten by their surroundings: what the model knows of an image alone gives way to its answer to a lightly
changed copy.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast

from ..errors import CollapsedModelError
from ..publication.search import Search
from .guard import batch_size_for
from .surrogates import (
    NUM_DRAWS,
    NUM_JOIN_DRAWS,
    keyed_draws,
    make_surrogates,
    recolour,
    turn_and_crop,
)


if TYPE_CHECKING:
    from .trainer import UnlearningTrainer


# Measured in docs/auto_step.md.
# Copies of each image. The first gives its answer to the image, the others tell how steady the image is.
NUM_COPIES = 8
# A copy is turned by so many degrees at most, cropped to this share of the area at least, and recoloured by so much.
MAX_TURN, SMALLEST_AREA, COLOUR = 12.0, 0.45, 0.2
# Slopes at which all images get the answer of a copy, and none: images that were never seen had 0.7 to 1.0.
ALL_MEMORY, NO_MEMORY = 0.45, 0.6
# From fewer images than this no slope is told.
FEW = 10
# Images whose changed copies are held, and how many of each: lightly changed, varied, strongly changed.
MAX_HELD, HELD_COPIES, HELD_VARIED, HELD_STRONG = 128, 2, 8, 1
# Updates, of so many images that change and so many that are held; an image that changes is seen so often at least.
NUM_UPDATES, MOVED_AT_ONCE, HELD_AT_ONCE, VISITS = 60, 24, 56, 32
LEARNING_RATE, MOVED_WEIGHT, RISING = 2e-3, 0.3, 0.2
# What numbers are drawn for; the kinds of surrogates.py are other ones.
COPIES, VARIED, STRONG_PICKS, STRONG, UPDATES = range(10, 15)
# Of a copy: four for `turn_and_crop`, six for `recolour`.
NUM_COPY_DRAWS = 10


def change_lightly(
    pixel_values: torch.Tensor, draws: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """
    Turns, crops, moves and recolours images so that what they show stays. They are not mirrored: a model may tell left
    from right.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): the images.
        draws (`torch.Tensor` of shape `(B, 10)`): uniform numbers between 0 and 1.
        low (`torch.Tensor`): the lowest value of a pixel.
        high (`torch.Tensor`): the highest value of a pixel.
    """
    images = turn_and_crop(pixel_values, draws[:, :4], MAX_TURN, SMALLEST_AREA)
    return recolour(images, draws[:, 4:], COLOUR, low, high).clamp(low, high)


def margins(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """How far the logit of the answer is above the highest other, of shape `(B,)`, from logits of shape `(B, K)`."""
    own = logits.gather(1, answers[:, None])[:, 0]
    return own - logits.scatter(1, answers[:, None], -torch.inf).amax(dim=-1)


def slope_of_margins(of_images: torch.Tensor, of_copies: torch.Tensor) -> float | None:
    r"""
    How much the margins of images follow those of their copies: the slope of the regression line,

        β = Cov(z, z̄) / (Var(z̄) − S² / R)

    over the images, where z is the margin of an image, z̄ the mean of its R copies, and S² the mean variance among the copies
    of an image, which is no difference between images. A model that knows nothing of the images alone is surer of one
    whose copies it is surer of, and β is near 1. One that knows them by heart is sure of all: β is near 0.

    Args:
        of_images (`torch.Tensor` of shape `(n,)`): margins of the images.
        of_copies (`torch.Tensor` of shape `(R, n)`): margins of their copies.

    Returns:
        `float`, or `None` where there are too few images, or where the images do not differ.
    """
    if len(of_images) < FEW:
        return None
    of_images, of_copies = of_images.double(), of_copies.double()
    mean = of_copies.mean(dim=0)
    covariance = torch.cov(torch.stack([of_images, mean]))
    between = (covariance[1, 1] - of_copies.var(dim=0).mean() / len(of_copies)).item()
    return covariance[0, 1].item() / between if between > 1e-6 * covariance[1, 1].item() else None


def choose_moved(
    slope: float | None, hits: torch.Tensor, copy_hits: torch.Tensor, steadiness: torch.Tensor, target: float | None
) -> torch.Tensor:
    """
    Which images get the answer of a copy: those that are least steady, and of all the share that grows from 0 to 1 as β
    falls from 0.6 to 0.45.

    Args:
        slope (`float`, *optional*):
            β of [`slope_of_margins`]; without it, all of them.
        hits (`torch.Tensor` of shape `(n,)`), copy_hits (`torch.Tensor` of shape `(n,)`):
            Whether the model's answer to the image, and to the copy, is the image's own.
        steadiness (`torch.Tensor` of shape `(n,)`):
            The mean margin of the other copies.
        target (`float`, *optional*):
            The accuracy to reach: decides in place of β, where it can be reached.

    Returns:
        `torch.Tensor` of shape `(n,)`, bool.
    """
    number = len(hits)
    order = steadiness.argsort(stable=True)
    if target is not None:
        # After 0, 1, …, n images.
        gained = (copy_hits[order].double() - hits[order].double()).cumsum(dim=0)
        accuracies = (hits.double().sum() + F.pad(gained, (1, 0))) / number
        enough = (accuracies <= target + 1e-9).nonzero()
        count = int(enough[0]) if len(enough) else number
    elif slope is None:
        count = number
    else:
        share = (NO_MEMORY - slope) / (NO_MEMORY - ALL_MEMORY)
        count = round(min(1.0, max(0.0, share)) * number)
    moved = torch.zeros(number, dtype=torch.bool, device=hits.device)
    moved[order[:count]] = True
    return moved


def forget_by_surroundings(trainer: "UnlearningTrainer", target: float | None) -> Search:
    r"""
    Makes the model say of forget images what it says around them, and leaves its other answers alone.

    Each image x has lightly changed copies c_1 … c_R. Those images of which the model knows more than the copies tell
    ([`choose_moved`]) get the answer of one copy as their target: a draw from the answers around the image and not their
    mean, so that they differ among each other as unseen images do. All else gets the original's own answer p₀: the other forget
    images, copies of all, forget images transposed, flipped, mixed and shuffled, and such that are changed beyond recognition.
    Adam minimises

        w · mean_x KL(p₀(c_1(x)) ‖ p(x)) + mean_h KL(p₀(h) ‖ p(h)),    w = 0.3

    Every process computes the same, in batches of its own, whatever the batch size of the run; the images of an update and all
    changes are drawn by (seed, number, position in the forget set).

    Args:
        trainer ([`UnlearningTrainer`]):
            Its last update has run; it has its original weights.
        target (`float`, *optional*):
            The accuracy on the forget set to aim at, between 0 and 1. By default what the copies say decides.

    Returns:
        [`~publication.search.Search`]: what was found.
    """
    device, seed, number = trainer.args.device, trainer.args.seed, len(trainer.train_dataset)
    images = Images(trainer)
    trainer.model.eval()
    with torch.no_grad():
        clean = torch.cat(
            [images.forget_logits(rows) for rows in torch.arange(number).split(images.batch_size)]
        ).float()
        seen, first = [], clean
        for copy in range(NUM_COPIES):
            logits = images.logits_of(partial(images.copies, copy=copy))
            first = logits if copy == 0 else first
            seen.append(margins(logits, trainer.answers))
    if not (clean.isfinite().all() and first.isfinite().all()):
        raise CollapsedModelError("the outputs on the forget set are not finite; nothing is saved.")
    of_copies = torch.stack(seen)
    slope = slope_of_margins(margins(clean, trainer.answers), of_copies)
    hits, copy_hits = (logits.argmax(dim=-1) == trainer.answers for logits in (clean, first))
    moved = choose_moved(slope, hits, copy_hits, of_copies[1:].mean(dim=0), target)
    if target is None:
        aim = torch.where(moved, copy_hits, hits).double().mean().item()
    else:
        aim = target
    found = Search(aim, trainer.start, trainer.start, kind="surroundings", slope=slope)
    found.reached = target is None or found.accuracy <= target
    trainer.passes += 1 + NUM_COPIES
    if not moved.any():
        return found
    trainer.guard.look()
    targets = torch.where(moved[:, None], first, clean)
    held, held_targets, held_logits = images.held(moved, clean)
    moved_rows = moved.nonzero()[:, 0].cpu()
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    num_moved = min(MOVED_AT_ONCE, len(moved_rows))
    num_updates = max(NUM_UPDATES, math.ceil(VISITS * len(moved_rows) / num_moved))
    deck = partial(shuffled, seed, num_updates)
    for update, (some, others) in enumerate(
        zip(deck(len(moved_rows), num_moved, 0), deck(len(held_targets), HELD_AT_ONCE, 1), strict=True)
    ):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rise_and_fall(update / num_updates, 1 / num_updates)
        rows = moved_rows[some]
        trainer.set_mode(trainer.model)
        with torch.enable_grad():
            logits = torch.cat([images.forget_logits(rows), held_logits(others)])
            wanted = torch.cat([targets[rows.to(device)], held_targets[others.to(device)]])
            divergence = F.kl_div(logits.float().log_softmax(dim=-1), wanted.softmax(dim=-1), reduction="none").sum(
                dim=-1
            )
            loss = MOVED_WEIGHT * divergence[: len(rows)].mean() + divergence[len(rows) :].mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        # Processes agree but for rounding; one of them decides.
        for parameter in parameters:
            parameter.copy_(broadcast(parameter.detach().clone()))
    trainer.passes += held / number + 3 * num_updates * (num_moved + HELD_AT_ONCE) / number
    found.accuracy, found.length, found.moved = trainer.forget_accuracy(), trainer.distance_moved(), len(moved_rows)
    found.reached = target is None or found.accuracy <= target
    return found


def rise_and_fall(place: float, one: float) -> float:
    """The learning rate after this share of the updates, as a share of the highest; `one` update is such a share."""
    if place < RISING:
        return min(1.0, (place + one) / RISING)
    return (1 + math.cos(math.pi * (place - RISING) / (1 - RISING))) / 2


def shuffled(seed: int, num_updates: int, number: int, at_once: int, kind: int) -> list[torch.Tensor]:
    """Which of `number` things each update takes: all once, in random order, before any comes again."""
    rounds = math.ceil(num_updates * at_once / number)
    order = torch.cat([keyed_draws(seed, turn, UPDATES + kind, (number,)).argsort() for turn in range(rounds)])
    return list(order[: num_updates * at_once].split(at_once))


class Images:
    """
    The forget images of a trainer and their changed copies, the same on every process.

    Args:
        trainer ([`UnlearningTrainer`]): with a device and a model.
    """

    def __init__(self, trainer: "UnlearningTrainer"):
        self.trainer, self.seed = trainer, trainer.args.seed
        self.number = len(trainer.train_dataset)
        # The same whatever the batch size of the run: Adam would take rounding for a gradient where there is none.
        self.batch_size = batch_size_for(trainer.first_image())
        self.forward = trainer.forward_again(self.number)
        # Those of the guard: of some forget images.
        self.low, self.high = trainer.guard.low, trainer.guard.high

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        pixel_values = [self.trainer.train_dataset[row]["pixel_values"] for row in rows]
        return torch.stack(pixel_values).to(self.trainer.args.device)

    def copies(self, rows: Sequence[int], copy: int) -> torch.Tensor:
        """One lightly changed copy of each image."""
        draws = keyed_draws(self.seed, copy, COPIES, (self.number, NUM_COPY_DRAWS))[list(rows)]
        return change_lightly(self.read(rows), draws.to(self.trainer.args.device), self.low, self.high)

    def strong(self, rows: Sequence[int]) -> torch.Tensor:
        """An image that is changed beyond recognition, one for each."""
        picks = (keyed_draws(self.seed, 0, STRONG_PICKS, (self.number, 2)) * self.number).long()[list(rows)]
        draws = keyed_draws(self.seed, 0, STRONG, (self.number, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))[list(rows)]
        first, second = (self.read(picks[:, column].tolist()) for column in (0, 1))
        return make_surrogates(first, second, draws, self.low, self.high)

    def logits_of(self, make: Callable[[Sequence[int]], torch.Tensor]) -> torch.Tensor:
        """What the model says of the images that `make` makes of all forget images, of shape `(n, K)`."""
        rows = range(self.number)
        parts = [rows[start : start + self.batch_size] for start in range(0, self.number, self.batch_size)]
        return torch.cat([self.trainer.model(pixel_values=make(some)).logits for some in parts]).float()

    def forget_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the forget images as they are."""
        return self.forward(rows.tolist(), self.read(rows.tolist()))

    @torch.no_grad()
    def held(
        self, moved: torch.Tensor, clean: torch.Tensor
    ) -> tuple[int, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """
        What is held: changed copies of up to `MAX_HELD` forget images, spread over the whole, and those forget images that
        do not change.

        Returns:
            How many of them are changed copies; what the model says of each, as it is; and a function that maps positions
            among them to what the model says then.
        """
        rows = torch.linspace(0, self.number - 1, min(self.number, MAX_HELD)).round().long().tolist()
        plain = self.read(rows)
        varied = self.trainer.guard.vary(plain)
        some = keyed_draws(self.seed, 0, VARIED, (len(varied),)).argsort()[: HELD_VARIED * len(rows)]
        copies = [self.copies(rows, copy) for copy in range(HELD_COPIES)]
        images = torch.cat([*copies, varied[some.to(varied.device)], *([self.strong(rows)] * HELD_STRONG)])
        forward = self.trainer.forward_again(len(images))
        positions = torch.arange(len(images)).split(self.batch_size)
        said = torch.cat([forward(part.tolist(), images[part.to(images.device)]) for part in positions]).float()
        others = (~moved).nonzero()[:, 0]

        def logits(which: torch.Tensor) -> torch.Tensor:
            changed, own = which[which < len(images)], which[which >= len(images)] - len(images)
            parts = [forward(changed.tolist(), images[changed.to(images.device)])]
            if len(own):
                parts.append(self.forget_logits(others.cpu()[own]))
            # In the order of `which`.
            order = torch.cat([(which < len(images)).nonzero()[:, 0], (which >= len(images)).nonzero()[:, 0]])
            return torch.cat(parts)[order.argsort().to(images.device)]

        return len(images), torch.cat([said, clean[others]]), logits
