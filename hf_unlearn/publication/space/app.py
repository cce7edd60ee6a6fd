"""
A page that shows what an image classifier says of a picture before and after it was made to forget.

In a Space, `unlearned_model.json` beside this file names both models. On your machine:

    python app.py RUN                   the folder or the hub id of an unlearned model; its record names the original
    python app.py ORIGINAL UNLEARNED    any two folders or hub ids

Visitors cannot choose the models: a Space may hold a token that reads private ones. Of hf_unlearn it needs nothing but the
record that lies with the unlearned model.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification


RECORD = "unlearning_record.json"
SETTINGS = Path(__file__).parent / "unlearned_model.json"
# A photograph of a telephone has 12 to 50 million pixels.
MOST_PIXELS = 60_000_000
LARGEST_FILE = "20mb"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
CLASSES_SHOWN = 5
SIDE_SHOWN = 240
TITLE = "Before and after forgetting"

# The numbers of the record that are shown: in words, and whether as a percentage.
NUMBERS = {
    "forget_accuracy": ("right on the forgotten images", True),
    "forget_test_accuracy": ("right on unseen images like them", True),
    "retain_accuracy": ("right on other training images", True),
    "retain_test_accuracy": ("right on other unseen images", True),
    "membership_inference": ("forgotten images that look like training images", True),
    "loss_attack_auc": ("forgotten told from unseen images by the loss (AUC; 0.5: not)", False),
}

# Strings are fonts of the reader's machine: a font of the gradio theme would be fetched from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1100px !important; margin: auto !important; }
:is(#forgotten, #message, #numbers) * { padding-left: 0; padding-right: 0; }
#message .message { border-left: 4px solid #d1242f; padding: 6px 12px !important; margin: 0; }
#numbers table { border-collapse: collapse; margin-bottom: 12px; }
#numbers :is(table, thead, tbody, tr, td, th) { border: none !important; }
#numbers tr { border-bottom: 1px solid var(--border-color-primary) !important; }
#numbers :is(td, th) { padding: 4px 0 4px 20px; text-align: right; }
#numbers :is(td, th):first-child { text-align: left; padding-left: 0; }
#examples .grid-container { grid-template: none / repeat(10, 1fr) !important; grid-auto-rows: max-content !important; height: auto; }
#examples .grid-wrap { overflow: visible; min-height: 0; }
#examples .thumbnail-item { aspect-ratio: 1; height: auto; }
@media (max-width: 600px) {
  #examples .grid-container { grid-template: none / repeat(5, 1fr) !important; }
  #numbers table { font-size: 0.85em; } #numbers :is(td, th) { padding-left: 8px; }
}
"""


class PageError(Exception):
    """What cannot be shown, and why, in one line."""


@dataclass
class Source:
    """Where a model lies: a folder or a hub id, and there a branch, tag or commit."""

    name: str
    revision: str | None = None


@dataclass
class Classifier:
    """A model with its image processor and the names of its classes."""

    model: Any
    image_processor: Any
    names: list[str]


def find_sources(arguments: Sequence[str]) -> tuple[Source, Source]:
    """
    The original and the unlearned model, from the command line or from the file beside this one.

    Raises:
        [`PageError`]: if they are not named.
    """
    if len(arguments) == 2:
        return Source(arguments[0]), Source(arguments[1])
    if len(arguments) == 1:
        unlearned = Source(arguments[0])
        named = (read_record(unlearned) or {}).get("model") or {}
        if not named.get("name"):
            raise PageError(f"No record with {unlearned.name!r} names its original: give both, ORIGINAL UNLEARNED.")
        return Source(named["name"], named.get("revision")), unlearned
    if arguments or not SETTINGS.is_file():
        raise PageError("Which models? Give the folder of a run, or two folders or hub ids: ORIGINAL UNLEARNED.")
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    original, unlearned = (
        Source(settings[model], settings.get(f"{model}_revision")) for model in ("original", "unlearned")
    )
    return original, unlearned


