"""The model card: a template filled with facts from the report. Text that a user wrote around its sections is kept."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..request.forget_request import RequestDumper, RequestLoader
from .report import UnlearningReport
from .search import Search


# Limit of the change elsewhere, for reports without `change_limit`: they were written when this was the only limit.
FIRST_CHANGE_LIMIT = 0.40
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

CAPTIONS = {
    "accuracy.png": "Accuracy on the forgotten and the retained images, before and after",
    "entropy.png": "Entropy of the output: low where the model is sure of its answer",
    "class_accuracy.png": "Accuracy on unseen images of each class",
    "confusion.png": "Answers to unseen images of each class",
    "attacks.png": "How well an attack tells the forget set from unseen images: on the diagonal not at all",
}

# The metrics in the model-index of the card: (split, name).
INDEX = {
    "forget_accuracy": ("forget", "Accuracy on the forget set"),
    "forget_test_accuracy": ("forget_test", "Accuracy on unseen images of what was forgotten"),
    "retain_accuracy": ("retain", "Accuracy on the retained training images"),
    "retain_test_accuracy": ("retain_test", "Accuracy on retained unseen images"),
    "membership_inference": ("forget", "Membership inference on the forget set"),
}

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
SECTION = re.compile(r"<!-- hf-unlearn:begin (\w+) -->\n.*?<!-- hf-unlearn:end \1 -->\n?", re.DOTALL)


# ---- Escaping: text from data, files or the hub must not become YAML, HTML or a link ----


class Markdown(str):
    """Text that is already Markdown. [`plain`] escapes every other string."""


def single_line(text: object) -> str:
    """Removes line breaks, control characters and marks of writing direction; cuts the text at 300 characters."""
    text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in str(text))
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def plain(value: Any) -> Any:
    """
    Escapes a value so that Markdown shows it as plain text: as no HTML, emphasis, formula or link. Numbers and
    [`Markdown`] are returned unchanged.
    """
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    # A backslash could start a formula and becomes a slash. The website of the hub turns every address into a link,
    # escaped or not, unless a space breaks it.
    text = single_line(value).replace("\\", "/").replace("://", ": //").replace("@", " (at) ")
    text = re.sub(r"\bwww\.", "www .", text, flags=re.IGNORECASE)
    return Markdown(re.sub(r"([`*{}\[\]<>#|~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text))


def code(value: object) -> Markdown:
    """A value as inline code. It can also stand in a table."""
    return Markdown("`" + single_line(value).replace("`", "'").replace("|", "\\|") + "`")


def quoted(value: object) -> Markdown:
    """A value in double quotes, for a code block."""
    return Markdown(json.dumps(single_line(value).replace("`", "'"), ensure_ascii=False))


def shell(value: object) -> Markdown:
    """
    A name for a shell command in a code block. Characters other than ASCII letters, digits, `_`, `.`, `/` and `-`
    become dashes.
    """
    return Markdown(re.sub(r"[^\w./-]", "-", single_line(value), flags=re.ASCII))


def model_link(name: str) -> Markdown:
    """A link to a model or dataset on the hub, or the name as inline code if it is not on the hub."""
    return Markdown(f"[{name}](https://huggingface.co/{name})") if is_hub_id(name) else code(name)


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form `namespace/name` of a repository on the hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name or "", re.ASCII) is not None


def is_timm(architecture: str) -> bool:
    """Whether a model is a timm model, which transformers loads through a wrapper."""
    return architecture.startswith("TimmWrapper")


# ---- The model card ----


@dataclass
class UnlearningCardData:
    """
    The facts for the front matter of a model card.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        name (`str`):
            Name of the unlearned model.
    """

    report: UnlearningReport
    name: str

    def front_matter(self) -> dict:
        """The metadata that the hub reads. It has no widget examples, since they could show forgotten images."""
        from huggingface_hub import EvalResult, ModelCardData

        run = self.report.run
        dataset = single_line(run["dataset"] or "local images")
        metrics = self.report.results["unlearned"]["metrics"]
        results = [
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type="accuracy" if metric.endswith("accuracy") else metric,
                metric_name=name,
                metric_value=round(metrics[metric], 6),
            )
            for metric, (split, name) in INDEX.items()
            if metric in metrics
        ]
        base = run["lineage"][0]["model"]["name"] if run["lineage"] else run["model"]
        base_is_on_hub = is_hub_id(base)
        relation: dict[str, Any] = {"base_model_relation": "finetune"} if base_is_on_hub else {}
        return ModelCardData(
            base_model=base if base_is_on_hub else None,
            **relation,
            datasets=[dataset] if is_hub_id(dataset) else None,
            library_name="timm" if is_timm(run["architecture"]) else "transformers",
            pipeline_tag="image-classification",
            tags=["unlearning", "machine-unlearning", f"{single_line(run['method']).lower()}-unlearning"],
            metrics=["accuracy"],
            model_name=self.name,
            eval_results=results or None,
        ).to_dict()


def render_model_card(
    report: UnlearningReport, repo_id: str, figures: list[str], template: str | Path = TEMPLATE
) -> str:
    """
    Renders the model card.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        repo_id (`str`):
            The name with which `pipeline` loads the model. Its last part is the title of the card.
        figures (`list[str]`):
            Paths of the figures, relative to the card.
        template (`str` or `Path`, *optional*, defaults to the template of the package):
            Jinja template. `{{ front_matter }}` stands for the front matter. Each section stands between
            `<!-- hf-unlearn:begin NAME -->` and `<!-- hf-unlearn:end NAME -->`.

    Returns:
        `str`: front matter and Markdown.

    Raises:
        [`InputError`]: if the template cannot be used.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    # `finalize` escapes every value that a template shows, unless it is marked as Markdown.
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=plain)
    environment.filters |= {
        "code": code,
        "quoted": quoted,
        "shell": shell,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    run = report.run
    # The first model of the lineage. Without earlier requests it is the model that this run unlearned.
    origin = (
        run["lineage"][0]["model"] if run["lineage"] else {"name": run["model"], "revision": run["model_revision"]}
    )
    name = single_line(repo_id).split("/")[-1]
    facts = {
        "front_matter": Markdown(to_yaml(UnlearningCardData(report, name).front_matter())),
        "name": name,
        "repo_id": repo_id,
        "base": model_link(origin["name"]),
        "base_revision": origin["revision"],
        "description": run["request"]["description"],
        "request_id": run["request"].get("id"),
        "request_date": run["request"].get("date"),
        "num_forget": report.splits["forget"],
        "method": run["method"],
        "paper": Markdown(f"[paper]({run['paper']})")
        if re.fullmatch(r"https://arxiv\.org/abs/[\d.]+", run["paper"] or "")
        else "no paper",
        "data_used": run.get("data_used"),
        "models": report.models(),
        "columns": report.columns(),
        "tables": report.tables(),
        "missing": report.not_measured(),
        "splits": report.splits,
        "sampled": report.sampled,
        "figures": [(Markdown(figure), CAPTIONS[Path(figure).name]) for figure in figures],
        "hyperparameters": {name: value for name, value in run["hyperparameters"].items() if value is not None},
        "step": Markdown(Search(**run["step"]).describe()) if run["step"] else None,
        "likely_loss": Search(**run["step"]).likely_loss(run["change_elsewhere"]) if run["step"] else None,
        "step_kind": (run["step"] or {}).get("kind"),
        "change_elsewhere": f"{run['change_elsewhere']:.3f}",
        # Old reports hold no limit, see `FIRST_CHANGE_LIMIT`.
        "change_limit": run.get("change_limit", FIRST_CHANGE_LIMIT),
        "accuracy_lost": f"{run['accuracy_lost']:.1f}" if run.get("accuracy_lost") is not None else None,
        "passes": run["passes"],
        "updates": run["updates"],
        "distance_moved": f"{run['distance_moved']:.2e}" if run["distance_moved"] is not None else "not measured",
        "seconds": run["seconds"],
        "energy_kwh": run["energy_kwh"],
        "versions": run["environment"],
        "device": run["environment"]["device"],
        "sha_before": run["weights_sha256_before"],
        "sha_after": run["weights_sha256_after"],
        "lineage": run["lineage"],
        "sequence": sequence_table(run["sequence"]) if run["sequence"] else None,
    }
    try:
        return environment.from_string(Path(template).read_text(encoding="utf-8")).render(facts)
    except (TemplateError, OSError, UnicodeDecodeError) as error:
        raise InputError("template", f"{str(template)!r} cannot be used: {' '.join(str(error).split())}.") from error


def sequence_table(sequence: dict) -> dict:
    """
    The columns and rows of the table of several requests.

    Args:
        sequence (`dict`):
            What [`~evaluation.sequence.Tracker.table`] returns.

    Returns:
        `dict`: `columns`, the ids of the requests, and `rows`, each a pair of the id of the request that was carried
        out (`"before"` for the original model) and the accuracies in percent.
    """
    columns = [*sequence["requests"], "retain", "retain_test"]
    rows = []
    for step in sequence["steps"]:
        values = [step["accuracy"].get(name) for name in columns]
        shares = ["–" if value is None else f"{100 * value:.1f}" for value in values]
        rows.append((step["after"] or "before", shares))
    return {"columns": sequence["requests"], "rows": rows}


def write_model_card(
    folder: str | Path, repo_id: str | None = None, template: str | Path = TEMPLATE, keep: str | None = None
) -> Path:
    """
    Writes `README.md` into the folder of a run, from its `report.json` and its figures alone. If the folder already
    has a card, the text around its generated sections is kept, and so are the keys of its front matter that are not
    generated.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        repo_id (`str`, *optional*, defaults to the name of the folder):
            The repository on the hub.
        template (`str` or `Path`, *optional*, defaults to the template of the package):
            See [`render_model_card`].
        keep (`str`, *optional*, defaults to the text of the card in the folder):
            Text of an older card. What the user wrote in it is kept.

    Returns:
        `Path`: the card.

    Raises:
        [`InputError`]: if there is no report, or if it lacks something that the card needs.
    """
    folder = Path(folder)
    report = UnlearningReport.from_json(folder / "report.json")
    repo_id = repo_id or folder.absolute().name
    figures = [f"figures/{figure}" for figure in CAPTIONS if (folder / "figures" / figure).is_file()]
    try:
        text = render_model_card(report, repo_id, figures, template)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "report", f"{folder / 'report.json'} misses what a card says ({type(error).__name__}: {error})."
        ) from error
    card = folder / "README.md"
    if keep is None and card.is_file():
        keep = card.read_text(encoding="utf-8")
    card.write_text(merge_cards(keep, text) if keep else text, encoding="utf-8")
    return card


