"""The answer to a request, from the record alone: a letter to the person who asked, and a page for the file."""

from datetime import date
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import RECORD
from .record import read_record
from .record_check import verify


TEMPLATES = Path(__file__).parent / "templates"
LETTER, FILE_PAGE = TEMPLATES / "letter.html", TEMPLATES / "file_page.html"
# What a request asked for, by its kind, in words that name nobody: class names and values can be names of persons.
ASKED = {
    "classes": "all images of a kind",
    "class": "all images of a kind",
    "column": "all images with a certain entry in our data",
    "subclass": "all images with a certain entry in our data",
    "random": "images that were drawn at random",
}
NO_CONTACT = "Please ask the office that sent you this letter."


def write_answer(
    folder: str | Path,
    output_dir: str | Path,
    contact: str | None = None,
    letter_template: str | Path = LETTER,
    file_template: str | Path = FILE_PAGE,
) -> list[Path]:
    """
    Writes the letter and the page for the file.

    Args:
        folder (`str` or `Path`):
            The folder of a run.
        output_dir (`str` or `Path`):
            Where both go. Nothing there is overwritten.
        contact (`str`, *optional*):
            Whom to ask, in the letter's own words.
        letter_template, file_template (`str` or `Path`, *optional*):
            Jinja templates. A file is called as its template ends; values are escaped if that is `.html`.

    Returns:
        `list[Path]`: the letter and the page.

    Raises:
        [`InputError`]: if there is no record, if it does not hold, if a template cannot be used, or if a file is there
            already.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    record, checks = read_record(folder / RECORD), verify(folder)
    for check in checks:
        if check.holds is False:
            raise InputError("folder", f"the record does not hold, and nothing is answered from it: {check.text}.")
    facts = letter_facts(record) | {"contact": contact or NO_CONTACT, "today": date.today().isoformat()}
    metrics = sorted({name for result in record["metrics"]["results"].values() for name in result})
    of_file = {"record": record, "checks": checks, "metrics": metrics, "description": record["request"]["description"]}
    pages = {
        output_dir / f"letter{Path(letter_template).suffix}": render(letter_template, facts),
        output_dir / f"file_page{Path(file_template).suffix}": render(file_template, facts | of_file),
    }
    for path in pages:
        if path.exists():
            raise InputError("output_dir", f"{str(path)!r} exists already. Choose another folder.")
    output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


def letter_facts(record: dict) -> dict[str, Any]:
    """
    What the letter may say: nothing that names another person, a record or a path. Class names, other requests of the
    same model and the name of the data are left out.

    Args:
        record (`dict`):
            What [`~publication.record.read_record`] returns.

    Returns:
        `dict`
    """
    results = record["metrics"]["results"]

    def change(metric: str, split: str) -> dict[str, int] | None:
        """How many images a share of a split stands for, before and after; `None` if that was not measured."""
        number = record["metrics"]["splits"].get(split)
        shares = [results.get(model, {}).get(metric) for model in ("original", "unlearned")]
        if number is None or None in shares:
            return None
        before, after = (round(share * number) for share in shares)
        return {"number": number, "before": before, "after": after}

    kind = record["request"]["kind"]
    return {
        "request_id": record["request"]["id"] or "without a number",
        "request_date": record["request"]["date"],
        "asked": ASKED.get(kind, "single images"),
        "whole": ASKED.get(kind) == ASKED["classes"],
        "images": record["forgotten"]["images"],
        "training_images": record["dataset"]["training_images"],
        "ended": record["ended"][:10],
        "model": record["model"]["name"],
        "method": record["method"]["name"],
        "unchanged": record["weights"]["sha256_before"] == record["weights"]["sha256_after"],
        "forget": change("forget_accuracy", "forget"),
        "guess": change("membership_inference", "forget"),
        "others": change("retain_test_accuracy", "retain_test"),
        "record_sha256": record["record_sha256"],
    }


def render(template: str | Path, facts: dict[str, Any]) -> str:
    """
    Fills a template.

    Raises:
        [`InputError`]: if the template does not exist or cannot be used.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    path = Path(template)
    if not path.is_file():
        raise InputError("template", f"there is no file {str(template)!r}.")
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=path.suffix in (".html", ".htm"))
    environment.filters["rounded"] = lambda value: f"{value:.4g}" if isinstance(value, int | float) else "–"
    try:
        return environment.from_string(path.read_text(encoding="utf-8")).render(facts)
    except (TemplateError, UnicodeDecodeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError("template", f"{path.name!r} cannot be used: {reason}") from error
