"""Several requests on one model: measures, after each request, the images of every request and the retained images."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from datasets import Dataset

from ..data.image_dataset import ImageDataset
from ..data.labels import match_labels
from ..data.sampling import at_most
from ..data.splits import drop_rows, matching_rows, rows_of_unseen
from ..errors import InputError
from ..request.forget_request import ForgetRequest
from ..unlearning.compatibility import ImageClassifier, id2label_of
from .logits import collect_logits


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


# Further columns of the table, and their meaning.
RETAINED = {"retain": "images of the training split that no request names", "retain_test": "unseen ones, likewise"}


def named(requests: list[ForgetRequest]) -> list[ForgetRequest]:
    """
    Gives every request without an id the id `request-1`, `request-2`, … by its place in the list.

    Args:
        requests (`list[ForgetRequest]`):
            In the order in which they are carried out.

    Returns:
        `list[ForgetRequest]`: all with an id.

    Raises:
        [`InputError`]: if two requests have the same id.
    """
    requests = [
        request if request.id else replace(request, id=f"request-{number}")
        for number, request in enumerate(requests, start=1)
    ]
    ids = [request.id for request in requests]
    twice = [name for name in ids if ids.count(name) > 1]
    if twice:
        raise InputError("forget_request", f"two requests have the id {twice[0]!r}.")
    return requests


class Tracker:
    """
    Measures the accuracy of a model on the images of each request of a sequence, and on the images that no request
    names.

    Args:
        requests (`list[ForgetRequest]`):
            All requests, with ids, in the order in which they are carried out.
        train (`datasets.Dataset`):
            The training images.
        test (`datasets.Dataset` or `None`):
            Unseen images.
        columns (`dict[str, str]`):
            Names of the columns, by `image_column` and `label_column`.
        max_samples (`int`, *optional*, defaults to 0):
            Largest number of images that no request names to measure on; 0 for all.

    Raises:
        [`InputError`]: if the requests cover all training images.
    """

    def __init__(
        self,
        requests: list[ForgetRequest],
        train: Dataset,
        test: Dataset | None,
        columns: dict[str, str],
        max_samples: int | None = None,
    ):
        self.requests = requests
        self.columns = columns
        self.steps: list[dict[str, Any]] = []
        self.splits: dict[str | None, Dataset] = {}
        gone = set()
        for request in requests:
            rows = matching_rows(train, request, columns["label_column"], columns["image_column"])
            self.splits[request.id] = train.select(rows)
            gone.update(rows)
        if len(gone) == len(train):
            raise InputError(
                "forget_request", f"the requests cover all {len(train)} images: nothing would be retained."
            )
        self.splits["retain"] = drop_rows(train, gone)
        if test is not None:
            rest = drop_rows(test, rows_of_unseen(test, requests, **columns))
            if len(rest):
                self.splits["retain_test"] = rest
        for name in RETAINED:
            if name in self.splits:
                self.splits[name] = at_most(self.splits[name], max_samples)

    def measure(
        self, after: str | None, model: ImageClassifier, image_processor: "BaseImageProcessor", batch_size: int
    ) -> None:
        """
        Measures the model and adds a row to the table.

        Args:
            after (`str` or `None`):
                Id of the request that was carried out last; `None` for the original model.
            model (`PreTrainedModel`):
                The model after this request.
            image_processor (`BaseImageProcessor`):
                Its image processor.
            batch_size (`int`):
                Images per forward pass.
        """
        # Imported here because it is slow (scipy), and a run of one request does not need it.
        from ..metrics.unlearning_accuracy.unlearning_accuracy import accuracy

        label_column = self.columns["label_column"]
        line = {}
        for name, split in self.splits.items():
            label_ids = match_labels(split, label_column, id2label_of(model))
            images = ImageDataset(split, image_processor, self.columns["image_column"], label_column, label_ids)
            logits, labels = collect_logits(model, images, batch_size, description=f"tracking: {name}")
            line[name] = float(accuracy(logits, cast(np.ndarray, labels)))
        self.steps.append({"after": after, "accuracy": line})

    def table(self) -> dict:
        """
        The table so far.

        Returns:
            `dict`: `requests`, the ids in their order, and `steps`, one dictionary per call of [`~Tracker.measure`]:
            `after`, and `accuracy` by request id, `retain` and `retain_test`.
        """
        return {"requests": [request.id for request in self.requests], "steps": self.steps}
