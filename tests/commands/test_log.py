"""What a run says while it runs: a line for each stage, JSON for programs, little where it is to be quiet."""

import json
import re

import pytest

from hf_unlearn.commands.main import main


STAGES = ["reading", "original", "update", "guard", "saving", "evaluation", "card", "total"]
STAGE_LINE = re.compile(r"^([a-z]+) +(\d+\.\d) s(?:  (.+))?$", re.MULTILINE)


def test_each_stage_is_one_line_with_its_time(command, capsys):
    assert command("--forget_class", "cat") == 0
    out = capsys.readouterr().out
    lines = STAGE_LINE.findall(out)
    assert [name for name, *_ in lines] == STAGES
    texts = {name: text for name, _, text in lines}
    assert texts["reading"] == "forget 10, retain 20, forget_test 6, retain_test 12"
    assert texts["update"] == "2 updates" and texts["evaluation"] == "original, unlearned"
    assert texts["guard"].startswith("answers elsewhere changed by ")
    seconds = [float(number) for _, number, _ in lines]
    assert sum(seconds[:-1]) <= seconds[-1] + 0.5


def test_no_dictionary_of_the_trainer_is_printed(command, capfd):
    assert command("--forget_class", "cat", "--logging_steps", "1", "--disable_tqdm", "False") == 0
    captured = capfd.readouterr()
    assert "{" not in captured.out and "train_runtime" not in captured.out + captured.err


def test_search_of_the_automatic_step_is_a_stage(command, capsys):
    assert command("--forget_class", "cat", "--step_rule", "auto", "--allow_collapse") == 0
    lines = STAGE_LINE.findall(capsys.readouterr().out)
    assert [name for name, *_ in lines] == [*STAGES[:3], "search", *STAGES[3:]]
    assert "forget set" in {name: text for name, _, text in lines}["search"]


def test_single_images_say_that_no_update_ran(command, capsys):
    assert command("--forget_count", "3", "--step_rule", "auto", "--allow_collapse") == 0
    lines = STAGE_LINE.findall(capsys.readouterr().out)
    assert ("update", "none: single images are forgotten by the search") in [(name, text) for name, _, text in lines]


def test_json_is_all_that_standard_output_gets(command, capfd, tmp_path):
    assert command("--forget_class", "cat", "--json") == 0
    captured = capfd.readouterr()
    *stages, result = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["stage"] for line in stages] == STAGES
    assert all(line["event"] == "stage" and line["seconds"] >= 0 for line in stages)
    assert stages[0]["splits"] == {"forget": 10, "retain": 20, "forget_test": 6, "retain_test": 12}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert result["event"] == "result" and result["output_dir"] == str(tmp_path / "out")
    assert result["metrics"] == {model: values["metrics"] for model, values in report["results"].items()}
    assert result["change_elsewhere"] == report["run"]["change_elsewhere"]
    # A person reads on.
    assert "Forgetting 10 images" in captured.err


def test_json_without_an_infinite_number(command, capfd, monkeypatch):
    monkeypatch.setattr("hf_unlearn.methods.jit.JiTTrainer.describe_outcome", lambda self: float("inf"))
    assert command("--forget_class", "cat", "--json", "--quiet") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["outcome"] is None


def test_quiet_leaves_the_outcome_and_where_the_files_are(command, capfd, tmp_path):
    flags = ["--forget_class", "cat", "--step_rule", "auto", "--allow_collapse", "--quiet"]
    assert command(*flags) == 0
    outcome, files, salt = capfd.readouterr().out.splitlines()
    assert "accuracy on the forget set" in outcome
    assert files == f"Model, card, report, record and pictures are in {tmp_path / 'out'}."
    assert salt.startswith(f"Keep {tmp_path / 'out' / 'unlearning_salt'}: ")


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_errors_are_said_all_the_same(command, capsys, flag):
    assert command("--forget_class", "cow", flag) == 2
    captured = capsys.readouterr()
    assert "--forget_class: unknown class 'cow'" in captured.err and captured.out == ""


def test_a_command_after_a_quiet_one_speaks_again(command, capsys):
    assert command("--forget_class", "cat", "--quiet") == 0
    capsys.readouterr()
    assert command("--forget_class", "cat", "--overwrite") == 0
    assert len(STAGE_LINE.findall(capsys.readouterr().out)) == len(STAGES)


def test_rounds_of_rebuild_are_told(command, capsys):
    flags = ["--method", "rebuild", "--forget_class", "cat", "--num_updates", "2", "--allow_collapse"]
    assert command(*flags, "--max_accuracy_lost", "1e-9", jit_flags=False) == 0
    lines = STAGE_LINE.findall(capsys.readouterr().out)
    assert [name for name, *_ in lines].count("judging") == 4
    assert "preparing" in [name for name, *_ in lines]


def test_requests_that_follow_each_other_are_told_apart(saved_model, saved_dataset, tmp_path, capfd):
    for number, name in enumerate(("cat", "dog"), start=1):
        (tmp_path / f"{number}.yaml").write_text(f"id: R-{number}\nclasses: [{name}]\n")
    flags = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label"]
    flags += [
        "--forget_request",
        str(tmp_path / "1.yaml"),
        str(tmp_path / "2.yaml"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--json"]
    assert main(["run", *flags]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["number"], line["of"], line["id"]) for line in requests] == [(1, 2, "R-1"), (2, 2, "R-2")]
    assert [line["stage"] for line in lines if line["event"] == "stage"] == [*STAGES[:-1], *STAGES[:-1], "total"]
