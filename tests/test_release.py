"""A release: one version everywhere, all files in the sdist, every action pinned, a lowest version for every library."""

import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

import hf_unlearn


PROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_version_is_the_same_everywhere():
    (version,) = re.findall(r'^version = "(.*)"$', PROJECT, re.MULTILINE)
    assert hf_unlearn.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" and headings[1] == version


def test_every_library_has_a_lowest_version():
    """Of the package and of the tests, which run with it."""
    lists = re.findall(r"^(?:dependencies|test) = \[(.*?)\]", PROJECT, re.DOTALL | re.MULTILINE)
    assert len(lists) == 2
    libraries = [word for text in lists for word in re.findall(r'"([^"]+)"', text)]
    assert len(libraries) > 15 and [word for word in libraries if ">=" not in word] == []


def test_sdist_has_every_file():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git repository to compare with")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = (ROOT / "MANIFEST.in").read_text().split()
    # What setuptools takes by itself.
    taken = {*words, "hf_unlearn", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
    assert {path.split("/")[0] for path in listed.splitlines()} - taken == set()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_say_their_version(path):
    used = re.findall(r"uses: (.*)$", path.read_text(), re.MULTILINE)
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read(path):
    """But for the one job that publishes, which has an identity in place of a token."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more == ({"publish": {"id-token": "write"}} if path.stem == "publish" else {})
    assert "secrets." not in path.read_text()


def test_issue_forms_are_whole():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        asked = [field for field in form["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in asked)
        assert len({field["id"] for field in asked}) == len(asked)
