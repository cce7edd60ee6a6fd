"""`hf-unlearn push --space` through the real client of the hub to its double on loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hub_server import TOKEN, HubServer

from hf_unlearn.commands.main import main
from hf_unlearn.publication.hub_space import SPACE
from hf_unlearn.publication.record import serialize


FILES = {".gitattributes", "README.md", "app.py", "requirements.txt", "unlearned_model.json"}


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_repo("tester/animals", files={"config.json": b"{}"})
        yield server


@pytest.fixture
def run_folder(saved_model, tmp_path):
    """A finished run whose original, says the record, is `tester/animals`."""
    folder = tmp_path / "out"
    shutil.copytree(saved_model, folder)
    shutil.copy(ROOT / "model_cards" / "digits-unlearned" / "report.json", folder)
    record = json.loads((ROOT / "model_cards" / "digits-unlearned" / "unlearning_record.json").read_text())
    record["model"] |= {"name": "tester/animals", "revision": "main"}
    (folder / "unlearning_record.json").write_bytes(serialize(record))
    return folder


@pytest.fixture
def push(hub, run_folder, tmp_path):
    """Pushes the run with a Space, and returns the finished process."""

    def call(*flags):
        command = [sys.executable, "-m", "hf_unlearn.commands.main", "push", str(run_folder), "--space"]
        command += ["--hub_model_id", "tester/animals-unlearned", *flags]
        environment = os.environ | hub.environ(tmp_path / "hf_home")
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)

    return call


def test_space_is_private_and_holds_the_page_and_the_names_of_the_models_alone(hub, push, run_folder):
    done = push()
    assert done.returncode == 0, done.stderr
    space = hub.repos["spaces/tester/animals-unlearned"]
    assert space.private and space.sdk == "gradio" and hub.repos["tester/animals-unlearned"].private
    files = space.history("main")[-1].files
    assert set(files) == FILES
    assert files["app.py"] == (SPACE / "app.py").read_bytes()
    assert json.loads(files["unlearned_model.json"]) == {
        "original": "tester/animals",
        "original_revision": "main",
        "unlearned": "tester/animals-unlearned",
        "unlearned_revision": None,
    }
    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert card["models"] == ["tester/animals", "tester/animals-unlearned"] and card["app_file"] == "app.py"
    assert "/spaces/tester/animals-unlearned" in done.stdout and "secret HF_TOKEN" in done.stdout
    assert not any(TOKEN.encode() in content for content in files.values()) and TOKEN not in done.stdout + done.stderr


def test_second_push_changes_nothing(hub, push):
    assert push().returncode == 0
    assert push().returncode == 0
    assert len(hub.repos["spaces/tester/animals-unlearned"].history("main")) == 2


def test_space_that_holds_another_page_is_overwritten_on_demand_alone(hub, push):
    hub.add_repo("tester/animals-unlearned", files={"app.py": b"mine", "notes.txt": b"mine"}, sdk="gradio")
    refused = push()
    assert refused.returncode == 2
    assert "'tester/animals-unlearned' holds another 'README.md', which is not overwritten" in refused.stderr
    space = hub.repos["spaces/tester/animals-unlearned"]
    assert space.history("main")[-1].files["app.py"] == b"mine"
    assert push("--overwrite_space").returncode == 0
    files = space.history("main")[-1].files
    assert files["app.py"] == (SPACE / "app.py").read_bytes() and files["notes.txt"] == b"mine"


def test_hub_that_fails_for_a_while_is_tried_again(hub, push):
    hub.lose_next_answer("POST", "/api/spaces/tester/animals-unlearned/commit/")
    hub.fail_next("GET", "/api/spaces/", status=503)
    done = push()
    assert done.returncode == 0, done.stderr
    assert len(hub.repos["spaces/tester/animals-unlearned"].history("main")) == 2


def test_space_that_the_hub_refuses_is_one_line(hub, push):
    hub.fail_next("POST", "/api/spaces/tester/animals-unlearned/commit/", status=403)
    done = push()
    assert done.returncode == 1
    assert "the push of the Space tester/animals-unlearned failed" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("flags", [[], ["--original_model", "tester/no-such"], ["--original_model", "no id"]])
def test_original_that_is_not_on_the_hub_is_refused_before_anything_is_pushed(hub, push, run_folder, flags):
    path = run_folder / "unlearning_record.json"
    record = json.loads(path.read_text())
    record["model"]["name"] = "animals"
    path.write_bytes(serialize(record))
    done = push(*flags)
    assert done.returncode == 2 and "is no model of the hub that can be read" in done.stderr
    assert set(hub.repos) == {"tester/animals"}


@pytest.mark.parametrize("flags", [["--overwrite_space"], ["--original_model", "org/model"]])
def test_flags_of_a_space_need_one(run_folder, capsys, flags):
    assert main(["push", str(run_folder), *flags]) == 2
    assert "is for a Space: add --space" in capsys.readouterr().err


def test_space_shows_no_pull_request(run_folder, capsys):
    assert main(["push", str(run_folder), "--space", "--create_pr"]) == 2
    assert "--space: cannot be combined with --create_pr" in capsys.readouterr().err


def test_folder_at_the_top_is_the_one_of_the_package():
    assert (ROOT / "space").resolve() == Path(SPACE).resolve()
