"""The step of the head in place of one of the last stage: found behind the features of the head, which do not move."""

from torch import nn

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, split_dataset
from hf_unlearn.methods import jit
from hf_unlearn.unlearning import guard
from hf_unlearn.unlearning.step_size import search_length


def test_last_stage_sees_each_image_once_however_many_lengths_are_tried(
    resnet, dataset, image_processor, tmp_path, monkeypatch
):
    seen, searches = [], []
    last = [module for module in resnet.resnet.encoder.modules() if isinstance(module, nn.BatchNorm2d)][-1]

    def counted(*args):
        seen.clear()
        found = search_length(*args)
        searches.append((sum(seen), found.evaluations))
        return found

    # The step of the stage changes too much.
    changes = [0.5, 0.1]
    monkeypatch.setattr(guard.Guard, "change", lambda self: changes.pop(0))
    monkeypatch.setattr(jit, "search_length", counted)
    last.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    config = JiTConfig(str(tmp_path), forget_kind="class", forget_target=0.5, per_device_train_batch_size=4)
    forget = split_dataset(dataset["train"], ForgetRequest(classes=["cat"]), "label")["forget"]
    trainer = JiTTrainer(resnet, config, processing_class=image_processor, forget_dataset=forget, label_column="label")
    trainer.train()
    assert trainer.args.moving_weights == "head"
    (of_stage, trials), (of_head, head_trials) = searches
    assert of_stage >= len(forget) * trials and trials > 1
    # One more shows how many late passes may share.
    assert head_trials > 1 and len(forget) <= of_head <= len(forget) + 1
