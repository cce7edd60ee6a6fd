import inspect

from transformers import Trainer

from hf_unlearn import UnlearningTrainer


def test_push_takes_its_arguments_in_the_order_of_the_trainer():
    """A `False` for `blocking` was taken for the token."""
    own, given = (list(inspect.signature(kind.push_to_hub).parameters) for kind in (UnlearningTrainer, Trainer))
    assert own[: len(given) - 1] == given[:-1] and given[-1] == "kwargs"
