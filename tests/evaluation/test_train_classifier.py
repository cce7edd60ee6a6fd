import pytest
from conftest import make_images
from datasets import Dataset, Features, Image
from transformers import TrainingArguments

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.train_classifier import train_classifier


def test_classifier_needs_labels(resnet, image_processor, tmp_path):
    images = Dataset.from_dict({"image": make_images([0] * 4, seed=0)}, features=Features(image=Image()))
    with pytest.raises(InputError, match="^label_column_name: "):
        train_classifier(resnet, image_processor, images, TrainingArguments(output_dir=str(tmp_path)))
