"""
The tables of the benchmark of docs/methods.md, as Markdown and as a picture:

    python -m scripts.benchmarks.methods.make_tables benchmark/results.parquet --figure benchmark.png
    python -m scripts.benchmarks.methods.make_tables docs/methods/*.parquet --pages docs/methods.md
    python -m scripts.benchmarks.methods.make_tables benchmark/results.parquet \\
        --published scripts/benchmarks/methods/configs/published.csv

The gap is the mean distance in points between the accuracies of a method and those of a model retrained without the
forget set, on the forget set, on retained training images and on retained test images. Ranks are taken within each case
(model, scenario, request) and averaged. Times are seconds of CPU for the unlearning alone; on a GPU, seconds.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.method_names import METHODS
from scripts.benchmarks.results import markdown, new_figure, save_figure


SCENARIOS = {"class": "full class", "subclass": "sub-class", "random": "random images"}
YARDSTICKS = ("original", "retrained model")
# Newer than the comparison; measured in docs/removal.md.
NOT_COMPARED = ("rebuild",)


def read_results(path: Path) -> pd.DataFrame:
    """The final runs, with accuracies and gaps in percent, and what the method was given as `data`."""
    rows = pd.read_parquet(path)
    rows = rows[rows["phase"] == "final"].copy()
    rows["method"] = [
        label if label in YARDSTICKS else json.loads(settings)["method"]
        for label, settings in zip(rows["label"], rows["settings"], strict=True)
    ]
    rows["data"] = rows["method"].map(data_of)
    rows["gap"] = 100 * rows["average_gap"]
    rows["lost"] = 100 * (rows["retrained_retain_test_accuracy"] - rows["retain_test_accuracy"])
    rows["forget_gap"] = 100 * (rows["forget_accuracy"] - rows["retrained_forget_accuracy"])
    rows["attack_gap"] = rows["loss_attack_auc"] - rows["retrained_loss_attack_auc"]
    rows["time"] = rows["cpu_seconds"]
    methods = rows[~rows["label"].isin(YARDSTICKS)]
    rows["rank"] = methods.groupby(["benchmark", "model", "scenario", "number"])["gap"].rank(method="average")
    return rows


def data_of(method: str) -> str:
    if method not in METHODS:
        return "–"
    trainer = load_method(method)[1]
    return "forget + retained" if trainer.needs_retain else "forget"


def mean_std(values: pd.Series, digits: int = 1) -> str:
    """Mean ± standard deviation over the runs; a dash if there are none."""
    values = values.dropna()
    if values.empty:
        return "–"
    spread = values.std() if len(values) > 1 else 0.0
    return f"{values.mean():.{digits}f} ± {spread:.{digits}f}"


def order_of(rows: pd.DataFrame) -> list[str]:
    """Labels: the yardsticks, then methods by the mean of their rank, those without any run last."""
    ranks = rows[~rows["label"].isin(YARDSTICKS)].groupby("label")["rank"].mean().sort_values(na_position="last")
    return [label for label in YARDSTICKS if label in set(rows["label"])] + list(ranks.index)


def overview(rows: pd.DataFrame) -> str:
    """One row per method: the gap by scenario, what was lost, rank and time, over all models and requests."""
    scenarios = [name for name in SCENARIOS if name in set(rows["scenario"])]
    header = ["method", "data", *(f"gap, {SCENARIOS[name]}" for name in scenarios), "worst gap", "rank", "time"]
    table = []
    for label in order_of(rows):
        own = rows[rows["label"] == label]
        by_scenario = [mean_std(own[own["scenario"] == name]["gap"]) for name in scenarios]
        worst = "–" if own["gap"].isna().all() else f"{own['gap'].max():.1f}"
        rank = "–" if own["rank"].isna().all() else f"{own['rank'].mean():.1f}"
        time = "–" if own["time"].isna().all() else f"{own['time'].mean():.1f}"
        table.append([label, own["data"].iloc[0], *by_scenario, worst, rank, time])
    return markdown(header, table)


def advice(rows: pd.DataFrame) -> str:
    """
    By data at hand and kind of request: the three methods with the smallest mean gap, what they cost, and the gap of the
    model left as it was.
    """
    retraining = rows[rows["method"] == "retrain"].groupby("scenario")["time"].mean()
    table = []
    for data, owned in (
        (("forget",), "the forget set alone"),
        (("forget", "forget + retained"), "retained images too"),
    ):
        for scenario in SCENARIOS:
            some = rows[rows["data"].isin(data) & (rows["scenario"] == scenario)]
            # The yardstick's own way, and the control that hides.
            some = some[~some["method"].isin(["retrain", "head_only"])]
            # A run that was refused, or a method without one, is no advice.
            means = some.groupby("label")[["gap", "time"]].mean().dropna().sort_values("gap")[:3]
            if len(means):
                best = [
                    f"{label} ({row.gap:.1f}, {100 * row.time / retraining[scenario]:.0f} %)"
                    for label, row in means.iterrows()
                ]
                nothing = rows[(rows["label"] == "original") & (rows["scenario"] == scenario)]["gap"].mean()
                table.append([owned, SCENARIOS[scenario], ", ".join(best), f"{nothing:.1f}"])
    header = [
        "data at hand",
        "request",
        "smallest mean gap (points, share of the time of retraining)",
        "doing nothing",
    ]
    return markdown(header, table)


def where_jit_loses(rows: pd.DataFrame) -> str:
    """By case: how many forget-only methods JiT was compared with, and those with a smaller mean gap."""
    some = rows[(rows["data"] == "forget") & rows["gap"].notna()]
    table = []
    for (benchmark, model, scenario), own in some.groupby(["benchmark", "model", "scenario"], sort=False):
        means = own.groupby("label")["gap"].mean().sort_values()
        better = [f"{label} ({gap:.1f})" for label, gap in means.items() if gap < means["jit"]]
        case = f"{benchmark}, {model}: {SCENARIOS[scenario]}"
        table.append([case, f"{means['jit']:.1f}", f"{len(means) - 1}", ", ".join(better) or "none"])
    return markdown(["case", "gap of jit", "compared with", "smaller gap"], table)


def detail(rows: pd.DataFrame) -> str:
    """One table per benchmark, model and scenario."""
    parts = []
    for (benchmark, model, scenario), own in rows.groupby(["benchmark", "model", "scenario"], sort=False):
        header = [
            "method",
            "data",
            "forget set",
            "forget test",
            "retain test",
            "lost",
            "attack AUC",
            "gap",
            "rank",
            "time",
        ]
        table = []
        for label in order_of(own):
            some = own[own["label"] == label]
            percents = [
                mean_std(100 * some[name])
                for name in ("forget_accuracy", "forget_test_accuracy", "retain_test_accuracy")
            ]
            rank = "–" if some["rank"].isna().all() else f"{some['rank'].mean():.1f}"
            values = [mean_std(some["lost"]), mean_std(some["loss_attack_auc"], 2), mean_std(some["gap"])]
            table.append([label, some["data"].iloc[0], *percents, *values, rank, mean_std(some["time"])])
        parts.append(f"### {benchmark}, {model}: {SCENARIOS[scenario]}\n\n{markdown(header, table)}")
        refused = own[own["status"] != "done"].drop_duplicates("label")
        parts += [f"{row.label}: {row.status}, {row.reason}" for row in refused.itertuples()]
    return "\n\n".join(parts)


def settings_table(rows: pd.DataFrame) -> str:
    """What the search chose."""
    table = []
    for (label, model, scenario), own in rows.groupby(["label", "model", "scenario"], sort=False):
        settings = json.loads(own["settings"].iloc[0])
        settings.pop("method", None)
        if settings:
            table.append(
                [label, f"{model}, {scenario}", ", ".join(f"{name} {value}" for name, value in settings.items())]
            )
    return markdown(["method", "case", "settings"], table)


def beside_published(rows: pd.DataFrame, published: Path) -> str:
    """Ours against the published numbers of the same task, in percent; the columns of the file are those of the table."""
    theirs = pd.read_csv(published, comment="#")
    table = []
    for row in theirs.itertuples():
        ours = rows[(rows["benchmark"] == row.benchmark) & (rows["model"] == row.model) & (rows["label"] == row.label)]
        ours = ours[ours["scenario"] == row.scenario]
        if not ours.empty:
            value = mean_std(100 * ours[row.metric])
            table.append([row.label, f"{row.benchmark}, {row.model}", row.metric, f"{row.mean} ± {row.std}", value])
    return markdown(["method", "task", "measure", f"published ({theirs['source'].iloc[0]})", "here"], table)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """A dot per method: gap against time, one panel per scenario."""
    scenarios = [name for name in SCENARIOS if name in set(rows["scenario"])]
    figure = new_figure(5 * len(scenarios), 5)
    panels = figure.subplots(1, len(scenarios), sharey=True, squeeze=False)
    colours = {"forget": "tab:orange", "forget + retained": "tab:blue"}
    for axes, scenario in zip(panels[0], scenarios, strict=True):
        own = rows[(rows["scenario"] == scenario) & rows["gap"].notna() & rows["time"].notna()]
        for label, some in own.groupby("label"):
            time, gap, colour = some["time"].mean(), some["gap"].mean(), colours[some["data"].iloc[0]]
            axes.plot(time, gap, "o", color=colour)
            axes.annotate(label, (time, gap), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="symlog", xlabel="seconds of CPU", title=SCENARIOS[scenario])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("average gap to a retrained model, points")
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours.values()]
    panels[0][-1].legend(handles, [f"{name} set" if name == "forget" else name for name in colours], loc="upper right")
    save_figure(figure, path, dpi=130)


def sections(rows: pd.DataFrame) -> dict[str, str]:
    """The tables, by the name of the marks that they stand between on a page."""
    return {
        "advice": advice(rows),
        "where jit loses": where_jit_loses(rows),
        "overview": overview(rows),
        "cases": detail(rows),
        "settings": settings_table(rows),
    }


def fill(page: str, tables: dict[str, str]) -> str:
    """The page with the tables between `<!-- begin NAME -->` and `<!-- end NAME -->`, as far as it has the marks."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin in page:
            page = page[: page.index(begin)] + f"{begin}\n{table}\n{end}" + page[page.index(end) + len(end) :]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="Parquet files of run.py.")
    parser.add_argument("--pages", type=Path, nargs="+", default=[], help="Write the tables into these pages.")
    parser.add_argument("--figure", type=Path, help="Also draw gap against time into this PNG.")
    parser.add_argument("--published", type=Path, help="CSV of published numbers to print beside ours.")
    options = parser.parse_args()
    rows = pd.concat([read_results(path) for path in options.results], ignore_index=True)
    tables = sections(rows)
    for page in options.pages:
        page.write_text(fill(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    if not options.pages:
        print("\n\n".join(f"## {name.capitalize()}\n\n{table}" for name, table in tables.items()))
    if options.published is not None:
        print(f"\n## Published numbers\n\n{beside_published(rows, options.published)}")
    if options.figure is not None:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
