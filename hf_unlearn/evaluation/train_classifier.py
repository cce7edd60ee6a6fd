"""Trains the classifiers that runs are measured on: an original and, from scratch, one without the forget set."""

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
    Trains an image classifier and saves it with its image processor as a folder like those on the hub.

    Args:
        model (`PreTrainedModel`):
            Trained in place.
        image_processor (`BaseImageProcessor`):
            The model's own.
        train (`datasets.Dataset`):
            Raw images and labels.
        args (`TrainingArguments`):
            The recipe; the model is saved in its `output_dir`.
        eval_dataset (`datasets.Dataset`, *optional*):
            Unseen images.
        label_column (`str`, *optional*):
            Found from the features when not given.

    Returns:
        `dict[str, float]`: `eval_accuracy` and `eval_loss` when there are unseen images.
    """
    label_column = find_label_column(train, label_column, model.config.id2label)

    def prepare(dataset):
        label_ids = match_labels(dataset, label_column, model.config.id2label)
        images = ImageDataset(dataset, image_processor, label_column=label_column, label_ids=label_ids)
        # Every epoch but the first finds them ready.
        images.keep()
        return images

    # Some forwards accept loss arguments and ignore them, which breaks the scaling under gradient accumulation.
    model.accepts_loss_kwargs = False
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=image_processor,
        train_dataset=prepare(train),
        eval_dataset=prepare(eval_dataset) if eval_dataset is not None else None,
        compute_metrics=compute_accuracy,
    )
    # With the bars off, the Trainer prints a dictionary per log instead.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    model.save_pretrained(args.output_dir)
    image_processor.save_pretrained(Path(args.output_dir))
    return trainer.evaluate() if eval_dataset is not None else {}
