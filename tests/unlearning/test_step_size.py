import pytest
import torch
from conftest import make_model, other_models
from torch import nn

from hf_unlearn.errors import CollapsedModelError
from hf_unlearn.unlearning.step_size import (
    GradientSum,
    blur,
    first_length,
    last_stage_and_head,
    search_length,
    shift,
    turn,
)


@pytest.mark.parametrize(
    ("architecture", "inside", "outside"),
    [
        ("resnet", ["resnet.encoder.stages.1.", "classifier."], ["resnet.embedder.", "resnet.encoder.stages.0."]),
        ("vit", ["vit.layers.1.", "vit.layernorm.", "classifier."], ["vit.embeddings.", "vit.layers.0."]),
        ("convnext", ["convnext.encoder.stages.1.", "convnext.layernorm.", "classifier."],
         ["convnext.embeddings.", "convnext.encoder.stages.0."]),
        ("mobilenet_v2", ["mobilenet_v2.layer.15.", "mobilenet_v2.conv_1x1.", "classifier."],
         ["mobilenet_v2.conv_stem.", "mobilenet_v2.layer.14."]),
        ("swin", ["swin.encoder.layers.1.", "swin.layernorm.", "classifier."],
         ["swin.embeddings.", "swin.encoder.layers.0."]),
        ("regnet", ["regnet.encoder.stages.1.", "classifier."], ["regnet.embedder.", "regnet.encoder.stages.0."]),
        ("bit", ["bit.encoder.stages.1.", "bit.norm.", "classifier."], ["bit.embedder.", "bit.encoder.stages.0."]),
        ("efficientnet", ["efficientnet.encoder.top_conv.", "classifier."],
         ["efficientnet.embeddings.", "efficientnet.encoder.blocks.0."]),
    ],
)  # fmt: skip
def test_last_stage_and_head_of_hub_architectures(architecture, inside, outside):
    model = other_models()[architecture] if architecture in other_models() else make_model(architecture)
    size = 32 if architecture == "efficientnet" else 16
    names = last_stage_and_head(model.eval(), torch.zeros(1, 3, size, size))
    everything = [name for name, _ in model.named_parameters()]
    for prefix in inside:
        part = [name for name in everything if name.startswith(prefix)]
        assert part and set(part) <= names, prefix
    for prefix in outside:
        part = [name for name in everything if name.startswith(prefix)]
        assert part and not set(part) & names, prefix


def test_model_without_a_chain_moves_as_a_whole():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.second(self.first(pixel_values))

    names = last_stage_and_head(Flat(), torch.zeros(1, 4))
    assert names == {"first.weight", "first.bias", "second.weight", "second.bias"}


