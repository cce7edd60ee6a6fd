"""
The commands `hf-unlearn record`, which checks or signs a deletion record or carries its run out again, and `hf-unlearn card`, which writes a model
card again.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    from ..publication.signing import Check


USAGE = """\
usage: hf-unlearn record verify DIR|REPO [--salt_file FILE --id ID --image FILE] [--public_key FILE]
       hf-unlearn record sign DIR --key_file FILE
       hf-unlearn record replay DIR [--model_name_or_path ORIGINAL] [--dataset_name DATA]

  verify  compute the hashes of weights, report, card and record again and say what was changed; with the salt, say
          whether an image was among those forgotten
  sign    sign the record with an Ed25519 key (PEM; openssl genpkey -algorithm ed25519 -out key.pem)
  replay  carry the run out again with the original model, the images and the settings of the record, and compare the
          weights; nothing is written
"""


def record_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn record`.

    Returns:
        `int`: exit code: 0, or 1 if the record does not hold.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "verify":
        return verify_command(argv[1:])
    if argv[0] == "sign":
        parser = argparse.ArgumentParser(prog="hf-unlearn record sign", description="Sign the record of a run.")
        parser.add_argument("folder", help="The --output_dir of the run.")
        parser.add_argument("--key_file", required=True, help="PEM file with an Ed25519 private key.")
        args = parser.parse_args(argv[1:])

        from ..publication.signing import sign_record

        print(f"Signed: {sign_record(args.folder, args.key_file)}")
        return 0
    if argv[0] == "replay":
        return replay_command(argv[1:])
    raise InputError("record", f"unknown command {argv[0]!r}. Valid: verify, sign, replay.")


def replay_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn record replay`.

    Returns:
        `int`: exit code: 0, or 1 if the run done again does not give what the record says.
    """
    from .parsing import parse_checkpoints
    from .replay import make_parser, replay

    checks = replay(*parse_checkpoints(make_parser(), argv))
    print_checks(checks)
    if any(check.holds is False for check in checks):
        print("The record is not confirmed.")
        return 1
    print("The record is confirmed: the run was done again and gave the same weights.")
    return 0


def print_checks(checks: "list[Check]") -> None:
    """Prints a line for each check."""
    for check in checks:
        print({True: "ok       ", False: "CHANGED  ", None: "note     "}[check.holds] + check.text)


def verify_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn record verify`.

    Returns:
        `int`: exit code: 0, or 1 if the record does not hold.
    """
    parser = argparse.ArgumentParser(prog="hf-unlearn record verify", description="Check a deletion record.")
    parser.add_argument("target", help="The folder of a run, or a repository of the hub.")
    parser.add_argument("--revision", help="Branch, tag, commit or refs/pr/N of the repository.")
    parser.add_argument("--salt_file", help="The salt of the record, which is kept where it was run.")
    parser.add_argument("--id", action="append", default=[], help="Path, id or row number of an image to ask for.")
    parser.add_argument("--image", action="append", default=[], help="An image file to ask for, by its pixels.")
    parser.add_argument("--public_key", help="PEM file with the public key that must have signed the record.")
    parser.add_argument("--token", help="Token of the hub; default: the one of the login.")
    parser.add_argument("--cache_dir", help="Where downloads are kept.")
    args = parser.parse_args(argv)

    from ..publication.files import RECORD
    from ..publication.record import read_record, read_salt
    from ..publication.record_check import verify, was_forgotten

    if (args.id or args.image) and args.salt_file is None:
        raise InputError("salt_file", "is needed to ask for an image: only whoever holds the salt can.")
    salt = read_salt(args.salt_file) if args.salt_file is not None else None
    names = [*args.id, *(f"pixels:{hash_of_file(name)}" for name in args.image)]
    folder = Path(args.target)
    if not folder.is_dir():
        from ..publication.hub import download

        folder = download(args.target, args.revision, args.token, args.cache_dir)

    checks = verify(folder, args.public_key)
    print_checks(checks)
    if salt is not None:
        for name, asked in zip(names, [*args.id, *args.image], strict=True):
            found = was_forgotten(read_record(folder / RECORD), salt, name)
            print(f"{asked}: {'was in the forget set' if found else 'is not known to the record with this salt'}")
    if any(check.holds is False for check in checks):
        print("The record does not hold.")
        return 1
    print(
        "The record holds. It says what was run and measured, and does not prove that nothing is left in the weights."
    )
    return 0


def hash_of_file(name: str) -> str:
    """SHA-256 of the pixels of an image file."""
    from ..data.image_dataset import decode_image, to_rgb
    from ..request.image_hash import pixel_sha256

    image = decode_image({"path": name, "bytes": None}) if Path(name).is_file() else None
    if image is None:
        raise InputError("image", f"{name!r} is no image that can be read.")
    return pixel_sha256(to_rgb(image))


def card_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn card`.

    Returns:
        `int`: exit code 0.
    """
    parser = argparse.ArgumentParser(
        prog="hf-unlearn card",
        description="Write the card of a run again, from its report and pictures alone. What you wrote around the "
        "generated sections stays.",
    )
    parser.add_argument("folder", help="The --output_dir of the run.")
    parser.add_argument("--template", help="Jinja template; default: the one of hf_unlearn.")
    parser.add_argument("--hub_model_id", help="The repository that the card names; default: the name of the folder.")
    parser.add_argument("--validate", action="store_true", help="Have the hub check the front matter.")
    args = parser.parse_args(argv)

    from ..publication.files import SIGNATURE
    from ..publication.hub import validate_card
    from ..publication.model_card import TEMPLATE, write_model_card
    from ..publication.record import reseal

    was_signed = (Path(args.folder) / SIGNATURE).is_file()
    card = write_model_card(args.folder, args.hub_model_id, args.template or TEMPLATE)
    reseal(args.folder)
    print(f"Written: {card}")
    if was_signed and not (Path(args.folder) / SIGNATURE).is_file():
        print("The card says something else than before: sign the record again with `hf-unlearn record sign`.")
    if args.validate:
        print(validate_card(card.read_text(encoding="utf-8")))
    return 0
