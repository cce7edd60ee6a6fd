"""The console command. Heavy imports wait until a command needs them."""

import argparse
import difflib
import gc
import sys
from contextlib import contextmanager

from .. import __version__
from ..errors import CollapsedModelError, HubPushError, InputError, SaveError, listing


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
  demo   train a small classifier of handwritten digits and make it forget one: hf-unlearn demo

requests and records:
  request  write a request file or check one against the data: hf-unlearn request new request.yaml
  record   check that nothing was changed since the record was written, or sign it: hf-unlearn record verify out
  card     write the card of a run again, from its files alone: hf-unlearn card out

hf-unlearn COMMAND --help lists the flags of a command.
"""


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Returns:
        `int`: exit code: 0 done, 1 the push or the disk failed (the message says what is where), 2 bad input (nothing was written), 3 the
        unlearned model collapsed (it was not saved).
    """
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "run": run_command,
        "compare": compare_command,
        "verify": verify_command,
        "push": push_command,
        "demo": demo_command,
        "request": request_command,
        "record": record_command,
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
    """One line on standard error."""
    print(f"hf-unlearn: error: {message}", file=sys.stderr)
    return code


@contextmanager
def first_imports():
    """
    Nothing imported inside is looked through for garbage, now or later: it stays, and looking took over a quarter of the
    time to the first update. In a program that has imported torch before, nothing is changed: its objects are not ours to keep.
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


def parse_checkpoints(parser, argv: list[str]) -> tuple:
    """The names of the models, which stand without a flag, and the dataclasses of the flags."""
    hide_loading_bars()
    *arguments, positional, unknown = parser.parse_args_into_dataclasses(
        argv, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise InputError(unknown[0].lstrip("-"), f"unknown flag. Close: {listing(close_flags(unknown[0], parser))}.")
    return positional.models, *arguments


def hide_loading_bars() -> None:
    """Bars for loading and writing files come and go in a moment; those that stay are of the work itself."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


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
    args = parser.parse_args(argv)

    from pathlib import Path

    from ..publication.hub import push_folder

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
    return 0


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


def parse_run_arguments(argv: list[str]) -> tuple:
    """
    The arguments of `hf-unlearn run` and `scripts/unlearn.py`. Values of `--config FILE` are defaults that flags
    override.

    Returns:
        `tuple`: [`ModelArguments`], [`DataArguments`], [`ForgetArguments`], [`RunArguments`] and the configuration of
        the method, [`JiTConfig`] unless `--method` says otherwise.
    """
    # Takes a flag cut short, as the whole parser does: both must see the same method.
    first_parser = argparse.ArgumentParser(add_help=False)
    first_parser.add_argument("--config")
    first_parser.add_argument("--method")
    first = first_parser.parse_known_args(argv)[0]
    in_file = read_config_file(first.config) if first.config is not None else {}
    parser = make_run_parser(method=first.method or in_file.get("method", "jit"))
    parser.set_defaults(**as_flags(in_file, first.config, parser))
    *arguments, _, unknown = parser.parse_args_into_dataclasses(
        argv, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise InputError(unknown[0].lstrip("-"), f"unknown flag. Close: {listing(close_flags(unknown[0], parser))}.")
    return tuple(arguments)


def close_flags(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Names of flags that look like a misspelt one, or all."""
    flags = [action.dest for action in parser._actions]
    return difflib.get_close_matches(name.lstrip("-"), flags) or flags


def read_config_file(path: str) -> dict:
    """
    The content of a YAML file of flags and values.

    Raises:
        [`InputError`]: if the file cannot be read.
    """
    from pathlib import Path

    import yaml

    if not Path(path).is_file():
        raise InputError("config", f"there is no file {path!r}.")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("config", f"{path!r} is no YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise InputError("config", f"{path!r} must hold flags and values, got {type(values).__name__}.")
    return values


def as_flags(values: dict, path: str, parser: argparse.ArgumentParser) -> dict:
    """
    The values of a configuration file as those of the flags that its keys name.

    Raises:
        [`InputError`]: if a key is no flag.
    """
    flags = {action.dest: action for action in parser._actions}
    unknown = [key for key in values if key not in flags]
    if unknown:
        close = listing(close_flags(str(unknown[0]), parser))
        raise InputError("config", f"{path!r} has the unknown key {unknown[0]!r}. Close: {close}.")
    for key in values:
        flags[key].required = False
    # A single value stands for a list of one.
    values = {
        key: [value] if flags[key].nargs == "+" and not isinstance(value, list) else value
        for key, value in values.items()
    }
    # PyYAML reads 3e-4 (no dot) as a string; the flag's own type turns it into what the flag would be.
    return {
        key: flags[key].type(value) if isinstance(value, str) and callable(flags[key].type) else value
        for key, value in values.items()
    }


def make_run_parser(prog: str = "hf-unlearn run", method: str = "jit"):
    """The parser for a method, with the flags of [`~transformers.TrainingArguments`] that few need left out of `--help`."""
    from transformers import HfArgumentParser, TrainingArguments

    from ..methods import load_method
    from .arguments import DataArguments, ForgetArguments, ModelArguments, RunArguments

    config_class, trainer_class = load_method(method)
    config_class._argument_group_name = f"unlearning ({trainer_class._name})"
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, ForgetArguments, RunArguments, config_class),
        prog=prog,
        usage=f"{prog} --model_name_or_path MODEL --dataset_name DATA --forget_class CLASS --output_dir OUT [flags]",
        description="Unlearn an image classifier: request, split, method, evaluation, card, push.",
        epilog="Every other flag of transformers.TrainingArguments is accepted too: "
        "https://huggingface.co/docs/transformers/main_classes/trainer",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for any of these flags.")
    shown = set(config_class.__annotations__) | {
        "output_dir", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "seed", "bf16", "fp16", "report_to", "resume_from_checkpoint", "save_strategy",
        "push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_token", "use_cpu",
    }  # fmt: skip
    inherited = set(TrainingArguments.__dataclass_fields__)
    for action in parser._actions:
        if action.dest == "output_dir":
            action.help = "Where the model, its card, report and pictures go."
        # One spelling in the help; the hyphenated one keeps working.
        action.option_strings = [flag for flag in action.option_strings if "-" not in flag[2:]]
        action.metavar = action.metavar or (None if action.choices else "X")
        if action.dest in inherited - shown or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
    return parser


if __name__ == "__main__":
    sys.exit(main())
