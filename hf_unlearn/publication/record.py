"""The deletion record: what was run for a request and what was measured, in a form that can be checked later."""

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from ..errors import InputError
from ..request.forget_request import ForgetRequest
from ..request.schemas import check_schema
from .files import CARD, PUBLISHED, RECORD, SALT, SIGNATURE
from .model_card import card_sha256
from .report import UnlearningReport


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.streaming import StreamedRows


NOTE = "A record of what was run and measured, not a proof of deletion."


@dataclass
class Provenance:
    """
    Where the forgotten images and the model come from.

    Args:
        forgotten (`list[str]`, *optional*):
            Names of the forgotten images, see [`image_names`]. Only their HMAC goes into the record.
        dataset_revision (`str`, *optional*):
            Commit of the dataset on the hub.
        dataset_fingerprint (`str`, *optional*):
            Fingerprint of the training split, by `datasets`.
        training_images (`int`, *optional*):
            Number of rows of the training split.
        streamed_columns (`list[str]`, *optional*):
            If the training split was streamed, the columns that were read of all its rows.
        streamed_rows (`dict[str, list[int]]`, *optional*):
            By split, the rows whose images were read. Only their HMAC goes into the record.
        split, image_column, label_column (`str`, *optional*):
            Name of the training split and of its columns.
        lineage (`list[dict]`, *optional*):
            Earlier requests of the model, see [`read_lineage`].
        sequence (`dict`, *optional*):
            Accuracies after each of several requests, see [`~evaluation.sequence.Tracker.table`].
        energy_kwh (`float`, *optional*):
            Energy that unlearning took, in kWh.
    """

    forgotten: list[str] = field(default_factory=list)
    dataset_revision: str | None = None
    dataset_fingerprint: str | None = None
    training_images: int | None = None
    streamed_columns: list[str] | None = None
    streamed_rows: dict[str, list[int]] = field(default_factory=dict)
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    lineage: list[dict] = field(default_factory=list)
    sequence: dict | None = None
    energy_kwh: float | None = None


def image_names(
    dataset: "Dataset", image_column: str, request: ForgetRequest | None = None, root: str | None = None
) -> list[str]:
    """
    The names by which one can ask a record for a forgotten image. Each has a prefix for its kind:

    - `pixels:` and the SHA-256 of the pixels;
    - `file:` and the path relative to `root`, or the file name of an image outside it;
    - `id:` and the value of the request's id column;
    - `row:` and the row number, if the request lists row numbers.

    Args:
        dataset (`datasets.Dataset`):
            The forget set.
        image_column (`str`):
            The column of the images.
        request ([`ForgetRequest`], *optional*):
            The request.
        root (`str`, *optional*):
            The data folder.

    Returns:
        `list[str]`: several names per image.
    """
    from ..data.image_dataset import hash_images, image_paths
    from ..data.labels import read_column
    from ..request.image_hash import pixel_sha256

    names = [f"pixels:{value}" for value in hash_images(dataset, image_column, pixel_sha256) if value is not None]
    for path in image_paths(dataset, image_column):
        if root is not None and Path(path).is_relative_to(Path(root).absolute()):
            names.append(f"file:{Path(path).relative_to(Path(root).absolute()).as_posix()}")
        elif path:
            names.append(f"file:{Path(path).name}")
    if request is not None and request.id_column is not None:
        names += [f"id:{value}" for value in read_column(dataset, request.id_column)]
    if request is not None and request.indices is not None and len(request.indices) == len(dataset):
        names += [f"row:{row}" for row in request.indices]
    return names


def hub_source(dataset: "Dataset | StreamedRows") -> tuple[str | None, str | None]:
    """
    Id and commit of the dataset on the hub that a dataset was loaded from. Both are in the addresses of its files.

    Returns:
        `tuple[str | None, str | None]`: `None` twice if the dataset is not from the hub.
    """
    from ..data.streaming import StreamedRows

    urls = dataset.urls if isinstance(dataset, StreamedRows) else dataset.info.download_checksums
    for url in urls or []:
        found = re.search(r"(?:hf://|/)datasets/([^@]+)@([0-9a-f]{40})/", url)
        if found:
            return found[1], found[2]
    return None, None


def lineage_of(name: str, revision: str, token: str | None = None, cache_dir: str | None = None) -> list[dict]:
    """
    The earlier requests of a model, from the deletion record beside it.

    Args:
        name (`str`):
            Folder or hub id of the model; empty for a model that was never stored.
        revision (`str`):
            Branch, tag or commit on the hub.
        token (`str`, *optional*):
            Token for a private or gated model.
        cache_dir (`str`, *optional*):
            Folder of the download cache.

    Returns:
        `list[dict]`: see [`read_lineage`]; empty if there is no record.
    """
    path = Path(name) / RECORD
    if name and not Path(name).is_dir():
        try:
            path = Path(hf_hub_download(name, RECORD, revision=revision, token=token, cache_dir=cache_dir))
        except (EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, HFValidationError):
            return []
    return read_lineage(read_record(path)) if name and path.is_file() else []


