"""Prints lines, texts and tables to the terminal. No word and no number is cut, however narrow the terminal is."""

import textwrap
from collections.abc import Sequence


# Spaces between two columns of a table.
GAP = 2
# Smallest width of the first column, in characters. If less is left for it, the columns of values are split over
# several tables.
LEAST_ROOM = 20
# Smallest width of the first column, in characters, at which the explanations are shown.
EXPLAINED_ROOM = 50


def say(message: str) -> None:
    """Prints a line, once per machine when several processes run."""
    from accelerate import PartialState

    PartialState().print(message)


def print_text(text: str) -> None:
    """Prints a text and breaks its lines between words."""
    from rich.console import Console

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
    if not rows:
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
