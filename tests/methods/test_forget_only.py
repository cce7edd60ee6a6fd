"""Methods that need the forget images alone, each against its definition written out."""

import copy

import pytest
import torch
from conftest import make_model, make_split
from method_cases import FORGET_SET, assert_same_weights, make_trainer, sgd_step, tensors

from hf_unlearn.errors import InputError
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.losses import other_classes


def test_delete_pulls_to_the_original_answer_without_the_class(tmp_path):
    trainer = make_trainer("delete", tmp_path, optim_args=None, learning_rate=0.1, num_train_epochs=2)
    trainer.train()

    x, y = tensors(FORGET_SET)
    model = make_model("resnet")
    with torch.no_grad():
        original = model(pixel_values=x).logits.softmax(dim=-1)
    for _ in range(2):
        probabilities = model(pixel_values=x).logits.softmax(dim=-1)
        total = 0
        for i in range(len(x)):
            others = [k for k in range(3) if k != y[i]]
            for k in others:
                # The original's probability of k among the classes that remain.
                target = original[i, k] / original[i, others].sum()
                total = total + target * (target.log() - probabilities[i, k].log())
        sgd_step(model, total / len(x), 0.1)
    assert_same_weights(trainer.model, model)


def test_batch_norm_statistics_stay_bit_for_bit(tmp_path):
    trainer = make_trainer("delete", tmp_path)
    trainer.train()
    before = make_model("resnet").state_dict()
    for name, tensor in trainer.model.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, before[name]), name


def test_without_labels_the_original_answer_is_struck_out(tmp_path):
    trainer = make_trainer("delete", tmp_path, forget=FORGET_SET.select_columns(["image"]), forget_kind="images")
    trainer.train()
    with torch.no_grad():
        expected = make_model("resnet")(pixel_values=tensors(FORGET_SET)[0]).logits.argmax(dim=-1)
    assert trainer.answers.tolist() == expected.tolist()
    assert trainer.state.log_history[0]["forget_accuracy"] == pytest.approx(1.0)


def test_gradient_ascent_raises_the_cross_entropy(tmp_path):
    trainer = make_trainer("gradient_ascent", tmp_path, optim_args=None, learning_rate=0.01, num_train_epochs=2)
    trainer.train()

    x, y = tensors(FORGET_SET)
    model = make_model("resnet")
    for _ in range(2):
        log_probabilities = model(pixel_values=x).logits.log_softmax(dim=-1)
        sgd_step(model, sum(log_probabilities[i, y[i]] for i in range(len(x))) / len(x), 0.01)
    assert_same_weights(trainer.model, model)


def test_random_label_learns_one_wrong_label_for_each_image(tmp_path):
    trainer = make_trainer("random_label", tmp_path, optim_args=None, learning_rate=0.1, num_train_epochs=2, seed=3)
    trainer.train()

    x, y = tensors(FORGET_SET)
    model = make_model("resnet")
    # What is drawn is tested in test_losses.py.
    wrong = other_classes(y, range(len(y)), num_labels=3, seed=3)
    for _ in range(2):
        log_probabilities = model(pixel_values=x).logits.log_softmax(dim=-1)
        sgd_step(model, -sum(log_probabilities[i, wrong[i]] for i in range(len(x))) / len(x), 0.1)
    assert_same_weights(trainer.model, model)


def test_boundary_shrink_learns_the_class_across_the_boundary(tmp_path):
    trainer = make_trainer(
        "boundary_shrink", tmp_path, optim_args=None, learning_rate=0.1, num_train_epochs=2, bound=0.2
    )
    trainer.train()

    x, y = tensors(FORGET_SET)
    model = make_model("resnet")
    nearest = []
    for i in range(len(x)):
        image = x[i : i + 1].clone().requires_grad_(True)
        (-model(pixel_values=image).logits.log_softmax(dim=-1)[0, y[i]]).backward()
        # The processor maps black to -1 and white to 1: a fifth of the range is 0.4.
        neighbour = (image + 0.4 * image.grad.sign()).clamp(-1, 1)
        logits = model(pixel_values=neighbour).logits[0].tolist()
        nearest.append(max((k for k in range(3) if k != y[i]), key=logits.__getitem__))
    model.zero_grad()
    assert len(set(nearest)) > 1
    for _ in range(2):
        log_probabilities = model(pixel_values=x).logits.log_softmax(dim=-1)
        sgd_step(model, -sum(log_probabilities[i, nearest[i]] for i in range(len(x))) / len(x), 0.1)
    assert_same_weights(trainer.model, model)


