"""What is done once must give what doing it again would."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from conftest import LABELS, make_model, other_models
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ResNetConfig, ResNetForImageClassification, TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutput

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.data import image_dataset as data
from hf_unlearn.data.image_dataset import ImageDataset, shared_tensor
from hf_unlearn.data.labels import match_labels
from hf_unlearn.unlearning import layout
from hf_unlearn.unlearning.early_features import EarlyFeatures, find_cut
from hf_unlearn.unlearning.layout import most_that_fit
from hf_unlearn.unlearning.step_size import last_stage_and_head


ARCHITECTURES = ["resnet", "vit", "convnext", "mobilenet_v2", "swin", "regnet", "bit", "efficientnet"]


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    """Its last stage and head alone require a gradient."""
    torch.manual_seed(0)
    name = request.param
    model = (other_models()[name] if name in other_models() else make_model(name)).eval()
    late = last_stage_and_head(
        model, torch.zeros(1, 3, 32, 32) if name == "efficientnet" else torch.zeros(1, 3, 16, 16)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in late)
    return model


def images_for(model, number):
    size = 32 if "EfficientNet" in type(model).__name__ else 16
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_late_passes_give_the_logits_of_whole_passes_whatever_the_late_weights_are(model):
    x = images_for(model, 6)
    early = EarlyFeatures(find_cut(model, x[:1]), 6)
    positions = list(range(6))
    with torch.no_grad():
        assert torch.equal(early.logits(model, positions, x), model(pixel_values=x).logits)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        assert torch.equal(early.logits(model, positions, x), model(pixel_values=x).logits)
        # In another order: rows of a batch may differ in the last bits of float32.
        torch.testing.assert_close(early.logits(model, [4, 1], x[[4, 1]]), model(pixel_values=x[[4, 1]]).logits)


def test_late_passes_skip_the_early_part(model):
    x = images_for(model, 6)
    early = EarlyFeatures(find_cut(model, x[:1]), 6)
    frozen = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    rows = []
    frozen.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    for _ in range(3):
        early.logits(model, list(range(6)), x)
    assert rows == [6]
    model(pixel_values=x)
    assert rows == [6, 6]


def test_late_passes_have_the_gradient_of_whole_passes(model):
    x = images_for(model, 4)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    early = EarlyFeatures(find_cut(model, x[:1]), 4)
    early.logits(model, list(range(4)), x)
    whole = torch.autograd.grad(model(pixel_values=x).logits.square().sum(), moving)
    late = torch.autograd.grad(early.logits(model, list(range(4)), x).square().sum(), moving)
    assert all(torch.equal(a, b) for a, b in zip(late, whole, strict=True))


def test_head_alone_is_cut_at_its_own_input(any_model):
    any_model.requires_grad_(False)
    head = any_model.classifier[-1] if isinstance(any_model.classifier, nn.Sequential) else any_model.classifier
    head.requires_grad_(True)
    assert find_cut(any_model, images_for(any_model, 1)).split is head


class Skipping(nn.Module):
    """The head sees the last part and, past it, what `skip` makes of the early part."""

    def __init__(self, skip):
        super().__init__()
        self.early, self.late, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.skip = skip
        self.early.requires_grad_(False)

    def forward(self, pixel_values):
        early = self.early(pixel_values.mean(dim=(2, 3)))
        return ImageClassifierOutput(logits=self.head(self.late(early) + self.skip(early)))


def test_network_that_cannot_be_cut_is_passed_as_a_whole():
    x = torch.randn(1, 4, 3, 3)
    assert find_cut(Skipping(lambda early: 0), x) is not None
    assert find_cut(Skipping(lambda early: early), x) is None
    assert (
        find_cut(Skipping(lambda early: torch.tensor(float(len(early)))), x) is None
    )  # depends on the number of rows
    assert find_cut(make_model("resnet"), torch.randn(1, 3, 16, 16)) is None  # all of it moves


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


def make_images(dataset, image_processor):
    split = dataset["train"].select(range(5))
    label_ids = match_labels(split, "label", {0: "cat", 1: "dog", 2: "owl"})
    return ImageDataset(split, image_processor, label_column="label", label_ids=label_ids)


def assert_same_items(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and one["labels"] == other["labels"]


@pytest.mark.parametrize("free_memory", [2**30, 0])
def test_kept_images_are_read_once_and_are_the_same(free_memory, dataset, image_processor, monkeypatch):
    """In memory, and in a file where there is no memory to spare."""
    monkeypatch.setattr(data.psutil, "virtual_memory", lambda: type("Memory", (), {"available": free_memory}))
    reads = []
    monkeypatch.setattr(data, "to_rgb", lambda image, to_rgb=data.to_rgb: reads.append(image) or to_rgb(image))
    images = make_images(dataset, image_processor)
    fresh = [images[row] for row in range(5)]
    images.keep()
    reads.clear()
    assert_same_items(images.__getitems__([3, 1]), [fresh[3], fresh[1]])
    assert_same_items([images[row] for row in range(5)], fresh)
    assert_same_items([images[row] for row in range(5)], fresh)
    assert len(reads) == 5


def test_images_are_read_again_where_there_is_no_room(dataset, image_processor, monkeypatch):
    monkeypatch.setattr(data, "shared_tensor", lambda shape, dtype: None)
    images = make_images(dataset, image_processor)
    fresh = [images[row] for row in range(5)]
    images.keep()
    assert_same_items([images[row] for row in range(5)], fresh)


def test_neither_memory_nor_disk_beyond_what_is_free():
    assert shared_tensor((2**60,), torch.float32) is None


def test_what_loader_workers_read_is_kept_for_all(dataset, image_processor):
    images = make_images(dataset, image_processor)
    images.keep()
    loader = torch.utils.data.DataLoader(images, batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == 3
    assert images.is_kept.all()
    assert_same_items(
        [images[row] for row in range(5)], [make_images(dataset, image_processor)[row] for row in range(5)]
    )


def test_kept_images_stay_behind_when_a_worker_is_no_fork(dataset, image_processor):
    images = make_images(dataset, image_processor)
    images.keep()
    copied = pickle.loads(pickle.dumps(images))
    assert_same_items([copied[0]], [images[0]])
    assert copied.kept is None


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


def test_one_pixel_per_thousand_weights_is_enough_for_channels_last(resnet, tmp_path):
    pixels = math.ceil(sum(parameter.numel() for parameter in resnet.parameters()) / 1000)
    formats = []
    for width in (pixels - 1, pixels):
        args = JiTConfig(output_dir=str(tmp_path), noise_clamp="none")
        forget = [{"pixel_values": torch.zeros(3, 1, width)}]
        formats.append(JiTTrainer(model=resnet, args=args, forget_dataset=forget).memory_format())
    assert formats == [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(("width", "channels_last"), [(16, True), (256, False)])
def test_weights_are_channels_last_while_they_move_and_not_afterwards(
    width, channels_last, dataset, image_processor, tmp_path
):
    """256 channels are 600,000 weights, too many for 256 pixels."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, width], depths=[1, 1], layer_type="basic", **LABELS)
    model = ResNetForImageClassification(config)
    weight = model.resnet.encoder.stages[1].layers[0].layer[1].convolution.weight
    args = JiTConfig(output_dir=str(tmp_path), step_rule="fixed", learning_rate=1e-6, disable_tqdm=True)
    forget = dataset["train"].select(range(4))
    trainer = JiTTrainer(model=model, args=args, processing_class=image_processor, forget_dataset=forget)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(weight.is_contiguous(memory_format=torch.channels_last)))
    trainer.train()
    assert seen and all(was == channels_last for was in seen)
    assert weight.is_contiguous()


