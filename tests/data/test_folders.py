"""Folders of images: every image counts, whatever it and its folders are called."""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from conftest import make_images, make_split
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from hf_unlearn.data.folders import SPLIT_OF, load_image_folder
from hf_unlearn.data.sources import load_dataset
from hf_unlearn.errors import InputError


def png() -> bytes:
    content = io.BytesIO()
    PILImage.new("RGB", (2, 2)).save(content, "png")
    return content.getvalue()


PNG = png()
SPLIT_WORDS = [*SPLIT_OF, "Train", "TEST", "val_1", "my-test-d", "train_c", "test tube", "ILSVRC2012_val_00000001"]
ODD = ["кошка", "猫", "a b", "[x]", "100%", "a*b", "x::y", "#1", "__init__", ".hidden", "data", "a.tar.b", "é", "'q'"]
ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
names = st.one_of(
    st.sampled_from(SPLIT_WORDS + ODD),
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=8
    ),
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
endings = st.sampled_from([".png", ".PNG", ".jpg", ".Jpeg", ".webp", ".bmp", "", ".jpg_large", ".old"])
files = st.builds(lambda name, ending: name + ending, names, endings).filter(
    lambda name: name not in (".", "..") and not name.lower().endswith(ARCHIVE_ENDINGS) and name not in METADATA
)


def written(root: Path, paths: list[str]) -> set[str]:
    """Writes an image to each path that is not a folder already; returns those that are there."""
    there = set()
    for path in paths:
        file = root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PNG)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        there.add(path)
    return there


def on_disk(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def loaded_paths(dataset, root: Path) -> list[str]:
    column = dataset.with_format("arrow")[:]["image"].combine_chunks().field("path").to_pylist()
    return [Path(path).relative_to(root).as_posix() for path in column]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(lambda folders, file: "/".join([*folders, file]), st.lists(names, max_size=3), files), min_size=1
    )
)
@example(["a.png", "b.png", "train_c.png", "my-test-d.png"])
@example(["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
@example(["train/a.png", "b.png", ".c.png", "d"])
def test_as_many_images_are_loaded_as_lie_on_disk(paths):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written(root, paths)
        images = load_image_folder("forget_dir", folder)
        assert loaded_paths(images, root) == sorted(on_disk(root), key=lambda path: str(root / path))
        assert images[0]["image"].size == (2, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.lists(st.tuples(st.lists(names, max_size=2), files), min_size=1, max_size=3), min_size=2)
)
@example({"cat": [([], "1.png")], "dog": [([], "1.png")], "train": [([], "1.png")], "test tube": [(["x"], "1.png")]})
def test_classes_are_the_folders(tree):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = written(
            root, ["/".join([name, *inner, file]) for name, those in tree.items() for inner, file in those]
        )
        classes = sorted({path.split("/")[0] for path in paths})
        images = load_image_folder("train_dir", folder)
        assert images.features["label"].names == classes
        folders = [path.split("/")[0] for path in loaded_paths(images, root)]
        assert [classes[label] for label in images["label"]] == folders


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, st.lists(st.tuples(names, files), min_size=1, max_size=3), min_size=1, max_size=4))
@example({"train": [("cat", "1.png")], "test": [("cat", "1.png")], "dog": [("x", "1.png")]})
@example({"Train": [("cat", "1.png"), ("dog", "1.png")], "validation": [("cat", "test_2.png")]})
def test_dataset_folder_loses_no_image_and_splits_only_by_folders_named_so(tree):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        paths = written(root, ["/".join([name, *those]) for name, inner in tree.items() for those in inner])
        first = sorted({path.split("/")[0] for path in paths})
        are_splits = all(name.lower() in SPLIT_OF for name in first)
        if are_splits and len({SPLIT_OF[name.lower()] for name in first}) < len(first):
            with pytest.raises(InputError, match="has several folders for the split"):
                load_dataset(str(root))
            return
        dataset = load_dataset(str(root))
        assert set(dataset) == ({SPLIT_OF[name.lower()] for name in first} if are_splits else {"train"})
        found = [path for split in dataset.values() for path in loaded_paths(split, root)]
        assert sorted(found) == sorted(on_disk(root))


