"""
The picture and the table of README.md, from the rows of the pages on results:

    python -m scripts.docs.readme

The picture is a class before and after it is forgotten, and while it is learned again: docs/verification and docs/removal,
the over-fitted network on CIFAR-10, three classes. The table is docs/real_models.
"""

from pathlib import Path

import numpy as np

from hf_unlearn.publication.plots import COLORS
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.results import markdown, new_figure, read_rows, save_figure


ROOT = Path(__file__).parents[2]
CASE = "cifar10"
RETRAINED = ("retrained 1", "retrained 2", "retrained 3")
# What a bar is called, and the models of its rows.
MODELS = {
    "before": ("original",),
    "after jit": ("unlearned",),
    "after rebuild": ("default",),
    "never saw\nthe class": RETRAINED,
}
# What is shown, as docs/verification/measures.csv and docs/removal/sweep.csv call it.
MEASURES = {
    "class": ("accuracy/forget_test", "accuracy/forgotten"),
    "others": ("accuracy/retain_test", "accuracy/unseen"),
    "again": ("relearning_accuracy/forget_test", "relearning/forget_test"),
}


def values(model: str, what: str) -> list[float]:
    """In percent, one for each network."""
    measure, column = MEASURES[what]
    if model == "after rebuild":
        rows = read_rows(ROOT / "docs" / "removal" / "sweep.csv")
        found = [row[column] for row in rows if row["case"].startswith(CASE) and row["model"] in MODELS[model]]
    else:
        rows = read_rows(ROOT / "docs" / "verification" / "measures.csv")
        rows = [row for row in rows if row["case"] == CASE and row["measure"] == measure]
        found = [row["value"] for row in rows if row["model"] in MODELS[model]]
    return [100 * float(value) for value in found]


def draw(path: Path) -> None:
    figure = new_figure(9, 3.6)
    said, again = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(MODELS))
    for axes, what, label, color, offset, width in (
        (said, "class", "unseen images of the class", COLORS["unlearned"], -0.2, 0.38),
        (said, "others", "unseen images of the nine others", COLORS["original"], 0.2, 0.38),
        (again, "class again", "", COLORS["unlearned"], 0.0, 0.5),
    ):
        of_model = [values(model, what.removeprefix("class ")) for model in MODELS]
        heights = [float(np.median(some)) for some in of_model]
        axes.bar(places + offset, heights, width, color=color, label=label)
        for place, height, some in zip(places + offset, heights, of_model, strict=True):
            axes.plot([place] * len(some), some, ".", color="black", markersize=4)
            axes.text(place, max(some) + 2, f"{height:.0f}", ha="center", fontsize=10)
    said.set_title("Accuracy in %: what the model says", fontsize=11)
    said.legend(loc="upper right", fontsize=9, frameon=False)
    again.set_title("The class while 20 images teach it again", fontsize=11)
    for axes in (said, again):
        axes.set_xticks(places, MODELS, fontsize=9)
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, dpi=130)


def real_models() -> str:
    """One row for each class of MobileNetV2, accuracies in % before and after."""

    def change(row: dict, name: str) -> str:
        return f"{float(row[f'{name}_before']):.0f} → {float(row[name]):.0f}"

    def change_of_others(row: dict, name: str) -> str:
        return f"{float(row[f'{name}_before']):.1f} → {float(row[name]):.1f}"

    table = [
        [
            row["label"],
            change(row, "unseen_forgotten"),
            change_of_others(row, "unseen_others"),
            change_of_others(row, "thousand_others"),
        ]
        for row in read_rows(ROOT / "docs" / "real_models" / "classes.csv")
        if row["model"] == "mobilenet-v2" and row["num_images"] == "280"
    ]
    return markdown(["forgotten", "the class", "nine other classes", "all other classes"], table)


if __name__ == "__main__":
    draw(ROOT / "docs" / "forgetting.png")
    page = ROOT / "README.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), {"real models": real_models()}), encoding="utf-8")
