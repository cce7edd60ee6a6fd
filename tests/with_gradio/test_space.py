"""The page of `hf-unlearn push --space` and `hf-unlearn demo --app`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
from conftest import ROOT, make_model, make_picture
from hub_server import HubServer
from PIL import Image as PILImage
from transformers import ViTImageProcessor, pipeline


pytest.importorskip("gradio", reason="needs gradio: make test-space")

from hf_unlearn.data.image_dataset import to_rgb
from hf_unlearn.publication.hub_space import SPACE, space_files
from hf_unlearn.publication.space import app


CARD = ROOT / "model_cards" / "digits-unlearned"


@pytest.fixture(scope="module")
def models(tmp_path_factory, checkpoints):
    """Two models, the second with a record."""
    folder = tmp_path_factory.mktemp("models") / "unlearned"
    shutil.copytree(checkpoints[1], folder)
    shutil.copy(CARD / "unlearning_record.json", folder)
    return checkpoints[0], str(folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory, models):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("needs chromium and chromedriver")
    folder = tmp_path_factory.mktemp("page")
    with (
        browser.gradio_app(SPACE / "app.py", *models, folder=folder) as address,
        browser.open_page(address, folder) as page,
    ):
        page.wait("return document.querySelector('#file input[type=file]') !== null")
        yield page


def text(page, element):
    return page.run(f"return document.querySelector('#{element}').innerText")


def upload(page, file):
    """Uploads a file in place of the one before it."""
    page.run("document.querySelector('#file button[aria-label=\"Clear\"]')?.click()")
    page.wait("return document.querySelector('#file input[type=file]') !== null")
    page.upload("#file input[type=file]", file)


def test_page_says_what_was_forgotten_and_the_numbers_of_the_record(page):
    assert "every image of the class 3, 133 images, by JiT, on 2026-11-26" in text(page, "forgotten")
    record = json.loads((CARD / "unlearning_record.json").read_text())
    shown = [line.split() for line in text(page, "numbers").splitlines()]
    for model in ("original", "unlearned", "retrained"):
        percent = f"{100 * record['metrics']['results'][model]['retain_test_accuracy']:.1f}"
        assert any(percent in line and "unseen" in line for line in shown), (model, shown)


def test_picture_gets_the_answers_of_both_models(page, models, tmp_path):
    make_picture(3).save(tmp_path / "three.png")
    upload(page, tmp_path / "three.png")
    page.wait("return document.querySelector('#unlearned').innerText.includes('%')")
    for model, element in zip(models, ("original", "unlearned"), strict=True):
        expected = pipeline("image-classification", model)(str(tmp_path / "three.png"))
        # The heading, the first class in large letters, and then each class with its probability.
        words = text(page, element).split()
        assert words[1] == expected[0]["label"]
        shown = dict(zip(words[2::2], words[3::2], strict=True))
        assert shown == {answer["label"]: f"{100 * answer['score']:.0f}%" for answer in expected}
    assert page.run("return document.querySelector('#picture img').complete")
    # The page asks nobody else for anything.
    names = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith(("http://127.0.0.1", "data:", "blob:"))] == []


@pytest.mark.parametrize("name, content", [("note.txt", b"no picture"), ("cut.png", None)])
def test_file_that_is_no_picture_is_one_line_on_the_page(page, tmp_path, name, content):
    make_picture(4).save(tmp_path / "whole.png")
    (tmp_path / name).write_bytes(content or (tmp_path / "whole.png").read_bytes()[:200])
    upload(page, tmp_path / "whole.png")
    page.wait("return document.querySelector('#original').innerText.includes('%')")
    upload(page, tmp_path / name)
    page.wait(f"return document.querySelector('#message').innerText.includes({name!r})")
    line = text(page, "message").strip()
    assert line.startswith(f"'{name}' is no picture that can be read.") and len(line.splitlines()) == 1
    assert "%" not in text(page, "original") + text(page, "unlearned")


def test_space_loads_private_models_from_the_hub_with_the_token_of_its_secret(models, tmp_path):
    with HubServer() as hub:
        for name, folder in zip(("tester/animals", "tester/animals-unlearned"), models, strict=True):
            hub.add_repo(name, {path.name: path.read_bytes() for path in Path(folder).iterdir()}, private=True)
        settings = {"original": "tester/animals", "unlearned": "tester/animals-unlearned", "original_revision": "main"}
        for name, content in space_files(settings).items():
            (tmp_path / name).write_bytes(content)
        script = """