def test_what_only_the_evaluation_needs_is_not_imported_before_the_update():
    late = ("evaluate", "scipy.stats", "sklearn", "matplotlib", "jsonschema")
    code = f"import sys, hf_unlearn.commands.run, hf_unlearn.methods.jit; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_command_imports_is_never_looked_through_for_garbage():
    """Hundreds of thousands of objects that stay: they are frozen, and what comes later is collected as ever."""
    code = """
import gc, hf_unlearn.commands.main as cli
assert cli.main(["run", "--method", "none"]) == 2
assert cli.main(["compare", "--no_such_flag", "1"]) == 2
print(gc.isenabled(), gc.get_freeze_count() > 300_000, len(gc.get_objects()) < 50_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_a_program_that_has_imported_torch_keeps_its_garbage_collection():
    code = """
import gc, torch, hf_unlearn.commands.main as cli
assert cli.main(["run", "--method", "none"]) == 2
print(gc.isenabled(), gc.get_freeze_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_weights_of_one_channel_too_have_their_usual_strides_afterwards(dataset, image_processor, tmp_path):
    """A depthwise convolution's weights are in both orders at once; kernels choose by their strides."""
    model = make_model("mobilenet_v2")
    args = JiTConfig(str(tmp_path), step_rule="fixed", learning_rate=1e-3, use_cpu=True, allow_collapse=True)
    JiTTrainer(model, args, processing_class=image_processor, forget_dataset=dataset["train"].select(range(2))).train()
    for name, tensor in model.state_dict().items():
        assert tensor.stride() == torch.empty(tensor.shape).stride(), name


class Reads(TorchFunctionMode):
    """Notes what brings a value of a tensor to Python: on a GPU each waits until the device is done."""

    names = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self):
        super().__init__()
        self.seen, self.in_updates = [], False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.in_updates and function.__name__ in self.names:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


