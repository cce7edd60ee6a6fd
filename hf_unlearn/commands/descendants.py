"""The command `hf-unlearn descendants`: which models are made from a model, and which of them still know its images."""

import argparse

from ..publication.descendants import Model, find_descendants


NOT_FOUND = (
    "Not found can be: models that name no base, private ones that the token does not open, copies elsewhere, and models "
    "that learned from its answers."
)


def descendants_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn descendants`. Nothing is written.

    Returns:
        `int`: exit code 0.
    """
    parser = argparse.ArgumentParser(
        prog="hf-unlearn descendants",
        description="List the models that are made from a model, by cards and records: those on the hub if MODEL is a hub "
        "id, and those below --folder. For each it says which requests it went through.",
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder.")
    parser.add_argument("--folder", nargs="+", default=[], help="Folders on the disk to look through.")
    parser.add_argument("--token", help="Token of the hub; default: the one of the login.")
    args = parser.parse_args(argv)
    root, *others = find_descendants(args.model, args.folder, args.token)
    print(f"{root.name}: {state_of(root)}")
    for model in others:
        print(f"  {model.name}: {state_of(model)}; made from {model.parent} ({model.reason})")
    knowing = [model for model in others if set(model.requests) <= set(root.requests)]
    print(f"{len(others)} models are made from it; {len(knowing)} of them know all that it knows.")
    if root.requests:
        print("The model before it still knows what these requests named. Ask for its descendants, too.")
    print(NOT_FOUND)
    return 0


def state_of(model: Model) -> str:
    """Which requests a model went through, in words."""
    if not model.requests:
        return "no request was carried out on it"
    return f"unlearned for {', '.join(model.requests)}"
