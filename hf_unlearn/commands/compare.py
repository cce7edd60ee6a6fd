"""
The command `hf-unlearn compare`: measures existing checkpoints (original, unlearned, retrained) without unlearning
anything.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from accelerate import PartialState

from .. import __version__
from ..errors import InputError
from ..evaluation.evaluate import evaluate_unlearning
from ..publication.facts import description_of, public_name
from ..publication.report import UnlearningReport, weights_sha256
from ..terminal import print_text, say
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from .arguments import CheckpointArguments, DataArguments, ForgetArguments, bound_samples
from .loading import load_checkpoints, load_splits
from .parsing import make_checkpoint_parser


if TYPE_CHECKING:
    from transformers import HfArgumentParser


@dataclass
class CompareArguments(CheckpointArguments):
    """How the checkpoints are loaded and measured, and where the result goes."""

    _argument_group_name = "comparison"

    logits_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Keep the outputs here, so that a second comparison runs no model. They are outputs on the images to "
            "forget: delete the folder with them."
        },
    )


def compare(
    names: list[str], data_args: DataArguments, forget_args: ForgetArguments, compare_args: CompareArguments
) -> UnlearningReport:
    """
    Measures checkpoints on the splits of a request, and prints the tables.

    Args:
        names (`list[str]`):
            Hub ids or folders: the original model, the unlearned model, and any number of models that were retrained
            without the forget set. The first retrained model is the yardstick. With two or more retrained models, all
            of them give the band of each metric.
        data_args ([`~commands.arguments.DataArguments`]), forget_args ([`~commands.arguments.ForgetArguments`]):
            The data and the request, as for `hf-unlearn run`.
        compare_args ([`CompareArguments`]):
            How the checkpoints are loaded and measured, and where the result goes.

    Returns:
        [`UnlearningReport`]: its `run` names what was compared, with the SHA-256 of all weights.

    Raises:
        [`InputError`]: if an input cannot be used.
    """
    if len(names) < 2:
        raise InputError("models", "name at least two: ORIGINAL UNLEARNED [RETRAINED ...].")
    report_file = Path(compare_args.report_file) if compare_args.report_file is not None else None
    if report_file is not None and not report_file.absolute().parent.is_dir():
        raise InputError("report_file", f"there is no folder {str(report_file.parent)!r}.")
    request = forget_args.to_request()
    # Creating the configuration sets up the processes and the device, as for every command.
    device = UnlearningConfig(output_dir="unused").device

    models, image_processor = load_checkpoints(names, compare_args, device)
    bound_samples(data_args, image_processor)
    splits, columns, drawn_from = load_splits(data_args, forget_args, request, id2label_of(models[0]), compare_args)
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    say(f"Forget set: {description_of(request)}. Splits: {sizes}.")

    original, unlearned, *retrained = models
    report = evaluate_unlearning(
        unlearned,
        splits,
        image_processor,
        original_model=original,
        retrained_model=retrained[0] if retrained else None,
        further_retrained_models=tuple(retrained[1:]),
        batch_size=compare_args.batch_size,
        max_eval_samples=data_args.max_eval_samples,
        logits_cache_dir=compare_args.logits_cache_dir,
        **columns,
    )
    report.sampled |= drawn_from
    report.run = {
        "request": {"kind": request.kind if request else "images", "description": description_of(request)},
        "dataset": public_name(data_args.dataset_name or data_args.train_dir),
        "models": {
            role: {"name": public_name(name), "weights_sha256": weights_sha256(model.state_dict())}
            for role, name, model in zip(report.results, names, models, strict=True)
        },
        "environment": {
            "hf_unlearn": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        },
    }
    # All processes have the same report. The main process prints and writes it.
    if PartialState().is_main_process:
        report.print()
        print_text(about_the_band(len(retrained)))
        if report_file is not None:
            report.to_json(report_file)
    return report


def about_the_band(num_retrained: int) -> str:
    """Says how much the band tells, given the number of retrained models."""
    if num_retrained == 0:
        return (
            "No retrained model: nothing here says how close to retraining the unlearned model is. Train one without the "
            "forget set to see."
        )
    if num_retrained == 1:
        return (
            "One retrained model: no band. Give a second one, trained with another seed, to see how far apart models are "
            "that never saw the forget set."
        )
    return (
        f"Band: what {num_retrained} models say that never saw the forget set; for distances to the first of them, from "
        f"agreement to the farthest of the others. On each line, one more such model would fall outside with a probability "
        f"of up to {200 / (num_retrained + 1):.0f} %: few models make a narrow band."
    )


def make_parser() -> "HfArgumentParser":
    """Makes the parser of the flags of `hf-unlearn compare`."""
    return make_checkpoint_parser(
        CompareArguments,
        prog="hf-unlearn compare",
        models="ORIGINAL UNLEARNED [RETRAINED ...]",
        nargs="+",
        models_help="Hub ids or folders: the original, the unlearned model, and models retrained without the forget set. The "
        "first retrained one is the yardstick; with two or more, each line shows the band of what they say.",
        description="Measure checkpoints on what was to be forgotten and on the rest. Nothing is unlearned.",
    )
