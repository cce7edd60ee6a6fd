"""The same forget set gives the same weights and the same numbers, however it is cut."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cases
import pytest
import torch
from conftest import ROOT, make_model
from datasets import DatasetDict
from launch import ENVIRONMENT, run_on_two_processes
from safetensors.torch import load_file

from hf_unlearn import evaluate_unlearning
from hf_unlearn.commands.main import main
from hf_unlearn.commands.processes import asked_processes


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Weights, logs and original weights of one process with one batch per update."""
    folder = str(tmp_path_factory.mktemp("reference"))
    found = {}
    for architecture in cases.ARCHITECTURES:
        trainer = cases.train(architecture, folder, cases.UPDATE, 1)
        found[architecture] = (trainer.model.state_dict(), trainer.state.log_history)
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes wrote."""
    return run_on_two_processes(cases.__file__, tmp_path_factory.mktemp("two"))


def assert_same_weights(actual, expected):
    """Equal to a relative 1e-5 per tensor: float32 sums in another order differ by about 1e-7 per operation."""
    for name, tensor in expected.items():
        difference = (actual[name].double() - tensor.double()).norm()
        assert difference <= 1e-5 * tensor.double().norm(), f"{name}: {difference}"


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_the_weights_do_move(reference, architecture):
    """Or the tests below would compare the original with itself."""
    original = make_model(architecture).state_dict()
    moved = sum((reference[architecture][0][name] - value).double().norm() ** 2 for name, value in original.items())
    assert moved.sqrt() > 0.01 * sum(value.double().norm() ** 2 for value in original.values()).sqrt()


@pytest.mark.parametrize("cut", cases.CUTS[1][1:], ids=str)
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_batch_size_and_accumulation(reference, architecture, cut, tmp_path):
    trainer = cases.train(architecture, str(tmp_path), *cut)
    assert_same_weights(trainer.model.state_dict(), reference[architecture][0])


@pytest.mark.parametrize("chunk_size", [2, 3, 5])
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_perturbation_chunk_size(reference, architecture, chunk_size, tmp_path):
    trainer = cases.train(architecture, str(tmp_path), cases.UPDATE, 1, perturbation_chunk_size=chunk_size)
    assert_same_weights(trainer.model.state_dict(), reference[architecture][0])


def test_dataloader_workers(reference, tmp_path):
    trainer = cases.train("resnet", str(tmp_path), cases.UPDATE, 1, dataloader_num_workers=2)
    assert_same_weights(trainer.model.state_dict(), reference["resnet"][0])


def test_same_seed_is_bit_identical_and_another_is_not(reference, tmp_path):
    again = cases.train("resnet", str(tmp_path), cases.UPDATE, 1).model.state_dict()
    other = cases.train("resnet", str(tmp_path), cases.UPDATE, 1, seed=7).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in reference["resnet"][0].items())
    assert not all(torch.equal(value, other[name]) for name, value in reference["resnet"][0].items())


@pytest.mark.parametrize("cut", cases.CUTS[2], ids=str)
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_two_processes(reference, two_processes, architecture, cut):
    weights = []
    for processes, results in two_processes:
        assert processes == 2
        state, logs = results[(architecture, *cut)]
        weights.append(state)
        assert_same_weights(state, reference[architecture][0])
        for ours, theirs in zip(logs, reference[architecture][1], strict=True):
            for name in ("loss", "jit_ratio", "forget_accuracy", "distance_moved"):
                if name in theirs:
                    assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items()), "the ranks differ"


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_automatic_step_on_two_processes_is_that_of_one(two_processes, architecture, kind, tmp_path):
    trainer = cases.train(architecture, str(tmp_path), 13, 1, forget_kind=kind, **cases.AUTO)
    # Single images come near to what their copies say; a step goes on until it is there.
    assert (trainer.step.reached or kind == "images") and trainer.step.length > 0
    for _, results in two_processes:
        weights, step, change = results[architecture, kind]
        assert step == replace(trainer.step, length=step.length, slope=step.slope)
        assert step.length == pytest.approx(trainer.step.length, rel=1e-4)
        assert change == pytest.approx(trainer.change, rel=1e-3)
        assert_same_weights(weights, trainer.model.state_dict())
    # The look at the original, the search and the guard are shared: no process does what another one has done, but for the
    # few images by which each finds where the network is cut, and a batch that cannot be halved.
    for layer, number in trainer.images.items():
        own = 40 + 0.02 * number
        of_processes = [results[architecture, kind, "images"][layer] for _, results in two_processes]
        assert max(of_processes) <= number / 2 + own, (layer, of_processes, number)
        assert sum(of_processes) <= number + 2 * own, (layer, of_processes, number)


def test_norm_of_a_sharded_tensor_is_that_of_the_whole(two_processes):
    for _, results in two_processes:
        value, local_shape = results["norm"]
        assert tuple(local_shape) == (2, 3)
        assert value == pytest.approx((2 * sum(number**2 for number in range(12))) ** 0.5)


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_evaluation_on_two_processes_is_that_of_one_with_and_without_the_cache(two_processes, architecture, tmp_path):
    (_, first), (_, second) = two_processes
    model = make_model(architecture)
    model.load_state_dict(first[architecture, "images"][0])
    splits = DatasetDict(
        forget=cases.FORGET_SET, retain=cases.make_split(31, seed=1), forget_test=cases.make_split(7, seed=2),
        retain_test=cases.make_split(9, seed=3),
    )  # fmt: skip
    alone = evaluate_unlearning(
        model, splits, cases.image_processor(), original_model=make_model(architecture), label_column="label",
        batch_size=4, logits_cache_dir=tmp_path,
    )  # fmt: skip
    assert first[architecture, "reports"] == [alone, alone] == second[architecture, "reports"]
    # Bit for bit: the outputs and the keys of model and images that are their names.
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (tmp_path, Path(first[architecture, "cache"]))
    )
    # Four splits of two models, and forget and forget test of the random network.
    assert one == two and len(one) == 10


def launch(*words, out, saved_model, saved_dataset):
    """Runs `scripts/unlearn.py` through `accelerate launch`."""
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "accelerate"), "launch", *words, str(ROOT / "scripts" / "unlearn.py"),
            *run_flags(out, saved_model, saved_dataset, "4"),
        ],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def run_flags(out, saved_model, saved_dataset, batch_size):
    return [
        "--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label",
        "--forget_class", "cat", "--step_rule", "fixed", "--learning_rate", "0.1", "--output_dir", str(out),
        "--per_device_train_batch_size", batch_size, "--allow_collapse", "--per_device_eval_batch_size", "4", "--disable_tqdm", "True",
    ]  # fmt: skip


def test_accelerate_launch_gives_the_run_of_one_process(saved_model, saved_dataset, tmp_path):
    config = str(ROOT / "scripts" / "accelerate_configs" / "cpu_2proc.yaml")
    done = launch("--config_file", config, out=tmp_path / "two", saved_model=saved_model, saved_dataset=saved_dataset)
    assert (tmp_path / "two" / "report.json").is_file(), done.stderr
    assert "Processes: 2" in done.stdout and done.stdout.count("Processes:") == 1
    assert main(["run", *run_flags(tmp_path / "one", saved_model, saved_dataset, "8")]) == 0
    two, one = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("two", "one"))
    for model, result in one["results"].items():
        # Of weights that agree to 1e-5.
        assert two["results"][model]["metrics"] == pytest.approx(result["metrics"], rel=1e-3, abs=1e-6), model
    assert two["run"]["environment"]["processes"] == 2
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "one")]
    assert_same_weights(*weights)


def test_fewer_processes_than_asked_for_is_an_error(saved_model, saved_dataset, tmp_path):
    done = launch(
        "--cpu", "--num_processes", "2", out=tmp_path / "out", saved_model=saved_model, saved_dataset=saved_dataset
    )
    assert "asked for 2 processes and 1 runs" in done.stderr
    assert done.returncode != 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "4", "unlearn.py", "--sigma", "1"], 4),
        (["accelerate-launch"], None),
        (["bash"], None),
        ([], None),
    ],
)
def test_processes_asked_for_are_read_from_the_launcher(argv, asked):
    assert asked_processes(argv) == asked