def shadow_at_the_start(trainer):
    """The shadow class is made with the optimizer."""
    trainer.create_optimizer()
    trainer.optimizer = None
    return copy.deepcopy(trainer.shadow)


def test_boundary_expand_trains_a_shadow_class_and_cuts_it_off(tmp_path):
    trainer = make_trainer("boundary_expand", tmp_path, optim_args=None, learning_rate=0.1, num_train_epochs=3)
    shadow = shadow_at_the_start(trainer)
    trainer.train()

    x, _ = tensors(FORGET_SET)
    model = make_model("resnet")
    head = model.classifier[-1]
    widened = torch.nn.Linear(head.in_features, 4)
    with torch.no_grad():
        widened.weight.copy_(torch.cat([head.weight, shadow.weight]))
        widened.bias.copy_(torch.cat([head.bias, shadow.bias]))
    model.classifier[-1] = widened
    # The shadow class's second update shows in the third of the others.
    for _ in range(3):
        log_probabilities = model(pixel_values=x).logits.log_softmax(dim=-1)
        sgd_step(model, -log_probabilities[:, 3].mean(), 0.1)
    with torch.no_grad():
        head.weight.copy_(widened.weight[:3])
        head.bias.copy_(widened.bias[:3])
    model.classifier[-1] = head
    assert_same_weights(trainer.model, model)


