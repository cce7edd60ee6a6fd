"""The measurement of docs/finding.md: precision and recall as they are defined, and the page with the tables of its files."""

import argparse

import numpy as np
import pytest
from conftest import ROOT, make_picture

from scripts.benchmarks.finding.run import COPIES, search, tables
from scripts.benchmarks.methods.make_tables import fill


def test_precision_and_recall_are_those_of_the_images_beside_the_examples():
    # Angles to the first axis; rows 0 and 1 are the examples, 2, 3 and 7 are meant, too.
    angles = np.radians([0, 2, 3, 5, 6, 60, 70, 80, 85, 88])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    wanted = np.isin(np.arange(10), [0, 1, 2, 3, 7])
    found = search(features, wanted, np.array([0, 1]))
    # The gap is behind the third: 2, 3 and 4 are taken.
    assert found["taken"] == 3
    assert found["precision"] == pytest.approx(2 / 3) and found["recall"] == pytest.approx(2 / 3)
    assert found["best_f1"] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert found["precision_at_90"] == pytest.approx(3 / 6)


def test_copies_are_other_pixels_of_the_same_picture():
    picture = make_picture(seed=3)
    for name, copy in COPIES.items():
        made = copy(picture)
        assert made.size != picture.size or (np.asarray(made) != np.asarray(picture)).any(), name


def test_the_page_has_the_tables_of_its_files():
    page = (ROOT / "docs" / "finding.md").read_text(encoding="utf-8")
    assert fill(page, tables(argparse.Namespace(docs=ROOT / "docs" / "finding"))) == page
