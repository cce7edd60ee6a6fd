"""The share of images with two answers."""

import numpy as np

from hf_unlearn.metrics.prediction_disagreement.prediction_disagreement import prediction_disagreement


def test_prediction_disagreement_is_the_share_of_different_classes():
    p, q = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]), np.array([[0.6, 0.4]] * 4)
    assert prediction_disagreement(p, q) == 0.5
