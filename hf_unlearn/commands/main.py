"""The console command `hf-unlearn`. Slow modules are imported only when a command needs them."""

import argparse
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager

from .. import __version__
from ..errors import CollapsedModelError, HubPushError, InputError, SaveError
from ..terminal import printing
from .parsing import hide_loading_bars, parse_checkpoints, parse_run_arguments


USAGE = """\
usage: hf-unlearn COMMAND ...

Make a Hugging Face image classifier forget chosen training images, and measure what it did.

commands:
  run    unlearn, evaluate, write the card and, if asked, push:
         hf-unlearn run --model_name_or_path org/model --dataset_name org/data --forget_class cat --output_dir out
  compare  measure checkpoints on a request, without unlearning anything:
         hf-unlearn compare ORIGINAL UNLEARNED [RETRAINED ...] --dataset_name org/data --forget_class cat
  verify   attack copies of checkpoints to see what they still hold:
         hf-unlearn verify ORIGINAL UNLEARNED [--retrained MODEL ...] --dataset_name org/data --forget_class cat
  push   push the folder of a finished run: hf-unlearn push out --hub_model_id org/model-unlearned
         with --space, also a page that shows what both models say of a picture
  demo   train a small classifier of handwritten digits and make it forget one: hf-unlearn demo
         with --app, open that page afterwards

requests and records:
  find     from a few pictures to a contact sheet and a request file:
           hf-unlearn find photos/ --model_name_or_path org/model --dataset_name org/data --output_dir found
  request  write a request file, check one against the data, list what is open, answer who asked:
           hf-unlearn request new request.yaml
  record   check that nothing was changed since the record was written, sign it, or carry the run out again:
           hf-unlearn record verify out
  descendants  which models are made from a model, and which of them were unlearned: hf-unlearn descendants org/model
  card     write the card of a run again, from its files alone: hf-unlearn card out

hf-unlearn COMMAND --help lists the flags of a command.
"""


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`list[str]`, *optional*, defaults to the arguments of the process):
            Name of the command and its flags.

    Returns:
        `int`: the exit code:

        - 0: the command succeeded;
        - 1: the push or the disk failed, or a record does not hold; the message says which files are where;
        - 2: the input cannot be used; nothing was written;
        - 3: the unlearned model collapsed and was not saved.
    """
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "run": run_command,
        "compare": compare_command,
        "verify": verify_command,
        "push": push_command,
        "demo": demo_command,
        "find": find_command,
        "request": request_command,
        "record": record_command,
        "descendants": descendants_command,
        "card": card_command,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] not in commands:
        return fail(2, f"unknown command {argv[0]!r}. Valid: {', '.join(commands)}.")
    try:
        return commands[argv[0]](argv[1:])
    except InputError as error:
        from .arguments import message_of

        return fail(2, message_of(error))
    except (HubPushError, SaveError) as error:
        return fail(1, str(error))
    except CollapsedModelError as error:
        return fail(3, str(error))


def fail(code: int, message: str) -> int:
    """Prints an error as one line on standard error, and returns the exit code."""
    print(f"hf-unlearn: error: {message}", file=sys.stderr)
    return code


@contextmanager
def first_imports() -> Generator[None, None, None]:
    """
    Turns off the garbage collection while modules are imported, and excludes the imported objects from it for good.
    The collection took more than a quarter of the time until the first update. If torch was imported before, nothing
    changes: this is then part of another program, which may rely on the collection of its objects.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_command(argv: list[str]) -> int:
    with first_imports():
        from .run import run

        hide_loading_bars()
        arguments = parse_run_arguments(argv)
    run_args = arguments[3]
    with printing(run_args.quiet, run_args.json):
        run(*arguments)
    return 0


def compare_command(argv: list[str]) -> int:
    with first_imports():
        from .compare import compare, make_parser

        arguments = parse_checkpoints(make_parser(), argv)
    compare(*arguments)
    return 0


def verify_command(argv: list[str]) -> int:
    with first_imports():
        from .verify import make_parser, verify

        arguments = parse_checkpoints(make_parser(), argv)
    verify(*arguments)
    return 0


def push_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hf-unlearn push", description="Push the folder of a finished run.")
    parser.add_argument("folder", help="The --output_dir of the run.")
    parser.add_argument("--hub_model_id", help="Where to push; default: the name of the folder.")
    parser.add_argument("--hub_revision", help="Branch; default: the main one.")
    parser.add_argument("--create_pr", action="store_true", help="Push as a pull request.")
    parser.add_argument("--hub_tag", help="Tag the pushed commit with this name.")
    parser.add_argument(
        "--overwrite_model",
        action="store_true",
        help="Replace a model that was not pushed by hf-unlearn, even the original.",
    )
    parser.add_argument("--token", help="Token of the hub; default: the one of the login.")
    parser.add_argument("--public", action="store_true", help="Make a new repository public; default: private.")
    parser.add_argument(
        "--space",
        action="store_true",
        help="Also make a Space of the same name: a page that shows what both models say of a picture.",
    )
    parser.add_argument(
        "--original_model", help="With --space: hub id of the original; default: the one of the record."
    )
    parser.add_argument(
        "--overwrite_space", action="store_true", help="With --space: replace files of a Space that differ."
    )
    args = parser.parse_args(argv)

    from pathlib import Path

    from ..publication.hub import push_folder
    from ..publication.hub_space import find_original, push_space

    for flag in ("original_model", "overwrite_space"):
        if getattr(args, flag) and not args.space:
            raise InputError(flag, "is for a Space: add --space.")
    if args.space and args.create_pr:
        raise InputError("space", "cannot be combined with --create_pr: a Space shows what was merged.")
    original = find_original(args.folder, args.token, args.original_model) if args.space else None
    repo_id = args.hub_model_id or Path(args.folder).absolute().name
    url = push_folder(
        args.folder,
        repo_id,
        args.token,
        private=not args.public,
        revision=args.hub_revision,
        create_pr=args.create_pr,
        tag=args.hub_tag,
        overwrite_model=args.overwrite_model,
    )
    print(f"Pushed to {url}")
    if original is not None:
        page = push_space(
            repo_id,
            original,
            args.token,
            private=not args.public,
            revision=args.hub_tag or args.hub_revision,
            overwrite_space=args.overwrite_space,
        )
        print(f"The Space is at {page}")
        if not args.public:
            print(
                "If a model is private, the Space needs a token that may read it, as the secret HF_TOKEN in its settings. None "
                "was sent."
            )
    return 0


def find_command(argv: list[str]) -> int:
    with first_imports():
        from .find import find, make_parser

        arguments = parse_checkpoints(make_parser(), argv)
    find(*arguments)
    return 0


def descendants_command(argv: list[str]) -> int:
    from .descendants import descendants_command

    return descendants_command(argv)


def request_command(argv: list[str]) -> int:
    from .request import request_command

    return request_command(argv)


def record_command(argv: list[str]) -> int:
    from .record import record_command

    return record_command(argv)


def card_command(argv: list[str]) -> int:
    from .record import card_command

    return card_command(argv)


def demo_command(argv: list[str]) -> int:
    from .demo import demo, make_parser

    demo(**vars(make_parser().parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
