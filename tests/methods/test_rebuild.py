"""Rebuild: the weights it starts from, one update against its definition, and when it stops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import make_model
from method_cases import FORGET_SET, RETAIN_SET, assert_same_weights, image_processor, make_trainer, sgd_step, tensors

from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.methods.rebuild import RebuildConfig, RebuildTrainer, one_cycle
from hf_unlearn.unlearning import surrogates
from hf_unlearn.unlearning.random_model import random_model
from hf_unlearn.unlearning.step_size import last_stage_and_head
from hf_unlearn.unlearning.surrogates import NUM_IMAGES


# Two of three classes stay.
CATS = FORGET_SET.filter(lambda label: label == 0, input_columns="label")
SETTINGS = {"forget": CATS, "num_updates": 2, "max_accuracy_lost": 100.0, "optim": "sgd", "weight_decay": 0.0}


@pytest.fixture(autouse=True)
def few_impressions(monkeypatch):
    monkeypatch.setattr(surrogates, "IMPRESSIONS_PER_CLASS", 4)


def start_of(model, shrink=0.0, late_shrink=0.6):
    """(1 − α) θ + α θ_new, with another α for the last stage and the head; the Trainer's seed is 42."""
    new = dict(random_model(model, 42).named_parameters())
    late = last_stage_and_head(model, torch.zeros(1, 3, 16, 16))
    started = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in started.named_parameters():
            alpha = late_shrink if name in late else shrink
            parameter.copy_((1 - alpha) * parameter + alpha * new[name])
    return started


@pytest.mark.parametrize("shrink", [0.0, 0.3])
def test_starts_from_shrunk_weights(tmp_path, shrink):
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.0, shrink=shrink)
    trainer.train()
    assert_same_weights(trainer.model, start_of(make_model("resnet"), shrink))


def test_weights_before_the_last_stage_stay_as_they_are_to_the_bit(tmp_path):
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.5)
    trainer.train()
    late = last_stage_and_head(trainer.model, torch.zeros(1, 3, 16, 16))
    for name, weight in make_model("resnet").named_parameters():
        assert torch.equal(trainer.model.get_parameter(name), weight) == (name not in late), name
    assert all(weight.requires_grad for weight in trainer.model.parameters())


@pytest.mark.parametrize("architecture", ["resnet", "vit", "convnext"])
def test_the_part_that_stays_passes_once_for_both_models(tmp_path, architecture):
    """The copy's logits are those of a whole pass, and its early modules do not run for them."""
    trainer = make_trainer("rebuild", tmp_path, architecture=architecture, **SETTINGS, learning_rate=0.5)
    trainer.train()
    x, _ = tensors(CATS)
    teacher, model = trainer.teacher, trainer.model
    _, features = teacher.look(x)
    inner = [module for early in teacher.cut.early for module in early.modules() if not list(module.children())]
    ran = []
    hook = inner[-1].register_forward_hook(lambda *args: ran.append(1))
    with torch.no_grad():
        logits = teacher.logits_of_other(model, x, features)
        assert not ran
        torch.testing.assert_close(logits, model(pixel_values=x).logits, rtol=0, atol=1e-5)
    assert ran
    hook.remove()


@pytest.mark.parametrize("shrink", [0.0, 0.3])
def test_an_update_is_that_of_the_definition(tmp_path, shrink):
    trainer = make_trainer("rebuild", tmp_path, **{**SETTINGS, "num_updates": 1}, learning_rate=0.5, shrink=shrink)
    trainer.train()

    teacher, start = make_model("resnet").eval(), start_of(make_model("resnet"), shrink).eval()
    model = copy.deepcopy(start)
    images, is_forget, others = trainer.surrogates.of_update(0, torch.arange(NUM_IMAGES))
    assert is_forget.tolist() == [place < 16 for place in range(128)]
    with torch.no_grad():
        logits = teacher(pixel_values=images).logits
        belief = logits.softmax(dim=1)[:, 0]

    def features_of(x):
        pooled = model.resnet(pixel_values=x).pooler_output.flatten(1)
        return pooled / pooled.norm(dim=1, keepdim=True)

    own, theirs = features_of(images[is_forget]), features_of(others)
    center = features_of(images[64:96]).mean(dim=0).detach()
    total = 0
    for i in range(NUM_IMAGES):
        target = (logits[i, 1:] * (1 + (trainer.factor - 1) * belief[i]) / 4).softmax(dim=0)
        log_probabilities = (model(pixel_values=images[i : i + 1]).logits[0] / 4).log_softmax(dim=0)[1:]
        total = total + 16 * (target * (target.log() - log_probabilities)).sum() / NUM_IMAGES
    for i in range(16):
        total = total + 0.6 * F.relu(own[i] @ theirs[i] - own[i].detach() @ center) / 16
    # The rate begins at 4 % of the highest.
    sgd_step(model, total, 0.04 * 0.5)
    if shrink == 0:
        late = last_stage_and_head(model, torch.zeros(1, 3, 16, 16))
        early = {name: weight for name, weight in start.state_dict().items() if name not in late}
        model.load_state_dict(early, strict=False)
    assert_same_weights(trainer.model, model)


