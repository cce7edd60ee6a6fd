"""How much each weight matters to some images, against the gradients of single images."""

import torch
from method_cases import FORGET_SET, image_gradients, tensors

from hf_unlearn.unlearning.importance import dampening, sum_over_images


def test_importances_are_those_of_single_images_for_every_architecture(any_model):
    x, y = tensors(FORGET_SET)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 2.0, 1.0])
    likelihoods = [any_model(pixel_values=x[i : i + 1]).logits.log_softmax(dim=-1)[0, y[i]] for i in range(len(x))]
    expected = {name: torch.zeros_like(parameter) for name, parameter in any_model.named_parameters()}
    for factor, image in zip(weight, image_gradients(any_model, likelihoods), strict=True):
        for name, gradient in image.items():
            expected[name] += factor * gradient**2

    found = sum_over_images(any_model, torch.nn.functional.cross_entropy, torch.square, x, y, weight)
    for name, value in expected.items():
        # A relative 1e-4: squares double the error of float32 sums in another order.
        assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-12, name


def test_dampening_of_known_importances():
    forget, whole = torch.tensor([8.0, 8.0, 2.0, 0.0]), torch.tensor([1.0, 4.0, 1.0, 0.0])
    # Eight times, twice and twice as much; only what is past α = 1.9 is dampened, and never raised.
    assert dampening(forget, whole, 1.9, 1.0).tolist() == [0.125, 0.5, 0.5, 1.0]
    assert dampening(forget, whole, 3.0, 1.0).tolist() == [0.125, 1.0, 1.0, 1.0]
    assert dampening(forget, whole, 1.9, 4.0).tolist() == [0.5, 1.0, 1.0, 1.0]
