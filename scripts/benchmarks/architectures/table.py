"""
Write the tables of docs/architectures.md from what run.py measured:

    python -m scripts.benchmarks.architectures.table

They go between the marks `<!-- begin NAME -->` and `<!-- end NAME -->` of the page.
"""

import argparse
from pathlib import Path

import numpy as np

from scripts.benchmarks.architectures.models import ARCHITECTURES, NOT_RUN, REFUSED
from scripts.benchmarks.auto_step.summary import spearman
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.results import markdown, read_rows


KINDS = ("class", "subclass", "images")
TRAIN_FITS, TEST_FITS = 98.0, 90.0
# Points lost: more than the first is degraded, more than the second destroyed.
DEGRADED, DESTROYED = 3.0, 10.0


def points(row: dict) -> float:
    """Of retained accuracy lost, on unseen or on training pictures, whichever is more."""
    return max(float(row["lost"]), float(row["lost_train"]))


def measured(rows: list[dict], **wanted: str) -> list[dict]:
    """The rows that have these values and a number of points."""
    return [row for row in rows if row["lost"] and all(row[name] == value for name, value in wanted.items())]


def spread(values: list[float]) -> str:
    return " / ".join(f"{f(values):.1f}".replace("-", "−") for f in (min, np.median, max)) if values else "–"


def fits(row: dict) -> bool:
    return float(row["train_accuracy"]) >= TRAIN_FITS and float(row["test_accuracy"]) >= TEST_FITS


def verdict(fit: dict | None, rows: list[dict]) -> str:
    """What a user of such a model has to know, the worst first."""
    if fit is None:
        return "not trained"
    words = [] if fits(fit) else ["**does not fit**"]
    python = measured(rows, by="python")
    broken = [row for row in rows if row["by"] == "python" and row["error"]]
    if broken:
        words.append(f"**{len(broken)} crash**")
    not_finite = [row for row in python if row["refused"] == "not finite"]
    if not_finite:
        words.append(f"**{len(not_finite)} without a finite gradient**")
    saved = [points(row) for row in python if not row["refused"]]
    destroyed, degraded = sum(p > DESTROYED for p in saved), sum(DEGRADED < p <= DESTROYED for p in saved)
    if destroyed:
        words.append(f"**{destroyed} destroyed and saved**")
    if degraded:
        words.append(f"{degraded} degraded and saved")
    stopped = [points(row) for row in python if row["refused"] == "collapsed"]
    if any(p > DEGRADED for p in stopped):
        words.append(f"{sum(p > DEGRADED for p in stopped)} damaged and stopped")
    if any(p <= DEGRADED for p in stopped):
        words.append(f"{sum(p <= DEGRADED for p in stopped)} stopped for nothing")
    remembered = sum(float(row["reached"]) > float(row["target"]) for row in python if row["reached"])
    if remembered:
        words.append(f"{remembered} short of the target")
    command = [row for row in rows if row["by"] == "command"]
    if any(row["refused"] == "input" or (row["error"] and not row["refused"]) for row in command):
        words.append("**the command refuses it**")
    if any(row["logits_equal"] == "False" for row in rows):
        words.append("**logits differ after loading**")
    if any(row["same_as_python"] == "False" for row in rows):
        words.append("**command and Python differ**")
    return ", ".join(words) or ("works" if rows else "not run")


