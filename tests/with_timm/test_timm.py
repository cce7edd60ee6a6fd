"""Models of timm, through transformers' wrapper: from the form they have on the hub back to both libraries."""

import json

import datasets
import pytest
import torch
from conftest import CLASSES, make_split
from huggingface_hub import ModelCard
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperForImageClassification,
    TrainingArguments,
    set_seed,
)

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, UnlearningReport, evaluate_unlearning, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.evaluation.train_classifier import train_classifier


timm = pytest.importorskip("timm", reason="timm is not installed: `make test-timm` has an environment with it")

ARCHITECTURES = ["resnet10t", "test_vit", "test_efficientnet", "convnext_atto", "mobilenetv3_small_050"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def hub_folder(request, tmp_path_factory) -> str:
    """A trained model as timm itself writes it: weights and a configuration without `architectures`."""
    set_seed(0)
    raw = tmp_path_factory.mktemp("timm") / request.param
    settings = {"img_size": 32} if "vit" in request.param else {}
    model = timm.create_model(request.param, num_classes=3, **settings)
    timm.models.save_for_hf(model, raw, safe_serialization=True)
    config = json.loads((raw / "config.json").read_text())
    config["label_names"] = CLASSES
    config["pretrained_cfg"] |= {"input_size": [3, 32, 32], "test_input_size": [3, 32, 32], "crop_pct": 1.0}
    if settings:
        config["model_args"] = settings
    else:
        config.pop("model_args", None)
    (raw / "config.json").write_text(json.dumps(config))

    wrapped, processor = AutoModelForImageClassification.from_pretrained(raw), AutoImageProcessor.from_pretrained(raw)
    args = TrainingArguments(
        str(raw) + "-trained", num_train_epochs=30, per_device_train_batch_size=10, learning_rate=2e-3,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, use_cpu=True,
        report_to="none",
    )  # fmt: skip
    train_classifier(wrapped, processor, make_split(60, seed=0), args, label_column="label")
    # The trained weights in timm's own form.
    timm.models.save_for_hf(wrapped.timm_model, raw, safe_serialization=True)
    (raw / "config.json").write_text(json.dumps(config))
    return str(raw)


@pytest.fixture(scope="module")
def saved_data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data") / "animals"
    datasets.DatasetDict(train=make_split(60, seed=0), test=make_split(30, seed=1)).save_to_disk(str(folder))
    return str(folder)


def test_configuration_of_the_hub_names_no_architecture(hub_folder):
    model = AutoModelForImageClassification.from_pretrained(hub_folder)
    assert isinstance(model, TimmWrapperForImageClassification) and model.config.architectures is None


@pytest.mark.parametrize("request_", [ForgetRequest(classes=["cat"]), ForgetRequest(column="breed", values=["tabby"]),
                                      ForgetRequest(count=6)], ids=["class", "subclass", "images"])  # fmt: skip
def test_python_and_command_forget_alike(request_, hub_folder, saved_data, tmp_path):
    dataset = datasets.load_from_disk(saved_data)
    model = AutoModelForImageClassification.from_pretrained(hub_folder)
    image_processor = AutoImageProcessor.from_pretrained(hub_folder)
    splits = split_dataset(dataset["train"], request_, test_dataset=dataset["test"], label_column="label")
    config = JiTConfig(str(tmp_path / "python" / "out"), disable_tqdm=True, allow_collapse=True)
    trainer = JiTTrainer(model, config, processing_class=image_processor, forget_dataset=splits["forget"])
    trainer.train()
    original = AutoModelForImageClassification.from_pretrained(hub_folder)
    trainer.save_report(evaluate_unlearning(model, splits, image_processor, original_model=original))

    request_.to_file(tmp_path / "request.yaml")
    out = tmp_path / "command" / "out"
    flags = ["--model_name_or_path", hub_folder, "--dataset_name", saved_data, "--output_dir", str(out)]
    flags += ["--forget_request", str(tmp_path / "request.yaml"), "--disable_tqdm", "True", "--allow_collapse"]
    assert main(["run", *flags]) == 0
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "python" / "out" / name).read_bytes(), name
    reports = [UnlearningReport.from_json(folder / "report.json") for folder in (out, tmp_path / "python" / "out")]
    assert reports[0].results == reports[1].results
    if request_.kind == "classes":
        assert reports[0].results["unlearned"]["metrics"]["forget_accuracy"] <= 0.1
    assert main(["record", "verify", str(out)]) == 0

    # The folder loads in both libraries, and its card says whose it is.
    pixel_values = torch.randn(2, 3, 32, 32)
    again = AutoModelForImageClassification.from_pretrained(out).eval()
    own = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        logits = again(pixel_values=pixel_values).logits
        torch.testing.assert_close(logits, model.eval()(pixel_values=pixel_values).logits)
        torch.testing.assert_close(own(pixel_values), logits)
    assert ModelCard.load(out / "README.md").data.library_name == "timm"
    assert again.config.id2label == dict(enumerate(CLASSES))
