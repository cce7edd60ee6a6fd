"""The command as a user calls it."""

import pytest

from hf_unlearn.commands.main import main


@pytest.fixture
def command(saved_model, saved_dataset, tmp_path):
    """
    `command(*flags)` runs `hf-unlearn run` on the tiny model and data; a later flag overrides an earlier one. Other
    methods than JiT do not know its flags.
    """

    def call(*flags, model=saved_model, dataset=saved_dataset, jit_flags=True):
        base = ["run", "--model_name_or_path", model, "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "True"]
        base += ["--label_column_name", "label"] + (
            ["--step_rule", "fixed", "--learning_rate", "1e-3"] if jit_flags else []
        )
        if dataset is not None:
            base += ["--dataset_name", dataset]
        return main([*base, *flags])

    return call


@pytest.fixture
def refused(command, capsys, tmp_path):
    """`refused(message, *flags)` expects exit code 2, one line on stderr with the message, and nothing written."""

    def call(message, *flags, **options):
        assert command(*flags, **options) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("hf-unlearn: error: ") and message in error, error
        assert not (tmp_path / "out").exists()

    return call
