"""The distance of two outputs, against its definition."""

import math

import numpy as np

from hf_unlearn.metrics.activation_distance.activation_distance import activation_distance


def test_activation_distance_is_the_euclidean_distance():
    p, q = np.array([[1.0, 0.0, 0.0], [0.6, 0.2, 0.2]]), np.array([[0.0, 1.0, 0.0], [0.3, 0.6, 0.1]])
    np.testing.assert_allclose(activation_distance(p, q), [math.sqrt(2), math.sqrt(0.09 + 0.16 + 0.01)])
