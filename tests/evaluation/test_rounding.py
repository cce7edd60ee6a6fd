"""Rounded weights, against the definition."""

import copy

import pytest
import torch
from conftest import make_model

from hf_unlearn.evaluation.rounding import rounded_copy


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_weights_of_a_channel_are_multiples_of_its_scale(architecture, bits):
    model = make_model(architecture)
    before = copy.deepcopy(model.state_dict())
    rounded = rounded_copy(model, bits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    touched = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }  # fmt: skip
    for name, value in rounded.state_dict().items():
        if name not in touched:
            assert torch.equal(value, before[name]), name
            continue
        for channel, original in zip(value, before[name], strict=True):
            scale = original.abs().max() / (2 ** (bits - 1) - 1)
            levels = channel / scale
            torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
            # To the nearest level, and the largest weight stays. Tolerance of float32.
            assert (channel - original).abs().max() <= scale / 2 * (1 + 1e-4)
            assert channel.abs().max() == pytest.approx(original.abs().max().item(), rel=1e-5)
    assert touched and not rounded.training


def test_channel_without_weights_stays():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
    weight = rounded_copy(model, 4)[0].weight
    assert (weight[0] == 0).all() and weight.isfinite().all()
