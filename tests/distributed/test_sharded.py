"""Weights that are sharded over two processes become those of one process, and are saved and resumed whole."""

import importlib.util
import json

import cases
import pytest
import sharded_runs
import torch
from conftest import ROOT, make_model
from launch import run_on_two_processes
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hf_unlearn import evaluate_unlearning
from hf_unlearn.unlearning import surroundings


pytestmark = pytest.mark.distributed

CONFIGS = ROOT / "scripts" / "accelerate_configs"


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    """The folder of a launch with FSDP2, and what each of its two processes wrote."""
    folder = tmp_path_factory.mktemp("fsdp2")
    return folder, run_on_two_processes(sharded_runs.__file__, folder, CONFIGS / "fsdp2_cpu_2proc.yaml")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs a case on this process, once."""
    trainers = {}
    before = {name: getattr(surroundings, name) for name in ("NUM_UPDATES", "VISITS", "MAX_HELD")}
    sharded_runs.few_updates()

    def run(name):
        if name not in trainers:
            trainers[name] = sharded_runs.run(name, str(tmp_path_factory.mktemp("alone")), 1)
        return trainers[name]

    yield run
    for name, value in before.items():
        setattr(surroundings, name, value)


def assert_same_weights(actual, expected, tolerance=1e-4):
    for name, tensor in expected.items():
        difference = (actual[name].double() - tensor.double()).norm()
        assert difference <= tolerance * tensor.double().norm(), f"{name}: {difference}"


@pytest.mark.parametrize("name", [*sharded_runs.JIT, sharded_runs.REBUILD])
def test_each_process_has_a_part_of_every_weight(fsdp2, name):
    """Accelerate alone would make this run one of whole weights on every process."""
    numbers = [results[name]["numbers here"] for _, results in fsdp2[1]]
    assert all(results[name]["kinds"] == {"DTensor"} for _, results in fsdp2[1])
    assert sum(numbers) == sum(weight.numel() for weight in make_model(architecture_of(name)).parameters())
    assert max(numbers) < 0.6 * sum(numbers)


@pytest.mark.parametrize("name", [*sharded_runs.JIT, sharded_runs.REBUILD])
def test_sharded_weights_become_those_of_one_process(fsdp2, alone, name):
    assert_as_alone(fsdp2[1], alone(name), name)


@pytest.mark.parametrize("name", ["fixed", "class"])
def test_a_resumed_run_ends_where_the_whole_one_did(fsdp2, name):
    for _, results in fsdp2[1]:
        resumed, whole = results[f"{name}, resumed"], results[name]
        assert resumed["distance"] == pytest.approx(whole["distance"]) and resumed["step"] == whole["step"]
    resumed, whole = (fsdp2[1][0][1][run]["weights"] for run in (f"{name}, resumed", name))
    assert_same_weights(resumed, whole, tolerance=1e-6)


@pytest.mark.parametrize("folder", ["saved", "saved in parts"])
def test_the_saved_folder_is_whole_and_loads(fsdp2, folder):
    """Also where checkpoints are kept in parts (`SHARDED_STATE_DICT`), of which transformers saves no model."""
    weights = fsdp2[1][0][1]["subclass"]["weights"]
    saved = load_file(fsdp2[0] / folder / "model.safetensors")
    loaded = AutoModelForImageClassification.from_pretrained(fsdp2[0] / folder).state_dict()
    assert saved.keys() == weights.keys()
    assert all(torch.equal(value, saved[name]) and torch.equal(value, loaded[name]) for name, value in weights.items())


def test_a_sharded_model_is_evaluated_as_the_whole_one(fsdp2, alone):
    alone = evaluate_unlearning(
        alone("subclass").model, sharded_runs.SPLITS, cases.image_processor(), original_model=make_model("resnet"),
        label_column="label", batch_size=4,
    )  # fmt: skip
    for _, results in fsdp2[1]:
        for name, values in alone.results.items():
            assert results["report"].results[name]["metrics"] == pytest.approx(values["metrics"], rel=1e-3, abs=1e-6)


def test_weights_that_only_the_first_process_has_are_refused(fsdp2):
    for _, results in fsdp2[1]:
        assert results["refused"].startswith("fsdp_cpu_ram_efficient_loading")


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is no dependency")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(alone, stage, tmp_path):
    """It compiles parts of itself when it is first used: minutes."""
    # Small weights would not be taken apart either.
    optimization = {
        "stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True
    }  # fmt: skip
    sizes = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"
    )
    (tmp_path / "deepspeed.json").write_text(
        json.dumps({"zero_optimization": optimization, "zero_allow_untested_optimizer": True, **sizes})
    )
    (tmp_path / "config.yaml").write_text(
        "{compute_environment: LOCAL_MACHINE, distributed_type: DEEPSPEED, use_cpu: true, num_machines: 1, machine_rank: 0, "
        "num_processes: 2, main_process_port: 0, deepspeed_config: "
        f"{{deepspeed_config_file: {tmp_path}/deepspeed.json, zero3_init_flag: false}}}}"
    )
    ranks = run_on_two_processes(sharded_runs.__file__, tmp_path, tmp_path / "config.yaml")
    for name in sharded_runs.BY_DEEPSPEED:
        assert_as_alone(ranks, alone(name), name)
        numbers = [results[name]["numbers here"] for _, results in ranks]
        assert (numbers == [0, 0]) == (stage == 3)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").state_dict()
    assert_same_weights(loaded, alone("subclass").model.state_dict())


def architecture_of(name):
    return "resnet" if name == sharded_runs.REBUILD else sharded_runs.JIT[name][0]


def assert_as_alone(ranks, trainer, name):
    """What two processes wrote of a case is what the trainer of one process has."""
    original = make_model(architecture_of(name)).state_dict()
    assert any(not torch.equal(value, original[key]) for key, value in trainer.model.state_dict().items())
    for processes, results in ranks:
        result = results[name]
        assert processes == 2
        assert result["change"] == pytest.approx(trainer.change, abs=1e-3)
        assert result["distance"] == pytest.approx(trainer.distance_moved(), rel=1e-4)
        if trainer.step is not None:
            assert result["step"].length == pytest.approx(trainer.step.length, rel=1e-4)
            assert (result["step"].kind, result["step"].moved) == (trainer.step.kind, trainer.step.moved)
    assert_same_weights(ranks[0][1][name]["weights"], trainer.model.state_dict())
