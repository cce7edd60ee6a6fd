"""Parses command lines and configuration files into the dataclasses of [`~commands.arguments`]."""

import argparse

from ..errors import InputError, listing


# True for type checkers. The module `typing` takes a tenth of the time of `--help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from transformers import HfArgumentParser


def parse_run_arguments(argv: list[str]) -> tuple:
    """
    Parses the arguments of `hf-unlearn run` and `scripts/unlearn.py`. Values of the file given with `--config` are
    defaults; flags override them.

    Args:
        argv (`list[str]`):
            The flags.

    Returns:
        `tuple`: [`~commands.arguments.ModelArguments`], [`~commands.arguments.DataArguments`],
        [`~commands.arguments.ForgetArguments`], [`~commands.arguments.RunArguments`] and the configuration of the
        method that `--method` names ([`JiTConfig`] by default).

    Raises:
        [`InputError`]: if a flag or a value cannot be used.
    """
    # This parser also accepts abbreviated flags (`--meth`), like the parser below: both must find the same method.
    first_parser = argparse.ArgumentParser(add_help=False)
    first_parser.add_argument("--config")
    first_parser.add_argument("--method")
    first = first_parser.parse_known_args(argv)[0]
    in_file = read_config_file(first.config) if first.config is not None else {}
    parser = make_run_parser(method=first.method or in_file.get("method", "jit"))
    parser.set_defaults(**as_flags(in_file, first.config, parser))
    parsed: Any = parser.parse_args_into_dataclasses(argv, look_for_args_file=False, return_remaining_strings=True)
    *arguments, _, unknown = parsed
    if unknown:
        raise InputError(unknown[0].lstrip("-"), f"unknown flag. Close: {listing(close_flags(unknown[0], parser))}.")
    return tuple(arguments)


def parse_checkpoints(parser: "HfArgumentParser", argv: list[str]) -> tuple:
    """
    Parses the arguments of `hf-unlearn compare` and `hf-unlearn verify`.

    Args:
        parser (`HfArgumentParser`):
            What [`make_checkpoint_parser`] returns.
        argv (`list[str]`):
            The names of the models and the flags.

    Returns:
        `tuple`: the names of the models (`list[str]`), and the dataclasses of the flags.

    Raises:
        [`InputError`]: if a flag is unknown.
    """
    hide_loading_bars()
    parsed: Any = parser.parse_args_into_dataclasses(argv, look_for_args_file=False, return_remaining_strings=True)
    *arguments, positional, unknown = parsed
    if unknown:
        raise InputError(unknown[0].lstrip("-"), f"unknown flag. Close: {listing(close_flags(unknown[0], parser))}.")
    return positional.models, *arguments


def make_checkpoint_parser(
    arguments: type, *, prog: str, models: str, nargs: int | str, models_help: str, description: str
) -> "HfArgumentParser":
    """
    Makes the parser of a command that takes names of models without a flag, and the flags of the data and the request.

    Args:
        arguments (`type`):
            The dataclass of the command's own flags.
        prog (`str`):
            The command, such as `"hf-unlearn compare"`.
        models (`str`):
            The names of the models in the usage line.
        nargs (`int` or `str`):
            Number of names, as `argparse` takes it.
        models_help (`str`):
            Help text of the names.
        description (`str`):
            Help text of the command.

    Returns:
        `HfArgumentParser`
    """
    from transformers import HfArgumentParser

    from .arguments import DataArguments, ForgetArguments

    # No class is of the type that the parser says it takes.
    dataclasses: Any = (DataArguments, ForgetArguments, arguments)
    parser = HfArgumentParser(
        dataclasses,
        prog=prog,
        usage=f"{prog} {models} --dataset_name DATA --forget_class CLASS [flags]",
        description=description,
    )
    parser.add_argument("models", nargs=nargs, metavar="MODEL", help=models_help)
    return parser


def close_flags(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Names of flags that are similar to an unknown flag; the names of all flags if none is similar."""
    import difflib

    flags = [action.dest for action in parser._actions]
    return difflib.get_close_matches(name.lstrip("-"), flags) or flags


def read_config_file(path: str) -> dict:
    """
    Reads a YAML file of flags and values.

    Raises:
        [`InputError`]: if the file does not exist or cannot be read.
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


def as_flags(values: dict, path: str | None, parser: argparse.ArgumentParser) -> dict:
    """
    Converts the values of a configuration file to the types of their flags.

    Args:
        values (`dict`):
            From the name of a flag to its value.
        path (`str`):
            The file, for error messages.
        parser (`argparse.ArgumentParser`):
            The parser of the flags. A flag that the file names is no longer required.

    Returns:
        `dict`: from the name of a flag to its converted value.

    Raises:
        [`InputError`]: if a key is not the name of a flag.
    """
    flags = {action.dest: action for action in parser._actions}
    unknown = [key for key in values if key not in flags]
    if unknown:
        close = listing(close_flags(str(unknown[0]), parser))
        raise InputError("config", f"{path!r} has the unknown key {unknown[0]!r}. Close: {close}.")
    for key in values:
        flags[key].required = False
    # A flag that takes a list also accepts a single value.
    values = {
        key: [value] if flags[key].nargs == "+" and not isinstance(value, list) else value
        for key, value in values.items()
    }
    # PyYAML reads 3e-4 (without a dot) as a string. The type of the flag converts it to a number.
    return {key: as_typed(value, flags[key].type) for key, value in values.items()}


def as_typed(value: object, kind: object) -> object:
    """A value of a file as the flag's own type; what is no string has its type already."""
    return kind(value) if isinstance(value, str) and callable(kind) else value


def make_run_parser(prog: str = "hf-unlearn run", method: str = "jit") -> "HfArgumentParser":
    """
    Makes the parser of `hf-unlearn run` for a method. `--help` leaves out the flags of
    [`~transformers.TrainingArguments`] that few users need; the parser accepts them too.

    Args:
        prog (`str`, *optional*, defaults to `"hf-unlearn run"`):
            The command in the usage line.
        method (`str`, *optional*, defaults to `"jit"`):
            Name of the method, which decides the flags.

    Returns:
        `HfArgumentParser`

    Raises:
        [`InputError`]: if there is no such method.
    """
    from transformers import HfArgumentParser, TrainingArguments

    from ..methods import load_method
    from .arguments import DataArguments, ForgetArguments, ModelArguments, RunArguments

    config_class, trainer_class = load_method(method)
    config_class._argument_group_name = f"unlearning ({trainer_class._name})"
    dataclasses: Any = (ModelArguments, DataArguments, ForgetArguments, RunArguments, config_class)
    parser = HfArgumentParser(
        dataclasses,
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
        # The help shows the spelling with underscores only. The spelling with hyphens still works.
        action.option_strings = [flag for flag in action.option_strings if "-" not in flag[2:]]
        action.metavar = action.metavar or (None if action.choices else "X")
        if action.dest in inherited - shown or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
    return parser


def hide_loading_bars() -> None:
    """
    Turns off the progress bars of transformers and datasets, which show the loading and writing of files. Those of the
    work itself stay.
    """
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()
