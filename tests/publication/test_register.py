"""`hf-unlearn request list`: which requests are open, overdue, carried out, and what was made from what."""

import json
from datetime import date

import pytest
from conftest import ROOT

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.errors import InputError
from hf_unlearn.publication.record import read_lineage, seal
from hf_unlearn.publication.register import read_register


TODAY = date(2026, 11, 27)
RECORD = json.loads((ROOT / "model_cards" / "digits-unlearned" / "unlearning_record.json").read_text())


def run_of(folder, request, ended="2026-11-20", before="a", after="b", lineage=(), salt="11" * 32):
    """A folder with a record of a run that carried a request out, its salt, and its copy of the request."""
    folder.mkdir(parents=True)
    record = json.loads(json.dumps(RECORD))
    record["request"] |= {
        "id": request.id, "date": request.date, "hmac_sha256": request.hmac(bytes.fromhex(salt or "11" * 32)),
    }  # fmt: skip
    record["weights"] = {"sha256_before": before * 64, "sha256_after": after * 64}
    record |= {"ended": f"{ended}T10:00:00+00:00", "lineage": list(lineage)}
    seal(folder, record)
    if salt:
        (folder / "unlearning_salt").write_text(salt)
    request.to_file(folder / "forget_request.yaml")
    return record


def states(folder):
    return {entry.name: entry.describe(TODAY) for entry in read_register(folder, TODAY).entries}


def test_open_requests_come_by_their_deadlines(tmp_path):
    for name, deadline in (("later", "2026-12-24"), ("none", None), ("late", "2026-11-20"), ("soon", "2026-11-27")):
        ForgetRequest(indices=[1], id=name, date="2026-11-01", deadline=deadline).to_file(tmp_path / f"{name}.yaml")
    assert list(states(tmp_path).items()) == [
        ("late", "open, overdue by 7 days"),
        ("soon", "open, 0 days left"),
        ("later", "open, 27 days left"),
        ("none", "open"),
    ]


def test_a_record_answers_the_request_whose_hmac_it_has(tmp_path):
    one = ForgetRequest(indices=[1], id="R-1", date="2026-11-01", deadline="2026-11-19")
    other = ForgetRequest(indices=[2], id="R-1", date="2026-11-01")
    one.to_file(tmp_path / "one.yaml")
    other.to_file(tmp_path / "other.json")
    run_of(tmp_path / "runs" / "out", one)
    entries = read_register(tmp_path, TODAY).entries
    # The copy that the run keeps is the same request.
    assert [(entry.path.name, entry.describe(TODAY)) for entry in entries] == [
        ("other.json", "open"),
        ("one.yaml", "carried out on 2026-11-20, 1 day late"),
    ]


def test_without_the_salt_a_record_answers_the_request_of_its_id_and_date(tmp_path):
    request = ForgetRequest(indices=[1], id="R-1", date="2026-11-01")
    run_of(tmp_path / "out", request, salt=None)
    ForgetRequest(indices=[1], id="R-1", date="2026-10-01").to_file(tmp_path / "earlier.yaml")
    assert states(tmp_path)["R-1"] == "carried out on 2026-11-20"
    assert [entry.describe(TODAY) for entry in read_register(tmp_path, TODAY).entries] == [
        "open", "carried out on 2026-11-20",
    ]  # fmt: skip


def test_a_record_that_was_changed_answers_nothing(tmp_path):
    request = ForgetRequest(indices=[1], id="R-1", date="2026-11-01", deadline="2026-11-02")
    record = run_of(tmp_path / "out", request)
    record["forgotten"]["images"] = 5
    (tmp_path / "out" / "unlearning_record.json").write_text(json.dumps(record))
    assert states(tmp_path) == {"R-1": "open, its record was changed, overdue by 25 days"}


def test_later_models_are_told_by_their_weights(tmp_path, capsys):
    first, second, third = (ForgetRequest(indices=[number], id=f"R-{number}") for number in (1, 2, 3))
    steps = read_lineage(run_of(tmp_path / "one", first, before="a", after="b"))
    steps = read_lineage(run_of(tmp_path / "two", second, "2026-11-21", before="b", after="c", lineage=steps))
    run_of(tmp_path / "three", third, "2026-11-22", before="c", after="d", lineage=steps)
    later = {entry.name: [run.folder.name for run in entry.later] for entry in read_register(tmp_path, TODAY).entries}
    assert later == {"R-1": ["three", "two"], "R-2": ["three"], "R-3": []}
    assert main(["request", "list", str(tmp_path)]) == 0
    assert "  made from it: three, for R-3" in capsys.readouterr().out


def test_what_looks_like_a_request_and_is_none_is_told(tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("id: R-9\nimage_sha256: [abc]\n")
    (tmp_path / "a-request.yaml").write_text("classes: [cat\n")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "cat"}}')
    (tmp_path / "run.yaml").write_text("method: jit\n")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "unlearning_record.json").write_text("{}")
    assert main(["request", "list", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    told = [line.split(":")[1].strip() for line in out.splitlines() if line.startswith("cannot be read")]
    assert sorted(told) == ["a-request.yaml", "typo.yaml", "unlearning_record.json"]
    assert out.splitlines()[-1] == "0 requests: 0 open, 0 of them overdue, 0 carried out."


def test_a_record_whose_request_is_elsewhere_is_told(tmp_path, capsys):
    run_of(tmp_path / "out", ForgetRequest(indices=[1], id="R-1"))
    (tmp_path / "out" / "forget_request.yaml").unlink()
    assert main(["request", "list", str(tmp_path)]) == 0
    assert "record without its request here: out (R-1)" in capsys.readouterr().out


def test_a_request_of_a_sequence_that_had_no_id_is_carried_out_by_the_name_that_the_run_gave_it(tmp_path):
    ForgetRequest(indices=[1]).to_file(tmp_path / "mine.yaml")
    run_of(tmp_path / "out", ForgetRequest(indices=[1], id="request-1"))
    assert states(tmp_path) == {"mine.yaml": "carried out on 2026-11-20"}


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        read_register(tmp_path / "no", TODAY)
