"""What to forget and why: a [`ForgetRequest`], read from and written to YAML or JSON."""

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from .errors import InputError, listing


@dataclass
class ForgetRequest:
    """
    Names the images that a model is to forget, in exactly one of five ways.

    Args:
        classes (`list[str | int]`, *optional*):
            Whole classes, by the dataset's class name or label id.
        column (`str`, *optional*):
            A column to compare with `values`, for example a second label such as `fine_label` (a sub-class).
        values (`list`, *optional*):
            The values of `column` to forget. For a `ClassLabel` column, names or ids.
        indices (`list[int]`, *optional*):
            Row numbers in the training split.
        ids (`list[str]`, *optional*):
            Values of `id_column`, or file names of the images when no column is named.
        id_column (`str`, *optional*):
            The column that holds `ids`.
        fraction (`float`, *optional*):
            A random share of the training split, between 0 and 1.
        count (`int`, *optional*):
            A random number of rows of the training split.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random choice.
        reason (`str`, *optional*):
            Why, in the words of whoever asks. Kept locally, never published.

    Raises:
        [`InputError`]: if none or more than one way is used, or a value is out of its range.
    """

    classes: list[str | int] | None = None
    column: str | None = None
    values: list[str | int | float | bool] | None = None
    indices: list[int] | None = None
    ids: list[str] | None = None
    id_column: str | None = None
    fraction: float | None = None
    count: int | None = None
    seed: int = 0
    reason: str | None = None

    def __post_init__(self):
        ways = ("classes", "column", "indices", "ids", "fraction", "count")
        used = [way for way in ways if getattr(self, way) is not None]
        if len(used) != 1:
            raise InputError(
                used[1] if used else "forget_request",
                f"a request names what to forget in exactly one way, got {listing(used)}. Choose one of {listing(ways)}.",
            )
        for name in ("classes", "values", "indices", "ids"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, list) or not value):
                raise InputError(name, f"expected a list with at least one entry, got {value!r}.")
        if (self.column is None) != (self.values is None):
            raise InputError("values", "column and values go together: which column, and which of its values.")
        if self.indices is not None:
            wrong = [index for index in self.indices if not isinstance(index, int) or index < 0]
            if wrong:
                raise InputError("indices", f"{wrong[0]!r} is not a row number (a whole number from 0).")
            twice = sorted(index for index, times in Counter(self.indices).items() if times > 1)
            if twice:
                raise InputError("indices", f"listed twice: {listing(twice)}.")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise InputError("fraction", f"must lie between 0 and 1, both excluded, got {self.fraction}.")
        if self.count is not None and self.count < 1:
            raise InputError("count", f"must be at least 1, got {self.count}.")

    @property
    def kind(self) -> str:
        """`"classes"`, `"column"`, `"indices"`, `"ids"` or `"random"`."""
        for way in ("classes", "column", "indices", "ids"):
            if getattr(self, way) is not None:
                return way
        return "random"

    def describe(self) -> str:
        """What is forgotten, in words that name no single record: fit to be published."""
        if self.kind == "classes":
            return f"every image of the class{'es' if len(self.classes) > 1 else ''} {listing(self.classes)}"
        if self.kind == "column":
            return f"every image whose `{self.column}` is {listing(self.values)}"
        if self.kind == "random":
            return "a random selection of training images"
        return "a list of training images"

    def choose_random(self, num_rows: int) -> list[int]:
        """Row numbers of a random request over `num_rows` rows, sorted; the same for the same seed everywhere."""
        count = self.count if self.count is not None else max(1, round(self.fraction * num_rows))
        if count > num_rows:
            raise InputError("count", f"{count} is more than the {num_rows} rows of the training split.")
        return sorted(random.Random(self.seed).sample(range(num_rows), count))

    def to_dict(self) -> dict:
        """The fields that were given."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        if self.kind != "random":
            del given["seed"]
        return given

    @classmethod
    def from_dict(cls, values: dict) -> "ForgetRequest":
        """A request from a dictionary; an unknown key is an error."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise InputError("forget_request", f"expected keys and values, got {type(values).__name__}.")
        unknown = [key for key in values if key not in known]
        if unknown:
            raise InputError("forget_request", f"unknown key {unknown[0]!r}. Valid: {listing(known)}.")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> "ForgetRequest":
        """A request from a YAML or JSON file."""
        path = Path(path)
        if not path.is_file():
            raise InputError("forget_request", f"there is no file {str(path)!r}.")
        try:
            # Every JSON document is a YAML document too.
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError("forget_request", f"{str(path)!r} is neither YAML nor JSON: {error}.") from error
        return cls.from_dict(values)

    def to_file(self, path: str | Path) -> None:
        """Writes the request as JSON if `path` ends in `.json`, else as YAML."""
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
