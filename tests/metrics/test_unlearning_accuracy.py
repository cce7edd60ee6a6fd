"""The share of right answers, by split and by class."""

import numpy as np
from metric_cases import load

from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import class_accuracy


def test_unlearning_accuracy_is_the_share_of_right_answers_per_split_and_class():
    metric = load("unlearning_accuracy")
    metric.add_batch(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 0], splits=["forget", "forget"])
    metric.add_batch(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[0, 1], splits=["retain", "retain"])
    assert metric.compute() == {
        "unlearning_accuracy": 0.5,
        "accuracy_forget": 0.5,
        "accuracy_retain": 0.5,
        "accuracy_forget_class_0": 0.5,
        "accuracy_retain_class_0": 1.0,
        "accuracy_retain_class_1": 0.0,
    }


def test_class_accuracy_leaves_out_classes_that_do_not_occur():
    predictions = np.eye(3)[[0, 1, 1, 2]]
    assert class_accuracy(predictions, np.array([0, 0, 1, 1])) == {0: 0.5, 1: 0.5}
