"""Pushes a Space to the hub: a page on which anyone can try a model before and after it was unlearned."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HubPushError, InputError
from .files import CARD, RECORD
from .hub import find_token, in_short, retry
from .record import read_record


if TYPE_CHECKING:
    from huggingface_hub import HfApi


SPACE = Path(__file__).parent / "space"
# The two models that the page shows.
MODELS = "unlearned_model.json"
# What the hub itself puts into a new Space.
OF_A_NEW_SPACE = {".gitattributes", CARD}


def find_original(
    folder: str | Path, token: str | None = None, original_model: str | None = None
) -> dict[str, str | None]:
    """
    The original model that a Space shows beside the unlearned one. Called before anything is pushed.

    Args:
        folder (`str` or `Path`):
            The output folder of the run.
        token (`str`, *optional*, defaults to the token of the login):
            Token of the hub.
        original_model (`str`, *optional*):
            Hub id of the original model; default: the one of the record.

    Returns:
        `dict[str, str | None]`: `original` and `original_revision`.

    Raises:
        [`InputError`]: if there is no record, or if the original model is not on the hub.
        [`HubPushError`]: if the hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    named = read_record(Path(folder) / RECORD)["model"]
    name = original_model or named["name"]
    api = HfApi(token=find_token(token))
    try:
        # The name of a folder has no slash in the record, and could be that of another model on the hub.
        is_there = "/" in name and retry(lambda: api.repo_exists(name))
    except HFValidationError:
        is_there = False
    except Exception as error:
        raise HubPushError(f"the hub cannot be asked for the model {name} ({in_short(error)}).") from error
    if not is_there:
        raise InputError(
            "original_model",
            f"a Space shows the original beside the unlearned model, and {name!r} is no model of the hub that can be read. Push "
            "it, and name it with --original_model.",
        )
    return {"original": name, "original_revision": named["revision"] if name == named["name"] else None}


def push_space(
    repo_id: str,
    original: dict[str, str | None],
    token: str | None = None,
    private: bool = True,
    revision: str | None = None,
    overwrite_space: bool = False,
) -> str:
    """
    Pushes a Space beside an unlearned model that was pushed, under the same name. It holds the page and the names of the two
    models: no image, no weights and no token. Pushing it again changes nothing.

    Args:
        repo_id (`str`):
            The repository of the unlearned model.
        original (`dict[str, str | None]`):
            What [`find_original`] returns.
        token (`str`, *optional*, defaults to the token of the login):
            Token of the hub.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new Space is private.
        revision (`str`, *optional*, defaults to the main branch):
            Branch or tag of the unlearned model.
        overwrite_space (`bool`, *optional*, defaults to `False`):
            Whether to replace files of a Space that is there and differs.

    Returns:
        `str`: URL of the Space.

    Raises:
        [`InputError`]: if a Space of this name holds other files.
        [`HubPushError`]: if the hub fails.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=find_token(token))
    try:
        return retry(lambda: push_once(api, repo_id, original, private, revision, overwrite_space))
    except InputError:
        raise
    except Exception as error:
        # As for a model: many kinds of errors become one for the user.
        raise HubPushError(
            f"the push of the Space {repo_id} failed ({in_short(error)}). The model beside it was pushed; the same command "
            "tries both again."
        ) from error


def push_once(
    api: "HfApi",
    repo_id: str,
    original: dict[str, str | None],
    private: bool,
    revision: str | None,
    overwrite_space: bool,
) -> str:
    """One try of [`push_space`]. It can be repeated, since it starts from the current files of the Space."""
    from huggingface_hub import CommitOperationAdd

    repo_id = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True).repo_id
    info = api.space_info(repo_id)
    present = {sibling.rfilename for sibling in info.siblings or []}
    files = space_files({**original, "unlearned": repo_id, "unlearned_revision": revision})
    if not overwrite_space and present - OF_A_NEW_SPACE:
        for name in sorted(present & files.keys()):
            path = api.hf_hub_download(repo_id, name, repo_type="space", revision=info.sha)
            if Path(path).read_bytes() != files[name]:
                raise InputError(
                    "hub_model_id",
                    f"the Space {repo_id!r} holds another {name!r}, which is not overwritten. Add --overwrite_space to replace "
                    "it.",
                )
    api.create_commit(
        repo_id,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message="Before and after unlearning",
        repo_type="space",
        # The hub refuses the commit if someone else has committed since. The next try then starts from their commit.
        parent_commit=info.sha,
    )
    return f"{api.endpoint}/spaces/{repo_id}"


def space_files(models: dict[str, str | None]) -> dict[str, bytes]:
    """
    The files of a Space.

    Args:
        models (`dict[str, str | None]`):
            `original` and `unlearned`, with `original_revision` and `unlearned_revision`.

    Returns:
        `dict[str, bytes]`: by name, what it holds.
    """
    from huggingface_hub import RepoCard

    card = RepoCard((SPACE / CARD).read_text(encoding="utf-8"))
    card.data["title"] = f"{str(models['unlearned']).split('/')[-1]}: before and after"
    card.data["models"] = [models["original"], models["unlearned"]]
    return {
        "app.py": (SPACE / "app.py").read_bytes(),
        "requirements.txt": (SPACE / "requirements.txt").read_bytes(),
        CARD: str(card).encode(),
        MODELS: (json.dumps(models, indent=1, sort_keys=True) + "\n").encode(),
    }
