"""The pages of the site: their Python runs, and their commands name flags that exist."""

import re

import pytest
from conftest import ROOT
from examples import commands_of, python_of, run_python

from hf_unlearn.commands.parsing import make_run_parser
from hf_unlearn.unlearning.method_names import METHODS
from scripts.docs.reference import COMMANDS, parser_of


DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WITH_PYTHON = [path for path in PAGES if python_of(path.read_text(encoding="utf-8"))]


def name_of(path):
    return str(path.relative_to(DOCS))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_runs(page, saved_model, saved_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(python_of(page.read_text(encoding="utf-8")), saved_model, saved_dataset)


def test_guides_have_python():
    assert {"start.md", "how_to/class.md", "how_to/single_images.md"} <= {name_of(path) for path in WITH_PYTHON}


@pytest.fixture(scope="module")
def flags_of():
    flags = {words: set(parser_of(words)._option_string_actions) for several in COMMANDS.values() for words in several}
    for method in METHODS:
        flags["run"] |= set(make_run_parser(method=method)._option_string_actions)
    return flags


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_commands_name_flags_that_exist(page, flags_of):
    for words in commands_of(page.read_text(encoding="utf-8")):
        command = " ".join(words[:2]) if len(COMMANDS[words[0]]) > 1 else words[0]
        unknown = {word for word in words if re.fullmatch(r"--\w+", word)} - flags_of[command]
        assert not unknown, (command, unknown)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_begins_with_what_it_is_for(page):
    """A title, and then a sentence: no table, list, block or further heading."""
    title, first = re.match(r"# (.+)\n\n(.+)", page.read_text(encoding="utf-8")).groups()
    assert title and re.match(r"[\w`*\"“]", first)


@pytest.mark.parametrize(
    "name",
    "auto_step architectures removal verification performance methods finding low_dimensional real_models".split(),
)
def test_long_pages_say_first_what_they_found(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)", text, re.MULTILINE)
    assert headings[0] == "In short"
    block = text.partition("## In short\n")[2].partition("\n## ")[0]
    assert 5 <= len(re.findall(r"^- ", block, re.MULTILINE)) <= 13