class NoteUpdates(TrainerCallback):
    """Has reads noted from the first update to the end of the third, before anything is logged."""

    def __init__(self, reads):
        self.reads = reads

    def on_step_begin(self, args, state, control, **kwargs):
        self.reads.in_updates = True

    def on_step_end(self, args, state, control, **kwargs):
        self.reads.in_updates = state.global_step < 3


@pytest.mark.parametrize("settings", [{"step_rule": "fixed", "learning_rate": 1e-3}, {"forget_kind": "subclass"}])
def test_updates_wait_for_no_value_of_the_device(settings, resnet, dataset, image_processor, tmp_path):
    reads = Reads()
    args = JiTConfig(
        output_dir=str(tmp_path), num_perturbations=3, per_device_train_batch_size=4, disable_tqdm=True,
        allow_collapse=True, **settings,
    )  # fmt: skip
    forget = dataset["train"].select(range(12))
    jit_trainer = JiTTrainer(model=resnet, args=args, processing_class=image_processor, forget_dataset=forget)
    jit_trainer.add_callback(NoteUpdates(reads))
    with reads:
        jit_trainer.train()
        assert jit_trainer.state.global_step == 3 and reads.seen == []
        # What would be noted.
        reads.in_updates = True
        torch.ones(1).item()
    assert reads.seen == ["item"]


@pytest.mark.parametrize(
    ("settings", "logged"),
    [({"logging_steps": 2}, [2, 4]), ({"logging_steps": 3, "logging_first_step": True}, [1, 3])],
)
def test_gradient_norm_is_computed_for_log_lines_alone(
    settings, logged, resnet, dataset, image_processor, tmp_path, monkeypatch
):
    args = JiTConfig(
        str(tmp_path), step_rule="fixed", learning_rate=1e-6, num_train_epochs=4, use_cpu=True, **settings
    )
    forget = dataset["train"].select(range(8))
    jit_trainer = JiTTrainer(resnet, args, processing_class=image_processor, forget_dataset=forget)
    norms, clip = [], jit_trainer.accelerator.clip_grad_norm_
    monkeypatch.setattr(
        jit_trainer.accelerator, "clip_grad_norm_", lambda *args: norms.append(clip(*args)) or norms[-1]
    )
    jit_trainer.train()
    found = {entry["step"]: entry["grad_norm"] for entry in jit_trainer.state.log_history if "grad_norm" in entry}
    assert found == dict(zip(logged, [norm.item() for norm in norms], strict=True))


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


def test_largest_activation_is_that_of_the_widest_layer():
    """A convolution to 8 channels at 4 × 4 pixels, more than the image itself and than what follows."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 100))
    model = nn.Module()
    model.layers, model.forward = layers, lambda pixel_values: layers(pixel_values)
    assert layout.largest_activation(model, torch.zeros(1, 3, 4, 4)) == 8 * 4 * 4


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


def test_passes_that_find_no_memory_are_halved():
    def forward(number):
        tried.append(number)
        if number > 20:
            raise torch.OutOfMemoryError

    for number, at_least, found, trials in ((128, 8, 16, [128, 64, 32, 16]), (128, 50, 50, [128, 64]), (4, 8, 4, [])):
        tried = []
        assert most_that_fit(forward, number, at_least) == found and tried == trials


def test_passes_without_a_gradient_are_even(resnet, dataset, image_processor, tmp_path, monkeypatch):
    """Seven images, four at once: two passes of four with one image of weight zero, and not a batch of the update."""
    monkeypatch.setattr(
        layout, "ACTIVATION_BYTES_CPU", 4 * 4 * layout.largest_activation(resnet, torch.zeros(1, 3, 16, 16))
    )
    args = JiTConfig(str(tmp_path), step_rule="fixed", learning_rate=1e-6, per_device_train_batch_size=2, use_cpu=True)
    forget = dataset["train"].select(range(7))
    jit_trainer = JiTTrainer(resnet, args, processing_class=image_processor, forget_dataset=forget)
    jit_trainer.train()
    sizes = [len(logits) for _, logits in jit_trainer.forget_outputs()]
    assert sizes == [4, 4]
    assert jit_trainer.share["sample_weight"].sum() == 7
