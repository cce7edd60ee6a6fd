"""Copies that learn again: where their curves start, what they learn from, and that the model stays as it is."""

import copy

import pytest
import torch
from conftest import FEW_STEPS, make_model

from hf_unlearn.evaluation.probes import Images, accuracy
from hf_unlearn.evaluation.relearning import endless_batches, relearn


def some_images(num_images=12, seed=0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randn(num_images, 3, 16, 16, generator=generator), torch.arange(num_images) % 3)


def test_relearning_starts_at_the_accuracy_and_learns():
    model, images = make_model("resnet"), some_images()
    before = copy.deepcopy(model.state_dict())
    curve = relearn(model, images, None, {"forget": images}, 1e-2, 64, 0, FEW_STEPS)["forget"]
    with torch.no_grad():
        answers = model(pixel_values=images.pixel_values).logits.argmax(dim=-1)
    assert curve[0] == pytest.approx((answers == images.labels).float().mean().item())
    assert len(curve) == len(FEW_STEPS) and curve[-1] > curve[0]
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def test_relearning_sees_forget_images_and_others_in_equal_parts():
    generator = torch.Generator().manual_seed(0)
    images = Images(torch.zeros(40, 1, 1, 1), torch.arange(40))
    batches = endless_batches(images, 16, generator)
    labels = torch.cat([next(batches).labels for _ in range(2)])
    assert len(labels) == 32 and len(labels.unique()) == 32
    assert len(next(endless_batches(images[:3], 16, generator))) == 3


def test_learning_from_retained_images_is_adam_on_them_alone():
    model, images = make_model("resnet"), some_images()
    retained, forget = images[images.labels > 0], images[images.labels == 0]
    curve = relearn(model, None, retained, {"forget": forget, "retained": retained}, 1e-2, 64, 0, (0, 2))
    # The 8 images are one batch, in another order at each step, which the mean does not see.
    ours = copy.deepcopy(model)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ours(retained.pixel_values).logits, retained.labels).backward()
        optimizer.step()
    for split, measured in (("forget", forget), ("retained", retained)):
        assert curve[split] == [accuracy(model, measured, 64), accuracy(ours, measured, 64)]
    assert curve["retained"][0] != curve["retained"][1]
