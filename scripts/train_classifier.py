# /// script
# dependencies = ["hf-unlearn"]
# ///
"""
Train an image classifier: the original and, with a request for what to leave out, the retrained yardstick:

    python scripts/train_classifier.py --base_model org/model --dataset_name org/data --output_dir original
    python scripts/train_classifier.py --base_model org/model --dataset_name org/data --forget_class cat \
        --output_dir retrained

Without --from_pretrained every layer starts from new weights.
"""

import sys
from dataclasses import dataclass, field

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    TrainingArguments,
    set_seed,
)

from hf_unlearn.commands.arguments import DataArguments, ForgetArguments, ModelArguments, message_of
from hf_unlearn.commands.training_data import load_train_and_test
from hf_unlearn.data.labels import find_label_column
from hf_unlearn.data.splits import split_dataset
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.train_classifier import train_classifier


@dataclass
class TrainArguments:
    """Where the architecture comes from."""

    base_model: str = field(metadata={"help": "A model id or folder: its configuration and image processor are used."})
    from_pretrained: bool = field(default=False, metadata={"help": "Start from its weights, with a new head."})


def main(train_args, data_args, forget_args, args: TrainingArguments) -> dict[str, float]:
    """Trains on all images, or on those that a request retains."""
    train, test = load_train_and_test(data_args, ModelArguments())
    if train is None:
        raise InputError("dataset_name", "is missing.")
    label_column = find_label_column(train, data_args.label_column_name)
    names = train.features[label_column].names
    if any(value is not None for name, value in vars(forget_args).items() if name != "forget_seed"):
        train = split_dataset(train, forget_args.to_request(), label_column)["retain"]

    set_seed(args.seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    if train_args.from_pretrained:
        model = AutoModelForImageClassification.from_pretrained(
            train_args.base_model, ignore_mismatched_sizes=True, **labels
        )
    else:
        config = AutoConfig.from_pretrained(train_args.base_model, **labels)
        model = AutoModelForImageClassification.from_config(config)
    image_processor = AutoImageProcessor.from_pretrained(train_args.base_model)
    args.remove_unused_columns = False
    return train_classifier(model, image_processor, train, args, test, label_column)


def make_parser() -> HfArgumentParser:
    """The flags; those of `transformers.TrainingArguments` are the recipe."""
    return HfArgumentParser((TrainArguments, DataArguments, ForgetArguments, TrainingArguments))


if __name__ == "__main__":
    try:
        print(main(*make_parser().parse_args_into_dataclasses(look_for_args_file=False)))
    except InputError as error:
        sys.exit(f"train_classifier.py: error: {message_of(error)}")
