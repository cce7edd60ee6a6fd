import copy

import pytest
import torch
from conftest import make_model

from hf_unlearn.unlearning.early_features import EarlyFeatures, find_cut
from hf_unlearn.unlearning.guard import Guard
from hf_unlearn.unlearning.step_size import last_stage_and_head


@pytest.fixture
def pixel_values():
    return torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_guard(model, pixel_values, **options):
    return Guard(lambda x: model(pixel_values=x).logits, pixel_values, num_labels=3, **options).look()


def test_untouched_model_has_not_changed(any_model, pixel_values):
    assert make_guard(any_model, pixel_values).change() == 0


def test_guard_that_never_looked_tells_of_no_change(resnet, pixel_values):
    guard = Guard(lambda x: resnet(pixel_values=x).logits, pixel_values, num_labels=3)
    assert guard.change() == 0 and guard.passes == 0


def test_change_grows_with_the_damage(resnet, pixel_values):
    guard = make_guard(resnet, pixel_values)
    original = copy.deepcopy(resnet.state_dict())
    changes = []
    for strength in (0.01, 0.1, 1.0):
        with torch.no_grad():
            for name, parameter in resnet.named_parameters():
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
                parameter.copy_(original[name] + strength * noise)
        changes.append(guard.change())
    assert 0 < changes[0] < changes[1] < changes[2] <= 1


def test_model_that_is_not_finite_has_changed_completely(resnet, pixel_values):
    guard = make_guard(resnet, pixel_values)
    with torch.no_grad():
        resnet.classifier[1].weight.fill_(float("nan"))
    assert guard.change() == 1


def test_class_that_is_to_vanish_does_not_count(resnet, pixel_values):
    guards = [make_guard(resnet, pixel_values, vanishing=vanishing) for vanishing in ({0}, set())]
    with torch.no_grad():
        resnet.classifier[1].bias[0] -= 5
    assert guards[0].change() < 1e-6 < guards[1].change()


def test_all_classes_count_when_fewer_than_two_stay(resnet, pixel_values):
    for vanishing in ({0, 1}, {0, 1, 2}):
        guard = make_guard(resnet, pixel_values, vanishing=vanishing)
        with torch.no_grad():
            resnet.classifier[1].bias[0] -= 5
        assert guard.change() > 0.01


def test_change_is_the_mean_total_variation(resnet, pixel_values):
    guard = make_guard(resnet, pixel_values)
    before = copy.deepcopy(resnet)
    with torch.no_grad():
        resnet.classifier[1].bias[1] += 1
    expected = []
    for probe in guard.probes.values():
        with torch.no_grad():
            p, q = (model(pixel_values=probe).logits.softmax(-1) for model in (before, resnet))
        expected.append(
            sum(abs(a - b) for a, b in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)) / 2 / len(p)
        )
    assert guard.change() == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_impressions_are_taken_for_the_classes_that_stay(pixel_values):
    model = make_model("vit")
    guard = make_guard(model, pixel_values, vanishing={2})
    with torch.no_grad():
        answers = model(pixel_values=guard.probes["near"]).logits.argmax(-1)
        start = model(pixel_values=pixel_values).logits.argmax(-1)
    assert (answers != 2).float().mean() > 0.9
    assert len(set(answers.tolist())) >= len(set(start.tolist()) - {2})


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 1, 8, 12), (2, 3, 2, 2)])
def test_few_small_or_oblong_images_are_no_error(shape):
    pixel_values = torch.rand(shape)
    guard = Guard(lambda x: x.flatten(2).mean(2).repeat(1, 3)[:, :3], pixel_values, num_labels=3).look()
    assert guard.change() == 0


def test_one_impression_of_each_class_that_stays_from_either_pool(resnet, pixel_values):
    guard = make_guard(resnet, pixel_values, vanishing={1})
    assert {name: len(probes) for name, probes in guard.probes.items()} == {"varied": 96, "impressions": 2, "near": 2}


def test_passes_are_counted(resnet, pixel_values):
    forward, backward = [], []

    def model(x):
        forward.append(len(x))
        if x.requires_grad:
            backward.append(len(x))
        return resnet(pixel_values=x).logits

    guard = Guard(model, pixel_values, num_labels=3).look()
    guard.change()
    assert guard.passes == sum(forward) + sum(backward)


def test_probes_whose_early_features_are_kept_give_the_same_change(resnet, pixel_values):
    """And the early part sees them once."""
    late = last_stage_and_head(resnet, pixel_values[:1])
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(name in late)
    cut = find_cut(resnet, pixel_values[:1])

    def forward_again(number):
        features = EarlyFeatures(cut, number)
        return lambda positions, x: features.logits(resnet, positions, x)

    guards = [make_guard(resnet, pixel_values, **options) for options in ({}, {"forward_again": forward_again})]
    seen = []
    first = next(module for module in resnet.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    with torch.no_grad():
        for name in late:
            resnet.get_parameter(name).mul_(1.1)
    changes = [guard.change() for guard in reversed(guards)]
    assert changes[0] == changes[1] > 0
    # The one that keeps nothing passes them all again.
    assert sum(seen) == sum(len(probes) for probes in guards[0].probes.values())


def test_same_seed_gives_the_same_probes(resnet, pixel_values):
    first, second = (make_guard(resnet, pixel_values, seed=3) for _ in range(2))
    assert all(torch.equal(first.probes[name], second.probes[name]) for name in first.probes)
