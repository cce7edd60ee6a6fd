"""The command `hf-unlearn find`: from a few example pictures to a contact sheet and a request file."""

import uuid
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from datasets import ClassLabel, Dataset, Image
from huggingface_hub.constants import HF_HOME

from ..data.folders import load_image_folder
from ..data.image_dataset import decode_image, find_image_column, to_rgb
from ..data.labels import find_label_column, read_column
from ..data.splits import matching_rows
from ..errors import InputError, listing
from ..evaluation.find import Found, find_images
from ..publication.contact_sheet import FoundRow, write_html, write_png
from ..publication.facts import public_name
from ..request.forget_request import ForgetRequest
from ..request.image_hash import perceptual_hash, pixel_sha256
from ..terminal import say
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from .arguments import DataArguments, ModelArguments
from .loading import load_model
from .training_data import load_train_and_test


if TYPE_CHECKING:
    from transformers import HfArgumentParser


SHEET, PICTURE, REQUEST = "contact_sheet.html", "contact_sheet.png", "request.yaml"
# Images below the threshold that the sheet shows: as many as above, within these bounds.
FEWEST_BELOW, MOST_BELOW = 30, 200
MOST_ROWS = 5000


@dataclass
class FindArguments:
    """What to look for, and where the sheet and the request go."""

    _argument_group_name = "find"

    output_dir: str = field(metadata={"help": "New folder for the contact sheet and the request file."})
    example_rows: list[int] | None = field(
        default=None, metadata={"help": "Row numbers of --train_split whose images are examples, too."}
    )
    only_label: list[str] | None = field(
        default=None, metadata={"help": "Look among the images with these labels only, by name or id."}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "Score from which on an image is taken; default: suggested from the scores."}
    )
    features_cache_dir: str = field(
        default=str(Path(HF_HOME) / "hf_unlearn" / "features"),
        metadata={"help": "Keeps what the model sees of the images, for the next search. Delete it with the images."},
    )
    batch_size: int = field(default=64, metadata={"help": "Images per forward pass."})
    id: str | None = field(default=None, metadata={"help": "Name of the request, which is published."})
    date: str | None = field(default=None, metadata={"help": "Date of the request; default: today."})
    deadline: str | None = field(default=None, metadata={"help": "Day by which it must be answered; stays here."})
    requester: str | None = field(default=None, metadata={"help": "Reference to whoever asks, no name; stays here."})


