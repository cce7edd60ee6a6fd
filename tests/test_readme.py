"""What the README shows works as it stands, but for the names of model and data."""

import re

from conftest import ROOT
from examples import commands_of, python_of, run_python

from hf_unlearn.commands.main import main
from hf_unlearn.unlearning.method_names import METHODS
from scripts.benchmarks.methods.make_tables import fill
from scripts.docs.readme import real_models


README = (ROOT / "README.md").read_text()


def test_python_example(saved_model, saved_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = python_of(README)
    assert len(code.splitlines()) <= 13
    run_python(code, saved_model, saved_dataset)
    assert "| forget set |" in (tmp_path / "out" / "README.md").read_text()


def test_command_lines_name_flags_that_exist(saved_model, saved_dataset, tmp_path):
    names = {"org/model": saved_model, "org/data": saved_dataset, "out": str(tmp_path / "out")}
    (command,) = [words for words in commands_of(README) if words[0] == "run"]
    assert main([*(names.get(word, word) for word in command), "--allow_collapse"]) == 0


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#\n]+)", README):
        assert (ROOT / target).exists(), target


def test_table_is_that_of_the_measured_rows():
    assert fill(README, {"real models": real_models()}) == README
    assert "| garbage truck | 80 → 0 |" in README


def test_it_says_what_must_not_be_missed():
    for words in ("make demo", "make test", "no proof of deletion", "[CITATION.cff]"):
        assert words in README
    # jit, rebuild and retrain are named before them.
    assert "Nineteen more" in README and len(METHODS) == 3 + 19
