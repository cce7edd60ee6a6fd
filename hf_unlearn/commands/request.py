"""
The command `hf-unlearn request`: writes a request file with prompts, checks one against the data, lists the requests of
a folder, and writes the answer to one that was carried out.
"""

import argparse
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError, listing
from ..request.forget_request import ForgetRequest
from ..request.image_hash import NEAR, differing_bits, perceptual_hash, pixel_sha256


if TYPE_CHECKING:
    from datasets import Dataset


USAGE = """\
usage: hf-unlearn request new FILE
       hf-unlearn request check FILE --dataset_name DATA
       hf-unlearn request list FOLDER
       hf-unlearn request answer DIR --contact TEXT

  new     ask what to forget and write it to FILE, YAML or, if it ends in .json, JSON
  check   say how many images of the training and the test split a request names; --near_copies looks for copies that
          are not the same to the pixel. The data flags are those of `hf-unlearn run`.
  list    the requests below FOLDER: which are open, which are overdue, which record answers the others, and which
          later models are made from an unlearned one
  answer  from the record of a run, write a letter to the person who asked and a page for the file
"""

KINDS = {
    "classes": "whole classes",
    "column": "images with some value in a column",
    "ids": "single images by file name or id",
    "indices": "single images by row number",
    "images": "single images that you have here as files",
}


