"""The attacks on what a model holds inside, on cases whose answer is known; they touch copies alone."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import make_model

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import probes, verification
from hf_unlearn.evaluation.probes import HEAD_INPUT, Images


def some_images(num_images=12, size=16, seed=0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randn(num_images, 3, size, size, generator=generator), torch.arange(num_images) % 3)


@pytest.mark.parametrize("architecture", ["resnet", "vit", "convnext", "mobilenet_v2"])
def test_features_are_what_the_head_turns_into_logits(architecture):
    model, images = make_model(architecture), some_images(size=32 if architecture == "mobilenet_v2" else 16)
    features = probes.collect_features(model, images, batch_size=5)
    (head,) = probes.heads_of(model, images.pixel_values[:1])
    logits = torch.cat([logits for logits, _ in probes.forward(model, images, 5)]).detach()
    # Tolerance of float32.
    torch.testing.assert_close(
        torch.tensor(features[HEAD_INPUT]).float() @ head.weight.T + head.bias, logits, rtol=1e-4, atol=1e-4
    )
    assert len(features) > 2 and all(len(rows) == 12 and rows.ndim == 2 for rows in features.values())


def test_model_without_a_linear_head_is_refused():
    model = make_model("resnet")
    model.classifier[1] = torch.nn.Sequential(torch.nn.Linear(16, 3), torch.nn.Tanh(), torch.nn.Linear(3, 5))
    model.classifier.append(torch.nn.Flatten(0))
    model.classifier.append(torch.nn.Unflatten(0, (-1, 5)))
    model.classifier.append(torch.nn.ConstantPad1d((0, 1), 0.0))
    with pytest.raises(InputError, match="no linear layer at its end"):
        probes.heads_of(model, torch.randn(1, 3, 16, 16))


def test_head_only_changes_the_head_and_hides_the_class(splits, image_processor):
    original = make_model("resnet")
    with torch.no_grad():
        # The untrained network takes everything for a cat.
        original.classifier[1].bias[0] += 5
    before = copy.deepcopy(original.state_dict())
    model = probes.head_only(original, splits["forget"], image_processor, label_column="label")
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed and changed <= {"classifier.1.weight", "classifier.1.bias"}
    assert all((value == before[name]).all() for name, value in original.state_dict().items())
    images = verification.draw_images(splits["forget"], image_processor, original, 10, 8, 0, label_column="label")
    assert probes.accuracy(original, images, 8) == 1.0 and probes.accuracy(model, images, 8) <= 0.01
    ours, theirs = (probes.collect_features(network, images, 8) for network in (model, original))
    assert all((ours[layer] == theirs[layer]).all() for layer in theirs)
    assert all(parameter.requires_grad for parameter in model.parameters())


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_recalibrated_statistics_are_those_of_the_images_and_nothing_else_changes():
    model, images = make_model("resnet"), some_images(10)
    before = copy.deepcopy(model.state_dict())
    seen = []
    first = batch_norms(model)[0]
    hook = first.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    control = probes.recalibrated(model, images, batch_size=5)
    with torch.no_grad():
        model(pixel_values=images.pixel_values)
    hook.remove()
    # Both batches passed the copy of the layer, and all images the layer itself.
    whole = seen[-1]
    torch.testing.assert_close(batch_norms(control)[0].running_mean, whole.mean(dim=(0, 2, 3)))
    halves = [half.var(dim=(0, 2, 3)) for half in whole.split(5)]
    torch.testing.assert_close(batch_norms(control)[0].running_var, sum(halves) / 2)
    assert not any(module.training for module in control.modules())
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    changed = {name for name, value in control.state_dict().items() if (value != before[name]).any()}
    assert {name.rsplit(".", 1)[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize(("num_images", "batch_size"), [(3, 1), (2, 2), (7, 3)])
def test_no_batch_of_recalibration_has_a_single_image(num_images, batch_size):
    model, sizes = make_model("resnet"), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    assert probes.recalibrated(model, some_images(num_images), batch_size) is not None
    assert min(sizes) > 1 and sum(sizes) == num_images


def test_model_without_batch_norm_has_no_such_control():
    assert probes.recalibrated(make_model("vit"), some_images(), 4) is None
    assert probes.recalibrated(make_model("resnet"), some_images(1), 4) is None


def test_prototypes_are_means_of_directions():
    # Two classes on the axes; the lengths must not matter.
    features = np.array([[1.0, 0.0], [100.0, 10.0], [0.0, 3.0], [0.1, 1.0]])
    labels = np.array([4, 4, 7, 7])
    queries = np.array([[5.0, 4.0], [0.01, 0.011], [9.0, 0.0]])
    assert probes.prototype_accuracy(features, labels, queries, np.array([4, 7, 4]), 2, seed=0) == 1.0
    assert probes.prototype_accuracy(features, labels, queries, np.array([7, 7, 4]), 2, seed=0) == pytest.approx(2 / 3)


def test_probe_finds_what_is_linear_and_no_more():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 5)), np.arange(400) % 2
    queries, query_labels = rng.normal(size=(400, 5)), np.arange(400) % 2
    # Three standard errors of a guess at 400 images.
    assert abs(probes.probe_accuracy(features, labels, queries, query_labels) - 0.5) < 0.075
    features[:, 0] += 10 * labels
    queries[:, 0] += 10 * query_labels
    assert probes.probe_accuracy(features, labels, queries, query_labels) == 1.0


@pytest.mark.parametrize("num_forget", [100, 20])
def test_information_is_ln_2_of_a_separate_set_and_0_of_a_like_one(num_forget):
    rng = np.random.default_rng(0)
    is_forget = np.arange(200) < num_forget
    noise = rng.normal(size=(200, 3))
    layers = {"separate": noise + 20 * is_forget[:, None], "alike": noise}
    information, margin = probes.information_of_layers(layers, is_forget, seed=0)
    assert information["separate"] == pytest.approx(math.log(2), abs=0.02) and information["separate"] <= math.log(2)
    assert 0 <= information["alike"] < 0.05 and 0 < margin < 0.2
