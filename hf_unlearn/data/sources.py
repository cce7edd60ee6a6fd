"""Loads a dataset from the hub, a folder or a file."""

from pathlib import Path
from typing import cast

import datasets
from datasets import DatasetDict, IterableDatasetDict
from datasets.data_files import DataFilesDict
from datasets.exceptions import DatasetsError

from ..errors import InputError
from .folders import check_nothing_left_out, is_image_folder, load_image_splits


def load_dataset(
    dataset_name: str,
    dataset_config_name: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    argument: str = "dataset_name",
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """
    Loads a dataset from the hub, a folder or a file.

    Args:
        dataset_name (`str`):
            One of: a dataset id on the hub; a folder written by `save_to_disk`; a folder of images (see
            [`~data.folders.load_image_splits`]); a folder of parquet or arrow files; one parquet or arrow file.
        dataset_config_name (`str`, *optional*):
            Configuration of a dataset on the hub.
        revision (`str`, *optional*):
            Branch, tag or commit of a dataset on the hub.
        token (`str`, *optional*):
            Token for a private or gated dataset.
        cache_dir (`str`, *optional*):
            Folder of the download cache.
        argument (`str`, *optional*, defaults to `"dataset_name"`):
            The argument that names the dataset, for error messages.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to load nothing yet. What lies on the disk as images or as written by `save_to_disk` is not copied in any
            case, and is returned as without streaming.

    Returns:
        `DatasetDict` or `IterableDatasetDict`: all splits. A dataset without splits becomes the split `train`.

    Raises:
        [`InputError`]: if the dataset cannot be loaded, or if files of a folder would be left out.
    """
    path = Path(dataset_name)
    if path.suffix in (".parquet", ".arrow") and path.is_file():
        return datasets.load_dataset(
            path.suffix[1:], data_files={"train": str(path)}, cache_dir=cache_dir, streaming=streaming
        )
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        dataset = datasets.load_from_disk(str(path))
        return dataset if isinstance(dataset, DatasetDict) else DatasetDict({"train": dataset})
    if path.is_dir() and is_image_folder(path):
        return load_image_splits(argument, path)
    try:
        builder = datasets.load_dataset_builder(
            dataset_name, dataset_config_name, revision=revision, token=token, cache_dir=cache_dir
        )
        if path.is_dir():
            # The builder of a folder has found its files by now.
            check_nothing_left_out(path, cast(DataFilesDict, builder.config.data_files))
        # Of no split alone: of all of them.
        if streaming:
            return cast(IterableDatasetDict, builder.as_streaming_dataset())
        builder.download_and_prepare()
        return cast(DatasetDict, builder.as_dataset())
    except (FileNotFoundError, ValueError, DatasetsError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(argument, f"cannot load {dataset_name!r}: {reason}") from error
