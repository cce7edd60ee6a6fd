"""
Prints lines, texts and tables to the terminal, or lines of JSON for programs. No word and no number is cut, however narrow
the terminal is.
"""

import json
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass


# True for type checkers. The module `typing` takes a tenth of the time of `--help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from tqdm import tqdm


# Spaces between two columns of a table.
GAP = 2
# Smallest width of the first column, in characters. If less is left for it, the columns of values are split over
# several tables.
LEAST_ROOM = 20
# Smallest width of the first column, in characters, at which the explanations are shown.
EXPLAINED_ROOM = 50
# Where the text of the line of a stage begins.
STAGE_INDENT = 23


@dataclass
class Mode:
    """What is printed, and where lines of JSON go, if anywhere. Changed by [`printing`] alone."""

    quiet: bool = False
    json: "TextIO | None" = None


MODE = Mode()


@contextmanager
def printing(quiet: bool = False, as_json: bool = False) -> Generator[None, None, None]:
    """
    Says what is printed while the context lasts.

    Args:
        quiet (`bool`, *optional*, defaults to `False`):
            Print only what is said `always`; no stage, table or progress bar.
        as_json (`bool`, *optional*, defaults to `False`):
            Print one JSON object a line for each [`Stage`] and for the result, and nothing else to standard output: what
            is said, by other libraries too, goes to standard error.
    """
    before = MODE.quiet, MODE.json
    MODE.quiet, MODE.json = quiet, sys.stdout if as_json else None
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            yield
    finally:
        MODE.quiet, MODE.json = before


def is_main_process() -> bool:
    """Whether this process is the one that prints."""
    from accelerate import PartialState

    return PartialState().is_main_process


def say(message: str, always: bool = False, indent: int = 0) -> None:
    """
    Prints a line on the main process. A terminal gets it broken between words, a pipe or a file as one line.

    Args:
        message (`str`):
            The line.
        always (`bool`, *optional*, defaults to `False`):
            Whether it is printed when all else is quiet.
        indent (`int`, *optional*, defaults to 0):
            Where the lines after the first begin in a terminal.
    """
    if not is_main_process() or (MODE.quiet and not always):
        return
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, LEAST_ROOM + indent)
        message = textwrap.fill(
            message, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    from tqdm.auto import tqdm

    # A bar that is shown makes room.
    with tqdm.external_write_mode(file=sys.stdout):
        print(message, flush=True)


class Stage:
    """
    A part of a run, which begins when this is made. Its end prints one line: what it was, the seconds that it took and what
    came of it.

    Args:
        name (`str`):
            Ten letters at most.
    """

    def __init__(self, name: str):
        self.name, self.start = name, time.perf_counter()

    def end(self, text: str = "", **facts: "Any") -> float:
        """
        Prints the line.

        Args:
            text (`str`, *optional*):
                What came of it, for a person.
            facts:
                The same for programs.

        Returns:
            `float`: the seconds.
        """
        seconds = time.perf_counter() - self.start
        if MODE.json:
            write_json("stage", stage=self.name, seconds=round(seconds, 3), **facts)
        else:
            say(f"{self.name:<10} {seconds:8.1f} s  {text}".rstrip(), indent=STAGE_INDENT)
        return seconds


def write_json(event: str, **facts: "Any") -> None:
    """
    Prints a line of JSON if that was asked for. Numbers that are not finite become `null`: JSON has none.

    Args:
        event (`str`):
            What the line tells of: `"stage"`, `"request"` or `"result"`.
        facts:
            What it tells.
    """

    def finite(value: "Any") -> "Any":
        if isinstance(value, dict):
            return {name: finite(part) for name, part in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    if MODE.json and is_main_process():
        print(json.dumps({"event": event, **finite(facts)}), file=MODE.json, flush=True)


def progress(name: str, total: int | None = None, items: "Any" = None, hidden: bool | None = False) -> "tqdm":
    """
    A progress bar that says how much is left. It is shown in a terminal, by the main process, and vanishes at its end.

    Args:
        name (`str`):
            What goes on.
        total (`int`, *optional*):
            Number of steps; not needed for `items` that have a length.
        items (iterable, *optional*):
            What to go through.
        hidden (`bool`, *optional*, defaults to `False`):
            Whether to show none.
    """
    from tqdm.auto import tqdm

    hidden = hidden or MODE.quiet or MODE.json is not None or not is_main_process()
    # `None` shows no bar if the output is not a terminal.
    return tqdm(items, desc=name, total=total, leave=False, dynamic_ncols=True, disable=True if hidden else None)


def print_text(text: str) -> None:
    """Prints a text and breaks its lines between words."""
    from rich.console import Console

    if MODE.quiet or MODE.json:
        return
    Console().print(text, highlight=False, markup=False)


def print_table(
    columns: list[str], sections: list[tuple[str, list[tuple[str, str, dict[str, str]]]]], spare: Sequence[str] = ()
) -> None:
    """
    Prints a table. If it is wider than the terminal, long names continue on the next line, and the columns that do not
    fit go into a second table below.

    Args:
        columns (`list[str]`):
            Names of the columns of values.
        sections (`list[tuple[str, list]]`):
            Heading and rows of each section. A row is a tuple of its name, an explanation (`""` for none) and a
            dictionary from column to value. A row without values is a heading of the rows below it.
        spare (`list[str]`, *optional*, defaults to `()`):
            Columns that are left out if not all columns fit.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [row for _, part in sections for row in part]
    if not rows or MODE.quiet or MODE.json:
        return
    widths = {column: max(len(column), *(len(values.get(column, "")) for *_, values in rows)) for column in columns}
    least = min(LEAST_ROOM, max(len(name) for name, *_ in rows))
    console = Console()
    # rich cuts what is wider than its console. The console is therefore made wide enough for one column: the terminal
    # breaks longer lines by itself.
    console.width = max(console.width, least + GAP + max(widths.values()))

    def room(shown: list[str]) -> int:
        return console.width - sum(GAP + widths[column] for column in shown)

    if room(columns) < least:
        columns = [column for column in columns if column not in spare]
    pieces = [[]]
    for column in columns:
        if pieces[-1] and room([*pieces[-1], column]) < least:
            pieces.append([])
        pieces[-1].append(column)
    console.print()
    for shown in pieces:
        explained = room(shown) >= EXPLAINED_ROOM
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, GAP - 1))
        table.add_column(broken(sections[0][0], room(shown)))
        for column in shown:
            table.add_column(column, justify="right", no_wrap=True)
        for heading, part in sections:
            if heading != sections[0][0]:
                table.add_section()
                table.add_row(f"[bold]{broken(heading, room(shown))}[/bold]")
            for name, explanation, values in part:
                name = f"{name} ({explanation})" if explanation and explained else name
                table.add_row(broken(name, room(shown)), *(values.get(column, "") for column in shown))
        console.print(table)
        console.print()


def broken(name: str, room: int) -> str:
    """
    Breaks a name into lines of at most `room` characters. A part in brackets begins a new line, and the part before it
    is broken into lines of similar length.
    """
    if len(name) <= room:
        return name
    name, bracket, rest = name.partition(" (")
    if bracket:
        return f"{broken(name, room)}\n{wrapped(f'  ({rest}', room)}"
    breaks = wrapped(name, room).count("\n")
    return next(lines for width in range(3, room + 1) if (lines := wrapped(name, width)).count("\n") == breaks)


def wrapped(text: str, width: int) -> str:
    """
    Breaks a text into lines of at most `width` characters, between words only. All lines but the first are indented by
    two spaces.
    """
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
