"""
Pushing into a hub that fails: the repository has the old commit or the complete new one, whatever happens on the way.

The client runs in this process, with the address of the hub put into it: subprocesses would take minutes.
"""

import random
import time

import httpx2
import huggingface_hub
import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub.utils._http import default_client_factory

from hf_unlearn.errors import HubPushError, InputError
from hf_unlearn.publication.hub import check_push, push_folder, validate_card


REPO_ID = "tester/animals-without-cats"
CARD = """---
tags:
- unlearning
---

<!-- hf-unlearn:begin results -->
{}
<!-- hf-unlearn:end results -->
"""


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(monkeypatch, waits):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


def make_run(folder, number):
    """What a run leaves, in small: `number` is in every file."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": f'{{"number": {number}}}', "model.safetensors": f"\0weights {number}", "README.md": CARD.format(number),
        "report.json": f'{{"run": {{"model": "org/original", "number": {number}}}}}', "figures/a.png": f"\0png {number}",
        "unlearning_record.json": f'{{"number": {number}}}', "unlearning_salt": "secret", "forget_request.yaml": "ids: [3]",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    return {
        name: text.encode() for name, text in files.items() if name not in ("unlearning_salt", "forget_request.yaml")
    }


def files_at(hub, revision="main"):
    files = dict(hub.repos[REPO_ID].history(revision)[-1].files)
    del files[".gitattributes"]
    return files


def test_second_push_changes_nothing(hub, tmp_path):
    files = make_run(tmp_path, 1)
    first = push_folder(tmp_path, REPO_ID, TOKEN)
    assert files_at(hub) == files
    assert push_folder(tmp_path, REPO_ID, TOKEN) == first
    assert len(hub.repos[REPO_ID].history("main")) == 2


def test_update_keeps_the_users_words_and_drops_old_weights(hub, tmp_path):
    files = make_run(tmp_path, 1)
    theirs = CARD.format("old").replace("- unlearning\n", "- unlearning\n- mine\nlicense: mit\n") + "\nOur words.\n"
    old = {"model-00001-of-00002.safetensors": b"\0", "pytorch_model.bin": b"\0", "notes.txt": b"mine"}
    hub.add_repo(REPO_ID, {**files, "README.md": theirs.encode(), **old})
    push_folder(tmp_path, REPO_ID, TOKEN)
    pushed = files_at(hub)
    card = pushed.pop("README.md").decode()
    assert "license: mit" in card and "- mine" in card and "\n1\n" in card and card.endswith("\nOur words.\n")
    assert pushed == {name: text for name, text in files.items() if name != "README.md"} | {"notes.txt": b"mine"}
    push_folder(tmp_path, REPO_ID, TOKEN)
    assert len(hub.repos[REPO_ID].history("main")) == 2


def test_pull_request_leaves_the_branch_and_is_opened_once(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_unlearn.publication.record.read_record", lambda path: {"record_sha256": "ab" * 32})
    hub.add_repo(REPO_ID, {"model.safetensors": b"\0original", "README.md": b"Their card.\n"})
    files = make_run(tmp_path, 1)
    url = push_folder(tmp_path, REPO_ID, TOKEN, create_pr=True)
    assert url == push_folder(tmp_path, REPO_ID, TOKEN, create_pr=True) == f"{hub.url}/{REPO_ID}/discussions/1"
    assert len(hub.repos[REPO_ID].history("main")) == 1 and len(hub.repos[REPO_ID].pull_requests) == 1
    proposed = files_at(hub, "refs/pr/1")
    assert proposed["model.safetensors"] == files["model.safetensors"]
    assert "Their card." in proposed["README.md"].decode()


def test_pull_request_whose_answer_got_lost_is_not_opened_twice(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_unlearn.publication.record.read_record", lambda path: {"record_sha256": "ab" * 32})
    hub.add_repo(REPO_ID)
    make_run(tmp_path, 1)
    hub.lose_next_answer("POST", "/commit/")
    assert push_folder(tmp_path, REPO_ID, TOKEN, create_pr=True).endswith("/discussions/1")
    assert len(hub.repos[REPO_ID].pull_requests) == 1


def test_branch_and_tag(hub, tmp_path):
    files = make_run(tmp_path, 1)
    push_folder(tmp_path, REPO_ID, TOKEN, revision="unlearned", tag="v1")
    assert files_at(hub, "unlearned") == files_at(hub, "v1") == files
    assert len(hub.repos[REPO_ID].history("main")) == 1
    push_folder(tmp_path, REPO_ID, TOKEN, revision="unlearned", tag="v1")
    make_run(tmp_path, 2)
    with pytest.raises(InputError, match="tag: 'v1' is the name of another commit. The push itself went through"):
        push_folder(tmp_path, REPO_ID, TOKEN, revision="unlearned", tag="v1")
    with pytest.raises(InputError, match="tag: cannot be combined with --create_pr"):
        push_folder(tmp_path, REPO_ID, TOKEN, create_pr=True, tag="v2")


def test_original_and_other_models_are_overwritten_only_on_demand(hub, tmp_path):
    make_run(tmp_path, 1)
    theirs = {"model.safetensors": b"\0theirs"}
    hub.add_repo("org/original", theirs)
    hub.add_repo(REPO_ID, theirs)
    with pytest.raises(InputError, match="'org/original' is the original model, which is not overwritten"):
        push_folder(tmp_path, "org/original", TOKEN)
    with pytest.raises(InputError, match="holds a model without an unlearning record"):
        push_folder(tmp_path, REPO_ID, TOKEN)
    with pytest.raises(InputError, match="holds a model without an unlearning record"):
        check_push(REPO_ID, "org/original", TOKEN)
    assert check_push(REPO_ID, "org/original", TOKEN, create_pr=True) == REPO_ID
    assert files_at(hub) == theirs
    push_folder(tmp_path, REPO_ID, TOKEN, overwrite_model=True)
    assert files_at(hub)["model.safetensors"] == b"\0weights 1"


def test_hub_that_asks_to_wait_is_waited_for(hub, tmp_path, waits):
    make_run(tmp_path, 1)
    hub.fail_next("POST", "/commit/", status=429, headers={"Retry-After": "7"})
    push_folder(tmp_path, REPO_ID, TOKEN)
    assert 7 in waits


def test_errors_that_stay_are_not_tried_again(hub, tmp_path, waits):
    make_run(tmp_path, 1)
    hub.fail_next("POST", "/commit/", status=403, times=9)
    with pytest.raises(HubPushError, match="status 403"):
        push_folder(tmp_path, REPO_ID, TOKEN)
    assert sum("/commit/" in request.path for request in hub.requests) == 1 and not waits


def test_hub_that_is_down_is_one_line_without_the_token(hub, tmp_path):
    make_run(tmp_path, 1)
    hub.fail_next("POST", "/api/repos/create", status=503, times=99, headers={"X-Error-Message": f"bad token {TOKEN}"})
    with pytest.raises(HubPushError) as caught:
        push_folder(tmp_path, REPO_ID, TOKEN)
    assert "status 503" in str(caught.value) and TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_connection_that_is_always_lost_is_one_line(hub, tmp_path):
    make_run(tmp_path, 1)
    hub.reset_next("POST", "/commit/", times=99)
    with pytest.raises(HubPushError, match="Everything is in .*; push it again with: hf-unlearn push"):
        push_folder(tmp_path, REPO_ID, TOKEN)
    assert files_at(hub) == {}


@pytest.mark.parametrize("path", ["/preupload/", "/lfs-uploads/", "/commit/"])
def test_hub_that_does_not_answer_is_asked_again(hub, tmp_path, path):
    files = make_run(tmp_path, 1)
    # The client's own limit of ten seconds, in small.
    huggingface_hub.set_client_factory(lambda: httpx2.Client(timeout=0.1, follow_redirects=True))
    hub.hang_seconds = 0.3
    hub.hang_next("PUT" if "lfs" in path else "POST", path)
    try:
        push_folder(tmp_path, REPO_ID, TOKEN)
    finally:
        huggingface_hub.set_client_factory(default_client_factory)
    assert files_at(hub) == files
    assert hub.faults[0].times == 0


def test_damaged_upload_is_sent_again(hub, tmp_path):
    files = make_run(tmp_path, 1)
    hub.damage_next("PUT", "/lfs-uploads/")
    push_folder(tmp_path, REPO_ID, TOKEN)
    assert files_at(hub) == files


def test_upload_that_was_cut_off_goes_on_where_it_was(hub, tmp_path):
    make_run(tmp_path, 1)
    hub.fail_next("POST", "/commit/", status=503)
    push_folder(tmp_path, REPO_ID, TOKEN)
    puts = [request.path for request in hub.requests if request.method == "PUT"]
    assert len(puts) == len(set(puts)) == 2


def test_commit_of_someone_else_is_taken_in(hub, tmp_path):
    files = make_run(tmp_path, 1)
    hub.fail_next("POST", "/commit/", status=412)
    push_folder(tmp_path, REPO_ID, TOKEN)
    assert files_at(hub) == files


def test_a_hundred_random_faults_leave_the_old_commit_or_the_complete_new_one(hub, tmp_path):
    calls = [
        ("POST", "/api/repos/create"), ("GET", "/api/models/"), ("POST", "/preupload/"), ("POST", "/objects/batch"),
        ("PUT", "/lfs-uploads/"), ("POST", "/objects/verify"), ("POST", "/commit/"), ("POST", "/validate-yaml"),
        ("GET", "/resolve/"), ("HEAD", "/resolve/"), ("POST", "/tag/"),
    ]  # fmt: skip
    draw = random.Random(0)
    complete, failed = make_run(tmp_path, 0), 0
    push_folder(tmp_path, REPO_ID, TOKEN)
    for number in range(1, 101):
        files = make_run(tmp_path, number)
        hub.faults.clear()
        for _ in range(draw.randint(1, 4)):
            method, path = draw.choice(calls)
            times = draw.choice([1, 1, 2, 30])
            kind = draw.choice(["reset", "lose", "damage", 429, 500, 503, 403])
            if kind == "reset":
                hub.reset_next(method, path, times)
            elif kind == "lose":
                hub.lose_next_answer(method, path, times)
            elif kind == "damage":
                hub.damage_next("PUT", "/lfs-uploads/", times)
            else:
                hub.fail_next(method, path, kind, times, headers={"Retry-After": "1"} if kind == 429 else None)
        commits = len(hub.repos[REPO_ID].history("main"))
        try:
            push_folder(tmp_path, REPO_ID, TOKEN, tag=f"v{number}")
        except HubPushError:
            failed += 1
            assert files_at(hub) in (complete, files)
        else:
            assert files_at(hub) == files_at(hub, f"v{number}") == files
        assert len(hub.repos[REPO_ID].history("main")) - commits in (0, 1)
        complete = files_at(hub)
    hub.faults.clear()
    push_folder(tmp_path, REPO_ID, TOKEN)
    assert files_at(hub) == files
    # The schedules are neither all harmless nor all hopeless.
    assert 10 < failed < 90


def test_front_matter_is_checked_by_the_hub(hub, monkeypatch):
    assert validate_card("---\ntags:\n- unlearning\n---\n\n# Card\n") == "The hub accepts the front matter."
    hub.fail_next("POST", "/api/validate-yaml", status=400)
    with pytest.raises(InputError, match="card: the hub refuses the front matter: .*Injected by the test"):
        validate_card("---\ntags: []\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "was not checked: the hub cannot be reached" in validate_card("---\ntags: []\n---\n")
