"""Methods that need retained images, each against its definition written out."""

import pytest
import torch
from conftest import make_model
from method_cases import FORGET_SET, RETAIN_SET, assert_same_weights, make_trainer, sgd_step, tensors
from transformers import TrainerCallback

from hf_unlearn.errors import InputError
from hf_unlearn.unlearning.losses import noise_key


METHODS = ["retrain", "fine_tune", "neg_grad_plus", "amnesiac", "bad_teacher", "scrub", "salun", "lotus"]
SEED = 42
# What definitions are written for: plain gradient descent at a constant rate.
PLAIN = {
    "optim": "sgd", "optim_args": None, "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
    "warmup_steps": 0, "learning_rate": 0.1, "seed": SEED,
}  # fmt: skip
(X_F, Y_F), (X_R, Y_R) = tensors(FORGET_SET), tensors(RETAIN_SET)


def log_probabilities(model, x):
    return model(pixel_values=x).logits.log_softmax(dim=-1)


def cross_entropy(model, x, y):
    """Of each image, by its definition."""
    log_p = log_probabilities(model, x)
    return torch.stack([-log_p[i, y[i]] for i in range(len(y))])


def divergence(target_logits, logits):
    """Σ_k p_k log(p_k / q_k) of each image, by its definition."""
    p, q = target_logits.softmax(dim=-1), logits.softmax(dim=-1)
    return (p * (p / q).log()).sum(dim=-1)


def original_logits(x):
    with torch.no_grad():
        return make_model("resnet")(pixel_values=x).logits


def new_model(architecture):
    """What training from scratch starts from."""
    torch.manual_seed(SEED)
    model = make_model(architecture)
    torch.manual_seed(SEED)
    return type(model)(model.config)


class Snapshot(TrainerCallback):
    """The weights when training begins."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["resnet", "vit", "convnext", "mobilenet_v2"])
def test_retraining_starts_every_tensor_of_every_layer_anew(tmp_path, architecture):
    trainer = make_trainer("retrain", tmp_path, architecture, seed=SEED)
    with torch.no_grad():
        for tensor in trainer.model.state_dict().values():
            # No tensor, constants included, is by chance what a new model has.
            tensor += 1
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    snapshot = Snapshot()
    trainer.add_callback(snapshot)
    trainer.train()
    expected = new_model(architecture).state_dict()
    assert snapshot.weights.keys() == expected.keys() == before.keys()
    for name, tensor in snapshot.weights.items():
        assert torch.equal(tensor, expected[name]), name
        assert not torch.equal(tensor, before[name]), name


def test_retraining_learns_the_retained_images_alone_with_batch_statistics(tmp_path):
    # A batch of all 9 retained images: padding would be part of the statistics.
    trainer = make_trainer("retrain", tmp_path, num_train_epochs=2, per_device_train_batch_size=9, **PLAIN)
    trainer.train()
    model = new_model("resnet").train()
    for _ in range(2):
        sgd_step(model, cross_entropy(model, X_R, Y_R).mean(), 0.1)
    assert_same_weights(trainer.model, model)


def test_retraining_of_frozen_weights_is_refused(tmp_path, monkeypatch):
    model = make_model("resnet")
    next(model.parameters()).requires_grad_(False)
    monkeypatch.setattr("method_cases.make_model", lambda architecture: model)
    with pytest.raises(InputError, match="model: has frozen weights"):
        make_trainer("retrain", tmp_path)


def test_retraining_has_dropout_active(tmp_path):
    trainer = make_trainer("retrain", tmp_path, "vit")
    trainer.set_mode(trainer.model)
    assert all(module.training for module in trainer.model.modules())


def test_fine_tuning_sees_the_retained_images_alone(tmp_path):
    trainer = make_trainer("fine_tune", tmp_path, num_train_epochs=2, **PLAIN)
    trainer.train()
    model = make_model("resnet")
    for _ in range(2):
        sgd_step(model, cross_entropy(model, X_R, Y_R).mean(), 0.1)
    assert_same_weights(trainer.model, model)


def test_neg_grad_plus_weighs_the_means_of_either_kind(tmp_path):
    trainer = make_trainer("neg_grad_plus", tmp_path, alpha=0.7, **PLAIN)
    trainer.train()
    model = make_model("resnet")
    # Nine retained images, each with a forget image beside it: 16 in the first update, two in the second.
    for retained, forgotten in [(range(8), [0, 1, 2, 3, 4, 5, 0, 1]), ([8], [2])]:
        retained, forgotten = list(retained), list(forgotten)
        up = cross_entropy(model, X_F[forgotten], Y_F[forgotten]).mean()
        down = cross_entropy(model, X_R[retained], Y_R[retained]).mean()
        sgd_step(model, 0.7 * down - 0.3 * up, 0.1)
    assert_same_weights(trainer.model, model)


def random_labels():
    """Another label than the image's own: 1 or 2 further, by (seed, position)."""
    return torch.tensor([(y + 1 + noise_key(SEED, i, 0) % 2) % 3 for i, y in enumerate(Y_F.tolist())])