def test_target_is_as_sure_of_the_forget_images_as_of_a_class_never_seen(tmp_path):
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.0)
    with torch.no_grad():
        # An untrained network is sure of nothing: this one is sure of the class.
        trainer.model.classifier[1].bias[0] += 100
    trainer.train()
    x, _ = tensors(CATS)
    target = trainer.strike_out(trainer.teacher.look(x)[0], trainer.factor).softmax(dim=1)
    assert target[:, 0].max() == 0
    assert target.amax(dim=1).mean().item() == pytest.approx(0.8, abs=1e-3)


def test_images_depend_on_update_and_place_alone(tmp_path):
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.0)
    trainer.train()
    whole = trainer.surrogates.of_update(5, torch.arange(NUM_IMAGES))[0]
    some = torch.tensor([3, 20, 70, 127])
    torch.testing.assert_close(trainer.surrogates.of_update(5, some)[0], whole[some], rtol=0, atol=1e-6)
    assert not torch.equal(trainer.surrogates.of_update(6, some)[0], whole[some])


def test_weights_do_not_depend_on_how_an_update_is_cut(tmp_path):
    whole, cut = (
        make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.5, per_device_train_batch_size=size)
        for size in (128, 48)
    )
    assert (cut.args.per_device_train_batch_size, cut.args.gradient_accumulation_steps) == (43, 3)
    whole.train()
    cut.train()
    assert_same_weights(cut.model, whole.model)


