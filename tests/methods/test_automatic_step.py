"""The automatic step of JiT: how far the weights move, and for single images the change of the head."""

import copy
import math

import pytest
import torch
from torch import nn

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, split_dataset
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.methods import jit
from hf_unlearn.unlearning import guard, spare_stage
from hf_unlearn.unlearning.losses import KeyedNoise
from hf_unlearn.unlearning.single_images import features_of_changed_copies
from hf_unlearn.unlearning.step_size import blur, last_stage_and_head, search_length, shift, turn


# The rule for single images that changes the head alone.
BY_HEAD = {"forget_kind": "images", "moving_weights": "head"}


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
        noise_clamp="none", forget_target=0.9, forget_kind="subclass",
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
        resnet, everything, image_processor, tmp_path, forget_kind=forget_kind, forget_target=1.0, moving_weights="head"
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
    assert target(**BY_HEAD) == pytest.approx(sum(kept).item() / 3)


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


# ---- Single images by the head, where it is asked for ----


@pytest.fixture
def forget_images(dataset):
    return split_dataset(dataset["train"], ForgetRequest(classes=["cat"]), "label")["forget"].select_columns(["image"])


def test_only_the_head_moves_and_the_target_is_reached(any_model, forget_images, image_processor, tmp_path):
    before = copy.deepcopy(any_model.state_dict())
    trainer = train(any_model, forget_images, image_processor, tmp_path, **BY_HEAD)
    assert trainer.step.kind == "head" and trainer.step.reached and trainer.step.accuracy == 0.5
    moved = {name for name, value in any_model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved and all(name.startswith("classifier.") for name in moved)
    assert all(parameter.requires_grad for parameter in any_model.parameters())
    assert "the images of which the model was least sure" in trainer.step.describe()


def test_changed_copies_are_turned_moved_and_mirrored_images(resnet, forget_images, image_processor, tmp_path):
    trainer = train(resnet, forget_images, image_processor, tmp_path, **BY_HEAD)
    images = ImageDataset(forget_images, image_processor)
    x = torch.stack([images[row]["pixel_values"] for row in (0, 4)])
    up = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    copies = torch.cat([turn(x, 5), turn(x, -5), shift(x), up, x.flip(3)])
    with torch.no_grad():
        expected = resnet.resnet(pixel_values=copies).pooler_output.flatten(1).double()
        found = features_of_changed_copies(trainer, trainer.heads, torch.tensor([0, 4]))
    torch.testing.assert_close(found[:, :-1], expected, rtol=1e-5, atol=1e-6)
    assert (found[:, -1] == 1).all()  # the bias


def test_images_that_look_unseen_already_change_nothing(resnet, forget_images, image_processor, tmp_path):
    before = copy.deepcopy(resnet.state_dict())
    trainer = train(resnet, forget_images, image_processor, tmp_path, **BY_HEAD, forget_target=1.0)
    assert trainer.step.length == 0 and "no weight has moved" in trainer.step.describe()
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_head_does_not_depend_on_the_batch_size(resnet, forget_images, image_processor, tmp_path):
    weights = []
    for batch_size in (3, 10):
        model = copy.deepcopy(resnet)
        train(model, forget_images, image_processor, tmp_path, **BY_HEAD, per_device_train_batch_size=batch_size)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        # Features differ by rounding, 1e-7; the minimum of a convex function moves as little.
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_passes_of_the_head_are_counted(resnet, forget_images, image_processor, tmp_path, monkeypatch):
    """
    To find the answers 1, the loss 2 (no backward pass goes further than the head), its features 1, those of five
    changed copies 5, and the accuracy after it 1; in tens, as no other call comes once the guard has other probes.
    """
    monkeypatch.setattr(guard, "impressions", lambda forward, pool, *_, **__: (pool[:3], 0))
    sizes = []
    resnet.classifier[1].register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    trainer = train(resnet, forget_images, image_processor, tmp_path, **BY_HEAD, per_device_train_batch_size=10)
    assert trainer.passes == sizes.count(10) == 1 + 2 + 1 + 5 + 1


@pytest.fixture
def without_head(resnet):
    resnet.classifier[1] = nn.Sequential(resnet.classifier[1], nn.Softmax(dim=-1))
    return resnet


def test_head_asked_for_of_a_model_without_one_is_refused(without_head, forget_images, image_processor, tmp_path):
    with pytest.raises(InputError, match="needs a model that ends in a linear layer. Valid: all, last_stage"):
        train(without_head, forget_images, image_processor, tmp_path, **BY_HEAD)


def test_class_request_may_move_the_head_alone(resnet, forget_images, image_processor, tmp_path):
    trainer = train(resnet, forget_images, image_processor, tmp_path, moving_weights="head")
    assert trainer.step.kind == "step" and math.isfinite(trainer.distance_limit)


# ---- The head in place of the last stage ----


def head_names(model):
    return {name for name, _ in model.named_parameters() if name.startswith("classifier.1.")}


def moved_names(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def guard_says(monkeypatch, of_stage, of_head):
    """The change elsewhere by which weights moved; the guard itself is tested elsewhere."""
    changes = [of_stage, of_head]
    monkeypatch.setattr(guard.Guard, "change", lambda self: changes.pop(0) if len(changes) > 1 else changes[0])


def test_stage_that_changes_too_much_elsewhere_is_spared_for_the_head(
    resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    guard_says(monkeypatch, of_stage=0.16, of_head=0.1)
    before = copy.deepcopy(resnet.state_dict())
    trainer = train(resnet, forget_set, image_processor, tmp_path, allow_collapse=False)
    assert moved_names(before, resnet) == head_names(resnet)
    assert trainer.step.reached and trainer.step.stage_change == 0.16 and trainer.change == 0.1
    assert trainer.args.settings()["moving_weights"] == "head"
    assert "changed the answers elsewhere by 0.16; the head alone was moved" in trainer.step.describe()


@pytest.mark.parametrize(("kind", "of_stage"), [("class", 0.15), ("subclass", 0.40)])
def test_stage_that_changes_little_elsewhere_moves(
    kind, of_stage, resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    guard_says(monkeypatch, of_stage=of_stage, of_head=0.0)
    trainer = train(resnet, forget_set, image_processor, tmp_path, forget_kind=kind)
    assert trainer.args.moving_weights == "last_stage" and trainer.step.stage_change is None


def test_head_in_place_of_the_stage_is_the_head_that_one_would_have_asked_for(
    resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    asked_for = copy.deepcopy(resnet)
    train(asked_for, forget_set, image_processor, tmp_path, moving_weights="head")
    guard_says(monkeypatch, of_stage=0.5, of_head=0.1)
    train(resnet, forget_set, image_processor, tmp_path)
    for name, value in asked_for.state_dict().items():
        torch.testing.assert_close(resnet.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_stage_stays_where_the_head_changes_no_less(resnet, forget_set, image_processor, tmp_path, monkeypatch):
    expected = copy.deepcopy(resnet)
    train(expected, forget_set, image_processor, tmp_path, moving_weights="last_stage")
    guard_says(monkeypatch, of_stage=0.5, of_head=0.5)
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    assert trainer.args.moving_weights == "last_stage" and trainer.step.stage_change is None
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(resnet.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_stage_stays_where_the_head_forgets_less(resnet, forget_set, image_processor, tmp_path, monkeypatch):
    """Also where neither reaches the target."""
    expected = copy.deepcopy(resnet)
    train(expected, forget_set, image_processor, tmp_path, moving_weights="last_stage")
    lengths = [0.6, 1e-6]

    def search(direction, accuracy, target, start, on_trial):
        found = search_length(direction, accuracy, target, start, longest=lengths.pop(0))
        found.target, found.reached = 0.0, False
        return found

    guard_says(monkeypatch, of_stage=0.5, of_head=0.1)
    for module in (jit, spare_stage):
        monkeypatch.setattr(module, "search_length", search)
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    assert not lengths and trainer.step.accuracy <= 0.5 and trainer.step.stage_change is None
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(resnet.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("of_head", "looks"), [(None, 1), (0.1, 2)])
def test_guard_looks_once_at_each_step(of_head, looks, resnet, forget_set, image_processor, tmp_path, monkeypatch):
    """The step that is kept is not measured again for the verdict."""
    changes = [0.1] if of_head is None else [0.5, of_head]
    asked = []
    monkeypatch.setattr(guard.Guard, "change", lambda self: asked.append(changes[len(asked)]) or asked[-1])
    trainer = train(resnet, forget_set, image_processor, tmp_path)
    assert len(asked) == looks and trainer.change == changes[-1]


def test_both_past_the_limit_are_refused_with_the_original_weights(
    resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    guard_says(monkeypatch, of_stage=0.6, of_head=0.5)
    before = copy.deepcopy(resnet.state_dict())
    with pytest.raises(CollapsedModelError, match=r"changed by 0\.50"):
        train(resnet, forget_set, image_processor, tmp_path, allow_collapse=False)
    assert not moved_names(before, resnet)


def test_weights_that_were_asked_for_are_the_ones_that_move(
    resnet, forget_set, image_processor, tmp_path, monkeypatch
):
    guard_says(monkeypatch, of_stage=0.5, of_head=0.1)
    trainer = train(resnet, forget_set, image_processor, tmp_path, moving_weights="last_stage")
    assert trainer.args.moving_weights == "last_stage" and trainer.step.stage_change is None
