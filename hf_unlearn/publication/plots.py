"""Draws the figures of a report. The colours are those of Okabe and Ito, which colour-blind readers can tell apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import ROC_FPR, UnlearningReport


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..evaluation.verification_report import VerificationReport


COLORS = {"original": "#0072B2", "unlearned": "#D55E00", "retrained": "#009E73"}
# Style and width of the lines, so that they can be told apart without colours.
LINES = {"original": ("-", 1.3), "unlearned": ("-", 2.4), "retrained": ("--", 1.6)}
MARKERS = {"original": "o", "unlearned": "D", "retrained": "s"}
SPLIT_COLORS = {"forget": "#D55E00", "retain": "#0072B2", "test": "#000000"}
SPLIT_LABELS = {
    "forget": "forget\n(training)",
    "forget_test": "forget\n(unseen)",
    "retain": "retain\n(training)",
    "retain_test": "retain\n(unseen)",
}


def save_figures(report: UnlearningReport, folder: str | Path) -> list[Path]:
    """
    Draws the figures that the report has data for: accuracies before and after, entropies of the outputs before and
    after, accuracy per class, predictions per class, and ROC curves of the attacks. The white background keeps them
    readable on light and dark pages.

    Args:
        report ([`UnlearningReport`]):
            The measurements.
        folder (`str` or `Path`):
            Folder for the PNG files; made if it does not exist.

    Returns:
        `list[Path]`: the files written.
    """
    from matplotlib.figure import Figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    pictures = {
        "accuracy": _accuracy,
        "entropy": _entropy,
        "class_accuracy": _class_accuracy,
        "confusion": _confusion,
        "attacks": _attacks,
    }
    for name, draw in pictures.items():
        figure = Figure(facecolor="white", layout="constrained")
        if draw(report, figure):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110, metadata={"Software": None})
            written.append(path)
    return written


def _plain(axes: "Axes") -> None:
    """Hides the upper and the right border, which have no scale."""
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str, length: int = 22) -> str:
    """
    Shortens a label name: keeps the first of its synonyms (before the first comma), and cuts the middle of a long one.
    """
    name = name.split(",")[0]
    return name if len(name) <= length else f"{name[: length // 2]}…{name[length // 2 + 1 - length :]}"


def _accuracy(report: UnlearningReport, figure: "Figure") -> bool:
    """Bars of the accuracies: one group per split, one bar per model."""
    models = report.models()
    groups = [
        split
        for split in SPLIT_LABELS
        if all(f"{split}_accuracy" in report.results[model]["metrics"] for model in models)
    ]
    if not groups:
        return False
    figure.set_size_inches(7, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        heights = [100 * report.results[model]["metrics"][f"{split}_accuracy"] for split in groups]
        positions = [place + (number - (len(models) - 1) / 2) * width for place in range(len(groups))]
        bars = axes.bar(positions, heights, width * 0.92, label=model, color=COLORS[model])
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=1)
    axes.set_xticks(range(len(groups)), [SPLIT_LABELS[split] for split in groups])
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy in %")
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    _plain(axes)
    return True


def _entropy(report: UnlearningReport, figure: "Figure") -> bool:
    """Histograms of the entropy of the outputs: one panel per model, one line per split."""
    histograms = {model: report.results[model]["entropy_histogram"] for model in report.models()}
    if not any("forget" in splits for splits in histograms.values()):
        return False
    figure.set_size_inches(3.1 * len(histograms) + 0.6, 3.2)
    panels = figure.subplots(1, len(histograms), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (model, splits) in zip(panels, histograms.items(), strict=True):
        unseen = [splits[name] for name in ("forget_test", "retain_test") if name in splits]
        shown = {name: splits[name] for name in ("forget", "retain") if name in splits}
        if unseen:
            shown["test"] = [sum(counts) for counts in zip(*unseen, strict=True)]
        for split, counts in shown.items():
            share = [100 * count / sum(counts) for count in counts]
            axes.stairs(
                share, report.entropy_bins, label=split, color=SPLIT_COLORS[split],
                linewidth=2.4 if split == "forget" else 1.3, linestyle=":" if split == "test" else "-", fill=False,
            )  # fmt: skip
        axes.set_title(model, fontsize=10)
        axes.set_xlabel("entropy of the output in nats")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 110)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        _plain(axes)
    panels[0].set_ylabel("share of images in %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return True


def _class_accuracy(report: UnlearningReport, figure: "Figure") -> bool:
    """
    Accuracy per class: one row per class, one marker per model. With more than 25 classes, the 25 whose accuracy
    changed most, and a histogram of the changes of all classes.
    """
    by_model = {model: report.results[model]["class_accuracy"] for model in report.models()}
    classes = list(by_model.get("unlearned", {}))
    if not classes:
        return False
    before = by_model.get("original", by_model["unlearned"])
    change = {name: 100 * (by_model["unlearned"][name] - before[name]) for name in classes}
    shown = classes if len(classes) <= 25 else sorted(classes, key=lambda name: -abs(change[name]))[:25]
    if shown is classes:
        figure.set_size_inches(7, 1.1 + 0.26 * len(shown))
        axes = figure.subplots()
    else:
        figure.set_size_inches(9, 1.1 + 0.26 * len(shown))
        axes, all_classes = figure.subplots(1, 2, width_ratios=(3, 2))
        all_classes.hist(list(change.values()), bins=range(-100, 101, 5), color=COLORS["unlearned"])
        all_classes.set_yscale("symlog", linthresh=1)
        all_classes.set_ylim(bottom=0)
        all_classes.yaxis.set_major_formatter("{x:,.0f}")
        all_classes.set_xlabel("change of the accuracy in points")
        all_classes.set_ylabel("number of classes")
        all_classes.set_title(f"all {len(classes):,} classes", fontsize=10)
        axes.set_title(f"the {len(shown)} that changed most", fontsize=10)
        _plain(all_classes)
    for offset, (model, values) in zip((-0.18, 0, 0.18), by_model.items(), strict=False):
        axes.plot(
            [100 * values[name] for name in shown],
            [row + offset for row in range(len(shown))],
            MARKERS[model], label=model, color=COLORS[model], markersize=5,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [_short(name) for name in shown])
    axes.set_ylabel("class")
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on unseen images of the class in %")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    _plain(axes)
    return True


def _confusion(report: UnlearningReport, figure: "Figure") -> bool:
    """
    Confusion matrices: one panel per model, true classes by predicted classes, each row in percent of its images.
    """
    classes = [_short(name, 16) for name in report.confusion_classes]
    if not classes:
        return False
    matrices = {model: report.results[model]["confusion"] for model in report.models()}
    answers = classes + ["others"] * (len(matrices["unlearned"][0]) - len(classes))
    side = min(max(0.9 + 0.26 * len(answers), 2.2), 5)
    longest = 0.075 * max(len(name) for name in answers)
    figure.set_size_inches(len(matrices) * side + longest + 0.9, side + longest + 0.5)
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for axes, (model, rows) in zip(panels, matrices.items(), strict=True):
        share = [[100 * count / max(sum(row), 1) for count in row] for row in rows]
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set_title(model, fontsize=10)
        axes.set_xticks(range(len(answers)), answers, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        axes.set_xlabel("answer")
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.8")
        if len(answers) <= 12:
            for row, values in enumerate(share):
                for column, value in enumerate(values):
                    if value >= 0.5:
                        color = "white" if value > 60 else "black"
                        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    panels[0].set_ylabel("class of the image")
    figure.colorbar(panels[-1].images[-1], ax=panels[-1], label="share of the row in %")
    return True


def _attacks(report: UnlearningReport, figure: "Figure") -> bool:
    """ROC curves of the attacks: one panel per attack, one line per model."""
    curves = {model: report.results[model]["roc"] for model in report.models()}
    attacks = list(curves["unlearned"])
    if not attacks:
        return False
    figure.set_size_inches(3 * len(attacks) + 0.5, 4)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, attacks, strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        for model, rates in curves.items():
            style, width = LINES[model]
            area = report.results[model]["metrics"][f"{attack}_attack_auc"]
            axes.plot(ROC_FPR, rates[attack], style, linewidth=width, color=COLORS[model], label=f"{area:.2f}")
        axes.legend(title="area", loc="lower right", fontsize=8, title_fontsize=8, frameon=False)
        axes.set_title(f"attack on {attack.replace('_', ' ')}", fontsize=10)
        axes.set_xlabel("unseen images taken for training")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        _plain(axes)
    panels[0].set_ylabel("forget set taken for training")
    lines = panels[0].get_lines()[1:]
    figure.legend(lines, list(curves), loc="outside upper left", ncols=3, frameon=False)
    return True


def save_relearning_curves(report: "VerificationReport", path: str | Path) -> Path:
    """
    Draws how fast copies of the models learn the forget set again: one panel per measured split, one line per model.
    All retrained models have the same colour, and the area between their lowest and highest curve is filled.

    Args:
        report ([`~evaluation.verification_report.VerificationReport`]):
            The measurements.
        path (`str` or `Path`):
            The PNG file to write.

    Returns:
        `Path`: the PNG file.
    """
    from matplotlib.figure import Figure

    titles = {"forget": "forget images left out of the attack", "forget_test": "unseen images of what is forgotten"}
    styles: dict[str, dict[str, Any]] = {
        "original": {"color": COLORS["original"], "linestyle": "-", "linewidth": 1.3, "marker": "o"},
        "unlearned": {"color": COLORS["unlearned"], "linestyle": "-", "linewidth": 2.4, "marker": "D"},
        "head-only": {"color": "#CC79A7", "linestyle": ":", "linewidth": 2.0, "marker": "^"},
        "BatchNorm": {"color": "#56B4E9", "linestyle": ":", "linewidth": 2.0, "marker": "v"},
        "retrained": {"color": COLORS["retrained"], "linestyle": "--", "linewidth": 1.3, "marker": "s"},
    }
    figure = Figure(figsize=(3.4 * len(report.curves) + 0.8, 3.6), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(report.curves), sharey=True, squeeze=False)[0]
    for axes, (split, by_model) in zip(panels, report.curves.items(), strict=True):
        curves = {
            model: [100 * share for share in list(by_count.values())[-1]] for model, by_count in by_model.items()
        }
        band = [curves[model] for model in report.retrained]
        if len(band) > 1:
            low, high = ([choose(values) for values in zip(*band, strict=True)] for choose in (min, max))
            axes.fill_between(report.steps, low, high, color=COLORS["retrained"], alpha=0.2, linewidth=0)
        for model, shares in curves.items():
            kind = model.split()[0]
            label = model if kind != "retrained" or model == "retrained 1" else None
            axes.plot(report.steps, shares, markersize=4, label=label and label.removesuffix(" 1"), **styles[kind])
        axes.set_title(titles[split], fontsize=10)
        axes.set_xlabel("steps of re-learning")
        # The models differ in the first steps. This scale gives them more room.
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks([0, 2, 5, 10, 20, 50, 100], ["0", "2", "5", "10", "20", "50", "100"])
        axes.set_xlim(-0.3, report.steps[-1] * 1.05)
        axes.set_ylim(-3, 103)
        axes.minorticks_off()
        _plain(axes)
    panels[0].set_ylabel("accuracy in %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5 if len(panels) > 1 else 2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return Path(path)