def summary(fit: dict[str, dict], rows: list[dict]) -> str:
    """Ten lines for those who read no further."""
    python, command = (measured(rows, by=by) for by in ("python", "command"))
    unfit = [name for name in fit if not fits(fit[name])]
    lines = [f"{len(fit)} models of {len(ARCHITECTURES)} were trained; {len(fit) - len(unfit)} fit{but(unfit)}."]
    for kind, words in zip(KINDS, ("Whole classes", "Sub-classes", "Single images"), strict=True):
        those = measured(python, kind=kind)
        saved = [points(row) for row in those if not row["refused"]]
        if saved:
            median = f"{np.median([float(row['lost']) for row in those]):.1f}".replace("-", "−")
            lines.append(
                f"{words}: {len(those)} requests from Python, median lost {median}, {len(saved)} saved, of which the worst "
                f"lost {max(saved):.1f}."
            )
    still = sum(
        row["reached"] == row["target"] and float(row["distance_moved"]) == 0 for row in python if row["moved"]
    )
    lines.append(f"Of the requests for single images {still} moved no weight: there was little to forget.")
    spared = [row for row in python if row["moved"] == "head" and row["kind"] != "images"]
    most = max(map(points, spared), default=0.0)
    lines.append(
        f"In {len(spared)} requests for classes and sub-classes the step of the last stage changed too much elsewhere, and one of "
        f"the head was taken; of them the worst lost {most:.1f}."
    )
    destroyed = [row for row in python if points(row) > DESTROYED]
    lines.append(f"Destroyed and saved: {named([row for row in destroyed if not row['refused']])}.")
    lines.append(f"Destroyed and stopped: {named([row for row in destroyed if row['refused']])}.")
    alarms = [row for row in python if row["refused"] == "collapsed" and points(row) <= DEGRADED]
    lines.append(f"Stopped for nothing: {named(alarms)}.")
    broken = {row["architecture"] for row in rows if row["by"] == "python" and row["error"] and row["kind"] in KINDS}
    endless = {row["architecture"] for row in python if row["refused"] == "not finite"}
    lines.append(f"No finite gradient: {among(endless)}. Crashes: {among(broken)}.")
    refused = {row["architecture"] for row in rows if row["by"] == "command" and row["refused"] == "input"}
    lines.append(f"Refused by the command though Python runs them: {among(refused - set(REFUSED))}.")
    equal, same = ([row[name] for row in rows if row[name]] for name in ("logits_equal", "same_as_python"))
    lines.append(
        f"Loaded again, {equal.count('True')} of {len(equal)} models give the same logits to the bit; what the command "
        f"makes gives those of Python's model in {same.count('True')} of {len(same)} of its {len(command)} runs."
    )
    return "\n".join(f"- {line}" for line in lines)


def but(names: list[str]) -> str:
    return f", all but {among(names)}" if names else ""


def among(names) -> str:
    """In the order of the table."""
    return "; ".join(name for name in ARCHITECTURES if name in names) or "none"


def named(rows: list[dict]) -> str:
    """Each request with the points that it lost and what the guard measured."""
    words = [
        f"{row['architecture']} without {row['request']} ({points(row):.1f} lost at {float(row['change_elsewhere']):.2f})"
        for row in rows
    ]
    return "; ".join(words) or "none"


def architecture_table(fit: dict[str, dict], rows: dict[str, list[dict]]) -> str:
    lines = []
    for name in ARCHITECTURES:
        those = rows.get(name, [])
        python = measured(those, by="python")
        cells = [spread([float(row["lost"]) for row in measured(python, kind=kind)]) for kind in KINDS]
        worst = max((float(row["lost_train"]) for row in python), default=None)
        refused = sum(row["refused"] != "" for row in python)
        left = max((float(row["forget_test"]) for row in measured(python, kind="class")), default=None)
        accuracies = "–"
        if name in fit:
            accuracies = f"{float(fit[name]['train_accuracy']):.1f}, {float(fit[name]['test_accuracy']):.1f}"
        numbers = [
            *cells,
            *("–" if v is None else f"{v:.1f}".replace("-", "−") for v in (worst, left)),
            f"{refused} of {len(python)}",
        ]
        lines.append([name, accuracies, *numbers, verdict(fit.get(name), those)])
    header = ["architecture", "fit: training, unseen, %", "classes: lost", "sub-classes: lost", "images: lost"]
    return markdown([*header, "most lost, training", "most left of a class, %", "refused", "verdict"], lines)


def fit_table(fit: dict[str, dict]) -> str:
    header = [
        "architecture",
        "class of transformers",
        "weights",
        "pixels",
        "rate",
        "epochs",
        "training",
        "unseen",
        "s",
    ]
    names = ("model_class", "weights", "pixels", "rate", "epochs", "train_accuracy", "test_accuracy", "seconds")
    return markdown(header, [[name, *(fit[name][c] for c in names)] for name in ARCHITECTURES if name in fit])


