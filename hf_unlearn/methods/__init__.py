"""The unlearning methods: one file per method, with its configuration and its Trainer subclass."""

import importlib
from typing import TYPE_CHECKING

from ..errors import InputError, listing
from ..unlearning.method_names import METHODS


if TYPE_CHECKING:
    from ..unlearning.config import UnlearningConfig
    from ..unlearning.trainer import UnlearningTrainer


def load_method(name: str) -> "tuple[type[UnlearningConfig], type[UnlearningTrainer]]":
    """
    Imports a method.

    Args:
        name (`str`):
            Name of the method, a key of [`~unlearning.method_names.METHODS`].

    Returns:
        `tuple[type, type]`: the configuration class and the Trainer class.

    Raises:
        [`InputError`]: if there is no such method.
    """
    # A YAML file can give a list, which cannot be looked up in a dictionary.
    if name not in list(METHODS):
        raise InputError("method", f"got {name!r}. Valid: {listing(METHODS, 30)}.")
    module = importlib.import_module(f".{name}", __name__)
    return getattr(module, f"{METHODS[name]}Config"), getattr(module, f"{METHODS[name]}Trainer")
