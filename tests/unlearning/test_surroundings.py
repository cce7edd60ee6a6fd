"""Single images get what the model says around them."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import make_split

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import CollapsedModelError
from hf_unlearn.unlearning import surroundings
from hf_unlearn.unlearning.step_size import last_stage_and_head
from hf_unlearn.unlearning.surrogates import keyed_draws
from hf_unlearn.unlearning.surroundings import (
    COPIES,
    NUM_COPIES,
    NUM_COPY_DRAWS,
    change_lightly,
    choose_moved,
    margins,
    shuffled,
    slope_of_margins,
)


LOW, HIGH = torch.tensor(-1.0), torch.tensor(1.0)
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def forget_set():
    return make_split(12, seed=0).select_columns(["image"])


@pytest.fixture
def few_updates(monkeypatch):
    monkeypatch.setattr(surroundings, "NUM_UPDATES", 6)
    monkeypatch.setattr(surroundings, "VISITS", 1)


def train(model, forget_set, image_processor, tmp_path, resume=None, **settings):
    settings = {"disable_tqdm": True, "allow_collapse": True, "forget_kind": "images", **settings}
    args = JiTConfig(output_dir=str(tmp_path), **settings)
    trainer = JiTTrainer(model=model, args=args, processing_class=image_processor, forget_dataset=forget_set)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


# ---- The parts, by their definitions ----


def test_draws_in_the_middle_of_the_whole_area_leave_the_image():
    draws = torch.full((2, NUM_COPY_DRAWS), 0.5)
    draws[:, 1] = 1.0
    torch.testing.assert_close(change_lightly(IMAGES, draws, LOW, HIGH), IMAGES, rtol=0, atol=1e-5)


def test_copies_stay_within_the_range_and_are_never_mirrored():
    """Of a ramp from left to right, the left side stays the darker one."""
    ramp = torch.linspace(-0.9, 0.9, 32).expand(64, 3, 32, 32)
    draws = torch.rand(64, NUM_COPY_DRAWS, generator=torch.Generator().manual_seed(0))
    copies = change_lightly(ramp, draws, LOW, HIGH)
    assert copies.min() >= -1 and copies.max() <= 1
    assert (copies[..., :8].mean((1, 2, 3)) < copies[..., -8:].mean((1, 2, 3))).all()


def test_margin_is_the_distance_to_the_next_class():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 5.0]])
    assert margins(logits, torch.tensor([0, 1])).tolist() == [0.5, -1.0]


def test_slope_is_the_covariance_over_the_variance_between_images():
    generator = np.random.default_rng(0)
    steady = generator.normal(size=500)
    copies = steady + generator.normal(size=(8, 500))
    images = 3 + 0.4 * steady
    mean = copies.mean(axis=0)
    between = mean.var(ddof=1) - copies.var(axis=0, ddof=1).mean() / 8
    expected = np.cov(images, mean)[0, 1] / between
    found = slope_of_margins(torch.tensor(images), torch.tensor(copies))
    assert found == pytest.approx(expected) and found == pytest.approx(0.4, abs=0.05)


def test_no_slope_is_told_of_few_images_or_of_images_that_are_alike():
    assert slope_of_margins(torch.zeros(9), torch.randn(8, 9)) is None
    assert slope_of_margins(torch.randn(20), torch.ones(8, 20)) is None


@pytest.mark.parametrize(("slope", "count"), [(None, 10), (0.2, 10), (0.45, 10), (0.525, 5), (0.6, 0), (1.1, 0)])
def test_the_less_margins_follow_the_more_images_change_the_least_steady_first(slope, count):
    steadiness = torch.tensor([5.0, 1, 9, 3, 7, 2, 8, 4, 6, 0])
    hits = torch.ones(10, dtype=torch.bool)
    moved = choose_moved(slope, hits, ~hits, steadiness, None)
    assert moved.nonzero()[:, 0].tolist() == sorted(steadiness.argsort()[:count].tolist())


@pytest.mark.parametrize(("target", "count"), [(1.0, 0), (0.8, 2), (0.75, 3), (0.5, 5), (0.1, 10)])
def test_a_target_decides_how_many_change(target, count):
    hits = torch.ones(10, dtype=torch.bool)
    copy_hits = torch.tensor([False] * 5 + [True] * 5)
    assert choose_moved(0.9, hits, copy_hits, torch.arange(10.0), target).sum() == count


def test_updates_take_everything_once_before_anything_twice():
    taken = torch.cat(shuffled(seed=0, num_updates=5, number=7, at_once=3, kind=0)).tolist()
    assert len(taken) == 15 and sorted(taken[:7]) == sorted(taken[7:14]) == list(range(7))


# ---- The whole ----


def test_images_take_on_the_answer_to_their_first_copy(resnet, forget_set, image_processor, tmp_path):
    """KL(p₀(c₁(x)) ‖ p(x)), with the copies drawn by (seed, copy, position)."""
    original = copy.deepcopy(resnet).eval()
    trainer = train(resnet, forget_set, image_processor, tmp_path, forget_target=0.0)
    x = torch.stack([row["pixel_values"] for row in map(trainer.train_dataset.__getitem__, range(12))])
    draws = keyed_draws(42, 0, COPIES, (12, NUM_COPY_DRAWS))
    with torch.no_grad():
        wanted = original(pixel_values=change_lightly(x, draws, x.min(), x.max())).logits.softmax(-1)
        before, after = (model(pixel_values=x).logits.log_softmax(-1) for model in (original, resnet))
    far, near = ((wanted * (wanted.log() - said)).sum(-1).mean() for said in (before, after))
    assert trainer.step.kind == "surroundings" and trainer.step.moved == 12 and near < 0.5 * far
    assert trainer.guard.passes > 0 and trainer.change > 0


def test_last_stage_moves_alone_and_the_statistics_of_batch_norm_stay(
    any_model, forget_set, image_processor, tmp_path, few_updates
):
    before = copy.deepcopy(any_model.state_dict())
    train(any_model, forget_set, image_processor, tmp_path, forget_target=0.0)
    moved = {name for name, value in any_model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved and moved <= last_stage_and_head(any_model, torch.zeros(1, 3, 16, 16))
    assert all(parameter.requires_grad for parameter in any_model.parameters())


def test_model_that_knows_nothing_of_the_images_alone_stays_and_the_run_says_why(
    resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    monkeypatch.setattr(surroundings, "slope_of_margins", lambda *margins: 0.93)
    before = copy.deepcopy(resnet.state_dict())
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert "slope of 0.93" in trainer.describe_outcome() and "little to forget" in trainer.describe_outcome()
    # Nor does the guard make probes for it.
    assert trainer.change == 0 and trainer.guard.passes == 0


def test_weights_do_not_depend_on_the_batch_size(resnet, forget_set, image_processor, tmp_path, few_updates):
    weights = []
    for batch_size in (1, 5, 12):
        model = copy.deepcopy(resnet)
        train(
            model, forget_set, image_processor, tmp_path, forget_target=0.0, per_device_train_batch_size=batch_size
        )  # fmt: skip
        weights.append(model.state_dict())
    assert not torch.equal(weights[0]["classifier.1.weight"], resnet.state_dict()["classifier.1.weight"])
    for one, other in itertools.pairwise(weights):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_another_seed_draws_other_copies(resnet, forget_set, image_processor, tmp_path, few_updates):
    weights = []
    for seed in (0, 0, 1):
        model = copy.deepcopy(resnet)
        train(model, forget_set, image_processor, tmp_path, forget_target=0.0, seed=seed)
        weights.append(model.state_dict()["classifier.1.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_resumed_run_ends_with_the_same_weights(resnet, forget_set, image_processor, tmp_path, few_updates):
    resumed = copy.deepcopy(resnet)
    settings = {"forget_target": 0.0, "save_strategy": "steps", "save_steps": 1}
    train(resnet, forget_set, image_processor, tmp_path, **settings)
    train(resumed, forget_set, image_processor, tmp_path, resume=str(tmp_path / "checkpoint-1"), **settings)
    for name, value in resnet.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_outputs_that_are_not_finite_are_refused(resnet, forget_set, image_processor, tmp_path):
    with torch.no_grad():
        resnet.classifier[1].bias.fill_(float("nan"))
    with pytest.raises(CollapsedModelError, match="not finite; nothing is saved"):
        train(resnet, forget_set, image_processor, tmp_path)


def test_three_images_are_enough(resnet, forget_set, image_processor, tmp_path, few_updates):
    trainer = train(resnet, forget_set.select(range(3)), image_processor, tmp_path)
    assert trainer.step.slope is None and trainer.step.moved == 3
    assert "too few" in trainer.describe_outcome()
    assert NUM_COPIES + 1 < trainer.passes
