"""SSD and its loss-free form, each against its definition written out."""

import pytest
import torch
from conftest import make_model
from method_cases import FORGET_SET, RETAIN_SET, assert_same_weights, image_gradients, make_trainer, tensors

from hf_unlearn.errors import InputError


def mean_of(images: list) -> dict:
    return {name: sum(image[name] for image in images) / len(images) for name in images[0]}


def dampen_by_hand(model, forget: dict, whole: dict, alpha: float, constant: float) -> None:
    """θ ← θ min(λ I_D / I_f, 1) where I_f > α I_D."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Softmax cancels the bias of keys: its gradient is 0, but for rounding.
            if "k_proj.bias" not in name:
                selected = forget[name] > alpha * whole[name]
                parameter[selected] *= (constant * whole[name][selected] / forget[name][selected]).clamp(max=1)


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_ssd_dampens_what_matters_more_to_the_forget_set(tmp_path, architecture):
    settings = {"selection_weighting": 1.1, "dampening_constant": 0.9}
    trainer = make_trainer("ssd", tmp_path, architecture, **settings)
    trainer.train()

    model = make_model(architecture)
    squares = []
    for split in (FORGET_SET, RETAIN_SET):
        x, y = tensors(split)
        likelihoods = [model(pixel_values=x[i : i + 1]).logits.log_softmax(dim=-1)[0, y[i]] for i in range(len(x))]
        gradients = image_gradients(model, likelihoods)
        squares.append([{name: gradient**2 for name, gradient in image.items()} for image in gradients])
    dampen_by_hand(model, mean_of(squares[0]), mean_of(squares[0] + squares[1]), 1.1, 0.9)
    assert_same_weights(trainer.model, model)


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_loss_free_ssd_compares_the_size_of_gradients_on_images_made_with_the_model(tmp_path, architecture):
    trainer = make_trainer(
        "loss_free_ssd", tmp_path, architecture, forget=FORGET_SET.select_columns(["image"]), forget_kind="images",
        selection_weighting=1.1, dampening_constant=0.9,
    )  # fmt: skip
    trainer.train()

    made = trainer.training_set.parts["generated"]
    assert len(made) == 4 * 3
    model = make_model(architecture)
    sizes = []
    for x in (tensors(FORGET_SET)[0], torch.stack([item["pixel_values"] for item in made])):
        squared_norms = [(model(pixel_values=x[i : i + 1]).logits ** 2).sum() for i in range(len(x))]
        gradients = image_gradients(model, squared_norms)
        sizes.append(mean_of([{name: gradient.abs() for name, gradient in image.items()} for image in gradients]))
    forget, others = sizes
    scale = sum(value.sum() for value in forget.values()) / sum(value.sum() for value in others.values())
    dampen_by_hand(model, forget, {name: scale * value for name, value in others.items()}, 1.1, 0.9)
    assert_same_weights(trainer.model, model)


@pytest.mark.parametrize("method", ["ssd", "loss_free_ssd"])
def test_cut_does_not_matter(tmp_path, method):
    models = []
    for cut in (
        {"per_device_train_batch_size": 16},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ):
        trainer = make_trainer(method, tmp_path, selection_weighting=1.1, **cut)
        trainer.train()
        models.append(trainer.model)
    assert_same_weights(models[0], models[1])


def test_ssd_says_when_no_weight_could_be_selected(tmp_path):
    with pytest.raises(InputError, match="must be less than 2.5, got 10.0: to a forget set of 6 images out of 15"):
        make_trainer("ssd", tmp_path, selection_weighting=10.0)


def test_ssd_takes_half_of_what_is_possible_where_ten_is_too_much(tmp_path):
    assert make_trainer("ssd", tmp_path).args.selection_weighting == 1.25


@pytest.mark.parametrize("name", ["selection_weighting", "dampening_constant"])
def test_settings_out_of_range_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: must be greater than 0"):
        make_trainer("ssd", tmp_path, **{name: 0.0})


def test_ssd_without_retained_images_names_methods_that_need_none(tmp_path):
    with pytest.raises(InputError, match="retain_dataset: is missing: SSD needs images to retain"):
        make_trainer("ssd", tmp_path, retain=RETAIN_SET.select([]))


def test_card_names_the_data_and_counts_one_update(tmp_path):
    trainer = make_trainer("ssd", tmp_path)
    trainer.train()
    trainer.save_report()
    card = (tmp_path / "README.md").read_text()
    assert "from the trained model, the images to forget and retained training images" in " ".join(card.split())
    assert "| weight updates | 1 |" in card
    assert "| `selection_weighting` | 1.25 |" in card
    assert "learning_rate" not in card
