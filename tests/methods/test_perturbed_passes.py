"""The passes of JiT, however they are cut and whatever is kept, give what plain ones would."""

import copy

import pytest
import torch
from conftest import make_model
from torch.utils._python_dispatch import TorchDispatchMode

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.unlearning import layout


@pytest.mark.parametrize("kind", ["subclass", "images"])
def test_automatic_step_is_the_same_with_and_without_what_is_kept(
    any_model, kind, dataset, image_processor, tmp_path, monkeypatch
):
    def train(model):
        args = JiTConfig(
            output_dir=str(tmp_path), forget_kind=kind, forget_target=0.5, per_device_train_batch_size=4,
            disable_tqdm=True, allow_collapse=True,
        )  # fmt: skip
        trainer = JiTTrainer(
            model=model, args=args, processing_class=image_processor, forget_dataset=dataset["train"].select(range(10))
        )
        trainer.train()
        return trainer

    kept = train(copy.deepcopy(any_model))
    monkeypatch.setattr(ImageDataset, "keep", lambda self: None)
    monkeypatch.setattr(JiTTrainer, "find_early_features", lambda self: None)
    again = train(any_model)
    assert kept.step == again.step and kept.change == again.change and kept.passes == again.passes
    for name, weight in again.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], weight), name


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_perturbations_in_bf16_change_the_direction_by_rounding_alone(
    architecture, dataset, image_processor, tmp_path
):
    """bf16 has 8 bits of mantissa: outputs err by 0.4 %, differences of outputs by a few times that."""
    gradients = []
    for bf16_perturbations in (False, True):
        args = JiTConfig(
            output_dir=str(tmp_path), step_rule="fixed", num_perturbations=4, use_cpu=True,
            bf16_perturbations=bf16_perturbations,
        )  # fmt: skip
        trainer = JiTTrainer(
            model=make_model(architecture),
            args=args,
            processing_class=image_processor,
            forget_dataset=dataset["train"],
        )
        trainer.answers = torch.zeros(30, dtype=torch.long)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=8).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 0 < difference < 0.05


def update(model, dataset, image_processor, tmp_path, **settings):
    """The gradients of one update from all of a batch, and the sizes of its forward passes without a gradient."""
    model = copy.deepcopy(model)
    args = JiTConfig(output_dir=str(tmp_path), step_rule="fixed", use_cpu=True, **settings)
    jit_trainer = JiTTrainer(model=model, args=args, processing_class=image_processor, forget_dataset=dataset["train"])
    jit_trainer.answers = torch.zeros(30, dtype=torch.long)
    # Found with a pass of one image.
    assert jit_trainer.images_at_once > 0
    sizes = []
    model.register_forward_hook(
        lambda module, args, output: None if torch.is_grad_enabled() else sizes.append(len(output.logits))
    )
    batch = next(iter(jit_trainer.get_train_dataloader()))
    jit_trainer.compute_loss(model, batch, num_items_in_batch=8).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), sizes


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    # Five perturbations of one image, of five, and of eight: joined up to three images, cut above six.
    [(1, [3, 2]), (5, [5, 5, 5, 5, 5]), (8, [6, 2] * 5)],
)
def test_perturbed_images_pass_in_batches_of_bounded_size(
    batch_size, sizes, resnet, dataset, image_processor, tmp_path, monkeypatch
):
    settings = {"num_perturbations": 5, "per_device_train_batch_size": batch_size}
    expected, _ = update(resnet, dataset, image_processor, tmp_path, perturbation_chunk_size=1, **settings)
    monkeypatch.setattr(
        layout, "ACTIVATION_BYTES_CPU", 6 * 4 * layout.largest_activation(resnet, torch.zeros(1, 3, 16, 16))
    )
    gradient, seen = update(resnet, dataset, image_processor, tmp_path, **settings)
    assert seen == sizes
    # float32: rows of a batch differ in their last bits by its size.
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_twice_as_many_perturbed_images_pass_at_once_in_bf16(resnet, dataset, image_processor, tmp_path, monkeypatch):
    monkeypatch.setattr(
        layout, "ACTIVATION_BYTES_CPU", 4 * 4 * layout.largest_activation(resnet, torch.zeros(1, 3, 16, 16))
    )
    settings = {"num_perturbations": 4, "per_device_train_batch_size": 2}
    assert update(resnet, dataset, image_processor, tmp_path, **settings)[1] == [2, 2, 2, 2]
    assert update(resnet, dataset, image_processor, tmp_path, bf16_perturbations=True, **settings)[1] == [4, 4]


def test_chunk_size_that_is_given_is_kept_to(resnet, dataset, image_processor, tmp_path):
    settings = {"num_perturbations": 5, "per_device_train_batch_size": 4}
    _, sizes = update(resnet, dataset, image_processor, tmp_path, perturbation_chunk_size=2, **settings)
    assert sizes == [8, 8, 4]


class Casts(TorchDispatchMode):
    """Counts tensors of four dimensions of weights that are cast to bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.shapes = [parameter.shape for parameter in model.parameters() if parameter.dim() == 4]
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16:
            self.count += args[0].shape in self.shapes
        return function(*args, **(kwargs or {}))


def test_weights_are_cast_to_bf16_once_for_all_perturbations(resnet, dataset, image_processor, tmp_path):
    counts = []
    for num_perturbations in (1, 6):
        with Casts(resnet) as casts:
            update(
                resnet, dataset, image_processor, tmp_path, num_perturbations=num_perturbations,
                bf16_perturbations=True, perturbation_chunk_size=1,
            )  # fmt: skip
        counts.append(casts.count)
    assert counts[0] == counts[1] == len(casts.shapes)


def test_weights_cast_in_perturbed_passes_keep_their_gradient_in_the_clean_one(
    resnet, dataset, image_processor, tmp_path
):
    """Autocast would give the clean pass what it cast without a gradient."""
    gradients = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            gradients.append(update(resnet, dataset, image_processor, tmp_path, num_perturbations=2)[0])
    # 8 bits of mantissa, in the differences of near outputs.
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9


def test_the_clean_pass_is_the_last_so_that_its_activations_are_not_in_memory_beside_the_others(
    resnet, dataset, image_processor, tmp_path
):
    model, passes = copy.deepcopy(resnet), []
    model.register_forward_hook(lambda module, args, output: passes.append(torch.is_grad_enabled()))
    args = JiTConfig(str(tmp_path), step_rule="fixed", num_perturbations=3, perturbation_chunk_size=1, use_cpu=True)
    jit_trainer = JiTTrainer(model, args, processing_class=image_processor, forget_dataset=dataset["train"])
    jit_trainer.answers = torch.zeros(30, dtype=torch.long)
    batch = next(iter(jit_trainer.get_train_dataloader()))
    passes.clear()
    jit_trainer.compute_loss(model, batch, num_items_in_batch=8)
    assert passes == [False, False, False, True]
