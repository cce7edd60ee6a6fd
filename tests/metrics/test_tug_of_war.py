"""The product of what the gaps leave."""

import pytest
from metric_cases import RETRAINED, UNLEARNED, load, models_with_accuracies

from hf_unlearn.metrics.tug_of_war.tug_of_war import tug_of_war


def test_tug_of_war_is_the_product_of_what_the_gaps_leave():
    results = load("tug_of_war").compute(**models_with_accuracies(UNLEARNED, RETRAINED))
    assert results == {"tug_of_war": pytest.approx(0.9 * 0.9 * 0.8)}
    assert tug_of_war(RETRAINED, RETRAINED) == 1
