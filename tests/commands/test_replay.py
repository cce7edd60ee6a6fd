"""`hf-unlearn record replay`: equal weights are told, and so is everything else that is not as the record says."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.main import main
from hf_unlearn.publication.record import read_record, seal


@pytest.fixture(scope="module")
def finished(saved_model, saved_dataset, tmp_path_factory):
    """A run that forgot two images by the automatic step, with settings of its own."""
    folder = tmp_path_factory.mktemp("replay")
    ForgetRequest(
        ids=["id-3", "id-12"], id_column="record", id="R-1", model=saved_model, dataset=saved_dataset
    ).to_file(folder / "request.yaml")
    flags = ["--label_column_name", "label", "--step_rule", "fixed", "--learning_rate", "1e-3", "--seed", "7"]
    flags += ["--per_device_train_batch_size", "1", "--disable_tqdm", "True", "--output_dir", str(folder / "out")]
    assert main(["run", "--forget_request", str(folder / "request.yaml"), *flags]) == 0
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def replay(out, capsys, *flags):
    code = main(["record", "replay", str(out), *map(str, flags)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def change(out, edit):
    """Changes the record and seals it anew."""
    record = read_record(out / "unlearning_record.json")
    edit(record)
    seal(out, record)


def test_the_same_run_gives_the_same_weights_and_leaves_nothing(finished, capsys):
    before = sorted(path.name for path in finished.iterdir())
    threads = torch.get_num_threads()
    code, out, _ = replay(finished, capsys)
    assert code == 0, out
    assert "ok       the run done again gives the weights of the record, bit for bit" in out
    assert "ok       the 2 images are those of the record" in out and "The record is confirmed" in out
    assert sorted(path.name for path in finished.iterdir()) == before and torch.get_num_threads() == threads


def test_a_record_from_before_replay_says_what_it_lacks(out, capsys):
    change(out, lambda record: record.pop("replay"))
    code, said, _ = replay(out, capsys, "--label_column_name", "label")
    assert code == 0, said
    assert "note     the record is of an older version. It does not hold the split, the columns" in said


def test_other_weights_on_the_disk_are_found_and_their_distance_is_told(out, capsys):
    weights = load_file(out / "model.safetensors")
    name = next(name for name in weights if weights[name].dim() > 1)
    weights[name] += 0.01
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    change(out, lambda record: None)
    code, said, _ = replay(out, capsys)
    assert code == 1
    assert "CHANGED  the saved model has the weights of the record" in said
    # What the run gives is what the record says; what lies there is not.
    assert "ok       the run done again gives the weights of the record" in said


def test_a_changed_setting_is_found_and_the_distance_is_told(out, capsys):
    change(
        out,
        lambda record: [
            part.update(seed=8) for part in (record["method"]["hyperparameters"], record["replay"]["settings"])
        ],
    )
    code, said, _ = replay(out, capsys)
    assert code == 1
    line = next(line for line in said.splitlines() if "other weights" in line)
    assert (
        "% of the way that the weights of the saved model went" in line and "Versions and device are the same" in line
    )


def test_other_versions_are_named(out, capsys):
    change(out, lambda record: record["environment"].update(torch="1.0"))
    code, said, _ = replay(out, capsys)
    assert code == 0 and "note     other than in the record: torch 1.0 (now " in said


def test_another_original_and_another_request_are_found(
    out, checkpoints, tmp_path, saved_model, saved_dataset, capsys
):
    ForgetRequest(ids=["id-3", "id-12"], id_column="record", id="R-1", dataset=saved_dataset).to_file(
        tmp_path / "r.yaml"
    )
    code, said, _ = replay(
        out, capsys, "--forget_request", tmp_path / "r.yaml", "--model_name_or_path", checkpoints[1]
    )
    assert code == 1
    assert "CHANGED  the request is that of the record" in said
    assert "CHANGED  the original model has the weights of the record" in said and "was not done again" in said
    ForgetRequest(ids=["id-3", "id-13"], id_column="record", id="R-1", dataset=saved_dataset).to_file(
        tmp_path / "r.yaml"
    )
    code, said, _ = replay(out, capsys, "--forget_request", tmp_path / "r.yaml", "--model_name_or_path", saved_model)
    assert code == 1 and "CHANGED  the 2 images are those of the record" in said


def test_without_the_salt_it_is_said_what_is_not_known(out, capsys):
    (out / "unlearning_salt").unlink()
    code, said, _ = replay(out, capsys)
    assert code == 0 and "note     without the salt it is not known" in said
    assert "note     2 images are forgotten, 2 in the record" in said


def test_what_is_missing_is_one_line(out, tmp_path, capsys):
    (out / "forget_request.yaml").unlink()
    code, _, error = replay(out, capsys)
    assert code == 2 and "--forget_request: there is none in" in error
    assert replay(tmp_path, capsys)[0] == 2


def test_a_later_request_of_a_method_with_retained_images_is_refused(out, capsys):
    def edit(record):
        record["replay"]["method"] = "fine_tune"
        record["lineage"] = [
            {"images": 1} | {key: record[key] for key in ("model", "request", "weights", "ended", "record_sha256")}
        ]

    change(out, edit)
    code, _, error = replay(out, capsys)
    assert code == 2 and "cannot be done again: the method needs retained images" in error


def test_a_method_that_is_not_known_is_one_line(out, capsys):
    change(out, lambda record: record["replay"].update(method="magic"))
    code, _, error = replay(out, capsys)
    assert code == 2 and "the record names 'JiT'" in error


def test_a_folder_without_a_request_is_done_again(saved_model, image_folder, tmp_path, capsys):
    folder = tmp_path / "out"
    flags = ["--forget_dir", str(image_folder / "cat"), "--model_name_or_path", saved_model, "--disable_tqdm", "True"]
    assert main(["run", *flags, "--step_rule", "fixed", "--learning_rate", "1e-3", "--output_dir", str(folder)]) == 0
    capsys.readouterr()
    code, said, _ = replay(folder, capsys, "--forget_dir", image_folder / "cat", "--model_name_or_path", saved_model)
    assert code == 0, said
    assert "the record tells of no request file" in said and "the 3 images are those of the record" in said


def test_settings_that_this_version_does_not_have_are_named(out, capsys):
    def edit(record):
        for part in (record["method"]["hyperparameters"], record["replay"]["settings"]):
            part["warp"] = 9

    change(out, edit)
    code, said, _ = replay(out, capsys)
    assert code == 1 and "note     settings that this version does not have: warp" in said
    assert "settings that the record states are not those of the run: warp" in said
    assert json.loads((out / "unlearning_record.json").read_text())["replay"]["settings"]["warp"] == 9
