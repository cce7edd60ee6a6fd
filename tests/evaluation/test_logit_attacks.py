"""The attacks on the logit of a forgotten class, on logits whose answer is known."""

import numpy as np
import pytest
import torch

from hf_unlearn.evaluation.logit_attacks import Outputs, choose_constant, false_positives, found_with, logit_auroc


def outputs(logits, labels) -> Outputs:
    return Outputs(torch.tensor(logits), torch.tensor(labels))


def shifted_answers(images: Outputs, classes: list[int], constant: float) -> np.ndarray:
    """What the model answers when the constant is added to the logits of the forgotten classes."""
    logits = images.logits.double().clone()
    logits[:, classes] += constant
    return logits.argmax(dim=1).numpy()


@pytest.mark.parametrize("classes", [[0], [0, 3]])
def test_constant_is_the_largest_with_one_false_positive_in_a_hundred(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5, generator=generator)
    logits[:, classes] -= 4
    others = Outputs(logits, torch.full((300,), 1))
    constant = choose_constant(others, classes)
    assert constant > 0

    def share(value: float) -> float:
        return np.isin(shifted_answers(others, classes, value), classes).mean()

    # A millionth less or more, since the bound itself is a tie.
    assert share(constant - 1e-6) <= 0.01 < share(constant + 1e-6)
    assert false_positives(constant, others, classes) == share(constant - 1e-6) == 0.01


def test_hidden_class_comes_back_and_a_lost_one_does_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 4, generator=generator)
    classes = torch.arange(200) % 3 + 1
    others = Outputs(noise + 8 * torch.nn.functional.one_hot(classes, 4), classes)
    forget = torch.zeros(200, dtype=torch.long)
    # Class 0 is seen as before and lowered by 20: it never wins.
    hidden = Outputs(noise.flip(0) + 8 * torch.nn.functional.one_hot(forget, 4), forget)
    lost = Outputs(noise.flip(0) + 8 * torch.nn.functional.one_hot(classes, 4), forget)
    for images in (others, hidden, lost):
        images.logits[:, 0] -= 20
    constant = choose_constant(others, [0])
    assert found_with(0.0, hidden, [0]) == 0 and found_with(constant, hidden, [0]) > 0.99
    assert found_with(constant, hidden, [0]) == (shifted_answers(hidden, [0], constant) == 0).mean()
    assert found_with(constant, lost, [0]) < 0.05
    assert logit_auroc(hidden, others) > 0.99 and logit_auroc(lost, others) == pytest.approx(0.5, abs=0.1)


def test_only_the_own_class_counts_as_found():
    images = outputs([[5.0, 0.0, 1.0], [0.0, 5.0, 1.0]], [0, 0])
    assert found_with(0.0, images, [0, 1]) == 0.5


def test_constant_is_never_negative():
    # All other images have a forgotten class already.
    others = outputs([[5.0, 0.0]] * 4, [1] * 4)
    assert choose_constant(others, [0]) == 0 and false_positives(0.0, others, [0]) == 1


def test_output_that_is_not_finite_is_not_found():
    images = outputs([[float("nan"), 0.0], [float("inf"), 0.0], [1.0, 0.0]], [0, 0, 0])
    others = outputs([[0.0, 1.0], [float("nan"), 1.0]], [1, 1])
    assert choose_constant(others, [0]) == 1 and false_positives(5.0, others, [0]) == 0.5
    assert found_with(5.0, images, [0]) == pytest.approx(1 / 3)


def test_auroc_is_the_share_of_pairs_and_a_mean_over_the_classes():
    images = outputs([[0.3, 9.0, 0.0], [0.1, 9.0, 0.0], [9.0, 0.5, 0.0]], [0, 0, 1])
    others = outputs([[0.2, 0.5, 1.0], [0.0, 0.9, 1.0]], [2, 2])
    # Class 0: 3 of 4 pairs in order. Class 1: a tie and one pair out of order. Weights: 2 images and 1.
    assert logit_auroc(images, others) == pytest.approx((2 * 3 / 4 + 1 * 0.5 / 2) / 3)
