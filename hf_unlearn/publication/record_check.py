"""Checks a deletion record against itself and against the files beside it, and looks up an image in it."""

from pathlib import Path

from ..errors import InputError, listing
from .files import CARD, RECORD
from .model_card import card_sha256
from .record import (
    measured,
    own_hash,
    read_record,
    salted,
    serialize,
    sha256_of,
)
from .report import UnlearningReport
from .signing import Check, check_signature


# Names of files with weights or code. If the record does not list such a file, the file could change what the model
# does.
EXECUTABLE = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.pkl", "*.py")


def verify(folder: str | Path, public_key: str | Path | None = None) -> list[Check]:
    """
    Checks a deletion record against itself and against the model, the report, the card and the figures beside it.

    Args:
        folder (`str` or `Path`):
            The output folder of a run, or a folder that was downloaded from the hub.
        public_key (`str` or `Path`, *optional*):
            PEM file with the Ed25519 public key of the expected signer.

    Returns:
        `list[Check]`: the outcome of each check.

    Raises:
        [`InputError`]: if there is no record, or if it does not fit its schema.
    """
    folder = Path(folder)
    record = read_record(folder / RECORD)
    content = (folder / RECORD).read_bytes()
    checks = [
        Check(True, "the record fits its schema"),
        Check(
            own_hash(record) == record["record_sha256"] and serialize(record) == content,
            "the record is as it was written (its own hash)",
        ),
    ]
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            checks.append(Check(False, f"{name} is missing"))
        else:
            checks.append(Check(sha256_of(path) == expected, f"{name} has the SHA-256 of the record"))
    if not any(name.endswith(".safetensors") for name in record["files"]):
        checks.append(Check(False, "the record lists no weights"))
    unknown = {path.relative_to(folder).as_posix() for pattern in EXECUTABLE for path in folder.glob(pattern)}
    unknown -= set(record["files"])
    if unknown:
        checks.append(Check(False, f"weights or code that the record does not know: {listing(sorted(unknown), 5)}"))
    checks.append(_check_report(folder, record))
    card = folder / CARD
    if card.is_file():
        text = card.read_bytes().decode("utf-8", "replace")
        checks.append(Check(card_sha256(text) == record["card_sha256"], "the card says what it was written to say"))
    else:
        checks.append(Check(False, f"{CARD} is missing"))
    steps = [*record["lineage"], {"weights": record["weights"]}]
    if len(steps) > 1:
        linked = all(
            one["weights"]["sha256_after"] == other["weights"]["sha256_before"]
            for one, other in zip(steps, steps[1:], strict=False)
        )
        checks.append(Check(linked, f"each of the {len(steps)} requests began where the one before it ended"))
    checks.append(check_signature(folder, content, public_key))
    return checks


def _check_report(folder: Path, record: dict) -> Check:
    try:
        numbers = measured(UnlearningReport.from_json(folder / "report.json"))
    except (InputError, KeyError, TypeError, AttributeError):
        return Check(False, "report.json cannot be read")
    return Check(numbers == record["metrics"], "the report holds the numbers of the record")


def was_forgotten(record: dict, salt: bytes, name: str) -> bool:
    """
    Whether an image was in the forget set.

    Args:
        record (`dict`):
            What [`~publication.record.read_record`] returns.
        salt (`bytes`):
            What [`~publication.record.read_salt`] returns.
        name (`str`):
            A path in the data folder, a value of the id column, a row number, or `pixels:` and the SHA-256 of the
            pixels.

    Returns:
        `bool`: `False` also means that the record knows the image under another name only, or that the salt is wrong.
    """
    names = [name] if name.startswith("pixels:") else [f"{kind}:{name}" for kind in ("file", "id", "row")]
    return any(salted(salt, one) in record["forgotten"]["hmac_sha256"] for one in names)
