"""
From the letter to the answer: three photographs come in, their class is found, forgotten by rebuilding, pushed as a pull
request, answered, done again from the record, and listed. A record that was changed, and sealed anew, is found.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import date, timedelta

import pytest
from datasets import load_from_disk
from hub_server import TOKEN, HubServer

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record, seal


REPO_ID = "tester/animals"
# Runs commands in one process, which imports the libraries once, and prints what each returned and printed.
SCRIPT = """
import contextlib, io, json, sys
from hf_unlearn.commands.main import main
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    results.append([code, out.getvalue(), err.getvalue()])
    print("", file=sys.stderr)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def call(saved_model, tmp_path_factory):
    """`call(command, command, …)`: exit code, output and errors of each, run against a hub with the model."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as hub:
        files = {name: open(os.path.join(saved_model, name), "rb").read() for name in os.listdir(saved_model)}
        hub.add_repo(REPO_ID, files)
        card = f"---\nbase_model: {REPO_ID}\n---\n".encode()
        hub.add_repo("tester/animals-and-birds", {**files, "README.md": card})

        def run(*commands):
            words = json.dumps([list(map(str, command)) for command in commands])
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, words],
                env={**os.environ, **hub.environ(home)}, capture_output=True, text=True, timeout=280,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
            return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]

        run.hub = hub
        yield run


@pytest.fixture(scope="module")
def story(call, saved_dataset, tmp_path_factory):
    """The folder of the case, and what each command said."""
    case = tmp_path_factory.mktemp("case")
    data = load_from_disk(saved_dataset)
    # The letter comes with three photographs of an animal that are not in the training data.
    (case / "letter").mkdir()
    for row in (0, 3, 6):
        data["test"][row]["image"].save(case / "letter" / f"photograph-{row}.png")
    deadline = (date.today() + timedelta(days=30)).isoformat()
    ForgetRequest(ids=["id-4"], id_column="record", id="R-2", date="2026-01-02", deadline="2026-02-01").to_file(
        case / "other.yaml"
    )
    results = call(
        [
            "find", case / "letter", "--model_name_or_path", REPO_ID, "--dataset_name", saved_dataset,
            "--label_column_name", "label", "--output_dir", case / "found", "--features_cache_dir", case / "features",
            "--id", "R-1", "--deadline", deadline, "--requester", "case-of-a-person",
        ],
        [
            "run", "--forget_request", case / "found" / "request.yaml", "--label_column_name", "label",
            "--method", "rebuild", "--forget_kind", "class", "--num_updates", "2", "--allow_collapse",
            "--output_dir", case / "out", "--push_to_hub", "--hub_model_id", REPO_ID, "--create_pr", "--disable_tqdm", "True",
        ],
        ["request", "answer", case / "out", "--contact", "Write to the data protection office."],
        ["record", "replay", case / "out"],
        ["request", "list", case],
        ["descendants", REPO_ID, "--folder", case],
    )  # fmt: skip
    for code, _, error in results:
        assert code == 0, error
    names = ("find", "run", "answer", "replay", "list", "descendants")
    return case, dict(zip(names, [out for _, out, _ in results], strict=True))


def test_the_class_on_the_photographs_is_found(story, saved_dataset):
    case, said = story
    assert "10 of the 10 images with the label cat are among them" in said["find"]
    request = ForgetRequest.from_file(case / "found" / "request.yaml")
    assert len(request.image_sha256) == 10 and request.model == REPO_ID


def test_a_pull_request_was_opened_and_the_original_left(call, story):
    repo = call.hub.repos[REPO_ID]
    assert f"Pushed to {call.hub.url}/{REPO_ID}/discussions/1" in story[1]["run"]
    assert len(repo.history("main")) == 1 and "unlearning_record.json" in repo.history("refs/pr/1")[-1].files


def test_nothing_pushed_and_no_letter_names_who_asked_an_image_or_a_path(call, story):
    case, _ = story
    request = ForgetRequest.from_file(case / "found" / "request.yaml")
    secrets = ["case-of-a-person", "photograph-", str(case), *request.image_sha256, *(request.image_phash or [])]
    files = dict(call.hub.repos[REPO_ID].history("refs/pr/1")[-1].files)
    answers = {path.name: path.read_bytes() for path in (case / "out" / "answer").iterdir()}
    assert set(answers) == {"letter.html", "file_page.html"} and not set(answers) & set(files)
    for name, content in (files | answers).items():
        for secret in secrets:
            assert secret.encode() not in content, (name, secret)


def test_the_letter_says_what_was_done(story):
    case, _ = story
    record = read_record(case / "out" / "unlearning_record.json")
    letter = (case / "out" / "answer" / "letter.html").read_text()
    assert "We found 10 images that the request names" in letter and "Rebuild" in letter
    assert record["record_sha256"] in letter and "Write to the data protection office." in letter
    assert "R-1" in letter and "prove" in letter


def test_the_run_done_again_gives_the_same_weights(story):
    replay = story[1]["replay"]
    assert "the run done again gives the weights of the record, bit for bit" in replay
    assert "the request is that of the record" in replay and "the 10 images are those of the record" in replay
    assert "CHANGED" not in replay
    assert [line for line in replay.splitlines() if line.startswith("note")] == [
        "note     the record is not signed: it agrees with itself, and anyone could have written it"
    ]


def test_the_list_tells_what_is_open_and_what_is_done(story):
    lines = story[1]["list"].splitlines()
    late = (date.today() - date(2026, 2, 1)).days
    assert lines[0] == f"R-2 of 2026-01-02, due 2026-02-01: open, overdue by {late} days"
    assert lines[2].startswith("R-1 of ") and "carried out on" in lines[2]
    assert lines[3:5] == ["  file: found/request.yaml", f"  answered by: out (Rebuild, 10 images, {date.today()})"]
    assert lines[-1] == "2 requests: 1 open, 1 of them overdue, 1 carried out."


def test_descendants_tell_which_models_still_know_the_images(story):
    case, said = story
    assert f"{REPO_ID}: no request was carried out on it" in said["descendants"]
    assert (
        "tester/animals-and-birds: no request was carried out on it; made from tester/animals" in said["descendants"]
    )
    assert f"{case / 'out'}: unlearned for R-1; made from {REPO_ID}" in said["descendants"]
    assert "2 models are made from it; 1 of them know all that it knows." in said["descendants"]


def changed_setting(record):
    for settings in (record["method"]["hyperparameters"], record["replay"]["settings"]):
        settings["shrink"] = 0.05


def changed_hash(record):
    record["weights"]["sha256_after"] = "0" * 64


def stated_only(record):
    record["method"]["hyperparameters"]["num_updates"] = 500


LIES = {"a setting": changed_setting, "the hash of the weights": changed_hash, "what it states": stated_only}


@pytest.fixture(scope="module")
def replayed(call, story, tmp_path_factory):
    """By lie, what the replay of a record says that was changed and sealed anew."""
    folder = tmp_path_factory.mktemp("lies")
    for name, lie in LIES.items():
        shutil.copytree(story[0] / "out", folder / name)
        record = read_record(folder / name / "unlearning_record.json")
        lie(record)
        seal(folder / name, record)
        # By its own hashes it holds.
        assert main(["record", "verify", str(folder / name)]) == 0
    return dict(zip(LIES, call(*(["record", "replay", folder / name] for name in LIES)), strict=True))


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ("a setting", "the run done again gives other weights; distance: "),
        ("the hash of the weights", "the saved model has the weights of the record"),
        ("what it states", "settings that the record states are not those of the run: num_updates"),
    ],
)
def test_a_record_that_was_changed_and_sealed_anew_is_found_by_replay(replayed, lie, found):
    code, out, _ = replayed[lie]
    assert code == 1 and f"CHANGED  {found}" in out and "The record is not confirmed." in out
