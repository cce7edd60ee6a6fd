"""What a training shows: a bar that says what remains, lines where there is no terminal, nothing of the Trainer's own."""

import io
import sys

import pytest
from conftest import make_model
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import CollapsedModelError
from hf_unlearn.terminal import Stage, printing, progress, say
from hf_unlearn.unlearning import progress as module


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trainer_of(dataset, image_processor, tmp_path, **settings):
    settings = {"step_rule": "fixed", "learning_rate": 1e-4, "per_device_train_batch_size": 2} | settings
    forget = dataset["train"].filter(lambda row: row["label"] == 0)
    args = JiTConfig(str(tmp_path), forget_kind="class", label_names=["labels"], **settings)
    return JiTTrainer(
        model=make_model("resnet"),
        args=args,
        processing_class=image_processor,
        forget_dataset=forget,
        eval_dataset=forget,
        label_column="label",
    )


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_no_callback_prints_dictionaries(dataset, image_processor, tmp_path, disable_tqdm):
    trainer = trainer_of(dataset, image_processor, tmp_path, disable_tqdm=disable_tqdm)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert PrinterCallback not in kinds and ProgressCallback not in kinds


def test_bar_says_what_remains_and_the_last_loss(dataset, image_processor, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)

    def often(*args, make=module.progress, **kwargs):
        bar = make(*args, **kwargs)
        # However fast the updates are.
        bar.mininterval, bar.miniters = 0, 0
        return bar

    monkeypatch.setattr(module, "progress", often)
    trainer = trainer_of(dataset, image_processor, tmp_path, logging_steps=1)
    trainer.train()
    shown = sys.stderr.getvalue()
    assert "update:" in shown and "/5 [" in shown and "loss " in shown


def test_without_a_terminal_a_line_says_now_and_then_how_far_it_is(
    dataset, image_processor, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    trainer_of(dataset, image_processor, tmp_path).train()
    lines = [line.split("s  ")[1] for line in capsys.readouterr().out.splitlines() if " of 5" in line]
    assert [line.split(",")[:2] for line in lines][1:] == [[f"{n} updates", f" {n} of 5"] for n in range(1, 6)]


def test_bar_is_gone_when_the_training_ends_in_an_error(dataset, image_processor, tmp_path):
    class Fail(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyboardInterrupt

    trainer = trainer_of(dataset, image_processor, tmp_path)
    trainer.add_callback(Fail())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.progress.bar is None


def test_measurements_during_training_are_a_line(dataset, image_processor, tmp_path, capsys):
    trainer = trainer_of(dataset, image_processor, tmp_path, eval_strategy="epoch")
    trainer.train()
    assert "Update 5: eval_loss " in capsys.readouterr().out


def test_trackers_hear_of_the_guard_and_close_also_if_the_model_is_destroyed(dataset, image_processor, tmp_path):
    heard = []

    class Tracker(TrainerCallback):
        def on_log(self, *args, logs=None, **kwargs):
            heard.extend(logs)

        def on_train_end(self, *args, **kwargs):
            heard.append("end")

    trainer = trainer_of(dataset, image_processor, tmp_path, learning_rate=1e6)
    trainer.add_callback(Tracker())
    with pytest.raises(CollapsedModelError):
        trainer.train()
    assert heard.index("change_elsewhere") < heard.index("end") and heard[-1] == "end"


def test_quiet_trainings_print_nothing(dataset, image_processor, tmp_path, capfd):
    trainer = trainer_of(dataset, image_processor, tmp_path)
    with printing(quiet=True):
        trainer.train()
    assert capfd.readouterr().out == ""


def test_lines_in_a_terminal_break_between_words(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "50")
    stage = Stage("search")
    stage.start -= 12.34
    stage.end("6 trials, step 2.4 %, forget set 100.0 → 0.0 %")
    say("Keep out/a-folder/unlearning_salt: with it the record tells whether an image was forgotten.")
    lines = sys.stdout.getvalue().splitlines()
    assert lines[:2] == ["search         12.3 s  6 trials, step 2.4 %,", " " * 23 + "forget set 100.0 → 0.0 %"]
    assert "out/a-folder/unlearning_salt:" in " ".join(lines).split() and max(map(len, lines)) <= 50


def test_bar_gives_way_to_a_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    with progress("update", total=2) as bar:
        bar.update()
        say("A line.")
    assert any(part.startswith("A line.\n") for part in screen.getvalue().split("\r"))
