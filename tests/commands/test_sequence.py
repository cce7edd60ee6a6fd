"""Several requests on one model: each a step, all of them followed to the end."""

import json
import shutil

import pytest
import yaml

from hf_unlearn import ForgetRequest, UnlearningReport
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record


@pytest.fixture(scope="module")
def sequence(saved_model, saved_dataset, tmp_path_factory):
    """Cats were forgotten, then two single images, one of a cat again."""
    folder = tmp_path_factory.mktemp("sequence")
    ForgetRequest(classes=["cat"], id="R-1").to_file(folder / "r1.yaml")
    ForgetRequest(indices=[0, 1], id="R-2").to_file(folder / "r2.yaml")
    flags = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--disable_tqdm", "True"]
    requests = [str(folder / "r1.yaml"), str(folder / "r2.yaml")]
    assert main(["run", *flags, "--forget_request", *requests, "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


def test_each_request_is_a_finished_run(sequence):
    for folder, name in ((sequence / "step-1", "R-1"), (sequence, "R-2")):
        assert {"model.safetensors", "README.md", "report.json", "unlearning_salt"} <= {
            path.name for path in folder.iterdir()
        }
        assert main(["record", "verify", str(folder)]) == 0
        assert read_record(folder / "unlearning_record.json")["request"]["id"] == name


def test_retained_is_what_no_request_so_far_named(sequence):
    # 30 training images, 10 of them cats; rows 0 and 1 are a cat and a dog.
    assert UnlearningReport.from_json(sequence / "step-1" / "report.json").splits == {
        "forget": 10, "retain": 20, "forget_test": 6, "retain_test": 12,
    }  # fmt: skip
    assert UnlearningReport.from_json(sequence / "report.json").splits == {
        "forget": 2, "retain": 19, "retain_test": 12,
    }  # fmt: skip


def test_lineage_goes_from_the_first_model_to_the_last(sequence, capsys):
    first = read_record(sequence / "step-1" / "unlearning_record.json")
    last = read_record(sequence / "unlearning_record.json")
    assert first["lineage"] == []
    (step,) = last["lineage"]
    assert step["request"] == first["request"] and step["record_sha256"] == first["record_sha256"]
    assert step["model"]["name"] == "animals"
    assert step["weights"]["sha256_after"] == last["weights"]["sha256_before"]
    assert main(["record", "verify", str(sequence)]) == 0
    assert "each of the 2 requests began where the one before it ended" in capsys.readouterr().out


def test_lineage_that_was_cut_is_found(sequence, tmp_path, capsys):
    from hf_unlearn.publication.record import seal

    shutil.copytree(sequence, tmp_path / "out")
    record = read_record(tmp_path / "out" / "unlearning_record.json")
    record["lineage"][0]["weights"]["sha256_after"] = "0" * 64
    seal(tmp_path / "out", record)
    assert main(["record", "verify", str(tmp_path / "out")]) == 1
    assert "CHANGED  each of the 2 requests began" in capsys.readouterr().out


def test_every_request_is_followed_after_each_step(sequence):
    table = UnlearningReport.from_json(sequence / "report.json").run["sequence"]
    assert table["requests"] == ["R-1", "R-2"]
    assert [step["after"] for step in table["steps"]] == [None, "R-1", "R-2"]
    for step in table["steps"]:
        assert set(step["accuracy"]) == {"R-1", "R-2", "retain", "retain_test"}
    report = UnlearningReport.from_json(sequence / "step-1" / "report.json")
    assert table["steps"][0]["accuracy"]["R-1"] == report.results["original"]["metrics"]["forget_accuracy"]
    assert table["steps"][1]["accuracy"]["R-1"] == report.results["unlearned"]["metrics"]["forget_accuracy"]
    first = UnlearningReport.from_json(sequence / "step-1" / "report.json").run["sequence"]
    assert len(first["steps"]) == 2


def test_card_shows_the_way_from_the_first_model(sequence):
    card = (sequence / "README.md").read_text()
    assert "This is `animals` after machine unlearning" in card
    assert "It is the last of 2 requests" in card
    assert "| `R-1` | every image of the class cat | 10 |" in card
    assert "| `R-2` | a list of training images | 2 |" in card
    row = next(line for line in card.splitlines() if line.startswith("| `R-2` |") and line.count("|") == 6)
    values = UnlearningReport.from_json(sequence / "report.json").run["sequence"]["steps"][2]["accuracy"]
    shares = [f"{100 * values[name]:.1f}" for name in ("R-1", "R-2", "retain", "retain_test")]
    assert row == "| `R-2` | " + " | ".join(shares) + " |"


def test_model_that_was_unlearned_before_brings_its_lineage(sequence, saved_dataset, tmp_path):
    flags = ["--model_name_or_path", str(sequence), "--dataset_name", saved_dataset, "--label_column_name", "label"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--disable_tqdm", "True"]
    assert main(["run", *flags, "--forget_indices", "5", "--output_dir", str(tmp_path / "out")]) == 0
    lineage = read_record(tmp_path / "out" / "unlearning_record.json")["lineage"]
    assert [step["request"]["id"] for step in lineage] == ["R-1", "R-2"]


def test_steps_of_an_earlier_run_go_with_it_and_a_model_inside_is_the_original(
    sequence, saved_model, saved_dataset, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(sequence, out)
    (out / "step-by-step").mkdir()
    flags = ["--dataset_name", saved_dataset, "--label_column_name", "label", "--forget_class", "cat", "--overwrite"]
    flags += ["--step_rule", "fixed", "--learning_rate", "1e-3", "--disable_tqdm", "True", "--output_dir", str(out)]
    assert main(["run", "--model_name_or_path", str(out / "step-1"), *flags]) == 2
    assert "holds the original model, which is not overwritten" in capsys.readouterr().err
    assert main(["run", "--model_name_or_path", saved_model, *flags]) == 0
    assert not (out / "step-1").exists() and (out / "step-by-step").exists()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([{"classes": ["cat"], "id": "a"}, {"classes": ["dog"], "id": "a"}], "two requests have the id 'a'"),
        ([{"classes": ["cat"]}, {"classes": ["cow"]}], "unknown class 'cow'"),
        ([{"classes": ["cat", "dog"]}, {"classes": ["owl"]}], "nothing would be retained"),
        ([{"classes": ["cat"]}, {"indices": [30]}], "30 is out of range"),
    ],
)
def test_what_is_wrong_with_a_later_request_is_found_before_the_first(
    requests, message, saved_model, saved_dataset, tmp_path, capsys
):
    paths = [tmp_path / f"{number}.yaml" for number in range(len(requests))]
    for path, request in zip(paths, requests, strict=True):
        path.write_text(yaml.safe_dump(request))
    flags = ["--model_name_or_path", saved_model, "--dataset_name", saved_dataset, "--label_column_name", "label"]
    out = tmp_path / "out"
    assert main(["run", *flags, "--output_dir", str(out), "--forget_request", *map(str, paths)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_report_of_a_sequence_is_json(sequence):
    json.loads((sequence / "report.json").read_text(), parse_constant=pytest.fail)
