"""
Images that ask a model about all that it knows, made of a few images: so strongly changed that little of them is left.

That the answers to heavily augmented copies of very few images carry most of a teacher's knowledge was found by Asano and
Saeed, arXiv 2112.00725.
"""

import math

import torch
import torch.nn.functional as F

from .losses import noise_key


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
    num_channels = pixel_values.shape[1]
    angle = (2 * draws[:, 0] - 1) * math.radians(MAX_TURN)
    side = (SMALLEST_AREA + (1 - SMALLEST_AREA) * draws[:, 1]).sqrt()
    mirror = torch.where(draws[:, 2] < 0.5, 1.0, -1.0)
    across, down = ((2 * draws[:, column] - 1) * (1 - side) for column in (3, 4))
    rows = [
        torch.stack([angle.cos() * side * mirror, -angle.sin() * side, across], dim=1),
        torch.stack([angle.sin() * side * mirror, angle.cos() * side, down], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixel_values.shape), align_corners=False)
    images = F.grid_sample(pixel_values, grid.to(pixel_values.dtype), padding_mode="reflection", align_corners=False)
    # Other images than those of three channels get one gain and one shift for all.
    channels = 3 if num_channels == 3 else 1
    gain, shift = (
        COLOUR * (2 * draws[:, start : start + channels, None, None] - 1) for start in (5, 8)
    )  # fmt: skip
    images = images * (1 + gain) + shift * (high - low) / 2
    if num_channels == 3:
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
