"""What docs/how_to/tracking.md says is to be seen reaches the tracker, without a network."""

import re

import pytest
from conftest import ROOT, make_model, make_split

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.methods import load_method


# The search for the step and the guard; the student against its teacher.
LOGGED = {
    "jit": {"forget_accuracy", "jit_ratio", "forget_target", "step_length", "distance_moved", "change_elsewhere"},
    "rebuild": {"loss", "agreement", "accuracy_lost", "change_elsewhere"},
}


def run(method: str, folder, image_processor, **settings):
    config_class, trainer_class = load_method(method)
    if method == "rebuild":
        settings |= {"num_updates": 2, "logging_steps": 1}
    config = config_class(str(folder), allow_collapse=True, disable_tqdm=True, **settings)
    forget = split_dataset(make_split(30, seed=0), ForgetRequest(classes=["cat"]), "label")["forget"]
    trainer = trainer_class(
        make_model("resnet"), config, processing_class=image_processor, forget_dataset=forget, label_column="label"
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", LOGGED)
def test_history_holds_what_the_guide_names(method, image_processor, tmp_path):
    trainer = run(method, tmp_path, image_processor, report_to="none")
    names = {name for line in trainer.state.log_history for name in line}
    assert LOGGED[method] <= names
    guide = (ROOT / "docs" / "how_to" / "tracking.md").read_text(encoding="utf-8")
    assert LOGGED[method] <= set(re.findall(r"`(\w+)`", guide))


@pytest.mark.parametrize("method", LOGGED)
def test_tensorboard_has_it(method, image_processor, tmp_path, monkeypatch):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    run(method, tmp_path / "out", image_processor, report_to="tensorboard")
    names = set()
    # What comes after the last update is in a file of its own.
    for file in (tmp_path / "runs").glob("events*"):
        names |= set(reading.EventAccumulator(str(file)).Reload().Tags()["scalars"])
    assert {f"train/{name}" for name in LOGGED[method]} <= names


@pytest.mark.parametrize("method", LOGGED)
def test_trackio_has_it(method, image_processor, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="needs trackio")
    run(method, tmp_path / "out", image_processor, report_to="trackio", project=f"forgetting-{method}", run_name="cat")
    # Written by a thread.
    trackio.finish()
    names = {name for line in trackio.SQLiteStorage.get_logs(f"forgetting-{method}", "cat") for name in line}
    assert {f"train/{name}" for name in LOGGED[method]} <= names
