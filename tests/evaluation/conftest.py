"""What several tests of the evaluation measure."""

import pytest
from datasets import DatasetDict

from hf_unlearn import ForgetRequest, split_dataset


@pytest.fixture
def splits(dataset):
    """Cats are forgotten: 10 of 30 training images, 6 of 18 unseen ones."""
    request = ForgetRequest(classes=["cat"])
    train = split_dataset(dataset["train"], request, "label")
    test = split_dataset(dataset["test"], request, "label")
    return DatasetDict(
        forget=train["forget"], retain=train["retain"], forget_test=test["forget"], retain_test=test["retain"]
    )
