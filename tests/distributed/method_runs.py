"""
Runs every method on however many processes run, and writes the weights that each rank got:

    torchrun --standalone --nproc_per_node 2 tests/distributed/method_runs.py FOLDER
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import make_split  # noqa: E402
from method_cases import make_trainer  # noqa: E402

from hf_unlearn.unlearning.method_names import METHODS


# 7 images of one class in updates of 4: the last one is odd, and no cut divides it evenly.
FORGET_SET, UPDATE = make_split(21, seed=0).select(range(0, 21, 3)), 4
# Few and strong updates: enough to see a difference.
SETTINGS = {
    "gkt": {"num_pseudo_batches": 2, "student_steps": 2, "gate_threshold": 0.999},
    "emmn": {"noise_images_per_class": 2, "noise_repeats": 2, "maximizing_steps": 2, "minimizing_steps": 2},
    "unsir": {"num_noise_images": 2, "noise_repeats": 2, "noise_steps": 2},
    "rebuild": {"num_updates": 2, "max_accuracy_lost": 100.0, "optim": "sgd", "learning_rate": 0.1},
    "lotus": {"unseen_accuracy": 0.0},
    "loss_free_ssd": {"selection_weighting": 1.0},
    "ssd": {"selection_weighting": 1.0, "dampening_constant": 0.5},
}


def run(method: str, folder: str, per_device: int):
    trainer = make_trainer(
        method, folder, forget=FORGET_SET, per_device_train_batch_size=per_device, **SETTINGS.get(method, {})
    )
    trainer.train()
    return trainer


def main(folder: str) -> None:
    results = {}
    for method in METHODS:
        trainer = run(method, folder, UPDATE // 2)
        results[method] = (trainer.model.state_dict(), trainer.change)
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    torch.save((processes, results), Path(folder) / f"rank{rank}.pt")
    trainer.end()


if __name__ == "__main__":
    main(sys.argv[1])
