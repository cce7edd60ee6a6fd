"""Images given beside those to forget: counted, drawn and handed to the method that takes them."""

import pytest
from conftest import make_images

from hf_unlearn import UnlearningReport
from hf_unlearn.unlearning import advisers, surrogates


REBUILD = ("--method", "rebuild", "--forget_class", "cat", "--num_updates", "1", "--allow_collapse", "True")


@pytest.fixture(autouse=True)
def few_impressions(monkeypatch):
    monkeypatch.setattr(surrogates, "IMPRESSIONS_PER_CLASS", 4)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(make_images([0, 1, 2], seed=5)):
        image.save(folder / f"{number}.png")
    return folder


def test_share_of_the_retained_images_and_a_folder_go_to_rebuild(command, tmp_path, pictures):
    assert command(*REBUILD, "--retain_fraction", "0.25", "--proxy_dir", str(pictures), jit_flags=False) == 0
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "images made of both, and 5 retained training images, and 3 other pictures" in card
    assert "unseen images served to measure alone" in card
    assert UnlearningReport.from_json(tmp_path / "out" / "report.json").splits["retain"] == 20


def test_share_of_the_retained_images_goes_to_jit_for_a_part_of_a_class(command, tmp_path, monkeypatch):
    monkeypatch.setattr(advisers, "ADVISER_UPDATES", 3)
    monkeypatch.setattr(advisers, "NUM_UPDATES", 3)
    part = ["--forget_column", "breed", "--forget_value", "tabby", "--step_rule", "auto", "--allow_collapse"]
    assert command(*part, "--retain_fraction", "0.2") == 0
    run = UnlearningReport.from_json(tmp_path / "out" / "report.json").run
    assert run["step"]["kind"] == "advisers" and run["step"]["moved"] == 5
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "learned from 5 retained images alone" in card
    assert "the images to forget and 5 retained images" in card
    assert "Found from the forget set alone" not in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--forget_class", "cat", "--retain_fraction", "0.1"),
            "--retain_fraction: gives images to --method rebuild, and retained ones to jit for a part of a class; jit",
        ),
        (
            ("--forget_class", "cat", "--proxy_dir", "there"),
            "--proxy_dir: gives images to --method rebuild; jit takes none here",
        ),
    ],
)
def test_methods_that_take_no_further_images_say_so(flags, message, refused):
    refused(message, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--retain_fraction", "1.5"), "--retain_fraction: must be greater than 0 and at most 1, got 1.5"),
        (("--retain_fraction", "0"), "--retain_fraction: must be greater than 0 and at most 1, got 0.0"),
        (("--proxy_dir", "a", "--proxy_dataset", "b"), "--proxy_dir: cannot be combined with --proxy_dataset"),
        (("--proxy_dir", "no-such-folder"), "--proxy_dir: "),
        (("--proxy_dataset", "no-such-folder/"), "--proxy_dataset: cannot load 'no-such-folder/'"),
    ],
)
def test_images_that_cannot_be_given_are_an_error(flags, message, refused):
    refused(message, *REBUILD, *flags, jit_flags=False)


def test_retained_images_are_needed_for_a_share_of_them(refused, pictures):
    flags = ("--method", "rebuild", "--forget_dir", str(pictures), "--forget_kind", "class")
    refused("--retain_fraction: needs the retained", *flags, "--retain_fraction", "0.1", dataset=None, jit_flags=False)


def test_picture_that_cannot_be_read_is_named(refused, pictures):
    (pictures / "broken.png").write_bytes(b"no picture")
    refused("broken.png", *REBUILD, "--proxy_dir", str(pictures), jit_flags=False)
