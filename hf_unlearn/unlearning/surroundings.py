"""
Single images are forgotten by their surroundings: what the model knows of an image alone gives way to its answer to a lightly
changed copy.
"""

import math
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import reduce

from ..errors import CollapsedModelError
from ..publication.search import Search
from ..terminal import progress
from .guard import batch_size_for
from .shares import MIN_BATCHES, share
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
# In which an image's position tells its part. Processes share an update by parts: more of them than parts are idle.
NUM_PARTS = MIN_BATCHES
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

    The processes share the images, in batches that do not depend on the batch size of the run; the images of an update and all
    changes are drawn by (seed, number, position in the forget set).

    Args:
        trainer ([`UnlearningTrainer`]):
            Its last update has run; it has its original weights.
        target (`float`, *optional*):
            The accuracy on the forget set to aim at, between 0 and 1. By default what the copies say decides.

    Returns:
        [`~publication.search.Search`]: what was found.
    """
    number = len(trainer.train_dataset)
    images = Images(trainer)
    trainer.model.eval()
    with torch.no_grad():
        clean = share(images.dealt_out(number), images.forget_logits).float()
        seen, first = [], clean
        for copy in range(NUM_COPIES):
            logits = share(images.dealt_out(number), partial(images.logits_of_copies, copy=copy)).float()
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
    said = images.hold()
    targets = torch.cat([torch.where(moved[:, None], first, clean), said]).softmax(dim=-1)
    changed = number + torch.arange(len(said))
    held, moved = torch.cat([changed, (~moved).nonzero()[:, 0].cpu()]), moved.nonzero()[:, 0].cpu()
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    num_moved = min(MOVED_AT_ONCE, len(moved))
    num_updates = max(NUM_UPDATES, math.ceil(VISITS * len(moved) / num_moved))
    deck = partial(shuffled, trainer.args.seed, num_updates)
    rows_of_updates = zip(deck(len(moved), num_moved, 0), deck(len(held), HELD_AT_ONCE, 1), strict=True)
    shown = progress("search", num_updates, rows_of_updates, hidden=trainer.args.disable_tqdm)
    for update, (some, others) in enumerate(shown):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rise_and_fall(update / num_updates, 1 / num_updates)
        positions, order = torch.cat([moved[some], held[others]]).sort()
        weights = torch.tensor([MOVED_WEIGHT / len(some)] * len(some) + [1 / len(others)] * len(others))
        trainer.set_mode(trainer.model)
        gradients = shared_gradients(images, parameters, positions, weights[order], targets)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
    trainer.passes += len(said) / number + 3 * num_updates * (num_moved + HELD_AT_ONCE) / number
    found.accuracy, found.length, found.moved = trainer.forget_accuracy(), trainer.distance_moved(), len(moved)
    found.reached = target is None or found.accuracy <= target
    return found


def shared_gradients(
    images: "Images",
    parameters: list[torch.nn.Parameter],
    positions: torch.Tensor,
    weights: torch.Tensor,
    targets: torch.Tensor,
) -> list[torch.Tensor | None]:
    """
    The gradient of Σ_i w_i KL(target_i ‖ p_i) for each parameter, of which every process computes a part. Each part is
    the same on any number of processes, and they are added in double precision, in which their order shows in no float: Adam
    would take rounding for a gradient where there is none.

    Args:
        images ([`Images`]): what passes.
        parameters (`list[nn.Parameter]`): those that move.
        positions (`torch.Tensor` of shape `(B,)`): which images, as [`Images`] numbers them, in rising order.
        weights (`torch.Tensor` of shape `(B,)`): w, on the CPU.
        targets (`torch.Tensor` of shape `(n, K)`): probabilities, of all images.
    """
    state, trainer = PartialState(), images.trainer
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    for turn in range(math.ceil(NUM_PARTS / state.num_processes)):
        here = positions % NUM_PARTS == turn * state.num_processes + state.process_index
        rows, weight = positions[here], weights[here]
        if len(rows) == 0 and trainer.is_sharded:
            # The other processes need this one for their passes.
            rows, weight = positions[:1], torch.zeros(1)
        if len(rows) == 0:
            continue
        with torch.enable_grad():
            said, wanted = images.logits(rows).float().log_softmax(dim=-1), targets[rows.to(targets.device)]
            divergence = F.kl_div(said, wanted, reduction="none").sum(dim=-1)
            loss = (weight.to(divergence.device) * divergence).sum()
            if trainer.is_fsdp_enabled:
                # It puts the gradients together itself, and takes their mean over the processes.
                (state.num_processes * loss).backward()
                continue
            for total, gradient in zip(sums, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if gradient is not None:
                    total += gradient
    if trainer.is_fsdp_enabled:
        return [parameter.grad for parameter in parameters]
    flat = reduce(torch.cat([total.flatten() for total in sums]), reduction="sum")
    parts = flat.split([total.numel() for total in sums])
    return [
        part.view_as(total).to(parameter.dtype) for part, total, parameter in zip(parts, sums, parameters, strict=True)
    ]


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
    What passes: the forget images of a trainer at the positions from 0 on, and after them changed copies of some. An image
    always passes on the same process, which may keep what the part of the network that does not move says of it.

    Args:
        trainer ([`UnlearningTrainer`]): with a device and a model.
    """

    def __init__(self, trainer: "UnlearningTrainer"):
        self.trainer, self.seed = trainer, trainer.args.seed
        self.number = len(trainer.train_dataset)
        # The same whatever the batch size of the run, for the same reason as in `shared_gradients`.
        self.batch_size = batch_size_for(trainer.first_image())
        self.held_rows = torch.linspace(0, self.number - 1, min(self.number, MAX_HELD)).round().long()
        num_changed = (HELD_COPIES + HELD_VARIED + HELD_STRONG) * len(self.held_rows)
        self.forward = trainer.forward_again(self.number + num_changed)
        self.changed = torch.empty(0)
        # Those of the guard: of some forget images.
        self.low, self.high = trainer.guard.low, trainer.guard.high

    def dealt_out(self, number: int, first: int = 0) -> list[torch.Tensor]:
        """The positions from 0 to `number` − 1 in batches, dealt out so that position `first` + i is always on the same process."""
        positions = torch.arange(number)
        parts = [
            positions[(positions + first) % NUM_PARTS == part].split(self.batch_size) for part in range(NUM_PARTS)
        ]
        return [rows for batches in zip_longest(*parts) for rows in batches if rows is not None and len(rows)]

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the forget images."""
        pixel_values = [self.trainer.train_dataset[row]["pixel_values"] for row in rows.tolist()]
        return torch.stack(pixel_values).to(self.trainer.args.device)

    def copies(self, rows: torch.Tensor, copy: int) -> torch.Tensor:
        """One lightly changed copy of each image."""
        draws = keyed_draws(self.seed, copy, COPIES, (self.number, NUM_COPY_DRAWS))[rows]
        return change_lightly(self.read(rows), draws.to(self.trainer.args.device), self.low, self.high)

    def strong(self, rows: torch.Tensor) -> torch.Tensor:
        """An image that is changed beyond recognition, one for each."""
        picks = (keyed_draws(self.seed, 0, STRONG_PICKS, (self.number, 2)) * self.number).long()[rows]
        draws = keyed_draws(self.seed, 0, STRONG, (self.number, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))[rows]
        first, second = (self.read(picks[:, column]) for column in (0, 1))
        return make_surrogates(first, second, draws, self.low, self.high)

    def logits_of_copies(self, rows: torch.Tensor, copy: int) -> torch.Tensor:
        """What the model says of one copy of each image."""
        return self.trainer.model(pixel_values=self.copies(rows, copy)).logits

    def forget_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the forget images as they are."""
        return self.forward(rows.tolist(), self.read(rows))

    def logits(self, positions: torch.Tensor) -> torch.Tensor:
        """Of any of the images; the positions rise."""
        own, changed = positions[positions < self.number], positions[positions >= self.number] - self.number
        pixel_values = [self.read(own)] if len(own) else []
        pixel_values += [self.changed[changed.to(self.changed.device)]] if len(changed) else []
        return self.forward(positions.tolist(), torch.cat(pixel_values))

    @torch.no_grad()
    def hold(self) -> torch.Tensor:
        """
        Makes changed copies of up to `MAX_HELD` forget images, spread over the whole.

        Returns:
            What the model says of each, as it is.
        """
        rows = self.held_rows
        varied = self.trainer.guard.vary(self.read(rows))
        some = keyed_draws(self.seed, 0, VARIED, (len(varied),)).argsort()[: HELD_VARIED * len(rows)]
        copies = [self.copies(rows, copy) for copy in range(HELD_COPIES)]
        self.changed = torch.cat([*copies, varied[some.to(varied.device)], *([self.strong(rows)] * HELD_STRONG)])
        batches = self.dealt_out(len(self.changed), first=self.number)
        return share(batches, lambda numbers: self.logits(self.number + numbers)).float()