def test_amnesiac_learns_random_other_labels(tmp_path):
    trainer = make_trainer("amnesiac", tmp_path, num_train_epochs=2, **PLAIN)
    trainer.train()
    model, others = make_model("resnet"), random_labels()
    assert all(others != Y_F)
    for _ in range(2):
        total = cross_entropy(model, X_F, others).sum() + cross_entropy(model, X_R, Y_R).sum()
        sgd_step(model, total / 15, 0.1)
    assert_same_weights(trainer.model, model)


def test_bad_teacher_pulls_to_a_new_network_and_to_the_original(tmp_path):
    trainer = make_trainer("bad_teacher", tmp_path, num_train_epochs=2, **PLAIN)
    trainer.train()
    with torch.no_grad():
        taught = new_model("resnet").eval()(pixel_values=X_F).logits
    model = make_model("resnet")
    for _ in range(2):
        forget = divergence(taught, model(pixel_values=X_F).logits)
        retain = divergence(original_logits(X_R), model(pixel_values=X_R).logits)
        sgd_step(model, (forget.sum() + retain.sum()) / 15, 0.1)
    assert_same_weights(trainer.model, model)


def test_scrub_takes_turns(tmp_path):
    trainer = make_trainer("scrub", tmp_path, num_max_passes=1, num_min_passes=2, alpha=0.3, gamma=0.6, **PLAIN)
    trainer.train()
    model = make_model("resnet")

    def distance(x):
        # T² KL at temperature 4.
        return 16 * divergence(original_logits(x) / 4, model(pixel_values=x).logits / 4)

    for is_max in (False, True, False):
        if is_max:
            loss = -distance(X_F).mean()
        else:
            loss = (0.3 * distance(X_R) + 0.6 * cross_entropy(model, X_R, Y_R)).mean()
        sgd_step(model, loss, 0.1)
    assert_same_weights(trainer.model, model)


def salient_weights(model, share):
    """The weights with the largest gradients of the forget loss, over all tensors together."""
    gradients = torch.autograd.grad(cross_entropy(model, X_F, Y_F).sum(), list(model.parameters()))
    sizes = sorted((gradient.abs().flatten().tolist() for gradient in gradients), key=len)
    sizes = sorted((size for part in sizes for size in part), reverse=True)
    smallest = sizes[round(share * len(sizes)) - 1]
    return [gradient.abs() >= smallest for gradient in gradients]


def test_salun_learns_random_labels_with_salient_weights(tmp_path):
    trainer = make_trainer("salun", tmp_path, num_train_epochs=2, saliency_share=0.3, **PLAIN)
    trainer.train()
    model, original, others = make_model("resnet"), make_model("resnet"), random_labels()
    masks = salient_weights(model, 0.3)
    for _ in range(2):
        total = cross_entropy(model, X_F, others).sum() + cross_entropy(model, X_R, Y_R).sum()
        sgd_step(model, total / 15, 0.1)
        with torch.no_grad():
            for mask, weight, start in zip(masks, model.parameters(), original.parameters(), strict=True):
                weight[~mask] = start[~mask]
    assert_same_weights(trainer.model, model)


def test_salun_keeps_the_other_weights_under_momentum_and_weight_decay(tmp_path):
    settings = {**PLAIN, "optim_args": "momentum=0.9", "weight_decay": 0.1}
    trainer = make_trainer("salun", tmp_path, num_train_epochs=4, **settings)
    trainer.train()
    original = make_model("resnet")
    masks = salient_weights(original, 0.5)
    for mask, weight, start in zip(masks, trainer.model.parameters(), original.parameters(), strict=True):
        assert torch.equal(weight[~mask], start[~mask])
        assert (weight[mask] != start[mask]).all()