def search(threshold: float, target=0.5, **options):
    """Searches where the accuracy falls from 1 to 0 at a known length."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    gradient = torch.tensor([0.6, 0.8])

    def accuracy():
        return float((weight - torch.tensor([3.0, 4.0])).norm() < threshold * 5)

    found = search_length({weight: gradient}, accuracy, target, start=1.0, **options)
    return found, weight


@pytest.mark.parametrize("threshold", [0.0008, 0.004, 0.01, 0.035, 0.2, 0.5])
def test_search_finds_the_smallest_length_that_suffices(threshold):
    found, weight = search(threshold, evaluations=20, overshoot=1.0)
    assert found.reached and threshold <= found.length <= threshold * 1.12
    torch.testing.assert_close(weight, torch.tensor([3.0, 4.0]) - 5 * found.length * torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("threshold", [0.00002, 0.0001, 0.0002, 0.01])
def test_search_is_as_precise_on_small_lengths(threshold):
    found, _ = search(threshold, overshoot=1.0)
    assert found.reached and threshold <= found.length <= threshold * 1.12


def test_search_ends_after_its_evaluations_with_a_length_that_suffices():
    """Three that suffice, one that does not, and three between."""
    found, _ = search(0.0008, evaluations=3, overshoot=1.0)
    assert found.evaluations == 7 and found.reached and found.length >= 0.0008


def test_search_of_a_class_that_no_step_brings_back_ends():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    found = search_length({weight: torch.tensor([0.6, 0.8])}, lambda: 0.0, 0.5, start=1.0)
    assert found.reached and found.length < 1e-7


@pytest.mark.parametrize("threshold", [0.0002, 0.004, 0.2])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.0003, 0.05, 1.0, 100.0])
def test_search_ends_at_the_same_length_wherever_it_begins(threshold, value):
    direction = {nn.Parameter(torch.tensor([3.0, 4.0])): torch.tensor([0.6, 0.8])}
    found, _ = search(threshold, first=first_length(direction, value), overshoot=1.0)
    assert found.length == pytest.approx(search(threshold, overshoot=1.0)[0].length, rel=1e-6)


def test_search_begins_where_the_loss_would_be_zero_along_its_gradient():
    """A loss of 0.001, of slope 1, on weights of norm 5: 0.02 % of it, and of the lengths tried 1 % / 3⁴ is the nearest."""
    direction = {nn.Parameter(torch.tensor([3.0, 4.0])): torch.tensor([0.6, 0.8])}
    assert first_length(direction, 0.001) == pytest.approx(0.01 / 3**4)
    assert first_length(direction, 0.0) == first_length({nn.Parameter(torch.ones(1)): torch.zeros(1)}, 1.0) == 0.01


def test_search_goes_on_while_the_accuracy_falls_far_below_the_target():
    """Around 1.02 % of the norm the accuracy goes from 1 to 0, by way of 0.88: no trial to 12 % finds that."""
    weight, start = nn.Parameter(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0])

    def accuracy():
        length = (weight - start).norm().item() / 5
        return 1.0 if length < 0.0102 else 0.88 if length < 0.01021 else 0.0

    coarse = search_length({weight: start}, accuracy, 0.9, start=1.0, overshoot=1.0)
    assert coarse.accuracy == 0
    with torch.no_grad():
        weight.copy_(start)
    fine = search_length({weight: start}, accuracy, 0.9, start=1.0)
    assert fine.accuracy == 0.88 and 9 < fine.evaluations <= 18


def test_search_that_finds_nothing_between_ends_all_the_same():
    found, _ = search(0.01)
    assert found.reached and found.evaluations <= 18


def test_search_that_cannot_reach_the_target_says_so_and_keeps_the_best():
    found, weight = search(10.0)
    assert not found.reached and found.length == 0 and found.accuracy == 1
    assert weight.tolist() == [3.0, 4.0]


def test_search_does_not_move_what_is_forgotten_already():
    weight = nn.Parameter(torch.ones(2))
    found = search_length({weight: torch.ones(2)}, lambda: 0.0, target=0.5, start=0.2)
    assert found.reached and found.length == 0 and weight.tolist() == [1, 1]


def test_search_refuses_a_gradient_that_is_not_finite():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(CollapsedModelError, match="gradient over the forget set is not finite"):
        search_length({weight: torch.tensor([1.0, torch.nan])}, lambda: 0.0, target=0.5, start=1.0)


def test_gradient_sum_adds_and_moves_nothing():
    weight = nn.Parameter(torch.ones(2))
    optimizer = GradientSum([weight])
    for value in (1.0, 2.0, 4.0):
        weight.grad = torch.full((2,), value)
        optimizer.step()
        optimizer.zero_grad()
    assert weight.tolist() == [1, 1]
    assert optimizer.direction()[weight].tolist() == [7, 7] and not optimizer.state


def test_small_changes_of_an_image():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 9
    assert blur(x)[0, 0, 1:4, 1:4].flatten().tolist() == [1] * 9
    assert shift(x)[0, 0, 3, 2] == 9 and shift(x).sum() == 9
    # A quarter turn moves what is right of the centre below or above it.
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 4] = 1
    turned = turn(x, 90.0)
    assert turned[0, 0, 0, 2] + turned[0, 0, 4, 2] == pytest.approx(1, abs=1e-5) and turned[0, 0, 2, 4] < 1e-5
