"""What a person sees: lines, and text and tables in which no word and no number is cut, however narrow the terminal is."""

import textwrap


# Spaces between two columns.
GAP = 2
# With less room for the names than this, rows get tall and thin: the columns go on in a further table instead.
LEAST_ROOM = 20
# With less room for the names than this, their explanations are left out.
EXPLAINED_ROOM = 50


def say(message: str) -> None:
    """Prints on the first process only."""
    from accelerate import PartialState

    PartialState().print(message)


def print_text(text: str) -> None:
    """Prints a text with its line breaks between words."""
    from rich.console import Console

    Console().print(text, highlight=False, markup=False)


def print_table(
    columns: list[str], sections: list[tuple[str, list[tuple[str, str, dict[str, str]]]]], spare: list[str] = ()
) -> None:
    """
    Prints a table. Where it is wider than the terminal, names go on in the next line and columns in a table below.

    Args:
        columns (`list[str]`):
            The columns of the values.
        sections (`list[tuple[str, list]]`):
            Heading and rows of each part. A row is a name, an explanation and a value by column; without values it is
            a heading for the rows below.
        spare (`list[str]`, *optional*):
            Columns to leave out where there is no room for all.
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
    # rich cuts what does not fit; a terminal shows the rest of a line in the next one.
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
    """A name in lines that fit: its bracket begins a new line, and what stands before it is broken evenly."""
    if len(name) <= room:
        return name
    name, bracket, rest = name.partition(" (")
    if bracket:
        return f"{broken(name, room)}\n{wrapped(f'  ({rest}', room)}"
    breaks = wrapped(name, room).count("\n")
    return next(lines for width in range(3, room + 1) if (lines := wrapped(name, width)).count("\n") == breaks)


def wrapped(text: str, width: int) -> str:
    """A text broken between words alone, all lines but the first set in by two."""
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