def salted(salt: bytes, name: str) -> str:
    """HMAC-SHA-256 of the name of an image, with the salt as the key."""
    return hmac.new(salt, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def write_salt(folder: Path) -> bytes:
    """
    Makes a salt of 32 random bytes, and writes it into the folder of the run as a file that only its owner can read.
    """
    path = folder / SALT
    path.unlink(missing_ok=True)
    salt = secrets.token_hex(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(salt + "\n")
    return bytes.fromhex(salt)


def read_salt(path: str | Path) -> bytes:
    """
    Reads a salt from its file.

    Raises:
        [`InputError`]: if the file holds no salt.
    """
    try:
        return bytes.fromhex(Path(path).read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        raise InputError("salt_file", f"{str(path)!r} holds no salt.") from error


def write_record(
    folder: str | Path, report: UnlearningReport, request: ForgetRequest | None, provenance: Provenance
) -> Path:
    """
    Writes `unlearning_record.json` and its salt beside the model, the report and the card.

    Args:
        folder (`str` or `Path`):
            The output folder of a run, with the model and the report in it.
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        request ([`ForgetRequest`] or `None`):
            The request; `None` if the forget set came without one, for example as a folder of images.
        provenance ([`Provenance`]):
            Where the forgotten images and the model come from.

    Returns:
        `Path`: the record.
    """
    folder, run = Path(folder), report.run
    salt = write_salt(folder)
    record = {
        "version": 1,
        "note": NOTE,
        "request": {
            "id": request.id if request else None,
            "date": request.date if request else None,
            **run["request"],
            "hmac_sha256": request.hmac(salt) if request else None,
        },
        "forgotten": {
            "images": report.splits["forget"],
            "hmac_sha256": sorted({salted(salt, name) for name in provenance.forgotten}),
        },
        "model": {"name": run["model"], "revision": run["model_revision"], "architecture": run["architecture"]},
        "dataset": {
            "name": run["dataset"],
            "revision": provenance.dataset_revision,
            "fingerprint": provenance.dataset_fingerprint,
            "training_images": provenance.training_images,
            **streamed(salt, provenance),
        },
        "weights": {
            "sha256_before": run["weights_sha256_before"],
            "sha256_after": run["weights_sha256_after"],
        },
        "method": {name: run[name] for name in ("preset", "paper", "hyperparameters")} | {"name": run["method"]},
        "metrics": measured(report),
        "environment": run["environment"],
        "started": run["started"],
        "ended": run["ended"],
        "seconds": run["seconds"],
        "energy_kwh": run["energy_kwh"],
        "lineage": provenance.lineage,
        "replay": run["replay"],
    }
    return seal(folder, record)


def streamed(salt: bytes, provenance: Provenance) -> dict:
    """What a record holds of a streamed dataset; nothing if it was not streamed."""
    if provenance.streamed_columns is None:
        return {}
    rows = {split: {"images": len(rows), "hmac_sha256": salted(salt, f"rows:{json.dumps(rows)}")}
            for split, rows in provenance.streamed_rows.items()}  # fmt: skip
    return {"streamed": {"columns": provenance.streamed_columns, "rows": rows}}


def measured(report: UnlearningReport) -> dict:
    """The numbers of a report that the record holds."""
    return {
        "splits": report.splits,
        "results": {model: result["metrics"] for model, result in report.results.items()},
        "missing": report.missing,
    }


def seal(folder: Path, record: dict) -> Path:
    """Adds the hashes of the files, of the card and of the record itself to a record, and writes it."""
    card = folder / CARD
    record |= {
        "files": {name: sha256_of(folder / name) for name in published_files(folder)},
        "card_sha256": card_sha256(card.read_text(encoding="utf-8")) if card.is_file() else None,
    }
    record["record_sha256"] = own_hash(record)
    check_schema(record, "unlearning_record")
    path = folder / RECORD
    content = serialize(record)
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)
        # The old signature does not fit the new content.
        (folder / SIGNATURE).unlink(missing_ok=True)
    return path


def reseal(folder: str | Path) -> None:
    """
    Computes the hashes of a record again, after the model or the card was rewritten. Does nothing if there is no
    record.
    """
    folder = Path(folder)
    if (folder / RECORD).is_file():
        seal(folder, read_record(folder / RECORD))


def serialize(record: dict) -> bytes:
    """The bytes of a record. Records with equal content have equal bytes."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def own_hash(record: dict) -> str:
    """SHA-256 of a record without the key that holds this hash."""
    without = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(serialize(without)).hexdigest()


def published_files(folder: Path) -> list[str]:
    """The published files of a run, except the card, the record and its signature."""
    files = {path.relative_to(folder).as_posix() for pattern in PUBLISHED for path in folder.glob(pattern)}
    return sorted(files - {CARD, RECORD, SIGNATURE})


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def read_record(path: str | Path) -> dict:
    """
    Reads a record and checks it against its schema.

    Raises:
        [`InputError`]: if the file does not exist or holds no valid record.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("record", f"there is no file {str(path)!r}.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        # Python reads a number that is too large for a float as infinity, which `serialize` refuses.
        serialize(record)
    except (ValueError, RecursionError) as error:
        raise InputError("record", f"{path.name} is no JSON: {' '.join(str(error).split())[:200]}.") from error
    try:
        check_schema(record, "unlearning_record")
    except InputError as error:
        raise InputError("record", f"{path.name} does not fit its schema, at {error}") from error
    return record


def read_lineage(record: dict) -> list[dict]:
    """
    The lineage for a model that is unlearned starting from the model of this record: the lineage of this record, and
    then this record in short.

    Args:
        record (`dict`):
            What [`read_record`] returns.

    Returns:
        `list[dict]`: per earlier request, in their order: `model`, `request`, `images` (how many), `weights` (their
        SHA-256 before and after), `ended` and `record_sha256`.
    """
    return [
        *record["lineage"],
        {
            "model": record["model"],
            "request": record["request"],
            "images": record["forgotten"]["images"],
            "weights": record["weights"],
            "ended": record["ended"],
            "record_sha256": record["record_sha256"],
        },
    ]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