def merge_cards(old: str, new: str) -> str:
    """
    The text of the new card with what a user wrote into the old one: the text around its generated sections, and keys
    of its front matter. An old card without generated sections was written by the user alone; its text follows after
    the new card.
    """
    old_front, old_body = split_front_matter(old)
    new_front, new_body = split_front_matter(new)
    tags = old_front.get("tags")
    own_tags = tags if isinstance(tags, list) else []
    new_front["tags"] = [*new_front["tags"], *(tag for tag in own_tags if tag not in new_front["tags"])]
    front = new_front | {
        key: value for key, value in old_front.items() if key not in GENERATED_KEYS and key not in new_front
    }
    sections = {match[1]: match[0].rstrip("\n") + "\n" for match in SECTION.finditer(new_body)}
    if not SECTION.search(old_body):
        body = new_body.rstrip("\n") + "\n\n" + old_body.lstrip("\n")
    else:
        left = dict(sections)
        body = SECTION.sub(lambda match: left.pop(match[1], ""), old_body)
        # A section that the old card does not have goes behind the section that precedes it in the new card.
        before = None
        for name, section in sections.items():
            if name in left:
                at = body.index(sections[before]) + len(sections[before]) if before else 0
                body = body[:at] + "\n" + section + body[at:]
            before = name
    return f"---\n{to_yaml(front)}\n---\n{body if body.startswith(chr(10)) else chr(10) + body}"


