"""Pictures of a report. Colours are those of Okabe and Ito, which colour-blind readers can tell apart."""

from pathlib import Path

from .report import UnlearningReport


COLORS = {"original": "#0072B2", "unlearned": "#D55E00", "retrained": "#009E73"}
SPLIT_COLORS = {"forget": "#D55E00", "retain": "#0072B2", "test": "#000000"}
SPLIT_LABELS = {
    "forget": "forget\n(training)",
    "forget_test": "forget\n(unseen)",
    "retain": "retain\n(training)",
    "retain_test": "retain\n(unseen)",
}


def save_figures(report: UnlearningReport, folder: str | Path) -> list[Path]:
    """
    Draws what the report allows: accuracy before and after, entropy of the output before and after, and accuracy per
    class. A solid white ground keeps them readable on light and dark pages.

    Args:
        report ([`UnlearningReport`]):
            The measurements.
        folder (`str` or `Path`):
            Where the PNG files go; created if missing.

    Returns:
        `list[Path]`: the files written.
    """
    from matplotlib.figure import Figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("accuracy", _accuracy), ("entropy", _entropy), ("class_accuracy", _class_accuracy)):
        figure = Figure(facecolor="white", layout="constrained")
        if draw(report, figure):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110, metadata={"Software": None})
            written.append(path)
    return written


def _plain(axes) -> None:
    """Only the axes that carry a scale."""
    axes.spines[["top", "right"]].set_visible(False)


def _accuracy(report, figure) -> bool:
    """Grouped bars: one group per split, one bar per model."""
    groups = [
        split
        for split in SPLIT_LABELS
        if all(f"{split}_accuracy" in result["metrics"] for result in report.results.values())
    ]
    if not groups:
        return False
    figure.set_size_inches(7, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(report.results)
    for number, (model, result) in enumerate(report.results.items()):
        heights = [100 * result["metrics"][f"{split}_accuracy"] for split in groups]
        positions = [place + (number - (len(report.results) - 1) / 2) * width for place in range(len(groups))]
        bars = axes.bar(positions, heights, width * 0.92, label=model, color=COLORS[model])
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=1)
    axes.set_xticks(range(len(groups)), [SPLIT_LABELS[split] for split in groups])
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy in %")
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    _plain(axes)
    return True


def _entropy(report, figure) -> bool:
    """Histograms of the output's entropy, one panel per model, one line per split."""
    histograms = {model: result["entropy_histogram"] for model, result in report.results.items()}
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
                linewidth=2.2 if split == "forget" else 1.3, fill=False,
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


def _class_accuracy(report, figure) -> bool:
    """One row per class with a dot per model. With many classes, the ones that changed most."""
    by_model = {model: result["class_accuracy"] for model, result in report.results.items()}
    classes = list(by_model.get("unlearned", {}))
    if not classes:
        return False
    before = by_model.get("original", by_model["unlearned"])
    if len(classes) > 25:
        classes.sort(key=lambda name: -abs(by_model["unlearned"][name] - before[name]))
        classes = classes[:25]
    figure.set_size_inches(7, 1.1 + 0.26 * len(classes))
    axes = figure.subplots()
    for offset, (model, values) in zip((-0.18, 0, 0.18), by_model.items(), strict=False):
        axes.plot(
            [100 * values[name] for name in classes],
            [row + offset for row in range(len(classes))],
            {"original": "o", "unlearned": "D", "retrained": "s"}[model],
            label=model, color=COLORS[model], markersize=5,
        )  # fmt: skip
    axes.set_yticks(range(len(classes)), classes)
    axes.set_ylabel("class")
    axes.invert_yaxis()
    axes.set_xlim(-3, 103)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on unseen images of the class in %")
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    _plain(axes)
    return True
