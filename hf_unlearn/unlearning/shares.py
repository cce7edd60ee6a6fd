"""Work that several processes share: each does a part of it, and all know the whole."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch.distributed.tensor import DTensor, distribute_tensor


# Into so many batches at least work is cut: more processes than that leave some idle.
MIN_BATCHES = 4


def in_batches(number: int, at_once: int) -> list[torch.Tensor]:
    """The positions from 0 to `number` − 1 in batches, as even as can be, that are the same on any number of processes."""
    return list(torch.arange(number).tensor_split(max(math.ceil(number / at_once), min(number, MIN_BATCHES))))


def own_share(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """
    The batches of this process, which are dealt out one by one. A process that would have one less than the others gets an
    empty one: a sharded model needs all processes for each of its passes.
    """
    state = PartialState()
    missing = -len(batches) % state.num_processes
    return [*batches, *[batches[0][:0]] * missing][state.process_index :: state.num_processes]


def share(batches: Sequence[torch.Tensor], make: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """
    What `make` makes of all batches, each of them on one process.

    Args:
        batches (`list[torch.Tensor]`):
            Positions; each from 0 to their number − 1 is in one batch.
        make (`Callable`):
            Maps the positions of a batch to a tensor with a row for each.

    Returns:
        `torch.Tensor` with a row for each position, the same on every process.
    """
    whole = None
    for rows in own_share(batches):
        # In place of nothing it makes something again, which is dropped.
        made = make(rows if len(rows) else batches[0])
        if whole is None:
            whole = made.new_zeros(sum(map(len, batches)), *made.shape[1:])
        if len(rows):
            whole[rows.to(whole.device)] = made
    return reduce(whole, reduction="sum")


def sharded_as(weight: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Cuts a tensor, which all processes have, as a weight of the same shape is cut, if it is."""
    if not isinstance(weight, DTensor) or isinstance(whole, DTensor):
        return whole
    return distribute_tensor(whole, weight.device_mesh, weight.placements)


def gathered(weight: torch.Tensor) -> torch.Tensor:
    """The whole of a weight that may be cut; called on all processes."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@contextmanager
def whole(weights: Iterable[torch.Tensor], change: bool = False) -> Generator[None, None, None]:
    """
    Inside, weights that DeepSpeed has taken apart (ZeRO-3) are whole; all others are as they are.

    Args:
        weights (`Iterable[torch.Tensor]`):
            Parameters of a model.
        change (`bool`, *optional*, defaults to `False`):
            Whether changes made inside, the same on all processes, are to stay.
    """
    apart = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not apart:
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters  # ty: ignore[import-not-found]  it is optional

    with GatheredParameters(apart, modifier_rank=0 if change else None):
        yield
