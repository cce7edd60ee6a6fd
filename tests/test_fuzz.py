"""
Requests, records, reports and cards that no one would write: each is used, or is an `InputError`, and nothing is written
outside of the folder.

`make fuzz` tries 10,000 of each.
"""

import copy
import json
import os
import shutil

import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_unlearn import ForgetRequest
from hf_unlearn.data.splits import matching_rows
from hf_unlearn.errors import InputError
from hf_unlearn.publication.model_card import card_sha256, merge_cards, write_model_card
from hf_unlearn.publication.record import read_record
from hf_unlearn.publication.record_check import verify
from hf_unlearn.request.forget_request import WAYS
from hf_unlearn.request.schemas import read_schema


GOLDEN = ROOT / "model_cards" / "digits-unlearned"
RECORD = json.loads((GOLDEN / "unlearning_record.json").read_text())
REPORT = json.loads((GOLDEN / "report.json").read_text())

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 25)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

words = st.sampled_from(
    ["cat", "../../etc/passwd", "/etc/passwd", "a/b.png", "..", "", "0", "-1", "no", "1e5", "\x00", "\ud800", "\u202e", "~", "a" * 5000]
)  # fmt: skip
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(st.characters(codec=None), max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
requests = st.dictionaries(
    st.sampled_from([*WAYS, *read_schema("forget_request")["properties"], "nonsense"]),
    values | st.lists(words),
    max_size=5,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder three levels below one where nothing may change, also as the working directory."""
    deep = tmp_path / "guarded" / "a" / "out"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    yield deep
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if deep not in path.parents] == [
        "guarded", "guarded/a", "guarded/a/out",
    ]  # fmt: skip


def use_request(path, dataset):
    """Reads a request, looks for its rows and writes it again."""
    try:
        request = ForgetRequest.from_file(path)
        request.hmac(b"salt")
        request.describe()
        request.to_file(path.with_suffix(".json"))
        assert ForgetRequest.from_file(path.with_suffix(".json")) == request
        request.to_file(path.with_suffix(".yaml"))
        assert ForgetRequest.from_file(path.with_suffix(".yaml")) == request
        matching_rows(dataset, request, "label")
    except InputError as error:
        assert "\n" not in error.message and len(error.message) < 20_000


@fuzz
@given(values=requests | values, as_json=st.booleans())
def test_requests(values, as_json, folder, dataset):
    path = folder / ("request.json" if as_json else "request.yaml")
    try:
        text = json.dumps(values) if as_json else yaml.dump(values)
        path.write_text(text, encoding="utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        # What cannot be written cannot be read either.
        return
    use_request(path, dataset["train"])


@fuzz
@given(content=st.binary(max_size=300) | st.text("{}[]:,-!&*|>'\"#%@`\n\t ~ab01", max_size=200).map(str.encode))
def test_request_files_of_any_bytes(content, folder, dataset):
    for name in ("request.yaml", "request.json"):
        (folder / name).write_bytes(content)
        use_request(folder / name, dataset["train"])


def paths_in(value, path=()):
    """The ways to every part of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner)[:30]:
        yield from paths_in(part, (*path, key))


def changed(original, path, value):
    """A copy with another value in one place."""
    result = copy.deepcopy(original)
    if not path:
        return value
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return result


@fuzz
@given(path=st.sampled_from(list(paths_in(RECORD))), value=values)
def test_records(path, value, folder):
    for name in ("README.md", "report.json"):
        shutil.copy(GOLDEN / name, folder)
    record = changed(RECORD, path, value)
    (folder / "unlearning_record.json").write_text(json.dumps(record))
    try:
        read_record(folder / "unlearning_record.json")
        checks = verify(folder)
    except InputError as error:
        assert "\n" not in error.message
    else:
        # The weights are not here.
        assert any(check.holds is False for check in checks)


@fuzz
@given(content=st.binary(max_size=300) | st.text('{}[]:,"0123456789.eE+-\n ', max_size=200).map(str.encode))
def test_record_files_of_any_bytes(content, folder):
    (folder / "unlearning_record.json").write_bytes(content)
    with pytest.raises(InputError):
        verify(folder)


@fuzz
@given(path=st.sampled_from(list(paths_in(REPORT["run"]))), value=values)
def test_reports(path, value, folder):
    report = REPORT | {"run": changed(REPORT["run"], path, value)}
    (folder / "report.json").write_text(json.dumps(report))
    try:
        write_model_card(folder)
    except InputError as error:
        assert "\n" not in error.message


@fuzz
@given(old=st.text() | st.text("-<>! hf-unlearn:begd\nab", max_size=300), new=st.booleans())
def test_cards(old, new):
    card = (GOLDEN / "README.md").read_text()
    card_sha256(old)
    merged = merge_cards(f"---\n{old}\n---\n" if new else old, card)
    assert card_sha256(merged) == card_sha256(card)
    assert merge_cards(merged, card) == merged
