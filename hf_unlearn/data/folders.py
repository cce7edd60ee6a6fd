"""
Loads folders of images. Every image file below a folder counts, whatever the names of the file and of its subfolders.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Image
from datasets.packaged_modules.imagefolder.imagefolder import IMAGE_EXTENSIONS
from huggingface_hub import metadata_load
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from ..errors import InputError, listing
from ..terminal import say


# Folder names that mean a split, in lower case. They count as splits only if every image lies in a folder with such a
# name.
SPLIT_OF = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")
# Files of further columns, one row per image: the same file names that `datasets` reads in an image folder.
METADATA = {
    "metadata.csv": pd.read_csv,
    "metadata.jsonl": lambda path: pd.read_json(path, lines=True),
    "metadata.parquet": pd.read_parquet,
}


def load_image_folder(argument: str, folder: str | Path) -> Dataset:
    """
    Loads all images below a folder, in the order of their paths.

    Args:
        argument (`str`):
            The argument that names the folder, for error messages.
        folder (`str` or `Path`):
            The folder. Images in subfolders, behind links and in hidden files are found too; archives are an error. A
            `metadata.csv`, `metadata.jsonl` or `metadata.parquet` with a column `file_name` gives further columns and
            must list every image.

    Returns:
        `Dataset`: the column `image` and the columns of the metadata. Without metadata, and if every image lies in a
        subfolder, also the column `label`: the name of the subfolder. Outer folders that contain all images are
        skipped.

    Raises:
        [`InputError`]: if the folder does not exist or has no images, or if an image would be left out.
    """
    images, paths = read_folder(argument, Path(folder))
    return with_labels(images, paths, folder)


def load_image_splits(argument: str, folder: str | Path) -> DatasetDict:
    """
    Loads all images below a folder by split. If every image lies in a subfolder whose name means a split (`train`,
    `val`, `test`, …), these subfolders are the splits; otherwise all images are the split `train`. All splits have the
    same class names. For the arguments and the columns see [`load_image_folder`].
    """
    images, paths = read_folder(argument, Path(folder))
    first = Counter(path.split("/")[0] if "/" in path else "" for path in paths)
    if not all(name.lower() in SPLIT_OF for name in first):
        return DatasetDict({"train": with_labels(images, paths, folder)})
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
    Whether a folder is loaded as a folder of images. `datasets` loads the others: folders of tables or archives, and
    folders whose `README.md` assigns files to splits.
    """
    if declares_splits(folder):
        return False
    suffixes = Counter(path.suffix.lower() for path in walk("dataset_name", folder) if path.name not in METADATA)
    images = sum(suffixes[suffix] for suffix in IMAGE_EXTENSIONS)
    others = sum(suffixes[suffix] for suffix in (*ARCHIVES, ".parquet", ".arrow"))
    return images > others or (others == 0 and not any(suffixes[suffix] for suffix in TABLES))


def declares_splits(folder: Path) -> bool:
    """Whether the `README.md` of a dataset assigns its files to splits (`configs` in its front matter)."""
    card = folder / "README.md"
    return card.is_file() and bool((metadata_load(card) or {}).get("configs"))


def check_nothing_left_out(folder: Path, data_files: Mapping[str, Sequence[str]]) -> None:
    """
    Checks that `datasets` reads all files of a folder. `datasets` guesses the split of a file from its name, and
    ignores a file whose name fits no guess.

    Args:
        folder (`Path`):
            A folder of tables or archives.
        data_files (`dict[str, list[str]]`):
            By split, the files that `datasets` is going to read.

    Raises:
        [`InputError`]: if the folder has more files of the same types.
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
    """
    Reads the images below a folder, with the columns of their metadata.

    Returns:
        `tuple[Dataset, list[str]]`: the images, and their paths relative to the folder.
    """
    files = image_files(argument, folder)
    metadata = [file for file in walk(argument, folder) if file.name in METADATA]
    if metadata:
        images, files = read_metadata(argument, folder, metadata, files)
    else:
        images = Dataset.from_dict({"image": [str(file) for file in files]})
    return images.cast_column("image", Image()), [file.relative_to(folder.absolute()).as_posix() for file in files]


def image_files(argument: str, folder: Path) -> list[Path]:
    """
    Finds the image files below a folder. A file counts if its name has the ending of an image format, or if Pillow can
    open it.

    Returns:
        `list[Path]`: absolute paths, sorted.

    Raises:
        [`InputError`]: if there are no images, if there are archives (they could hold further images), or if a file
            name is not UTF-8.
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
    """Absolute paths of all files below a folder, sorted. Links are followed, and each folder is entered only once."""
    if not folder.is_dir():
        raise InputError(argument, f"there is no folder {str(folder)!r}.")

    def refuse(error: OSError) -> None:
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
    """
    Whether a file is an image: by the ending of its name. Hidden files and files with another ending are opened with
    Pillow instead.
    """
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
    Reads the metadata files of a folder.

    Returns:
        `tuple[Dataset, list[Path]]`: one row per image with the columns of the metadata, in which `image` replaces
        `file_name`, and the paths of the images in the same order.

    Raises:
        [`InputError`]: if the images that the metadata lists are not exactly the images of the folder.
    """
    tables = []
    for path in metadata:
        table = METADATA[path.name](path)
        if "file_name" not in table:
            raise InputError(argument, f"{str(path)!r} has no column 'file_name', only {listing(table)}.")
        # Renamed below: `image` takes the place of `file_name` among the columns.
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
    Adds the column `label`, the name of the subfolder of each image, if every image lies in a subfolder.

    Args:
        images (`Dataset`):
            The images. A dataset with more columns than `image` has metadata and is returned unchanged.
        paths (`list[str]`):
            Paths of the images, relative to the folder that holds the class folders.
        folder (`str` or `Path`):
            The folder as the user wrote it, for messages.
    """
    if len(images.column_names) > 1:
        return images
    parts = [path.split("/") for path in paths]
    # A folder that contains all images is not a class.
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
