"""The order of the weights in memory, how many images pass at once, and that neither changes anything else."""

import math

import pytest
import torch
from conftest import LABELS, make_model
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.unlearning import layout
from hf_unlearn.unlearning.layout import most_that_fit


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


def test_weights_of_one_channel_too_have_their_usual_strides_afterwards(dataset, image_processor, tmp_path):
    """A depthwise convolution's weights are in both orders at once; kernels choose by their strides."""
    model = make_model("mobilenet_v2")
    args = JiTConfig(str(tmp_path), step_rule="fixed", learning_rate=1e-3, use_cpu=True, allow_collapse=True)
    JiTTrainer(model, args, processing_class=image_processor, forget_dataset=dataset["train"].select(range(2))).train()
    for name, tensor in model.state_dict().items():
        assert tensor.stride() == torch.empty(tensor.shape).stride(), name


def test_largest_activation_is_that_of_the_widest_layer():
    """A convolution to 8 channels at 4 × 4 pixels, more than the image itself and than what follows."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 100))
    model = nn.Module()
    model.layers, model.forward = layers, lambda pixel_values: layers(pixel_values)
    assert layout.largest_activation(model, torch.zeros(1, 3, 4, 4)) == 8 * 4 * 4


def test_passes_that_find_no_memory_are_halved():
    def forward(number):
        tried.append(number)
        if number > 20:
            raise torch.OutOfMemoryError

    for number, at_least, found, trials in ((128, 8, 16, [128, 64, 32, 16]), (128, 50, 50, [128, 64]), (4, 8, 4, [])):
        tried = []
        assert most_that_fit(forward, number, at_least) == found and tried == trials


def test_perturbed_passes_that_find_no_memory_are_halved_and_the_loss_stays(resnet, tmp_path):
    """Four images, six perturbations: passes of more than five images are refused, so that three pass at a time from then on."""
    forget = [{"pixel_values": torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(k))} for k in range(4)]
    args = JiTConfig(
        str(tmp_path),
        step_rule="fixed",
        num_perturbations=6,
        perturbation_chunk_size=3,
        use_cpu=True,
        noise_clamp="none",
    )
    trainer = JiTTrainer(resnet, args, forget_dataset=forget)
    pixel_values = torch.stack([image["pixel_values"] for image in forget])
    inputs = {"pixel_values": pixel_values, "sample_index": torch.arange(4), "positions": list(range(4))}

    def refuse(module, arguments, named):
        sizes.append(len(named["pixel_values"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError

    sizes, losses = [], [trainer.unlearning_loss(resnet, dict(inputs))[0]]
    resnet.register_forward_pre_hook(refuse, with_kwargs=True)
    losses += [trainer.unlearning_loss(resnet, dict(inputs))[0] for _ in range(2)]
    assert sizes == [12, 6] + 8 * [3] + [4] + 8 * [3] + [4]
    assert torch.allclose(losses[1], losses[0]) and torch.equal(losses[2], losses[1])


def test_a_single_image_that_finds_no_memory_is_an_error():
    def forward(pixel_values):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        layout.in_passes(forward, torch.zeros(3, 1), at_once=8)


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
