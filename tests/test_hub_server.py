"""
The test hub with its real clients, `huggingface_hub` and `transformers`.

They run in subprocesses because they read the endpoint when they are imported.
"""

import base64
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, LoggedRequest, git_oid, sha256


REPO_ID = "tester/model"
COMMIT = f"/api/models/{REPO_ID}/commit/main"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
FILES = {
    "README.md": b"---\nlicense: mit\npipeline_tag: image-classification\ntags: [unlearning]\n---\n# A model\n",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "plots/accuracy.png": PNG,
}

# What the scripts of the tests start with. They leave what is to be compared in `result`.
PREAMBLE = f"""
import json
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download

api, repo_id = HfApi(), {REPO_ID!r}

def error_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
"""


@pytest.fixture
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    for path, content in FILES.items():
        path = tmp_path / "folder" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


@pytest.fixture
def run_client(hub, tmp_path):
    """Runs a script as a client of the hub, with `folder` in its working directory, and returns its `result`."""

    def run(script, token=TOKEN):
        process = subprocess.run(
            [sys.executable, "-c", f"{PREAMBLE}\n{textwrap.dedent(script)}\nprint(json.dumps(result))"],
            cwd=tmp_path,
            env={**os.environ, **hub.environ(tmp_path / "hf_home", token)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    return run


def test_space_lies_beside_a_model_of_the_same_name(hub, folder, run_client):
    hub.add_repo(REPO_ID, files={"config.json": b"{}"})
    result = run_client(
        """
        url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=True)
        again = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
        refused = error_of(api.upload_file, path_or_fileobj=b"---\\nsdk: none\\n---\\n", path_in_repo="README.md",
                           repo_id=repo_id, repo_type="space")
        files = {"README.md": b"---\\nsdk: gradio\\n---\\n", "app.py": b"1", "data.bin": b"\\0"}
        for name, content in files.items():
            api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo_id, repo_type="space")
        info = api.space_info(repo_id)
        back = open(hf_hub_download(repo_id, "app.py", repo_type="space")).read()
        result = [str(url), str(again), refused, info.sdk, info.private, sorted(s.rfilename for s in info.siblings), back]
        """
    )
    url, again, refused, *facts = result
    assert url == again == f"{hub.url}/spaces/{REPO_ID}" and '"sdk" must be one of' in refused
    assert facts == ["gradio", True, [".gitattributes", "README.md", "app.py", "data.bin"], "1"]
    assert set(hub.repos[REPO_ID].history("main")[-1].files) == {".gitattributes", "config.json"}


def test_upload_and_download(hub, folder, run_client):
    result = run_client(
        """
        url = api.create_repo(repo_id, private=True)
        api.create_repo(repo_id, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path="folder", commit_message="Title", commit_description="Description"
        )
        info = api.model_info(repo_id)
        card = ModelCard.load(repo_id)
        card.validate()
        result = {
            "user": api.whoami()["name"],
            "repo_ids": [url.repo_id, commit.repo_url.repo_id, info.id],
            "oids": [commit.oid, info.sha],
            "info": [info.private, info.pipeline_tag, info.tags, info.card_data.license],
            "card": card.data.to_dict(),
            "tree": {file.path: [file.size, file.blob_id, file.lfs and file.lfs.sha256]
                     for file in api.list_repo_tree(repo_id, recursive=True) if hasattr(file, "size")},
            "weights": hf_hub_download(repo_id, "model.safetensors"),
            "snapshot": snapshot_download(repo_id),
        }
        """
    )
    repo = hub.repos[REPO_ID]
    initial, commit = repo.branches["main"]
    assert repo.private
    assert (initial.title, commit.title, commit.description) == ("initial commit", "Title", "Description")
    assert commit.files == {**initial.files, **FILES}
    assert commit.lfs_paths == {"model.safetensors", "plots/accuracy.png"}
    assert hub.lfs_objects == {sha256(FILES[path]): FILES[path] for path in commit.lfs_paths}

    assert result["user"] == "tester"
    assert set(result["repo_ids"]) == {REPO_ID}
    assert set(result["oids"]) == {commit.oid}
    assert result["info"] == [True, "image-classification", ["unlearning"], "mit"]
    assert result["card"] == {"license": "mit", "pipeline_tag": "image-classification", "tags": ["unlearning"]}
    card = FILES["README.md"]
    assert result["tree"].keys() == commit.files.keys()
    assert result["tree"]["README.md"] == [len(card), git_oid(card), None]
    assert result["tree"]["plots/accuracy.png"] == [len(PNG), git_oid(PNG), sha256(PNG)]
    assert Path(result["weights"]).read_bytes() == FILES["model.safetensors"]
    for path, content in commit.files.items():
        assert Path(result["snapshot"], path).read_bytes() == content

    # The token must not be sent to the signed urls of the uploads, and `card.validate` does without.
    anonymous = {request.path for request in hub.requests if not request.has_authorization}
    assert anonymous == {"/api/validate-yaml", *(f"/lfs-uploads/{oid}" for oid in hub.lfs_objects)}
    assert [request.path for request in hub.requests if "/commit/" in request.path] == [COMMIT]


def test_unchanged_folder_makes_no_commit(hub, folder, run_client):
    repo = hub.add_repo(REPO_ID, FILES)
    oid = run_client("result = api.upload_folder(repo_id=repo_id, folder_path='folder').oid")
    assert [commit.oid for commit in repo.branches["main"]] == [oid]
    assert not any("/commit/" in request.path for request in hub.requests)


def test_changed_folder(hub, folder, run_client):
    repo = hub.add_repo(REPO_ID, FILES)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "copy.bin").write_bytes(FILES["model.safetensors"])
    (folder / "plots/accuracy.png").unlink()
    run_client("result = api.upload_folder(repo_id=repo_id, folder_path='folder', delete_patterns='plots/*').oid")
    _, commit = repo.branches["main"]
    assert commit.files.keys() == {".gitattributes", "README.md", "copy.bin", "model.safetensors"}
    assert commit.files["README.md"] == b"---\nlicense: apache-2.0\n---\n"
    assert commit.lfs_paths == {"copy.bin", "model.safetensors"}
    assert not any(request.method == "PUT" for request in hub.requests)  # the content was there under another name


def test_deletions_and_parent_commit(hub, run_client):
    repo = hub.add_repo(REPO_ID, FILES)
    result = run_client(
        """
        parent = api.delete_file("model.safetensors", repo_id).oid
        api.delete_folder("plots", repo_id, parent_commit=parent)
        result = [
            error_of(api.delete_file, "missing.txt", repo_id),
            error_of(api.delete_file, "README.md", repo_id, parent_commit=parent),
        ]
        """
    )
    assert result[0].startswith("RemoteEntryNotFoundError: 404")
    assert "412" in result[1] and "A commit has happened since" in result[1]
    assert [sorted(commit.files) for commit in repo.branches["main"][1:]] == [
        [".gitattributes", "README.md", "plots/accuracy.png"],
        [".gitattributes", "README.md"],
    ]


def test_pull_request_branch_and_tag(hub, folder, run_client):
    repo = hub.add_repo(REPO_ID)
    result = run_client(
        """
        commit = api.upload_folder(repo_id=repo_id, folder_path="folder", create_pr=True, commit_message="Proposal")
        api.upload_file(
            repo_id=repo_id, path_or_fileobj=b"more", path_in_repo="notes.txt", revision=commit.pr_revision
        )
        for _ in range(2):
            api.create_branch(repo_id, branch="feature/x", revision=commit.pr_revision, exist_ok=True)
            api.create_tag(repo_id, tag="v1", revision="feature/x", exist_ok=True)
        revisions = [commit.pr_revision, "feature/x", "v1", commit.oid, "main"]
        result = {
            "num": commit.pr_num,
            "oid": commit.oid,
            "files": [api.list_repo_files(repo_id, revision=revision) for revision in revisions],
            "tag": api.model_info(repo_id, revision="v1").sha,
        }
        """
    )
    (pull_request,) = repo.pull_requests
    initial, proposal, addition = pull_request.commits
    assert (pull_request.num, pull_request.target, proposal.title) == (result["num"], "main", "Proposal")
    assert proposal.oid == result["oid"]
    assert repo.branches == {"main": [initial], "feature/x": [initial, proposal, addition]}
    assert repo.tags == {"v1": addition.oid} == {"v1": result["tag"]}
    expected = [addition, addition, addition, proposal, initial]
    assert result["files"] == [sorted(commit.files) for commit in expected]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# No metadata\n", "empty or missing yaml metadata"),
        ("---\ntags: [open\n---\n", "invalid yaml metadata"),
        ("---\njust text\n---\n", "not a mapping"),
    ],
)
def test_invalid_card_is_not_uploaded(hub, folder, run_client, card, message):
    repo = hub.add_repo(REPO_ID)
    (folder / "README.md").write_text(card)
    error = run_client("result = error_of(api.upload_folder, repo_id=repo_id, folder_path='folder')")
    assert error.startswith("ValueError: Invalid metadata in README.md") and message in error
    assert len(repo.branches["main"]) == 1


