"""What measurements become: rows in a CSV file, tables in Markdown, pictures."""

import csv
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


# ---- Rows ----


def show(rows: list[dict]) -> None:
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def write_rows(path: Path, rows: list[dict]) -> None:
    """In place of what the file held."""
    path.unlink(missing_ok=True)
    append_rows(path, rows)
    print(f"Written: {path}")


def append_rows(path: Path, rows: list[dict]) -> None:
    """At the end of the file, which is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict]:
    """All values as text; nothing if the file is not there."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- Tables ----


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; columns whose last cell is a number are aligned to the right."""
    numeric = ["--:" if re.match(r"[\d.–>-]", cell) else ":--" for cell in rows[-1]]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(numeric)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def median_and_range(values: list[float], digits: int = 2) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# ---- Pictures ----


def new_figure(width: float, height: float) -> Figure:
    """In inches. None of pyplot's: it needs no screen and need not be closed."""
    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    # Without the version of matplotlib, which would change the file.
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    print(f"Written: {path}")
