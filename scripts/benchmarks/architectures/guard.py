"""
How well does the guard tell good runs from wrecks, on architectures that its limit was not set on? For docs/auto_step.md:

    python -m scripts.benchmarks.architectures.guard

Reads what run.py of this folder and of auto_step measured. Leave one architecture out: the limit on the change elsewhere
is set on all others, as the strictest that refuses 4.5 % of their good runs at most, and judged on the one left out.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from hf_unlearn.unlearning.guard import CHANGE_LIMIT, DISTANCE_LIMIT, JIT_CHANGE_LIMIT
from scripts.benchmarks.architectures.table import DESTROYED, points
from scripts.benchmarks.auto_step.summary import spearman
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.results import markdown, new_figure, read_rows, save_figure


GRID = np.round(np.arange(0.10, 0.601, 0.01), 2)
# Points lost by a run that must not be refused.
GOOD = 3.0
# The share of good runs that a limit may refuse where it is set; what is left of 5 % is for those where it is judged.
BUDGET = 0.045
BINS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.40, 1.01)


def collect(architectures: Path, auto_step: Path) -> list[dict]:
    """One dictionary a run of the automatic step or of a bad setting: where from, how much changed, moved and was lost."""
    runs = []
    for part in ("requests", "bad"):
        for row in read_rows(architectures / f"{part}.csv"):
            if row["by"] == "python" and row["lost"] and row["change_elsewhere"]:
                # Variants of one family share their name's first word.
                family = row["architecture"].split(",")[0]
                setting = row.get("setting", "")
                runs.append(run(family, row["kind"], setting, row, points(row)))
    for part, kind in (
        ("class", "class"),
        ("many", "class"),
        ("bad", "class"),
        ("subclass", "subclass"),
        ("images", "images"),
    ):
        for row in read_rows(auto_step / f"{part}.csv"):
            setting = row.get("setting", "")
            # A wrong image processor changes what is asked for, and a weight that is NaN before has no estimate.
            if not setting.startswith(("wrong", "a weight")):
                runs.append(run(row["architecture"], kind, setting, row, float(row["lost"])))
    return runs


def run(architecture: str, kind: str, setting: str, row: dict, lost: float) -> dict:
    change, distance = float(row["change_elsewhere"]), float(row["distance_moved"])
    # An output or a weight that is not finite is past every limit; the head of single images has no limit on its distance.
    far = kind != "images" and not distance <= DISTANCE_LIMIT
    return {"architecture": architecture, "kind": kind, "setting": setting, "lost": lost, "far": far,
            "change": change if np.isfinite(change) else 1.0}  # fmt: skip


def refused(one: dict, limit: float) -> bool:
    """By a limit for whole classes; that of the others stays."""
    return one["far"] or one["change"] > (limit if one["kind"] == "class" else CHANGE_LIMIT)


def mistakes(runs: list[dict], limit: float) -> tuple[int, int]:
    """Wrecks that are saved, good runs that are refused."""
    saved = sum(one["lost"] > DESTROYED and not refused(one, limit) for one in runs)
    return saved, sum(one["lost"] < GOOD and refused(one, limit) for one in runs)


def best_limit(runs: list[dict]) -> float:
    """The strictest limit of the grid that refuses no more of the good runs than the budget allows."""
    good = [one for one in runs if one["lost"] < GOOD]
    return float(next(limit for limit in GRID if mistakes(good, limit)[1] <= BUDGET * len(good) or limit == GRID[-1]))


def left_out_table(runs: list[dict]) -> str:
    names = list(dict.fromkeys(one["architecture"] for one in runs))
    limits = {name: best_limit([one for one in runs if one["architecture"] != name]) for name in names}
    groups = {
        "defaults": [one for one in runs if not one["setting"]],
        "bad settings": [one for one in runs if one["setting"]],
        "all": runs,
    }
    rows = []
    for group, chosen in groups.items():
        wrecks, good = sum(one["lost"] > DESTROYED for one in chosen), sum(one["lost"] < GOOD for one in chosen)
        # Each run by the limit that its architecture had no say in.
        left_out = [mistakes([one], limits[one["architecture"]]) for one in chosen]
        saved, stopped = (sum(numbers) for numbers in zip(*left_out, strict=True))
        saved_now, stopped_now = mistakes(chosen, JIT_CHANGE_LIMIT)
        cells = [
            f"{saved} of {wrecks}",
            f"{stopped} of {good}",
            f"{saved_now} of {wrecks}",
            f"{stopped_now} of {good}",
        ]
        rho = spearman(*(np.array([one[name] for one in chosen]) for name in ("change", "lost")))
        rows.append([group, str(len(chosen)), *cells, f"{rho:.2f}"])
    header = [
        "runs", "number", f"left out: saved of those that lost > {DESTROYED:g}",
        f"left out: refused of those that lost < {GOOD:g}", f"limit {JIT_CHANGE_LIMIT}: saved", "refused",
        "rank correlation",
    ]  # fmt: skip
    found = list(limits.values())
    return (
        f"{len(names)} architectures; the limits set without one of them: {min(found):.2f} to {max(found):.2f}, median "
        f"{np.median(found):.2f}.\n\n{markdown(header, rows)}"
    )


def missed_table(runs: list[dict]) -> str:
    """The wrecks that the package's limits let pass."""
    missed = [one for one in runs if one["lost"] > DESTROYED and not refused(one, JIT_CHANGE_LIMIT)]
    if not missed:
        return "None."
    rows = [
        [one["architecture"], one["kind"], one["setting"] or "defaults", f"{one['lost']:.1f}", f"{one['change']:.2f}"]
        for one in missed
    ]
    return markdown(["architecture", "request", "setting", "lost", "change elsewhere"], rows)


