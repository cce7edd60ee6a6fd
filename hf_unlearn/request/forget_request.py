"""The forget request: which images a model must forget, who asked and why. Reads and writes it as YAML or JSON."""

import hashlib
import hmac
import json
import random
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml
from yaml.constructor import ConstructorError

from ..errors import InputError, listing
from .schemas import check_schema


WAYS = ("classes", "column", "indices", "ids", "files", "image_sha256", "fraction", "count")


@dataclass
class ForgetRequest:
    """
    Names the images that a model must forget, in exactly one of eight ways, and records who asked for it and why. Its
    JSON Schema is `schemas/forget_request.json`.

    Args:
        classes (`list[str | int]`, *optional*):
            Whole classes, by the dataset's class name or label id.
        column (`str`, *optional*):
            The column that is compared with `values`, for example a second label such as `fine_label` (to forget a
            sub-class).
        values (`list[str | int | float | bool]`, *optional*):
            The values of `column` whose images are forgotten. For a `ClassLabel` column, names or ids.
        indices (`list[int]`, *optional*):
            Row numbers in the training split, from 0.
        ids (`list[str]`, *optional*):
            Values of `id_column` or, without `id_column`, file names of the images.
        id_column (`str`, *optional*):
            The column that holds the `ids`.
        files (`list[str]`, *optional*):
            Paths of the images relative to the data folder, with forward slashes. They are compared with the paths
            that the dataset lists; no file is opened.
        image_sha256 (`list[str]`, *optional*):
            SHA-256 of the pixels of each image, see [`~request.image_hash.pixel_sha256`].
        image_phash (`list[str]`, *optional*):
            Perceptual hashes of the same images, see [`~request.image_hash.perceptual_hash`]. They do not decide what
            is forgotten: `hf-unlearn request check --near_copies` uses them to list similar images.
        fraction (`float`, *optional*):
            A random share of the training split, between 0 and 1, both excluded.
        count (`int`, *optional*):
            A random number of rows of the training split.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random choice by `fraction` or `count`.
        reason (`str`, *optional*):
            Why the images must be forgotten. Stays on this machine.
        id (`str`, *optional*):
            Name of the request: letters, digits, `_` and `-`. It is published, so it must not tell who asked.
        date (`str`, *optional*):
            Date of the request, `YYYY-MM-DD`. It is published.
        deadline (`str`, *optional*):
            Day by which it must be answered, `YYYY-MM-DD`. Stays on this machine.
        requester (`str`, *optional*):
            A reference to the person or company that asks, such as a case number. Stays on this machine.
        model, model_revision (`str`, *optional*):
            The model that must forget: hub id or folder, and branch, tag or commit. A run on another model is an
            error.
        dataset, dataset_revision (`str`, *optional*):
            The dataset that the model was trained on: hub id or folder, and branch, tag or commit. A run on another
            dataset is an error.

    Raises:
        [`InputError`]: if no way or more than one way is used, or if a value is not valid.
    """

    classes: list[str] | list[int] | list[str | int] | None = None
    column: str | None = None
    values: list[str] | list[int] | list[float] | list[bool] | list[str | int | float | bool] | None = None
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
    deadline: str | None = None
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
        # Of this form, the order of dates is that of their letters.
        if self.date is not None and self.deadline is not None and self.deadline < self.date:
            raise InputError("deadline", f"{self.deadline} is before the date of the request, {self.date}.")
        if self.kind != "random":
            # Without a random choice the seed has no effect. It must not make two equal requests differ.
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
        """
        `str`: `"classes"`, `"column"`, `"indices"`, `"ids"`, `"files"`, `"image_sha256"`, or `"random"` for a fraction
        or a count.
        """
        for way in ("classes", "column", "indices", "ids", "files", "image_sha256"):
            if getattr(self, way) is not None:
                return way
        return "random"

    def describe(self) -> str:
        """Describes what is forgotten in words that can be published: they name no single image."""
        if self.classes is not None:
            return f"every image of the class{'es' if len(self.classes) > 1 else ''} {listing(self.classes)}"
        if self.values is not None:
            return f"every image whose {self.column} is {listing(self.values)}"
        if self.kind == "random":
            return "a random selection of training images"
        return "a list of training images"

    def choose_random(self, num_rows: int) -> list[int]:
        """
        Draws the row numbers of a random request. The same seed gives the same rows on every machine.

        Args:
            num_rows (`int`):
                Number of rows of the training split.

        Returns:
            `list[int]`: row numbers, sorted.
        """
        count = self.count if self.fraction is None else max(1, round(self.fraction * num_rows))
        if count is None:
            raise ValueError(f"the request names its images in another way: {self.kind}")
        if count > num_rows:
            raise InputError("count", f"{count} is more than the {num_rows} rows of the training split.")
        return sorted(random.Random(self.seed).sample(range(num_rows), count))

    def to_dict(self) -> dict:
        """Returns the fields that were given, as a dictionary."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        if self.kind != "random":
            del given["seed"]
        return given

    @classmethod
    def from_dict(cls, values: dict) -> "ForgetRequest":
        """Makes a request from a dictionary. An unknown key is an error."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise InputError("forget_request", f"expected keys and values, got {type(values).__name__}.")
        unknown = [key for key in values if key not in known]
        if unknown:
            raise InputError("forget_request", f"unknown key {unknown[0]!r}. Valid: {listing(known)}.")
        return cls(**values)

    def hmac(self, salt: bytes) -> str:
        """
        HMAC-SHA-256 of the request. A plain hash would not hide the request: anyone could hash possible requests and
        compare.

        Args:
            salt (`bytes`):
                The secret salt of the deletion record.

        Returns:
            `str`: 64 hexadecimal digits.
        """
        return hmac.new(salt, self.canonical(), hashlib.sha256).hexdigest()

    def canonical(self) -> bytes:
        """
        The request as JSON with sorted keys and without spaces. Two files with the same content give the same bytes.
        """
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_file(cls, path: str | Path) -> "ForgetRequest":
        """
        Reads a request from a YAML or JSON file.

        Raises:
            [`InputError`]: if the file does not exist or holds no valid request.
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
        """Writes the request to a file, as JSON if `path` ends in `.json`, else as YAML."""
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = yaml.dump(self.to_dict(), Dumper=RequestDumper, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")


def check_relative(path: str) -> None:
    """
    Checks that the path of an image points inside the data folder.

    Raises:
        [`InputError`]: if the path could point outside the data folder, or is not written with forward slashes.
    """
    parts = path.split("/")
    if "\\" in path or ":" in parts[0] or any(part in ("", ".", "..", "~") for part in parts):
        raise InputError(
            "files", f"{path!r} is no path inside the data folder: names with forward slashes, without '.' and '..'."
        )


def refuse_constant(name: str) -> None:
    """Raises `ValueError` for NaN and Infinity, which Python's `json` accepts although JSON does not have them."""
    raise ValueError(f"{name} is no number")