def test_errors_and_tokens(hub, run_client):
    hub.add_repo(REPO_ID, FILES)
    hub.add_repo("tester/private", private=True)
    script = """
        result = [
            error_of(api.create_repo, "new"),
            error_of(api.upload_file, repo_id=repo_id, path_or_fileobj=b"text", path_in_repo="notes.txt"),
            error_of(api.model_info, "tester/private"),
            error_of(api.model_info, repo_id),
            error_of(api.model_info, "tester/missing"),
            error_of(api.model_info, repo_id, revision="missing"),
            error_of(hf_hub_download, repo_id, "missing.txt"),
        ]
        """
    anonymous = run_client(script, token=None)
    assert not any(request.has_authorization for request in hub.requests)
    assert hub.repos.keys() == {REPO_ID, "tester/private"}
    for error in anonymous[:2]:
        assert "401" in error and "Invalid username or password." in error
    assert anonymous[2].startswith("RepositoryNotFoundError: 404")
    assert anonymous[3] is None

    *access, repo_error, revision_error, entry_error = run_client(script)
    assert access == [None, None, None, None]
    assert repo_error.startswith("RepositoryNotFoundError: 404")
    assert revision_error.startswith("RevisionNotFoundError: 404")
    assert entry_error.startswith("RemoteEntryNotFoundError: 404")

    for error in run_client(script, token="hf_wrong"):
        assert "Invalid credentials in Authorization header" in error


