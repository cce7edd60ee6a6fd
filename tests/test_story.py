"""The whole story: two requests in sequence, pushed as a pull request, checked from the hub, and tampered with."""

import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hub_server import TOKEN, HubServer

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record


REPO_ID = "tester/animals"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def downloaded(hub, saved_model, saved_dataset, tmp_path_factory):
    """What the pull request proposes, downloaded; with the folder of the run beside it."""
    folder = tmp_path_factory.mktemp("story")
    original = {path.name: path.read_bytes() for path in map(type(folder), _files(saved_model))}
    card = b"---\nlicense: mit\ntags:\n- animals\n---\n\n# Animals\n\nTells cats, dogs and owls apart.\n"
    hub.add_repo(REPO_ID, {**original, "README.md": card})
    ForgetRequest(classes=["cat"], id="R-1", model=REPO_ID, dataset=saved_dataset).to_file(folder / "r1.yaml")
    ForgetRequest(
        ids=["id-1", "id-2"], id_column="record", id="R-2", requester="case 7", reason="withdrawn", model=REPO_ID
    ).to_file(folder / "r2.yaml")
    private, public = make_keys(folder)
    environment = {**os.environ, **hub.environ(str(folder / "hf_home"))}

    def call(*words):
        words = [sys.executable, "-m", "hf_unlearn.commands.main", *map(str, words)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    # The model and the data are those of the requests.
    out = call(
        "run", "--forget_request", folder / "r1.yaml", folder / "r2.yaml", "--label_column_name", "label",
        "--step_rule", "fixed", "--learning_rate", "1e-3", "--output_dir", folder / "out",
        "--push_to_hub", "--hub_model_id", REPO_ID, "--create_pr", "--sign_key", private,
    )  # fmt: skip
    assert f"Pushed to {hub.url}/{REPO_ID}/discussions/1" in out
    salt = ["--salt_file", folder / "out" / "unlearning_salt"]
    out = call(
        "record", "verify", REPO_ID, "--revision", "refs/pr/1", *salt, "--id", "id-2", "--id", "id-3",
        "--public_key", public,
    )  # fmt: skip
    assert "signed by the key given" in out
    assert "The record holds" in out and "CHANGED" not in out
    assert "each of the 2 requests began where the one before it ended" in out
    assert "id-2: was in the forget set" in out and "id-3: is not known" in out

    files = dict(hub.repos[REPO_ID].history("refs/pr/1")[-1].files)
    for name, content in files.items():
        path = folder / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "downloaded"


def make_keys(folder):
    """Paths of a private and its public key."""
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for name, content in (("key.pem", private), ("key.pub", public)):
        (folder / name).write_bytes(content)
    return folder / "key.pem", folder / "key.pub"


def _files(folder):
    return [os.path.join(folder, name) for name in os.listdir(folder)]


def test_original_is_as_it_was(hub, downloaded, saved_model):
    (commit,) = hub.repos[REPO_ID].history("main")
    for path in _files(saved_model):
        with open(path, "rb") as file:
            assert commit.files[os.path.basename(path)] == file.read()


def test_pull_request_holds_the_last_model_and_keeps_the_card_of_the_owner(hub, downloaded):
    record = read_record(downloaded / "unlearning_record.json")
    assert record["request"]["id"] == "R-2" and record["lineage"][0]["request"]["id"] == "R-1"
    card = (downloaded / "README.md").read_text()
    assert "license: mit" in card and "- animals" in card and "Tells cats, dogs and owls apart." in card
    assert f"base_model: {REPO_ID}" in card and "| `R-1` | every image of the class cat | 10 |" in card


def test_nothing_pushed_tells_who_or_what(hub, downloaded):
    for name, content in hub.repos[REPO_ID].history("refs/pr/1")[-1].files.items():
        assert "salt" not in name and "request" not in name and "step-" not in name
        for secret in (b"case 7", b"withdrawn", b"id-1", b"id-2"):
            assert secret not in content, (name, secret)


@pytest.mark.parametrize(
    ("name", "place"),
    [("model.safetensors", -5), ("unlearning_record.json", 1000), ("README.md", b"| retain test | ")],
)
def test_one_byte_is_found(downloaded, name, place, tmp_path, capsys):
    shutil.copytree(downloaded, tmp_path / "copy")
    content = bytearray((tmp_path / "copy" / name).read_bytes())
    place = content.index(place) + len(place) if isinstance(place, bytes) else place
    content[place] ^= 1
    (tmp_path / "copy" / name).write_bytes(content)
    assert main(["record", "verify", str(tmp_path / "copy")]) in (1, 2)
    printed = capsys.readouterr()
    assert "CHANGED" in printed.out or "unlearning_record.json" in printed.err
