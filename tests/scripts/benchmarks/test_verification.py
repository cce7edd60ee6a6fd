"""Shadow models: who is a member, and that what is there is not trained again."""

import json

import numpy as np
import pytest

from hf_unlearn.commands.arguments import DataArguments
from hf_unlearn.errors import InputError
from scripts.benchmarks.verification import shadow_models as script


@pytest.fixture
def arguments(saved_model, saved_dataset, tmp_path):
    data_args = DataArguments(dataset_name=saved_dataset, label_column_name="label")
    return data_args, script.ShadowArguments(
        model_name_or_path=saved_model, output_dir=str(tmp_path), num_models=6, num_targets=8, num_population=6,
        num_processes=1, num_train_epochs=1, per_device_train_batch_size=8,
    )  # fmt: skip


def test_members_are_halves_and_their_complements(arguments):
    members = np.stack([script.members_of(number, arguments[1]) for number in range(6)])
    assert (members[::2] == ~members[1::2]).all() and (members.sum(axis=1) == 4).all()
    assert len({row.tobytes() for row in members}) > 2


def test_key_changes_with_recipe_and_images_and_with_nothing_else(arguments):
    data_args, args = arguments
    images = script.load_images(data_args, args)
    key = script.content_key(0, images, args)
    args.num_models, args.output_dir, args.num_processes = 20, "elsewhere", 7
    assert script.content_key(0, images, args) == key
    assert script.content_key(1, images, args) != key
    args.learning_rate *= 2
    assert script.content_key(0, images, args) != key
    args.learning_rate /= 2
    images.train.pixel_values[3, 0, 0, 0] += 1
    assert script.content_key(0, images, args) != key


def test_models_that_are_there_are_not_trained_again(arguments, tmp_path, monkeypatch):
    data_args, args = arguments
    images = script.load_images(data_args, args)
    paths = [tmp_path / f"{script.content_key(number, images, args)}.npz" for number in range(6)]
    again = tmp_path / "again.npz"
    script.train_shadow_model(0, images, args, paths[0])
    script.train_shadow_model(0, images, args, again)
    with np.load(paths[0]) as file, np.load(again) as same:
        for name in ("trained", *script.WAYS):
            assert file[name].shape == (14, 3)
            np.testing.assert_array_equal(same[name], file[name])
    rng = np.random.default_rng(0)
    for number, path in list(enumerate(paths))[1:]:
        logits = dict(zip(("trained", *script.WAYS), rng.normal(size=(4, 14, 3)), strict=True))
        np.savez(path, members=script.members_of(number, args), **logits)
    # Without its pool the script can train nothing.
    monkeypatch.setattr(script, "ProcessPoolExecutor", None)
    results = script.main(data_args, args)
    assert json.loads((tmp_path / "attacks.json").read_text())["attacks"] == results


def test_an_odd_number_of_models_is_refused(arguments):
    data_args, args = arguments
    args.num_models = 7
    with pytest.raises(InputError, match="even number"):
        script.load_images(data_args, args)
