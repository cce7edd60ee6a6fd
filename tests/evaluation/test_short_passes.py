"""Passes over the same images are short, and their logits those of the models as they are."""

import copy

import pytest
import torch
from conftest import make_model
from torch import nn

from hf_unlearn.evaluation.short_passes import ShortPasses, batch_norm_folded, find_pairs, find_shared
from hf_unlearn.unlearning.step_size import last_stage_and_head


@pytest.fixture
def pixel_values():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def with_statistics(model):
    """As after training: BatchNorm does something."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model.eval()


def moved(model, names=None):
    """A copy of which these weights differ; by default those of the last stage and head."""
    other = copy.deepcopy(model)
    names = last_stage_and_head(model, torch.zeros(1, 3, 16, 16)) if names is None else names
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in names:
                parameter.mul_(1.1)
    return other


def alone(model, pixel_values):
    with torch.no_grad(), ShortPasses({"model": model}) as passes:
        return passes.logits(pixel_values)["model"]


def test_logits_are_those_of_the_model_up_to_rounding(any_model, pixel_values):
    model = with_statistics(any_model)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
    torch.testing.assert_close(alone(model, pixel_values), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_batch_norm_runs_inside_the_convolutions_and_all_is_put_back(resnet, pixel_values):
    model, calls = with_statistics(resnet), []
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.register_forward_hook(lambda module, args, output: calls.append(module))
    with batch_norm_folded(model, pixel_values[:1]):
        calls.clear()
        model(pixel_values=pixel_values)
        assert norms and not calls
    model(pixel_values=pixel_values)
    assert set(calls) == set(norms) and list(model.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_convolution_that_is_wanted_elsewhere_too_is_left_alone(pixel_values):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, pixel_values):
            x = self.convolution(pixel_values)
            return type("Output", (), {"logits": (self.norm(x) + x).mean((2, 3))})

    model = with_statistics(Twice())
    expected = model(pixel_values=pixel_values).logits
    assert find_pairs(model, pixel_values)
    with batch_norm_folded(model, pixel_values):
        assert torch.equal(model(pixel_values=pixel_values).logits, expected)


def test_what_two_models_share_runs_once_and_the_logits_are_the_same_to_the_bit(any_model, pixel_values):
    model = with_statistics(any_model)
    other = moved(model)
    late = last_stage_and_head(model, pixel_values[:1])
    with torch.no_grad(), ShortPasses({"original": model, "unlearned": other}) as passes:
        found = passes.logits(pixel_values)
        shared = passes.shared.get("unlearned")
    assert torch.equal(found["original"], alone(model, pixel_values))
    assert torch.equal(found["unlearned"], alone(other, pixel_values))
    assert not torch.equal(found["original"], found["unlearned"])
    # Where the update cuts a network, the evaluation does.
    assert (shared is not None) == (len(late) < len(list(model.named_parameters())))


def test_early_part_runs_once(resnet, pixel_values):
    model, calls = with_statistics(resnet), []
    other = moved(model)
    for name, one in (("original", model), ("unlearned", other)):
        one.resnet.embedder.register_forward_pre_hook(lambda module, args, name=name: calls.append(len(args[0])))
    with torch.no_grad(), ShortPasses({"original": model, "unlearned": other}) as passes:
        passes.logits(pixel_values)
        calls.clear()
        passes.logits(pixel_values)
    # The other is skipped; its hook sees the one image that stands in.
    assert calls.count(6) == 1


def test_model_that_did_not_move_does_not_run(resnet, pixel_values):
    model, calls = with_statistics(resnet), []
    same = copy.deepcopy(model)
    same.register_forward_pre_hook(lambda module, args: calls.append(0))
    with torch.no_grad(), ShortPasses({"original": model, "unlearned": same}) as passes:
        passes.logits(pixel_values)
        calls.clear()
        found = passes.logits(pixel_values)
    assert not calls and torch.equal(found["original"], found["unlearned"])


@torch.no_grad()
def test_other_statistics_classes_or_early_weights_share_nothing(resnet, pixel_values):
    model = with_statistics(resnet)
    statistics, early = copy.deepcopy(model), moved(model, {name for name, _ in model.named_parameters()})
    next(module for module in statistics.modules() if isinstance(module, nn.BatchNorm2d)).running_mean += 1
    for other in (statistics, early, make_model("vit").eval()):
        assert find_shared("one", {"one": model, "other": other}, "other", pixel_values[:1]) is None
