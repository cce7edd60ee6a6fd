"""Models stored in 16 bits work in float32 and are saved as they were stored."""

import copy
import json

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, evaluate_unlearning, split_dataset
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record
from hf_unlearn.publication.report import weights_sha256
from hf_unlearn.unlearning.precision import in_float32


HALVES = [torch.float16, torch.bfloat16]


def saved(dtype: torch.dtype, folder, image_processor) -> str:
    make_model("resnet").to(dtype).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return str(folder)


def unlearn(name: str, dataset, image_processor, out, **settings):
    """The lines of the README."""
    model = AutoModelForImageClassification.from_pretrained(name)
    splits = split_dataset(dataset["train"], ForgetRequest(classes=["cat"]), label_column="label")
    config = {"step_rule": "fixed", "learning_rate": 1e-3, "allow_collapse": True, "disable_tqdm": True, **settings}
    trainer = JiTTrainer(
        model, JiTConfig(str(out), **config), processing_class=image_processor, forget_dataset=splits["forget"]
    )
    trainer.train()
    report = evaluate_unlearning(model, splits, image_processor, AutoModelForImageClassification.from_pretrained(name))
    trainer.save_report(report)
    return trainer


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_keep_their_type(dtype, dataset, image_processor, tmp_path):
    name, out = saved(dtype, tmp_path / "model", image_processor), tmp_path / "out"
    trainer = unlearn(name, dataset, image_processor, out)
    weights, original = load_file(out / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert {name: w.dtype for name, w in weights.items()} == {name: w.dtype for name, w in original.items()}
    assert (out / "model.safetensors").stat().st_size == (tmp_path / "model" / "model.safetensors").stat().st_size
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    # What was measured is what was saved, and the record has the hashes of the files.
    again = AutoModelForImageClassification.from_pretrained(out)
    assert again.dtype == dtype and trainer.model.dtype == torch.float32
    for name_, weight in again.state_dict().items():
        assert torch.equal(weight.float(), trainer.model.state_dict()[name_].float()), name_
    record = read_record(out / "unlearning_record.json")
    assert record["weights"]["sha256_after"] == weights_sha256(again.state_dict())
    before = AutoModelForImageClassification.from_pretrained(name)
    assert record["weights"]["sha256_before"] == weights_sha256(before.state_dict())
    assert record["weights"]["sha256_before"] != record["weights"]["sha256_after"]


@pytest.mark.parametrize("dtype", HALVES)
def test_batch_norm_stays_bit_for_bit(dtype, dataset, image_processor, tmp_path):
    name = saved(dtype, tmp_path / "model", image_processor)
    unlearn(name, dataset, image_processor, tmp_path / "out")
    weights, original = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "model"))
    statistics = [name for name in weights if "running" in name]
    assert statistics and all(torch.equal(weights[name], original[name]) for name in statistics)


def test_where_rounding_brings_the_images_back_float32_is_kept_and_said(
    dataset, image_processor, tmp_path, monkeypatch, capsys
):
    """The accuracy is made to differ: after rounding, all of the forget set is right again."""
    accuracies = iter([0.1, 1.0])
    monkeypatch.setattr(JiTTrainer, "forget_accuracy", lambda self, change=None: next(accuracies))
    name, out = saved(torch.bfloat16, tmp_path / "model", image_processor), tmp_path / "out"
    trainer = unlearn(name, dataset, image_processor, out)
    assert (
        "is saved in float32: accuracy on the forget set is 100.0 % after rounding and 10.0 % before"
        in capsys.readouterr().out
    )
    weights = load_file(out / "model.safetensors")
    assert {weight.dtype for name, weight in weights.items() if weight.is_floating_point()} == {torch.float32}
    again = AutoModelForImageClassification.from_pretrained(out)
    assert again.dtype == torch.float32
    assert read_record(out / "unlearning_record.json")["weights"]["sha256_after"] == weights_sha256(again.state_dict())
    trained = trainer.model.classifier[1].weight
    assert not torch.equal(trained, trained.bfloat16().float())


def test_command_keeps_the_type_and_says_so(saved_dataset, image_processor, tmp_path, capsys):
    name, out = saved(torch.bfloat16, tmp_path / "model", image_processor), tmp_path / "out"
    flags = ["--model_name_or_path", name, "--dataset_name", saved_dataset, "--forget_class", "cat"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--allow_collapse", "--disable_tqdm", "True"]
    assert main(["run", *flags, "--output_dir", str(out)]) == 0
    assert "The model is saved in bfloat16, as it was stored" in capsys.readouterr().out
    assert AutoModelForImageClassification.from_pretrained(out).dtype == torch.bfloat16
    assert main(["compare", name, str(out), *flags[2:6]]) == 0
    assert main(["record", "verify", str(out)]) == 0


def test_checkpoints_are_not_rounded(dataset, image_processor, tmp_path):
    """A resumed run ends where one without a break does."""
    name = saved(torch.bfloat16, tmp_path / "model", image_processor)
    settings = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}
    unlearn(name, dataset, image_processor, tmp_path / "out", **settings)
    weights = load_file(next((tmp_path / "out").glob("checkpoint-*")) / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}


def test_models_are_float32_meanwhile_and_the_same_afterwards():
    for dtype in HALVES:
        model = make_model("resnet").to(dtype)
        before = copy.deepcopy(model.state_dict())
        with in_float32(model):
            assert model.dtype == torch.float32
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.dtype == dtype