import app
sources = app.find_sources([])
print([app.load(source).names for source in sources], app.read_record(sources[1])["forgotten"]["images"])
"""

        def run(home, **token):
            return subprocess.run(
                [sys.executable, "-c", script],
                env=os.environ | hub.environ(tmp_path / home, **token),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=200,
            )

        done = run("with_token")
        assert done.stdout.strip() == f"{[['cat', 'dog', 'owl']] * 2} 133", done.stderr
        refused = run("without", token=None)
        assert "The model 'tester/animals' cannot be loaded" in refused.stderr and "HF_TOKEN" in refused.stderr


def test_model_that_cannot_be_loaded_is_one_line_on_the_page(models):
    page = app.make_page(app.Source("no-such-folder/model"), app.Source(models[1]))
    values = [block.value for block in page.blocks.values() if getattr(block, "elem_id", None) == "message"]
    assert len(values) == 1 and "&#x27;no-such-folder/model&#x27; cannot be loaded" in values[0]


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    import torch

    model = make_model("resnet")
    model.config.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(app.PageError, match="weights as safetensors"):
        app.load(app.Source(str(tmp_path)))


def test_code_that_lies_with_a_model_is_not_run(tmp_path):
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "code.A", "AutoModelForImageClassification": "code.B"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(app.PageError, match="cannot be loaded"):
        app.load(app.Source(str(tmp_path)))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
def test_picture_is_read_as_the_evaluation_reads_it(tmp_path, mode):
    if mode == "I;16":
        image = PILImage.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16))
    else:
        image = make_picture(1).convert(mode)
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    image.save(path)
    with PILImage.open(path) as again:
        expected = to_rgb(again)
    assert np.array_equal(np.asarray(app.read_picture(path)), expected)


def test_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MOST_PIXELS", 4000)
    make_picture(1).save(tmp_path / "large.png")
    with pytest.raises(app.PageError, match="'large.png' has 64 × 64 pixels"):
        app.read_picture(tmp_path / "large.png")


def test_run_alone_names_its_original(models, tmp_path):
    assert app.find_sources([models[1]]) == (app.Source("digits-original"), app.Source(models[1]))
    assert app.find_sources(models) == (app.Source(models[0]), app.Source(models[1]))
    with pytest.raises(app.PageError, match="names its original"):
        app.find_sources([str(tmp_path)])
    with pytest.raises(app.PageError, match="Which models"):
        app.find_sources([])


@pytest.mark.parametrize("record", [None, {}, {"metrics": 3}, {"metrics": {"results": {}, "splits": {"forget": "x"}}}])
def test_record_that_cannot_be_read_is_said_so(record):
    assert app.about(record) == ("<p>No record that can be read lies with the unlearned model.</p>", "")


def test_nothing_of_a_record_is_taken_for_html():
    record = json.loads((CARD / "unlearning_record.json").read_text())
    record["request"]["description"] = record["method"]["name"] = record["ended"] = "<b>x"
    record["metrics"]["splits"] = {"<i>": 3}
    shown = "".join(app.about(record))
    assert "<b>x" not in shown and "<i>" not in shown and shown.count("&lt;b&gt;x") == 3


def test_two_classes_of_one_name_are_told_by_number(tmp_path):
    model = make_model("resnet")
    model.config.id2label = {0: "crane", 1: "dog", 2: "crane"}
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert app.load(app.Source(str(tmp_path))).names == ["crane (0)", "dog", "crane (2)"]