def test_the_shadow_class_starts_small_and_follows_the_seed(tmp_path):
    starts = [shadow_at_the_start(make_trainer("boundary_expand", tmp_path, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (start.weight for start in starts)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert starts[0].bias.item() == 0
    # 16 features, 3 classes and the shadow; the standard deviation of 16 draws is within half of the true one.
    assert first.std().item() == pytest.approx((2 / (16 + 4)) ** 0.5, rel=0.5)


def test_boundary_expand_resumes_with_its_shadow_class(tmp_path):
    settings = {"learning_rate": 0.1, "num_train_epochs": 4, "save_strategy": "epoch"}
    whole = make_trainer("boundary_expand", tmp_path, **settings)
    whole.train()
    resumed = make_trainer("boundary_expand", tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(resumed.model, whole.model)
    assert torch.equal(resumed.shadow.weight, whole.shadow.weight)


def squared_gradient(model, image, k):
    """‖∇ₓ f_k(x)‖² of one image, differentiable once more."""
    image = image[None].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(pixel_values=image).logits[0, k], image, create_graph=True)
    return gradient.square().sum()


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_mu_mis_moves_sensitivity_from_the_class_to_others(architecture, tmp_path):
    trainer = make_trainer(
        "mu_mis", tmp_path, architecture, learning_rate=1e-3, num_train_epochs=2, recovery=1e9, seed=3
    )
    trainer.train()

    x, y = tensors(FORGET_SET)
    # Attention written out: the fast kernel has no second derivative.
    model = make_model(architecture, **({"attn_implementation": "eager"} if architecture == "vit" else {}))
    for epoch in range(2):
        others = other_classes(y, range(len(y)), num_labels=3, seed=3, draw=epoch)
        differences = [
            squared_gradient(model, x[i], y[i]) - squared_gradient(model, x[i], others[i]) for i in range(len(x))
        ]
        sgd_step(model, sum(differences) / len(x), 1e-3)
    assert_same_weights(trainer.model, model)


def test_mu_mis_ends_when_other_classes_have_recovered(tmp_path):
    settings = {"learning_rate": 1e-3, "seed": 3}
    whole = make_trainer("mu_mis", tmp_path, num_train_epochs=8, recovery=1e9, **settings)
    whole.train()
    found = [entry["other_sensitivity"] for entry in whole.state.log_history if "other_sensitivity" in entry]

    x, y = tensors(FORGET_SET)
    others = other_classes(y, range(len(y)), num_labels=3, seed=3)
    model = make_model("resnet")
    start = sum(squared_gradient(model, x[i], others[i]).sqrt().item() for i in range(len(x))) / len(x)
    assert whole.start_sensitivity == pytest.approx(start, rel=1e-5)
    # The rule, with a share that is reached after some epochs.
    recovery = found[4] / start
    end = next(i for i in range(8) if found[i] > min([start, *found[:i]]) and found[i] >= recovery * start)
    assert 0 < end < 7
    trainer = make_trainer("mu_mis", tmp_path, num_train_epochs=8, recovery=recovery * (1 - 1e-6), **settings)
    trainer.train()
    assert trainer.state.epoch == end + 1


def test_head_only_is_delete_with_the_features_left_alone(tmp_path):
    trainer = make_trainer("head_only", tmp_path, optim_args=None, learning_rate=0.1, num_train_epochs=2)
    trainer.train()

    x, y = tensors(FORGET_SET)
    model = make_model("resnet")
    before = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    with torch.no_grad():
        target = model(pixel_values=x).logits.scatter(1, y[:, None], -torch.inf).softmax(dim=-1)
    for _ in range(2):
        log_probabilities = model(pixel_values=x).logits.log_softmax(dim=-1)
        total = 0
        for i in range(len(x)):
            for k in (k for k in range(3) if k != y[i]):
                total = total + target[i, k] * (target[i, k].log() - log_probabilities[i, k])
        sgd_step(model, total / len(x), 0.1)
    assert_same_weights(trainer.model, model)
    for (name, old), new in zip(before.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(old, new) != name.startswith("classifier"), name
        assert new.requires_grad, name


METHODS = [
    "delete", "mu_mis", "boundary_shrink", "boundary_expand", "gradient_ascent", "random_label", "head_only",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_do_not_depend_on_the_cut(method, tmp_path):
    """13 images: with 4 a time the last batch is padded."""
    settings = {"learning_rate": 1e-3, "num_train_epochs": 2, "forget": make_split(13, seed=0)}
    whole = make_trainer(method, tmp_path, **settings)
    whole.train()
    cut = make_trainer(method, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4, **settings)
    cut.train()
    assert_same_weights(cut.model, whole.model)


@pytest.mark.parametrize("method", METHODS)
def test_labels_are_not_needed(method, tmp_path):
    trainer = make_trainer(method, tmp_path, forget=FORGET_SET.select_columns(["image"]), forget_kind="images")
    trainer.train()
    assert "forget_accuracy" in trainer.state.log_history[0]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("boundary_shrink", {"bound": 0}, "bound: must be greater than 0 and at most 1, got 0"),
        ("boundary_shrink", {"bound": 1.5}, "bound: must be greater than 0 and at most 1, got 1.5"),
        ("mu_mis", {"recovery": 0}, "recovery: must be greater than 0, got 0"),
    ],
)
def test_wrong_setting_is_an_error(method, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_method(method)[0](output_dir=str(tmp_path), **settings)


def test_boundary_shrink_needs_the_image_processor(tmp_path):
    config_class, trainer_class = load_method("boundary_shrink")
    x, y = tensors(FORGET_SET)
    forget = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, y, strict=True)]
    with pytest.raises(InputError, match="processing_class: is missing: boundary shrink takes the range"):
        trainer_class(make_model("resnet"), config_class(output_dir=str(tmp_path)), forget_dataset=forget)


@pytest.mark.parametrize("method", ["boundary_expand", "head_only"])
def test_a_model_without_a_linear_head_is_an_error(method, tmp_path, monkeypatch):
    """A model whose logits are rescaled after its last linear layer."""
    model = make_model("resnet")
    model.classifier.append(torch.nn.LayerNorm(3))
    monkeypatch.setattr("method_cases.make_model", lambda architecture: model)
    with pytest.raises(InputError, match="method: .* needs a model that ends in a linear layer; ResNetForImage"):
        make_trainer(method, tmp_path)
