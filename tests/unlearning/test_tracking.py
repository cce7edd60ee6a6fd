"""What trackers (`--report_to`) get of a run, without a network: the search, the guard, the student and its teacher."""

import importlib

import pytest
from conftest import make_model

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.methods.rebuild import RebuildTrainer
from hf_unlearn.methods.rebuild_config import RebuildConfig


GUARD = {"change_elsewhere", "change_limit", "distance_moved"}
SEARCH = {"search_length", "search_accuracy", "forget_target", "step_length", "forget_accuracy", "distance_limit"}
STUDENT = {"loss", "agreement", "kl_to_teacher", "accuracy_lost", "change_elsewhere", "distance_moved"}


def of_tensorboard(tmp_path):
    """Every scalar of the one run in a folder: by name, its values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (tmp_path / "out" / "runs").rglob("events.out.*")
    events = EventAccumulator(str(file)).Reload()
    names = events.Tags()["scalars"]
    return {name.removeprefix("train/"): [event.value for event in events.Scalars(name)] for name in names}


def of_trackio(tmp_path):
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("huggingface")
    found = {}
    for line in SQLiteStorage.get_logs("huggingface", run):
        for name, value in line.items():
            found.setdefault(name.removeprefix("train/"), []).append(value)
    return found


@pytest.fixture(params=["tensorboard", "trackio"])
def tracked(request, dataset, image_processor, tmp_path, monkeypatch):
    """`tracked(trainer_class, config_class, **settings)` trains on cats, and returns the trainer and what was logged."""
    # Where trackio keeps its runs, which it reads when it is imported.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tracker = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "trackio":
        for name in ("utils", "sqlite_storage"):
            monkeypatch.setattr(importlib.import_module(f"trackio.{name}"), "TRACKIO_DIR", tmp_path / "trackio")
    assert tracker is not None

    def call(trainer_class, config_class, **settings):
        forget = dataset["train"].filter(lambda row: row["label"] == 0)
        args = config_class(
            str(tmp_path / "out"), forget_kind="class", report_to=request.param, allow_collapse=True, **settings
        )
        trainer = trainer_class(
            model=make_model("resnet"),
            args=args,
            processing_class=image_processor,
            forget_dataset=forget,
            label_column="label",
        )
        trainer.train()
        return trainer, of_tensorboard(tmp_path) if request.param == "tensorboard" else of_trackio(tmp_path)

    return call


def test_search_and_guard_are_in_the_log_of_one_run(tracked):
    trainer, logged = tracked(JiTTrainer, JiTConfig, moving_weights="last_stage")
    assert SEARCH | GUARD <= set(logged)
    assert logged["change_elsewhere"] == [pytest.approx(trainer.change)]
    assert logged["step_length"] == [pytest.approx(trainer.step.length)]
    # One value for each length that was tried.
    assert len(logged["search_length"]) == len(logged["search_accuracy"]) == trainer.step.evaluations > 0
    # The step that was taken is among them.
    pairs = zip(logged["search_length"], logged["search_accuracy"], strict=True)
    assert (pytest.approx(trainer.step.length), pytest.approx(trainer.step.accuracy)) in list(pairs)


def test_student_is_logged_against_its_teacher(tracked):
    trainer, logged = tracked(
        RebuildTrainer, RebuildConfig, num_updates=2, max_accuracy_lost=1e-9, logging_steps=2, use_cpu=True
    )
    assert set(logged) >= STUDENT
    # Once a round.
    assert len(logged["accuracy_lost"]) == 4 and logged["accuracy_lost"][-1] == pytest.approx(trainer.accuracy_lost)
    assert len(logged["agreement"]) == 4 and all(0 <= share <= 1 for share in logged["agreement"])
    assert all(divergence > 0 for divergence in logged["kl_to_teacher"])
