"""What came out of the parts of run.py: the tables of docs/auto_step.md and the guard's scatter."""

import itertools
from pathlib import Path

import numpy as np

from hf_unlearn.unlearning.guard import DISTANCE_LIMIT, JIT_CHANGE_LIMIT
from scripts.benchmarks.auto_step.settings import BAD, RATES, RELEASED_CLASSES, SIGMAS
from scripts.benchmarks.auto_step.train_networks import RECIPES
from scripts.benchmarks.networks import NAMES
from scripts.benchmarks.results import markdown, median_and_range, new_figure, read_rows, save_figure


# Points of retained accuracy: what lost more is a wreck.
WRECK = 10.0


def summarise(options) -> None:
    """Prints the tables of the parts that have run, and draws the scatter."""
    rows = {}
    for part in ("class", "bad", "images", "subclass", "many", "sigma", "released"):
        texts = read_rows(options.output_dir / f"{part}.csv")
        rows[part] = [{name: number(text) for name, text in row.items()} for row in texts]
    defaults_table(rows["class"])
    images_table(rows["images"])
    subclass_table(rows["subclass"])
    many_table(rows["many"])
    sigma_table(rows["sigma"])
    bad_table(rows["bad"])
    released_table(rows["released"])
    compare_guard(rows, options.output_dir / "guard_scatter.png")


def print_table(header: list[str], rows: list[list[str]]) -> None:
    if rows:
        print("", markdown(header, rows), sep="\n")


def stopped(rows: list[dict]) -> int:
    """How many of these runs the package refused."""
    return sum(row["refused"] != "" for row in rows)


