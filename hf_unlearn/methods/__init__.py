"""One file per method: a configuration and a Trainer subclass."""

import importlib

from ..errors import InputError, listing
from ..unlearning.method_names import METHODS


def load_method(name: str) -> tuple[type, type]:
    """
    The configuration and the Trainer of a method.

    Raises:
        [`InputError`]: if there is no such method.
    """
    # A list, as a YAML file may give it, is no key.
    if name not in list(METHODS):
        raise InputError("method", f"got {name!r}. Valid: {listing(METHODS, 30)}.")
    module = importlib.import_module(f".{name}", __name__)
    return getattr(module, f"{METHODS[name]}Config"), getattr(module, f"{METHODS[name]}Trainer")
