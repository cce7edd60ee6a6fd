"""Pushes a run to the hub: weights, config, image processor, card, report and pictures in one commit."""

from pathlib import Path

from .errors import HubPushError, InputError


# What a reader of the model page needs, and nothing else: no pickle, no checkpoint, no list of what was forgotten.
PUBLISHED = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json")
PUBLISHED += ("adapter_config.json", "README.md", "report.json", "figures/*.png")


def find_token(token: str | None) -> str:
    """
    The token given, else the one of the login.

    Raises:
        [`InputError`]: if there is none.
    """
    import huggingface_hub

    token = token or huggingface_hub.get_token()
    if token is None:
        raise InputError("push_to_hub", "there is no token. Log in with `hf auth login`, or set HF_TOKEN.")
    return token


def check_push(repo_id: str, original_repo_id: str, token: str | None) -> str:
    """
    Finds out before the work whether a push can go through.

    Args:
        repo_id (`str`):
            Where to push, with or without the namespace.
        original_repo_id (`str`):
            The model being unlearned, which must not be overwritten.
        token (`str`, *optional*):
            Defaults to the one of the login.

    Returns:
        `str`: the repository's full name.

    Raises:
        [`InputError`]: without a valid token, if the hub cannot be reached, or if the repository is the original.
    """
    import huggingface_hub

    token = find_token(token)
    try:
        user = huggingface_hub.HfApi(token=token).whoami()["name"]
    except Exception as error:
        # Whatever went wrong, the work has not started: say so in one line. No message of the hub holds the token.
        raise InputError(
            "push_to_hub", f"the hub does not accept the token or cannot be reached ({type(error).__name__})."
        ) from error
    if "/" not in repo_id:
        repo_id = f"{user}/{repo_id}"
    if repo_id == original_repo_id:
        raise InputError(
            "hub_model_id", f"{repo_id!r} is the original model, which is not overwritten. Choose another."
        )
    return repo_id


def push_folder(
    folder: str | Path,
    repo_id: str,
    token: str | None = None,
    private: bool | None = True,
    revision: str | None = None,
    commit_message: str = "Unlearned model",
) -> str:
    """
    Pushes a finished run as one commit.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        repo_id (`str`):
            Where to push.
        token (`str`, *optional*):
            Defaults to the one of the login.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new repository is private.
        revision (`str`, *optional*):
            Branch, defaults to the main one.
        commit_message (`str`, *optional*):
            Message of the commit.

    Returns:
        `str`: URL of the commit.

    Raises:
        [`InputError`]: if the folder holds no finished run.
        [`HubPushError`]: if the hub fails; everything stays on disk.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError("folder", f"{str(folder)!r} holds no finished run.")
    files = sorted({path for pattern in PUBLISHED for path in folder.glob(pattern)})
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
    api = HfApi(token=find_token(token))
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo.repo_id, operations, commit_message=commit_message, revision=revision)
    except Exception as error:
        # The client raises many kinds of errors (HTTP, connection, time-out); for the user they are one.
        raise HubPushError(
            f"the push to {repo_id} failed ({type(error).__name__}). Everything is in {folder}; "
            f"push it again with: hf-unlearn push {folder} --hub_model_id {repo_id}"
        ) from error
    return commit.commit_url
