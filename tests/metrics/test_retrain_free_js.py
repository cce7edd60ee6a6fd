"""RF-JSD, against the divergence of mean outputs written out."""

import numpy as np
import pytest
from metric_cases import js_written_out, random_rows

from hf_unlearn.metrics.retrain_free_js.retrain_free_js import retrain_free_js


def test_rf_jsd_is_the_mean_over_classes_of_the_js_divergence_of_mean_outputs():
    forget, test = random_rows(6, 3), random_rows(9, 3, seed=1)
    forget_labels, test_labels = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 1, 2] * 3)
    by_class = [
        js_written_out(forget[forget_labels == c].mean(axis=0), test[test_labels == c].mean(axis=0)) for c in (0, 2)
    ]
    assert retrain_free_js(forget, forget_labels, test, test_labels) == pytest.approx(sum(by_class) / 2)


def test_rf_jsd_without_unseen_images_of_a_forgotten_class_is_an_error():
    with pytest.raises(ValueError, match="the split 'test' has no image of the class 1"):
        retrain_free_js(random_rows(2, 3), np.array([0, 1]), random_rows(2, 3), np.array([0, 2]))
