"""The reference names every public name, method, metric and attack, and every flag of every command."""

import re

import pytest
from conftest import ROOT

import hf_unlearn
from hf_unlearn.commands import main, record, request
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.method_names import METHODS
from scripts.docs import reference
from scripts.docs.names import ATTACKS


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def described(page: str) -> set[str]:
    """What mkdocstrings is asked to show."""
    return set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))


def test_every_public_name_is_there(pages):
    names = {path.rsplit(".", 1)[1] for path in described(pages["reference/python.md"])}
    assert set(hf_unlearn.__all__) <= names


def test_every_configuration_and_trainer_is_there(pages):
    shown = described(pages["reference/methods.md"]) | described(pages["reference/python.md"])
    for method in METHODS:
        for its in load_method(method):
            assert f"{its.__module__}.{its.__name__}" in shown


def test_every_metric_and_attack_is_there(pages):
    folders = {path.parent.name for path in (ROOT / "hf_unlearn" / "metrics").glob("*/README.md")}
    assert {path.split(".")[2] for path in described(pages["reference/metrics.md"])} == folders
    assert described(pages["reference/attacks.md"]) == set(ATTACKS.values())


def test_every_command_is_there():
    assert set(re.findall(r"^  (\w+)  +\w", main.USAGE, re.MULTILINE)) == set(reference.COMMANDS)
    for name, module in (("request", request), ("record", record)):
        parts = re.findall(r"^  (\w+)  +\w", module.USAGE, re.MULTILINE)
        assert reference.COMMANDS[name] == [f"{name} {part}" for part in parts]


@pytest.mark.parametrize("command", reference.COMMANDS)
def test_every_flag_is_there(command, pages):
    page = pages[f"reference/commands/{command}.md"]
    for words in reference.COMMANDS[command]:
        for action in reference.parser_of(words)._actions:
            for flag in action.option_strings:
                # `-h`, and the second spelling of a flag.
                if flag not in ("-h", "--help") and "-" not in flag[2:]:
                    assert f"`{flag}`" in page, flag


def test_flags_of_every_method_are_there(pages):
    page = pages["reference/commands/run.md"]
    assert all(f"### {method}\n" in page for method in METHODS if method != "jit")
    assert "`--shrink`" in page and "`--max_accuracy_lost`" in page and "`--sigma`" in page


def test_no_page_names_a_folder_of_this_machine(pages):
    assert not [name for name, page in pages.items() if str(ROOT) in page]
