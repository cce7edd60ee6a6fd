"""The images that updates are computed from (forget, retained and generated images), and their order in an epoch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch.utils.data import Dataset, Sampler

from .rows import Rows


class TrainingSet(Dataset):
    """
    Joins several datasets, its parts, into one. An item has its `pixel_values` and `labels`, and in addition:

    - `sample_index`: its position in the training set;
    - `is_forget`: whether it is a forget image;
    - `sample_weight`: 1.

    A position past the end is padding: it gives the items from the first one on again, with a `sample_weight` of 0.

    Args:
        parts (`dict[str, Dataset]`):
            By name, in their order; `"forget"` comes first. If any part has labels, an item without a label gets the
            label -1.
    """

    def __init__(self, parts: Mapping[str, Rows]):
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
        """The positions of a part."""
        return range(self.start[name], self.start[name] + len(self.parts[name]))

    def __getitem__(self, index: int) -> dict:
        row = index % self.total
        name = next(name for name in reversed(self.start) if row >= self.start[name])
        item = self.parts[name][row - self.start[name]]
        labels = {"labels": item.get("labels", -1)} if self.is_labelled else {}
        return {
            "pixel_values": item["pixel_values"],
            **labels,
            "sample_index": row,
            "is_forget": name == "forget",
            "sample_weight": float(index < self.total),
        }


class PositionsCollator:
    """
    Adds the list `positions` to a batch of a [`TrainingSet`]. It has the values of the tensor `sample_index`; reading
    them from a list never waits for the device.

    Args:
        collate (`Callable`):
            The collator that makes a batch from its items.
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
    Yields the positions of a [`TrainingSet`] for one epoch, phase by phase. Each phase is padded to whole updates, so
    that no update has images of two phases. The last phase is padded only to a multiple of the images that all
    processes take at once.

    Args:
        phases (`Callable`):
            Takes a function that shuffles positions and returns the phases of an epoch, each a sequence of positions.
        num_images (`int`):
            Length of the training set.
        multiple_of (`int`):
            Number of images that all processes together take in one forward pass.
        update_size (`int`):
            Number of images of an update: `multiple_of` times the gradient accumulation steps.
        shuffle (`bool`):
            Whether the function given to `phases` shuffles, by (seed, epoch), or keeps the order.
        seed (`int`):
            Seed of the order.
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
        """Each phase with the number of padding images that it gets."""
        multiples = [self.update_size] * (len(phases) - 1) + [self.multiple_of]
        return [(phase, -len(phase) % multiple) for phase, multiple in zip(phases, multiples, strict=True)]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)

        def shuffled(positions: Iterable[int]) -> list[int]:
            order = torch.as_tensor(list(positions))
            return order[torch.randperm(len(order), generator=generator)].tolist()

        for phase, padding in self.padded(self.phases(shuffled if self.shuffle else list)):
            yield from phase
            for number in range(padding):
                yield phase[number % len(phase)] + self.num_images


def interleave(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """
    Alternates two sequences: `first[0], second[0], first[1], second[1], …` until `first` ends. If `second` ends
    earlier, it starts again.
    """
    return [position for i, one in enumerate(first) for position in (one, second[i % len(second)])]
