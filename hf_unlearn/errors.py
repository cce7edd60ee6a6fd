"""The errors that a user can cause or has to handle. Every other error is a bug and shows its traceback."""

from collections.abc import Iterable


class InputError(ValueError):
    """
    An input that cannot be used. The message says which argument is wrong, its value and the valid choices.

    Args:
        argument (`str`):
            Name of the wrong argument as in Python (`"sigma"`). The command line shows it as a flag (`--sigma`).
        message (`str`):
            What is wrong with the argument, in one line.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(f"{argument}: {message}")
        self.argument = argument
        self.message = message


class CollapsedModelError(RuntimeError):
    """
    The unlearned model is destroyed and must not be saved: its weights are not finite or moved too far, or its outputs
    on other images changed too much.
    """


class SaveError(RuntimeError):
    """
    A file could not be written, for example because the disk is full. A model that was written only in part has no
    `config.json`, so it cannot be mistaken for a complete one.
    """


class HubPushError(RuntimeError):
    """The hub could not be reached or refused the push. All files to push are on the disk."""


def listing(values: Iterable[object], limit: int = 12) -> str:
    """
    Joins values with commas, for error messages and printed lines.

    Args:
        values (`Iterable`):
            The values, in the order in which they are shown.
        limit (`int`, *optional*, defaults to 12):
            How many values are shown at most. If there are more, the text ends with their total number.

    Returns:
        `str`: the list, or `"none"` if there are no values.
    """
    texts = [str(value) for value in values]
    if len(texts) > limit:
        return ", ".join(texts[:limit]) + f", … ({len(texts)} in all)"
    return ", ".join(texts) if texts else "none"
