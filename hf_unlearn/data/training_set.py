"""What the updates are taken from: forget images, retained ones, generated ones, and the order in which they come."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.utils.data import Dataset, Sampler


class TrainingSet(Dataset):
    """
    Named parts, one after the other. An item has, besides its own `pixel_values` and `labels`, its position as
    `sample_index`, whether it is one of the forget images as `is_forget`, and `sample_weight` 1. Positions past the end
    are padding: they start again from the first item, with weight 0.

    Args:
        parts (`dict[str, Dataset]`):
            `"forget"` comes first. An image without a label among others with one gets the label -1.
    """

    def __init__(self, parts: dict[str, Dataset]):
        self.parts = parts
        self.start, total = {}, 0
        for name, part in parts.items():
            self.start[name] = total
            total += len(part)
        self.total = total
        self.is_labelled = any(len(part) and "labels" in part[0] for part in parts.values())

    def __len__(self) -> int:
        return self.total

    def positions(self, name: str) -> range:
        """Where a part lies."""
        return range(self.start[name], self.start[name] + len(self.parts[name]))

    def __getitem__(self, position: int) -> dict:
        row = position % self.total
        name = next(name for name in reversed(self.start) if row >= self.start[name])
        item = self.parts[name][row - self.start[name]]
        labels = {"labels": item.get("labels", -1)} if self.is_labelled else {}
        return {
            "pixel_values": item["pixel_values"],
            **labels,
            "sample_index": row,
            "is_forget": name == "forget",
            "sample_weight": float(position < self.total),
        }


class PositionsCollator:
    """
    Adds to a batch from a [`TrainingSet`] the list `positions`. It says what `sample_index` says and stays on the host,
    where reading it waits for no device.

    Args:
        collate (`Callable`):
            Makes the batch from its items.
    """

    def __init__(self, collate: Callable[[list[dict]], dict]):
        self.collate = collate

    def __call__(self, items: list[dict]) -> dict:
        batch = self.collate(items)
        if "sample_index" in items[0]:
            batch["positions"] = [item["sample_index"] for item in items]
        return batch


class PhasedSampler(Sampler):
    """
    Positions of a [`TrainingSet`] in the order in which one epoch takes them. Each phase is padded up to whole updates,
    so that none holds images of two phases; the last one, which need not be, up to what all processes take at once.

    Args:
        phases (`Callable`):
            Maps a function that shuffles positions to the phases of an epoch, each a sequence of positions.
        num_images (`int`):
            Length of the training set.
        multiple_of (`int`):
            Images that all processes take at once.
        update_size (`int`):
            Images of an update: as many, times the accumulation steps.
        shuffle (`bool`):
            Whether the function shuffles, by (seed, epoch), or leaves the positions as they are.
        seed (`int`):
            Of the order.
    """

    def __init__(
        self, phases: Callable, num_images: int, multiple_of: int, update_size: int, shuffle: bool, seed: int
    ):
        self.phases = phases
        self.num_images = num_images
        self.multiple_of = multiple_of
        self.update_size = update_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.length = sum(len(phase) + padding for phase, padding in self.padded(phases(list)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def padded(self, phases: list[Sequence[int]]) -> list[tuple[Sequence[int], int]]:
        """Each phase with the number of images that it is padded by."""
        multiples = [self.update_size] * (len(phases) - 1) + [self.multiple_of]
        return [(phase, -len(phase) % multiple) for phase, multiple in zip(phases, multiples, strict=True)]

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)

        def shuffled(positions: Iterable[int]) -> list[int]:
            positions = torch.as_tensor(list(positions))
            return positions[torch.randperm(len(positions), generator=generator)].tolist()

        for phase, padding in self.padded(self.phases(shuffled if self.shuffle else list)):
            yield from phase
            for number in range(padding):
                yield phase[number % len(phase)] + self.num_images


def interleave(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """`first[0], second[0], first[1], …` over all of `first`; `second` starts again when it ends."""
    return [position for i, one in enumerate(first) for position in (one, second[i % len(second)])]