def read_record(source: Source) -> dict | None:
    """The record that lies with a model; `None` if there is none that can be read."""
    try:
        if Path(source.name).is_dir():
            path = Path(source.name) / RECORD
        else:
            path = Path(hf_hub_download(source.name, RECORD, revision=source.revision))
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return None
    return record if isinstance(record, dict) else None


def load(source: Source) -> Classifier:
    """
    Loads a model from safetensors, without any code of its repository.

    Raises:
        [`PageError`]: if it cannot be loaded so.
    """
    options = {"revision": source.revision or "main", "trust_remote_code": False}
    try:
        model = AutoModelForImageClassification.from_pretrained(source.name, use_safetensors=True, **options).eval()
        image_processor = AutoImageProcessor.from_pretrained(source.name, **options)
    except (OSError, ValueError, ImportError) as error:
        raise PageError(
            f"The model {source.name!r} cannot be loaded: it must be an image classifier of transformers with its weights "
            "as safetensors, and this page must be allowed to read it. A private model needs a token that may read it, as "
            f"the secret HF_TOKEN of this Space. ({type(error).__name__})"
        ) from error
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    # Some models give two classes one name.
    often = Counter(names)
    names = [f"{name} ({number})" if often[name] > 1 else name for number, name in enumerate(names)]
    return Classifier(model, image_processor, names)


