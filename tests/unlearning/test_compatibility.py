"""What does not fit is refused in one line, early, in Python and on the command line; nothing is written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_split
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from transformers import (
    ImageGPTConfig,
    ImageGPTForImageClassification,
    ImageGPTImageProcessor,
    PPLCNetConfig,
    PPLCNetForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2ImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, evaluate_unlearning, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.errors import InputError
from hf_unlearn.unlearning.compatibility import check_model


LABELS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}


def vit(**settings):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=4, **settings))


def image_gpt():
    config = ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=17, n_positions=64, **LABELS)
    clusters = np.random.default_rng(0).uniform(-1, 1, (16, 3))
    processor = ImageGPTImageProcessor(clusters=clusters, size={"height": 8, "width": 8})
    return ImageGPTForImageClassification(config), processor


def siglip2():
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Siglip2Config(vision_config={**vision, "num_patches": 16}, **LABELS)
    return Siglip2ForImageClassification(config), Siglip2ImageProcessor()


def processor():
    return ViTImageProcessor(size={"height": 16, "width": 16})


# Name of the case: what makes model and image processor, and the message.
MODELS = {
    "multi-label": (
        lambda: (vit(problem_type="multi_label_classification", **LABELS), processor()),
        "is a multi-label model; one class per image is needed.",
    ),
    "regression": (
        lambda: (vit(problem_type="regression", **LABELS), processor()),
        r"is a regression model \(one output\); a class per image is needed.",
    ),
    "one label": (
        lambda: (vit(num_labels=1), processor()),
        r"is a regression model \(one output\); a class per image is needed.",
    ),
    "no pixel_values": (
        image_gpt,
        r"makes input_ids of shape \[1, 64\]; pixel_values of shape \(batch, channels, height, width\) are needed.",
    ),
    "patches": (siglip2, r"makes pixel_values of shape \[1, 256, 768\], pixel_attention_mask of shape \[1, 256\]"),
    "no logits": (
        lambda: (PPLCNetForImageClassification(PPLCNetConfig(**LABELS)), processor()),
        "the output of PPLCNetForImageClassification has no logits, only last_hidden_state.",
    ),
    "wrong size": (
        lambda: (vit(**LABELS), ViTImageProcessor(size={"height": 20, "width": 20})),
        r"ViTForImageClassification cannot pass pixel_values of shape \[1, 3, 20, 20\]: Input image size",
    ),
}


@pytest.fixture
def refused(capsys, tmp_path):
    """`refused(message, *argv)`: exit code 2, one line that ends the output, no output folder."""

    def call(message: str, *argv: str) -> None:
        out = tmp_path / "out"
        assert main([*argv, *(["--output_dir", str(out)] if argv[0] == "run" else [])]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert re.search(message, error.strip().splitlines()[-1]), error
        assert not out.exists()

    return call


@pytest.mark.parametrize("name", MODELS)
def test_model_or_processor_that_does_not_fit_is_refused_in_python(name, tmp_path):
    make, message = MODELS[name]
    model, image_processor = make()
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message):
        JiTTrainer(model, JiTConfig(str(out)), processing_class=image_processor, forget_dataset=make_split(3, 0))
    assert not out.exists()


@pytest.mark.parametrize("name", MODELS)
def test_model_or_processor_that_does_not_fit_is_refused_by_the_command(name, refused, saved_dataset, tmp_path):
    make, message = MODELS[name]
    model, image_processor = make()
    model.save_pretrained(tmp_path / "model")
    image_processor.save_pretrained(tmp_path / "model")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    refused(message, "run", *flags)
    if name in ("wrong size", "no logits"):
        # Comparing needs no trainer: the models run all the same.
        return
    refused(message, "compare", str(tmp_path / "model"), str(tmp_path / "model"), *flags[2:])


@pytest.mark.parametrize(
    ("quantization", "library"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
    ],
)
def test_missing_library_is_named(quantization, library, refused, saved_model, saved_dataset, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(saved_model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    flags = ["--model_name_or_path", str(folder), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    refused(f"needs a library that is not installed. Install it: pip install {library}", "run", *flags)


def test_timm_without_its_library_is_named(refused, saved_model, saved_dataset, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(saved_model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 16, 16]}}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "timm_wrapper"}))
    flags = ["--model_name_or_path", str(folder), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    refused("needs a library that is not installed. Install it: pip install timm .or .hf-unlearn.timm", "run", *flags)


def test_quantized_model_is_refused():
    model = make_model("resnet")
    model.is_quantized = True
    with pytest.raises(InputError, match="has quantized weights .*, which cannot move"):
        check_model("model", model)


def test_missing_image_processor_names_the_flag_that_helps(refused, saved_dataset, tmp_path):
    make_model("resnet").save_pretrained(tmp_path / "model")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    refused("no image processor found: .* likewise with --image_processor_name", "run", *flags)
    with pytest.raises(InputError, match="processing_class: is missing: the forget set has raw images"):
        JiTTrainer(make_model("resnet"), JiTConfig(str(tmp_path / "out")), forget_dataset=make_split(3, 0))


# ---- Datasets ----


def test_data_with_several_labels_or_numbers_is_refused(refused, saved_model, tmp_path):
    images = make_split(6, seed=0).select_columns(["image"])
    several = images.add_column("label", [[0, 1]] * 6)
    decimal = images.add_column("label", [0.5] * 6)
    for split, message in ((several, "holds lists of labels"), (decimal, "holds decimal numbers")):
        split.save_to_disk(str(tmp_path / message))
        flags = ["--model_name_or_path", saved_model, "--dataset_name", str(tmp_path / message), "--forget_count", "2"]
        refused(f"--label_column_name: column 'label' {message}", "run", *flags)
        forget, retain = split.select(range(2)), split.select(range(2, 6))
        with pytest.raises(InputError, match=message):
            JiTTrainer(
                make_model("resnet"),
                JiTConfig(str(tmp_path / "out")),
                processing_class=processor(),
                forget_dataset=forget,
            )
        with pytest.raises(InputError, match=message):
            evaluate_unlearning(make_model("resnet"), DatasetDict(forget=forget, retain=retain), processor())
    assert not (tmp_path / "out").exists()


def test_sequence_feature_is_refused_like_a_list(tmp_path):
    features = Features(image=Image(), label=Sequence(Value("int64")))
    images = make_split(2, seed=0)["image"]
    split = Dataset.from_dict({"image": list(images), "label": [[0], [1]]}, features=features)
    with pytest.raises(InputError, match="holds lists of labels"):
        evaluate_unlearning(make_model("resnet"), DatasetDict(forget=split), processor())


@pytest.mark.parametrize("argument", ["forget_dataset", "retain_dataset", "eval_dataset"])
def test_dataset_without_row_numbers_is_refused(argument, tmp_path):
    split = make_split(6, seed=0)
    given = {"forget_dataset": split, argument: split.to_iterable_dataset()}
    with pytest.raises(InputError, match=f"{argument}: is an iterable dataset, whose rows have no numbers"):
        JiTTrainer(make_model("resnet"), JiTConfig(str(tmp_path / "out")), processing_class=processor(), **given)
    assert not (tmp_path / "out").exists()


def test_iterable_dataset_cannot_be_measured():
    stream = make_split(6, seed=0).to_iterable_dataset()
    with pytest.raises(InputError, match="is an iterable dataset"):
        evaluate_unlearning(make_model("resnet"), {"forget": stream}, processor())


def test_several_splits_in_place_of_one_are_refused(dataset, tmp_path):
    message = "has several splits; name one of them: train, test"
    with pytest.raises(InputError, match=f"dataset: {message}"):
        split_dataset(dataset, ForgetRequest(classes=["cat"]))
    with pytest.raises(InputError, match=f"forget_dataset: {message}"):
        JiTTrainer(
            make_model("resnet"),
            JiTConfig(str(tmp_path / "out")),
            processing_class=processor(),
            forget_dataset=dataset,
        )
    with pytest.raises(InputError, match=message):
        evaluate_unlearning(make_model("resnet"), {"forget": dataset}, processor())


def test_tensors_of_a_wrong_shape_are_refused(tmp_path):
    flat = [{"pixel_values": torch.zeros(16, 16)}]
    with pytest.raises(
        InputError, match=r"has pixel_values of shape \[16, 16\]; \(channels, height, width\) is needed"
    ):
        JiTTrainer(make_model("resnet"), JiTConfig(str(tmp_path), noise_clamp="none"), forget_dataset=flat)