def test_a_resumed_run_ends_at_the_same_weights(tmp_path):
    settings = {**SETTINGS, "learning_rate": 0.5, "num_updates": 4, "per_device_train_batch_size": 128}
    whole = make_trainer("rebuild", tmp_path, **settings, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make_trainer("rebuild", tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert_same_weights(resumed.model, whole.model)


def test_a_run_that_was_killed_after_its_last_round_does_not_go_on(tmp_path):
    settings = {**SETTINGS, "learning_rate": 0.5, "per_device_train_batch_size": 128}
    whole = make_trainer("rebuild", tmp_path, **settings, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make_trainer("rebuild", tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == whole.state.global_step == 2
    assert_same_weights(resumed.model, whole.model)
    assert resumed.accuracy_lost == pytest.approx(whole.accuracy_lost, abs=1e-6)


def test_estimate_is_of_the_weights_that_are_kept(tmp_path):
    """Cut short in the second round, after an estimate of the first."""
    settings = {**SETTINGS, "max_accuracy_lost": 1e-9, "learning_rate": 0.5, "per_device_train_batch_size": 128}
    trainer = make_trainer("rebuild", tmp_path, **settings, max_steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.accuracy_lost == pytest.approx(trainer.estimate_lost(), abs=1e-6)


def test_estimate_is_a_quarter_of_the_belief_that_the_original_misses_in_the_answers(tmp_path):
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.5)
    trainer.train()
    lost = []
    for update in range(-1, -9, -1):
        images, _, _ = trainer.surrogates.of_update(update, torch.arange(NUM_IMAGES))
        with torch.no_grad():
            belief = make_model("resnet").eval()(pixel_values=images).logits[:, 1:].softmax(dim=1)
            answers = trainer.model(pixel_values=images).logits.argmax(dim=1)
        for image, answer in enumerate(answers.tolist()):
            # An answer of the class that was to vanish has no belief at all.
            lost.append(belief[image].max() - (belief[image, answer - 1] if answer else 0.0))
    assert trainer.accuracy_lost == pytest.approx(25 * torch.stack(lost).mean().item(), abs=1e-3)


@pytest.mark.parametrize(("estimates", "rounds"), [([1.0], 1), ([3.0, 2.0, 1.0], 3), ([3.0] * 4, 4)])
def test_rounds_follow_until_the_estimate_is_good_enough(estimates, rounds, tmp_path, monkeypatch):
    left = iter(estimates)
    monkeypatch.setattr(RebuildTrainer, "estimate_lost", lambda self: next(left))
    settings = {**SETTINGS, "max_accuracy_lost": 1.5, "learning_rate": 0.0, "per_device_train_batch_size": 128}
    trainer = make_trainer("rebuild", tmp_path, **settings)
    trainer.train()
    assert trainer.state.global_step == 2 * rounds and trainer.accuracy_lost == estimates[-1]


def test_too_much_lost_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(RebuildTrainer, "estimate_lost", lambda self: 7.25)
    settings = {**SETTINGS, "max_accuracy_lost": 1.5, "learning_rate": 0.0, "allow_collapse": False}
    trainer = make_trainer("rebuild", tmp_path, **settings, per_device_train_batch_size=128)
    with pytest.raises(CollapsedModelError, match=r"lost 7\.2 points of accuracy, as estimated"):
        trainer.train()
    assert_same_weights(trainer.model, make_model("resnet"), tolerance=0)


def test_estimate_is_in_what_the_command_says_and_on_the_card(tmp_path, monkeypatch):
    monkeypatch.setattr(RebuildTrainer, "estimate_lost", lambda self: 1.25)
    trainer = make_trainer("rebuild", tmp_path, **SETTINGS, learning_rate=0.0, per_device_train_batch_size=128)
    trainer.train()
    trainer.save_report()
    assert (
        "1.2 points of accuracy on the other classes are lost (at most 100 were asked for)"
        in trainer.describe_outcome()
    )
    assert "estimated on images made for it: 1.2 points lost." in " ".join(
        (tmp_path / "README.md").read_text().split()
    )


def test_given_images_serve_as_surrogates_without_their_labels(tmp_path):
    """Retained images with labels, and others whose column of labels the model does not know."""
    pictures = RETAIN_SET.rename_column("label", "species")
    config = RebuildConfig(
        str(tmp_path), num_updates=1, forget_kind="class", use_cpu=True, allow_collapse=True, disable_tqdm=True
    )
    trainer = RebuildTrainer(
        model=make_model("resnet"), args=config, processing_class=image_processor(), forget_dataset=CATS,
        retain_dataset=FORGET_SET.select(range(4)), proxy_dataset=pictures,
    )  # fmt: skip
    trainer.train()
    given = trainer.surrogates.images[-4 - len(pictures) :]
    expected = torch.cat([tensors(FORGET_SET.select(range(4)))[0], tensors(RETAIN_SET)[0]])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    assert trainer.data_used.endswith(
        f"images made of both, and 4 retained training images, and {len(pictures)} other pictures"
    )


def test_rate_rises_and_falls_once_a_round():
    rates = [one_cycle(100, update) for update in range(200)]
    assert rates[0] == rates[100] == 0.04 and max(rates) == rates[30] == 1
    assert rates[:31] == sorted(rates[:31]) and rates[30:100] == sorted(rates[30:100], reverse=True)
    assert math.isclose(rates[99], 0, abs_tol=1e-3)


@pytest.mark.parametrize("kind", ["images", "subclass"])
def test_other_requests_than_classes_are_refused(kind, tmp_path):
    with pytest.raises(InputError, match=f"is '{kind}', but Rebuild forgets all of a class"):
        make_trainer("rebuild", tmp_path, forget_kind=kind)


def test_all_classes_at_once_are_refused(tmp_path):
    trainer = make_trainer("rebuild", tmp_path, **{**SETTINGS, "forget": FORGET_SET})
    with pytest.raises(InputError, match="has all classes of the model"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrink": 1.5}, "shrink: must lie between 0 and 1, got 1.5"),
        ({"max_accuracy_lost": 0}, "max_accuracy_lost: must be greater than 0, got 0"),
        ({"num_updates": 0}, "num_updates: must be at least 1, got 0"),
    ],
)
def test_wrong_setting_is_an_error(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        RebuildConfig(output_dir=str(tmp_path), **settings)
