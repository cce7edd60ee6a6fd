"""
A Hugging Face Hub for tests: model repos, Spaces and datasets in memory, served on the loopback interface.

```python
>>> with HubServer() as hub:
...     env = {**os.environ, **hub.environ(tmp_path / "hf_home")}
...     subprocess.run([sys.executable, "scripts/unlearn.py", "--push_to_hub"], env=env, check=True)
...     assert "README.md" in hub.repos["tester/model"].branches["main"][-1].files
```

Clients run in a subprocess because `huggingface_hub` reads its settings, the endpoint among them, when it is imported.

Left out: Xet (`environ` turns it off), multipart uploads, redirects to a CDN, pagination, uploads of datasets, whatever a
Space runs, and a permission model: there is one user, whose token may read and write every repo.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


USER = "tester"
TOKEN = "hf_test_token"
GITATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Commit:
    """A commit, with all the files of the repo at that commit. `lfs_paths` tells which of them are stored as LFS."""

    title: str
    description: str
    files: dict[str, bytes]
    lfs_paths: frozenset[str]
    oid: str = field(default_factory=lambda: secrets.token_hex(20))  # nobody recomputes it: any 40 digits will do


@dataclass(frozen=True)
class PullRequest:
    """A pull request to the branch `target`. The history of that branch comes first in `commits`."""

    num: int
    target: str
    commits: list[Commit]
    title: str = ""


@dataclass
class Repo:
    """A model repo, or a Space if it has an `sdk`. Branches are histories, oldest commit first; tags are oids of commits."""

    repo_id: str
    private: bool
    branches: dict[str, list[Commit]]
    sdk: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)

    def history(self, revision: str, writable: bool = False) -> list[Commit]:
        """The commits up to a revision. Only a branch or `refs/pr/{num}` is `writable`, that is, can be added to."""
        refs = {**self.branches, **{f"refs/pr/{pull.num}": pull.commits for pull in self.pull_requests}}
        if revision in refs:
            return refs[revision]
        oid = self.tags.get(revision, revision)
        for commits in [] if writable else refs.values():
            for index, commit in enumerate(commits):
                if commit.oid == oid:
                    return commits[: index + 1]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class LoggedRequest(NamedTuple):
    """A request that was answered. `path` includes the query; `status` is `None` if the connection was dropped."""

    method: str
    path: str
    status: int | None
    has_authorization: bool


@dataclass
class Fault:
    """
    The next `times` requests that match get `status` as their answer, or none at all if it is `None`. Those with
    `then` are carried out all the same: `"lose"` drops the answer, `"damage"` changes what was sent on its way. After
    `"hang"` nothing comes for a while, and then the connection is dropped.
    """

    method: str
    path_substring: str
    status: int | None
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    then: str | None = None


class Response(NamedTuple):
    """What to send: bytes as they are, anything else as JSON."""

    content: Any
    status: int = 200
    headers: dict[str, str] = {}


# What stands for no answer at all, for a while.
HANG = Response(b"", status=None)


class HubError(Exception):
    """An error, told as the Hub does: in headers, which is all that a `HEAD` request sees, and in JSON."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        headers = {"X-Error-Message": message.encode("ascii", "replace").decode(), **(headers or {})}
        if code is not None:
            headers["X-Error-Code"] = code
        self.response = Response({"error": message}, status, headers)


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def stored_as_lfs(path: str, sample: bytes, gitattributes: bytes) -> bool:
    """Whether the Hub keeps a file as LFS: it is named in `.gitattributes`, or its first bytes are not text."""
    lines = gitattributes.decode().splitlines()
    return b"\0" in sample or any(fnmatch(path, line.split()[0]) for line in lines if "filter=lfs" in line)


COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def parse_card(card: str, is_space: bool = False) -> dict[str, Any]:
    """The metadata of a card. Raises `ValueError` if they are missing or not valid."""
    front_matter = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", card, re.DOTALL)
    if front_matter is None:
        raise ValueError("empty or missing yaml metadata in repo card")
    try:
        metadata = yaml.safe_load(front_matter[1])
    except yaml.YAMLError as error:
        raise ValueError(f"invalid yaml metadata in repo card: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError("yaml metadata in repo card are not a mapping")
    if is_space:
        valid = {"sdk": ("gradio", "docker", "static"), "colorFrom": COLOURS, "colorTo": COLOURS}
        for name, values in valid.items():
            if metadata.get(name, values[0] if name != "sdk" else None) not in values:
                raise ValueError(f'"{name}" must be one of [{", ".join(values)}]')
        if len(metadata.get("short_description", "")) > 60:
            raise ValueError('"short_description" length must be less than or equal to 60 characters long')
    return metadata


ROUTES = []


def route(method: str, template: str, needs_token: bool = True):
    """
    Serves requests with the decorated method of [`HubServer`]. The placeholders in `template` become its arguments:
    `{repo}` matches `namespace/name` and is passed as a [`Repo`], `{path}` may contain slashes, others may not. `{kind}`
    and `{space}` say whether that repo is a model or a Space, and are not passed; `{dataset}` is the name of a dataset.
    """
    template = template.replace("{repo}", "(?P<repo>[^/]+/[^/]+)").replace("{path}", "(?P<path>.+)")
    template = template.replace("{dataset}", "(?P<dataset>[^/]+/[^/]+)")
    template = template.replace("{kind}", "(?P<kind>models|spaces)").replace("{space}", "(?P<kind>(?:spaces/)?)")
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))

    def register(function):
        ROUTES.append((method, pattern, needs_token, function))
        return function

    return register


