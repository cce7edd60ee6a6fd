"""Several processes share the attacks of `verify`, and each gets the report of a single process."""

import pytest
import verify_runs
from launch import run_on_two_processes


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes wrote."""
    return run_on_two_processes(verify_runs.__file__, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("architecture", verify_runs.ARCHITECTURES)
def test_report_on_two_processes_is_that_of_one(two_processes, architecture):
    alone = verify_runs.verify(architecture)
    assert alone["models"] == [
        "original",
        "unlearned",
        "head-only",
        *["BatchNorm"] * (architecture == "resnet"),
        "retrained 1",
    ]
    shares = [results[architecture].pop("attacked here") for _, results in two_processes]
    assert all(processes == 2 for processes, _ in two_processes)
    assert alone.pop("attacked here") == len(alone["models"]) == sum(shares) and min(shares) > 0
    for _, results in two_processes:
        found = results[architecture]
        for name in ("models", "steps", "images", "missing", "notes", "curves"):
            assert found[name] == alone[name], name
        for name in ("measures", "margins", "layer_information"):
            assert list(found[name]) == list(alone[name])
            for key, value in alone[name].items():
                # The gradient of the control's head is summed over the processes.
                assert found[name][key] == pytest.approx(value, abs=1e-4), key
    (_, first), (_, second) = two_processes
    assert first[architecture] == second[architecture]
