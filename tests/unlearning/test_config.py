from transformers import TrainingArguments

from hf_unlearn import UnlearningConfig


def test_recomputing_is_found_under_the_name_of_either_library(tmp_path, monkeypatch):
    new = UnlearningConfig(output_dir=str(tmp_path))
    old = UnlearningConfig(output_dir=str(tmp_path))
    assert not new.recomputes_activations
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__:
        new.activation_checkpointing = True
        assert new.recomputes_activations
        # As before transformers 5.23.
        monkeypatch.delattr(TrainingArguments, "activation_checkpointing")
        del old.activation_checkpointing
    assert not old.recomputes_activations
    old.gradient_checkpointing = True
    assert old.recomputes_activations
