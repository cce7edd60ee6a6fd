"""The requests of a folder, the records that answer them, and the models that were made from those."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import yaml

from ..errors import InputError
from ..request.forget_request import WAYS, ForgetRequest
from .files import RECORD, REQUEST, SALT
from .record import own_hash, read_record, read_salt


# Larger files are no requests.
MOST_BYTES = 50_000_000
# Keys that no file has by chance but a request.
OWN_KEYS = {*WAYS, "requester", "deadline"} - {"count", "files"}


@dataclass
class Run:
    """
    A record that lies in a folder.

    Args:
        folder (`Path`):
            The folder of the run.
        record (`dict`):
            What [`~publication.record.read_record`] returns.
        holds (`bool`):
            Whether the record is as it was written, by its own hash.
        ended (`date`):
            Day on which the run ended.
    """

    folder: Path
    record: dict
    holds: bool
    ended: date

    def answers(self, request: ForgetRequest) -> bool:
        """
        Whether this run carried out a request: by the HMAC of the request if the salt lies beside the record, else by
        its id and date.
        """
        said = self.record["request"]
        salt = self.folder / SALT
        if request.id is None and said["id"] is not None:
            # A run of several requests names those without a name.
            request = replace(request, id=said["id"])
        if salt.is_file() and said["hmac_sha256"] is not None:
            return request.hmac(read_salt(salt)) == said["hmac_sha256"]
        return request.id is not None and (request.id, request.date) == (said["id"], said["date"])

    def comes_after(self, other: "Run") -> bool:
        """Whether the model of this run is made from that of another."""
        weights = other.record["weights"]["sha256_after"]
        before = [self.record["weights"]["sha256_before"]]
        before += [step["weights"]["sha256_after"] for step in self.record["lineage"]]
        return self is not other and weights in before


@dataclass
class Entry:
    """
    A request and what became of it.

    Args:
        request ([`ForgetRequest`]):
            The request.
        path (`Path`):
            Its file.
        runs (`list[Run]`, *optional*):
            The runs that carried it out, oldest first.
        later (`list[Run]`, *optional*):
            Runs of other requests whose models are made from those.
    """

    request: ForgetRequest
    path: Path
    runs: list[Run] = field(default_factory=list)
    later: list[Run] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.request.id or self.path.name

    @property
    def done(self) -> date | None:
        """Day on which it was first carried out, by a record that holds."""
        return min((run.ended for run in self.runs if run.holds), default=None)

    def is_overdue(self, today: date) -> bool:
        """Whether it is open although its deadline has passed."""
        deadline = self.request.deadline
        return self.done is None and deadline is not None and date.fromisoformat(deadline) < today

    def describe(self, today: date) -> str:
        """Its state in words."""
        deadline = date.fromisoformat(self.request.deadline) if self.request.deadline else None
        if self.done is not None:
            late = f", {days((self.done - deadline).days)} late" if deadline and self.done > deadline else ""
            return f"carried out on {self.done}{late}"
        changed = ", its record was changed" if self.runs else ""
        if deadline is None:
            return f"open{changed}"
        left = (deadline - today).days
        return f"open{changed}, " + (f"overdue by {days(-left)}" if left < 0 else f"{days(left)} left")


def days(number: int) -> str:
    return f"{number} day{'' if number == 1 else 's'}"


@dataclass
class Register:
    """
    What lies in a folder.

    Args:
        entries (`list[Entry]`):
            The requests: overdue ones first, then the others that are open, then those that were carried out.
        unreadable (`list[tuple[Path, str]]`):
            Files that look like requests or records and cannot be read, with the reason.
        without_request (`list[Run]`):
            Runs whose request is not in the folder.
    """

    entries: list[Entry]
    unreadable: list[tuple[Path, str]]
    without_request: list[Run]


def read_register(folder: str | Path, today: date) -> Register:
    """
    Reads all requests and records below a folder. A request that lies there several times, as each run keeps a copy,
    counts once.

    Args:
        folder (`str` or `Path`):
            The folder.
        today (`date`):
            The day that deadlines are compared with.

    Returns:
        [`Register`]

    Raises:
        [`InputError`]: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("folder", f"there is no folder {str(folder)!r}.")
    runs, unreadable = read_runs([folder])
    entries: dict[bytes, Entry] = {}
    files = [
        path for path in sorted(folder.rglob("*")) if path.suffix in (".yaml", ".yml", ".json") and path.is_file()
    ]
    run_at = {run.folder: run for run in runs}
    # The copies that runs keep come last: where the request itself is there, they add nothing.
    for path in sorted(files, key=lambda path: path.name == REQUEST):
        if path.name == RECORD:
            continue
        try:
            if not looks_like_request(path):
                continue
            request = ForgetRequest.from_file(path)
        except InputError as error:
            unreadable.append((path, str(error)))
            continue
        run = run_at.get(path.parent) if path.name == REQUEST else None
        if run is None or not any(run.answers(entry.request) for entry in entries.values()):
            entries.setdefault(request.canonical(), Entry(request, path))
    for entry in entries.values():
        entry.runs = sorted((run for run in runs if run.answers(entry.request)), key=lambda run: run.ended)
        entry.later = [
            run for run in runs if run not in entry.runs and any(run.comes_after(answer) for answer in entry.runs)
        ]
    answering = [run for entry in entries.values() for run in entry.runs]
    order = sorted(
        entries.values(),
        key=lambda entry: (
            entry.done is not None,
            not entry.is_overdue(today),
            entry.request.deadline or "9999",
            entry.request.date or "9999",
            entry.name,
        ),
    )
    return Register(order, unreadable, [run for run in runs if run not in answering])


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[tuple[Path, str]]]:
    """All records below some folders, and those that cannot be read with the reason."""
    runs, unreadable = [], []
    for path in sorted({path for folder in folders for path in folder.rglob(RECORD)}):
        try:
            record = read_record(path)
            ended = date.fromisoformat(record["ended"][:10])
        except ValueError as error:
            # An `InputError`, or a time that is none.
            unreadable.append((path, str(error)))
            continue
        runs.append(Run(path.parent, record, own_hash(record) == record["record_sha256"], ended))
    return runs, unreadable


def looks_like_request(path: Path) -> bool:
    """
    Whether a file is meant to be a request: it has a key that no other file has, or is called a request and cannot be
    read.
    """
    if path.stat().st_size > MOST_BYTES:
        return False
    try:
        text = path.read_text(encoding="utf-8")
        # Keys alone are looked at here. What is in them is read by the request itself, which takes less for granted.
        values = json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return "request" in path.name
    return isinstance(values, dict) and not OWN_KEYS.isdisjoint(map(str, values))
