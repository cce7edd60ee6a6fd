"""`hf-unlearn verify`: its table, its files, and one line for what it cannot use."""

import json
from pathlib import Path

import pytest
from conftest import make_model

from hf_unlearn.commands.main import main


pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture
def command(saved_model, saved_dataset):
    def call(*flags, models=(saved_model, saved_model)):
        data = ["--dataset_name", saved_dataset, "--label_column_name", "label", "--forget_class", "cat"]
        return main(["verify", *models, *data, *flags])

    return call


def test_command_prints_the_table_and_writes_the_files(command, saved_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    files = ["--report_file", str(tmp_path / "report.json"), "--figure_file", str(tmp_path / "curves.png")]
    assert command("--retrained", saved_model, saved_model, *files) == 0
    output, errors = capsys.readouterr()
    assert "linear probe" in output and "retrained 2" in output and "No measure tells" in " ".join(output.split())
    assert output.splitlines()[-1].startswith("Verdict: none; no measure tells the original and the controls")
    # The progress bar is for terminals alone.
    assert "re-learning, 1 per class" not in errors
    assert (tmp_path / "curves.png").is_file()
    assert json.loads((tmp_path / "report.json").read_text())["images"]["measured, forget_test"] == 6


def test_command_refuses_other_labels_and_lost_folders(command, saved_model, tmp_path, capsys):
    model = make_model("resnet")
    model.config.id2label = {0: "cat", 1: "dog", 2: "fox"}
    model.config.label2id = {"cat": 0, "dog": 1, "fox": 2}
    model.save_pretrained(tmp_path / "other")
    processor = Path(saved_model) / "preprocessor_config.json"
    (tmp_path / "other" / "preprocessor_config.json").write_bytes(processor.read_bytes())
    assert command(models=(saved_model, str(tmp_path / "other"))) == 2
    assert "has other labels than" in capsys.readouterr().err
    assert command("--report_file", str(tmp_path / "no" / "report.json")) == 2
    assert "--report_file: there is no folder" in capsys.readouterr().err
    assert command("--max_images", "0") == 2
    assert "--max_images: must be at least 1, got 0." in capsys.readouterr().err
