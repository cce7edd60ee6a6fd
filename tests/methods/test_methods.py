"""What every method shares: it is found by its name, says what it needs, and runs from the command to the card."""

import json
import math

import pytest
from conftest import make_model
from method_cases import FORGET_SET, make_trainer
from PIL import Image as PILImage
from transformers import pipeline

from hf_unlearn.commands.main import main
from hf_unlearn.errors import InputError
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.method_names import METHODS, forget_only_methods


# The guard's limits were set on good runs of trained networks; the tiny ones here are not trained.
# The generator of GKT does not get past the gate in one update on an untrained network.
EXTRA = {"gkt": ["--gate_threshold", "0.999"]}
FLAGS = ["--label_column_name", "label", "--allow_collapse", "True", "--disable_tqdm", "True", "--max_steps", "1"]


@pytest.fixture
def command(saved_model, saved_dataset, tmp_path):
    """`command(method, *flags)` runs one update of a method on the tiny model and data."""

    def call(method, *flags):
        base = ["run", "--method", method, "--model_name_or_path", saved_model, "--dataset_name", saved_dataset]
        return main([*base, "--forget_class", "cat", "--output_dir", str(tmp_path / "out"), *FLAGS, *flags])

    return call


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_the_command_to_the_card(method, command, tmp_path):
    assert command(method, *EXTRA.get(method, [])) == 0
    _, trainer_class = load_method(method)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert report["run"]["method"] == trainer_class._name
    assert f"It was unlearned with {trainer_class._name}" in " ".join(card.replace("\\", "").split())
    # The limit of this method's own guard, not of another's.
    limit = trainer_class.change_limit
    said = "No limit is set for this method." if limit == math.inf else f"a run past {limit} is not saved"
    assert said in " ".join(card.split())
    assert ("retained" in (trainer_class.data_used or "")) == trainer_class.needs_retain
    assert report["run"]["weights_sha256_before"] != report["run"]["weights_sha256_after"]
    assert len(pipeline("image-classification", str(tmp_path / "out"))(PILImage.new("RGB", (16, 16)))) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_describes_itself(method):
    config_class, trainer_class = load_method(method)
    assert trainer_class._name and trainer_class.__doc__ and config_class.__doc__
    assert trainer_class._paper is None or trainer_class._paper.startswith("https://arxiv.org/abs/")


@pytest.mark.parametrize("method", [name for name in METHODS if load_method(name)[1].needs_retain])
def test_missing_retained_images_are_named_with_the_methods_that_need_none(method, tmp_path):
    config_class, trainer_class = load_method(method)
    with pytest.raises(InputError, match="needs images to retain. Methods that need none: jit, delete"):
        trainer_class(make_model("resnet"), config_class(str(tmp_path), use_cpu=True), forget_dataset=FORGET_SET)


def test_folder_alone_is_refused_by_a_method_that_needs_more(saved_model, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    PILImage.new("RGB", (16, 16)).save(tmp_path / "photos" / "a.png")
    flags = ["--model_name_or_path", saved_model, "--forget_dir", str(tmp_path / "photos")]
    assert main(["run", "--method", "fine_tune", *flags, "--output_dir", str(tmp_path / "out"), *FLAGS[2:]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--method: fine_tune needs the retained training images" in error and "jit" in error


def test_methods_that_take_no_retained_images_do_not_look_at_them(tmp_path):
    """Images that cannot be read would be noticed. JiT and rebuild take some where they are given and need none."""
    methods = [method for method in forget_only_methods() if not load_method(method)[1].takes_retain]
    assert set(forget_only_methods()) - set(methods) == {"jit", "rebuild"}
    for method in methods:
        trainer = make_trainer(method, tmp_path, retain=["no image"])
        assert "retain" not in trainer.training_set.parts


def test_unknown_method_is_one_line_with_the_valid_ones(command, capsys):
    assert command("amnesia") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-unlearn: error: --method: got 'amnesia'. Valid: jit, delete") and "unsir" in error


def test_help_shows_the_flags_of_the_method(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--method", "delete", "--help"])
    shown = capsys.readouterr().out
    assert "unlearning (DELETE)" in shown and "--step_rule" not in shown


def test_method_and_its_settings_can_stand_in_the_configuration_file(command, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("method: gradient_ascent\nlearning_rate: 2e-5\n")
    assert command("gradient_ascent", "--config", str(file)) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["hyperparameters"]["learning_rate"] == 2e-5
    assert "sigma" not in report["run"]["hyperparameters"]


def test_error_of_a_destroyed_model_names_no_limit_where_there_is_none(command, capsys):
    """NaN in the weights is past every limit, also of a method without one for the distance."""
    assert command("gradient_ascent", "--allow_collapse", "False", "--learning_rate", "1e20") == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "(no limit)" in error and "inf %" not in error


def test_names_of_methods_are_those_of_their_classes():
    """The table of names says by hand which methods need retained images, so that nobody loads them all to know it."""
    for name in METHODS:
        config, trainer = load_method(name)
        assert config.__name__ == f"{METHODS[name]}Config" and trainer.__name__ == f"{METHODS[name]}Trainer"
        assert trainer.needs_retain == (name not in forget_only_methods()), name
