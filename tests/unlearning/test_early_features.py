"""What is computed once must give what computing it again would."""

import pytest
import torch
from conftest import make_model, other_models
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_unlearn.unlearning.early_features import EarlyFeatures, find_cut
from hf_unlearn.unlearning.step_size import last_stage_and_head


ARCHITECTURES = ["resnet", "vit", "convnext", "mobilenet_v2", "swin", "regnet", "bit", "efficientnet"]


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    """Its last stage and head alone require a gradient."""
    torch.manual_seed(0)
    name = request.param
    model = (other_models()[name] if name in other_models() else make_model(name)).eval()
    late = last_stage_and_head(
        model, torch.zeros(1, 3, 32, 32) if name == "efficientnet" else torch.zeros(1, 3, 16, 16)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in late)
    return model


def images_for(model, number):
    size = 32 if "EfficientNet" in type(model).__name__ else 16
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_late_passes_give_the_logits_of_whole_passes_whatever_the_late_weights_are(model):
    x = images_for(model, 6)
    early = EarlyFeatures(find_cut(model, x[:1]), 6)
    positions = list(range(6))
    with torch.no_grad():
        assert torch.equal(early.logits(model, positions, x), model(pixel_values=x).logits)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        assert torch.equal(early.logits(model, positions, x), model(pixel_values=x).logits)
        # In another order: rows of a batch may differ in the last bits of float32.
        torch.testing.assert_close(early.logits(model, [4, 1], x[[4, 1]]), model(pixel_values=x[[4, 1]]).logits)


def test_late_passes_skip_the_early_part(model):
    x = images_for(model, 6)
    early = EarlyFeatures(find_cut(model, x[:1]), 6)
    frozen = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    rows = []
    frozen.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    for _ in range(3):
        early.logits(model, list(range(6)), x)
    assert rows == [6]
    model(pixel_values=x)
    assert rows == [6, 6]


def test_late_passes_have_the_gradient_of_whole_passes(model):
    x = images_for(model, 4)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    early = EarlyFeatures(find_cut(model, x[:1]), 4)
    early.logits(model, list(range(4)), x)
    whole = torch.autograd.grad(model(pixel_values=x).logits.square().sum(), moving)
    late = torch.autograd.grad(early.logits(model, list(range(4)), x).square().sum(), moving)
    assert all(torch.equal(a, b) for a, b in zip(late, whole, strict=True))


def test_head_alone_is_cut_at_its_own_input(any_model):
    any_model.requires_grad_(False)
    head = any_model.classifier[-1] if isinstance(any_model.classifier, nn.Sequential) else any_model.classifier
    head.requires_grad_(True)
    assert find_cut(any_model, images_for(any_model, 1)).split is head


class Skipping(nn.Module):
    """The head sees the last part and, past it, what `skip` makes of the early part."""

    def __init__(self, skip):
        super().__init__()
        self.early, self.late, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.skip = skip
        self.early.requires_grad_(False)

    def forward(self, pixel_values):
        early = self.early(pixel_values.mean(dim=(2, 3)))
        return ImageClassifierOutput(logits=self.head(self.late(early) + self.skip(early)))


def test_network_that_cannot_be_cut_is_passed_as_a_whole():
    x = torch.randn(1, 4, 3, 3)
    assert find_cut(Skipping(lambda early: 0), x) is not None
    assert find_cut(Skipping(lambda early: early), x) is None
    assert (
        find_cut(Skipping(lambda early: torch.tensor(float(len(early)))), x) is None
    )  # depends on the number of rows
    assert find_cut(make_model("resnet"), torch.randn(1, 3, 16, 16)) is None  # all of it moves
