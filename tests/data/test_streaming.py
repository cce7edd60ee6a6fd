"""A streamed dataset gives the forget set that it gives without streaming, and reads no other images than it must."""

import numpy as np
import pytest
from conftest import make_split
from datasets import Dataset, Image, IterableDataset, load_dataset

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.parquet_files import ParquetFile, parquet_files_of
from hf_unlearn.data.sampling import whole_size
from hf_unlearn.data.streaming import StreamedRows
from hf_unlearn.errors import InputError


REQUESTS = [
    ForgetRequest(classes=["dog"]),
    ForgetRequest(column="breed", values=["collie"]),
    ForgetRequest(column="record", values=["id-7"]),
    ForgetRequest(indices=[47, 3]),
    ForgetRequest(ids=["id-2", "id-40"], id_column="record"),
    ForgetRequest(count=4, seed=1),
]


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return make_split(60, seed=0)


@pytest.fixture(params=["pages", "row groups", "filtered", "generator"])
def stream(request, whole, tmp_path, monkeypatch) -> IterableDataset:
    """The same 60 images as a stream: of three parquet files, as `datasets` writes them or compressed, or of no files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    if request.param == "generator":
        return whole.to_iterable_dataset(num_shards=3)
    others = {"use_content_defined_chunking": False, "write_page_index": False}
    for shard in range(3):
        part = whole.shard(3, shard, contiguous=True)
        part.to_parquet(
            tmp_path / f"train-{shard}.parquet", batch_size=7, **(others if request.param == "row groups" else {})
        )
    data = load_dataset("parquet", data_files={"train": str(tmp_path / "*.parquet")}, split="train", streaming=True)
    return data.filter(lambda label: True, input_columns=["label"]) if request.param == "filtered" else data


def pixels(split: Dataset) -> list[np.ndarray]:
    return [np.array(image) for image in split["image"]]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.kind)
def test_forget_set_is_that_without_streaming(whole, stream, request_):
    expected = split_dataset(whole, request_, label_column="label", test_dataset=whole)
    splits = split_dataset(stream, request_, label_column="label", test_dataset=stream)
    assert splits.keys() == expected.keys()
    for name, split in splits.items():
        assert np.array_equal(pixels(split), pixels(expected[name])), name
        assert split["label"][:] == expected[name]["label"][:]
    assert splits["forget"].forget_source.request == request_


def test_of_the_other_images_so_many_are_drawn_always_the_same(whole, stream):
    request = ForgetRequest(classes=["dog"])
    first, again = (
        split_dataset(stream, request, label_column="label", test_dataset=stream, max_eval_samples=10)
        for _ in range(2)
    )
    assert {name: len(split) for name, split in first.items()} == {
        "forget": 20, "retain": 10, "forget_test": 10, "retain_test": 10,
    }  # fmt: skip
    assert [whole_size(split) for split in first.values()] == [20, 40, 20, 40]
    assert 1 not in first["retain"]["label"][:] and set(first["forget_test"]["label"][:]) == {1}
    for name in first:
        assert np.array_equal(pixels(first[name]), pixels(again[name]))


def test_only_the_columns_of_the_labels_and_the_request_are_kept(stream):
    assert split_dataset(stream, ForgetRequest(classes=["dog"]), "label")["forget"].column_names == ["image", "label"]
    request = ForgetRequest(ids=["id-2"], id_column="record")
    assert split_dataset(stream, request)["forget"].column_names == ["image", "label", "breed", "record"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ForgetRequest(files=["a.png"]), "files: does not stream: every image would be read. Valid with streaming"),
        (ForgetRequest(ids=["a.png"]), "ids: does not stream"),
        (ForgetRequest(image_sha256=["0" * 64]), "image_sha256: does not stream"),
        (ForgetRequest(column="fine", values=["x"]), "column: there is no column 'fine'. Valid: image, label"),
        (ForgetRequest(indices=[60]), "indices: 60 is out of range: rows run from 0 to 59"),
        (ForgetRequest(classes=["dgo"]), "classes: unknown class 'dgo'. Valid: cat, dog, owl"),
        (ForgetRequest(classes=[0, 1, 2]), "classes: the request covers all 60 images"),
    ],
    ids=lambda value: value.kind if isinstance(value, ForgetRequest) else "",
)
def test_request_that_does_not_fit_is_an_error(whole, request_, message):
    with pytest.raises(InputError, match=message):
        split_dataset(whole.to_iterable_dataset(), request_, label_column="label")


def test_stream_without_features_is_an_error(whole):
    stream = IterableDataset.from_generator(lambda: iter([{"x": 1}]))
    with pytest.raises(InputError, match="dataset: is an iterable dataset that does not say its features"):
        split_dataset(stream, ForgetRequest(classes=["dog"]))


def photo_files(folder, **options) -> IterableDataset:
    """90 values of 40 to 120 kB, which is where an image would be, in three files."""
    rng = np.random.default_rng(0)
    images = [{"bytes": rng.bytes(int(rng.integers(40_000, 120_000))), "path": f"{row}.jpg"} for row in range(90)]
    split = make_split(90, seed=0).remove_columns("image").add_column("image", images).cast_column("image", Image())
    for shard in range(3):
        split.shard(3, shard, contiguous=True).to_parquet(folder / f"{shard}.parquet", **options)
    return load_dataset("parquet", data_files={"train": str(folder / "*.parquet")}, split="train", streaming=True)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("rows", [[0], [89], [5, 6, 7, 40], list(range(20, 70)), list(range(0, 90, 4)), [29, 30]])
def test_any_rows_are_read_byte_for_byte_and_little_else(tmp_path, monkeypatch, rows, version):
    data = photo_files(tmp_path, data_page_version=version)
    expected = [values["image"] for values in data.cast_column("image", Image(decode=False))]
    read, crossed = ParquetFile.read, []
    monkeypatch.setattr(
        ParquetFile, "read", lambda self, start, end: crossed.append(end - start) or read(self, start, end)
    )
    images = list(parquet_files_of(data).images(rows, "image"))
    assert images == [expected[row] for row in rows]
    # One image alone is read with its header, and its size is a guess.
    assert sum(crossed) <= 1.5 * sum(len(image["bytes"]) for image in images) + 80_000


def test_what_was_read_is_found_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    data = photo_files(tmp_path / "data")
    rows = StreamedRows("dataset", data, str(tmp_path / "cache"))
    rows.columns_for(None, "label")
    first = rows.read("forget", [3, 50], "image")
    monkeypatch.setattr("hf_unlearn.data.parquet_files.values_of_page", lambda *_: pytest.fail("an image was read"))
    again = rows.read("forget", [3, 50], "image")
    assert again.cast_column("image", Image(decode=False))["image"][:] == first.cast_column(
        "image", Image(decode=False))["image"][:]  # fmt: skip
