"""`hf-unlearn find`."""

import numpy as np
import pytest
from conftest import make_picture
from datasets import load_from_disk

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.data.image_dataset import to_rgb
from hf_unlearn.data.splits import matching_rows
from hf_unlearn.request.image_hash import pixel_sha256


@pytest.fixture
def find(saved_model, saved_dataset, tmp_path):
    def call(*words, dataset=saved_dataset):
        base = ["--model_name_or_path", saved_model, "--output_dir", str(tmp_path / "found")]
        base += ["--features_cache_dir", str(tmp_path / "features")]
        data = ["--dataset_name", dataset, "--label_column_name", "label"] if dataset else []
        return main(["find", *map(str, words), *base, *data])

    return call


def test_the_request_names_the_rows_from_the_threshold_on(find, saved_dataset, saved_model, tmp_path, capsys):
    train = load_from_disk(saved_dataset)["train"]
    train[4]["image"].save(tmp_path / "letter.png")
    assert find(
        tmp_path / "letter.png", "--threshold", "0.9999", "--id", "R-1", "--date", "2026-11-27", "--deadline", "2026-12-27",
        "--requester", "case 7",
    ) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "1 of 30 images have a score of 1.000 or more or are copies of an example (1)." in out
    request = ForgetRequest.from_file(tmp_path / "found" / "request.yaml")
    assert matching_rows(train, request) == [4]
    assert request.to_dict() == {
        "id": "R-1", "date": "2026-11-27", "deadline": "2026-12-27", "requester": "case 7",
        "model": saved_model, "dataset": saved_dataset,
        "image_sha256": [pixel_sha256(to_rgb(train[4]["image"]))], "image_phash": request.image_phash,
    }  # fmt: skip
    assert (tmp_path / "found").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "contact_sheet.html", "contact_sheet.png", "request.yaml",
    }  # fmt: skip


def test_a_row_and_a_folder_are_examples_and_a_label_narrows_the_search(find, image_folder, tmp_path, capsys):
    assert find(image_folder / "cat", "--example_rows", "7", "--only_label", "dog", "--threshold", "-1") == 0
    out = capsys.readouterr().out
    assert "10 of 10 images have a score of -1.000 or more" in out
    assert "10 of the 10 images with the label dog are among them" in out and "classes: [dog]" in out
    page = (tmp_path / "found" / "contact_sheet.html").read_text()
    assert page.count('alt="example') == 4 and page.count('class="row"') == 10
    assert "row 7<" in page and "row 6<" not in page


def test_nothing_found_writes_no_request(find, tmp_path, capsys):
    make_picture(seed=1).save(tmp_path / "other.png")
    assert find(tmp_path / "other.png", "--threshold", "1.5") == 0
    assert "0 of 30 images" in capsys.readouterr().out
    assert not (tmp_path / "found" / "request.yaml").exists()
    assert (tmp_path / "found" / "contact_sheet.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--examples: name at least one picture"),
        (["no.png"], "--examples: there is no file or folder 'no.png'."),
        (["--example_rows", "30"], "--example_rows: 30 is out of range: rows run from 0 to 29."),
        (["--example_rows", "1", "--only_label", "owls"], "unknown class 'owls'. Valid: cat, dog, owl."),
        (["--example_rows", "1", "--deadline", "2026-13-01"], "request: deadline: '2026-13-01'"),
        (["--example_rows", "1", "--date", "2026-12-02", "--deadline", "2026-12-01"], "is before the date"),
        (["--example_rows", "1", "--id", "a b"], "request: id: 'a b' does not match"),
        (["--example_rows", "1", "--thresholdd", "1"], "--thresholdd: unknown flag. Close: threshold"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_writes_nothing(find, words, message, tmp_path, capsys):
    assert find(*words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error, error
    assert not (tmp_path / "found").exists()


def test_a_file_that_is_no_image_and_a_folder_that_is_used(find, tmp_path, capsys):
    (tmp_path / "letter.png").write_bytes(b"Dear Sir or Madam")
    assert find(tmp_path / "letter.png") == 2
    assert "is no image that can be read" in capsys.readouterr().err
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine").write_text("mine")
    assert find("--example_rows", "1") == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["mine"]


def test_a_copy_below_the_threshold_is_in_the_request(find, saved_dataset, tmp_path, capsys):
    pytest.importorskip("imagehash")
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(5):
        make_picture(seed).save(folder / f"{seed}.png")
    make_picture(0).transpose(0).save(folder / "mirrored.png")
    make_picture(0).save(tmp_path / "letter.png")
    assert find(tmp_path / "letter.png", "--threshold", "1.5", "--train_dir", folder, dataset=None) == 0
    request = ForgetRequest.from_file(tmp_path / "found" / "request.yaml")
    assert sorted(request.image_sha256) == sorted(
        pixel_sha256(np.array(picture)) for picture in (make_picture(0), make_picture(0).transpose(0))
    )
    assert "copies of an example (2)" in capsys.readouterr().out