class HubServer:
    """
    The server, listening from `with` on. What it holds can be read and changed at any time:

    - **repos** (`dict[str, Repo]`) -- The repos by id; before the id of a Space stands `spaces/`.
    - **datasets** (`dict[str, Repo]`) -- The datasets by id.
    - **sent** (`Counter[str]`) -- How many bytes were sent, by path.
    - **lfs_objects** (`dict[str, bytes]`) -- Large files by sha256, once they are verified.
    - **requests** (`list[LoggedRequest]`) -- Everything that was asked so far.
    - **faults** (`list[Fault]`) -- Tried in order on each request; see `fail_next` and `reset_next`.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.sent: Counter[str] = Counter()
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.hang_seconds = 1.0
        self._unverified: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), RequestHandler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()

    def environ(self, hf_home: str | os.PathLike, token: str | None = TOKEN) -> dict[str, str]:
        """What to set in a subprocess to make it use this hub and keep its cache in `hf_home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token or "",
            "HF_HOME": str(hf_home),
            "HF_HUB_DISABLE_XET": "1",  # large files then go through LFS, which is what is spoken here
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # These take precedence over the above, or over the network, if the developer or the CI has set them.
            "HF_HUB_CACHE": os.path.join(hf_home, "hub"),
            "HF_TOKEN_PATH": os.path.join(hf_home, "token"),
            **dict.fromkeys(["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"], "0"),
            **dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1"),
        }

    def add_repo(
        self,
        repo_id: str,
        files: dict[str, bytes] | None = None,
        private: bool = False,
        sdk: str | None = None,
        dataset: bool = False,
    ) -> Repo:
        """
        Creates a repo. As on the Hub its first commit adds `.gitattributes`, and to a Space a `README.md`; here along with
        `files`.
        """
        first = {".gitattributes": GITATTRIBUTES}
        if sdk is not None:
            first["README.md"] = f"---\ntitle: {repo_id}\nemoji: 🐢\nsdk: {sdk}\napp_file: app.py\n---\n".encode()
        files = first | (files or {})
        lfs_paths = frozenset(path for path in files if stored_as_lfs(path, files[path][:512], GITATTRIBUTES))
        self.lfs_objects.update({sha256(files[path]): files[path] for path in lfs_paths})
        key = repo_id if sdk is None else f"spaces/{repo_id}"
        repo = Repo(repo_id, private, {"main": [Commit("initial commit", "", files, lfs_paths)]}, sdk)
        (self.datasets if dataset else self.repos)[key] = repo
        return repo

    def address(self, repo: Repo) -> str:
        return f"{self.url}/{'' if repo.sdk is None else 'spaces/'}{repo.repo_id}"

    def fail_next(self, method: str, path_substring: str, status: int = 500, times: int = 1, headers=None):
        """Makes the next requests of this kind fail with `status`, without carrying them out."""
        self.faults.append(Fault(method, path_substring, status, times, headers or {}))

    def reset_next(self, method: str, path_substring: str, times: int = 1):
        """Makes the next requests of this kind lose their connection, without carrying them out."""
        self.faults.append(Fault(method, path_substring, None, times))

    def lose_next_answer(self, method: str, path_substring: str, times: int = 1):
        """Carries the next requests of this kind out and loses the connection before the answer."""
        self.faults.append(Fault(method, path_substring, None, times, then="lose"))

    def damage_next(self, method: str, path_substring: str, times: int = 1):
        """Changes the first byte of what the next requests of this kind send."""
        self.faults.append(Fault(method, path_substring, None, times, then="damage"))

    def hang_next(self, method: str, path_substring: str, times: int = 1):
        """Lets the next requests of this kind wait for `hang_seconds`, without carrying them out."""
        self.faults.append(Fault(method, path_substring, None, times, then="hang"))

    def respond(self, method: str, target: str, authorization: str | None, body: bytes) -> Response | None:
        """Carries out a request, one at a time. Returns `None` if the connection is to be dropped."""
        with self._lock:
            try:
                response = self._find_fault_or_dispatch(method, target, authorization, body)
            except HubError as error:
                response = error.response
            # Logged before it is sent: as soon as it is, the client may end and the test look at the log.
            status = None if response is None else response.status
            self.requests.append(LoggedRequest(method, target, status, authorization is not None))
        if response is HANG:
            threading.Event().wait(self.hang_seconds)
            return None
        return response

    def _find_fault_or_dispatch(self, method, target, authorization, body) -> Response | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path_substring in target:
                fault.times -= 1
                if fault.then == "damage":
                    body = bytes([body[0] ^ 1]) + body[1:] if body else body
                elif fault.then == "hang":
                    return HANG
                elif fault.then == "lose":
                    with suppress(HubError):
                        self._dispatch(method, target, authorization, body)
                    return None
                elif fault.status is None:
                    return None
                else:
                    raise HubError(fault.status, "Injected by the test", headers=fault.headers)
        return self._dispatch(method, target, authorization, body)

    def _dispatch(self, method, target, authorization, body) -> Response:
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise HubError(401, "Invalid credentials in Authorization header")
        url = urlsplit(target)
        for route_method, pattern, needs_token, function in ROUTES:
            match = pattern.fullmatch(url.path)
            if match is None or route_method != method.replace("HEAD", "GET"):
                continue
            if needs_token and authorization is None:
                raise HubError(401, "Invalid username or password.")
            arguments: dict[str, Any] = {name: unquote(value) for name, value in match.groupdict().items()}
            kind = arguments.pop("kind", "")
            if "dataset" in arguments:
                arguments["repo"] = self.datasets.get(arguments.pop("dataset"))
            elif "repo" in arguments:
                arguments["repo"] = self.repos.get("spaces/" * kind.startswith("spaces") + arguments["repo"])
            if "repo" in arguments:
                if arguments["repo"] is None or (arguments["repo"].private and authorization is None):
                    raise HubError(404, "Repository not found", "RepoNotFound")
            return function(self, body=body, query=parse_qs(url.query), **arguments)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    @route("GET", "/api/whoami-v2")
    def _whoami(self, **_):
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return Response({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": auth})

    @route("POST", "/api/repos/create")
    def _create_repo(self, body, **_):
        request = json.loads(body)
        repo_id = f"{request['organization'] or USER}/{request['name']}"
        is_space = request.get("type") == "space"
        if is_space and request.get("sdk") not in ("gradio", "docker", "static"):
            raise HubError(400, "A Space needs an sdk")
        key = f"spaces/{repo_id}" if is_space else repo_id
        url = {"url": f"{self.url}/{key}"}
        if key in self.repos:
            # `create_repo(exist_ok=True)` takes the url from the error.
            return Response({"error": "You already created this repo", **url}, 409)
        self.add_repo(repo_id, private=request.get("visibility") == "private", sdk=request.get("sdk"))
        return Response(url)

    @route("POST", "/api/validate-yaml", needs_token=False)
    def _validate_yaml(self, body, **_):
        try:
            card = json.loads(body)
            parse_card(card["content"], is_space=card["repoType"] == "space")
        except ValueError as error:
            # Without any metadata the Hub only warns. In a test that is a mistake too.
            return Response({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return Response({"errors": [], "warnings": []})

    @route("POST", "/api/{kind}/{repo}/preupload/{revision}")
    def _preupload(self, repo, revision, body, **_):
        commit = repo.history(revision, writable=True)[-1]
        gitattributes = commit.files.get(".gitattributes", b"")
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            lfs = stored_as_lfs(path, base64.b64decode(file["sample"]), gitattributes)
            answers.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
            if path in commit.files:  # the client leaves files out of the commit that have the same oid here
                answers[-1]["oid"] = (sha256 if path in commit.lfs_paths else git_oid)(commit.files[path])
        return Response({"files": answers})

    @route("POST", r"/{space}{repo}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, repo, body, **_):
        verify = {"href": f"{self.address(repo)}.git/info/lfs/objects/verify"}
        objects = [{"oid": item["oid"], "size": item["size"]} for item in json.loads(body)["objects"]]
        for item in objects:
            if item["oid"] not in self.lfs_objects:  # else there is nothing to do, which is told by no actions
                item["actions"] = {"upload": {"href": f"{self.url}/lfs-uploads/{item['oid']}"}, "verify": verify}
        return Response({"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs-uploads/{oid}", needs_token=False)  # a signed url on the Hub: no token is sent
    def _lfs_upload(self, oid, body, **_):
        self._unverified[oid] = body
        return Response({})

    @route("POST", r"/{space}{repo}\.git/info/lfs/objects/verify")
    def _lfs_verify(self, repo, body, **_):
        expected = json.loads(body)
        content = self._unverified.get(expected["oid"], b"")
        if (sha256(content), len(content)) != (expected["oid"], expected["size"]):
            raise HubError(400, "The uploaded file does not have the announced sha256 and size")
        self.lfs_objects[expected["oid"]] = content
        return Response({})

    @route("POST", "/api/{kind}/{repo}/commit/{revision}")
    def _commit(self, repo, revision, body, query, **_):
        header, *operations = [json.loads(line) for line in body.splitlines()]
        history = repo.history(revision, writable=True)
        if header["value"].get("parentCommit") not in (None, history[-1].oid):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")

        files, lfs_paths = dict(history[-1].files), set(history[-1].lfs_paths)
        for operation in operations:
            kind, value, path = operation["key"], operation["value"], operation["value"]["path"]
            if kind == "file":
                files[path] = base64.b64decode(value["content"])
                lfs_paths.discard(path)
            elif kind == "lfsFile":
                if value["oid"] not in self.lfs_objects:
                    raise HubError(400, f"The LFS pointer of {path} points to a file that does not exist")
                files[path] = self.lfs_objects[value["oid"]]
                lfs_paths.add(path)
            else:  # "deletedFile" or "deletedFolder"
                in_folder = path.rstrip("/") + "/" if kind == "deletedFolder" else None
                deleted = [name for name in files if (name.startswith(in_folder) if in_folder else name == path)]
                if not deleted:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: content for name, content in files.items() if name not in deleted}
        summary, description = header["value"]["summary"], header["value"]["description"]
        commit = Commit(summary, description, files, frozenset(lfs_paths & files.keys()))

        url = self.address(repo)
        answer = {"commitUrl": f"{url}/commit/{commit.oid}", "commitOid": commit.oid, "pullRequestUrl": None}
        if query.get("create_pr") == ["1"]:
            num = len(repo.pull_requests) + 1
            repo.pull_requests.append(PullRequest(num, revision, [*history, commit], summary))
            answer["pullRequestUrl"] = f"{url}/discussions/{num}"
        else:
            history.append(commit)
        return Response(answer)

    @route("GET", "/api/models/{repo}/discussions")
    def _discussions(self, repo, **_):
        """All pull requests, which stay open here."""
        fields = {
            "author": {"name": USER},
            "status": "open",
            "isPullRequest": True,
            "repo": {"name": repo.repo_id, "type": "model"},
        }
        fields["createdAt"] = "2026-11-23T00:00:00.000Z"
        discussions = [{"title": pull.title, "num": pull.num, **fields} for pull in repo.pull_requests]
        return Response({"discussions": discussions, "count": len(discussions), "start": 0})

    @route("POST", "/api/models/{repo}/tag/{revision}")
    def _create_tag(self, repo, revision, body, **_):
        name = json.loads(body)["tag"]
        if name in repo.tags:
            raise HubError(409, f"Tag {name} already exists")
        repo.tags[name] = repo.history(revision)[-1].oid
        return Response({})

    @route("POST", "/api/models/{repo}/branch/{name}")
    def _create_branch(self, repo, name, body, **_):
        if name in repo.branches:
            raise HubError(409, f"Branch {name} already exists")
        repo.branches[name] = list(repo.history(json.loads(body).get("startingPoint", "main")))
        return Response({})

    @route("GET", "/api/models", needs_token=False)
    def _list_models(self, query, **_):
        """Public models by the filter `base_model:{id}`, which is all that is asked for."""
        wanted = [name.removeprefix("base_model:") for name in query.get("filter", [])]
        models = [repo for repo in self.repos.values() if repo.sdk is None]
        infos = [self._model_info(repo).content for repo in models if not repo.private]

        def bases(info):
            base = info["cardData"].get("base_model") or []
            return base if isinstance(base, list) else [base]

        return Response([info for info in infos if all(name in bases(info) for name in wanted)])

    @route("GET", "/api/{kind}/{repo}", needs_token=False)
    @route("GET", "/api/{kind}/{repo}/revision/{revision}", needs_token=False)
    def _model_info(self, repo, revision="main", **_):
        commit = repo.history(revision)[-1]
        try:
            card = parse_card(commit.files["README.md"].decode())
        except (KeyError, ValueError):
            card = {}
        info = {name: card[name] for name in ("library_name", "pipeline_tag", "tags", "model-index") if name in card}
        info.update(id=repo.repo_id, sha=commit.oid, private=repo.private, cardData=card)
        if repo.sdk is not None:
            info["sdk"] = repo.sdk
        return Response({**info, "siblings": [{"rfilename": path} for path in sorted(commit.files)]})

    @route("GET", "/api/datasets/{dataset}", needs_token=False)
    @route("GET", "/api/datasets/{dataset}/revision/{revision}", needs_token=False)
    def _dataset_info(self, repo, revision="main", **_):
        commit = repo.history(revision)[-1]
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return Response({"id": repo.repo_id, "sha": commit.oid, "private": repo.private, "siblings": siblings})

    @route("GET", "/api/{kind}/{repo}/tree/{revision}", needs_token=False)
    @route("GET", "/api/datasets/{dataset}/tree/{revision}", needs_token=False)
    @route("GET", "/api/datasets/{dataset}/tree/{revision}/{path}", needs_token=False)
    def _tree(self, repo, revision, query, path=None, **_):
        commit = repo.history(revision)[-1]
        entries = self._entries(commit, f"{path}/" if path else "", query.get("recursive") == ["true"])
        if path and not entries:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        return Response(entries)

    def _entries(self, commit, folder, recursive):
        """Files and folders in a folder, as the Hub lists them."""
        entries, folders = [], set()
        for path, content in sorted(commit.files.items()):
            parts = path.removeprefix(folder).split("/")
            if not path.startswith(folder):
                continue
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folders.add(folder + "/".join(parts[:depth]))
            if recursive or len(parts) == 1:
                entries.append({"type": "file", "path": path, "size": len(content), "oid": git_oid(content)})
                if path in commit.lfs_paths:
                    entries[-1]["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return [*({"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)), *entries]

    @route("POST", "/api/datasets/{dataset}/paths-info/{revision}", needs_token=False)
    def _paths_info(self, repo, revision, body, **_):
        """What is known of some files and folders; those that do not exist are left out."""
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        return Response([one for one in self._entries(repo.history(revision)[-1], "", True) if one["path"] in asked])

    @route("GET", "/datasets/{dataset}/resolve/{revision}/{path}", needs_token=False)
    @route("GET", "/{space}{repo}/resolve/{revision}/{path}", needs_token=False)
    def _resolve(self, repo, revision, path, **_):
        commit = repo.history(revision)[-1]
        headers = {"X-Repo-Commit": commit.oid}  # for errors too: the client remembers which files don't exist
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        content = commit.files[path]
        headers["ETag"] = f'"{git_oid(content)}"'
        if path in commit.lfs_paths:
            # The Hub answers with a redirect to its CDN. The client would follow one to the same host, and not see
            # the commit any more.
            headers["ETag"] = headers["X-Linked-Etag"] = f'"{sha256(content)}"'
            headers["X-Linked-Size"] = str(len(content))
        return Response(content, headers=headers)


class RequestHandler(BaseHTTPRequestHandler):
    """Translates between the bytes on the connection and `HubServer.respond`."""

    protocol_version = "HTTP/1.1"  # keeps connections open, as the client does
    wbufsize = -1  # buffered, to send headers and body at once: apart, one waits for the other to be acknowledged

    def _serve(self):
        # The body is read in any case: what is left of it would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response = self.server.hub.respond(self.command, self.path, self.headers.get("Authorization"), body)
        if response is None:
            self.close_connection = True
            return
        content = response.content
        if not isinstance(content, bytes):
            content = json.dumps(content, default=str).encode()  # as text: the dates that yaml finds in cards
        status, headers = response.status, response.headers
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and status == 200 and "/resolve/" in self.path:
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
            status, content = 206, content[start : end + 1]
        if self.command != "HEAD":
            self.server.hub.sent[urlsplit(self.path).path] += len(content)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *args):
        """Keeps the output of the tests clean. The log is `HubServer.requests`."""
