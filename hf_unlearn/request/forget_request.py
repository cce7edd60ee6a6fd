"""What to forget and why: a [`ForgetRequest`], read from and written to YAML or JSON."""

import hashlib
import hmac
import json
import random
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from ..errors import InputError, listing
from .schemas import check_schema


WAYS = ("classes", "column", "indices", "ids", "files", "image_sha256", "fraction", "count")


@dataclass
class ForgetRequest:
    """
    Names the images that a model is to forget, in exactly one of eight ways, and keeps who asked and why. The schema
    is `schemas/forget_request.json`.

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
        files (`list[str]`, *optional*):
            Paths of the images relative to the data folder, with forward slashes. They are compared with the paths that
            the dataset lists, and open nothing.
        image_sha256 (`list[str]`, *optional*):
            SHA-256 of the images' pixels, see [`~image_hash.pixel_sha256`].
        image_phash (`list[str]`, *optional*):
            Perceptual hashes of the same images. They choose nothing: `hf-unlearn request check` lists near copies.
        fraction (`float`, *optional*):
            A random share of the training split, between 0 and 1.
        count (`int`, *optional*):
            A random number of rows of the training split.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random choice.
        reason (`str`, *optional*):
            Why, in the words of whoever asks. Kept locally, never published.
        id (`str`, *optional*):
            Name of the request: letters, digits, `_` and `-`. Published, so nothing in it may tell who asked.
        date (`str`, *optional*):
            Day of the request, `YYYY-MM-DD`. Published.
        requester (`str`, *optional*):
            Reference to whoever asks, such as a case number. Kept locally, never published.
        model, model_revision (`str`, *optional*):
            The model that is to forget: hub id or folder, and branch, tag or commit. A run on another one is refused.
        dataset, dataset_revision (`str`, *optional*):
            The dataset that it was trained on, likewise.

    Raises:
        [`InputError`]: if none or more than one way is used, or a value is out of its range.
    """

    classes: list[str | int] | None = None
    column: str | None = None
    values: list[str | int | float | bool] | None = None
    indices: list[int] | None = None
    ids: list[str] | None = None
    id_column: str | None = None
    files: list[str] | None = None
    image_sha256: list[str] | None = None
    image_phash: list[str] | None = None
    fraction: float | None = None
    count: int | None = None
    seed: int = 0
    reason: str | None = None
    id: str | None = None
    date: str | None = None
    requester: str | None = None
    model: str | None = None
    model_revision: str | None = None
    dataset: str | None = None
    dataset_revision: str | None = None

    def __post_init__(self):
        used = [way for way in WAYS if getattr(self, way) is not None]
        if len(used) != 1:
            raise InputError(
                used[1] if used else "forget_request",
                f"a request names what to forget in exactly one way, got {listing(used)}. Choose one of {listing(WAYS)}.",
            )
        for name in ("classes", "values", "indices", "ids", "files", "image_sha256"):
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
        if isinstance(self.fraction, int | float) and not 0 < self.fraction < 1:
            raise InputError("fraction", f"must lie between 0 and 1, both excluded, got {self.fraction}.")
        if isinstance(self.count, int) and self.count < 1:
            raise InputError("count", f"must be at least 1, got {self.count}.")
        given = {key: value for key, value in asdict(self).items() if value is not None}
        check_schema(given | {"seed": self.seed}, "forget_request")
        if self.kind != "random":
            # There is nothing to draw; two requests that differ in it are the same.
            self.seed = 0
        try:
            self.canonical()
        except UnicodeEncodeError as error:
            raise InputError(
                "forget_request", "holds half a character (a lone surrogate), which no file can."
            ) from error
        for path in self.files or []:
            check_relative(path)

    @property
    def kind(self) -> str:
        """`"classes"`, `"column"`, `"indices"`, `"ids"`, `"files"`, `"image_sha256"` or `"random"`."""
        for way in ("classes", "column", "indices", "ids", "files", "image_sha256"):
            if getattr(self, way) is not None:
                return way
        return "random"

    def describe(self) -> str:
        """What is forgotten, in words that name no single record: fit to be published."""
        if self.kind == "classes":
            return f"every image of the class{'es' if len(self.classes) > 1 else ''} {listing(self.classes)}"
        if self.kind == "column":
            return f"every image whose {self.column} is {listing(self.values)}"
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

    def hmac(self, salt: bytes) -> str:
        """
        HMAC-SHA-256 of the request, keys sorted. A plain hash would let anyone try out what the request may say.

        Args:
            salt (`bytes`):
                The salt of the record.
        """
        return hmac.new(salt, self.canonical(), hashlib.sha256).hexdigest()

    def canonical(self) -> bytes:
        """The request as JSON with sorted keys and no spaces: the same bytes however the file was laid out."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_file(cls, path: str | Path) -> "ForgetRequest":
        """
        A request from a YAML or JSON file.

        Raises:
            [`InputError`]: if there is no such file or it holds no request.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("forget_request", f"there is no file {str(path)!r}.")
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                values = json.loads(text, object_pairs_hook=without_duplicates, parse_constant=refuse_constant)
            else:
                values = yaml.load(text, RequestLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError("forget_request", f"{str(path)!r} is neither YAML nor JSON: {reason}.") from error
        return cls.from_dict(values)

    def to_file(self, path: str | Path) -> None:
        """Writes the request as JSON if `path` ends in `.json`, else as YAML."""
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = yaml.dump(self.to_dict(), Dumper=RequestDumper, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")


def check_relative(path: str) -> None:
    """
    Raises:
        [`InputError`]: if the path of an image could leave the data folder.
    """
    parts = path.split("/")
    if "\\" in path or ":" in parts[0] or any(part in ("", ".", "..", "~") for part in parts):
        raise InputError(
            "files", f"{path!r} is no path inside the data folder: names with forward slashes, without '.' and '..'."
        )


def refuse_constant(name: str) -> None:
    """Raises `ValueError` for what JSON has no word for: NaN and Infinity."""
    raise ValueError(f"{name} is no number")


def without_duplicates(pairs: list[tuple]) -> dict:
    """A dictionary from pairs, none of whose keys may come twice: which of the two would be meant?"""
    if not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError("every key must be a word")
    twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} is given twice")
    return dict(pairs)


# What PyYAML takes for more than a string, as in the JSON schema of YAML 1.2. Its own YAML 1.1 makes a false of the
# class `no`, 83 of the file `0123`, and a date of a date.
SCALARS = {
    "null": r"^(?:~|null|)$",
    "bool": r"^(?:true|false)$",
    "int": r"^-?(?:0|[1-9][0-9]*)$",
    "float": r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$",
}


class RequestLoader(yaml.SafeLoader):
    """Reads the plain part of YAML: no aliases, which can make a short file endless, no tags, no key twice."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "aliases and tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        return without_duplicates(
            [
                (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                for key, value in node.value
            ]
        )


class RequestDumper(yaml.SafeDumper):
    """Quotes what [`RequestLoader`] or any other reader of YAML would not take for a string."""


for tag, pattern in SCALARS.items():
    RequestLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
    RequestDumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
