"""Pushing through the real client of the hub to a double of the hub on loopback, and loading back from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model
from hub_server import TOKEN, HubServer
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_unlearn.commands.main import main


# Runs in a process of its own, for the client reads the address of the hub when it is imported.
ROUND_TRIP = """
import json, sys
import torch
from datasets import load_from_disk
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, split_dataset

folder, data, out, logits = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder)
trainer = JiTTrainer(
    model=model,
    args=JiTConfig(output_dir=out, hub_model_id="tester/unlearned", learning_rate=1e-3, num_perturbations=2,
                   step_rule="fixed", disable_tqdm=True),
    processing_class=AutoImageProcessor.from_pretrained(folder),
    forget_dataset=split_dataset(load_from_disk(data)["train"], ForgetRequest(classes=["cat"]), "label")["forget"],
    label_column="label",
)
trainer.train()
trainer.push_to_hub()
back = AutoModelForImageClassification.from_pretrained("tester/unlearned")
x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
torch.save({"pushed": model(pixel_values=x).logits, "loaded": back(pixel_values=x).logits,
            "buffers": dict(back.named_buffers())}, logits)
assert len(pipeline("image-classification", "tester/unlearned")(Image.new("RGB", (16, 16)))) == 3
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def call(hub, tmp_path, *words, token=TOKEN):
    """Runs a command of a user who is logged in at the double."""
    environment = {**os.environ, **hub.environ(str(tmp_path / "hf_home"), token=token)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=200)


def run_flags(saved_model, saved_dataset, out, *flags):
    return (
        "-m", "hf_unlearn.commands.main", "run", "--model_name_or_path", saved_model, "--dataset_name", saved_dataset,
        "--label_column_name", "label", "--forget_class", "cat", "--output_dir", str(out), "--step_rule", "fixed",
        "--learning_rate", "1e-3", "--push_to_hub", "--hub_model_id", "animals-without-cats", *flags,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["resnet", "vit", "convnext", "mobilenet_v2"])
def test_round_trip(hub, architecture, saved_dataset, tmp_path):
    original = make_model(architecture)
    folder = tmp_path / "original"
    original.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    done = call(
        hub, tmp_path, "-c", ROUND_TRIP, str(folder), saved_dataset, str(tmp_path / "out"), str(tmp_path / "logits.pt")
    )
    assert done.returncode == 0, done.stderr
    result = torch.load(tmp_path / "logits.pt")
    assert torch.equal(result["pushed"], result["loaded"])
    for name, buffer in original.named_buffers():
        assert torch.equal(buffer, result["buffers"][name]), f"{name} moved"
    repo = hub.repos["tester/unlearned"]
    assert repo.private
    pushed = repo.history("main")[-1].files
    assert set(pushed) - {".gitattributes"} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "README.md", "report.json",
        "unlearning_record.json",
        "figures/accuracy.png",
    }  # fmt: skip
    assert "retain test; membership inference;" in pushed["README.md"].decode()
    assert "because no evaluation was run." in pushed["README.md"].decode()


def test_run_pushes_everything_in_one_private_commit(hub, saved_model, saved_dataset, tmp_path):
    done = call(hub, tmp_path, *run_flags(saved_model, saved_dataset, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    repo = hub.repos["tester/animals-without-cats"]
    assert repo.private
    first, push = repo.history("main")
    assert set(push.files) - set(first.files) == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "report.json",
        "unlearning_record.json",
        "figures/accuracy.png", "figures/entropy.png", "figures/class_accuracy.png", "figures/confusion.png",
        "figures/attacks.png",
    }  # fmt: skip
    card = push.files["README.md"].decode()
    assert 'model="tester/animals-without-cats"' in card
    assert TOKEN not in done.stdout + done.stderr + card + push.files["report.json"].decode()


def test_hub_that_fails_midway_leaves_everything_on_disk_and_says_how_to_go_on(
    hub, saved_model, saved_dataset, tmp_path
):
    out = tmp_path / "out"
    hub.fail_next("POST", "/commit/", status=403)
    done = call(hub, tmp_path, *run_flags(saved_model, saved_dataset, out))
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert f"hf-unlearn push {out} --hub_model_id tester/animals-without-cats" in message
    assert "Traceback" not in done.stderr and TOKEN not in done.stderr
    AutoModelForImageClassification.from_pretrained(out)
    assert (out / "README.md").is_file() and json.loads((out / "report.json").read_text())["results"]
    assert len(hub.repos["tester/animals-without-cats"].history("main")) == 1

    again = call(
        hub,
        tmp_path,
        "-m",
        "hf_unlearn.commands.main",
        "push",
        str(out),
        "--hub_model_id",
        "tester/animals-without-cats",
    )
    assert again.returncode == 0, again.stderr
    pushed = hub.repos["tester/animals-without-cats"].history("main")[-1].files
    assert pushed["model.safetensors"] == (out / "model.safetensors").read_bytes()


def test_token_that_the_hub_refuses_is_found_before_the_work(hub, saved_model, saved_dataset, tmp_path):
    done = call(hub, tmp_path, *run_flags(saved_model, saved_dataset, tmp_path / "out"), token="hf_wrong")
    assert done.returncode == 2 and "--push_to_hub: the hub does not accept the token" in done.stderr
    assert "hf_wrong" not in done.stderr and not (tmp_path / "out").exists() and not hub.repos


def test_original_on_the_hub_is_never_overwritten(hub, saved_model, saved_dataset, tmp_path):
    files = {path.name: path.read_bytes() for path in Path(saved_model).iterdir()}
    hub.add_repo("tester/animals", files=files)
    flags = run_flags("tester/animals", saved_dataset, tmp_path / "out", "--hub_model_id", "tester/animals")
    done = call(hub, tmp_path, *flags)
    assert done.returncode == 2 and "--hub_model_id: 'tester/animals' is the original model" in done.stderr
    assert len(hub.repos["tester/animals"].history("main")) == 1


def test_push_without_a_token_is_refused_before_the_work(refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused("--push_to_hub: there is no token", "--forget_class", "cat", "--push_to_hub")


def test_push_of_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["push", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
