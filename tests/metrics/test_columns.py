"""The mean of a comparison over each split."""

import pytest
from metric_cases import load, make_columns


DIVERGENCES = ["js_divergence", "kl_to_reference", "activation_distance", "prediction_disagreement"]


@pytest.mark.parametrize("name", [*DIVERGENCES, "zero_retrain_forgetting"])
def test_divergence_is_a_mean_per_split_and_the_main_one_is_of_the_forget_images(name):
    columns = make_columns(name)
    results = load(name).compute(**columns)
    for split in ("forget", "retain", "test"):
        rows = [row for row, value in enumerate(columns["splits"]) if value == split]
        alone = load(name).compute(
            **{column: [values[row] for row in rows] for column, values in columns.items()}
            | {"splits": ["forget"] * 48}
        )
        assert results[f"{name}_{split}"] == pytest.approx(alone[name])
    assert results[name] == results[f"{name}_forget"]
