"""
Trains image classifiers to compare with: an original model, and models that are retrained without the forget set.
"""

from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..data.image_dataset import ImageDataset
from ..data.labels import find_label_column, match_labels
from ..unlearning.inputs import compute_accuracy


def train_classifier(
    model,
    image_processor,
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
    label_column = find_label_column(train, label_column, model.config.id2label)

    def prepare(dataset):
        label_ids = match_labels(dataset, label_column, model.config.id2label)
        images = ImageDataset(dataset, image_processor, label_column=label_column, label_ids=label_ids)
        # From the second epoch on, the images are not decoded again.
        images.keep()
        return images

    # The `forward` of some models accepts loss arguments but ignores them, which makes the loss wrong under gradient
    # accumulation.
    model.accepts_loss_kwargs = False
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
    model.save_pretrained(args.output_dir)
    image_processor.save_pretrained(Path(args.output_dir))
    return trainer.evaluate() if eval_dataset is not None else {}
