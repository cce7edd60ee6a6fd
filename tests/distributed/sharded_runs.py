"""
Runs the cases of `test_sharded.py` on processes that share the weights, and writes what each of them got:

    accelerate launch --config_file scripts/accelerate_configs/fsdp2_cpu_2proc.yaml tests/distributed/sharded_runs.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

import cases  # noqa: E402
import method_runs  # noqa: E402
from datasets import DatasetDict  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from hf_unlearn import evaluate_unlearning
from hf_unlearn.errors import InputError
from hf_unlearn.unlearning import surroundings


# By name: architecture and settings of `cases.train`.
JIT = {
    "fixed": ("vit", {"save_strategy": "steps", "save_steps": 1}),
    "algorithm1": ("vit", {"preset": "algorithm1"}),
    "class": ("vit", {**cases.AUTO, "forget_kind": "class", "save_strategy": "epoch"}),
    "subclass": ("resnet", {**cases.AUTO, "forget_kind": "subclass"}),
    "images": ("resnet", {**cases.AUTO, "forget_kind": "images"}),
    "images by the head": ("vit", {**cases.AUTO, "forget_kind": "images", "moving_weights": "head"}),
}
REBUILD = "rebuild"
# Single images are forgotten by the head there; rebuild and the fixed rule refuse.
BY_DEEPSPEED = ["class", "subclass", "images by the head"]
# 13 images in updates of 6.
UPDATE = 6
SPLITS = DatasetDict(forget=cases.FORGET_SET, retain=cases.make_split(9, seed=1))


def few_updates() -> None:
    """Of single images, which are many passes."""
    surroundings.NUM_UPDATES, surroundings.VISITS, surroundings.MAX_HELD = 6, 1, 5


def run(name: str, folder: str, processes: int, resume: str | None = None):
    """One of the cases, in updates of the same images on any number of processes."""
    if name == REBUILD:
        return method_runs.run(name, folder, method_runs.UPDATE // processes)
    architecture, settings = JIT[name]
    return cases.train(architecture, folder, UPDATE // processes, 1, resume, **settings)


def numbers_here(model) -> int:
    """How many numbers of the parameters this process has."""
    return sum(
        weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in model.parameters()
    )


def main(folder: str) -> None:
    few_updates()
    results = {}
    by_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    for name in BY_DEEPSPEED if by_deepspeed else [*JIT, REBUILD]:
        trainer = run(name, f"{folder}/{name}", 2)
        results[name] = {
            "weights": trainer.weights_as_saved(), "step": trainer.step, "change": trainer.change,
            "distance": trainer.distance_moved(), "numbers here": numbers_here(trainer.model),
            "kinds": {type(weight).__name__ for weight in trainer.model.parameters()},
        }  # fmt: skip
        if name == "subclass":
            trainer.save_model(f"{folder}/saved")
            results["report"] = evaluate_unlearning(
                trainer.model, SPLITS, cases.image_processor(), original_model=cases.make_model("resnet"),
                label_column="label", batch_size=4,
            )  # fmt: skip
        if name == "subclass" and not by_deepspeed:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("SHARDED_STATE_DICT")
            trainer.save_model(f"{folder}/saved in parts")
    if not by_deepspeed:
        for name, number in (("fixed", 2), ("class", 3)):
            trainer = run(name, f"{folder}/{name}", 2, resume=f"{folder}/{name}/checkpoint-{number}")
            results[f"{name}, resumed"] = {
                "weights": trainer.weights_as_saved(), "step": trainer.step, "distance": trainer.distance_moved()
            }  # fmt: skip
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
        try:
            run("class", f"{folder}/refused", 2)
        except InputError as error:
            results["refused"] = str(error)
    torch.save(
        (trainer.accelerator.num_processes, results), Path(folder) / f"rank{trainer.accelerator.process_index}.pt"
    )
    trainer.end()


if __name__ == "__main__":
    main(sys.argv[1])
