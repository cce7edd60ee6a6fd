"""The settings of JiT, and its two published definitions, each against a plain loop written from the definition, in float64."""

import copy

import pytest
import torch
from conftest import make_model
from torch import nn
from transformers import TrainingArguments

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import InputError
from hf_unlearn.methods.jit_config import PRESETS
from hf_unlearn.unlearning.losses import KeyedNoise


SIGMA, RATE, SEED = 0.4, 1e-3, 5


@pytest.fixture
def images():
    """Forty images in float64."""
    torch.manual_seed(0)
    return [{"pixel_values": torch.randn(3, 16, 16, dtype=torch.float64)} for _ in range(40)]


class SmallVGG(nn.Module):
    """Two active dropouts before the last layer, as in the VGG of the authors' code, behind a Hugging Face output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3),
        )  # fmt: skip
        self.config = make_model("resnet").config

    def forward(self, pixel_values):
        return type("Output", (), {"logits": self.layers(pixel_values)})

    def add_model_tags(self, tags):
        pass


@pytest.fixture
def counted_dropout(monkeypatch):
    """Replaces dropout by one whose masks depend on how often it was called since `start()`."""
    calls = []

    def dropout(input, p=0.5, training=True, inplace=False):
        if not training:
            return input
        calls.append(1)
        mask = torch.rand(input.shape, generator=torch.Generator().manual_seed(len(calls))) >= p
        return input * mask / (1 - p)

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)
    return calls


def train(model, images, tmp_path, preset, **settings):
    config = JiTConfig(
        output_dir=str(tmp_path), preset=preset, sigma=SIGMA, learning_rate=RATE, seed=SEED, disable_tqdm=True, allow_collapse=True, **settings
    )  # fmt: skip
    trainer = JiTTrainer(model=model, args=config, forget_dataset=images)
    trainer.train()
    return trainer


def assert_same_weights(actual, expected):
    for (name, tensor), other in zip(actual.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-9, atol=1e-12, msg=name)


def noise_of(row, image, number):
    return KeyedNoise(SEED, [row], image[None], SIGMA)[number : number + 1][0]


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_algorithm1(architecture, images, tmp_path):
    """One image a step, fresh gradients through both outputs, Gaussian noise that is not clamped."""
    model = make_model(architecture).double()
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(expected.parameters(), lr=RATE)
    for row, item in enumerate(images[:10]):
        x = item["pixel_values"][None]
        loss = 0
        for number in range(3):
            xi = noise_of(row, item["pixel_values"], number)
            k = torch.linalg.norm(expected(pixel_values=x).logits - expected(pixel_values=x + xi).logits)
            loss = loss + k / torch.linalg.norm(xi)
        optimizer.zero_grad()
        (loss / 3).backward()
        optimizer.step()
    trainer = train(model, images[:10], tmp_path, "algorithm1", num_perturbations=3)
    assert trainer.state.global_step == 10
    assert_same_weights(model, expected)


def released_loop(model, images, num_perturbations, batch_size):
    """The loop of the authors' code: `zero_grad` once, before it; dropout active; sums over the batch."""
    model.train()
    model.layers[1].eval()  # BatchNorm, which their model does not have, stays frozen.
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    optimizer.zero_grad()
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        x = torch.stack([images[row]["pixel_values"] for row in rows])
        passes = []
        for number in range(num_perturbations):
            xi = torch.cat([noise_of(row, images[row]["pixel_values"], number) for row in rows])
            perturbed = torch.clamp(x + xi, x.min(), x.max())
            with torch.no_grad():
                passes.append((model(pixel_values=perturbed).logits, perturbed))
        # Theirs is the first of the passes. It has dropout masks of its own in any order.
        output = model(pixel_values=x).logits
        loss = 0
        for other, perturbed in passes:
            change = torch.linalg.norm(output - other, dim=1)
            loss = loss + (change / torch.linalg.norm((perturbed - x).flatten(1), dim=1)).sum()
        (loss / num_perturbations).backward()
        optimizer.step()


def test_as_released_never_zeroes_the_gradients_and_leaves_dropout_active(images, tmp_path, counted_dropout):
    model = SmallVGG().double()
    expected = copy.deepcopy(model)
    released_loop(expected, images, num_perturbations=3, batch_size=4)
    masks_drawn = len(counted_dropout)
    assert masks_drawn == 10 * 4 * 2  # updates × (1 clean + 3 perturbed passes) × 2 layers
    counted_dropout.clear()
    trainer = train(model, images, tmp_path, "as_released", num_perturbations=3, per_device_train_batch_size=4)
    assert trainer.state.global_step == 10 and len(counted_dropout) == masks_drawn
    assert_same_weights(model, expected)


def test_momentum_one_is_never_zeroing(images):
    """θ ← θ − η Σ_{s≤t} g_s, for SGD with momentum 1 and for SGD whose gradients add up."""
    gradients = torch.randn(10, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = []
    for momentum in (0.0, 1.0):
        weight = torch.nn.Parameter(torch.ones(7, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=RATE, momentum=momentum)
        weight.grad = torch.zeros_like(weight)
        for gradient in gradients:
            if momentum:
                weight.grad.zero_()
            weight.grad += gradient
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


def test_flags_given_beside_a_preset_override_it(tmp_path):
    config = JiTConfig(output_dir=str(tmp_path), preset="as_released", noise_clamp="none", num_perturbations=7)
    assert config.noise_clamp == "none" and config.num_perturbations == 7
    assert config.loss_reduction == "sum" and config.dropout is True
    assert set(PRESETS) == {"algorithm1", "as_released"}


def test_defaults_fit_jit(tmp_path):
    config = JiTConfig(output_dir=str(tmp_path))
    assert isinstance(config, TrainingArguments)
    assert config.optim == "sgd" and config.lr_scheduler_type == "constant"
    assert config.max_grad_norm == 0 and config.num_train_epochs == 1 and config.weight_decay == 0
    assert config.step_rule == "auto" and config.output_space == "probabilities" and config.strike_out_class
    paper = JiTConfig(output_dir=str(tmp_path), step_rule="fixed")
    assert paper.output_space == "logits" and paper.moving_weights == "all" and not paper.strike_out_class
    assert config.remove_unused_columns is False and config.hub_strategy == "end" and config.hub_private_repo is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0}, "sigma: must be greater than 0, got 0"),
        ({"sigma": -1.0}, "sigma: must be greater than 0, got -1.0"),
        ({"num_perturbations": 0}, "num_perturbations: must be at least 1, got 0"),
        ({"perturbation_chunk_size": 0}, "perturbation_chunk_size: must be at least 1"),
        ({"output_space": "logit"}, "output_space: got 'logit'. Valid: logits, probabilities"),
        ({"forget_target": 1.5}, "forget_target: must lie between 0 and 1, got 1.5"),
        ({"step_rule": "fixed", "strike_out_class": True}, "strike_out_class: needs --output_space probabilities"),
        ({"noise_clamp": "x"}, "noise_clamp: got 'x'. Valid: range, batch, none"),
    ],
)
def test_wrong_setting_is_an_error(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        JiTConfig(output_dir=str(tmp_path), **settings)
