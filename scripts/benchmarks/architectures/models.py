"""
A small model of every image classifier of transformers, as plain data: name → class, configuration, image processor.

What is not run is named with the reason. `missing_model_types` says what neither list knows.
"""

from dataclasses import dataclass, field

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from scripts.benchmarks.architectures.pictures import CLASSES


@dataclass(frozen=True)
class Architecture:
    """
    Args:
        model_class (`str`): of transformers.
        settings (`dict`): of its configuration; the others are the defaults.
        processor_class (`str`): of transformers, the one that the architecture comes with where it has one.
        size (`int`): of the images that go in, in pixels.
        processor (`dict`): settings of the image processor beside size, mean and deviation.
        resized (`dict`, *optional*): `size` of the image processor, where it is not height and width.
        rate (`float`): the peak of the learning rate.
        epochs (`int`): each sees every training image four times, once in each mirrored form.
    """

    model_class: str
    settings: dict
    processor_class: str = "ViTImageProcessor"
    size: int = 32
    processor: dict = field(default_factory=dict)
    resized: dict | None = None
    rate: float = 2e-3
    epochs: int = 6

    @property
    def model_type(self) -> str:
        return getattr(transformers, self.model_class).config_class.model_type


def transformer(size: int = 32, patch_size: int = 4, **more) -> dict:
    """What most plain transformers call it."""
    return {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
        "image_size": size, "patch_size": patch_size, **more,
    }  # fmt: skip


def shortest(size: int) -> dict:
    return {"shortest_edge": size}


BEIT = transformer(layer_scale_init_value=0.5, drop_path_rate=0.0)
DINO = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 32,
    "patch_size": 4, "drop_path_rate": 0.0,
}  # fmt: skip
SWIN = {
    "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2,
    "drop_path_rate": 0.0,
}  # fmt: skip
LEVIT = {
    "hidden_sizes": [32, 48, 64], "num_attention_heads": [4, 6, 8], "depths": [1, 1, 1], "key_dim": [8, 8, 8],
    "mlp_ratio": [2, 2, 2], "attention_ratio": [2, 2, 2], "image_size": 64,
}  # fmt: skip
PVT = {
    "image_size": 64, "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2],
    # Its own default, 1000, wins over the labels.
    "num_labels": len(CLASSES),
}  # fmt: skip
CVT = {
    "patch_sizes": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1], "embed_dim": [24, 48], "num_heads": [2, 4],
    "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0], "drop_path_rate": [0.0, 0.0],
    "qkv_bias": [True, True], "cls_token": [False, True], "qkv_projection_method": ["dw_bn", "dw_bn"],
    "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2], "padding_q": [1, 1], "stride_q": [1, 1],
}  # fmt: skip
PERCEIVER = {"num_latents": 16, "d_latents": 48, "num_blocks": 1, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4, "num_cross_attention_heads": 1, "attention_probs_dropout_prob": 0.0,
    "qk_channels": 48, "v_channels": 48,
}  # fmt: skip
# They find a shape in pixels one by one, and need longer than what sees patches.
SINGLE_PIXELS = PERCEIVER | {"num_latents": 24, "num_cross_attention_heads": 4, "initializer_range": 0.5}
WHOLE = {"do_center_crop": False}

