"""
Trains and evaluates the cases of `test_exactness.py` on however many processes run, and writes what each rank got:

    torchrun --standalone --nproc_per_node 2 tests/distributed/cases.py FOLDER
"""

import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn


sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import make_model, make_split  # noqa: E402
from datasets import DatasetDict  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import Shard, distribute_tensor  # noqa: E402
from transformers import ViTImageProcessorPil  # noqa: E402

from hf_unlearn import JiTConfig, JiTTrainer, evaluate_unlearning
from hf_unlearn.unlearning.step_size import norm


ARCHITECTURES = ("resnet", "vit")
# 13 images in updates of 8: the second update has 5, which no cut divides evenly.
FORGET_SET = make_split(13, seed=0)
UPDATE = 8
# How the update is cut: (images per device, accumulation steps), by number of processes.
CUTS = {1: [(8, 1), (2, 4), (4, 2), (1, 8)], 2: [(4, 1), (2, 2), (1, 4)]}


def image_processor():
    return ViTImageProcessorPil(size={"height": 16, "width": 16})


# Two epochs of two updates each.
FIXED = {"step_rule": "fixed", "learning_rate": 0.3, "num_train_epochs": 2}
# The model's own answers are right at first, half of them after the step.
AUTO = {"step_rule": "auto", "forget_target": 0.5}
KINDS = ("subclass", "images")


def count_images(model) -> Counter:
    """Counts, from now on, how many images pass the first layer of a model, and how many its head."""
    counts = Counter()
    layers = {
        kind: [module for module in model.modules() if isinstance(module, kind)] for kind in (nn.Conv2d, nn.Linear)
    }
    for name, layer in (("first layer", layers[nn.Conv2d][0]), ("head", layers[nn.Linear][-1])):
        layer.register_forward_hook(lambda module, args, output, name=name: counts.update({name: len(args[0])}))
    return counts


def train(architecture: str, folder: str, per_device: int, accumulation: int, resume: str | None = None, **settings):
    """Trains by the fixed rule, unless the settings say otherwise; from a checkpoint on with `resume`."""
    model = make_model(architecture)
    forget_set = FORGET_SET if settings.get("step_rule") != "auto" else FORGET_SET.select_columns(["image"])
    args = JiTConfig(
        output_dir=folder,
        num_perturbations=3,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        disable_tqdm=True,
        use_cpu=True,
        allow_collapse=True,
        **{**FIXED, **settings},
    )
    trainer = JiTTrainer(
        model=model,
        args=args,
        processing_class=image_processor(),
        forget_dataset=forget_set,
        label_column="label" if "label" in forget_set.column_names else None,
    )
    trainer.images = count_images(model)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def main(folder: str) -> None:
    results = {}
    for architecture in ARCHITECTURES:
        for per_device, accumulation in CUTS[2]:
            trainer = train(architecture, folder, per_device, accumulation)
            results[architecture, per_device, accumulation] = (
                trainer.model.state_dict(),
                trainer.state.log_history,
            )
        for kind in KINDS:
            trainer = train(architecture, folder, 3, 1, forget_kind=kind, **AUTO)
            results[architecture, kind] = (trainer.model.state_dict(), trainer.step, trainer.change)
            results[architecture, kind, "images"] = Counter(trainer.images)
        splits = DatasetDict(
            forget=FORGET_SET, retain=make_split(31, seed=1), forget_test=make_split(7, seed=2), retain_test=make_split(9, seed=3)
        )  # fmt: skip
        cache_dir = f"{folder}/cache-{architecture}"
        # The second time from the files that the first one wrote.
        results[architecture, "reports"] = [
            evaluate_unlearning(
                trainer.model, splits, image_processor(), original_model=make_model(architecture), label_column="label",
                batch_size=4, logits_cache_dir=cache_dir,
            )
            for _ in range(2)
        ]  # fmt: skip
        results[architecture, "cache"] = cache_dir
    whole = torch.arange(12.0).view(4, 3)
    sharded = distribute_tensor(whole, init_device_mesh("cpu", (trainer.accelerator.num_processes,)), [Shard(0)])
    results["norm"] = (norm([sharded, whole]), sharded.to_local().shape)
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    torch.save((processes, results), Path(folder) / f"rank{rank}.pt")
    trainer.end()


if __name__ == "__main__":
    main(sys.argv[1])
