"""The deletion record: what it holds, what it keeps to itself, and that a change of one byte is found."""

import hashlib
import hmac
import json
import shutil
import stat
from pathlib import Path

import jsonschema
import pytest
from conftest import make_images
from datasets import Dataset

import hf_unlearn
from hf_unlearn import UnlearningReport
from hf_unlearn.commands.main import main
from hf_unlearn.publication.files import PUBLISHED
from hf_unlearn.publication.record import hub_source, read_record


@pytest.fixture(scope="module")
def finished(saved_model, saved_dataset, tmp_path_factory):
    """A run that forgot `id-3` and `id-12`."""
    out = tmp_path_factory.mktemp("run") / "out"
    request = out.parent / "request.yaml"
    request.write_text(
        "id: R-1\ndate: 2026-11-23\nrequester: case 12\nreason: licence ended\nids: [id-3, id-12]\nid_column: record\n"
    )
    flags = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--disable_tqdm", "True"]
    assert main(["run", *flags, "--forget_request", str(request), "--output_dir", str(out)]) == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def keys(tmp_path):
    """Paths of two private keys, each with its public key beside it."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    paths = []
    for name in ("ours", "theirs"):
        key = ed25519.Ed25519PrivateKey.generate()
        pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        paths.append(tmp_path / f"{name}.pem")
        paths[-1].write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(public)
    return paths


def verify(out, *flags):
    return main(["record", "verify", str(out), *map(str, flags)])


def test_record_fits_its_schema_and_says_what_was_run(finished):
    record = json.loads((finished / "unlearning_record.json").read_text())
    schema = json.loads(
        (Path(hf_unlearn.__file__).parent / "request" / "schemas" / "unlearning_record.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(record)
    report = UnlearningReport.from_json(finished / "report.json")
    assert record["request"]["id"] == "R-1" and record["request"]["date"] == "2026-11-23"
    assert record["forgotten"]["images"] == 2
    assert record["dataset"]["training_images"] == 30 and record["dataset"]["fingerprint"]
    assert (
        record["weights"]["sha256_before"] != record["weights"]["sha256_after"] == report.run["weights_sha256_after"]
    )
    assert record["method"]["hyperparameters"]["sigma"] == 0.5
    assert record["metrics"]["results"]["unlearned"] == report.results["unlearned"]["metrics"]
    assert record["metrics"]["splits"] == report.splits
    assert record["started"] <= record["ended"] and record["seconds"] > 0
    assert record["environment"]["torch"] and record["environment"]["cpus"]
    assert record["lineage"] == []
    weights = (finished / "model.safetensors").read_bytes()
    assert record["files"]["model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_salt_is_kept_here_and_nothing_published_tells_who_or_what(finished):
    salt = finished / "unlearning_salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    published = {path for pattern in PUBLISHED for path in finished.glob(pattern)}
    assert salt not in published and finished / "unlearning_record.json" in published
    for path in published:
        for secret in (
            b"id-3",
            b"id-12",
            b"case 12",
            b"licence ended",
            salt.read_bytes().strip(),
            str(finished).encode(),
        ):
            assert secret not in path.read_bytes(), (path, secret)


def test_names_of_the_forgotten_images_are_there_as_hmac(finished):
    salt = bytes.fromhex((finished / "unlearning_salt").read_text())
    hashes = read_record(finished / "unlearning_record.json")["forgotten"]["hmac_sha256"]
    assert hmac.new(salt, b"id:id-3", hashlib.sha256).hexdigest() in hashes
    assert hmac.new(salt, b"id:id-4", hashlib.sha256).hexdigest() not in hashes
    assert hashlib.sha256(b"id:id-3").hexdigest() not in hashes
    # Two images, each by its id and by its pixels.
    assert len(hashes) == 4 and hashes == sorted(hashes)


def test_salt_tells_whether_an_image_was_forgotten(finished, dataset, tmp_path, capsys):
    salt = finished / "unlearning_salt"
    for row in (3, 4):
        dataset["train"][row]["image"].save(tmp_path / f"{row}.png")
    flags = ["--salt_file", salt, "--id", "id-3", "--id", "id-4"]
    flags += ["--image", tmp_path / "3.png", "--image", tmp_path / "4.png"]
    assert verify(finished, *flags) == 0
    out = capsys.readouterr().out
    assert "id-3: was in the forget set" in out and f"{tmp_path / '3.png'}: was in the forget set" in out
    assert "id-4: is not known" in out and f"{tmp_path / '4.png'}: is not known" in out
    other = tmp_path / "salt"
    other.write_text("00" * 32)
    assert verify(finished, "--salt_file", other, "--id", "id-3") == 0
    assert "id-3: is not known" in capsys.readouterr().out
    assert verify(finished, "--id", "id-3") == 2
    assert "--salt_file: is needed" in capsys.readouterr().err
    other.write_text("no salt")
    assert verify(finished, "--salt_file", other, "--id", "id-3") == 2


def test_untouched_run_holds_and_says_that_it_is_no_proof(finished, capsys):
    assert verify(finished) == 0
    out = capsys.readouterr().out
    assert "CHANGED" not in out and "does not prove" in out and "not signed" in out


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "report.json", "figures/accuracy.png"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_byte_of_a_file_is_found(out, name, place, capsys):
    content = bytearray((out / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (out / name).write_bytes(content)
    assert verify(out) == 1
    assert f"CHANGED  {name}" in capsys.readouterr().out


def test_any_byte_of_the_record_is_found(out, capsys):
    path = out / "unlearning_record.json"
    original = path.read_bytes()
    # All bytes take a minute; every 97th meets keys, values, hashes and the spaces between them.
    for place in range(0, len(original), 97):
        content = bytearray(original)
        content[place] ^= 1
        path.write_bytes(content)
        assert verify(out) in (1, 2), place


def test_number_of_the_card_is_found_and_the_users_own_words_are_not(out, capsys):
    card = out / "README.md"
    text = card.read_text()
    card.write_text(text + "\nOur own words: 99.9 %.\n")
    assert verify(out) == 0
    row = next(line for line in text.splitlines() if line.startswith("| retain test |"))
    assert text.count(row) == 1
    card.write_text(text.replace(row, row.replace(" |", "1 |", 1)))
    assert verify(out) == 1
    assert "CHANGED  the card" in capsys.readouterr().out
    value = next(line for line in text.splitlines() if line.strip().startswith("value:"))
    card.write_text(text.replace(value, "      value: 0.123", 1))
    assert verify(out) == 1
    card.write_text(text)
    assert verify(out) == 0


def test_weights_or_code_that_the_record_does_not_know_are_found(out, capsys):
    (out / "pytorch_model.bin").write_bytes(b"\x80")
    assert verify(out) == 1
    assert "does not know: pytorch_model.bin" in capsys.readouterr().out


def test_missing_parts_are_found(out, tmp_path, capsys):
    (out / "config.json").unlink()
    assert verify(out) == 1 and "CHANGED  config.json is missing" in capsys.readouterr().out
    (out / "README.md").unlink()
    assert verify(out) == 1 and "README.md is missing" in capsys.readouterr().out
    (out / "unlearning_record.json").unlink()
    assert verify(out) == 2 and "there is no file" in capsys.readouterr().err


def test_record_rewritten_to_fit_is_found_by_the_signature_alone(out, keys, capsys):
    from hf_unlearn.publication.record import seal

    ours, theirs = keys
    assert main(["record", "sign", str(out), "--key_file", str(ours)]) == 0
    assert verify(out, "--public_key", ours.with_suffix(".pub")) == 0
    assert "signed by the key given" in capsys.readouterr().out
    assert verify(out, "--public_key", theirs.with_suffix(".pub")) == 1
    signature = (out / "unlearning_record.sig").read_bytes()
    record = read_record(out / "unlearning_record.json")
    record["forgotten"]["images"] = 7
    seal(out, record)
    assert verify(out) == 0
    (out / "unlearning_record.sig").write_bytes(signature)
    assert verify(out) == 1
    assert "the signature is not one of this record" in capsys.readouterr().out
    (out / "unlearning_record.sig").unlink()
    assert verify(out, "--public_key", ours.with_suffix(".pub")) == 1


def test_wrong_key_is_one_line(out, tmp_path, capsys):
    pytest.importorskip("cryptography")
    (tmp_path / "key.pem").write_text("no key")
    assert main(["record", "sign", str(out), "--key_file", str(tmp_path / "key.pem")]) == 2
    assert "--sign_key: " in capsys.readouterr().err
    assert main(["record", "mend", str(out)]) == 2


def test_run_signs_and_refuses_a_bad_key_before_the_work(saved_model, saved_dataset, keys, tmp_path, capsys):
    flags = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--forget_class", "cat", "--disable_tqdm", "True"]
    flags += ["--output_dir", str(tmp_path / "signed")]
    assert main(["run", *flags, "--sign_key", str(tmp_path / "no.pem")]) == 2
    assert not (tmp_path / "signed").exists()
    assert main(["run", *flags, "--sign_key", str(keys[0])]) == 0
    assert verify(tmp_path / "signed", "--public_key", keys[0].with_suffix(".pub")) == 0


def test_forget_folder_is_recorded_by_pixels_and_paths(saved_model, tmp_path, capsys):
    folder = tmp_path / "to_forget"
    folder.mkdir()
    for number, image in enumerate(make_images([0, 0, 0], seed=5)):
        image.save(folder / f"{number}.png")
    flags = ["--model_name_or_path", saved_model, "--step_rule", "fixed", "--learning_rate", "1e-3"]
    flags += ["--forget_dir", str(folder), "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "True"]
    assert main(["run", *flags]) == 0
    record = read_record(tmp_path / "out" / "unlearning_record.json")
    assert record["request"]["hmac_sha256"] is None and len(record["forgotten"]["hmac_sha256"]) == 6
    salt = ["--salt_file", tmp_path / "out" / "unlearning_salt"]
    assert verify(tmp_path / "out", *salt, "--id", "1.png", "--image", folder / "2.png") == 0
    assert capsys.readouterr().out.count("was in the forget set") == 2


def test_id_and_commit_of_a_dataset_are_read_from_its_files():
    dataset = Dataset.from_dict({"x": [1]})
    assert hub_source(dataset) == (None, None)
    dataset.info.download_checksums = {f"hf://datasets/org/data@{'ab' * 20}/train.parquet": {"num_bytes": 1}}
    assert hub_source(dataset) == ("org/data", "ab" * 20)