ARCHITECTURES = {
    "beit": Architecture("BeitForImageClassification", BEIT, "BeitImageProcessor", processor=WHOLE),
    "bit": Architecture(
        "BitForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [32, 64, 96], "depths": [1, 1, 1], "num_groups": 8},
        "BitImageProcessor", processor=WHOLE, resized=shortest(32),
    ),
    "clip": Architecture(
        "CLIPForImageClassification", {"vision_config": transformer()}, "CLIPImageProcessor", processor=WHOLE,
        resized=shortest(32),
    ),
    "convnext": Architecture(
        "ConvNextForImageClassification",
        {"num_stages": 3, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 2], "patch_size": 2,
         "layer_scale_init_value": 0.1},
        "ConvNextImageProcessor", processor={"crop_pct": 1.0}, resized=shortest(32),
    ),
    "convnextv2": Architecture(
        "ConvNextV2ForImageClassification",
        {"num_stages": 3, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 2], "patch_size": 2},
        "ConvNextImageProcessor", processor={"crop_pct": 1.0}, resized=shortest(32),
    ),
    "cvt, shallow": Architecture(
        "CvtForImageClassification", CVT | {"depth": [1, 2]}, "ConvNextImageProcessor", processor={"crop_pct": 1.0},
        resized=shortest(32),
    ),
    "cvt, deeper": Architecture(
        "CvtForImageClassification", CVT | {"depth": [1, 4]}, "ConvNextImageProcessor", processor={"crop_pct": 1.0},
        resized=shortest(32),
    ),
    "data2vec-vision": Architecture(
        "Data2VecVisionForImageClassification", BEIT, "BeitImageProcessor", processor=WHOLE
    ),
    "deit": Architecture("DeiTForImageClassification", transformer(), "DeiTImageProcessor", processor=WHOLE),
    "deit, teacher": Architecture(
        "DeiTForImageClassificationWithTeacher", transformer(), "DeiTImageProcessor", processor=WHOLE
    ),
    "dinov2": Architecture(
        "Dinov2ForImageClassification", DINO, "BitImageProcessor", processor=WHOLE, resized=shortest(32)
    ),
    "dinov2, SwiGLU": Architecture(
        "Dinov2ForImageClassification", DINO | {"use_swiglu_ffn": True}, "BitImageProcessor", processor=WHOLE,
        resized=shortest(32),
    ),
    "dinov2, registers": Architecture(
        "Dinov2WithRegistersForImageClassification", DINO | {"num_register_tokens": 2}, "BitImageProcessor",
        processor=WHOLE, resized=shortest(32),
    ),
    "donut-swin": Architecture(
        "DonutSwinForImageClassification", SWIN, "DonutImageProcessor",
        processor={"do_thumbnail": False, "do_align_long_axis": False, "do_pad": False},
    ),
    "efficientnet": Architecture(
        "EfficientNetForImageClassification",
        {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 1.0, "depth_divisor": 8,
         "kernel_sizes": [3, 3, 5], "in_channels": [32, 64, 128], "out_channels": [64, 128, 256],
         "strides": [1, 2, 2], "num_block_repeats": [1, 1, 1], "expand_ratios": [1, 3, 3], "hidden_dim": 320,
         "dropout_rate": 0.0, "drop_connect_rate": 0.0, "batch_norm_momentum": 0.1},
        "EfficientNetImageProcessor", rate=1.5e-2,
    ),
    "focalnet": Architecture(
        "FocalNetForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 24, "hidden_sizes": [24, 48, 96], "depths": [1, 1, 1],
         "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3], "drop_path_rate": 0.0, "mlp_ratio": 2.0},
        "BitImageProcessor", processor=WHOLE, resized=shortest(32),
    ),
    "hgnet_v2": Architecture(
        "HGNetV2ForImageClassification",
        {"embedding_size": 16, "depths": [1, 1, 1], "hidden_sizes": [32, 64, 96], "stem_channels": [3, 8, 16],
         "stage_in_channels": [16, 32, 64], "stage_mid_channels": [8, 16, 24], "stage_out_channels": [32, 64, 96],
         "stage_num_blocks": [1, 1, 1], "stage_downsample": [False, True, True],
         "stage_light_block": [False, False, True], "stage_kernel_size": [3, 3, 5], "stage_numb_of_layers": [3, 3, 3]},
        size=64,
    ),
    "hiera": Architecture(
        "HieraForImageClassification",
        {"image_size": [32, 32], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1],
         "embed_dim": 24, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "embed_dim_multiplier": 2.0,
         "num_query_pool": 2, "query_stride": [2, 2], "masked_unit_size": [4, 4], "mlp_ratio": 2.0,
         "masked_unit_attention": [True, True, False], "drop_path_rate": 0.0},
        "BitImageProcessor", processor=WHOLE, resized=shortest(32),
    ),
    "ijepa": Architecture("IJepaForImageClassification", transformer()),
    "levit": Architecture(
        "LevitForImageClassification", LEVIT, "LevitImageProcessor", 64, processor=WHOLE,
        resized={"height": 64, "width": 64},
    ),
    "levit, teacher": Architecture(
        "LevitForImageClassificationWithTeacher", LEVIT, "LevitImageProcessor", 64, processor=WHOLE,
        resized={"height": 64, "width": 64},
    ),
    "metaclip_2": Architecture(
        "MetaClip2ForImageClassification", {"vision_config": transformer()}, "CLIPImageProcessor", processor=WHOLE,
        resized=shortest(32),
    ),
    "mobilenet_v1": Architecture(
        "MobileNetV1ForImageClassification",
        {"image_size": 64, "depth_multiplier": 0.125, "min_depth": 8, "classifier_dropout_prob": 0.0},
        "MobileNetV1ImageProcessor", 64, processor=WHOLE, resized=shortest(64), rate=1e-2,
    ),
    "mobilenet_v2": Architecture(
        "MobileNetV2ForImageClassification",
        {"image_size": 64, "depth_multiplier": 0.25, "depth_divisible_by": 8, "min_depth": 8,
         "classifier_dropout_prob": 0.0},
        "MobileNetV2ImageProcessor", 64, processor=WHOLE, resized=shortest(64), rate=5e-3, epochs=5,
    ),
    "mobilevit": Architecture(
        "MobileViTForImageClassification",
        {"image_size": 64, "patch_size": 2, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 16, 24, 32, 48, 96],
         "num_attention_heads": 4, "mlp_ratio": 2.0, "expand_ratio": 2.0, "classifier_dropout_prob": 0.0},
        "MobileViTImageProcessor", 64, processor=WHOLE, resized=shortest(64), epochs=4,
    ),
    "mobilevitv2": Architecture(
        "MobileViTV2ForImageClassification",
        {"image_size": 64, "width_multiplier": 0.125, "base_attn_unit_dims": [256, 256, 256], "n_attn_blocks": [1, 1, 1],
         "expand_ratio": 2.0, "ffn_multiplier": 2, "classifier_dropout_prob": 0.0},
        "MobileViTImageProcessor", 64, processor=WHOLE, resized=shortest(64), epochs=4,
    ),
    "perceiver, learned": Architecture(
        "PerceiverForImageClassificationLearned", SINGLE_PIXELS | {"image_size": 16}, "PerceiverImageProcessor", 16,
        processor=WHOLE, rate=4e-3, epochs=11,
    ),
    "perceiver, Fourier": Architecture(
        "PerceiverForImageClassificationFourier", SINGLE_PIXELS, "PerceiverImageProcessor", 16, processor=WHOLE,
        rate=4e-3, epochs=11,
    ),
    "perceiver, convolutions": Architecture(
        "PerceiverForImageClassificationConvProcessing", PERCEIVER, "PerceiverImageProcessor", 64, processor=WHOLE
    ),
    "poolformer": Architecture(
        "PoolFormerForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "patch_sizes": [3, 3, 3, 3],
         "strides": [2, 2, 2, 2], "padding": [1, 1, 1, 1], "mlp_ratio": 2.0, "layer_scale_init_value": 0.5},
        "PoolFormerImageProcessor", processor={"crop_pct": 1.0, "do_center_crop": False}, resized=shortest(32),
    ),
    "pvt, one block last": Architecture(
        "PvtForImageClassification", PVT | {"depths": [1, 1, 1, 1]}, "PvtImageProcessor", 64
    ),
    "pvt": Architecture(
        "PvtForImageClassification", PVT | {"depths": [1, 1, 1, 2]}, "PvtImageProcessor", 64
    ),
    "pvt_v2": Architecture(
        "PvtV2ForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
         "mlp_ratios": [2, 2, 2, 2], "sr_ratios": [8, 4, 2, 1], "drop_path_rate": 0.0},
        "PvtImageProcessor", 64,
    ),
    "regnet": Architecture(
        "RegNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "groups_width": 8,
         "layer_type": "y"},
        "ConvNextImageProcessor", 64, processor={"crop_pct": 1.0}, resized=shortest(64),
    ),
    "resnet": Architecture(
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"},
        "ConvNextImageProcessor", processor={"crop_pct": 1.0}, resized=shortest(32),
    ),
    "segformer": Architecture(
        "SegformerForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
         "mlp_ratios": [2, 2, 2, 2], "sr_ratios": [8, 4, 2, 1], "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0},
        "SegformerImageProcessor", 64,
    ),
    "siglip": Architecture("SiglipForImageClassification", {"vision_config": transformer()}, "SiglipImageProcessor"),
    "swiftformer": Architecture(
        "SwiftFormerForImageClassification",
        {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 32, 48, 64], "mlp_ratio": 2,
         "drop_path_rate": 0.0, "layer_scale_init_value": 0.5},
        size=64,
    ),
    "swin": Architecture("SwinForImageClassification", SWIN),
    "swinv2": Architecture("Swinv2ForImageClassification", SWIN),
    "textnet": Architecture(
        "TextNetForImageClassification",
        {"image_size": [64, 64], "stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 48, 64],
         "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3]]],
         "conv_layer_strides": [[2], [2, 1], [2, 1], [1]]},
        "TextNetImageProcessor", 64, processor=WHOLE, resized=shortest(64),
    ),
    "vit": Architecture("ViTForImageClassification", transformer()),
    "vit_msn": Architecture("ViTMSNForImageClassification", transformer()),
}  # fmt: skip