def without_duplicates(pairs: list[tuple]) -> dict:
    """
    Makes a dictionary from pairs of key and value.

    Raises:
        `ValueError`: if a key is not a string, or comes twice: it would not be clear which of the two values is meant.
    """
    if not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError("every key must be a word")
    twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} is given twice")
    return dict(pairs)


# The plain values that are read as null, bool, int or float; all others are strings. This is the JSON schema of YAML
# 1.2. PyYAML's own rules (YAML 1.1) read the class name `no` as false, the file name `0123` as the number 83, and a
# date as a `datetime.date`.
SCALARS = {
    "null": r"^(?:~|null|)$",
    "bool": r"^(?:true|false)$",
    "int": r"^-?(?:0|[1-9][0-9]*)$",
    "float": r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$",
}


class RequestLoader(yaml.SafeLoader):
    """
    Reads a safe part of YAML. Aliases (a short file could expand without end), tags and duplicate keys are errors.
    """

    yaml_implicit_resolvers = {}

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise ConstructorError(None, None, "aliases and tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        return without_duplicates(
            [
                (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                for key, value in node.value
            ]
        )


class RequestDumper(yaml.SafeDumper):
    """Writes YAML. Quotes a string that [`RequestLoader`] or another YAML reader would read as something else."""


for tag, pattern in SCALARS.items():
    RequestLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
    RequestDumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
