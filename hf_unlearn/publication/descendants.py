"""Models that are made from a model, on the disk and on the hub, and which requests each of them went through."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import HubPushError, InputError
from .files import CARD, RECORD
from .hub import in_short, retry
from .record import lineage_of, read_lineage, read_record, sha256_of
from .report import weights_sha256


# Models of the hub that are looked at, at most.
MOST_MODELS = 1000


@dataclass
class Model:
    """
    A model, and where it comes from.

    Args:
        name (`str`):
            Hub id or folder.
        requests (`list[str]`):
            Ids of the requests that it went through, oldest first; `"without an id"` for one that has none.
        parent (`str`, *optional*):
            Name of the model that it is made from; `None` for the one that was asked for.
        reason (`str`, *optional*):
            How that is known.
    """

    name: str
    requests: list[str]
    parent: str | None = None
    reason: str = ""


@dataclass
class ModelFolder:
    """A model on the disk: the names of its base models, its record if there is one, and its files of weights."""

    path: Path
    bases: set[str] = field(default_factory=set)
    record: dict | None = None
    weights: list[Path] = field(default_factory=list)

    def sha256(self) -> str | None:
        """SHA-256 of the weights as a record gives it; `None` if they cannot be read."""
        if self.record is not None:
            return self.record["weights"]["sha256_after"]
        try:
            return weights_sha256({name: value for path in self.weights for name, value in load_file(path).items()})
        except (SafetensorError, OSError):
            return None


def find_descendants(model: str, folders: Sequence[str | Path], token: str | None = None) -> list[Model]:
    """
    Finds the models that are made from a model, and those made from these.

    Args:
        model (`str`):
            Hub id or folder.
        folders (`list[str]`):
            Folders on the disk to look through.
        token (`str`, *optional*):
            Token of the hub.

    Returns:
        `list[Model]`: the model itself first.

    Raises:
        [`InputError`]: if a folder does not exist, or if the folder of the model holds none.
        [`HubPushError`]: if the hub cannot be asked.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError("folder", f"there is no folder {str(folder)!r}.")
    root = None
    if Path(model).is_dir():
        root = read_model_folder(Path(model))
        if root is None:
            raise InputError("model", f"{model!r} holds no model: a config.json and weights as safetensors.")
        requests = ids_of(read_lineage(root.record)) if root.record is not None else []
    else:
        requests = ids_of(ask(lambda: lineage_of(model, "main", token)))
    found = [Model(model, requests)]
    left = [other for folder in folders for other in model_folders(Path(folder))]
    left = [other for other in left if root is None or other.path.resolve() != root.path.resolve()]
    seen, on_disk = {model}, {model: root}
    for parent in found:
        folder = on_disk.get(parent.name)
        if folder is None:
            for name, steps in children_on_hub(parent.name, token):
                if name not in seen:
                    seen.add(name)
                    found.append(
                        Model(name, ids_of(steps) or parent.requests, parent.name, "its card on the hub names it")
                    )
        sha256 = folder.sha256() if folder is not None and left else None
        for other in list(left):
            reason = is_made_from(other, parent.name, folder, sha256)
            if reason is not None:
                left.remove(other)
                name = str(other.path)
                on_disk[name] = other
                steps = read_lineage(other.record) if other.record is not None else []
                found.append(Model(name, ids_of(steps) or parent.requests, parent.name, reason))
    return found


def is_made_from(other: ModelFolder, name: str, folder: ModelFolder | None, sha256: str | None) -> str | None:
    """How it is known that a model on the disk is made from another; `None` if nothing says so."""
    names = {name} if folder is None else {name, str(folder.path.absolute()), str(folder.path.resolve())}
    if other.record is not None:
        steps = [*other.record["lineage"], other.record]
        if sha256 is not None and any(step["weights"]["sha256_before"] == sha256 for step in steps):
            return "its record begins with these weights"
        if folder is None and any(step["model"]["name"] == name for step in steps):
            return "its record names it"
    if names & other.bases:
        return "its card or configuration names it"
    if folder is not None and folder.weights and same_files(folder.weights, other.weights):
        return "a copy: the same weights"
    return None


def same_files(some: list[Path], others: list[Path]) -> bool:
    """Whether two lists of files have the same contents. Sizes come first: they need not be read."""
    if sorted(path.stat().st_size for path in some) != sorted(path.stat().st_size for path in others):
        return False
    return sorted(map(sha256_of, some)) == sorted(map(sha256_of, others))


def model_folders(folder: Path) -> list[ModelFolder]:
    """All models below a folder."""
    places = sorted({path.parent for name in ("config.json", "adapter_config.json") for path in folder.rglob(name)})
    return [found for place in places if (found := read_model_folder(place)) is not None]


def read_model_folder(path: Path) -> ModelFolder | None:
    """A folder with a configuration and weights; `None` if it has not both. What cannot be read in it is left out."""
    weights = sorted(path.glob("*.safetensors"))
    configurations = [path / name for name in ("config.json", "adapter_config.json") if (path / name).is_file()]
    if not weights or not configurations:
        return None
    found = ModelFolder(path, weights=weights)
    for configuration in configurations:
        try:
            values = json.loads(configuration.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue
        if isinstance(values, dict):
            found.bases |= names_in(values.get("base_model_name_or_path")) | names_in(values.get("_name_or_path"))
    try:
        found.bases |= names_in((metadata_load(path / CARD) or {}).get("base_model"))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        # No card, or one without metadata that can be read.
        pass
    try:
        found.record = read_record(path / RECORD)
    except InputError:
        pass
    return found


def names_in(value: object) -> set[str]:
    """Names that a card or a configuration gives: one, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return {name for name in values if isinstance(name, str) and name}


def ids_of(steps: list[dict]) -> list[str]:
    """Ids of the requests of a lineage."""
    return [step["request"]["id"] or "without an id" for step in steps]


def children_on_hub(name: str, token: str | None) -> Iterator[tuple[str, list[dict]]]:
    """Ids of the models on the hub whose cards name a model as their base, with their lineage."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    models = ask(lambda: list(islice(api.list_models(filter=f"base_model:{name}", full=True), MOST_MODELS)))
    for info in models:
        files = [sibling.rfilename for sibling in info.siblings or []]
        has_record = RECORD in files or info.siblings is None
        yield info.id, ask(lambda name=info.id: lineage_of(name, "main", token)) if has_record else []


def ask(call: Any) -> Any:
    """
    Calls a function that asks the hub.

    Raises:
        [`HubPushError`]: if the hub cannot be asked.
    """
    try:
        return retry(call)
    except InputError:
        # A record on the hub that does not fit its schema says nothing.
        return []
    except Exception as error:
        # The client raises many kinds of errors. They all become one line for the user.
        raise HubPushError(f"the hub could not be asked for models ({in_short(error)}).") from error
