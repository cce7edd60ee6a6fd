"""Folders of images: every image file below a folder counts, whatever it and the folders around it are called."""

import os
from collections import Counter
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Image
from datasets.packaged_modules.imagefolder.imagefolder import IMAGE_EXTENSIONS
from huggingface_hub import metadata_load
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from ..errors import InputError, listing
from ..terminal import say


# Folders with these names, whatever their case, and nothing else beside them are splits.
SPLIT_OF = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")
# A file of further columns, one row per image, as `datasets` reads it beside images.
METADATA = {
    "metadata.csv": pd.read_csv,
    "metadata.jsonl": lambda path: pd.read_json(path, lines=True),
    "metadata.parquet": pd.read_parquet,
}


def load_image_folder(argument: str, folder: str | Path) -> Dataset:
    """
    All images below a folder, each once, in the order of their paths.

    Args:
        argument (`str`):
            The argument that names the folder, for errors.
        folder (`str` or `Path`):
            The folder. Subfolders, links and hidden files count; archives are refused. A `metadata.csv`, `.jsonl` or
            `.parquet` with a column `file_name` gives further columns and must list every image.

    Returns:
        `Dataset` with the column `image` and, if every image lies in a subfolder and there is no metadata, `label`: the
        name of that subfolder, at any depth the one nearest to `folder` that does not hold all images.

    Raises:
        [`InputError`]: if there is no such folder, no image in it, or if an image would be left out.
    """
    images, paths = read_folder(argument, Path(folder))
    return with_labels(images, paths, folder)


def load_image_splits(argument: str, folder: str | Path) -> DatasetDict:
    """
    As [`load_image_folder`], by split: subfolders named as splits, if there are no images beside them, else all images
    as `train`. The splits share their class names.
    """
    images, paths = read_folder(argument, Path(folder))
    first = Counter(path.split("/")[0] if "/" in path else "" for path in paths)
    if not all(name.lower() in SPLIT_OF for name in first):
        return DatasetDict(train=with_labels(images, paths, folder))
    names = {}
    for name in first:
        names.setdefault(SPLIT_OF[name.lower()], []).append(name)
    for split, folders in names.items():
        if len(folders) > 1:
            raise InputError(
                argument, f"{str(folder)!r} has several folders for the split {split}: {listing(folders)}."
            )
    images = with_labels(images, [path.split("/", 1)[1] for path in paths], folder)
    splits = DatasetDict()
    for split, (name,) in names.items():
        splits[split] = images.select([row for row, path in enumerate(paths) if path.split("/")[0] == name])
    return splits


def is_image_folder(folder: Path) -> bool:
    """
    Whether a folder is a folder of images, in contrast to one of tables or archives, which `datasets` reads, or one
    whose `README.md` says which file belongs to which split.
    """
    if declares_splits(folder):
        return False
    suffixes = Counter(path.suffix.lower() for path in walk("dataset_name", folder) if path.name not in METADATA)
    images = sum(suffixes[suffix] for suffix in IMAGE_EXTENSIONS)
    others = sum(suffixes[suffix] for suffix in (*ARCHIVES, ".parquet", ".arrow"))
    return images > others or (others == 0 and not any(suffixes[suffix] for suffix in TABLES))


def declares_splits(folder: Path) -> bool:
    """Whether the `README.md` of a dataset says which file belongs to which split."""
    card = folder / "README.md"
    return card.is_file() and bool((metadata_load(card) or {}).get("configs"))


def check_nothing_left_out(folder: Path, data_files: dict[str, list[str]]) -> None:
    """
    `datasets` guesses splits from the names of files, and leaves out those that fit no guess.

    Args:
        folder (`Path`):
            A folder of tables or archives.
        data_files (`dict[str, list[str]]`):
            By split, the files that `datasets` is going to read.

    Raises:
        [`InputError`]: if the folder has more files of these kinds.
    """
    if declares_splits(folder):
        return
    taken = {os.path.realpath(file) for files in data_files.values() for file in files}
    suffixes = {Path(file).suffix for file in taken} & {*ARCHIVES, *TABLES}
    left_out = [file for file in walk("dataset_name", folder) if file.suffix in suffixes]
    left_out = [str(file.relative_to(folder)) for file in left_out if os.path.realpath(file) not in taken]
    if left_out:
        raise InputError(
            "dataset_name",
            f"{str(folder)!r} has {len(left_out)} files that fit none of the splits {listing(data_files)}: "
            f"{listing(left_out, 5)}. Name all files by split, or say in a README.md which file belongs to which.",
        )


