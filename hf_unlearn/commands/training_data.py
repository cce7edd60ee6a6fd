"""The training images and the unseen images that the flags of a command name."""

from typing import cast

from accelerate import PartialState
from datasets import Dataset

from ..data.folders import load_image_folder
from ..data.sources import load_dataset
from ..data.streaming import StreamedRows
from ..errors import InputError, listing
from .arguments import CheckpointArguments, DataArguments, ModelArguments


def open_train_and_test(
    data_args: DataArguments, model_args: ModelArguments | CheckpointArguments
) -> tuple[Dataset | StreamedRows | None, Dataset | StreamedRows | None]:
    """
    The training images and the unseen images, loaded or, with `--streaming`, only where they lie.

    Returns:
        `tuple`: of each a `datasets.Dataset`, with `--streaming` perhaps [`~data.streaming.StreamedRows`], or `None` for
        images that no flag names.

    Raises:
        [`InputError`]: if a dataset or a split does not exist, or if flags exclude each other.
    """
    if data_args.dataset_name is not None and data_args.train_dir is not None:
        raise InputError("train_dir", "cannot be combined with --dataset_name. Choose one.")
    train = test = None
    if data_args.dataset_name is not None:
        with PartialState().main_process_first():
            dataset = load_dataset(
                data_args.dataset_name,
                data_args.dataset_config_name,
                data_args.dataset_revision,
                model_args.token,
                model_args.cache_dir,
                streaming=data_args.streaming,
            )
        if data_args.train_split not in dataset:
            raise InputError("train_split", f"there is no split {data_args.train_split!r}. Valid: {listing(dataset)}.")

        def of(split: str) -> Dataset | StreamedRows:
            rows = dataset[split]
            return rows if isinstance(rows, Dataset) else StreamedRows("dataset_name", rows, model_args.cache_dir)

        train = of(data_args.train_split)
        if data_args.test_split is not None and data_args.test_split not in dataset:
            raise InputError("test_split", f"there is no split {data_args.test_split!r}. Valid: {listing(dataset)}.")
        for name in [data_args.test_split] if data_args.test_split else ("test", "validation"):
            if name in dataset:
                test = of(name)
                break
    if data_args.train_dir is not None:
        train = load_image_folder("train_dir", data_args.train_dir)
    if data_args.validation_dir is not None:
        test = load_image_folder("validation_dir", data_args.validation_dir)
    return train, test


def load_train_and_test(
    data_args: DataArguments, model_args: ModelArguments | CheckpointArguments
) -> tuple[Dataset | None, Dataset | None]:
    """As [`open_train_and_test`], for what needs all images."""
    if data_args.streaming:
        raise InputError("streaming", "works with one request at a time, and not where every image is compared.")
    return cast(tuple[Dataset | None, Dataset | None], open_train_and_test(data_args, model_args))
