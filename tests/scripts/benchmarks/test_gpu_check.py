"""The script for a GPU runs where there is none, and loses no part to another."""

import csv
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from scripts.benchmarks.performance import gpu_check


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The small check on a CPU: its folder and what was printed."""
    folder = tmp_path_factory.mktemp("check")
    command = [
        sys.executable, "-m", "scripts.benchmarks.performance.gpu_check", "--output_dir", folder, "--device", "cpu", "--small",
        "--parts", "machine", "update", "vit", "--train_seconds", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def rows_of(folder, name):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_part_says_how_it_ended_and_what_was_not_asked_for_is_left_out(checked):
    summary = json.loads((checked[0] / "summary.json").read_text())
    assert {name: part["outcome"] for name, part in summary["parts"].items()} == dict.fromkeys(
        ("machine", "update", "vit"), "done"
    )
    assert summary["left_out"] == ["passes", "jit", "memory", "rebuild"]
    assert "Not measured: a GPU." in checked[1]


def test_each_way_to_an_update_is_a_row(checked):
    ways = [row["way"] for row in rows_of(checked[0], "update")]
    assert ways[:2] == ["released", "ours, bf16"] and len(set(ways)) == len(ways) == 6


def test_stages_of_a_run_add_up_to_the_whole(checked):
    rows = rows_of(checked[0], "runs")
    runs = list(dict.fromkeys(row["run"] for row in rows if "training" not in row["run"]))
    assert [run.split(",")[1] for run in runs] == [" jit", " jit", " rebuild"]
    for run in runs:
        seconds = {row["stage"]: float(row["seconds"]) for row in rows if row["run"] == run}
        whole = seconds.pop("all")
        assert sum(seconds.values()) == pytest.approx(whole, abs=0.01)
        assert {"decode", "look", "guard", "update", "evaluation", "card"} <= seconds.keys()


def test_a_part_that_takes_too_long_is_stopped_and_one_that_fails_is_named(tmp_path, monkeypatch):
    """A tenth of a second is too short to start Python; a folder that cannot be is an error."""
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output_dir", str(tmp_path), "--device", "cpu", "--small"])
    assert gpu_check.run_part("machine", 0.1).startswith("stopped after")
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output_dir"])
    assert gpu_check.run_part("machine", 60) == "failed with exit status 2"


def test_a_million_images_are_estimated_from_what_was_measured():
    """One core and one device: a thousand seconds at a thousand images a second; and 2.5 passes of 120 GFLOP each."""
    seconds = gpu_check.million_images(read_per_second=1000, gflops=100_000, num_devices=1, num_cores=1)
    assert seconds["reading"] == 1000
    assert seconds["jit"] == pytest.approx(2.5e6 * gpu_check.VIT_LARGE_GFLOP / 100_000)
    # Not in proportion to the images: two passes over them, and as much again and again as is taught.
    assert seconds["rebuild, four rounds"] - seconds["rebuild, one round"] == pytest.approx(
        2400 * gpu_check.REBUILD_IMAGES * gpu_check.VIT_LARGE_GFLOP / 100_000
    )
    fewer = gpu_check.million_images(1000, 100_000, num_devices=8, num_cores=10, num_images=500_000)
    assert fewer["reading"] == 50 and fewer["jit"] == pytest.approx(seconds["jit"] / 16)


def test_without_rates_nothing_is_estimated(tmp_path):
    assert "not estimated" in gpu_check.estimate(tmp_path)
