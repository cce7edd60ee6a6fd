"""Make a Hugging Face image classifier forget chosen training images, and measure what it did."""

import importlib


# True for type checkers and editors, which know this name. The module `typing` takes a tenth of the time of `--help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .data.splits import split_dataset
    from .evaluation.evaluate import evaluate_unlearning
    from .methods.jit import JiTTrainer
    from .methods.jit_config import JiTConfig
    from .publication.report import UnlearningReport
    from .request.forget_request import ForgetRequest
    from .unlearning.config import UnlearningConfig
    from .unlearning.losses import jit_loss
    from .unlearning.trainer import UnlearningTrainer


__version__ = "0.1.0"

# A public name is imported when it is first used. Importing transformers and torch takes seconds, and
# `hf-unlearn --help` needs neither.
_MODULE_OF = {
    "ForgetRequest": "request.forget_request",
    "JiTConfig": "methods.jit",
    "JiTTrainer": "methods.jit",
    "UnlearningConfig": "unlearning.config",
    "UnlearningReport": "publication.report",
    "UnlearningTrainer": "unlearning.trainer",
    "evaluate_unlearning": "evaluation.evaluate",
    "jit_loss": "unlearning.losses",
    "split_dataset": "data.splits",
}

__all__ = [
    "ForgetRequest",
    "JiTConfig",
    "JiTTrainer",
    "UnlearningConfig",
    "UnlearningReport",
    "UnlearningTrainer",
    "evaluate_unlearning",
    "jit_loss",
    "split_dataset",
]


if not TYPE_CHECKING:
    # A type checker has the names from above, and would take this to mean that there is any other as well.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
