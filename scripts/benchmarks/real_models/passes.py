"""
What an image costs in an evaluation: the original and a copy of which the last stage or the head moved, as they are and by
`ShortPasses`, in turns; seconds of the processor. docs/real_models.md:

    python -m scripts.benchmarks.real_models.passes --model mobilenet-v2 --repeats 3
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageClassification

from hf_unlearn.evaluation.short_passes import ShortPasses
from hf_unlearn.unlearning.head_edit import find_heads
from hf_unlearn.unlearning.step_size import last_stage_and_head
from scripts.benchmarks.results import append_rows


def moved(model, names: set[str]):
    """A copy with these weights changed by a thousandth."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in names:
                parameter.mul_(1.001)
    return other


@torch.no_grad()
def as_they_are(models: dict, batches) -> torch.Tensor:
    return torch.cat(
        [torch.stack([model(pixel_values=batch).logits for model in models.values()]) for batch in batches], 1
    )


def short(models: dict, batches) -> tuple[torch.Tensor, float]:
    """The logits, and the seconds until the passes begin: BatchNorm is folded, and what is shared is found."""
    with ShortPasses(models) as passes:
        started = time.process_time()
        passes.prepare(batches[0][:1])
        prepared = time.process_time() - started
        return torch.cat([torch.stack(list(passes.logits(batch).values())) for batch in batches], 1), prepared


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--num_images", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8, help="8 is the default of the command")
    parser.add_argument("--moved", nargs="+", choices=("last_stage", "head"), default=["last_stage", "head"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path("docs/real_models/passes.csv"))
    options = parser.parse_args()
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    images = torch.randn(options.num_images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    batches = images.split(options.batch_size)
    heads = {id(parameter) for head in find_heads(model, images[:1]) for parameter in head.parameters()}
    names = {
        "last_stage": last_stage_and_head(model, images[:1]),
        "head": {name for name, parameter in model.named_parameters() if id(parameter) in heads},
    }
    for which in options.moved:
        models = {"original": model, "unlearned": moved(model, names[which])}
        seconds, differences, setup = {"before": [], "now": []}, [], []
        for _ in range(options.repeats):
            started = time.process_time()
            before = as_they_are(models, batches)
            seconds["before"].append(time.process_time() - started)
            started = time.process_time()
            now, prepared = short(models, batches)
            seconds["now"].append(time.process_time() - started - prepared)
            setup.append(prepared)
            differences.append(((now - before).abs().max() / before.abs().max()).item())
        row = {"model": options.model.rstrip("/").rpartition("/")[2], "moved": which, "batch_size": options.batch_size}
        row |= {"threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
        row |= {
            f"{code}_ms": round(1000 * float(np.median(of_code)) / len(images), 1) for code, of_code in seconds.items()
        }
        row |= {"times": round(float(np.median(np.divide(seconds["before"], seconds["now"]))), 2)}
        row |= {"setup_ms": round(1000 * float(np.median(setup))), "logits_differ_by": f"{max(differences):.1e}"}
        append_rows(options.csv, [row])
        print(row, flush=True)