def test_splits_share_their_classes(tmp_path):
    written(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/dog/1.png"])
    dataset = load_dataset(str(tmp_path))
    assert dataset["train"].features == dataset["test"].features
    assert dataset["test"].features["label"].names == ["cat", "dog"] and dataset["test"]["label"][:] == [1]


def test_folder_around_all_classes_is_no_class(tmp_path):
    written(tmp_path, ["images/cat/1.png", "images/dog/1.png"])
    assert load_image_folder("train_dir", tmp_path).features["label"].names == ["cat", "dog"]


def test_images_beside_class_folders_are_kept_and_said(tmp_path, capsys):
    written(tmp_path, ["cat/1.png", "dog/1.png", "stray.png"])
    images = load_image_folder("train_dir", tmp_path)
    assert len(images) == 3 and images.column_names == ["image"]
    assert f"1 of 3 images lie in no subfolder of {tmp_path}: its folders are no classes." in capsys.readouterr().out


def test_what_is_no_image_does_not_count(tmp_path):
    written(tmp_path, ["a.png"])
    for name in ("README.md", "Thumbs.db", ".DS_Store", "labels.csv", "._a.png"):
        (tmp_path / name).write_bytes(b"\0\1no image")
    assert len(load_image_folder("forget_dir", tmp_path)) == 1


def test_damaged_image_counts(tmp_path):
    """It is named later, when images are checked: leaving it out is the user's decision."""
    written(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"")
    assert len(load_image_folder("forget_dir", tmp_path)) == 2


def test_links_count_and_may_go_round(tmp_path):
    written(tmp_path / "elsewhere", ["a.png", "b.png"])
    folder = tmp_path / "folder"
    written(folder, ["c.png"])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again.png").symlink_to(folder / "c.png")
    (folder / "round").symlink_to(folder)
    assert len(load_image_folder("forget_dir", folder)) == 4


def refused(message: str, folder: Path, argument: str = "forget_dir"):
    with pytest.raises(InputError, match=message):
        load_image_folder(argument, folder)


def test_what_would_leave_images_out_is_refused(tmp_path):
    refused("forget_dir: there is no folder", tmp_path / "nowhere")
    refused("forget_dir: no images found in", tmp_path)
    written(tmp_path, ["a.png"])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("b.png", PNG)
    refused("holds archives, unpack them first: more.zip", tmp_path)


def test_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(PNG)
    refused("is no UTF-8; rename it", tmp_path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_gives_further_columns(ending, tmp_path):
    import pandas as pd

    written(tmp_path, ["train_a.png", "b/test.png"])
    table = pd.DataFrame({"file_name": ["b/test.png", "train_a.png"], "label": ["cat", "dog"], "record": [1, 2]})
    file = tmp_path / f"metadata.{ending}"
    {"csv": lambda: table.to_csv(file, index=False), "parquet": lambda: table.to_parquet(file)}.get(
        ending, lambda: file.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
    )()
    images = load_image_folder("train_dir", tmp_path)
    assert images.column_names == ["image", "label", "record"] and images["record"][:] == [1, 2]
    assert loaded_paths(images, tmp_path) == ["b/test.png", "train_a.png"]


def test_metadata_must_list_what_is_there(tmp_path):
    written(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\n")
    refused("has 1 images that its metadata does not list: b.png", tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\nb.png,dog\nc.png,dog\n")
    refused("has 1 rows of metadata whose image is not there: c.png", tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\nb.png,dog\nb.png,cat\n")
    refused("has 1 images listed twice in the metadata: b.png", tmp_path)
    (tmp_path / "metadata.csv").write_text("name\na.png\n")
    refused("has no column 'file_name', only name", tmp_path)


def test_tables_that_fit_no_split_are_named(tmp_path):
    """`datasets` would read `my-test.parquet` alone."""
    split, cache = make_split(6, seed=0), str(tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("cats.parquet", "my-test.parquet"):
        split.to_parquet(folder / name)
    with pytest.raises(InputError, match="has 1 files that fit none of the splits test: cats.parquet"):
        load_dataset(str(folder), cache_dir=cache)
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: cats.parquet\n---\n")
    assert len(load_dataset(str(folder), cache_dir=cache)["train"]) == 6


def test_picture_beside_tables_is_no_dataset(tmp_path):
    make_split(6, seed=0).to_parquet(tmp_path / "train.parquet")
    make_images([0], seed=0)[0].save(tmp_path / "logo.png")
    assert len(load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))["train"]) == 6