def test_faults(hub, folder, run_client):
    repo = hub.add_repo(REPO_ID)
    # The client tries most requests again, a second later if the server asks for no delay, but not commits.
    hub.fail_next("POST", "/preupload/", status=503, headers={"Retry-After": "0"})
    hub.fail_next("POST", "/commit/", times=2)
    hub.reset_next("POST", "/commit/")
    errors = run_client(
        "result = [error_of(api.upload_folder, repo_id=repo_id, folder_path='folder') for _ in range(4)]"
    )
    assert errors[0] == errors[1] and errors[0].startswith("HfHubHTTPError") and "Injected by the test" in errors[0]
    assert errors[2].startswith("RemoteProtocolError")
    assert errors[3] is None
    assert len(repo.branches["main"]) == 2
    assert [request for request in hub.requests if "/commit/" in request.path] == [
        LoggedRequest("POST", COMMIT, status, has_authorization=True) for status in [500, 500, None, 200]
    ]
    assert sum(request.method == "PUT" for request in hub.requests) == 2  # not once more after each failed commit


def test_damaged_upload_is_refused(hub, folder, run_client):
    repo = hub.add_repo(REPO_ID)
    result = run_client(
        """
        from huggingface_hub import lfs

        http_backoff = lfs.http_backoff
        lfs.http_backoff = lambda method, url, **kwargs: http_backoff(
            method, url, **({"content": b"damaged"} if method == "PUT" else kwargs)
        )
        try:
            api.upload_folder(repo_id=repo_id, folder_path="folder", allow_patterns="*.safetensors")
        except RuntimeError as error:
            result = str(error.__cause__)
        """
    )
    assert "Bad request" in result and "announced sha256" in result
    assert hub.lfs_objects == {}
    assert len(repo.branches["main"]) == 1


def test_transformers_round_trip(hub, run_client):
    result = run_client(
        """
        import numpy as np
        import torch
        import transformers
        from PIL import Image

        torch.manual_seed(0)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
        )
        model = transformers.ResNetForImageClassification(config).eval()
        model.save_pretrained("folder")
        processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)
        processor.save_pretrained("folder")
        card = ModelCard("---\\nlibrary_name: transformers\\npipeline_tag: image-classification\\n---\\n")
        card.save("folder/README.md")
        api.create_repo(repo_id, private=True)
        api.upload_folder(repo_id=repo_id, folder_path="folder")

        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
        inputs = transformers.AutoImageProcessor.from_pretrained(repo_id)(image, return_tensors="pt")
        loaded = transformers.AutoModelForImageClassification.from_pretrained(repo_id)
        with torch.no_grad():
            logits, loaded_logits = model(**inputs).logits, loaded(**inputs).logits
        explicit = transformers.pipeline("image-classification", model=repo_id)(image)
        result = {
            "type": type(loaded).__name__,
            "equal": torch.equal(logits, loaded_logits),
            "probabilities": {f"LABEL_{label}": p.item() for label, p in enumerate(logits.softmax(-1)[0])},
            "explicit": {output["label"]: output["score"] for output in explicit},
            "inferred": transformers.pipeline(model=repo_id)(image) == explicit,
        }
        """
    )
    assert result["type"] == "ResNetForImageClassification"
    assert result["equal"]
    assert result["explicit"] == pytest.approx(result["probabilities"], abs=1e-6)
    assert result["inferred"]  # the task, from the `pipeline_tag` of the card
    assert len(hub.repos[REPO_ID].branches["main"]) == 2
