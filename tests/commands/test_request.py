"""`hf-unlearn request new` and `check`."""

import builtins

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image as PILImage

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.data.folders import load_image_folder
from hf_unlearn.data.image_dataset import to_rgb
from hf_unlearn.data.splits import matching_rows
from hf_unlearn.request.image_hash import perceptual_hash, pixel_sha256


@pytest.fixture
def answer(monkeypatch):
    """`answer(*answers)` types them at the prompts."""

    def give(*answers):
        rest = list(answers)

        def read(prompt):
            if not rest:
                raise EOFError
            return rest.pop(0)

        monkeypatch.setattr(builtins, "input", read)
        return rest

    return give


def check(request, tmp_path, *flags):
    request.to_file(tmp_path / "request.yaml")
    return main(["request", "check", str(tmp_path / "request.yaml"), *flags])


def test_check_counts_rows_of_train_and_test(saved_dataset, tmp_path, capsys):
    flags = ["--dataset_name", saved_dataset, "--label_column_name", "label"]
    assert check(ForgetRequest(classes=["cat"], id="R-1", date="2026-11-23"), tmp_path, *flags) == 0
    assert capsys.readouterr().out == (
        "Request R-1 of 2026-11-23: every image of the class cat.\nmatches 10 rows of train, 6 of test\n"
    )
    assert check(ForgetRequest(ids=["id-29", "id-3"], id_column="record"), tmp_path, *flags) == 0
    # The test images of these tests count their records from 0 to 17.
    assert "matches 2 rows of train, 1 of test" in capsys.readouterr().out
    assert check(ForgetRequest(indices=[1, 2, 3]), tmp_path, *flags) == 0
    assert "matches 3 rows of train\n" in capsys.readouterr().out


def test_check_takes_the_dataset_from_the_request_and_refuses_another(saved_dataset, tmp_path, capsys):
    request = ForgetRequest(indices=[1], dataset=saved_dataset)
    assert check(request, tmp_path, "--label_column_name", "label") == 0
    assert "matches 1 rows of train" in capsys.readouterr().out
    assert check(request, tmp_path, "--dataset_name", "org/other") == 2
    assert "--dataset_name: is 'org/other', but the request is about" in capsys.readouterr().err


def test_check_of_what_the_data_lacks_is_one_line(image_folder, tmp_path, capsys):
    assert check(ForgetRequest(classes=["owl"]), tmp_path, "--train_dir", str(image_folder)) == 2
    assert "--forget_class: unknown class 'owl'. Valid: cat, dog." in capsys.readouterr().err
    assert main(["request", "check", str(tmp_path / "no.yaml"), "--train_dir", str(image_folder)]) == 2
    assert main(["request", "mend"]) == 2
    assert check(ForgetRequest(classes=["cat"]), tmp_path, "--train_dirr", str(image_folder)) == 2
    assert "--train_dirr: unknown flag. Close: train_dir" in capsys.readouterr().err


def test_near_copies_are_reported(image_folder, tmp_path, capsys):
    pytest.importorskip("imagehash")
    picture = make_picture(seed=0)
    picture.save(image_folder / "cat" / "3.png")
    picture.save(image_folder / "dog" / "3.jpg", quality=60)
    request = ForgetRequest(files=["cat/3.png"])
    assert check(request, tmp_path, "--train_dir", str(image_folder), "--near_copies") == 0
    # Sorted by path: four cats, then the dog that is a copy.
    assert "near copies that the request does not cover: 1 in train\n  rows 7\n" in capsys.readouterr().out
    # A picture that is in the data only as a near copy: nothing matches, and its copies are listed.
    nowhere = ForgetRequest(image_sha256=["0" * 64], image_phash=[perceptual_hash(np.array(picture))])
    assert check(nowhere, tmp_path, "--train_dir", str(image_folder), "--near_copies") == 0
    out = capsys.readouterr().out
    assert "matches 0 rows of train" in out and "rows 3, 7" in out


def test_new_asks_again_until_an_answer_fits_and_writes_the_request(answer, tmp_path, capsys):
    rest = answer(
        "../x", "R-7", "tomorrow", "2026-11-23", "2026-11-22", "2026-12-23", "case 12", "licence ended", "org/model", "", "org/data", "v2",
        "people", "classes", "", "cat, dog",
    )  # fmt: skip
    assert main(["request", "new", str(tmp_path / "request.yaml")]) == 0
    assert not rest
    out = capsys.readouterr().out
    assert "2026-11-22 is before the date of the request" in out
    assert "'../x' does not match" in out and "'tomorrow'" in out and "got 'people'. Valid: classes" in out
    assert ForgetRequest.from_file(tmp_path / "request.yaml") == ForgetRequest(
        classes=["cat", "dog"], id="R-7", date="2026-11-23", deadline="2026-12-23", requester="case 12", reason="licence ended",
        model="org/model", dataset="org/data", dataset_revision="v2",
    )  # fmt: skip


def test_new_hashes_images_that_lie_here(answer, image_folder, tmp_path):
    picture = image_folder / "cat" / "1.png"
    answer("R-8", "", "", "", "", "", "", "", "", "images", f"{picture}, {tmp_path / 'no.png'}", str(picture))
    assert main(["request", "new", str(tmp_path / "request.json")]) == 0
    request = ForgetRequest.from_file(tmp_path / "request.json")
    assert request.image_sha256 == [pixel_sha256(to_rgb(PILImage.open(picture)))]
    assert matching_rows(load_image_folder("train_dir", str(image_folder)), request) == [1]


def test_new_writes_nothing_when_the_answers_end_or_the_file_exists(answer, tmp_path, capsys):
    answer("R-9")
    assert main(["request", "new", str(tmp_path / "request.yaml")]) == 2
    assert "the answers ended early; nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "request.yaml").write_text("mine")
    assert main(["request", "new", str(tmp_path / "request.yaml")]) == 2
    assert (tmp_path / "request.yaml").read_text() == "mine"
