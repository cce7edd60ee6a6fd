"""
Trains image classifiers to compare with: an original model, and models that are retrained without the forget set.
"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from ..data.image_dataset import ImageDataset
from ..data.labels import find_label_column, match_labels
from ..errors import InputError
from ..unlearning.compatibility import id2label_of
from ..unlearning.inputs import compute_accuracy


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


def train_classifier(
    model: PreTrainedModel,
    image_processor: "BaseImageProcessor",
    train: Dataset,
    args: TrainingArguments,
    eval_dataset: Dataset | None = None,
    label_column: str | None = None,
) -> dict[str, float]:
    """
    Trains an image classifier, and saves it with its image processor in the format of the hub.

    Args:
        model (`PreTrainedModel`):
            The model to train, in place.
        image_processor (`BaseImageProcessor`):
            The model's image processor.
        train (`datasets.Dataset`):
            Raw images with labels.
        args (`TrainingArguments`):
            The training recipe. The model is saved to its `output_dir`.
        eval_dataset (`datasets.Dataset`, *optional*):
            Unseen images with labels.
        label_column (`str`, *optional*):
            The column of the labels; found from the features if not given.

    Returns:
        `dict[str, float]`: `eval_accuracy`, `eval_loss` and the other values of [`~transformers.Trainer.evaluate`];
        empty without unseen images.
    """
    column = find_label_column(train, label_column, id2label_of(model))
    if column is None:
        raise InputError("label_column_name", "a classifier learns from labels and the training images have none.")

    def prepare(dataset: Dataset) -> ImageDataset:
        label_ids = match_labels(dataset, column, id2label_of(model))
        images = ImageDataset(dataset, image_processor, label_column=column, label_ids=label_ids)
        # From the second epoch on, the images are not decoded again.
        images.keep()
        return images

    # The `forward` of some models accepts loss arguments but ignores them, which makes the loss wrong under gradient
    # accumulation.
    model.accepts_loss_kwargs = False  # ty: ignore[invalid-assignment]  the Trainer reads it, no class declares it
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=image_processor,
        train_dataset=prepare(train),
        eval_dataset=prepare(eval_dataset) if eval_dataset is not None else None,
        compute_metrics=compute_accuracy,
    )
    # Without progress bars, the Trainer would print a dictionary for each log.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    # Of `TrainingArguments`, which has set it if it was not given.
    folder = Path(cast(str, args.output_dir))
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return trainer.evaluate() if eval_dataset is not None else {}
