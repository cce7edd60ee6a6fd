"""The model card: facts from the report, put into a template; what users write around its sections stays."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import InputError
from ..request.forget_request import RequestDumper, RequestLoader
from .report import UnlearningReport
from .search import Search


# Of reports that do not say it: all were written with the first limit.
FIRST_CHANGE_LIMIT = 0.40
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

CAPTIONS = {
    "accuracy.png": "Accuracy on the forgotten and the retained images, before and after",
    "entropy.png": "Entropy of the output: low where the model is sure of its answer",
    "class_accuracy.png": "Accuracy on unseen images of each class",
    "confusion.png": "Answers to unseen images of each class",
    "attacks.png": "How well an attack tells the forget set from unseen images: on the diagonal not at all",
}

# Where each metric was measured, for the model-index: (split, name of the metric).
INDEX = {
    "forget_accuracy": ("forget", "Accuracy on the forget set"),
    "forget_test_accuracy": ("forget_test", "Accuracy on unseen images of what was forgotten"),
    "retain_accuracy": ("retain", "Accuracy on the retained training images"),
    "retain_test_accuracy": ("retain_test", "Accuracy on retained unseen images"),
    "membership_inference": ("forget", "Membership inference on the forget set"),
}

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
SECTION = re.compile(r"<!-- hf-unlearn:begin (\w+) -->\n.*?<!-- hf-unlearn:end \1 -->\n?", re.DOTALL)


# ---- What comes from data, files or the hub cannot become YAML, HTML or a link ----


class Markdown(str):
    """Text that is meant as Markdown. Every other string is shown as it is."""


def single_line(text: str) -> str:
    """Text without line breaks, control characters and marks that change the direction of writing; at most 300 characters."""
    text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in str(text))
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def plain(value):
    """
    A value as Markdown that shows it and does nothing else: no HTML, emphasis, formula, link or address that a page
    would turn into a link. Numbers stay as they are.
    """
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    # A backslash could open a formula, and no escape keeps a page from linking an address: a space does.
    text = single_line(value).replace("\\", "/").replace("://", ": //").replace("@", " (at) ")
    text = re.sub(r"\bwww\.", "www .", text, flags=re.IGNORECASE)
    return Markdown(re.sub(r"([`*{}\[\]<>#|~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text))


def code(value) -> Markdown:
    """A value as inline code, also in a table."""
    return Markdown("`" + single_line(value).replace("`", "'").replace("|", "\\|") + "`")


def quoted(value) -> Markdown:
    """A value in double quotes, inside a block of code."""
    return Markdown(json.dumps(single_line(value).replace("`", "'"), ensure_ascii=False))


def shell(value) -> Markdown:
    """A name inside a command; what a shell could take for more than a name becomes a dash."""
    return Markdown(re.sub(r"[^\w./-]", "-", single_line(value), flags=re.ASCII))


def model_link(name: str) -> Markdown:
    """A link to a model or dataset of the hub; the bare name of a local one."""
    return Markdown(f"[{name}](https://huggingface.co/{name})") if is_hub_id(name) else code(name)


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form of a repository of the hub with its namespace."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name or "", re.ASCII) is not None


def is_timm(architecture: str) -> bool:
    """Whether the folder of a model is one of timm's, which transformers reads through a wrapper."""
    return architecture.startswith("TimmWrapper")


# ---- The card ----


@dataclass
class UnlearningCardData:
    """
    The facts of a card that go into its front matter.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        name (`str`):
            Name of the unlearned model.
    """

    report: UnlearningReport
    name: str

    def front_matter(self) -> dict:
        """The metadata of the hub. There are no widget examples: they could show what was forgotten."""
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
        return ModelCardData(
            base_model=base if base_is_on_hub else None,
            **({"base_model_relation": "finetune"} if base_is_on_hub else {}),
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
    Renders the card.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        repo_id (`str`):
            What to pass to `pipeline` to load the model; its last part is the title.
        figures (`list[str]`):
            Paths of the pictures, relative to the card.
        template (`str` or `Path`, *optional*):
            Jinja template. Its front matter is `{{ front_matter }}`, its sections stand between the marks
            `<!-- hf-unlearn:begin NAME -->` and `<!-- hf-unlearn:end NAME -->`.

    Returns:
        `str`: front matter and Markdown.

    Raises:
        [`InputError`]: if the template cannot be used.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    # What a template shows goes through `plain` unless it is marked as Markdown.
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=plain)
    environment.filters |= {
        "code": code,
        "quoted": quoted,
        "shell": shell,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    run = report.run
    # The first model of all, which is the one before this request unless there were earlier ones.
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
        "step": Search(**run["step"]).describe() if run["step"] else None,
        "change_elsewhere": f"{run['change_elsewhere']:.3f}",
        # Reports of before there were several limits name none.
        "change_limit": run.get("change_limit", FIRST_CHANGE_LIMIT),
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
    """The columns and rows of the table of several requests, from what [`~sequence.Tracker.table`] returned."""
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
    Writes `README.md` into the folder of a run, from its `report.json` and its pictures alone. What stands around the
    generated sections of a card that is there stays, as do keys of its front matter that are not generated.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        repo_id (`str`, *optional*):
            The repository on the hub, defaults to the name of the folder.
        template (`str` or `Path`, *optional*):
            See [`render_model_card`].
        keep (`str`, *optional*):
            The card whose own text stays, defaults to the one in the folder.

    Returns:
        `Path`: the card.

    Raises:
        [`InputError`]: if there is no report, or one that misses what the card says.
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
    The new card with what the user wrote in the old one: text before, between and after the generated sections, and
    keys of the front matter. A card without generated sections is the user's own: it follows after the new one.
    """
    old_front, old_body = split_front_matter(old)
    new_front, new_body = split_front_matter(new)
    own_tags = old_front.get("tags") if isinstance(old_front.get("tags"), list) else []
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
        # Sections that the old card did not have yet go to their place, after the one before them.
        before = None
        for name, section in sections.items():
            if name in left:
                at = body.index(sections[before]) + len(sections[before]) if before else 0
                body = body[:at] + "\n" + section + body[at:]
            before = name
    return f"---\n{to_yaml(front)}\n---\n{body if body.startswith(chr(10)) else chr(10) + body}"


# Keys of the front matter that are written anew each time.
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
    Metadata and text of a card; no metadata if they are missing, or not the plain YAML that a card needs.
    """
    # What was edited on a page of the hub may have the line breaks of Windows.
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
    """Metadata as the YAML of a front matter, without the dashes."""
    return yaml.dump(metadata, Dumper=CardDumper, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")


class CardDumper(RequestDumper):
    """Writes a value that comes twice twice: the reader refuses references."""

    def ignore_aliases(self, data) -> bool:
        return True


def card_sha256(card: str) -> str:
    """
    SHA-256 of what a card states: the results in its front matter and its generated sections, whatever the user wrote
    around them.

    Args:
        card (`str`):
            The text of `README.md`.
    """
    metadata, body = split_front_matter(card)
    stated = [metadata.get("model-index"), [match[0].rstrip("\n") for match in SECTION.finditer(body)]]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
