"""The letter and the page for the file: from the record alone, and without other persons."""

import json
import re

import pytest
from conftest import ROOT

from hf_unlearn.errors import InputError
from hf_unlearn.publication import answer
from hf_unlearn.publication.answer import letter_facts, render, write_answer
from hf_unlearn.publication.signing import Check


RECORD = json.loads((ROOT / "model_cards" / "digits-unlearned" / "unlearning_record.json").read_text())


def changed(**sections):
    record = json.loads(json.dumps(RECORD))
    for name, values in sections.items():
        record[name] |= values
    return record


def letter(record):
    facts = letter_facts(record) | {"contact": "Ask us.", "today": "2026-11-27"}
    return " ".join(re.sub(r"<[^>]+>", " ", render(answer.LETTER, facts)).split())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a record of which all but the weights are there."""
    (tmp_path / "unlearning_record.json").write_text(json.dumps(RECORD))
    monkeypatch.setattr(answer, "verify", lambda folder: [Check(True, "it <holds>"), Check(None, "it is not signed")])
    return tmp_path


def test_letter_says_what_was_asked_found_done_measured_and_not_promised():
    text = letter(changed(request={"id": "R-1", "date": "2026-11-01"}))
    assert "Answer to the request R-1 of 2026-11-01" in text
    assert "Your request was about all images of a kind." in text
    assert "We found 133 images that the request names. They are among the 1347 images" in text
    assert "On 2026-11-26 we ran a program that makes the model digits-original forget these images." in text
    assert "for 133 of the 133 images to forget. Now it does so for 0." in text
    assert "guessed so for 124 of the 133 images to forget. Now it does so for 0." in text
    assert "They do not prove that nothing of the images is left in it." in text
    assert RECORD["record_sha256"] in text and "hf-unlearn record verify" in text and "Ask us." in text
    # A model is to be wrong about a class that it has forgotten, and not about single images.
    assert "does not have to become 0" not in text
    assert "does not have to become 0" in letter(changed(request={"kind": "ids"}))


def test_letter_of_one_image_and_of_a_model_that_did_not_move():
    record = changed(forgotten={"images": 1}, weights={"sha256_after": RECORD["weights"]["sha256_before"]})
    text = letter(record)
    assert (
        "We found 1 image that the request names. It is among" in text
        and "forget this image ." in text
        or "forget this image." in text
    )
    assert "the program changed nothing" in text


def test_letter_says_nothing_of_numbers_that_were_not_measured():
    record = changed(metrics={"results": {"unlearned": {"forget_accuracy": 0.5}}})
    assert "Nothing was measured." in letter(record)


def test_letter_names_no_class_no_other_request_and_no_data():
    step = {
        "model": RECORD["model"] | {"name": "org/OTHERMODEL"}, "images": 3, "weights": RECORD["weights"],
        "request": RECORD["request"] | {"id": "OTHERREQUEST"}, "ended": "2026-01-01", "record_sha256": "0" * 64,
    }  # fmt: skip
    record = changed(
        request={"description": "every image of the classes JANEDOE, JOHNDOE"}, dataset={"name": "org/OTHERDATA"}
    ) | {"lineage": [step]}
    text = render(answer.LETTER, letter_facts(record) | {"contact": "", "today": ""})
    assert not re.search("JANEDOE|JOHNDOE|OTHER", text)


def test_every_sentence_of_the_letter_is_short():
    for sentence in re.split(r"(?<=[.:!?])\s", letter(RECORD)):
        assert len(sentence.split()) <= 26, sentence


def test_page_names_the_evidence_with_hashes_and_escapes_what_it_shows(folder):
    _, page = write_answer(folder, folder / "answer")
    text = page.read_text()
    for value in (
        *RECORD["files"].values(),
        *RECORD["weights"].values(),
        RECORD["record_sha256"],
        RECORD["card_sha256"],
    ):
        assert value in text
    assert "holds: it &lt;holds&gt;" in text and "note: it is not signed" in text
    assert "retain_test_accuracy" in text and "sigma" in text


def test_templates_of_the_user_and_nothing_overwritten(folder, tmp_path):
    (tmp_path / "own.md").write_text("Request {{ request_id }}: {{ images }} & {{ contact }}")
    letter, page = write_answer(folder, tmp_path / "a", "<us>", letter_template=tmp_path / "own.md")
    assert letter.name == "letter.md" and letter.read_text() == "Request without a number: 133 & <us>"
    assert page.name == "file_page.html" and "&lt;us&gt;" in page.read_text()
    with pytest.raises(InputError, match="exists already"):
        write_answer(folder, tmp_path / "a", letter_template=tmp_path / "own.md")


@pytest.mark.parametrize("text", ["{{ nothing }}", "{% if %}", "{{ images.__class__.mro() }}", "{{ images() }}"])
def test_a_template_that_cannot_be_used_is_one_line(folder, tmp_path, text):
    (tmp_path / "own.md").write_text(text)
    with pytest.raises(InputError, match="'own.md' cannot be used") as caught:
        write_answer(folder, tmp_path / "a", letter_template=tmp_path / "own.md")
    assert "\n" not in caught.value.message and not (tmp_path / "a").exists()


def test_nothing_is_answered_from_a_record_that_does_not_hold(folder, monkeypatch):
    monkeypatch.setattr(answer, "verify", lambda folder: [Check(False, "model.safetensors is missing")])
    with pytest.raises(InputError, match="nothing is answered from it: model.safetensors is missing"):
        write_answer(folder, folder / "answer")
    assert not (folder / "answer").exists()
