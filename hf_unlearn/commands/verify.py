"""The command `hf-unlearn verify`: attacks copies of checkpoints to find out what they still hold of a forget set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from ..data.forget_kind import kind_of_request
from ..errors import InputError
from ..evaluation.verification import verify_unlearning
from ..evaluation.verification_report import VerificationReport
from ..publication.facts import description_of
from ..publication.plots import save_relearning_curves
from ..terminal import say
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from .arguments import CheckpointArguments, DataArguments, ForgetArguments, bound_samples
from .loading import load_checkpoints, load_splits
from .parsing import make_checkpoint_parser
from .processes import check_processes


if TYPE_CHECKING:
    from transformers import HfArgumentParser


@dataclass
class VerifyArguments(CheckpointArguments):
    """How the checkpoints are loaded and attacked, and where the result goes."""

    _argument_group_name = "verification"

    retrained: list[str] | None = field(
        default=None,
        metadata={"help": "Models trained without the forget set; with two or more their band is shown."},
    )
    relearning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the models that learn again."})
    max_images: int = field(
        default=200,
        metadata={
            "help": "At most so many images are measured per split; the attacker has as many, and twice as many others."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of all choices."})
    figure_file: str | None = field(default=None, metadata={"help": "Draw the re-learning curves into this PNG file."})


def verify(
    names: list[str], data_args: DataArguments, forget_args: ForgetArguments, verify_args: VerifyArguments
) -> VerificationReport:
    """
    Attacks checkpoints on the splits of a request, and prints the table.

    Args:
        names (`list[str]`):
            Hub ids or folders of the original model and of the unlearned model.
        data_args ([`~commands.arguments.DataArguments`]), forget_args ([`~commands.arguments.ForgetArguments`]):
            The data and the request, as for `hf-unlearn run`.
        verify_args ([`VerifyArguments`]):
            How the checkpoints are loaded and attacked, and where the result goes.

    Returns:
        [`~evaluation.verification_report.VerificationReport`]

    Raises:
        [`InputError`]: if an input cannot be used.
    """
    for argument in ("report_file", "figure_file"):
        path = getattr(verify_args, argument)
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise InputError(argument, f"there is no folder {str(Path(path).parent)!r}.")
    if verify_args.max_images < 1:
        raise InputError("max_images", f"must be at least 1, got {verify_args.max_images}.")
    request = forget_args.to_request()
    # Creating the configuration sets up the processes and the device, as for every command.
    config = UnlearningConfig(output_dir="unused")
    check_processes(config.world_size)

    models, image_processor = load_checkpoints([*names, *(verify_args.retrained or [])], verify_args, config.device)
    bound_samples(data_args, image_processor)
    splits, columns, _ = load_splits(data_args, forget_args, request, id2label_of(models[0]), verify_args)
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    say(f"Forget set: {description_of(request)}. Splits: {sizes}.")

    original, unlearned, *retrained = models
    report = verify_unlearning(
        original,
        unlearned,
        splits,
        image_processor,
        retrained,
        forget_kind=kind_of_request(request, columns["label_column"]),
        learning_rate=verify_args.relearning_rate,
        max_images=verify_args.max_images,
        batch_size=verify_args.batch_size,
        seed=verify_args.seed,
        **columns,
    )
    # All processes have the same report. The main process prints and writes it.
    if PartialState().is_main_process:
        report.print()
        if verify_args.report_file is not None:
            report.to_json(verify_args.report_file)
        if verify_args.figure_file is not None:
            save_relearning_curves(report, verify_args.figure_file)
    return report


def make_parser() -> "HfArgumentParser":
    """Makes the parser of the flags of `hf-unlearn verify`."""
    return make_checkpoint_parser(
        VerifyArguments,
        prog="hf-unlearn verify",
        models="ORIGINAL UNLEARNED",
        nargs=2,
        models_help="Hub ids or folders: the original, the unlearned.",
        description="Attack copies of the models to see what they still hold of the forget set. No file of a model is "
        "changed.",
    )
