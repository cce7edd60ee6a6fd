"""Every method gives the same weights on two processes as on one: teachers, generators and Fisher passes included."""

import method_runs
import pytest
import torch
from conftest import make_model
from launch import run_on_two_processes

from hf_unlearn.unlearning.method_names import METHODS


pytestmark = pytest.mark.distributed

# BatchNorm takes its statistics from the batches of each process there, as in any training.
TRAINS_BATCH_NORM = ("retrain",)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes wrote."""
    return run_on_two_processes(method_runs.__file__, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_agree(two_processes, method):
    (processes, first), (_, second) = two_processes
    assert processes == 2
    assert all(torch.equal(value, second[method][0][name]) for name, value in first[method][0].items())


@pytest.mark.parametrize("method", [method for method in METHODS if method not in TRAINS_BATCH_NORM])
def test_two_processes_give_the_weights_of_one(two_processes, method, tmp_path):
    trainer = method_runs.run(method, str(tmp_path), method_runs.UPDATE)
    moved = 0.0
    original = make_model("resnet").state_dict()
    weights, change = two_processes[0][1][method]
    for name, expected in trainer.model.state_dict().items():
        difference = (weights[name].double() - expected.double()).norm()
        # Sums of float32 in another order.
        assert difference <= 1e-4 * expected.double().norm(), f"{name}: {difference}"
        moved += (expected.double() - original[name].double()).norm() ** 2
    assert change == pytest.approx(trainer.change, abs=1e-3)
    assert moved > 0, "nothing moved: the comparison says nothing"
