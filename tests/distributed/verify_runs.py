"""
Verifies models on however many processes run, and writes what each rank got:

    torchrun --standalone --nproc_per_node 2 tests/distributed/verify_runs.py FOLDER
"""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from accelerate import PartialState  # noqa: E402
from conftest import make_model, make_split  # noqa: E402
from datasets import DatasetDict  # noqa: E402
from transformers import ViTImageProcessorPil  # noqa: E402

from hf_unlearn import ForgetRequest, UnlearningConfig, split_dataset
from hf_unlearn.evaluation import model_attacks, verification
from hf_unlearn.evaluation.verification import verify_unlearning


ARCHITECTURES = ("resnet", "vit")
STEPS = (0, 1, 2, 4)


def verify(architecture: str) -> dict:
    """The report of an original, an unlearned and a retrained model, and where each attack ran."""
    request = ForgetRequest(classes=["cat"])
    train, test = (split_dataset(make_split(rows, seed), request, "label") for rows, seed in ((30, 0), (18, 1)))
    splits = DatasetDict(
        forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
    )
    models = []
    for seed in range(3):
        model = make_model(architecture)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * seed * torch.randn_like(parameter)
        models.append(model)
    attacked = []

    def watched(model, *arguments):
        attacked.append(1)
        return of_logits(model, *arguments)

    of_logits = model_attacks.of_logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_attacks, "of_logits", watched)
        patch.setattr(model_attacks, "RETAINED_STEPS", (1, 3))
        patch.setattr(model_attacks, "MEASURED_STEPS", STEPS)
        patch.setattr(verification, "MEASURED_STEPS", STEPS)
        report = verify_unlearning(
            *models[:2],
            splits,
            ViTImageProcessorPil(size={"height": 16, "width": 16}),
            models[2:],
            label_column="label",
        )
    return asdict(report) | {"attacked here": len(attacked)}


def main(folder: str) -> None:
    UnlearningConfig(output_dir=folder, use_cpu=True)
    results = {architecture: verify(architecture) for architecture in ARCHITECTURES}
    state = PartialState()
    torch.save((state.num_processes, results), Path(folder) / f"rank{state.process_index}.pt")
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
