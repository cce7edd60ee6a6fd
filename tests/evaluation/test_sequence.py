"""What became of each of several requests after every step."""

import numpy as np
from conftest import CLASSES

from hf_unlearn import ForgetRequest
from hf_unlearn.evaluation.sequence import Tracker


def test_tracker_measures_what_it_says(dataset, resnet, image_processor):
    requests = [ForgetRequest(classes=["cat"], id="a"), ForgetRequest(indices=[1, 4, 7], id="b")]
    columns = {"image_column": "image", "label_column": "label"}
    tracker = Tracker(requests, dataset["train"], dataset["test"], columns)
    sizes = {name: len(split) for name, split in tracker.splits.items()}
    assert sizes == {"a": 10, "b": 3, "retain": 17, "retain_test": 12}
    assert set(tracker.splits["retain"]["label"]) == {1, 2} and set(tracker.splits["retain_test"]["label"]) == {1, 2}
    tracker.measure(None, resnet, image_processor, batch_size=8)
    pixel_values = image_processor([dataset["train"][row]["image"] for row in (1, 4, 7)], return_tensors="pt")
    answers = resnet(**pixel_values).logits.argmax(dim=-1).numpy()
    # Rows 1, 4 and 7 are dogs.
    assert tracker.steps[0]["accuracy"]["b"] == np.mean(answers == CLASSES.index("dog"))
