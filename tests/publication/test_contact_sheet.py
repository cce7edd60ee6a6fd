"""The contact sheet: what the page holds, and its keys and buttons in a real browser."""

import re
import time

import browser
import numpy as np
import pytest
from PIL import Image as PILImage

from hf_unlearn import ForgetRequest
from hf_unlearn.publication.contact_sheet import GREEN, FoundRow, write_html, write_png


FIELDS = {"id": "R-1", "date": "2026-11-27", "requester": 'case "7" </script><b>', "model": "org/model"}


def make_rows(number=30, kept=3):
    """Rows with the scores 1.00, 0.99, …; the two last have the same pixels."""
    rng = np.random.default_rng(0)
    return [
        FoundRow(
            number=100 + place,
            score=1 - place / 100,
            image=rng.integers(0, 256, (8, 12, 3), dtype=np.uint8),
            sha256=f"{min(place, number - 2):064x}",
            kept=place < kept,
            phash=f"{place:016x}",
            label="<i>cat</i>",
            copy_of="copy of an example" if place == 1 else None,
        )
        for place in range(number)
    ]


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "contact_sheet.html"
    rows = make_rows()
    write_html(
        path, rows, [rows[0].image], threshold=0.975, suggestion="From 0.975 on.", request=FIELDS, data_name="a & b"
    )
    return path


def test_page_stands_alone_and_shows_names_as_they_are(sheet):
    text = sheet.read_text()
    assert not re.search(r"https?://|url\(|@import|<link|src=\"(?!data:)", text)
    assert "default-src 'none'" in text
    assert text.count("data:image/jpeg;base64,") == 31
    assert "<i>cat" not in text and "&lt;i&gt;cat" in text and "a &amp; b" in text
    assert text.count("</script>") == 2


def test_picture_has_a_green_frame_around_what_is_kept(tmp_path):
    rows = make_rows(number=12, kept=2)
    write_png(tmp_path / "sheet.png", rows, [rows[0].image])
    with PILImage.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    # Frames are four pixels wide, and 120 pixels apart; those of what is left out are grey.
    green = (pixels == GREEN).all(axis=-1)
    line = green.sum(axis=1).argmax()
    assert green[line, 6:234].mean() > 0.9 and not green[line, 246:].any()


@pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="needs chromium and chromedriver")
def test_keys_and_buttons_in_a_browser(sheet, tmp_path):
    with browser.open_page(sheet, tmp_path) as page:

        def kept():
            return page.run("return rows.map((row, place) => kept(row) ? place : -1).filter(place => place >= 0)")

        def focused():
            return page.run("return rows.indexOf(document.activeElement)")

        assert kept() == [0, 1, 2]
        # Nothing but the page itself was asked for.
        assert (
            page.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length")
            == 0
        )
        per_line = page.run("return columns()")
        assert 5 <= per_line < 30

        page.press("Right")
        assert focused() == 0
        page.press("Right", "Right", "Space")
        assert focused() == 2 and kept() == [0, 1]
        page.press("Space")
        assert kept() == [0, 1, 2]
        page.press("Down", "Enter")
        assert focused() == 3 + per_line and kept() == [0, 1, 2, 2 + per_line]
        page.press("Left", "Delete")
        assert kept() == [0, 1, 2]
        page.press("Up", "a")
        assert focused() == 3 and kept() == [0, 1, 2, 3]
        page.press("End", "Enter", "Home", "Delete")
        assert focused() == 1 and kept() == [1, 2, 3, 29]

        page.click(".row:nth-child(6)")
        assert kept() == [1, 2, 3, 5, 29]
        page.run("document.getElementById('score').value = '0.96'")
        page.click("#below")
        assert kept() == [1, 2, 3]
        page.click("#above")
        assert kept() == [0, 1, 2, 3, 4]
        # In the field of the score, keys are those of the field.
        page.click("#score")
        page.press("a", "Delete")
        assert kept() == [0, 1, 2, 3, 4]
        assert page.run("return document.getElementById('count').textContent") == "5 of 30 in the request"

        # The last two have the same pixels, and are one image for the request.
        page.click(".row:nth-child(29)")
        page.click(".row:nth-child(30)")
        page.click("#save")
        file = tmp_path / "request.yaml"
        for _ in range(100):
            if file.is_file():
                break
            time.sleep(0.1)
        page.run("rows.forEach(row => keep(row, false)); count()")
        assert page.run("return document.getElementById('save').disabled") is True
    assert ForgetRequest.from_file(file) == ForgetRequest(
        **FIELDS,
        image_sha256=[f"{place:064x}" for place in (0, 1, 2, 3, 4, 28)],
        image_phash=[f"{place:016x}" for place in (0, 1, 2, 3, 4, 28, 29)],
    )