def read_picture(path: str | Path) -> Image.Image:
    """
    Reads a picture as the evaluation does: upright, in RGB, 16 bits scaled to 8.

    Raises:
        [`PageError`]: if the file is no picture, or a huge one.
    """
    name = Path(path).name
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise PageError(f"{name!r} has {image.width} × {image.height} pixels, more than this page takes.")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = Image.fromarray((np.asarray(upright) / 257).round().clip(0, 255).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise PageError(
            f"{name!r} is no picture that can be read. Choose a file of one of these kinds: {', '.join(FORMATS)}."
        ) from error


def enlarged(picture: Image.Image) -> Image.Image:
    """A picture for the eye: a small one with larger pixels."""
    factor = SIDE_SHOWN // max(picture.size)
    return (
        picture
        if factor < 2
        else picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    )


@torch.inference_mode()
def probabilities(classifier: Classifier, picture: Image.Image) -> dict[str, float]:
    """What a model says of a picture: by class, its probability."""
    inputs = classifier.image_processor(picture, return_tensors="pt")
    logits = classifier.model(pixel_values=inputs["pixel_values"]).logits[0]
    return dict(zip(classifier.names, logits.float().softmax(-1).tolist(), strict=True))


def about(record: dict | None) -> tuple[str, str]:
    """What was forgotten, and the numbers of the record, as HTML. Nothing of a record goes in unescaped."""
    try:
        record = record or {}
        results, splits = record["metrics"]["results"], record["metrics"]["splits"]
        said = (
            f"<p>Forgotten: <b>{escape(str(record['request']['description']))}</b>, {int(record['forgotten']['images']):,} images, "
            f"by {escape(str(record['method']['name']))}, on {escape(str(record['ended'])[:10])}.</p>"
        )
        columns = [model for model in ("original", "unlearned", "retrained") if model in results]
        rows = "".join(
            f"<tr><td>{escape(words)}</td>{''.join(cell(results[model].get(name), share) for model in columns)}</tr>"
            for name, (words, share) in NUMBERS.items()
            if any(name in results[model] for model in columns)
        )
        heads = "".join(f"<th>{model}</th>" for model in columns)
        measured = ", ".join(f"{escape(str(split)).replace('_', ' ')} {int(size):,}" for split, size in splits.items())
    except (KeyError, TypeError, ValueError, AttributeError):
        return "<p>No record that can be read lies with the unlearned model.</p>", ""
    note = (
        f"Images measured: {measured}. A record says what was run and measured; it is no proof that nothing is left in the "
        "weights."
    )
    if "retrained" in columns:
        note += " The retrained model never saw the forgotten images."
    return said, (
        f"<table><thead><tr><th>as the record says</th>{heads}</tr></thead><tbody>{rows}</tbody></table><p>{note}</p>"
    )


def cell(value: float | None, share: bool) -> str:
    """A number of the table; a dash where there is none."""
    return "<td>–</td>" if value is None else f"<td>{100 * value:.1f} %</td>" if share else f"<td>{value:.3f}</td>"


def make_page(original: Source, unlearned: Source, examples: Sequence[str | Path] = ()) -> gr.Blocks:
    """
    Makes the page.

    Args:
        original, unlearned ([`Source`]):
            The two models.
        examples (`list[str | Path]`, *optional*, defaults to `()`):
            Files of pictures to click on.

    Returns:
        `gradio.Blocks`: a page that says why, if a model cannot be loaded.
    """
    try:
        classifiers = [load(original), load(unlearned)]
    except PageError as error:
        return message_page(str(error))
    forgotten, numbers = about(read_record(unlearned))

    def show(path: str | Path | None) -> tuple[Any, ...]:
        """The line of an error, the picture, and what both models say of it."""
        if path is None:
            return "", None, None, None
        try:
            picture = read_picture(path)
        except PageError as error:
            return message(str(error)), None, None, None
        return "", enlarged(picture), *(probabilities(classifier, picture) for classifier in classifiers)

    def show_example(event: gr.SelectData) -> tuple[Any, ...]:
        return show(examples[event.index])

    # Pictures of visitors are deleted when they are an hour old.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {TITLE}\nWhat a classifier says of a picture, and what it says after unlearning.")
        models = f"<p>Original: {escape(original.name)}. Unlearned: {escape(unlearned.name)}.</p>"
        gr.HTML(forgotten + models, elem_id="forgotten", padding=False)
        line = gr.HTML(elem_id="message", padding=False)
        with gr.Row():
            with gr.Column(min_width=260):
                # Not `gr.Image`: it answers a file that is no picture with a word, "Error".
                file = gr.File(label="A picture of yours", type="filepath", height=140, elem_id="file")
                picture = gr.Image(
                    label="Picture", show_label=False, interactive=False, buttons=[], height=260, elem_id="picture"
                )
            before = gr.Label(label="Original", num_top_classes=CLASSES_SHOWN, min_width=260, elem_id="original")
            after = gr.Label(label="Unlearned", num_top_classes=CLASSES_SHOWN, min_width=260, elem_id="unlearned")
        outputs = [line, picture, before, after]
        file.change(show, file, outputs, api_visibility="private", show_progress="hidden")
        if examples:
            gr.Markdown("Or click on one of these:")
            gallery = gr.Gallery(
                [enlarged(read_picture(path)) for path in examples],
                show_label=False, allow_preview=False, buttons=[], height="auto", object_fit="contain", elem_id="examples",
            )  # fmt: skip
            gallery.select(show_example, None, outputs, api_visibility="private", show_progress="hidden")
        gr.HTML(numbers, elem_id="numbers", padding=False)
    return page


def message(text: str) -> str:
    """A line that says what is wrong, as HTML."""
    return f"<p class='message' role='alert'>{escape(text)}</p>"


def message_page(text: str) -> gr.Blocks:
    """A page with nothing but such a line."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(message(text), elem_id="message")
    return page


def start(page: gr.Blocks, **options: Any) -> None:  # noqa: ANN401 - those of gradio's own `launch`
    """Serves the page, on this machine alone unless the environment says otherwise, as that of a Space does."""
    page.launch(theme=THEME, css=CSS, max_file_size=LARGEST_FILE, ssr_mode=False, footer_links=[], **options)


if __name__ == "__main__":
    try:
        start(make_page(*find_sources(sys.argv[1:])))
    except PageError as error:
        sys.exit(str(error))
