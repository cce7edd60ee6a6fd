"""
The picture and the table of README.md, from the rows of the pages on results:

    python -m scripts.docs.readme

The picture is a class before and after it is forgotten, and while it is learned again: docs/verification and docs/removal,
the over-fitted network on CIFAR-10, three seeds and classes. The table is docs/real_models.
"""

from pathlib import Path

import numpy as np

from hf_unlearn.publication.plots import COLORS
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.results import markdown, new_figure, read_rows, save_figure


ROOT = Path(__file__).parents[2]
CASE = "cifar10"
RETRAINED = ("retrained 1", "retrained 2", "retrained 3")
# What a bar is called, the folder of docs/ whose rows it is made of, and the models of its rows.
MODELS = {
    "before": ("verification", ("original",)),
    "after jit": ("verification", ("unlearned",)),
    "after rebuild": ("removal", ("rebuilt",)),
    "never saw\nthe class": ("verification", RETRAINED),
}
# The page on removal has its own names for the accuracies of all images.
MEASURES = {
    "class": {"verification": "accuracy/forget_test", "removal": "accuracy of all/forget_test"},
    "others": {"verification": "accuracy/retain_test", "removal": "accuracy of all/retain_test"},
    "again": {"verification": "relearning_accuracy/forget_test", "removal": "relearning_accuracy/forget_test"},
}


def values(model: str, what: str) -> list[float]:
    """In percent, one for each seed and network."""
    folder, names = MODELS[model]
    return [
        100 * float(row["value"])
        for row in read_rows(ROOT / "docs" / folder / "measures.csv")
        if row["case"] == CASE and row["model"] in names and row["measure"] == MEASURES[what][folder]
    ]


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