def guard_table(rows: list[dict]) -> str:
    """What the guard makes of the damage, over all requests from Python."""
    lines = []
    for kind in (*KINDS, "all"):
        those = [
            row for row in measured(rows, by="python") if kind in (row["kind"], "all") and row["change_elsewhere"]
        ]
        if len(those) < 3:
            continue
        lost, stopped = np.array([points(row) for row in those]), np.array([row["refused"] != "" for row in those])
        changes = np.array([float(row["change_elsewhere"]) for row in those])
        shares = [(lost > DESTROYED, ~stopped), ((lost > DEGRADED) & (lost <= DESTROYED), ~stopped)]
        cells = [f"{(which & what).sum()} of {which.sum()}" for which, what in [*shares, (lost <= DEGRADED, stopped)]]
        lines.append([kind, str(len(those)), spread(list(lost)), *cells, f"{spearman(changes, lost):.2f}"])
    header = ["request", "runs", "lost", f"saved of those that lost > {DESTROYED:g}"]
    header += [f"saved of {DEGRADED:g} to {DESTROYED:g}", f"stopped of those that lost ≤ {DEGRADED:g}"]
    return markdown([*header, "rank correlation"], lines) if lines else "–"


def command_table(rows: list[dict]) -> str:
    lines = []
    for kind in KINDS:
        command = [row for row in rows if row["by"] == "command" and row["kind"] == kind]
        same = [row["same_as_python"] for row in command if row["same_as_python"]]
        saved, stopped = (sum(row[name] == value for row in command) for name, value in
                          (("saved", "True"), ("refused", "collapsed")))  # fmt: skip
        equal = f"{same.count('True')} of {len(same)}"
        lines.append([kind, str(len(command)), str(saved), str(stopped), str(len(command) - saved - stopped), equal])
    header = ["by the command", "runs", "saved", "stopped by the guard", "refused or broken", "logits equal Python's"]
    return markdown(header, lines)


def left_out_table(rows: dict[str, list[dict]]) -> str:
    lines = []
    for name in REFUSED:
        python, command = ([row for row in rows.get(name, []) if row["by"] == by] for by in ("python", "command"))
        in_one_line = all(those and those[-1]["refused"] == "input" for those in (python, command))
        lines.append([name, "refused in one line by both" if in_one_line else "**not refused**", REFUSED[name]])
    return markdown(["model type", "", "reason"], lines + [[name, "not run", why] for name, why in NOT_RUN.items()])


def errors_table(rows: list[dict]) -> str:
    """Each message once, with the architectures that get it."""
    by_message = {}
    for row in rows:
        if row["error"] and row["kind"] != "refused" and row["refused"] != "collapsed":
            by_message.setdefault((row["by"], row["error"].replace("|", "\\|")), set()).add(row["architecture"])
    lines = [[by, ", ".join(sorted(names)), message] for (by, message), names in by_message.items()]
    return markdown(["by", "architectures", "message"], lines) if lines else "None."


def write_page(csv_dir: Path, page: Path) -> None:
    fit = {row["architecture"]: row for row in read_rows(csv_dir / "fit.csv")}
    everything, rows = read_rows(csv_dir / "requests.csv"), {}
    for row in everything:
        rows.setdefault(row["architecture"], []).append(row)
    tables = {
        "summary": summary(fit, everything),
        "architectures": architecture_table(fit, rows),
        "fit": fit_table(fit),
        "guard": guard_table(everything),
        "command": command_table(everything),
        "left out": left_out_table(rows),
        "errors": errors_table(everything),
    }
    page.write_text(fill(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(tables["summary"], tables["architectures"], tables["guard"], tables["command"], tables["errors"], sep="\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv_dir", type=Path, default=Path("docs/architectures"))
    parser.add_argument("--page", type=Path, default=Path("docs/architectures.md"))
    options = parser.parse_args()
    write_page(options.csv_dir, options.page)
