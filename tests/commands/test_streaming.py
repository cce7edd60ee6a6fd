"""`--streaming`: the same weights, a record of what was read, and one line for what does not stream."""

import pytest
from conftest import make_images, make_split

from hf_unlearn import UnlearningReport
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record, read_salt, salted


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> str:
    """The images of `dataset`, as a folder of parquet files."""
    folder = tmp_path_factory.mktemp("parquet")
    for name, rows, seed in (("train", 30, 0), ("test", 18, 1)):
        split = make_split(rows, seed=seed)
        for shard in range(3):
            split.shard(3, shard, contiguous=True).to_parquet(folder / f"{name}-{shard:05}-of-00003.parquet")
    return str(folder)


@pytest.fixture
def cache(tmp_path):
    return ["--cache_dir", str(tmp_path / "cache")]


@pytest.mark.parametrize(
    "flags", [["--forget_class", "cat"], ["--forget_ids", "id-3", "id-8", "--forget_id_column", "record"]]
)
def test_weights_are_those_without_streaming_to_the_bit(command, parquet, tmp_path, cache, flags):
    records = []
    for streaming in ([], ["--streaming"]):
        assert command(*flags, *streaming, *cache, "--overwrite", dataset=parquet) == 0
        records.append(read_record(tmp_path / "out" / "unlearning_record.json"))
    loaded, streamed = records
    assert streamed["weights"] == loaded["weights"]
    assert streamed["metrics"] == loaded["metrics"]
    assert streamed["dataset"]["training_images"] == 30 and "streamed" not in loaded["dataset"]


def test_record_says_what_was_read_and_names_no_row(command, parquet, saved_model, tmp_path, cache):
    flags = ["--forget_indices", "3", "17", "--streaming", "--max_eval_samples", "5"]
    assert command(*flags, *cache, dataset=parquet) == 0
    out = tmp_path / "out"
    streamed = read_record(out / "unlearning_record.json")["dataset"]["streamed"]
    salt = read_salt(out / "unlearning_salt")
    assert streamed["columns"] == ["label"]
    assert {name: rows["images"] for name, rows in streamed["rows"].items()} == {"forget": 2, "retain": 5}
    assert streamed["rows"]["forget"]["hmac_sha256"] == salted(salt, "rows:[3, 17]")
    report = UnlearningReport.from_json(out / "report.json")
    assert report.splits == {"forget": 2, "retain": 5, "retain_test": 5}
    assert report.sampled == {"retain": 28, "retain_test": 18}
    assert main(["record", "verify", str(out)]) == 0
    flags = ["--model_name_or_path", saved_model, "--dataset_name", parquet, *cache]
    assert main(["record", "replay", str(out), *flags]) == 0


def test_folder_to_forget_is_measured_on_streamed_images(command, parquet, tmp_path, cache):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(make_images([0, 0, 0], seed=5)):
        image.save(tmp_path / "photos" / f"{number}.png")
    flags = ["--forget_dir", str(tmp_path / "photos"), "--streaming", "--max_eval_samples", "5"]
    assert command(*flags, *cache, dataset=parquet) == 0
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").splits == {"forget": 3, "retain_test": 5}


def test_what_does_not_stream_is_refused(refused, parquet, tmp_path, cache):
    refused("--forget_ids: does not stream", "--forget_ids", "a.png", "--streaming", *cache, dataset=parquet)
    flags = ["--forget_class", "cat", "--streaming", *cache]
    refused("--streaming: keeps no retained images", *flags, "--method", "fine_tune", dataset=parquet, jit_flags=False)
    for name in ("1", "2"):
        (tmp_path / f"{name}.yaml").write_text("classes: [cat]\n")
    flags = ["--forget_request", str(tmp_path / "1.yaml"), str(tmp_path / "2.yaml"), "--streaming", *cache]
    refused("--streaming: works with one request at a time", *flags, dataset=parquet)


def test_request_is_checked_without_the_images(parquet, tmp_path, cache, capsys):
    (tmp_path / "request.yaml").write_text("id: r-1\nclasses: [cat]\n")
    flags = ["--dataset_name", parquet, "--label_column_name", "label", "--streaming", *cache]
    assert main(["request", "check", str(tmp_path / "request.yaml"), *flags]) == 0
    assert "matches 10 rows of train, 6 of test" in capsys.readouterr().out
