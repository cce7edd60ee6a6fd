"""Every picture is drawn for few and for many classes, readable for colour-blind readers, with nothing cut off."""

from functools import cache

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image as PILImage

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.evaluate import make_report
from hf_unlearn.publication.plots import COLORS, _attacks, _class_accuracy, _confusion, save_figures


@cache
def report_of(num_classes, models=("original", "unlearned", "retrained"), splits=None, size=40):
    rng = np.random.default_rng(0)
    splits = splits or ("forget", "retain", "forget_test", "retain_test")
    probabilities = {
        model: {split: rng.dirichlet(np.ones(num_classes), size=size) for split in splits} for model in models
    }
    labels = {split: rng.integers(0, num_classes, size) for split in splits}
    names = [f"a class with a very long name indeed {label}, and a synonym" for label in range(num_classes)]
    return make_report(probabilities, labels, names, random={})


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_all_pictures_are_drawn_on_a_white_ground(num_classes, tmp_path):
    written = save_figures(report_of(num_classes), tmp_path)
    assert [path.name for path in written] == [
        "accuracy.png", "entropy.png", "class_accuracy.png", "confusion.png", "attacks.png"
    ]  # fmt: skip
    for path in written:
        with PILImage.open(path) as image:
            assert image.convert("RGBA").getpixel((1, 1)) == (255, 255, 255, 255)
            # No wider than a page shows it at half its size.
            assert image.width < 2000 and image.height < 1500


def test_pictures_are_those_that_the_splits_allow(tmp_path):
    report = report_of(3, models=("original", "unlearned"), splits=("forget",))
    assert [path.name for path in save_figures(report, tmp_path)] == ["accuracy.png", "entropy.png"]


def test_further_retrained_models_have_no_panel():
    report = report_of(3, models=("original", "unlearned", "retrained", "retrained_2"))
    figure = Figure()
    assert _confusion(report, figure)
    # Three panels and the scale.
    assert len(figure.axes) == 4


def test_no_text_of_a_picture_leaves_it():
    for draw in (_confusion, _attacks, _class_accuracy):
        for num_classes in (2, 1000):
            figure = Figure(layout="constrained")
            draw(report_of(num_classes), figure)
            figure.draw_without_rendering()
            for axes in figure.axes:
                box = axes.get_tightbbox()
                # A pixel of rounding.
                assert box.x0 >= -1 and box.y0 >= -1, (draw, num_classes)
                assert box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1, (draw, num_classes)


def test_row_of_the_confusion_picture_sums_to_100_percent():
    report = report_of(4)
    figure = Figure()
    _confusion(report, figure)
    shown = figure.axes[0].get_images()[0].get_array()
    counts = np.array(report.results["original"]["confusion"])
    np.testing.assert_allclose(shown, 100 * counts / counts.sum(axis=1, keepdims=True))


def test_class_without_unseen_images_is_an_empty_row():
    report = UnlearningReport(
        results={"unlearned": {"confusion": [[2, 0], [0, 0]]}}, splits={}, confusion_classes=["cat", "dog"]
    )
    figure = Figure()
    _confusion(report, figure)
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array(), [[100, 0], [0, 0]])


def luminance(color):
    """Relative luminance of sRGB, as the contrast rules of the web define it."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("color", COLORS.values())
def test_colours_stand_out_from_the_ground(color):
    """3:1, what the rules ask of graphics."""
    assert 1.05 / (luminance(color) + 0.05) >= 3