def test_lotus_smooths_by_the_distance_to_the_unseen_accuracy(tmp_path):
    settings = {"forget_kind": "images", "unseen_accuracy": 0.1, "alpha": 3.0}
    trainer = make_trainer("lotus", tmp_path, num_train_epochs=2, **settings, **PLAIN)
    trainer.train()
    model = make_model("resnet")
    temperatures = []
    for epoch in range(2):
        accuracy = (model(pixel_values=X_F).logits.argmax(dim=-1) == Y_F).float().mean().item()
        temperatures.append(torch.tensor(3 * (accuracy - 0.1)).exp().item())
        generator = torch.Generator().manual_seed(noise_key(SEED, epoch, 0))
        # Minus the logarithm of an exponential variable is a Gumbel one.
        gumbel = -torch.empty(15, 3).exponential_(generator=generator).log()
        smooth = ((original_logits(X_F) + gumbel[:6]) / temperatures[-1]).softmax(dim=-1)
        sampled = (original_logits(X_R) + gumbel[6:]).argmax(dim=-1)
        forget = -(smooth * log_probabilities(model, X_F)).sum()
        sgd_step(model, (forget + cross_entropy(model, X_R, sampled).sum()) / 15, 0.1)
    assert_same_weights(trainer.model, model)
    logged = [log["temperature"] for log in trainer.state.log_history if "temperature" in log]
    assert logged[:2] == pytest.approx(temperatures)


def test_lotus_stops_below_the_unseen_accuracy(tmp_path, monkeypatch):
    trainer = make_trainer("lotus", tmp_path, forget_kind="images", unseen_accuracy=0.25, num_train_epochs=5)
    # Before the first epoch, after it, after the second one.
    accuracies = iter([0.5, 0.3, 0.2])
    monkeypatch.setattr(trainer, "forget_accuracy", lambda: next(accuracies))
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    "method, settings, message",
    [
        ("neg_grad_plus", {"alpha": 0.0}, "alpha: got 0.0. Valid: above 0 and at most 1."),
        ("scrub", {"num_max_passes": 0}, "num_max_passes: got 0. Valid: at least 1."),
        ("salun", {"saliency_share": 1.5}, "saliency_share: got 1.5. Valid: above 0 and at most 1."),
        ("lotus", {"unseen_accuracy": 90}, "unseen_accuracy: got 90. Valid: from 0 to 1."),
        ("lotus", {"alpha": -1.0}, "alpha: got -1.0. Valid: at least 0."),
        ("lotus", {"forget_kind": "images"}, "unseen_accuracy: is missing"),
    ],
)
def test_bad_settings_are_named(tmp_path, method, settings, message):
    with pytest.raises(InputError, match=message):
        make_trainer(method, tmp_path, **settings)


def test_lotus_has_nothing_to_do_below_the_unseen_accuracy(tmp_path):
    with pytest.raises(InputError, match="unseen_accuracy: got 1.0"):
        make_trainer("lotus", tmp_path, forget_kind="images", unseen_accuracy=1.0).train()


@pytest.mark.parametrize("method", METHODS)
def test_missing_retained_images_are_named(tmp_path, method):
    with pytest.raises(InputError, match="retain_dataset: is missing"):
        make_trainer(method, tmp_path, retain=[])
    with pytest.raises(InputError, match="retain_dataset: has no labels"):
        images = ["image"]
        make_trainer(
            method, tmp_path, retain=RETAIN_SET.select_columns(images), forget=FORGET_SET.select_columns(images)
        )


@pytest.mark.parametrize("method", METHODS)
def test_weights_do_not_depend_on_the_cut(tmp_path, method):
    # BatchNorm's statistics, which retraining takes from the batches, do depend on it: a network without BatchNorm. And
    # AdamW would make full steps of the rounding errors of gradients that are zero.
    architecture, settings = ("convnext", PLAIN) if method == "retrain" else ("resnet", {})
    settings = {**settings, "learning_rate": 1e-3, "train_sampling_strategy": "random", "num_train_epochs": 2}
    whole, cut = (
        make_trainer(
            method,
            tmp_path,
            architecture,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            **settings,
        )
        for size, steps in ((16, 1), (4, 4))
    )
    whole.train()
    cut.train()
    assert cut.state.global_step == whole.state.global_step
    assert_same_weights(cut.model, whole.model)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_at_the_same_weights(tmp_path, method):
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(method, tmp_path, learning_rate=1e-3, **settings)
    whole.train()
    resumed = make_trainer(method, tmp_path, learning_rate=1e-3, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(resumed.model, whole.model)
