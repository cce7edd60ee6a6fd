"""The published JSON Schemas (draft 2020-12) of requests and records, and the check of values against them."""

import json
from functools import cache
from pathlib import Path

from ...errors import InputError


@cache
def read_schema(name: str) -> dict:
    """
    Reads a schema from its file.

    Args:
        name (`str`):
            `"forget_request"` or `"unlearning_record"`.

    Returns:
        `dict`: the schema.
    """
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def check_schema(values: object, name: str) -> None:
    """
    Checks values against a schema.

    Args:
        values (`dict`):
            The content of a request or a record, as read from YAML or JSON.
        name (`str`):
            `"forget_request"` or `"unlearning_record"`.

    Raises:
        [`InputError`]: if the values do not fit the schema. Its `argument` is the wrong key.
    """
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(read_schema(name), format_checker=FormatChecker()).iter_errors(values))
    if error is not None:
        key = str(error.absolute_path[0]) if error.absolute_path else name
        message = " ".join(error.message.split())
        raise InputError(key, (message if len(message) <= 300 else message[:200] + " … " + message[-90:]) + ".")