def read_folder(argument: str, folder: Path) -> tuple[Dataset, list[str]]:
    """The images below a folder with the columns of their metadata, and their paths relative to it."""
    files = image_files(argument, folder)
    metadata = [file for file in walk(argument, folder) if file.name in METADATA]
    if metadata:
        images, files = read_metadata(argument, folder, metadata, files)
    else:
        images = Dataset.from_dict({"image": [str(file) for file in files]})
    return images.cast_column("image", Image()), [file.relative_to(folder.absolute()).as_posix() for file in files]


def image_files(argument: str, folder: Path) -> list[Path]:
    """
    Absolute paths of all image files below a folder, sorted: those with the ending of an image format, and what Pillow
    takes for an image among the others, which may have any name.

    Raises:
        [`InputError`]: if there is none, or if archives may hold further ones.
    """
    files = walk(argument, folder)
    archives = [file.name for file in files if file.suffix.lower() in ARCHIVES]
    if archives:
        raise InputError(argument, f"{str(folder)!r} holds archives, unpack them first: {listing(archives, 5)}.")
    images = [file for file in files if is_image(file)]
    if not images:
        raise InputError(argument, f"no images found in {str(folder)!r}.")
    for file in images:
        try:
            str(file).encode()
        except UnicodeEncodeError as error:
            raise InputError(argument, f"the name of {str(file)!r} is no UTF-8; rename it.") from error
    return images


def walk(argument: str, folder: Path) -> list[Path]:
    """Absolute paths of all files below a folder, sorted. Links are followed, each folder is entered once."""
    if not folder.is_dir():
        raise InputError(argument, f"there is no folder {str(folder)!r}.")

    def refuse(error: OSError):
        raise InputError(argument, f"{error.filename!r} cannot be read: {error.strerror}.") from error

    files, entered = [], set()
    for place, folders, names in os.walk(folder.absolute(), followlinks=True, onerror=refuse):
        if os.path.realpath(place) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        files += [os.path.join(place, name) for name in names]
    return [Path(file) for file in sorted(files)]


def is_image(file: Path) -> bool:
    """By the ending or, of a hidden file and one with another ending, by what is in it."""
    if file.suffix.lower() in IMAGE_EXTENSIONS and not file.name.startswith("."):
        return True
    try:
        with PILImage.open(file):
            return True
    except PILImage.DecompressionBombError:
        return True
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False


def read_metadata(argument: str, folder: Path, metadata: list[Path], files: list[Path]) -> tuple[Dataset, list[Path]]:
    """
    One row for each image that the metadata files list, with their columns and the column `image` in place of
    `file_name`.

    Raises:
        [`InputError`]: if the images listed are not those that are there.
    """
    tables = []
    for path in metadata:
        table = METADATA[path.name](path)
        if "file_name" not in table:
            raise InputError(argument, f"{str(path)!r} has no column 'file_name', only {listing(table)}.")
        # In the order of the column, in its place.
        table["file_name"] = [os.path.normpath(path.parent / str(name)) for name in table["file_name"]]
        tables.append(table.rename(columns={"file_name": "image"}))
    table = pd.concat(tables, ignore_index=True)
    listed, present = Counter(table["image"]), {str(file) for file in files}
    for wrong, what in (
        (sorted(present - set(listed)), "images that its metadata does not list"),
        (sorted(set(listed) - present), "rows of metadata whose image is not there"),
        (sorted(name for name, times in listed.items() if times > 1), "images listed twice in the metadata"),
    ):
        if wrong:
            names = [os.path.relpath(name, folder.absolute()) for name in wrong]
            raise InputError(argument, f"{str(folder)!r} has {len(names)} {what}: {listing(names, 5)}.")
    return Dataset.from_pandas(table, preserve_index=False), [Path(name) for name in table["image"]]


def with_labels(images: Dataset, paths: list[str], folder: str | Path) -> Dataset:
    """
    Adds the column `label`, the subfolder of each image.

    Args:
        images (`Dataset`):
            With further columns than `image`, which come from metadata, it stays as it is.
        paths (`list[str]`):
            Of the images, relative to the folder of the classes.
        folder (`str` or `Path`):
            What the user called it.
    """
    if len(images.column_names) > 1:
        return images
    parts = [path.split("/") for path in paths]
    # Folders around all images are no classes.
    while len({part[0] for part in parts}) == 1 and all(len(part) > 2 for part in parts):
        parts = [part[1:] for part in parts]
    outside = [part[0] for part in parts if len(part) == 1]
    if len(outside) == len(parts):
        return images
    if outside:
        say(f"{len(outside)} of {len(parts)} images lie in no subfolder of {folder}: its folders are no classes.")
        return images
    names = sorted({part[0] for part in parts})
    ids = {name: number for number, name in enumerate(names)}
    labels = [ids[part[0]] for part in parts]
    return images.add_column("label", labels).cast_column("label", ClassLabel(names=names))
