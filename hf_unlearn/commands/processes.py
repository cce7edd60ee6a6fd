"""
Compares the number of processes that run with the number that was asked for. Some ways of launching start fewer
processes without an error.
"""

import sys

import psutil

from ..errors import InputError


def asked_processes(argv: list[str]) -> int | None:
    """
    The number of processes that `accelerate launch` was asked for, from its command line and its configuration file.

    Args:
        argv (`list[str]`):
            Command line of the parent process.

    Returns:
        `int` or `None`: `None` if the parent process is not `accelerate launch`.
    """
    names = [word.rsplit("/", 1)[-1] for word in argv]
    if "launch" not in names or not any(name.startswith("accelerate") for name in names[: names.index("launch")]):
        return None
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    args, _ = launch_command_parser().parse_known_args(argv[names.index("launch") + 1 :])
    if args.num_processes is not None:
        return args.num_processes
    try:
        return load_config_from_file(args.config_file or default_config_file).num_processes
    except FileNotFoundError:
        return None


def check_processes(running: int) -> None:
    """
    Checks that as many processes run as were asked for.

    Args:
        running (`int`):
            The number of processes that run.

    Raises:
        [`InputError`]: if fewer processes run than were asked for.
    """
    parent = psutil.Process().parent()
    asked = asked_processes(parent.cmdline() if parent is not None else [])
    if asked is not None and running < asked:
        raise InputError(
            "num_processes",
            f"accelerate launch was asked for {asked} processes and {running} runs. On a CPU use "
            f"torchrun --standalone --nproc_per_node {asked} {sys.argv[0]}, or the configuration file "
            "scripts/accelerate_configs/cpu_2proc.yaml.",
        )
