"""A part of a class gets the answers of networks that learned from retained images alone."""

import copy
import itertools

import pytest
import torch
from conftest import make_split

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.data.sampling import random_rows
from hf_unlearn.errors import InputError
from hf_unlearn.unlearning import advisers
from hf_unlearn.unlearning.guard import CHANGE_LIMIT, RETAIN_CHANGE_LIMIT
from hf_unlearn.unlearning.step_size import last_stage_and_head


@pytest.fixture(scope="module")
def forget_set():
    """Cats."""
    images = make_split(36, seed=0)
    return images.select([row for row, label in enumerate(images["label"]) if label == 0])


@pytest.fixture(scope="module")
def dogs():
    """Nobody who sees these alone says "cat"."""
    images = make_split(36, seed=1)
    return images.select([row for row, label in enumerate(images["label"]) if label == 1])


@pytest.fixture
def few_updates(monkeypatch):
    monkeypatch.setattr(advisers, "ADVISER_UPDATES", 3)
    monkeypatch.setattr(advisers, "NUM_UPDATES", 4)


def train(model, forget_set, image_processor, tmp_path, retained=None, **settings):
    settings = {"disable_tqdm": True, "allow_collapse": True, "forget_kind": "subclass", **settings}
    args = JiTConfig(output_dir=str(tmp_path), **settings)
    trainer = JiTTrainer(
        model=model, args=args, processing_class=image_processor, forget_dataset=forget_set, retain_dataset=retained,
        label_column="label",
    )  # fmt: skip
    trainer.train()
    return trainer


def test_model_says_what_retained_images_teach(resnet, forget_set, dogs, image_processor, tmp_path):
    trainer = train(resnet, forget_set, image_processor, tmp_path, dogs)
    assert trainer.step.kind == "advisers" and trainer.step.target == 0
    x = torch.stack([trainer.train_dataset[row]["pixel_values"] for row in range(12)])
    assert (resnet(pixel_values=x).logits.argmax(dim=-1) == 1).all()
    assert "learned from 12 retained images alone" in trainer.describe_outcome()
    assert trainer.data_used == "the trained model, the images to forget and 12 retained images"
    assert trainer.change_limit == RETAIN_CHANGE_LIMIT


def test_last_stage_moves_alone_and_statistics_are_those_of_before(
    any_model, forget_set, dogs, image_processor, tmp_path, few_updates
):
    before = copy.deepcopy(any_model.state_dict())
    train(any_model, forget_set, image_processor, tmp_path, dogs)
    moved = {name for name, value in any_model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved and moved <= last_stage_and_head(any_model, torch.zeros(1, 3, 16, 16))
    assert all(parameter.requires_grad for parameter in any_model.parameters())


def test_new_late_part_is_new_and_goes_again(resnet, forget_set, dogs, image_processor, tmp_path, monkeypatch):
    before, seen = copy.deepcopy(resnet.state_dict()), []

    def note(trainer, *_):
        seen.append(copy.deepcopy(trainer.model.state_dict()))

    monkeypatch.setattr(advisers, "learn_labels", note)
    monkeypatch.setattr(advisers, "learn_answers", lambda *_: None)
    train(resnet, forget_set, image_processor, tmp_path, dogs)
    late = last_stage_and_head(resnet, torch.zeros(1, 3, 16, 16))
    matrices = {name for name in late if before[name].dim() > 1}
    assert len(seen) == advisers.NUM_ADVISERS
    for one, other in itertools.pairwise([before, *seen]):
        assert {name for name in matrices if torch.equal(one[name], other[name])} == set()
        assert all(torch.equal(one[name], other[name]) for name in dict(resnet.named_parameters()).keys() - late)
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_weights_do_not_depend_on_the_batch_size(resnet, forget_set, dogs, image_processor, tmp_path, few_updates):
    weights = []
    for batch_size in (1, 12):
        model = copy.deepcopy(resnet)
        train(model, forget_set, image_processor, tmp_path, dogs, per_device_train_batch_size=batch_size)
        weights.append(model.state_dict())
    assert not torch.equal(weights[0]["classifier.1.weight"], resnet.state_dict()["classifier.1.weight"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_of_many_retained_images_some_are_used():
    assert len(set(random_rows(30, 7))) == 7 and random_rows(30, 7) == random_rows(30, 7)
    assert random_rows(5, 7) == [0, 1, 2, 3, 4]


def test_retained_images_without_labels_are_refused(resnet, forget_set, dogs, image_processor, tmp_path):
    with pytest.raises(InputError, match="retain_dataset: has no labels"):
        train(resnet, forget_set, image_processor, tmp_path, [{"pixel_values": torch.zeros(3, 16, 16)}])


def test_without_retained_images_a_careful_step_is_taken(resnet, forget_set, image_processor, tmp_path):
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    assert trainer.step.kind == "step" and trainer.data_used is None and trainer.change_limit == CHANGE_LIMIT
    assert "cannot be known from the forget images alone" in trainer.describe_outcome()


def test_given_target_asks_nobody(resnet, forget_set, dogs, image_processor, tmp_path):
    trainer = train(resnet, forget_set, image_processor, tmp_path, dogs, forget_target=0.5)
    assert trainer.step.kind == "step" and trainer.data_used is None
    assert "cannot be known" not in trainer.describe_outcome()


@pytest.mark.parametrize("kind", ["class", "images"])
def test_other_requests_use_no_retained_image(kind, resnet, forget_set, dogs, image_processor, tmp_path):
    with_them = copy.deepcopy(resnet)
    train(with_them, forget_set, image_processor, tmp_path, dogs, forget_kind=kind)
    train(resnet, forget_set, image_processor, tmp_path, forget_kind=kind)
    assert all(torch.equal(value, with_them.state_dict()[name]) for name, value in resnet.state_dict().items())
