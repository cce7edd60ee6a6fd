import dataclasses
import hashlib
import hmac
import json
from pathlib import Path

import jsonschema
import pytest

import hf_unlearn
from hf_unlearn import ForgetRequest
from hf_unlearn.errors import InputError


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    "request_",
    [
        ForgetRequest(classes=["cat", 2], reason="no longer licensed"),
        ForgetRequest(column="fine_label", values=["rocket"]),
        ForgetRequest(indices=[3, 17]),
        ForgetRequest(ids=["a.png"], id_column="file"),
        ForgetRequest(fraction=0.01, seed=4),
        ForgetRequest(count=100),
        ForgetRequest(
            files=["cats/a b.png", "ü.png"], id="R-1", date="2026-11-23", deadline="2026-12-23", requester="3: 4"
        ),
        ForgetRequest(image_sha256=["0" * 64], image_phash=["0" * 16], model="org/model", model_revision="v1"),
        # What YAML 1.1 or 1.2 takes for something else when it stands without quotes.
        ForgetRequest(
            classes=["no", "0123", "1e5", "2026-11-23", "~", "12:30", "0x1f", "", "true", "a: b", "- c", "#"]
        ),
        ForgetRequest(column="x", values=["true", True, "1.5", 1.5, 1e-7, -3, "null"], dataset="org/data"),
    ],
    ids=lambda request: request.kind,
)
def test_file_gives_the_request_back(request_, suffix, tmp_path):
    path = tmp_path / f"request.{suffix}"
    request_.to_file(path)
    assert ForgetRequest.from_file(path) == request_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one way"),
        ({"classes": ["cat"], "indices": [1]}, "exactly one way"),
        ({"classes": []}, "classes: expected a list with at least one entry"),
        ({"classes": "cat"}, "classes: expected a list"),
        ({"column": "fine_label"}, "column and values go together"),
        ({"indices": [3, 3, 5]}, "indices: listed twice: 3"),
        ({"indices": [-1]}, "indices: -1 is not a row number"),
        ({"fraction": 1.0}, "fraction: must lie between 0 and 1"),
        ({"fraction": 0.0}, "fraction: must lie between 0 and 1"),
        ({"count": 0}, "count: must be at least 1"),
        ({"indices": [True]}, "indices: True is not of type 'integer'"),
        ({"classes": [None]}, "classes: None is not of type 'string', 'integer'"),
        ({"classes": ["cat"], "id": "../17"}, "id: '../17' does not match"),
        ({"classes": ["cat"], "date": "2026-02-30"}, "date: '2026-02-30' is not a 'date'"),
        ({"classes": ["cat"], "deadline": "soon"}, "deadline: 'soon' is not a 'date'"),
        (
            {"classes": ["cat"], "date": "2026-12-02", "deadline": "2026-12-01"},
            "deadline: 2026-12-01 is before the date of the request, 2026-12-02",
        ),
        ({"classes": ["cat"], "id_column": "record"}, "'ids' is a dependency of 'id_column'"),
        ({"image_sha256": ["abc"]}, "image_sha256: 'abc' does not match"),
        ({"classes": ["\ud800"]}, "half a character"),
        ({"classes": ["cat"], "seed": None}, "seed: None is not of type 'integer'"),
        ({"count": 3, "seed": "x"}, "seed: 'x' is not of type 'integer'"),
    ],
)
def test_wrong_request_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        ForgetRequest(**arguments)


def test_unknown_key_of_a_file_is_an_error(tmp_path):
    path = tmp_path / "request.yaml"
    path.write_text("classess: [cat]")
    with pytest.raises(InputError, match="unknown key 'classess'. Valid: classes"):
        ForgetRequest.from_file(path)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    "text", ["{", "- a\n- b", "\x00", "classes: [cat", "", "[" * 100_000, "a: &a [x]\nclasses: *a", "classes: !!int x"]
)
def test_file_that_is_no_request_is_an_error(text, suffix, tmp_path):
    path = tmp_path / f"request.{suffix}"
    path.write_text(text)
    with pytest.raises(InputError, match="forget_request"):
        ForgetRequest.from_file(path)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("yaml", "classes: [cat]\nclasses: [dog]"), ("json", '{"classes": ["cat"], "classes": ["dog"]}')],
)
def test_key_that_comes_twice_is_an_error(suffix, text, tmp_path):
    path = tmp_path / f"request.{suffix}"
    path.write_text(text)
    with pytest.raises(InputError, match="the key 'classes' is given twice"):
        ForgetRequest.from_file(path)


@pytest.mark.parametrize(
    "path", ["../a.png", "/etc/passwd", "a/../../b.png", "C:/a.png", "a\\b.png", "./a.png", "a//b.png", "~/a.png"]
)
def test_file_names_cannot_leave_the_data_folder(path):
    with pytest.raises(InputError, match="files: .* is no path inside the data folder"):
        ForgetRequest(files=[path])


def test_schema_is_the_published_draft_and_knows_every_field():
    schema = json.loads((Path(hf_unlearn.__file__).parent / "request" / "schemas" / "forget_request.json").read_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(ForgetRequest)}


def test_hash_depends_on_the_salt_and_on_the_content_not_on_the_layout(tmp_path):
    (tmp_path / "a.yaml").write_text("id: r1\nclasses: [cat]\n")
    (tmp_path / "b.json").write_text('{"classes": ["cat"],\n "id": "r1"}')
    one, other = (ForgetRequest.from_file(tmp_path / name) for name in ("a.yaml", "b.json"))
    text = b'{"classes":["cat"],"id":"r1"}'
    assert one.hmac(b"salt") == other.hmac(b"salt") == hmac.new(b"salt", text, hashlib.sha256).hexdigest()
    assert one.hmac(b"other") != one.hmac(b"salt") != ForgetRequest(classes=["cat"], id="r2").hmac(b"salt")


def test_random_choice_depends_on_the_seed_alone():
    chosen = ForgetRequest(fraction=0.1, seed=3).choose_random(200)
    assert len(chosen) == 20 and chosen == sorted(set(chosen)) and set(chosen) < set(range(200))
    assert chosen == ForgetRequest(count=20, seed=3).choose_random(200)
    assert chosen != ForgetRequest(fraction=0.1, seed=4).choose_random(200)


def test_description_names_no_record():
    assert "17" not in ForgetRequest(indices=[3, 17]).describe()
    assert "a.png" not in ForgetRequest(ids=["a.png"]).describe()
    assert ForgetRequest(classes=["cat"]).describe() == "every image of the class cat"
    assert ForgetRequest(column="digit", values=[3]).describe() == "every image whose digit is 3"
