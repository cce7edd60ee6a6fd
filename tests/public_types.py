"""The public names as a type checker sees them. Nothing runs this file: `make quality` checks it with the package."""

import torch
from datasets import Dataset, DatasetDict
from peft import PeftModel
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.trainer_utils import TrainOutput
from typing_extensions import assert_type

import hf_unlearn
from hf_unlearn import (
    ForgetRequest,
    JiTConfig,
    JiTTrainer,
    UnlearningConfig,
    UnlearningReport,
    UnlearningTrainer,
    evaluate_unlearning,
    jit_loss,
    split_dataset,
)


def ten_lines(model: PreTrainedModel, image_processor: BaseImageProcessor, dataset: Dataset, names: list[str]) -> None:
    request = ForgetRequest(classes=names)
    splits = split_dataset(dataset, request, label_column="label")
    assert_type(splits, DatasetDict)
    trainer = JiTTrainer(
        model=model,
        args=JiTConfig(output_dir="out"),
        processing_class=image_processor,
        forget_dataset=splits["forget"],
        eval_dataset={"retain": splits["retain"]},
        request=request,
    )
    assert_type(trainer.args, JiTConfig)
    assert_type(trainer.args.sigma, float)
    assert_type(trainer.args.output_dir, str)
    assert_type(trainer.model, PreTrainedModel | PeftModel)
    assert_type(trainer.train(), TrainOutput)
    report = evaluate_unlearning(model, splits, image_processor, original_model=model)
    assert_type(report, UnlearningReport)
    trainer.save_report(report, request)
    assert_type(trainer.push_to_hub(), str | None)
    assert_type(jit_loss(torch.nn.Flatten(), torch.ones(1, 3, 8, 8), sigma=0.5, num_perturbations=1), torch.Tensor)


class OwnTrainer(UnlearningTrainer):
    def unlearning_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert_type(self.args, UnlearningConfig)
        assert_type(self.answers, torch.Tensor)
        assert_type(self.num_labels, int)
        return model(pixel_values=inputs["pixel_values"]).logits.sum(dim=-1), {}


def adapters(model: PeftModel, images: torch.utils.data.TensorDataset) -> None:
    OwnTrainer(model, UnlearningConfig(), forget_dataset=images)


# Late loading does not make every name one of the package's.
hf_unlearn.no_such_name  # noqa: B018  # ty: ignore[missing-attribute]  the error is what is asked for
