"""Methods that make their own images, each against its definition written out."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_model
from method_cases import FORGET_SET, RETAIN_SET, assert_same_weights, make_trainer, sgd_step, tensors

from hf_unlearn.errors import CollapsedModelError, InputError


# Two of three classes stay.
CATS, DOGS = (FORGET_SET.filter(lambda label, k=k: label == k, input_columns="label") for k in (0, 1))
SHAPE = (3, 16, 16)
# Plain SGD in place of Adam, and little noise.
SETTINGS = {
    "unsir": {"num_noise_images": 2, "noise_repeats": 3, "noise_steps": 3, "optim": "sgd", "learning_rate": 0.1},
    "emmn": {
        "noise_images_per_class": 2, "noise_repeats": 2, "maximizing_steps": 3, "minimizing_steps": 4, "optim": "sgd",
        "learning_rate": 0.1,
    },
    "gkt": {"num_pseudo_batches": 2, "student_steps": 2, "gate_threshold": 0.04, "optim": "sgd", "learning_rate": 0.1},
}  # fmt: skip


def noise_by_hand(model, labels, maximize: bool, num_steps: int) -> torch.Tensor:
    """The noise of seed 42, the seed of the Trainer, moved by Adam."""
    first = torch.randn(len(labels), *SHAPE, generator=torch.Generator().manual_seed(42))
    noise = torch.nn.Parameter(first)
    optimizer = torch.optim.Adam([noise], lr=0.1)
    for _ in range(num_steps):
        optimizer.zero_grad()
        log_probabilities = model(pixel_values=noise).logits.log_softmax(dim=-1)
        error = -sum(log_probabilities[i, label] for i, label in enumerate(labels)) / len(labels)
        (-error + 0.1 * (noise**2).sum() / len(labels) if maximize else error).backward()
        optimizer.step()
    return noise.detach()


def learn_by_hand(model, images, labels) -> None:
    sgd_step(model, F.cross_entropy(model(pixel_values=images).logits, torch.as_tensor(labels)), 0.1)


def test_unsir_learns_the_noise_as_the_class_and_then_repairs(tmp_path):
    trainer = make_trainer("unsir", tmp_path, forget=CATS, **SETTINGS["unsir"])
    trainer.train()

    model = make_model("resnet")
    noise = noise_by_hand(make_model("resnet"), [0, 0], maximize=True, num_steps=3)
    x, y = tensors(RETAIN_SET)
    learn_by_hand(model, torch.cat([noise, noise, noise, x]), [0] * 6 + y.tolist())
    learn_by_hand(model, x, y)
    assert_same_weights(trainer.model, model)


def test_emmn_learns_both_noises_and_then_that_of_the_classes_that_stay(tmp_path):
    trainer = make_trainer("emmn", tmp_path, forget=CATS, **SETTINGS["emmn"])
    trainer.train()

    model = make_model("resnet")
    hard = noise_by_hand(make_model("resnet"), [0, 0], maximize=True, num_steps=3)
    easy = noise_by_hand(make_model("resnet"), [1, 2, 1, 2], maximize=False, num_steps=4)
    learn_by_hand(model, torch.cat([hard, easy, hard, easy]), [0, 0, 1, 2, 1, 2] * 2)
    learn_by_hand(model, torch.cat([easy, easy]), [1, 2, 1, 2] * 2)
    assert_same_weights(trainer.model, model)


def halve_convolutions(trainer) -> None:
    """A start of the student that a test can write down."""
    with torch.no_grad():
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(0.5)


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_gkt_student_learns_from_the_images_that_pass_the_gate(tmp_path, monkeypatch, architecture):
    settings = {**SETTINGS["gkt"], "num_pseudo_batches": 1, "max_grad_norm": 0, "learning_rate": 0.01}
    trainer = make_trainer("gkt", tmp_path, architecture, forget=DOGS, **settings)
    monkeypatch.setattr(trainer, "renew_convolutions", lambda: halve_convolutions(trainer))
    trainer.train()

    teacher, model = make_model(architecture), make_model(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data *= 0.5
    with torch.no_grad():
        taught = teacher(pixel_values=trainer.images, output_hidden_states=True)
    probabilities = taught.logits.softmax(dim=-1)
    chosen = [i for i in range(16) if probabilities[i, 1] <= 0.04]
    assert 0 < len(chosen) < 16
    for _ in range(2):
        told = model(pixel_values=trainer.images, output_hidden_states=True)
        total = 0
        for i in chosen:
            for k in range(3):
                ratio = probabilities[i, k].log() - told.logits[i].log_softmax(dim=-1)[k]
                total = total + probabilities[i, k] * ratio / 3
            for theirs, own in zip(taught.hidden_states, told.hidden_states, strict=True):
                # Channels come first in a convolution's output and last in a transformer's.
                channels = 0 if architecture == "resnet" else -1
                theirs, own = ((state[i] ** 2).mean(dim=channels).flatten() for state in (theirs, own))
                total = total + 5 * ((theirs / theirs.norm() - own / own.norm()) ** 2).mean()
        sgd_step(model, total / len(chosen), 0.01)
    assert_same_weights(trainer.model, model)


def test_gkt_generator_looks_for_images_on_which_student_and_teacher_differ(tmp_path, monkeypatch):
    found = []
    for rate in (1e-9, 1e-2):
        settings = {**SETTINGS["gkt"], "num_pseudo_batches": 1, "generator_steps": 3, "generator_learning_rate": rate}
        trainer = make_trainer("gkt", tmp_path, forget=DOGS, **settings)
        monkeypatch.setattr(trainer, "renew_convolutions", lambda trainer=trainer: halve_convolutions(trainer))
        trainer.train()
        found.append(trainer.state.log_history[0]["divergence"])
    assert found[1] > found[0]


def test_gkt_student_starts_with_new_convolutions(tmp_path):
    settings = {**SETTINGS["gkt"], "learning_rate": 0.0}
    trainer = make_trainer("gkt", tmp_path, forget=DOGS, **settings)
    trainer.train()
    before = make_model("resnet").state_dict()
    for name, module in trainer.model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert not torch.equal(module.weight, before[f"{name}.weight"]), name
        elif isinstance(module, (torch.nn.Linear, torch.nn.BatchNorm2d)):
            assert torch.equal(module.weight, before[f"{name}.weight"]), name


def test_gkt_says_when_nothing_passes_the_gate(tmp_path):
    trainer = make_trainer("gkt", tmp_path, forget=DOGS, **{**SETTINGS["gkt"], "gate_threshold": 1e-12})
    with pytest.raises(CollapsedModelError, match="nothing but images of the class to forget"):
        trainer.train()


@pytest.mark.parametrize("method", SETTINGS)
def test_cut_does_not_matter(tmp_path, method):
    cuts = [
        {"per_device_train_batch_size": 16},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ]
    models = []
    for cut in cuts:
        trainer = make_trainer(method, tmp_path, forget=DOGS, **SETTINGS[method], **cut)
        trainer.train()
        models.append(trainer.model)
    assert_same_weights(models[0], models[1])


@pytest.mark.parametrize(("method", "kind"), [("unsir", "images"), ("emmn", "subclass"), ("gkt", "images")])
def test_methods_that_forget_classes_say_so(tmp_path, method, kind):
    with pytest.raises(InputError, match="forgets all of a class"):
        make_trainer(method, tmp_path, forget=CATS, forget_kind=kind)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("unsir", {"noise_steps": 0}),
        ("emmn", {"noise_repeats": 0}),
        ("gkt", {"student_steps": 0}),
        ("gkt", {"gate_threshold": 1.0}),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, method, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        make_trainer(method, tmp_path, forget=CATS, **settings)


def test_more_classes_than_noise_images_are_refused(tmp_path):
    trainer = make_trainer("unsir", tmp_path, **{**SETTINGS["unsir"], "num_noise_images": 2})
    with pytest.raises(InputError, match="2 noise images for 3 classes"):
        trainer.train()


def test_gkt_needs_hidden_states(tmp_path, monkeypatch):
    trainer = make_trainer("gkt", tmp_path, forget=CATS)
    forward = type(trainer.model).forward

    def without_hidden_states(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        outputs["hidden_states"] = None
        return outputs

    monkeypatch.setattr(type(trainer.model), "forward", without_hidden_states)
    with pytest.raises(
        InputError, match="compares hidden states, which a ResNetForImageClassification does not return"
    ):
        trainer.train()
