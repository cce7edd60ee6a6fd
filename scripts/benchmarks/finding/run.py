"""
How much of what is looked for `hf-unlearn find` finds at the threshold that it suggests; docs/finding.md:

    python -m scripts.benchmarks.finding.run --faces faces.parquet --faces_model faces-model \\
        --imagenet imagenet --model mobilenet-v2

--faces and --faces_model are those of train_faces.py. --imagenet is a folder with `imagenette-train.parquet`, photographs
of ten classes; --model, a folder or a hub id, has these classes and no person. What the models see is kept in --cache_dir.
Writes the files of docs/finding/ and the tables of the page. The sheet there is of handwritten digits.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_unlearn import ForgetRequest
from hf_unlearn.commands.demo import load_digits
from hf_unlearn.commands.demo import train as train_on_digits
from hf_unlearn.commands.main import main as hf_unlearn
from hf_unlearn.data.image_dataset import ImageDataset, to_rgb
from hf_unlearn.evaluation.find import (
    cosines_of,
    feature_blocks,
    features_of,
    fewest_differing_bits,
    hash_block,
    hashes_of_examples,
    suggest_threshold,
)
from hf_unlearn.publication.contact_sheet import COLUMNS, SIDE
from hf_unlearn.request.image_hash import NEAR
from scripts.benchmarks.finding.train_faces import NUM_LEARNED, place_in_class
from scripts.benchmarks.methods.make_tables import fill
from scripts.benchmarks.networks import be_quiet
from scripts.benchmarks.results import markdown, new_figure, read_rows, save_figure, write_rows


NUM_EXAMPLES = 3
TRIALS = 10
NUM_COPIED = 60
# The threshold's rule was chosen on the persons before.
FIRST_KEPT_ASIDE = 9


# ---- What the models see ----


def load(name: str):
    return AutoModelForImageClassification.from_pretrained(name).eval(), AutoImageProcessor.from_pretrained(name)


def read_features(options, name: str, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Features and perceptual hashes of all images."""
    blocks = list(feature_blocks(*load(name), data, "image", 64, options.cache_dir))
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


# ---- Three photographs ----


