# /// script
# dependencies = ["hf-unlearn"]
# ///
"""
Measure any checkpoint against its original, without unlearning anything, on several processes; on one, and with the band
of several retrained models, `hf-unlearn compare` does the same:

    accelerate launch scripts/evaluate_unlearning.py \
        --model_name_or_path out --original_model_name_or_path org/model --dataset_name org/data --forget_class cat
"""

import sys
from dataclasses import dataclass, field, replace

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_unlearn import evaluate_unlearning
from hf_unlearn.commands.arguments import DataArguments, ForgetArguments, ModelArguments, bound_samples, message_of
from hf_unlearn.commands.loading import load_model, load_retrained, load_splits
from hf_unlearn.errors import InputError
from hf_unlearn.unlearning.config import UnlearningConfig


@dataclass
class EvaluationArguments:
    """What to compare with, and where to write."""

    original_model_name_or_path: str | None = field(default=None, metadata={"help": "The model before unlearning."})
    report_file: str | None = field(default=None, metadata={"help": "Write the report to this JSON file."})
    batch_size: int = field(default=64, metadata={"help": "Images per forward pass and process."})
    logits_cache_dir: str | None = field(
        default=None, metadata={"help": "Keep the outputs here, so that a second evaluation runs no model."}
    )


def main(model_args, data_args, forget_args, evaluation_args) -> None:
    """Loads the models and the splits, measures, prints and writes."""
    # Sets up the processes, which the configuration does for every command.
    device = UnlearningConfig(output_dir="unused").device
    model, image_processor = load_model(model_args)
    original = None
    if evaluation_args.original_model_name_or_path is not None:
        original, _ = load_model(
            replace(model_args, model_name_or_path=evaluation_args.original_model_name_or_path, model_revision="main")
        )
    bound_samples(data_args, image_processor)
    splits, columns, drawn_from = load_splits(
        data_args, forget_args, forget_args.to_request(), model.config.id2label, model_args
    )
    model.to(device)
    retrained = load_retrained(model_args, model.config.id2label, device)
    report = evaluate_unlearning(
        model,
        splits,
        image_processor,
        original_model=original.to(device) if original is not None else None,
        retrained_model=retrained[0] if retrained else None,
        further_retrained_models=tuple(retrained[1:]),
        batch_size=evaluation_args.batch_size,
        max_eval_samples=data_args.max_eval_samples,
        logits_cache_dir=evaluation_args.logits_cache_dir,
        **columns,
    )
    report.sampled |= drawn_from
    # The same on all processes: the first one prints and writes.
    if PartialState().is_main_process:
        report.print()
        if evaluation_args.report_file is not None:
            report.to_json(evaluation_args.report_file)


def make_parser() -> HfArgumentParser:
    """The flags."""
    return HfArgumentParser(
        (ModelArguments, DataArguments, ForgetArguments, EvaluationArguments),
        description="Measure an unlearned image classifier.",
    )


if __name__ == "__main__":
    try:
        main(*make_parser().parse_args_into_dataclasses(look_for_args_file=False))
    except InputError as error:
        sys.exit(f"evaluate_unlearning.py: error: {message_of(error)}")
