"""Runs that are killed, resumed, or find the disk full."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.unlearning.publishing import move_model


SETTINGS = {
    "preset": "as_released",  # momentum and active dropout: more state than plain SGD carries
    "learning_rate": 1e-4,
    "num_perturbations": 2,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "disable_tqdm": True,
    "allow_collapse": True,
}


def flags(model, dataset, out, *more):
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return [
        "-m", "hf_unlearn.commands.main", "run", "--model_name_or_path", model, "--dataset_name", dataset, "--label_column_name",
        "label", "--forget_class", "cat", "--output_dir", str(out), *settings, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A ViT with dropout and its image processor."""
    folder = tmp_path_factory.mktemp("hub") / "vit"
    make_model("vit", hidden_dropout_prob=0.2).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def uninterrupted(vit_folder, saved_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run([sys.executable, *flags(vit_folder, saved_dataset, out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(out / "model.safetensors")


def looks_finished(folder) -> bool:
    """Whether transformers would load a model from here."""
    return (folder / "config.json").exists()


def assert_same_weights(weights, expected) -> None:
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, weights[name]), name


# More kills take minutes: KILLS=20 python -m pytest tests/unlearning/test_interruption.py -k killed
@pytest.mark.parametrize("attempt", range(int(os.environ.get("KILLS", "3"))))
def test_killed_run_resumes_to_the_same_bits(attempt, vit_folder, saved_dataset, uninterrupted, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, *flags(vit_folder, saved_dataset, out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    step = random.Random(attempt).randrange(1, 10)
    while process.poll() is None and not (out / f"checkpoint-{step}").exists():
        time.sleep(0.002)
    # Anywhere within the next step, in the middle of writing its checkpoint included.
    time.sleep(random.Random(attempt).uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if looks_finished(out):
        # Only after the last update, while the saved model was being measured: then it is whole.
        assert (out / "checkpoint-10").exists()
        assert_same_weights(load_file(out / "model.safetensors"), uninterrupted)
    resumed = subprocess.run([*command, "--resume_from_checkpoint", "True"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from" in resumed.stdout
    assert_same_weights(load_file(out / "model.safetensors"), uninterrupted)


@pytest.mark.parametrize("rule", ["as_released", "auto"])
def test_resume_from_every_checkpoint_gives_the_same_bits(rule, dataset, tmp_path):
    """The last one included, after which no batch is left; the automatic step keeps its gradient in the checkpoint."""
    forget_set = dataset["train"].filter(lambda label: label == 0, input_columns=["label"]).select_columns(["image"])
    settings = {**SETTINGS, "save_total_limit": None}
    if rule == "auto":
        settings = {**settings, "preset": None, "forget_kind": "images", "forget_target": 0.5}

    def train(checkpoint=None):
        model = make_model("vit", hidden_dropout_prob=0.2)
        trainer = JiTTrainer(
            model=model,
            args=JiTConfig(output_dir=str(tmp_path), **settings),
            processing_class=ViTImageProcessorPil(size={"height": 16, "width": 16}),
            forget_dataset=forget_set,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return model.state_dict(), trainer

    whole, trainer = train()
    updates = trainer.state.global_step
    assert updates == (10 if rule == "as_released" else 5)
    for update in range(1, updates + 1):
        weights, resumed = train(str(tmp_path / f"checkpoint-{update}"))
        assert resumed.change == trainer.change and resumed.step == trainer.step
        for name, value in whole.items():
            assert torch.equal(value, weights[name]), f"{name} from checkpoint {update}"


def test_resume_without_a_checkpoint_starts_from_the_original(
    vit_folder, saved_dataset, uninterrupted, tmp_path, capfd
):
    from hf_unlearn.commands.main import main

    out = tmp_path / "out"
    out.mkdir()
    (out / "incomplete").mkdir()
    assert main(flags(vit_folder, saved_dataset, out, "--resume_from_checkpoint", "True")[2:]) == 0
    assert "No checkpoint yet" in capfd.readouterr().out
    assert_same_weights(load_file(out / "model.safetensors"), uninterrupted)


@pytest.mark.parametrize("limit", [2_000, 20_000])
def test_full_disk_leaves_nothing_that_looks_finished(limit, vit_folder, saved_dataset, tmp_path):
    """Files may not grow past the limit, which fails a write as a full disk does."""
    out = tmp_path / "out"
    words = flags(vit_folder, saved_dataset, out, "--save_strategy", "no")

    def limit_file_size():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, preexec_fn=limit_file_size)
    assert done.returncode == 1, done.stderr
    assert "the model could not be written" in done.stderr.strip().splitlines()[-1]
    assert not looks_finished(out) and not list(out.glob("checkpoint-*"))


def test_kill_between_any_two_files_leaves_nothing_that_looks_finished(resnet, tmp_path):
    """`move_model` is stopped after each of its steps, over an old model of another size."""
    old = make_model("convnext")

    class Stop(Exception):
        pass

    finished = 0
    for steps in range(1, 6):
        folder, aside = tmp_path / f"out{steps}", tmp_path / f"out{steps}" / "incomplete"
        old.save_pretrained(folder)
        resnet.save_pretrained(aside)
        done = 0

        def trace(frame, event, argument, limit=steps):
            nonlocal done
            if event == "c_call" and argument.__name__ in ("replace", "unlink", "rename", "rmdir"):
                done += 1
                if done > limit:
                    raise Stop

        sys.setprofile(trace)
        try:
            move_model(aside, folder)
        except Stop:
            pass
        finally:
            sys.setprofile(None)
        if looks_finished(folder):
            finished += 1
            loaded = AutoModelForImageClassification.from_pretrained(folder)
            assert type(loaded) is type(resnet)
            for name, value in resnet.state_dict().items():
                assert torch.equal(value, loaded.state_dict()[name]), name
    assert 0 < finished < 5


def test_same_seed_gives_the_same_bits(saved_dataset, vit_folder, uninterrupted, tmp_path):
    from hf_unlearn.commands.main import main

    assert main(flags(vit_folder, saved_dataset, tmp_path / "out", "--save_strategy", "no")[2:]) == 0
    assert_same_weights(load_file(tmp_path / "out" / "model.safetensors"), uninterrupted)
