"""
Images that ask a model about all that it knows, made of a few images: so strongly changed that little of them is left.

That the answers to heavily augmented copies of very few images carry most of a teacher's knowledge was found by Asano and
Saeed, arXiv 2112.00725.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from .guard import Guard, impressions
from .losses import noise_key


# What an update takes: forget images as they are, surrogates of them, impressions as they are, surrogates of those.
PARTS = {"forget": 16, "changed forget": 48, "impressions": 32, "changed impressions": 32}
NUM_IMAGES = sum(PARTS.values())
PART_OF_PLACE = torch.arange(len(PARTS)).repeat_interleave(torch.tensor(list(PARTS.values())))
IMPRESSION_PLACES = (PART_OF_PLACE == list(PARTS).index("impressions")).nonzero()[:, 0]
# Forget images and impressions that surrogates are made of, at most.
MAX_FORGET, MAX_IMPRESSIONS, IMPRESSIONS_PER_CLASS = 1000, 1000, 100
# The same whatever else is set: how many pass at once decides how they are rounded.
IMPRESSIONS_AT_ONCE = 32
# What numbers are drawn for: which images an update takes, how they are changed; and the same of the pool of impressions.
PICKS, CHANGES, POOL_PICKS, POOL_CHANGES = range(4)

# Of a change of one image: turn, area, mirror, place (2), one gain and one shift of colour for each of up to three channels,
# order of the channels (2), inversion.
NUM_DRAWS = 14
# Of how two are put together: the share of the first, size and place of the patch, and which of the two ways.
NUM_JOIN_DRAWS = 5
# An image is turned by so many degrees at most, and cropped to this share of its area at least.
MAX_TURN, SMALLEST_AREA = 35.0, 0.1
# Gain and shift of each channel, the shift as a share of half the range of the pixels.
COLOUR = 0.35
REORDERED, INVERTED = 0.25, 0.15
# Shares of images that are blended with another and that get a patch of another.
BLENDED, PATCHED = 0.35, 0.35
ORDERS = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


def keyed_draws(seed: int, update: int, kind: int, shape: tuple[int, ...]) -> torch.Tensor:
    """
    Uniform numbers between 0 and 1 that depend on (seed, update, kind) and on nothing else: a process that takes some of
    the rows draws all of them, and memory is what a few numbers per image take.

    Args:
        seed (`int`): seed of the run.
        update (`int`): number of the update.
        kind (`int`): what the numbers are for; another number gives another, independent draw.
        shape (`tuple[int, ...]`): their shape.
    """
    return torch.rand(shape, generator=torch.Generator().manual_seed(noise_key(seed, update, kind)))


def turn_and_crop(
    pixel_values: torch.Tensor,
    draws: torch.Tensor,
    max_turn: float,
    smallest_area: float,
    mirror: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """
    Turns images, and takes a part of each in its place.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): the images.
        draws (`torch.Tensor` of shape `(B, 4)`): uniform numbers between 0 and 1: turn, area and place (2).
        max_turn (`float`): in degrees, to either side.
        smallest_area (`float`): of the part, as a share of the image's.
        mirror (`torch.Tensor` of shape `(B,)`, *optional*, defaults to 1.0): −1 for images that are mirrored.
    """
    angle = (2 * draws[:, 0] - 1) * math.radians(max_turn)
    side = (smallest_area + (1 - smallest_area) * draws[:, 1]).sqrt()
    across, down = ((2 * draws[:, column] - 1) * (1 - side) for column in (2, 3))
    rows = [
        torch.stack([angle.cos() * side * mirror, -angle.sin() * side, across], dim=1),
        torch.stack([angle.sin() * side * mirror, angle.cos() * side, down], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixel_values.shape), align_corners=False)
    return F.grid_sample(pixel_values, grid.to(pixel_values.dtype), padding_mode="reflection", align_corners=False)


def recolour(
    images: torch.Tensor, draws: torch.Tensor, strength: float, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """
    One gain and one shift for each channel of images; of other than three channels, one for all.

    Args:
        images (`torch.Tensor` of shape `(B, C, H, W)`): the images.
        draws (`torch.Tensor` of shape `(B, 6)`): uniform numbers between 0 and 1.
        strength (`float`): of both, the shift as a share of half the range of the pixels.
        low (`torch.Tensor`): the lowest value of a pixel.
        high (`torch.Tensor`): the highest value of a pixel.
    """
    channels = 3 if images.shape[1] == 3 else 1
    gain, shift = (strength * (2 * draws[:, start : start + channels, None, None] - 1) for start in (0, 3))
    return images * (1 + gain) + shift * (high - low) / 2


def change_strongly(
    pixel_values: torch.Tensor, draws: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """
    Turns, crops, mirrors and moves images, changes their colours, and inverts some.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): the images.
        draws (`torch.Tensor` of shape `(B, NUM_DRAWS)`): uniform numbers between 0 and 1.
        low (`torch.Tensor`): the lowest value of a pixel.
        high (`torch.Tensor`): the highest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`; not cut at `low` and `high`.
    """
    mirror = torch.where(draws[:, 2] < 0.5, 1.0, -1.0)
    images = turn_and_crop(pixel_values, draws[:, [0, 1, 3, 4]], MAX_TURN, SMALLEST_AREA, mirror)
    images = recolour(images, draws[:, 5:11], COLOUR, low, high)
    if pixel_values.shape[1] == 3:
        order = ORDERS.to(draws.device)[torch.where(draws[:, 11] < REORDERED, (draws[:, 12] * len(ORDERS)).long(), 0)]
        images = images.gather(1, order[:, :, None, None].expand_as(images))
    return torch.where((draws[:, 13] < INVERTED)[:, None, None, None], low + high - images, images)


def join(first: torch.Tensor, second: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """
    Blends images with others (mixup, arXiv 1710.09412), puts a patch of others into them (CutMix, arXiv 1905.04899), or
    leaves them as they are.

    Args:
        first (`torch.Tensor` of shape `(B, C, H, W)`): the images.
        second (`torch.Tensor` of shape `(B, C, H, W)`): the others.
        draws (`torch.Tensor` of shape `(B, NUM_JOIN_DRAWS)`): uniform numbers between 0 and 1.
    """
    height, width = first.shape[-2:]
    share = draws[:, 0, None, None, None].to(first.dtype)
    # The sides of the patch are 20 to 88 % of the image's.
    side = 0.2 + 0.68 * draws[:, 1]
    top, left = (draws[:, column] * (1 - side) for column in (2, 3))
    down, across = ((torch.arange(n, device=first.device) + 0.5) / n for n in (height, width))
    rows = (down >= top[:, None]) & (down < (top + side)[:, None])
    columns = (across >= left[:, None]) & (across < (left + side)[:, None])
    patched = torch.where((rows[:, :, None] & columns[:, None, :])[:, None], second, first)
    way = draws[:, 4, None, None, None]
    return torch.where(
        way < BLENDED,
        share * first + (1 - share) * second,
        torch.where(way < BLENDED + PATCHED, patched, first),
    )


def make_surrogates(
    first: torch.Tensor, second: torch.Tensor, draws: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """
    One surrogate image of each pair, between `low` and `high`.

    Args:
        first (`torch.Tensor` of shape `(B, C, H, W)`): images.
        second (`torch.Tensor` of shape `(B, C, H, W)`): images to join them with.
        draws (`torch.Tensor` of shape `(B, 2 * NUM_DRAWS + NUM_JOIN_DRAWS)`): uniform numbers between 0 and 1.
        low (`torch.Tensor`): the lowest value of a pixel.
        high (`torch.Tensor`): the highest value of a pixel.
    """
    draws = draws.to(first.device)
    changed = (
        change_strongly(images, draws[:, start : start + NUM_DRAWS], low, high)
        for images, start in ((first, 0), (second, NUM_DRAWS))
    )
    return join(*changed, draws[:, 2 * NUM_DRAWS :]).clamp(low, high)


class Surrogates:
    """
    The images of all updates, made when they are asked for.

    Args:
        forget (`torch.Tensor` of shape `(n, C, H, W)`): forget images, where surrogates are to be made.
        impressions (`torch.Tensor` of shape `(m, C, H, W)`): what [`make_impressions`] made.
        seed (`int`): seed of the run.
        proxies (`torch.Tensor` of shape `(p, C, H, W)`, *optional*): images that were given, of whatever; they take half
            of the places of impressions.
    """

    def __init__(
        self, forget: torch.Tensor, impressions: torch.Tensor, seed: int, proxies: torch.Tensor | None = None
    ):
        self.low, self.high, self.seed = forget.min(), forget.max(), seed
        pools = [forget, impressions] + ([] if proxies is None else [proxies])
        self.images, self.sizes = torch.cat(pools), torch.tensor([len(pool) for pool in pools])

    def of_update(self, update: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Some images of an update: they depend on seed, update and place, and on nothing else.

        Args:
            update (`int`):
                Number of the update; below 0 of those that there are not.
            places (`torch.Tensor` of shape `(B,)`):
                Which of its images, between 0 and 127.

        Returns:
            The images, of shape `(B, C, H, W)`; which of them are forget images as they are, of shape `(B,)`; and for
            each of these another forget image.
        """
        places, device = places.cpu(), self.images.device
        draw = partial(keyed_draws, self.seed, update)
        part = PART_OF_PLACE[places]
        # With proxies, every other place of an impression is one's.
        pool = torch.where(part < 2, 0, 1 + places % 2 if len(self.sizes) > 2 else 1)
        count, start = self.sizes[pool], (self.sizes.cumsum(0) - self.sizes)[pool]
        picks = draw(PICKS, (NUM_IMAGES, 2))[places].double()
        number = (picks[:, 0] * count).long()
        # Another one, where there is another.
        other = (number + 1 + (picks[:, 1] * (count - 1)).long()) % count
        first, second = (self.images[(start + numbers).to(device)] for numbers in (number, other))
        changes = draw(CHANGES, (NUM_IMAGES, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))[places]
        as_they_are = (part % 2 == 0).to(device)[:, None, None, None]
        images = torch.where(as_they_are, first, make_surrogates(first, second, changes, self.low, self.high))
        is_forget = (part == 0).to(device)
        return images, is_forget, second[is_forget]


def make_impressions(
    forward: Callable[[torch.Tensor], torch.Tensor],
    forget: torch.Tensor,
    guard: Guard,
    seed: int,
    show_progress: bool = False,
) -> torch.Tensor:
    """
    Images of the classes that stay, as the original model sees them: surrogates, the guard's variants and noise, moved
    until it is sure of a class.

    Args:
        forward (`Callable`): maps pixel values to logits, by the original model.
        forget (`torch.Tensor` of shape `(n, C, H, W)`): forget images.
        guard ([`Guard`]): of the same model; it knows which classes stay.
        seed (`int`): seed of the run.
        show_progress (`bool`, *optional*, defaults to `False`): a thousand of them take minutes on a CPU.
    """
    draws = partial(keyed_draws, seed, 0)
    picks = (draws(POOL_PICKS, (512, 2)) * len(forget)).long().to(forget.device)
    changes = draws(POOL_CHANGES, (512, 2 * NUM_DRAWS + NUM_JOIN_DRAWS))
    surrogates = make_surrogates(forget[picks[:, 0]], forget[picks[:, 1]], changes, forget.min(), forget.max())
    pool = torch.cat([surrogates, guard.vary(forget[:64]), guard.noise_like(forget)])
    made, _ = impressions(
        forward,
        pool,
        guard.staying,
        torch.Generator().manual_seed(seed),
        per_class=max(1, min(IMPRESSIONS_PER_CLASS, MAX_IMPRESSIONS // len(guard.staying))),
        max_steps=20,
        max_classes=MAX_IMPRESSIONS,
        batch_size=IMPRESSIONS_AT_ONCE,
        show_progress=show_progress,
    )
    return made.detach()
