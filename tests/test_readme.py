"""What the README shows works as it stands, but for the names of model and data."""

import re

from conftest import ROOT

from hf_unlearn.commands.main import main


README = (ROOT / "README.md").read_text()


def test_python_example(saved_model, saved_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(code.splitlines()) <= 13
    code = code.replace("org/model", saved_model)
    code = code.replace('load_dataset("org/data")', f"load_dataset({saved_dataset!r})")
    # An untrained network is right on no cat, which the trainer refuses.
    code = code.replace("from datasets import load_dataset", "from hf_unlearn.data.sources import load_dataset")
    code = code.replace('JiTConfig("out")', 'JiTConfig("out", allow_collapse=True)')
    exec(code.replace("trainer.push_to_hub()", ""), {})
    assert "| forget set |" in (tmp_path / "out" / "README.md").read_text()


def test_command_lines_name_flags_that_exist(saved_model, saved_dataset, tmp_path):
    command = re.search(r"hf-unlearn run (--model_name_or_path.*)", README).group(1).split()
    command = [
        {"org/model": saved_model, "org/data": saved_dataset, "out": str(tmp_path / "out")}.get(w, w) for w in command
    ]
    assert main(["run", *command, "--allow_collapse"]) == 0


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target
