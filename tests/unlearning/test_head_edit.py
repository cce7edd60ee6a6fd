"""Single images: the change of the head that makes the least sure of them lose their class and holds the rest."""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_unlearn.unlearning.head_edit import FLOOR, MARGIN, RIDGE, SHARPNESS, Features, edit_head, find_head, minimise


@pytest.fixture
def features():
    """Twenty images of four features and three classes, the model right on all of them; two changed copies of each."""
    generator = torch.Generator().manual_seed(0)
    forget = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    logits = forget @ weight.T
    copies = forget.repeat(2, 1) + 0.1 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    order = logits.argsort(dim=-1, descending=True)
    return weight, Features(forget, order[:, 0], order[:, 1], copies, torch.arange(20).repeat(2))


def test_head_of_hub_architectures_is_the_layer_that_gives_the_logits(any_model):
    head = find_head(any_model, torch.zeros(1, 3, 16, 16))
    assert head is (
        any_model.classifier[-1] if isinstance(any_model.classifier, nn.Sequential) else any_model.classifier
    )


def test_model_that_does_not_end_in_a_linear_layer_has_no_head():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, pixel_values):
            return ImageClassifierOutput(logits=2 * self.linear(pixel_values.mean(dim=(2, 3))))

    assert find_head(Scaled(), torch.ones(1, 3, 4, 4)) is None


@pytest.mark.parametrize("with_copies", [40, 10])
def test_result_is_the_minimum_of_the_documented_function(features, with_copies):
    """
    The function written out image by image; its gradient at the result is zero, and no change nearby is lower. Of a
    forget set of which some have no copies only those that do are held.
    """
    weight, given = features
    given.held, given.held_from = given.held[:with_copies], given.held_from[:with_copies]
    moved = torch.zeros(20, dtype=torch.bool)
    moved[[2, 5, 11]] = True
    push = 0.05
    held = [given.forget[i] for i in range(min(20, with_copies)) if not moved[i]]
    held += [given.held[i] for i in range(with_copies) if not moved[given.held_from[i]]]
    moment = sum(torch.outer(x, x) for x in held) / len(held)
    moment = moment + FLOOR * moment.diagonal().mean() * torch.eye(4, dtype=torch.float64)

    def objective(edited):
        total = 0
        for x in held:
            before, after = (weight @ x).softmax(0), (edited @ x).softmax(0)
            total = total + sum(p * (p / q).log() for p, q in zip(before, after, strict=True)) / len(held)
        for i in (2, 5, 11):
            z = edited @ given.forget[i]
            gap = z[given.answers[i]] - z[given.instead[i]] + MARGIN
            total = total + push * (1 + (SHARPNESS * gap).exp()).log() / SHARPNESS
        change = edited - weight
        return total + RIDGE * torch.trace(change @ moment @ change.T)

    edited = minimise(weight, given, moved, push).requires_grad_(True)
    value = objective(edited)
    gradient = torch.autograd.grad(value, edited)[0]
    assert gradient.norm() < 1e-6 < torch.autograd.grad(objective(weight.requires_grad_(True)), weight)[0].norm()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        other = edited + 0.05 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
        assert objective(other) > value


@pytest.mark.parametrize("target", [0.95, 0.8, 0.5])
def test_as_many_as_the_target_asks_for_lose_their_class(features, target):
    weight, given = features
    edited, accuracy = edit_head(weight, given, target)
    right = (given.forget @ edited.T).argmax(dim=-1) == given.answers
    assert accuracy == right.sum() / 20 <= target
    # Never many more: others next to those that move may go with them.
    assert accuracy >= target - 0.1


def test_the_least_sure_lose_their_class_first(features):
    weight, given = features
    logits = given.forget @ weight.T
    sureness = [z.max() - z.topk(2).values[1] for z in logits]
    edited, _ = edit_head(weight, given, 0.95)
    right = (given.forget @ edited.T).argmax(dim=-1) == given.answers
    assert not right[int(torch.stack(sureness).argmin())]


def test_images_that_were_wrong_and_become_right_are_made_up_for(features):
    """All that were pushed give way and the target is missed by the others: more are pushed."""
    weight, given = features
    given.answers = given.answers.clone()
    given.answers[:4] = given.instead[:4]
    edited, accuracy = edit_head(weight, given, 0.5)
    assert accuracy <= 0.5


def test_all_images_can_lose_their_class(features):
    weight, given = features
    edited, accuracy = edit_head(weight, given, 0.0)
    assert accuracy <= 0.2  # a linear layer need not be able to turn every answer
