"""The outputs of a model, image by image, and what a pass leaves behind."""

import gc

import numpy as np
import torch

from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.data.labels import match_labels
from hf_unlearn.evaluation.logits import collect_logits


def test_logits_are_those_of_the_model_in_order(resnet, dataset, image_processor):
    images = ImageDataset(
        dataset["train"],
        image_processor,
        label_column="label",
        label_ids=match_labels(dataset["train"], "label", resnet.config.id2label),
    )
    logits, labels = collect_logits(resnet, images, batch_size=7)
    with torch.no_grad():
        expected = torch.cat([resnet(pixel_values=images[row]["pixel_values"][None]).logits for row in range(30)])
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == dataset["train"]["label"][:]


def test_a_pass_keeps_no_tensor_of_its_batches(resnet, dataset, image_processor):
    """Small tensors that stay lie between the batches; 20,000 images of 32 × 32 once took 300 MiB."""
    alive = []
    resnet.register_forward_pre_hook(
        lambda module, args: alive.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
    )
    collect_logits(resnet, ImageDataset(dataset["train"], image_processor), batch_size=3)
    # The first pass comes before there is anything to put outputs in; before it, the model is looked at.
    assert len(alive) > 10 and len(set(alive[-9:])) == 1
