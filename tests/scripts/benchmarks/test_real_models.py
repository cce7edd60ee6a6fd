"""What docs/real_models.md is measured with."""

import time

import torch
from conftest import make_model

from scripts.benchmarks.real_models.run import Measured
from scripts.benchmarks.real_models.timed_command import Clocks


def test_a_model_that_moved_late_is_measured_from_its_early_features():
    model, pixel_values = make_model("resnet").eval(), torch.rand(60, 3, 16, 16)
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits.argmax(-1)
        measured = Measured(model, pixel_values, before)
        assert measured.before.all() and all(weight.requires_grad for weight in model.parameters())
        model.classifier[1].bias[before[0]] -= 100
        after = model(pixel_values=pixel_values).logits.argmax(-1)
    assert measured.hits().tolist() == (after == before).tolist() and not measured.hits().all()


def test_time_goes_to_the_innermost_stage():
    class Work:
        def outer(self):
            time.sleep(0.02)
            self.inner()

        def inner(self):
            time.sleep(0.05)

    clocks = Clocks()
    clocks.to("imports")
    clocks.running = ["other"]
    for name in ("outer", "inner", "not there"):
        clocks.measure(Work, name, name)
    Work().outer()
    clocks.to("other")
    assert 0.05 <= clocks.seconds["inner"][0] and 0.02 <= clocks.seconds["outer"][0]
    assert clocks.seconds["imports"][0] > 0 and clocks.running == ["other"]