def search(features: np.ndarray, wanted: np.ndarray, examples: np.ndarray) -> dict:
    """Finds what is wanted from examples among all other rows."""
    others = np.ones(len(wanted), bool)
    others[examples] = False
    scores = cosines_of(features[others], features[examples]).mean(axis=1)
    taken, wanted = scores >= suggest_threshold(scores), wanted[others]
    in_order = wanted[np.argsort(-scores, kind="stable")].cumsum()
    precision = in_order / np.arange(1, len(in_order) + 1)
    recall = in_order / wanted.sum()
    return {
        "taken": int(taken.sum()),
        "precision": (taken & wanted).sum() / max(1, taken.sum()),
        "recall": (taken & wanted).sum() / wanted.sum(),
        "best_f1": (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max(),
        "precision_at_90": precision[recall >= 0.9][0],
    }


def searches(
    case: str, features: np.ndarray, labels: np.ndarray, may_be_example: np.ndarray, wanted: list[int]
) -> list[dict]:
    rows = []
    for label in wanted:
        rng = np.random.default_rng([int(label), 22])
        for trial in range(TRIALS):
            examples = rng.choice(np.flatnonzero((labels == label) & may_be_example), NUM_EXAMPLES, replace=False)
            found = search(features, labels == label, examples)
            rows.append({"case": case, "label": int(label), "trial": trial}
                        | {name: round(float(value), 4) for name, value in found.items()})  # fmt: skip
    return rows


# ---- Near copies ----


def compressed(image: PILImage.Image, quality: int) -> PILImage.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return PILImage.open(file).copy()


def cropped(image: PILImage.Image, share: float) -> PILImage.Image:
    """Without this share of its width and height on each side."""
    width, height = image.size
    return image.crop(
        (round(width * share), round(height * share), round(width * (1 - share)), round(height * (1 - share)))
    )


COPIES: dict[str, Callable] = {
    "JPEG, quality 50": lambda image: compressed(image, 50),
    "half the size": lambda image: image.resize([side // 2 for side in image.size]),
    "5 % cut off each side": lambda image: cropped(image, 0.05),
    "10 % cut off each side": lambda image: cropped(image, 0.1),
    "20 % cut off each side": lambda image: cropped(image, 0.2),
    "mirrored": lambda image: image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT),
    "mirrored, 10 % cut off, JPEG": lambda image: compressed(
        cropped(image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT), 0.1), 50
    ),
}


def find_copies(case: str, name: str, data: Dataset, features: np.ndarray, hashes: np.ndarray) -> list[dict]:
    """For each kind of copy, of how many images it is found among all other images, where it takes the image's place."""
    model, image_processor = load(name)
    chosen = np.random.default_rng(0).choice(len(data), NUM_COPIED, replace=False)
    originals = [PILImage.fromarray(to_rgb(image)) for image in data.select(chosen)["image"]]
    rows = []
    for kind, copy in COPIES.items():
        made = Dataset.from_dict({"image": [copy(image) for image in originals]}, features=Features(image=Image()))
        copies, copy_hashes = features_of(model, ImageDataset(made, image_processor), 64), hash_block(made, "image")
        counts = {"by score": 0, "by hash": 0, "either": 0, "first": 0, "others": []}
        for place, row in enumerate(chosen):
            there = np.concatenate([np.delete(features, row, axis=0), copies[place : place + 1]])
            scores = cosines_of(there, features[row : row + 1])[:, 0]
            taken = scores >= suggest_threshold(scores)
            bits = fewest_differing_bits(
                np.concatenate([np.delete(hashes, row, axis=0), copy_hashes[place : place + 1]]),
                hashes_of_examples([np.asarray(originals[place])]),
            )
            counts["by score"] += taken[-1]
            counts["by hash"] += bits[-1] <= NEAR
            counts["either"] += taken[-1] or bits[-1] <= NEAR
            counts["first"] += scores[-1] == scores.max()
            counts["others"].append(taken[:-1].sum())
        others = counts.pop("others")
        shares = {key: round(float(value) / NUM_COPIED, 4) for key, value in counts.items()}
        rows.append({"case": case, "copy": kind, **shares, "others_median": float(np.median(others))})
    return rows


# ---- The page ----


def tables(options) -> dict[str, str]:
    found, rows = read_rows(options.docs / "found.csv"), []
    for case in dict.fromkeys(row["case"] for row in found):
        of_case = [row for row in found if row["case"] == case]

        def mean(name: str, of_case=of_case) -> str:
            return f"{np.mean([float(row[name]) for row in of_case]):.2f}"

        both = sum(min(float(row["precision"]), float(row["recall"])) >= 0.9 for row in of_case)
        rows.append([case, str(len(of_case)), mean("precision"), mean("recall"), f"{100 * both / len(of_case):.0f} %",
                     mean("best_f1"), mean("precision_at_90")])  # fmt: skip
    header = [
        "looked for, with",
        "searches",
        "precision",
        "recall",
        "both ≥ 0.9",
        "best F1",
        "precision at recall 0.9",
    ]
    copies = [
        [row["case"], row["copy"], *(f"{100 * float(row[name]):.0f}" for name in ("first", "by score", "by hash", "either")),
         f"{float(row['others_median']):.0f}"]
        for row in read_rows(options.docs / "copies.csv")
    ]  # fmt: skip
    copy_header = [
        "among",
        "copy",
        "most alike of all, %",
        "by score, %",
        "by hash, %",
        "by either, %",
        "others (median)",
    ]
    return {"found": markdown(header, rows), "copies": markdown(copy_header, copies)}


def draw(options) -> None:
    """Precision against recall of every search, as points."""
    found = read_rows(options.docs / "found.csv")
    cases = list(dict.fromkeys(row["case"] for row in found))
    figure = new_figure(9, 3)
    for axes, case in zip(figure.subplots(1, len(cases), sharey=True), cases, strict=True):
        of_case = [row for row in found if row["case"] == case]
        x, y = ([float(row[name]) for row in of_case] for name in ("recall", "precision"))
        axes.scatter(x, y, s=14, alpha=0.5)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="recall")
        axes.set_title(case, fontsize=8)
        axes.axhline(0.9, color="grey", linewidth=0.6)
        axes.axvline(0.9, color="grey", linewidth=0.6)
    figure.axes[0].set_ylabel("precision")
    save_figure(figure, options.docs / "found.png")


