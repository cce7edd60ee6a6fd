import copy

import pytest
import torch
from conftest import make_model
from torch import nn
from transformers import (
    BitConfig,
    BitForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, split_dataset
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.publication.search import Search
from hf_unlearn.unlearning.losses import KeyedNoise
from hf_unlearn.unlearning.step_size import (
    GradientSum,
    blur,
    last_stage_and_head,
    search_length,
    shift,
    turn,
)


def other_models():
    """Architectures that no other test uses."""
    return {
        "swin": SwinForImageClassification(
            SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
        ),
        "regnet": RegNetForImageClassification(
            RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8)
        ),
        "bit": BitForImageClassification(
            BitConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1], num_groups=4)
        ),
        "efficientnet": EfficientNetForImageClassification(
            EfficientNetConfig(image_size=32, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320)
        ),
    }


@pytest.mark.parametrize(
    ("architecture", "inside", "outside"),
    [
        ("resnet", ["resnet.encoder.stages.1.", "classifier."], ["resnet.embedder.", "resnet.encoder.stages.0."]),
        ("vit", ["vit.layers.1.", "vit.layernorm.", "classifier."], ["vit.embeddings.", "vit.layers.0."]),
        ("convnext", ["convnext.encoder.stages.1.", "convnext.layernorm.", "classifier."],
         ["convnext.embeddings.", "convnext.encoder.stages.0."]),
        ("mobilenet_v2", ["mobilenet_v2.layer.15.", "mobilenet_v2.conv_1x1.", "classifier."],
         ["mobilenet_v2.conv_stem.", "mobilenet_v2.layer.14."]),
        ("swin", ["swin.encoder.layers.1.", "swin.layernorm.", "classifier."],
         ["swin.embeddings.", "swin.encoder.layers.0."]),
        ("regnet", ["regnet.encoder.stages.1.", "classifier."], ["regnet.embedder.", "regnet.encoder.stages.0."]),
        ("bit", ["bit.encoder.stages.1.", "bit.norm.", "classifier."], ["bit.embedder.", "bit.encoder.stages.0."]),
        ("efficientnet", ["efficientnet.encoder.top_conv.", "classifier."],
         ["efficientnet.embeddings.", "efficientnet.encoder.blocks.0."]),
    ],
)  # fmt: skip
def test_last_stage_and_head_of_hub_architectures(architecture, inside, outside):
    model = other_models()[architecture] if architecture in other_models() else make_model(architecture)
    size = 32 if architecture == "efficientnet" else 16
    names = last_stage_and_head(model.eval(), torch.zeros(1, 3, size, size))
    everything = [name for name, _ in model.named_parameters()]
    for prefix in inside:
        part = [name for name in everything if name.startswith(prefix)]
        assert part and set(part) <= names, prefix
    for prefix in outside:
        part = [name for name in everything if name.startswith(prefix)]
        assert part and not set(part) & names, prefix


def test_model_without_a_chain_moves_as_a_whole():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.second(self.first(pixel_values))

    names = last_stage_and_head(Flat(), torch.zeros(1, 4))
    assert names == {"first.weight", "first.bias", "second.weight", "second.bias"}


