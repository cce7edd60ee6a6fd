"""Signs a deletion record with an Ed25519 key, and checks the signature. Uses the library `cryptography`."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import InputError
from .files import RECORD, SIGNATURE


if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass
class Check:
    """
    The outcome of one check.

    Args:
        holds (`bool` or `None`):
            Whether the check passed; `None` if there was nothing to check.
        text (`str`):
            What was checked, in words.
    """

    holds: bool | None
    text: str


def _cryptography() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError(
            "sign_key", "signatures need the library cryptography: pip install 'hf-unlearn[signing]'."
        ) from error
    return exceptions, serialization, ed25519


def read_private_key(path: str | Path) -> "Ed25519PrivateKey":
    """
    Reads an Ed25519 private key without a password from a PEM file, as `openssl genpkey -algorithm ed25519` writes it.

    Raises:
        [`InputError`]: if the file holds no such key, or if the library `cryptography` is not installed.
    """
    _, serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError("sign_key", f"{str(path)!r} holds no private key in PEM form without a password.") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(
            "sign_key", f"{str(path)!r} holds no Ed25519 key. Make one: openssl genpkey -algorithm ed25519."
        )
    return key


def sign_record(folder: str | Path, key_file: str | Path) -> Path:
    """
    Signs the bytes of the record. The record holds the hashes of the weights, the report and the card, so the
    signature covers them too.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        key_file (`str` or `Path`):
            PEM file with the private key, see [`read_private_key`].

    Returns:
        `Path`: the file of the signature, beside the record.

    Raises:
        [`InputError`]: if there is no record or no key.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise InputError("folder", f"{str(folder)!r} holds no {RECORD}.")
    key = read_private_key(key_file)
    signature = {
        "algorithm": "ed25519",
        "public_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign((folder / RECORD).read_bytes()).hex(),
    }
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1) + "\n", encoding="utf-8")
    return folder / SIGNATURE


def check_signature(folder: Path, content: bytes, public_key: str | Path | None) -> Check:
    """
    Checks the signature of a record.

    Args:
        folder (`Path`):
            The folder of the record.
        content (`bytes`):
            The bytes of the record.
        public_key (`str` or `Path`, *optional*):
            PEM file with the public key of the expected signer. Without it, a signature by any key passes.

    Returns:
        [`Check`]: `holds` is `None` if the record is not signed and no signer is expected.

    Raises:
        [`InputError`]: if `public_key` holds no Ed25519 key, or if the library `cryptography` is needed and not
            installed.
    """
    if not (folder / SIGNATURE).is_file():
        if public_key is not None:
            return Check(False, "the record is not signed")
        return Check(None, "the record is not signed: it agrees with itself, and anyone could have written it")
    exceptions, serialization, ed25519 = _cryptography()
    expected = None
    if public_key is not None:
        try:
            key = serialization.load_pem_public_key(Path(public_key).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError("public_key", f"{str(public_key)!r} holds no public key in PEM form.") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError("public_key", f"{str(public_key)!r} holds no Ed25519 key.")
        expected = key.public_bytes_raw().hex()
    try:
        signature = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
        signer = signature["public_key"]
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        key.verify(bytes.fromhex(signature["signature"]), content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, exceptions.InvalidSignature):
        return Check(False, "the signature is not one of this record")
    if expected is None:
        return Check(
            True, f"the record is signed by the key {signer}; --public_key tells whether that is whom you trust"
        )
    return Check(signer == expected, "the record is signed by the key given")
