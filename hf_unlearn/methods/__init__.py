"""One file per method: a configuration and a Trainer subclass."""

import importlib

from ..errors import InputError, listing


# Method, as `--method` takes it and its file is called, and how its classes begin: `<…>Config` and `<…>Trainer`.
METHODS = {
    "jit": "JiT",
    "delete": "DELETE",
    "mu_mis": "MUMis",
    "boundary_shrink": "BoundaryShrink",
    "boundary_expand": "BoundaryExpand",
    "gradient_ascent": "GradientAscent",
    "random_label": "RandomLabel",
    "loss_free_ssd": "LossFreeSSD",
    "gkt": "GKT",
    "emmn": "EMMN",
    "head_only": "HeadOnly",
    "retrain": "Retrain",
    "fine_tune": "FineTune",
    "neg_grad_plus": "NegGradPlus",
    "amnesiac": "Amnesiac",
    "bad_teacher": "BadTeacher",
    "scrub": "SCRUB",
    "salun": "SalUn",
    "lotus": "LoTUS",
    "ssd": "SSD",
    "unsir": "UNSIR",
}


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


def forget_only_methods() -> list[str]:
    """The methods that need no retained images."""
    return [name for name in METHODS if not load_method(name)[1].needs_retain]
