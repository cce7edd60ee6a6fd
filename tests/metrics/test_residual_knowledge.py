"""Copies of forget images that are still recognized."""

import math

import numpy as np
import pytest
from metric_cases import load

from hf_unlearn.metrics.residual_knowledge.residual_knowledge import residual_knowledge, share_with_residual_knowledge


def test_residual_knowledge_is_the_ratio_of_recognized_copies():
    unlearned, retrained = np.array([1, 1, 1, 0], bool), np.array([1, 0, 1, 0], bool)
    assert residual_knowledge(unlearned, retrained) == pytest.approx(1.5)
    assert residual_knowledge(~unlearned & unlearned, ~unlearned & unlearned) == 1
    assert residual_knowledge(unlearned, ~unlearned & unlearned) == math.inf


def test_images_with_residual_knowledge_are_those_recognized_more_often_than_by_the_retrained_model():
    # Image 7: 2 copies against 1; image 3: 1 against 1; image 5: 0 against 1. Copies need not be neighbours.
    images = np.array([7, 3, 5, 7, 3, 5])
    unlearned, retrained = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 0, 1, 0, 1, 0], bool)
    assert share_with_residual_knowledge(unlearned, retrained, images) == pytest.approx(1 / 3)


def test_residual_knowledge_counts_copies_of_forget_images_only():
    results = load("residual_knowledge").compute(
        predictions=[[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]],
        references=[[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]],
        labels=[0, 0, 0],
        images=[0, 0, 1],
        splits=["forget", "forget", "test"],
    )
    assert results == {
        "residual_knowledge": 2.0,
        "share_of_images_with_residual_knowledge": 1.0,
        "recognized_by_unlearned": 1.0,
        "recognized_by_retrained": 0.5,
    }