def by_architecture(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each network, and all of them."""
    groups = {name: [row for row in rows if row["architecture"] == name] for name in RECIPES} | {"all": rows}
    return {name: those for name, those in groups.items() if those}


def defaults_table(rows: list[dict]) -> None:
    header = ["defaults, full class", "runs", "forget test, %", "points lost", "change elsewhere", "distance, %"]
    table = []
    for architecture, those in by_architecture(rows).items():
        columns = [[row[name] for row in those] for name in ("forget_test", "lost", "change_elsewhere")]
        columns.append([100 * row["distance_moved"] for row in those])
        table.append([architecture, str(len(those)), *map(median_and_range, columns), str(stopped(those))])
    print_table([*header, "stopped"], table)
    if rows:
        # Of the first passes, one is spent to find the answers, two and one backward on the loss.
        search = median_and_range([row["evaluations"] + 4 for row in rows])
        everything = median_and_range([(row["forward"] + row["backward"]) / row["num_images"] for row in rows])
        print(f"passes per image: {search} without the guard, {everything} with it")
        for row in sorted(rows, key=lambda row: -row["lost"])[:5]:
            print("  most lost:", row["architecture"], row["seed"], NAMES[row["kind"]], row["lost"])


def images_table(rows: list[dict]) -> None:
    table, remarks = [], []
    for problem, target in itertools.product(("full", "many"), ("stand-in", "unseen images")):
        those = [row for row in rows if (row["problem"], row["target_from"]) == (problem, target)]
        if those:
            # Compared with the unlearned model's own accuracy on unseen images.
            gaps = [row["reached"] - row["retain_test"] for row in those]
            columns = [gaps, *([row[name] for row in those] for name in ("lost", "membership_auc"))]
            name = f"{problem}, {target}"
            table.append([name, str(len(those)), *map(median_and_range, columns), str(stopped(those))])
            far, lost = sum(abs(gap) > 2 for gap in gaps), sum(row["lost"] > 1 for row in those)
            remarks.append(f"  {name}: further than 2: {far}, lost over 1: {lost}")
    header = ["random images, target from", "runs", "set minus unseen, points", "points lost", "AUC after", "stopped"]
    print_table(header, table)
    print(*remarks, sep="\n")


def subclass_table(rows: list[dict]) -> None:
    table = []
    for row in rows:
        numbers = [row[name] for name in ("target", "retrained_says", "forget_test", "lost")]
        case = f"{NAMES[row['kind']]}, {row['architecture']}, {row['target_from']}"
        table.append([case, *(f"{number:.1f}" for number in numbers)])
    print_table(["sub-class, network", "target", "retrained says", "forget test, %", "points lost"], table)


def many_table(rows: list[dict]) -> None:
    table = []
    for architecture, those in by_architecture(rows).items():
        cells = [median_and_range([row[name] for row in those]) for name in ("lost", "forget_test")]
        table.append([architecture, str(len(those)), *cells, str(sum(row["lost"] > 2 for row in those))])
    print_table(["over-fitted, 50 classes", "runs", "points lost", "forget test, %", "lost over 2"], table)


def sigma_table(rows: list[dict]) -> None:
    table = []
    for architecture, kind in sorted({(row["architecture"], row["kind"]) for row in rows}):
        those = [row for row in rows if (row["architecture"], row["kind"]) == (architecture, kind)]
        ranges = [np.ptp([row[name] for row in those]) for name in ("retain_test", "forget_test")]
        table.append([f"{architecture}, {NAMES[kind]}", *(f"{points:.2f}" for points in ranges)])
    header = ["σ and N: network, class", "retained, range in points", "forget test, range in points"]
    print_table(header, table)


def bad_table(rows: list[dict]) -> None:
    table = []
    for setting in BAD:
        those = [row for row in rows if row["setting"] == setting]
        wrecks = [row for row in those if row["lost"] > WRECK]
        if those:
            lost = median_and_range([row["lost"] for row in those])
            forget = f"{np.median([row['forget_test'] for row in those]):.1f}"
            caught = f"{stopped(wrecks)} of {len(wrecks)}"
            table.append([setting, str(len(those)), lost, forget, str(stopped(those)), caught])
    header = ["bad setting", "runs", "points lost, each", "forget test, median %", "stopped"]
    print_table([*header, f"of those that lost > {WRECK:g}"], table)
    wrecks = [row for row in rows if row["lost"] > WRECK]
    print(f"lost more than {WRECK:g} points: {len(wrecks)} of {len(rows)}, stopped {stopped(wrecks)}")


def released_table(rows: list[dict]) -> None:
    table = []
    for kind, architecture in itertools.product(RELEASED_CLASSES, RECIPES):
        those = [row for row in rows if (row["architecture"], row["kind"]) == (architecture, kind)]
        ours = [row for row in those if row["rule"] == "automatic"]
        usable = [row for row in those if row["rule"] == "released" and row["forget_test"] <= 5]
        if ours:
            cells = ["none", "–"]
            if usable:
                best = min(usable, key=lambda row: row["lost"])
                cells = [f"{best['forget_test']:.1f}, {best['lost']:.1f}", f"{best['sigma']}, {best['rate']:g}"]
            automatic = f"{ours[0]['forget_test']:.1f}, {ours[0]['lost']:.1f}"
            table.append([f"{architecture}, {NAMES[kind]}", automatic, *cells])
    tries = len(SIGMAS) * len(RATES)
    print_table(["network, class", "automatic: forget test, lost", f"released, best of {tries}", "its σ, η"], table)


def compare_guard(rows: dict[str, list[dict]], path: Path) -> None:
    """The guard's estimate beside the truth, over all runs that have one."""
    parts = {
        "defaults": rows["class"],
        "bad settings": [row for row in rows["bad"] if not row["setting"].startswith("wrong")],
        "wrong image processor": [row for row in rows["bad"] if row["setting"].startswith("wrong")],
        "released rule, grid": [row for row in rows["released"] if row["rule"] == "released"],
    }
    parts = {name: [row for row in those if np.isfinite(row["change_elsewhere"])] for name, those in parts.items()}
    for names in (list(parts)[:2], list(parts)[:3], list(parts)):
        pairs = np.array([(row["change_elsewhere"], row["lost"]) for name in names for row in parts[name]])
        if len(pairs) > 2:
            print(f"Spearman over {', '.join(names)}: {spearman(*pairs.T):.3f} ({len(pairs)} runs)")
    if any(parts.values()):
        draw(parts, path)


def number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks; equal values share the mean of their ranks."""

    def ranks(values):
        _, group, size = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(size) - (size - 1) / 2)[group]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def draw(parts: dict[str, list[dict]], path: Path) -> None:
    """The guard's estimate against the truth."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    # Okabe and Ito's colours, told apart by the shape as well.
    styles = zip(("#0072B2", "#D55E00", "#CC79A7", "#999999"), ("o", "^", "s", "x"), strict=True)
    for (name, those), (colour, marker) in zip(parts.items(), styles, strict=True):
        points = [(row["change_elsewhere"], row["lost"]) for row in those]
        if points:
            axes.scatter(
                *zip(*points, strict=True), s=22, c=colour, marker=marker, alpha=0.7, label=f"{name} ({len(points)})"
            )
    axes.axvline(JIT_CHANGE_LIMIT, color="black", linewidth=1, linestyle="--")
    axes.text(JIT_CHANGE_LIMIT + 0.01, 0.97, "limit", transform=axes.get_xaxis_transform(), va="top")
    axes.axhline(WRECK, color="black", linewidth=0.5, linestyle=":")
    axes.set_xlabel("change elsewhere, estimated without retained data (0: untouched, 1: destroyed)")
    axes.set_ylabel("retained test accuracy lost, points")
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0, 0.95))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
    print(f"limits: {JIT_CHANGE_LIMIT}, {100 * DISTANCE_LIMIT:.0f} % of the weights")