def request_command(argv: list[str]) -> int:
    """
    Runs `hf-unlearn request`.

    Returns:
        `int`: exit code 0.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    commands = {"new": new_command, "check": check_request, "list": list_requests, "answer": answer_request}
    if argv[0] not in commands:
        raise InputError("request", f"unknown command {argv[0]!r}. Valid: {listing(commands)}.")
    commands[argv[0]](argv[1:])
    return 0


def new_command(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="hf-unlearn request new", description="Write a request file.")
    parser.add_argument("file", help="The file to write, YAML or, if it ends in .json, JSON.")
    new_request(Path(parser.parse_args(argv).file))


def list_requests(argv: list[str]) -> None:
    """
    Runs `hf-unlearn request list`: prints the requests of a folder and their state. Nothing is written.

    Raises:
        [`InputError`]: if there is no such folder.
    """
    from ..publication.register import read_register

    parser = argparse.ArgumentParser(prog="hf-unlearn request list", description="List requests and their state.")
    parser.add_argument("folder", help="Folder with request files and the folders of runs, at any depth.")
    folder, today = Path(parser.parse_args(argv).folder), date.today()
    register = read_register(folder, today)

    def place(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    for entry in register.entries:
        request = entry.request
        dates = [f"of {request.date}" if request.date else "", f"due {request.deadline}" if request.deadline else ""]
        head = ", ".join([f"{entry.name} {dates[0]}".strip(), *([dates[1]] if dates[1] else [])])
        print(f"{head}: {entry.describe(today)}")
        print(f"  file: {place(entry.path)}")
        for run in entry.runs:
            changed = "" if run.holds else "; this record was changed"
            images = run.record["forgotten"]["images"]
            method = run.record["method"]["name"]
            print(f"  answered by: {place(run.folder)} ({method}, {images} images, {run.ended}{changed})")
        for run in entry.later:
            name = run.record["request"]["id"] or "a request without an id"
            print(f"  made from it: {place(run.folder)}, for {name}")
    for run in register.without_request:
        print(f"record without its request here: {place(run.folder)} ({run.record['request']['id'] or 'no id'})")
    for path, reason in register.unreadable:
        print(f"cannot be read: {place(path)}: {reason}")
    states = [(entry.done is not None, entry.is_overdue(today)) for entry in register.entries]
    opened = sum(not done for done, _ in states)
    print(f"{len(states)} requests: {opened} open, {sum(late for _, late in states)} of them overdue, "
          f"{len(states) - opened} carried out.")  # fmt: skip


def answer_request(argv: list[str]) -> None:
    """
    Runs `hf-unlearn request answer`: writes the letter and the page for the file.

    Raises:
        [`InputError`]: if the record does not hold, or a template cannot be used. Nothing is written then.
    """
    from ..publication.answer import FILE_PAGE, LETTER, write_answer

    parser = argparse.ArgumentParser(
        prog="hf-unlearn request answer", description="Answer a request from the record of its run."
    )
    parser.add_argument("folder", help="The --output_dir of the run.")
    parser.add_argument("--contact", help="Whom to ask: a sentence for the letter.")
    parser.add_argument(
        "--output_dir", help="Where letter and page go; default: the folder `answer` in that of the run."
    )
    parser.add_argument("--letter_template", default=LETTER, help="Jinja template of the letter.")
    parser.add_argument("--file_template", default=FILE_PAGE, help="Jinja template of the page for the file.")
    args = parser.parse_args(argv)
    output_dir = args.output_dir or Path(args.folder) / "answer"
    letter, page = write_answer(args.folder, output_dir, args.contact, args.letter_template, args.file_template)
    print(f"The letter to the person: {letter}. Read it before you send it.")
    print(f"The page for the file: {page}")


def new_request(path: Path) -> None:
    """
    Asks for the fields of a request, and writes the request file.

    Args:
        path (`Path`):
            The file to write.

    Raises:
        [`InputError`]: if the file exists, or if the input ends before the last answer. Nothing is written then.
    """
    if path.exists():
        raise InputError("file", f"{str(path)!r} exists already. Choose another name.")
    if not path.absolute().parent.is_dir():
        raise InputError("file", f"there is no folder {str(path.parent)!r}.")
    print("An empty answer takes what stands in brackets. Lists are separated by commas.")
    values = {
        "id": ask("id", "Name of the request, which is published", f"request-{uuid.uuid4().hex[:8]}"),
        "date": ask("date", "Its date", date.today().isoformat()),
    }
    values |= {
        "deadline": ask("deadline", "Day by which it must be answered (kept here)", known={"date": values["date"]}),
        "requester": ask("requester", "Reference to whoever asks, no name (kept here)"),
        "reason": ask("reason", "Reason (kept here)"),
        "model": ask("model", "Model that is to forget, hub id or folder"),
        "model_revision": ask("model_revision", "Revision of the model"),
        "dataset": ask("dataset", "Dataset that it was trained on, hub id or folder"),
        "dataset_revision": ask("dataset_revision", "Revision of the dataset"),
    }
    print("What is to be forgotten?")
    for kind, meaning in KINDS.items():
        print(f"  {kind}: {meaning}")
    kind = ask_until("One of them", "classes", one_of_kinds)
    if kind == "column":
        values["column"] = ask("column", "Name of the column", needed=True)
        values["values"] = ask("values", "Values of it", needed=True)
    elif kind == "images":
        hashes = ask_until("Paths of the images", None, hashes_of_files)
        values |= hashes
    else:
        values[kind] = ask(kind, KINDS[kind], needed=True)
        if kind == "ids":
            values["id_column"] = ask("id_column", "Column that holds them; empty for file names")
    ForgetRequest.from_dict({key: value for key, value in values.items() if value is not None}).to_file(path)
    print(f"Written to {path}. Next: hf-unlearn request check {path}")


def ask(
    field: str, prompt: str, default: str | None = None, needed: bool = False, known: dict[str, str] | None = None
) -> Any:
    """
    Asks for one field of a request until the answer fits the schema.

    Args:
        field (`str`):
            Name of the field.
        prompt (`str`):
            The question.
        default (`str`, *optional*):
            The answer that an empty line stands for.
        needed (`bool`, *optional*, defaults to `False`):
            Whether the field must have a value.
        known (`dict[str, str]`, *optional*):
            Fields that were answered before, which the value must fit.

    Returns:
        The value of the field, or `None` if it is left out.
    """

    def parse(answer: str) -> Any:
        value: Any = answer or None
        if value is None and needed:
            raise InputError(field, "is needed.")
        if field in ("classes", "values", "ids", "indices") and value is not None:
            value = [part.strip() for part in value.split(",") if part.strip()]
            if field == "indices":
                wrong = [part for part in value if not part.isdecimal()]
                if wrong:
                    raise InputError(field, f"{wrong[0]!r} is not a row number.")
                value = [int(part) for part in value]
        if value is not None:
            # Adds what a complete request needs, so that only this field can be wrong.
            others = {"column": {"values": ["x"]}, "values": {"column": "x"}, "id_column": {"ids": ["x"]}}
            complete = others.get(field, {} if field in ("classes", "ids", "indices") else {"classes": ["x"]})
            ForgetRequest.from_dict({field: value, **complete, **(known or {})})
        return value

    return ask_until(prompt, default, parse)


def ask_until(prompt: str, default: str | None, parse: Callable[[str], Any]) -> Any:
    """
    Asks until the answer can be parsed. `parse` raises [`InputError`] for a wrong answer, and its message is shown.
    """
    while True:
        try:
            answer = input(f"{prompt}{f' [{default}]' if default else ''}: ").strip() or default or ""
        except EOFError as error:
            raise InputError("request", "the answers ended early; nothing was written.") from error
        try:
            return parse(answer)
        except InputError as error:
            print(f"  {error.message}")


def one_of_kinds(answer: str) -> str:
    if answer not in KINDS:
        raise InputError("request", f"got {answer!r}. Valid: {listing(KINDS)}.")
    return answer


def hashes_of_files(answer: str) -> dict[str, list[str]]:
    """
    Hashes image files.

    Args:
        answer (`str`):
            Paths of the files, separated by commas.

    Returns:
        `dict[str, list[str]]`: `image_sha256` and, if the library `imagehash` is installed, `image_phash`.

    Raises:
        [`InputError`]: if a file does not exist or is not an image.
    """
    from ..data.image_dataset import decode_image, to_rgb

    exact, near = [], []
    for name in [part.strip() for part in answer.split(",") if part.strip()]:
        if not Path(name).is_file():
            raise InputError("files", f"there is no file {name!r}.")
        image = decode_image({"path": name, "bytes": None})
        if image is None:
            raise InputError("files", f"{name!r} is no image that can be read.")
        exact.append(pixel_sha256(to_rgb(image)))
        try:
            near.append(perceptual_hash(to_rgb(image)))
        except InputError:
            # `imagehash` is optional. Without it the request finds exact copies only.
            continue
    if not exact:
        raise InputError("files", "name at least one image.")
    return {"image_sha256": exact, **({"image_phash": near} if near else {})}


def check_request(argv: list[str]) -> None:
    """
    Runs `hf-unlearn request check`: prints how many images a request names. Nothing is written.

    Raises:
        [`InputError`]: if the request or the data cannot be used, or if the request names something that the data
            lack.
    """
    import datasets
    from transformers import HfArgumentParser

    from ..data.image_dataset import find_image_column
    from ..data.labels import find_label_column
    from ..data.splits import matching_rows
    from ..data.streaming import StreamedRows
    from .arguments import DataArguments, ModelArguments, fill_in
    from .parsing import close_flags
    from .training_data import open_train_and_test

    datasets.disable_progress_bars()
    # No class is of the type that the parser says it takes and gives.
    parser = HfArgumentParser(cast(Any, (ModelArguments, DataArguments)), prog="hf-unlearn request check")
    parser.add_argument("file", help="The request file.")
    parser.add_argument("--near_copies", action="store_true", help="Look for copies that differ in some pixels.")
    parsed: Any = parser.parse_args_into_dataclasses(argv, look_for_args_file=False, return_remaining_strings=True)
    model_args, data_args, args, unknown = parsed
    if unknown:
        raise InputError(unknown[0].lstrip("-"), f"unknown flag. Close: {listing(close_flags(unknown[0], parser))}.")
    request = ForgetRequest.from_file(args.file)
    fill_in(request, model_args, data_args)
    train, test = open_train_and_test(data_args, model_args)
    if train is None:
        raise InputError("dataset_name", "is missing: the data that the request is to be checked against.")
    image_column = find_image_column(train, data_args.image_column_name)
    if data_args.streaming and args.near_copies:
        raise InputError("streaming", "cannot be combined with --near_copies: every image is compared.")
    if isinstance(train, StreamedRows):
        train = train.columns_for(request, data_args.label_column_name)
    if isinstance(test, StreamedRows):
        test = test.columns_for(request, data_args.label_column_name)
    label_column = find_label_column(train, data_args.label_column_name, classes=request.classes)
    print(f"Request {request.id or args.file}{f' of {request.date}' if request.date else ''}: {request.describe()}.")

    rows = {}
    try:
        rows["train"] = matching_rows(train, request, label_column, image_column)
    except InputError:
        if not args.near_copies or request.kind != "image_sha256":
            raise
        rows["train"] = matching_rows(train, request, label_column, image_column, every_value=False)
    # Row numbers and random choices refer to the training split only.
    if test is not None and request.kind not in ("indices", "random"):
        if request.kind != "column" or request.column in test.column_names:
            rows["test"] = matching_rows(test, request, label_column, image_column, every_value=False)
    counts = [f"{len(rows['train'])} rows of train", *([f"{len(rows['test'])} of test"] if "test" in rows else [])]
    print(f"matches {', '.join(counts)}")
    if len(rows["train"]) == len(train):
        print("That is all of the training split: nothing would be retained.")
    if args.near_copies:
        report_near_copies(request, {"train": train, "test": test}, rows, image_column)


def report_near_copies(
    request: ForgetRequest, splits: "dict[str, Dataset | None]", rows: dict[str, list[int]], image_column: str
) -> None:
    """
    Prints the images that look like those of the request but are not named by it: their perceptual hashes differ in at
    most [`~request.image_hash.NEAR`] bits.

    Args:
        request ([`ForgetRequest`]):
            The request.
        splits (`dict[str, Dataset | None]`):
            `train` and `test`.
        rows (`dict[str, list[int]]`):
            By split, the rows that the request names.
        image_column (`str`):
            The column of the images.
    """
    from ..data.image_dataset import hash_images

    hashes = {
        split: hash_images(dataset, image_column, perceptual_hash)
        for split, dataset in splits.items()
        if dataset is not None
    }
    in_data = [hashes["train"][row] for row in rows["train"]]
    wanted = {*(request.image_phash or []), *(value for value in in_data if value is not None)}
    for split, values in hashes.items():
        others = set(range(len(values))) - set(rows.get(split, []))
        near = [
            row
            for row in sorted(others)
            if (value := values[row]) is not None and any(differing_bits(value, one) <= NEAR for one in wanted)
        ]
        print(f"near copies that the request does not cover: {len(near)} in {split}")
        if near:
            print(f"  rows {listing(near, 20)}")
