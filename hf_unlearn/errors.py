"""The errors that a user can cause or must know of. Everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """
    Something the user gave cannot be used: the message says what, its value and the valid choices.

    Args:
        argument (`str`):
            Name of the argument at fault, as in Python (`"sigma"`). The command line shows it as a flag (`--sigma`).
        message (`str`):
            What is wrong with it, in one line.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(f"{argument}: {message}")
        self.argument = argument
        self.message = message


class CollapsedModelError(RuntimeError):
    """The unlearned model is not fit to be saved: its weights are not finite or it lost what it should keep."""


class SaveError(RuntimeError):
    """The model could not be written, for example because the disk is full. Nothing half-written looks finished."""


class HubPushError(RuntimeError):
    """The hub could not be reached or refused the push. Everything to be pushed is on disk."""


def listing(values, limit: int = 12) -> str:
    """The valid choices for an error message: sorted as given, cut after `limit`."""
    values = [str(value) for value in values]
    if len(values) > limit:
        return ", ".join(values[:limit]) + f", … ({len(values)} in all)"
    return ", ".join(values) if values else "none"
