"""Work that several processes share."""

import math
from types import SimpleNamespace

import pytest
import torch

from hf_unlearn.unlearning import shares
from hf_unlearn.unlearning.shares import in_batches, own_share, share


@pytest.fixture
def as_process(monkeypatch):
    """Makes this process one of several, whose results are not put together."""

    def become(index, number):
        state = SimpleNamespace(process_index=index, num_processes=number)
        monkeypatch.setattr(shares, "PartialState", lambda: state)
        monkeypatch.setattr(shares, "reduce", lambda tensor, reduction: tensor)

    return become


@pytest.mark.parametrize(
    ("number", "at_once", "sizes"), [(3, 64, [1, 1, 1]), (13, 64, [4, 3, 3, 3]), (11, 2, [2] * 5 + [1]), (1, 1, [1])]
)
def test_batches_are_even_and_at_least_four_where_there_are_so_many_images(number, at_once, sizes):
    batches = in_batches(number, at_once)
    assert [len(rows) for rows in batches] == sizes
    assert torch.cat(batches).tolist() == list(range(number))


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
def test_each_batch_is_made_once_and_all_processes_make_as_many(as_process, processes):
    batches, calls, total = in_batches(13, 64), [], torch.zeros(13, 2)

    def make(rows):
        calls.append(rows)
        return torch.stack([rows, rows**2], dim=1).float()

    for index in range(processes):
        as_process(index, processes)
        total += share(batches, make)
        assert len(own_share(batches)) == math.ceil(len(batches) / processes)
    # No position twice: what a process makes in place of nothing is dropped.
    assert total.tolist() == [[row, row**2] for row in range(13)]
    assert len(calls) == processes * math.ceil(len(batches) / processes)