def search(threshold: float, target=0.5, **options):
    """Searches where the accuracy falls from 1 to 0 at a known length."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    gradient = torch.tensor([0.6, 0.8])

    def accuracy():
        return float((weight - torch.tensor([3.0, 4.0])).norm() < threshold * 5)

    found = search_length({weight: gradient}, accuracy, target, start=1.0, **options)
    return found, weight


@pytest.mark.parametrize("threshold", [0.0008, 0.004, 0.01, 0.035, 0.2, 0.5])
def test_search_finds_the_smallest_length_that_suffices(threshold):
    found, weight = search(threshold, evaluations=20)
    assert found.reached and threshold <= found.length <= threshold * 1.12
    torch.testing.assert_close(weight, torch.tensor([3.0, 4.0]) - 5 * found.length * torch.tensor([0.6, 0.8]))


def test_search_ends_after_its_evaluations_with_a_length_that_suffices():
    found, _ = search(0.0001, evaluations=6)
    assert found.evaluations == 6 and found.reached and found.length >= 0.0001


def test_search_that_cannot_reach_the_target_says_so_and_keeps_the_best():
    found, weight = search(10.0)
    assert not found.reached and found.length == 0 and found.accuracy == 1
    assert weight.tolist() == [3.0, 4.0]


def test_search_does_not_move_what_is_forgotten_already():
    weight = nn.Parameter(torch.ones(2))
    found = search_length({weight: torch.ones(2)}, lambda: 0.0, target=0.5, start=0.2)
    assert found.reached and found.length == 0 and weight.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), "found in 6 trials, is 2.4 % of the norm"),
        (Search(0.99, 0.98, 0.98, 0.0, 0, True), "no weight has moved: accuracy on the forget set is 98.0 %"),
        (Search(0.01, 0.95, 0.4, 0.6, 5, False), "95.0 → 40.0 %, and not 1.0 %. The forgetting is incomplete."),
    ],
)
def test_outcome_of_the_search_is_said_in_words(search, said):
    assert said in search.describe()


def test_search_refuses_a_gradient_that_is_not_finite():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(CollapsedModelError, match="gradient over the forget set is not finite"):
        search_length({weight: torch.tensor([1.0, torch.nan])}, lambda: 0.0, target=0.5, start=1.0)


def test_gradient_sum_adds_and_moves_nothing():
    weight = nn.Parameter(torch.ones(2))
    optimizer = GradientSum([weight])
    for value in (1.0, 2.0, 4.0):
        weight.grad = torch.full((2,), value)
        optimizer.step()
        optimizer.zero_grad()
    assert weight.tolist() == [1, 1]
    assert optimizer.direction()[weight].tolist() == [7, 7] and not optimizer.state


@pytest.fixture
def forget_set(dataset):
    return split_dataset(dataset["train"], ForgetRequest(classes=["cat"]), "label")["forget"]


def train(model, forget_set, image_processor, tmp_path, **settings):
    settings = {
        "forget_kind": "class",
        "forget_target": 0.5,
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
        "allow_collapse": True,
        **settings,
    }
    trainer = JiTTrainer(
        model=model,
        args=JiTConfig(output_dir=str(tmp_path), **settings),
        processing_class=image_processor,
        forget_dataset=forget_set,
        label_column="label" if "label" in forget_set.column_names else None,
    )
    trainer.train()
    return trainer


def test_direction_is_the_gradient_of_the_mean_ratio_over_the_whole_forget_set(
    resnet, forget_set, image_processor, tmp_path
):
    """Against a loop over images, from the definition: p(x) against p(x + ξ) without the class, last stage and head."""
    model = copy.deepcopy(resnet)
    names = last_stage_and_head(model, torch.zeros(1, 3, 16, 16))
    moving = {name: parameter for name, parameter in model.named_parameters() if name in names}
    images = ImageDataset(forget_set, image_processor)
    total = 0
    for row in range(10):
        x = images[row]["pixel_values"][None]
        answer = model(pixel_values=x).logits.argmax().item()
        for number in range(2):
            xi = KeyedNoise(42, [row], x, sigma=0.5)[number : number + 1][0]
            with torch.no_grad():
                q = model(pixel_values=x + xi).logits.softmax(-1)
                q[0, answer] = 0
                q = q / q.sum()
            total = total + (model(pixel_values=x).logits.softmax(-1) - q).norm() / xi.norm() / 2 / 10
    gradients = dict(zip(moving, torch.autograd.grad(total, list(moving.values())), strict=True))

    trained = copy.deepcopy(resnet)
    trainer = train(
        trained, forget_set.select_columns(["image"]), image_processor, tmp_path, num_perturbations=2,
        noise_clamp="none", forget_target=0.9, forget_kind="images", moving_weights="last_stage",
    )  # fmt: skip
    size = sum(parameter.double().norm() ** 2 for parameter in moving.values()).sqrt()
    slope = sum(gradient.double().norm() ** 2 for gradient in gradients.values()).sqrt()
    assert trainer.step.length > 0
    for name, before in model.named_parameters():
        after = dict(trained.named_parameters())[name]
        expected = before - gradients[name] * (trainer.step.length * size / slope) if name in moving else before
        torch.testing.assert_close(after, expected.to(after.dtype), rtol=1e-4, atol=1e-6, msg=name)


def test_step_reaches_the_target_and_moves_the_end_of_the_network_alone(
    any_model, forget_set, image_processor, tmp_path
):
    before = copy.deepcopy(any_model.state_dict())
    trainer = train(any_model, forget_set.select_columns(["image"]), image_processor, tmp_path, forget_kind="subclass")
    assert trainer.step.reached and trainer.step.accuracy <= 0.5
    late = last_stage_and_head(any_model, torch.zeros(1, 3, 16, 16))
    after = any_model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and moved <= late
    assert all(parameter.requires_grad for parameter in any_model.parameters())
    entry = trainer.state.log_history[-2]
    assert entry["forget_accuracy"] <= 0.5 and entry["step_length"] == trainer.step.length


def test_direction_does_not_depend_on_the_batch_size(resnet, forget_set, image_processor, tmp_path):
    weights = []
    for batch_size in (3, 10):
        model = copy.deepcopy(resnet)
        train(model, forget_set, image_processor, tmp_path, per_device_train_batch_size=batch_size)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("forget_kind", ["class", "images"])
def test_without_labels_the_original_model_answers(forget_kind, resnet, dataset, image_processor, tmp_path):
    """For each image, or, when a class is to vanish, the class that most images are taken for."""
    everything = dataset["train"].select_columns(["image"])
    images = ImageDataset(everything, image_processor)
    with torch.no_grad():
        # An untrained network takes all images for one class, until its mean output is zero.
        pixel_values = torch.stack([images[row]["pixel_values"] for row in range(30)])
        resnet.classifier[1].bias -= resnet(pixel_values=pixel_values).logits.mean(dim=0)
        own = [resnet(pixel_values=images[row]["pixel_values"][None]).logits.argmax().item() for row in range(30)]
    assert len(set(own)) > 1
    trainer = train(
        resnet, everything, image_processor, tmp_path, forget_kind=forget_kind, forget_target=1.0
    )  # fmt: skip
    majority = max(set(own), key=own.count)
    assert trainer.answers.tolist() == ([majority] * 30 if forget_kind == "class" else own)
    assert trainer.start == pytest.approx(own.count(majority) / 30 if forget_kind == "class" else 1)


def test_one_image_is_enough(resnet, forget_set, image_processor, tmp_path):
    trainer = train(resnet, forget_set.select([0]).select_columns(["image"]), image_processor, tmp_path)
    assert trainer.step.reached and trainer.step.accuracy == 0


def test_output_that_is_not_finite_counts_as_not_forgotten(resnet, forget_set, image_processor, tmp_path):
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    with torch.no_grad():
        resnet.classifier[1].bias.fill_(float("nan"))
    assert trainer.forget_accuracy() == 1


def test_destroyed_model_gets_its_original_weights_back(resnet, forget_set, image_processor, tmp_path):
    before = copy.deepcopy(resnet.state_dict())
    for settings in ({"learning_rate": 1e3}, {"learning_rate": 1e30, "num_train_epochs": 3}):
        with pytest.raises(CollapsedModelError, match="original weights again and nothing is saved"):
            train(
                resnet, forget_set, image_processor, tmp_path, step_rule="fixed", allow_collapse=False, **settings
            )  # fmt: skip
        for name, value in resnet.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_target_depends_on_what_is_to_be_forgotten(resnet, forget_set, image_processor, tmp_path):
    def target(**settings):
        trainer = train(
            copy.deepcopy(resnet), forget_set.select_columns(["image"]), image_processor, tmp_path,
            forget_target=None, **settings,
        )  # fmt: skip
        return trainer.step.target

    assert target(forget_kind="class") == 0.01
    assert target(forget_kind="subclass") == 0.9  # of the accuracy before, by the model's own answers: 1
    # Images never seen: the share of answers that survive a blur, a turn of 5 degrees and a shift, on average.
    images = ImageDataset(forget_set, image_processor)
    x = torch.stack([images[row]["pixel_values"] for row in range(10)])
    with torch.no_grad():
        own = resnet(pixel_values=x).logits.argmax(-1)
        kept = [
            (resnet(pixel_values=change(x)).logits.argmax(-1) == own).float().mean() for change in (blur, turn, shift)
        ]
    assert target(forget_kind="images") == pytest.approx(sum(kept).item() / 3)


def test_small_changes_of_an_image():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 9
    assert blur(x)[0, 0, 1:4, 1:4].flatten().tolist() == [1] * 9
    assert shift(x)[0, 0, 3, 2] == 9 and shift(x).sum() == 9
    # A quarter turn moves what is right of the centre below or above it.
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 4] = 1
    turned = turn(x, 90.0)
    assert turned[0, 0, 0, 2] + turned[0, 0, 4, 2] == pytest.approx(1, abs=1e-5) and turned[0, 0, 2, 4] < 1e-5


def test_passes_over_the_forget_set_are_counted(resnet, forget_set, image_processor, tmp_path):
    """Against the calls of the head with all seven images, once or perturbed thrice; the guard's probes are other numbers."""
    sizes = []
    resnet.classifier[1].register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    trainer = train(
        resnet, forget_set.select(range(7)), image_processor, tmp_path, per_device_train_batch_size=7, num_perturbations=3
    )  # fmt: skip
    forward, backward = sizes.count(7) + 3 * sizes.count(21), 2
    assert trainer.passes == forward + backward == 1 + (1 + 2 + 3) + trainer.step.evaluations
    # Calls before showed which weights come last and where the network can be cut.
    assert trainer.guard.passes >= sum(sizes[sizes.index(7) :]) - 7 * forward


def test_class_that_the_model_does_not_know_is_refused(resnet, forget_set, image_processor, tmp_path):
    """A wrong image processor, or labels in another order, show as a model that is never right on its own images."""
    with torch.no_grad():
        resnet.classifier[1].bias[0] -= 100
    with pytest.raises(InputError, match="right on 0.0 % of the forget set alone; chance is 33.3 %. Either the image"):
        train(resnet, forget_set, image_processor, tmp_path, forget_target=None, allow_collapse=False)


def test_class_that_the_model_knows_no_better_than_by_chance_is_refused(resnet, forget_set, image_processor, tmp_path):
    images = ImageDataset(forget_set, image_processor)
    with torch.no_grad():
        logits = resnet(pixel_values=torch.stack([images[row]["pixel_values"] for row in range(10)])).logits
        # Right on two of ten.
        gap = (logits[:, 1:].amax(dim=-1) - logits[:, 0]).sort().values
        resnet.classifier[1].bias[0] += (gap[1] + gap[2]) / 2
    with pytest.raises(InputError, match="right on 20.0 % of the forget set alone; chance is 33.3 %"):
        train(resnet, forget_set, image_processor, tmp_path, forget_target=None, allow_collapse=False)
