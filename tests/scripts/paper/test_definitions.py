"""The configurations of the paper say what its table ran."""

import pytest
import yaml
from conftest import ROOT

from hf_unlearn.commands.parsing import parse_run_arguments


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts" / "paper" / "definitions" / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_configs_of_the_paper_are_ready_for_use(path):
    *_, settings = parse_run_arguments(["--output_dir", "out", "--config", str(path)])
    written = yaml.safe_load(path.read_text())
    assert settings.preset == "as_released" and settings.num_perturbations == 25
    assert settings.sigma == written["sigma"] and settings.learning_rate == float(written["learning_rate"])
    assert settings.step_rule == "fixed" and settings.loss_reduction == "sum" and settings.dropout
