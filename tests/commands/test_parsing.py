"""Flags and configuration files: what the help shows, what is understood, and one line for what is not."""

import pytest
import yaml

from hf_unlearn import ForgetRequest, UnlearningReport
from hf_unlearn.commands.main import main
from hf_unlearn.commands.parsing import parse_run_arguments
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.method_names import METHODS


def test_request_file_and_config_file(command, saved_model, saved_dataset, tmp_path):
    ForgetRequest(classes=["dog"]).to_file(tmp_path / "request.yaml")
    config = {
        "forget_request": str(tmp_path / "request.yaml"), "sigma": 0.25, "num_perturbations": 3, "learning_rate": "2e-4"
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    base = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--output_dir", str(tmp_path / "x")]
    *_, settings = parse_run_arguments([*base, "--config", str(tmp_path / "config.yaml"), "--sigma", "0.75"])
    assert settings.sigma == 0.75 and settings.num_perturbations == 3 and settings.learning_rate == 2e-4
    assert command("--config", str(tmp_path / "config.yaml")) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").run["request"]["kind"] == "classes"


def test_help_shows_the_flags_that_matter_once(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    for flag in ("--forget_class", "--sigma", "--step_rule", "--push_to_hub", "--config"):
        assert flag in text
    for flag in ("--forget-class", "--adafactor", "--no_hub_private_repo", "--tpu"):
        assert flag not in text


def test_help_lists_the_methods_in_whole_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  --method "))
    last = next(number for number, line in enumerate(lines) if line.startswith("  --overwrite "))
    assert f"How to unlearn: {', '.join(METHODS)}." in " ".join(" ".join(lines[first:last]).split())
    assert all(len(line) <= 80 for line in lines[first:last])


def test_flag_cut_short_names_the_method_too():
    *_, run_args, settings = parse_run_arguments(["--output_dir", "out", "--meth", "head_only"])
    assert run_args.method == "head_only" and isinstance(settings, load_method("head_only")[0])


def test_wrong_number_is_refused(refused):
    refused("--sigma: must be greater than 0, got 0.0", "--forget_class", "cat", "--sigma", "0")
    refused("--num_perturbations: must be at least 1, got 0", "--forget_class", "cat", "--num_perturbations", "0")


def test_unknown_method_is_refused(refused, tmp_path):
    valid = f"Valid: {', '.join(METHODS)}."
    refused(f"--method: got 'x'. {valid}", "--forget_class", "cat", "--method", "x")
    refused(f"--method: got 'x'. {valid}", "--forget_class", "cat", "--meth", "x")
    path = tmp_path / "config.yaml"
    for text, value in (("x", "'x'"), ("[jit]", "['jit']"), ("", "None")):
        path.write_text(f"method: {text}")
        refused(f"--method: got {value}. {valid}", "--forget_class", "cat", "--config", str(path))


def test_misspelt_flag_is_refused(refused):
    refused("--sigmma: unknown flag. Close: sigma", "--forget_class", "cat", "--sigmma", "1")


def test_wrong_config_file_is_refused(refused, tmp_path):
    refused("--config: there is no file 'no.yaml'", "--config", "no.yaml")
    path = tmp_path / "config.yaml"
    path.write_text("sigmaa: 1")
    refused("has the unknown key 'sigmaa'. Close: sigma", "--config", str(path))
    path.write_text("sigma: [")
    refused("is no YAML", "--config", str(path))