# Keys of the front matter that are always taken from the new card.
GENERATED_KEYS = {
    "base_model",
    "base_model_relation",
    "datasets",
    "library_name",
    "pipeline_tag",
    "metrics",
    "model-index",
}


def split_front_matter(card: str) -> tuple[dict, str]:
    """
    Splits a card into the metadata of its front matter and its text. The metadata is empty if there is no front
    matter, or if it is not the plain YAML that [`~request.forget_request.RequestLoader`] reads.
    """
    # A card that was edited on the website of the hub can have Windows line breaks.
    card = card.replace("\r\n", "\n")
    match = FRONT_MATTER.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.load(match[1], RequestLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        metadata = None
    return metadata if isinstance(metadata, dict) else {}, card[match.end() :]


def to_yaml(metadata: dict) -> str:
    """Writes metadata as YAML, without the lines of dashes around a front matter."""
    return yaml.dump(metadata, Dumper=CardDumper, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")


class CardDumper(RequestDumper):
    """
    Writes YAML without aliases, which [`~request.forget_request.RequestLoader`] does not read: a value that occurs
    twice is written twice.
    """

    def ignore_aliases(self, data: object) -> bool:
        return True


def card_sha256(card: str) -> str:
    """
    SHA-256 of what a card states: the results in its front matter and its generated sections. Text that a user wrote
    around them does not change it.

    Args:
        card (`str`):
            The text of `README.md`.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    metadata, body = split_front_matter(card)
    stated = [metadata.get("model-index"), [match[0].rstrip("\n") for match in SECTION.finditer(body)]]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
