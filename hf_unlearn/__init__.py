"""Make a Hugging Face image classifier forget chosen training images, and measure what it did."""

import importlib


__version__ = "0.1.0"

# Loaded on first use: transformers and torch take seconds to import, and `hf-unlearn --help` needs neither.
_MODULE_OF = {
    "ForgetRequest": "forget_request",
    "JiTConfig": "methods.jit",
    "JiTTrainer": "methods.jit",
    "UnlearningConfig": "config",
    "UnlearningReport": "report",
    "UnlearningTrainer": "trainer",
    "evaluate_unlearning": "evaluation",
    "jit_loss": "losses",
    "split_dataset": "data",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__():
    return [*globals(), *__all__]