def draw_sheet(options) -> None:
    """The contact sheet of three fours among handwritten digits, by the command itself."""
    digits = load_digits("class")
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        digits.save_to_disk(str(folder / "digits"))
        train_on_digits(digits["train"], None, folder / "model")
        fours = np.flatnonzero(np.array(digits["test"]["label"]) == 4)[:NUM_EXAMPLES]
        (folder / "photos").mkdir()
        for row in fours:
            digits["test"][int(row)]["image"].save(folder / "photos" / f"{row}.png")
        assert hf_unlearn(["find", str(folder / "photos"), "--model_name_or_path", str(folder / "model"), "--dataset_name",
                           str(folder / "digits"), "--output_dir", str(folder / "found"), "--features_cache_dir",
                           str(folder / "features")]) == 0  # fmt: skip
        number = len(ForgetRequest.from_file(folder / "found" / "request.yaml").image_sha256 or [])
        with PILImage.open(folder / "found" / "contact_sheet.png") as sheet:
            # The whole sheet is long: the examples, the first line, and the two at the border of what is taken.
            top, line, border = 168, SIDE + 44, number // COLUMNS
            parts = [(0, top + line), (top + (border - 1) * line, top + (border + 2) * line)]
            picture = PILImage.new("RGB", (sheet.width, sum(end - start for start, end in parts)), "white")
            y = 0
            for start, end in parts:
                picture.paste(sheet.crop((0, start, sheet.width, end)), (0, y))
                y += end - start
            picture.save(options.docs / "digits_sheet.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True)
    parser.add_argument("--faces_model", required=True)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache_dir", type=Path, default=Path("finding-features"))
    parser.add_argument("--docs", type=Path, default=Path("docs/finding"))
    parser.add_argument("--page", type=Path, default=Path("docs/finding.md"))
    options = parser.parse_args()
    be_quiet()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    faces = load_dataset("parquet", data_files=options.faces, split="train")
    persons = np.array(faces["label"])
    never_seen = place_in_class(torch.tensor(persons)).numpy() >= NUM_LEARNED
    kept_aside = [int(person) for person in np.unique(persons) if person >= FIRST_KEPT_ASIDE]
    nette = load_dataset("parquet", data_files=str(options.imagenet / "imagenette-train.parquet"), split="train")
    classes = np.array(nette["label"])

    by_persons, face_hashes = read_features(options, options.faces_model, faces)
    by_objects, _ = read_features(options, options.model, faces)
    of_nette, nette_hashes = read_features(options, options.model, nette)
    rows = searches("a person, model with the persons as classes", by_persons, persons, never_seen, kept_aside)
    rows += searches("a person, model without them", by_objects, persons, never_seen, kept_aside)
    rows += searches(
        "a class of imagenette, ImageNet model",
        of_nette,
        classes,
        np.ones(len(classes), bool),
        np.unique(classes).tolist(),
    )
    write_rows(options.docs / "found.csv", rows)
    copies = find_copies("faces, model with the persons", options.faces_model, faces, by_persons, face_hashes)
    copies += find_copies("imagenette, ImageNet model", options.model, nette, of_nette, nette_hashes)
    write_rows(options.docs / "copies.csv", copies)
    draw(options)
    draw_sheet(options)
    if options.page.exists():
        options.page.write_text(fill(options.page.read_text(encoding="utf-8"), tables(options)), encoding="utf-8")
