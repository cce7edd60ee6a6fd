"""The Kullback-Leibler divergence, its direction, and a sum written out."""

import math

import numpy as np
import pytest
from metric_cases import random_rows

from hf_unlearn.metrics.kl_to_reference.kl_to_reference import kl_to_reference


def test_kl_is_that_of_the_reference_from_the_prediction_and_not_the_reverse():
    prediction, reference = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert kl_to_reference(prediction, reference) == pytest.approx(math.log(2))
    assert kl_to_reference(reference, prediction) > 100


def test_kl_equals_a_sum_written_out_and_is_zero_on_itself():
    p, q = random_rows(50, 7) + 1e-6, random_rows(50, 7, seed=1)
    p /= p.sum(axis=1, keepdims=True)
    expected = [
        sum(b * math.log(b / a) for a, b in zip(*rows, strict=True) if b > 0) for rows in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(kl_to_reference(p, q), expected, rtol=1e-12)
    np.testing.assert_allclose(kl_to_reference(q, q), 0, atol=1e-15)