def points_table(runs: list[dict]) -> str:
    """What a change of so much meant, of classes and sub-classes by the defaults."""
    chosen = [one for one in runs if one["kind"] != "images" and not one["setting"]]
    rows = []
    for low, high in zip(BINS, BINS[1:], strict=False):
        lost = [one["lost"] for one in chosen if low <= one["change"] < high]
        if lost:
            cells = [
                f"{value:.1f}".replace("-", "−") for value in (np.median(lost), np.quantile(lost, 0.9), max(lost))
            ]
            rows.append([f"{low:.2f} to {min(high, 1):.2f}", str(len(lost)), *cells])
    return markdown(["change elsewhere", "runs", "lost, median", "nine of ten at most", "worst"], rows)


def draw(runs: list[dict], path: Path) -> None:
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    styles = {
        "defaults": ("#0072B2", "o"),
        "bad settings": ("#D55E00", "^"),
        "moved too far": ("#999999", "x"),
    }
    groups = defaultdict(list)
    for one in runs:
        name = list(styles)[2] if one["far"] else list(styles)[1] if one["setting"] else list(styles)[0]
        groups[name].append((one["change"], one["lost"]))
    for name, (colour, marker) in styles.items():
        if groups[name]:
            axes.scatter(
                *zip(*groups[name], strict=True),
                s=18,
                c=colour,
                marker=marker,
                alpha=0.6,
                label=f"{name} ({len(groups[name])})",
            )
    axes.axvline(JIT_CHANGE_LIMIT, color="black", linewidth=1, linestyle="--")
    axes.text(JIT_CHANGE_LIMIT + 0.01, 0.97, "limit", transform=axes.get_xaxis_transform(), va="top")
    axes.axhline(DESTROYED, color="black", linewidth=0.5, linestyle=":")
    axes.set_xlabel("change elsewhere, estimated without retained data (0: untouched, 1: destroyed)")
    axes.set_ylabel("accuracy lost on what stays, points")
    axes.legend(loc="lower left", frameon=False, bbox_to_anchor=(0, 1), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=Path, default=Path("docs/architectures"))
    parser.add_argument("--auto_step", type=Path, default=Path("docs/auto_step"))
    parser.add_argument("--page", type=Path, default=Path("docs/auto_step.md"))
    options = parser.parse_args()
    runs = collect(options.architectures, options.auto_step)
    tables = {"left out": left_out_table(runs), "missed": missed_table(runs), "points": points_table(runs)}
    text = options.page.read_text(encoding="utf-8")
    options.page.write_text(fill(text, tables), encoding="utf-8")
    print(*tables.values(), sep="\n\n")
    draw(runs, options.auto_step / "guard_architectures.png")