def find(
    examples: list[str], model_args: ModelArguments, data_args: DataArguments, find_args: FindArguments
) -> ForgetRequest | None:
    """
    Finds the rows of the training split that are most like the examples, and writes a contact sheet (HTML and PNG) and
    the request file of the rows from the threshold on.

    Args:
        examples (`list[str]`):
            Image files and folders of images.
        model_args ([`~commands.arguments.ModelArguments`]), data_args ([`~commands.arguments.DataArguments`]):
            The model whose features are compared, and the data.
        find_args ([`FindArguments`]):
            What to look for, and where the sheet and the request go.

    Returns:
        [`ForgetRequest`] or `None`: `None` if no row reaches the threshold; there is no request file then.

    Raises:
        [`InputError`]: if an input cannot be used. Nothing is written then.
    """
    folder = Path(find_args.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("output_dir", f"{str(folder)!r} exists and is not empty. Choose another.")
    pictures = read_examples(examples)
    fields = request_fields(model_args, data_args, find_args)
    model, image_processor = load_model(model_args)
    train, _ = load_train_and_test(data_args, model_args)
    if train is None:
        raise InputError("dataset_name", "is missing: the data in which to look (or --train_dir).")
    image_column = find_image_column(train, data_args.image_column_name)
    label_column = find_label_column(train, data_args.label_column_name, id2label_of(model))
    raw = train.cast_column(image_column, Image(decode=False))
    pictures += [image_of_row(raw, row, image_column) for row in find_args.example_rows or []]
    if not pictures:
        raise InputError("examples", "name at least one picture: files, folders, or --example_rows.")
    rows = np.arange(len(train))
    if find_args.only_label is not None:
        if label_column is None:
            raise InputError("only_label", "the data have no labels. Name their column with --label_column_name.")
        rows = np.array(matching_rows(train, ForgetRequest(classes=list(find_args.only_label)), label_column))

    device = UnlearningConfig(output_dir="unused").device
    found = find_images(
        model.to(device),
        image_processor,
        train if len(rows) == len(train) else train.select(rows),
        pictures,
        image_column,
        batch_size=find_args.batch_size,
        features_cache_dir=find_args.features_cache_dir,
    )
    unread = rows[np.isnan(found.scores)]
    if len(unread):
        say(f"{len(unread)} images cannot be read and were not compared: rows {listing(unread)}.")
    if found.copies is None:
        say("Copies are not looked for by their perceptual hash: pip install 'hf-unlearn[near-copies]'.")
    threshold = found.threshold if find_args.threshold is None else find_args.threshold
    shown = rows_to_show(found, threshold)
    labels = label_names(train, label_column)
    sheet = [
        found_row(
            raw, int(rows[place]), image_column, labels, float(found.scores[place]), is_copy(found, place), threshold
        )
        for place in shown
    ]
    kept = [row for row in sheet if row.kept]

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    suggestion = f"Those with a score of {threshold:.3f} or more, and copies of the examples, are in it now."
    data_name = public_name(data_args.dataset_name or data_args.train_dir) or ""
    write_html(
        folder / SHEET,
        sheet,
        pictures,
        threshold=threshold,
        suggestion=suggestion,
        request=fields,
        data_name=data_name,
    )
    write_png(folder / PICTURE, sheet, pictures)
    copies = sum(row.copy_of is not None for row in kept)
    say(f"{len(kept)} of {len(rows):,} images have a score of {threshold:.3f} or more"
        f"{f' or are copies of an example ({copies})' if copies else ''}.")  # fmt: skip
    if find_args.threshold is None:
        say("The score is a suggestion, from how the scores are spread. Look at every image.")
    for line in whole_labels(train, label_column, [row.number for row in kept]):
        say(line)
    say(f"Open {folder / SHEET} in a browser, keep or leave out, and save the request file.")
    if not kept:
        return None
    request = ForgetRequest(**fields, **hashes_of(kept))
    request.to_file(folder / REQUEST)
    flags = f" --train_dir {data_args.train_dir}" if data_args.train_dir is not None else ""
    say(
        f"The request file as suggested: {folder / REQUEST}. Next: hf-unlearn run --forget_request {folder / REQUEST}{flags}"
    )
    return request


def read_examples(names: list[str]) -> list[np.ndarray]:
    """
    Reads image files, and all images of folders.

    Returns:
        `list[np.ndarray]`: RGB values, each of shape `(H, W, 3)`, uint8.

    Raises:
        [`InputError`]: if a file or folder does not exist, or an image cannot be read.
    """
    files = []
    for name in names:
        if Path(name).is_dir():
            images = load_image_folder("examples", name).cast_column("image", Image(decode=False))
            files += [row["path"] for row in images["image"]]
        elif Path(name).is_file():
            files.append(name)
        else:
            raise InputError("examples", f"there is no file or folder {name!r}.")
    pictures = []
    for file in files:
        image = decode_image({"path": str(file), "bytes": None})
        if image is None:
            raise InputError("examples", f"{str(file)!r} is no image that can be read.")
        pictures.append(to_rgb(image))
    return pictures


def image_of_row(raw: Dataset, row: int, image_column: str) -> np.ndarray:
    """RGB values of a row of data whose images are not decoded."""
    if not 0 <= row < len(raw):
        raise InputError("example_rows", f"{row} is out of range: rows run from 0 to {len(raw) - 1}.")
    image = decode_image(raw[row][image_column])
    if image is None:
        raise InputError("example_rows", f"the image of row {row} cannot be read.")
    return to_rgb(image)


def request_fields(model_args: ModelArguments, data_args: DataArguments, find_args: FindArguments) -> dict[str, Any]:
    """
    The fields of the request, without those that name images.

    Raises:
        [`InputError`]: if one of them does not fit the schema.
    """
    fields: dict[str, Any] = {
        "id": find_args.id or f"request-{uuid.uuid4().hex[:8]}",
        "date": find_args.date or date.today().isoformat(),
        "deadline": find_args.deadline,
        "requester": find_args.requester,
        "model": model_args.model_name_or_path,
        "model_revision": model_args.model_revision if model_args.model_revision != "main" else None,
        "dataset": data_args.dataset_name,
        "dataset_revision": data_args.dataset_revision,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    # The hash stands for those to come.
    ForgetRequest(**fields, image_sha256=["0" * 64])
    return fields


def rows_to_show(found: Found, threshold: float) -> list[int]:
    """
    Places of the images that the sheet shows, the most alike first: those that reach the threshold, copies of the
    examples, and the next ones below.

    Raises:
        [`InputError`]: if too many reach the threshold to be looked at.
    """
    order = np.argsort(-found.scores, kind="stable")
    order = order[~np.isnan(found.scores[order])]
    above = int((found.scores >= threshold).sum())
    if above > MOST_ROWS:
        raise InputError(
            "threshold", f"{above:,} images have a score of {threshold:.3f} or more; a sheet shows {MOST_ROWS:,}."
        )
    shown = order[: above + min(max(above, FEWEST_BELOW), MOST_BELOW)]
    if found.copies is not None:
        shown = np.concatenate([shown, [place for place in order[len(shown) :] if found.copies[place]]])
    return [int(place) for place in shown]


def is_copy(found: Found, place: int) -> bool:
    return found.copies is not None and bool(found.copies[place])


def found_row(
    raw: Dataset, row: int, image_column: str, labels: list[str] | None, score: float, copy: bool, threshold: float
) -> FoundRow:
    """A row of the data as the sheet shows it."""
    image = image_of_row(raw, row, image_column)
    try:
        phash = perceptual_hash(image)
    except InputError:
        # `imagehash` is optional.
        phash = None
    return FoundRow(
        number=row,
        score=score,
        image=image,
        sha256=pixel_sha256(image),
        kept=score >= threshold or copy,
        phash=phash,
        label=labels[row] if labels is not None else None,
        copy_of="copy of an example, by its perceptual hash" if copy else None,
    )


def label_names(dataset: Dataset, label_column: str | None) -> list[str] | None:
    """The label of each row in words; `None` without labels."""
    if label_column is None:
        return None
    feature = dataset.features[label_column]
    is_class = isinstance(feature, ClassLabel)
    return [
        feature.int2str(value) if is_class and value is not None and value >= 0 else str(value)
        for value in read_column(dataset, label_column)
    ]


def whole_labels(dataset: Dataset, label_column: str | None, rows: list[int]) -> list[str]:
    """
    Sentences that say which labels the rows have, where they are all of one or more, or nearly so. A class is better
    asked for as one: more methods can forget it.
    """
    labels = label_names(dataset, label_column)
    if labels is None or not rows:
        return []
    lines = []
    for label in sorted({labels[row] for row in rows}):
        inside, whole = sum(labels[row] == label for row in rows), labels.count(label)
        if 2 * inside >= whole:
            lines.append(
                f"{inside} of the {whole} images with the label {label} are among them. If all of them are meant, ask for "
                f"the class instead: classes: [{label}]."
            )
    return lines


def hashes_of(rows: list[FoundRow]) -> dict[str, Any]:
    """The fields of a request that name these rows by their pixels, as the sheet writes them."""
    phashes = sorted({row.phash for row in rows if row.phash is not None})
    return {
        "image_sha256": sorted({row.sha256 for row in rows}),
        **({"image_phash": phashes} if phashes else {}),
    }


def make_parser() -> "HfArgumentParser":
    """Makes the parser of the flags of `hf-unlearn find`."""
    from transformers import HfArgumentParser

    # No class is of the type that the parser says it takes.
    parser = HfArgumentParser(
        cast(Any, (ModelArguments, DataArguments, FindArguments)),
        prog="hf-unlearn find",
        usage="hf-unlearn find EXAMPLE [EXAMPLE ...] --model_name_or_path MODEL --dataset_name DATA --output_dir OUT [flags]",
        description="Find the images of a dataset that are most like a few examples, and write a contact sheet and a "
        "request file.",
    )
    parser.add_argument("models", nargs="*", metavar="EXAMPLE", help="Image files, or folders of images.")
    return parser
