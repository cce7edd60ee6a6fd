"""Which models are made from a model: by records, cards, configurations and copies on the disk."""

import json
import shutil

import pytest
from conftest import ROOT
from safetensors.torch import load_file, save_file

from hf_unlearn.commands.main import main
from hf_unlearn.errors import InputError
from hf_unlearn.publication.descendants import find_descendants
from hf_unlearn.publication.record import seal
from hf_unlearn.publication.report import weights_sha256


RECORD = json.loads((ROOT / "model_cards" / "digits-unlearned" / "unlearning_record.json").read_text())


@pytest.fixture
def models(saved_model, tmp_path):
    """`models(name, shift, …)` makes a folder whose weights are those of the original, moved by `shift`."""

    def make(name, shift=0.0, card=None, config=None, unlearned_from=None, request=None):
        folder = tmp_path / "models" / name
        shutil.copytree(saved_model, folder)
        weights = {
            key: value + shift if value.is_floating_point() else value
            for key, value in load_file(folder / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if card is not None:
            (folder / "README.md").write_text(card)
        if config is not None:
            values = json.loads((folder / "config.json").read_text()) | config
            (folder / "config.json").write_text(json.dumps(values))
        if unlearned_from is not None:
            record = json.loads(json.dumps(RECORD))
            before = weights_sha256(load_file(tmp_path / "models" / unlearned_from / "model.safetensors"))
            record["weights"] = {"sha256_before": before, "sha256_after": weights_sha256(weights)}
            record["request"]["id"] = request
            seal(folder, record)
        return str(folder)

    return make


def found(model, folder):
    root, *others = find_descendants(model, [folder])
    return root.requests, {
        other.name.split("/")[-1]: (other.parent.split("/")[-1], other.requests, other.reason) for other in others
    }


def test_records_cards_configurations_and_copies_are_followed(models, tmp_path):
    original = models("original")
    models("unlearned", shift=0.1, unlearned_from="original", request="R-1")
    models("unlearned-again", shift=0.2, unlearned_from="unlearned", request="R-2")
    models("fine-tuned", shift=0.3, card=f"---\nbase_model:\n- {tmp_path}/models/unlearned\n---\n")
    models("older", shift=0.4, config={"_name_or_path": original})
    models("copy")
    models("stranger", shift=0.5, card="---\nbase_model: org/other\n---\n")
    requests, others = found(original, tmp_path)
    assert requests == []
    assert others == {
        "copy": ("original", [], "a copy: the same weights"),
        "older": ("original", [], "its card or configuration names it"),
        "unlearned": ("original", ["R-1"], "its record begins with these weights"),
        "unlearned-again": ("unlearned", ["R-2"], "its record begins with these weights"),
        # It has no record of its own, and what it was made from had forgotten already.
        "fine-tuned": ("unlearned", ["R-1"], "its card or configuration names it"),
    }


def test_a_hub_id_is_looked_for_in_records_and_cards(models, tmp_path, monkeypatch):
    from hf_unlearn.publication import descendants

    monkeypatch.setattr(descendants, "lineage_of", lambda *args: [])
    monkeypatch.setattr(descendants, "children_on_hub", lambda name, token: iter([]))
    models("original")
    models("unlearned", shift=0.1, unlearned_from="original", request="R-1")
    models("named", shift=0.2, card="---\nbase_model: digits-original\n---\n")
    assert found("digits-original", tmp_path)[1] == {
        "unlearned": ("digits-original", ["R-1"], "its record names it"),
        "named": ("digits-original", [], "its card or configuration names it"),
    }


def test_command_says_which_know_all_and_what_is_not_found(models, tmp_path, capsys):
    original = models("original")
    models("copy")
    unlearned = models("unlearned", shift=0.1, unlearned_from="original", request="R-1")
    assert main(["descendants", original, "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{original}: no request was carried out on it\n" in out
    assert f"  {unlearned}: unlearned for R-1; made from {original}" in out
    assert "2 models are made from it; 1 of them know all that it knows." in out and "Not found can be" in out
    assert main(["descendants", unlearned, "--folder", str(tmp_path)]) == 0
    assert "The model before it still knows" in capsys.readouterr().out


def test_what_cannot_be_used_is_one_line(models, tmp_path, capsys):
    original = models("original")
    with pytest.raises(InputError, match="there is no folder"):
        find_descendants(original, [tmp_path / "no"])
    (tmp_path / "empty").mkdir()
    assert main(["descendants", str(tmp_path / "empty")]) == 2
    assert "holds no model" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_passed_over(models, tmp_path):
    original = models("original")
    broken = models("broken", shift=0.1, card="---\n: [\n---\n")
    (tmp_path / "models" / "broken" / "config.json").write_text("{")
    (tmp_path / "models" / "broken" / "unlearning_record.json").write_text("[]")
    (tmp_path / "models" / "broken" / "model.safetensors").write_bytes(b"no weights")
    assert found(original, tmp_path)[1] == {}
    assert find_descendants(broken, [tmp_path])[1:] == []
