"""The page that `hf-unlearn demo --app` opens at the end."""

from pathlib import Path

import pytest


pytest.importorskip("gradio", reason="needs gradio: make test-space")

from hf_unlearn.commands.demo import load_digits, serve
from hf_unlearn.publication.space import app


def test_page_has_two_unseen_pictures_of_each_digit_to_click_on(checkpoints, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(app, "start", pages.append)
    serve(Path(checkpoints[0]), Path(checkpoints[1]), load_digits("subclass")["test"], tmp_path / "pictures")
    names = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert names == [f"{digit}-{number}.png" for digit in range(10) for number in range(2)]
    gallery = next(block for block in pages[0].blocks.values() if getattr(block, "elem_id", None) == "examples")
    assert len(gallery.value) == 20
