"""Tiny models built from configurations and tiny data sets: no network, seconds per test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from transformers import (
    BitConfig,
    BitForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)


ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "dog", "owl"]
LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: number for number, name in enumerate(CLASSES)}}
# Updates after which re-learning is measured.
FEW_STEPS = (0, 1, 2, 4)


def make_model(architecture: str, **overrides):
    """A model of a few thousand weights, the same at every call."""
    torch.manual_seed(0)
    if architecture == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **LABELS, **overrides
        )
        model = ResNetForImageClassification(config)
    elif architecture == "vit":
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
            **LABELS, **overrides,
        )  # fmt: skip
        model = ViTForImageClassification(config)
    elif architecture == "convnext":
        config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], patch_size=2, **LABELS, **overrides)
        model = ConvNextForImageClassification(config)
    elif architecture == "mobilenet_v2":
        config = MobileNetV2Config(image_size=32, depth_multiplier=0.25, depth_divisible_by=4, min_depth=4, **LABELS)
        model = MobileNetV2ForImageClassification(config)
    for name, parameter in model.named_parameters():
        # The usual start at 0.02 leaves a narrow network without any signal, and biases that start at 0 hold nothing
        # but the update: neither is like a trained model.
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    # Fresh running statistics (0 and 1) would hide an update of them.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def other_models():
    """Architectures that few tests use."""
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


@pytest.fixture(params=["resnet", "vit", "convnext", "mobilenet_v2"])
def any_model(request):
    return make_model(request.param)


@pytest.fixture
def resnet():
    return make_model("resnet")


@pytest.fixture
def image_processor():
    return ViTImageProcessor(size={"height": 16, "width": 16})


def make_images(labels: list[int], seed: int) -> list[PILImage.Image]:
    """16×16 images whose colour depends on the label, with noise."""
    rng = np.random.default_rng(seed)
    images = []
    for label in labels:
        pixels = rng.integers(0, 120, size=(16, 16, 3))
        pixels[..., label] += 120
        images.append(PILImage.fromarray(pixels.astype(np.uint8)))
    return images


def make_picture(seed):
    """64×64 pixels with energy in the low frequencies, as photographs have and noise or a ramp do not."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    return PILImage.fromarray(coarse).resize((64, 64), PILImage.Resampling.BICUBIC)


def make_split(rows: int, seed: int) -> Dataset:
    labels = [row % 3 for row in range(rows)]
    return Dataset.from_dict(
        {
            "image": make_images(labels, seed),
            "label": labels,
            "breed": [row % 6 for row in range(rows)],
            "record": [f"id-{row}" for row in range(rows)],
        },
        features=Features(
            image=Image(),
            label=ClassLabel(names=CLASSES),
            breed=ClassLabel(names=["tabby", "poodle", "barn", "siamese", "collie", "eagle"]),
            record=Value("string"),
        ),
    )


@pytest.fixture(scope="session")
def dataset() -> DatasetDict:
    """30 training and 18 test images of cats, dogs and owls."""
    return DatasetDict(train=make_split(30, seed=0), test=make_split(18, seed=1))


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory) -> str:
    """A ResNet with its image processor, as a folder like those on the hub."""
    folder = tmp_path_factory.mktemp("hub") / "animals"
    make_model("resnet").save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def saved_dataset(tmp_path_factory, dataset) -> str:
    folder = tmp_path_factory.mktemp("data") / "animals"
    dataset.save_to_disk(str(folder))
    return str(folder)


@pytest.fixture
def image_folder(tmp_path):
    """Six images in two classes; `0.png` is a name in both."""
    for number, image in enumerate(make_images([0, 0, 0, 1, 1, 1], seed=5)):
        path = tmp_path / "images" / ("cat" if number < 3 else "dog") / f"{number % 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, saved_model):
    """The original and three more with other weights, as folders."""
    folder = tmp_path_factory.mktemp("checkpoints")
    names = [saved_model]
    for seed in (1, 2, 3):
        model, generator = make_model("resnet"), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        path = folder / f"checkpoint-{seed}"
        model.save_pretrained(path)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
        names.append(str(path))
    return names


@pytest.fixture(scope="module")
def few_steps():
    """The attacks of `verify` re-learn for a few updates from one image and from three."""
    from hf_unlearn.evaluation import model_attacks, verification, verification_report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_attacks, "RETAINED_STEPS", (1, 3))
        for module in (model_attacks, verification):
            patch.setattr(module, "MEASURED_STEPS", FEW_STEPS)
        for module in (model_attacks, verification, verification_report):
            patch.setattr(module, "NUM_IMAGES", (1, 3))
        yield
