"""The Jensen-Shannon divergence, against a sum written out."""

import math

import numpy as np
import pytest
from metric_cases import js_written_out, random_rows

from hf_unlearn.metrics.js_divergence.js_divergence import js_divergence


def test_js_divergence_of_an_example_written_out():
    p, q = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    expected = (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert js_divergence(p, q) == pytest.approx(expected)


def test_js_divergence_equals_a_sum_written_out_in_float64():
    p, q = random_rows(50, 7), random_rows(50, 7, seed=1)
    np.testing.assert_allclose(
        js_divergence(p, q), [js_written_out(a, b) for a, b in zip(p, q, strict=True)], atol=1e-14
    )


def test_js_divergence_is_zero_on_itself_and_ln_2_without_overlap():
    p, q = np.array([[0.4, 0.6, 0, 0]]), np.array([[0, 0, 0.1, 0.9]])
    assert js_divergence(p, p) == 0
    assert js_divergence(p, q) == pytest.approx(math.log(2))
