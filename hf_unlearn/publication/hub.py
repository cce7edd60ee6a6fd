"""Pushes a run to the hub: weights, configuration, image processor, card, report, record and figures in one commit."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubPushError, InputError
from .files import CARD, PUBLISHED, RECORD, SIGNATURE


if TYPE_CHECKING:
    from huggingface_hub import HfApi


WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.pt", "*.pth")
# Files of an earlier push that are deleted if this push does not replace them. Above all, old weights still know the
# forgotten images.
STALE = (*WEIGHTS, "*.safetensors.index.json", "*.bin.index.json", "figures/*.png", SIGNATURE, "adapter_config.json")

# Seconds to wait before each new try, if the hub does not say how long.
WAITS = (1, 2, 4, 8)
LONGEST_WAIT = 300


def find_token(token: str | None) -> str:
    """The token given, else the token of the login; an [`InputError`] if there is none."""
    import huggingface_hub

    token = token or huggingface_hub.get_token()
    if token is None:
        raise InputError("push_to_hub", "there is no token. Log in with `hf auth login`, or set HF_TOKEN.")
    return token


def check_push(
    repo_id: str,
    original_repo_id: str | None,
    token: str | None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """
    Checks whether a push can succeed, before the run starts.

    Args:
        repo_id (`str`):
            The repository to push to, with or without its namespace.
        original_repo_id (`str`):
            The model that is unlearned. It must not be overwritten.
        token (`str` or `None`):
            Token of the hub; `None` for the token of the login.
        revision (`str`, *optional*):
            Branch to push to.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether the push opens a pull request, which overwrites nothing.

    Returns:
        `str`: name of the repository with its namespace.

    Raises:
        [`InputError`]: if there is no valid token, if the hub cannot be reached, or if the repository is that of the
            original model or holds another model.
    """
    import huggingface_hub

    token = find_token(token)
    api = huggingface_hub.HfApi(token=token)
    try:
        user = retry(api.whoami)["name"]
        if "/" not in repo_id:
            repo_id = f"{user}/{repo_id}"
        files = [] if create_pr else retry(lambda: files_of(api, repo_id, revision)[1])
    except Exception as error:
        # The run has not started, so every error becomes one line. `in_short` leaves out the text of the error, which
        # may hold what was sent.
        raise InputError(
            "push_to_hub", f"the hub does not accept the token or cannot be reached ({in_short(error)})."
        ) from error
    if not create_pr:
        refuse_overwriting(repo_id, original_repo_id, files)
    return repo_id


def refuse_overwriting(repo_id: str, original_repo_id: str | None, files: list[str]) -> None:
    """
    Checks that a push to `repo_id`, which holds `files`, overwrites no model that hf_unlearn did not push.

    Raises:
        [`InputError`]: if the repository is that of the original model, or if it holds weights without a deletion
            record.
    """
    if repo_id == original_repo_id:
        raise InputError(
            "hub_model_id", f"{repo_id!r} is the original model, which is not overwritten. Choose another."
        )
    if RECORD not in files and any(matches(file, WEIGHTS) for file in files):
        raise InputError(
            "hub_model_id",
            f"{repo_id!r} holds a model without an unlearning record, which is not overwritten. Choose another, or open a "
            "pull request with --create_pr; `hf-unlearn push --overwrite_model` replaces it.",
        )


def files_of(api: "HfApi", repo_id: str, revision: str | None) -> tuple[str | None, list[str]]:
    """
    Commit and file paths of a repository at a revision; `None` and no paths if there is no such repository or
    revision.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.model_info(repo_id, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None, []
    return info.sha, [sibling.rfilename for sibling in info.siblings or []]


def push_folder(
    folder: str | Path,
    repo_id: str,
    token: str | None = None,
    private: bool | None = True,
    revision: str | None = None,
    commit_message: str = "Unlearned model",
    create_pr: bool = False,
    tag: str | None = None,
    overwrite_model: bool = False,
) -> str:
    """
    Pushes a finished run as one commit, so the repository gets all files or none. Pushing the same run again changes
    nothing. After an interrupted push, files that already arrived are not sent again.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        repo_id (`str`):
            The repository to push to.
        token (`str`, *optional*, defaults to the token of the login):
            Token of the hub.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new repository is private.
        revision (`str`, *optional*, defaults to the main branch):
            Branch to push to; made if it does not exist. With `create_pr`, the branch that the pull request is for.
        commit_message (`str`, *optional*, defaults to `"Unlearned model"`):
            Message of the commit.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request.
        tag (`str`, *optional*):
            Name of a tag for the commit.
        overwrite_model (`bool`, *optional*, defaults to `False`):
            Whether to replace a model that hf_unlearn did not push, even the original model.

    Returns:
        `str`: URL of the commit or of the pull request.

    Raises:
        [`InputError`]: if the folder holds no finished run, or if the repository holds another model.
        [`HubPushError`]: if the hub fails. All files stay on the disk.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError("folder", f"{str(folder)!r} holds no finished run.")
    if tag is not None and create_pr:
        raise InputError("tag", "cannot be combined with --create_pr: tag what was merged.")
    api = HfApi(token=find_token(token))
    try:
        return retry(
            lambda: push_once(api, folder, repo_id, private, revision, commit_message, create_pr, tag, overwrite_model)
        )
    except InputError:
        raise
    except Exception as error:
        # The client raises many kinds of errors (HTTP, connection, time-out). They all become one error for the user.
        raise HubPushError(
            f"the push to {repo_id} failed ({in_short(error)}). Everything is in {folder}; "
            f"push it again with: hf-unlearn push {folder} --hub_model_id {repo_id}"
        ) from error


def push_once(
    api: "HfApi",
    folder: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    commit_message: str,
    create_pr: bool,
    tag: str | None,
    overwrite_model: bool,
) -> str:
    """One try of [`push_folder`]. It can be repeated, since it starts from the current files of the repository."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from .model_card import merge_cards
    from .record import read_record

    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    head, present = files_of(api, repo_id, revision)
    if not create_pr and not overwrite_model:
        refuse_overwriting(repo_id, original_of(folder), present)
    record = folder / RECORD
    if create_pr:
        # The title tells whether a pull request for this record is already open: from an earlier push, or from a try
        # whose answer did not arrive.
        name = read_record(record)["record_sha256"][:12] if record.is_file() else "none"
        commit_message = f"{commit_message} (record {name})"
        for discussion in api.get_repo_discussions(repo_id, discussion_type="pull_request", discussion_status="open"):
            if discussion.title == commit_message:
                return f"{api.endpoint}/{repo_id}/discussions/{discussion.num}"

    files = sorted({path for pattern in PUBLISHED for path in folder.glob(pattern)})
    content: dict[str, Any] = {path.relative_to(folder).as_posix(): str(path) for path in files}
    if CARD in content and CARD in present:
        with tempfile.TemporaryDirectory() as aside:
            old = Path(api.hf_hub_download(repo_id, CARD, revision=head, local_dir=aside)).read_bytes()
        card = merge_cards(old.decode("utf-8", "replace"), (folder / CARD).read_text(encoding="utf-8"))
        content[CARD] = card.encode()
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(path, source) for path, source in content.items()]
        + [CommitOperationDelete(path) for path in present if path not in content and matches(path, STALE)],
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
        # The hub refuses the commit if someone else has committed since. The next try then starts from their commit.
        parent_commit=head,
    )
    if tag is not None:
        set_tag(api, repo_id, tag, commit.oid)
    return commit.pr_url or commit.commit_url


