"""A dataset is loaded from wherever it is."""

import pytest
from conftest import CLASSES, make_images, make_split

from hf_unlearn.data.image_dataset import find_image_column
from hf_unlearn.data.sources import load_dataset
from hf_unlearn.errors import InputError


@pytest.mark.parametrize("kind", ["disk", "parquet", "arrow", "parquet_folder", "image_folder"])
def test_dataset_is_loaded_from_wherever_it_is(kind, tmp_path):
    split = make_split(6, seed=0)
    path = tmp_path / "data"
    if kind == "disk":
        split.save_to_disk(str(path))
    elif kind == "parquet":
        path = tmp_path / "data.parquet"
        split.to_parquet(path)
    elif kind == "arrow":
        path = tmp_path / "data.arrow"
        split.save_to_disk(str(tmp_path / "written"))
        next((tmp_path / "written").glob("*.arrow")).rename(path)
    elif kind == "parquet_folder":
        path.mkdir()
        split.to_parquet(path / "train-00000-of-00001.parquet")
    else:
        for number, image in enumerate(make_images([0, 1, 2, 0, 1, 2], seed=0)):
            folder = path / "train" / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    loaded = load_dataset(str(path), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) == 6
    assert find_image_column(loaded["train"]) == "image"


def test_dataset_that_is_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="dataset_name: cannot load"):
        load_dataset(str(tmp_path / "nowhere"))
