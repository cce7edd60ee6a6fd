"""ZRF, against the divergence in bits written out."""

import math

import numpy as np
import pytest
from metric_cases import js_written_out, random_rows

from hf_unlearn.metrics.zero_retrain_forgetting.zero_retrain_forgetting import zero_retrain_forgetting


def test_zrf_is_one_minus_the_mean_js_divergence_in_bits():
    p, q = random_rows(20, 5), random_rows(20, 5, seed=1)
    bits = [js_written_out(a, b) / math.log(2) for a, b in zip(p, q, strict=True)]
    assert zero_retrain_forgetting(p, q) == pytest.approx(1 - sum(bits) / 20)


def test_zrf_is_one_for_the_random_models_output_and_zero_without_overlap():
    p, q = np.array([[1.0, 0.0]] * 3), np.array([[0.0, 1.0]] * 3)
    assert zero_retrain_forgetting(p, p) == 1
    assert zero_retrain_forgetting(p, q) == pytest.approx(0)
