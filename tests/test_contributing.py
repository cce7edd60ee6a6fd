"""What CONTRIBUTING.md names is there."""

import re

from conftest import ROOT
from test_imports import ORDER


PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SPANS = re.findall(r"`([^`]+)`", re.sub(r"^```\n.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE))
# `<name>` stands for any.
WORDS = [word.replace("<name>", "*") for text in (*BLOCKS, *SPANS) for word in text.split()]


def test_paths_lead_somewhere():
    first = {path.name for path in ROOT.iterdir()}
    paths = {word for word in WORDS if word.split("/")[0] in first}
    assert len(paths) > 50
    assert [path for path in sorted(paths) if not list(ROOT.glob(path.rstrip("/")))] == []
    # What begins otherwise is no path of this repository, or is misspelt.
    others = {word for word in WORDS if "/" in word and word not in paths}
    assert others <= {".venv/bin/python"}


def test_every_room_and_its_order_are_shown():
    rooms = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    shown = [re.findall(r"`hf_unlearn/(\w+)", room) for room in rooms]
    order = [sorted(rooms) for rooms in reversed(ORDER)]
    assert [name for names in shown for name in names] == [name for names in order for name in names]


def test_make_knows_the_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {after for word, after in zip(WORDS, WORDS[1:], strict=False) if word == "make"}
    assert {"test", "style", "demo"} <= named <= targets


def test_functions_and_constants_are_where_it_says():
    """`name` of `file`."""
    said = re.findall(r"`(\w+)`\s+of\s+`([\w./]+\.py)`", PAGE)
    assert len(said) > 8
    for name, path in said:
        assert re.search(rf"^(def|class) {name}\b|^{name} =", (ROOT / path).read_text(), re.MULTILINE), (name, path)


def test_tests_that_other_files_name_are_there():
    named = []
    for path in (
        ROOT / "Makefile",
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "tests").rglob("*.py"),
    ):
        named += re.findall(r"(?<![\w./])tests/[\w./]*\w", path.read_text())
    assert {"tests/test_fuzz.py", "tests/unlearning/test_interruption.py"} <= set(named)
    assert [path for path in named if not (ROOT / path).exists()] == []