def set_tag(api: "HfApi", repo_id: str, tag: str, commit: str) -> None:
    """
    Tags a commit. Does nothing if the commit already has this tag.

    Raises:
        [`InputError`]: if the tag already names another commit.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_tag(repo_id, tag=tag, revision=commit)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        if api.model_info(repo_id, revision=tag).sha != commit:
            raise InputError("tag", f"{tag!r} is the name of another commit. The push itself went through.") from error


def original_of(folder: Path) -> str | None:
    """
    Name of the model that was unlearned, from the report; `None` if there is no report.

    Raises:
        [`InputError`]: if `report.json` is not the report of a run.
    """
    report = folder / "report.json"
    if not report.is_file():
        return None
    try:
        return json.loads(report.read_text(encoding="utf-8"))["run"]["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("folder", f"{str(report)!r} is no report of a run.") from error


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path fits one of the patterns. A pattern fits only paths with as many slashes as it has itself."""
    return any(fnmatch(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)


# ---- Trying again when the hub fails ----


def retry(call: Callable[[], Any]) -> Any:
    """
    Calls a function until it succeeds. An error that another try cannot fix is raised at once; after the last try,
    every error is raised.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            seconds = wait_after(error, wait)
            if seconds is None:
                raise
            time.sleep(seconds)


def wait_after(error: Exception, wait: float | None) -> float | None:
    """
    How long to wait before the next try, after an error.

    Args:
        error (`Exception`):
            What the client of the hub raised.
        wait (`float` or `None`):
            Seconds to wait if the hub does not say how long; `None` if there is no next try.

    Returns:
        `float` or `None`: seconds to wait; `None` if the error must be raised.
    """
    if wait is None:
        return None
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            # 412: someone else has committed. 400 at this address: a large file arrived damaged.
            damaged = status == 400 and str(cause.response.url).endswith("/info/lfs/objects/verify")
            if status in (408, 412, 429, 500, 502, 503, 504) or damaged:
                asked = cause.response.headers.get("Retry-After", "")
                return min(float(asked), LONGEST_WAIT) if asked.isdecimal() else wait
        elif isinstance(cause, httpx2.TransportError):
            return wait
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and the errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def in_short(error: Exception) -> str:
    """The type of an error and its HTTP status, if any. The message is left out, since it may hold what was sent."""
    for cause in causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return f"{type(cause).__name__}, status {response.status_code}"
    return type(error).__name__


def download(
    repo_id: str, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> Path:
    """
    Downloads a repository; `revision` is a branch, tag, commit or pull request (`refs/pr/N`).

    Returns:
        `Path`: the folder with the files.

    Raises:
        [`InputError`]: if the repository does not exist or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(retry(lambda: snapshot_download(repo_id, revision=revision, token=token, cache_dir=cache_dir)))
    except Exception as error:
        # The client raises many kinds of errors. They all become one error for the user.
        raise InputError(
            "target", f"{repo_id!r} is no folder, and no repository that can be reached ({in_short(error)})."
        ) from error


def validate_card(card: str) -> str:
    """
    Lets the hub check the front matter of a card, as it does at every push.

    Args:
        card (`str`):
            The text of `README.md`.

    Returns:
        `str`: a sentence: the hub accepts the front matter, or could not be reached.

    Raises:
        [`InputError`]: if the hub refuses the front matter.
    """
    from huggingface_hub import ModelCard

    try:
        ModelCard(card, ignore_metadata_errors=True).validate()
    except ValueError as error:
        raise InputError("card", f"the hub refuses the front matter: {' '.join(str(error).split())}") from error
    except Exception as error:
        # The hub cannot be reached. The card is already written, so this is not an error.
        return f"The front matter was not checked: the hub cannot be reached ({type(error).__name__})."
    return "The hub accepts the front matter."