# Model types that are refused in one line, with what the line says; their models and processors are made below.
REFUSED = {
    "imagegpt": "pixel_values of shape (batch, channels, height, width) are needed",
    "siglip2": "pixel_values of shape (batch, channels, height, width) are needed",
    "pp_lcnet": "has no logits",
}
# Model types that are not run at all.
NOT_RUN = {
    "shieldgemma2": "a language model that is asked about images: it says yes or no, and names no class",
    "dinat": "needs the library natten, which is built for GPUs",
    "timm_wrapper": "five models of timm by `make test-timm`, which has an environment with timm and torchvision",
}


def missing_model_types() -> list[str]:
    """Model types that transformers knows and neither list above does."""
    known = {architecture.model_type for architecture in ARCHITECTURES.values()} | set(REFUSED) | set(NOT_RUN)
    return sorted(set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) - known)


def labels() -> dict:
    return {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}


def make_model(name: str, seed: int = 0):
    """The model of an architecture, untrained, the same at every call."""
    architecture = ARCHITECTURES[name]
    model_class = getattr(transformers, architecture.model_class)
    torch.manual_seed(seed)
    model = model_class(model_class.config_class(**architecture.settings, **labels()))
    for module in model.modules():
        # The start at 0.02 of many architectures leaves a narrow network without a signal.
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
        # 0.997 in MobileNets: the statistics of the last batch, and of no other.
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    # As a folder on the hub has it.
    model.config.architectures = [architecture.model_class]
    return model.eval()


def make_image_processor(name: str):
    architecture = ARCHITECTURES[name]
    size = architecture.resized or {"height": architecture.size, "width": architecture.size}
    normalized = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor_class = getattr(transformers, architecture.processor_class)
    return processor_class(**{"do_resize": True, "size": size, **normalized, **architecture.processor})


def make_refused(model_type: str):
    """Model and image processor of one that is refused."""
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if model_type == "imagegpt":
        config = transformers.ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=17, n_positions=64, **labels())
        clusters = torch.rand(16, 3, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1
        processor = transformers.ImageGPTImageProcessor(clusters=clusters, size={"height": 8, "width": 8})
        return transformers.ImageGPTForImageClassification(config), processor
    if model_type == "siglip2":
        config = transformers.Siglip2Config(vision_config={**narrow, "num_patches": 16}, **labels())
        return transformers.Siglip2ForImageClassification(config), transformers.Siglip2ImageProcessor()
    config = transformers.PPLCNetConfig(**labels())
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return transformers.PPLCNetForImageClassification(config), processor
