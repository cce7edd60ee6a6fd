"""The benchmark of the speed compares what is equal."""

import csv
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """The update of one image, three perturbations: its rows, by way, and what was printed."""
    folder = tmp_path_factory.mktemp("speed")
    command = [
        sys.executable, "-m", "scripts.benchmarks.performance.run", "update", "--models", "resnet-18", "--image_sizes", "32", "--batch_sizes", "1",
        "--num_perturbations", "3", "--repeats", "1", "--device", "cpu", "--output_dir", folder,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert (folder / "update.png").stat().st_size > 0
    with open(folder / "update.csv", newline="") as file:
        return {row["way"]: row for row in csv.DictReader(file)}, done.stdout


@pytest.fixture
def rows(update):
    return update[0]


def test_without_a_gpu_it_is_said_that_none_was_measured(update):
    assert "Not measured: a GPU." in update[1]


def test_our_update_moves_the_weights_where_the_released_loop_moves_them(rows):
    """A step of a hundredth of their norm: to 1e-6 in float32, to the rounding of 8 bits of mantissa in bfloat16."""
    assert float(rows["ours"]["weights_difference"]) < 1e-6
    assert 1e-6 < float(rows["ours, bf16 perturbations"]["weights_difference"]) < 1e-3


def test_operations_are_those_of_the_perturbed_passes_a_clean_one_and_its_backward_pass(rows):
    """
    ResNet-18 at 32 × 32 with 100 classes, from the sizes of its convolutions; the backward pass costs two forward passes,
    less what the first layer saves, whose input needs no gradient.
    """
    stages = [(64, 64, 8, 4), (64, 128, 4, 1), (128, 128, 4, 3), (128, 256, 2, 1), (256, 256, 2, 3)]
    stages += [(256, 512, 1, 1), (512, 512, 1, 3)]
    first = 2 * 3 * 64 * 49 * 16 * 16
    shortcuts = sum(2 * i * o * size**2 for i, o, size, _ in stages if i != o)
    forward = first + sum(2 * 9 * i * o * size**2 * n for i, o, size, n in stages) + shortcuts + 2 * 512 * 100
    assert float(rows["ours"]["gflop"]) == pytest.approx((3 * forward + 3 * forward - first) / 1e9, rel=1e-3)
