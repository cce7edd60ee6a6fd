"""
The page of a metric as a Space: a table to fill in, and the numbers of the metric for it. Each metric's `app.py` starts it.

`evaluate.utils.launch_gradio_widget` does this for gradio 3, and fails with later ones.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import evaluate
import numpy as np


if TYPE_CHECKING:
    import gradio as gr


NUM_CLASSES = 3
IMAGES_PER_SPLIT = 3
PAIRS = 4


def example(features: datasets.Features) -> dict[str, list]:
    """
    Made-up columns that fit the features of a metric: three images of each split, and of a metric that compares many pairs of
    models, four pairs.
    """
    rng = np.random.default_rng(0)
    splits = [split for split in ("forget", "retain", "test") for _ in range(IMAGES_PER_SPLIT)]
    pairs = PAIRS if "models" in features else 1
    rows = len(splits) * pairs
    columns = {}
    for name, feature in features.items():
        if name == "splits":
            columns[name] = splits * pairs
        elif name == "models":
            columns[name] = [pair for pair in range(pairs) for _ in splits]
        elif isinstance(feature, datasets.Value):
            columns[name] = [image % NUM_CLASSES for image in range(len(splits))] * pairs
        else:
            # In hundredths, for the eye.
            shares = [rng.multinomial(100, rng.dirichlet(np.ones(NUM_CLASSES))) / 100 for _ in range(rows)]
            columns[name] = [row.tolist() for row in shares]
    return columns


def read_table(table: list[list[Any]], features: datasets.Features) -> dict[str, list]:
    """
    The columns of a table in which everything may be text. Lines without any entry are left out.

    Raises:
        `ValueError`: with the line and the column of an entry that does not fit.
    """
    columns: dict[str, list] = {name: [] for name in features}
    for line, row in enumerate(table, start=1):
        if not any(str(entry).strip() for entry in row):
            continue
        for (name, feature), entry in zip(features.items(), row, strict=True):
            if isinstance(feature, datasets.Value) and feature.dtype == "string":
                columns[name].append(str(entry).strip())
                continue
            try:
                value = json.loads(str(entry))
                columns[name].append(
                    feature.encode_example(value) if isinstance(feature, datasets.Value) else list(value)
                )
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {str(entry)!r} in line {line} does not fit.") from error
    return columns


def make_page(metric: evaluate.EvaluationModule, readme: Path) -> "gr.Blocks":
    """
    Makes the page.

    Args:
        metric (`evaluate.EvaluationModule`):
            The metric.
        readme (`Path`):
            Its `README.md`, which is shown below.
    """
    import gradio as gr
    from evaluate.utils.gradio import parse_readme

    features = metric.features
    columns = example(features)
    rows = [
        [entry if isinstance(entry, str) else json.dumps(entry) for entry in row]
        for row in zip(*columns.values(), strict=True)
    ]

    def compute(table: list[list[Any]]) -> tuple[list[list[str]], str]:
        try:
            # Without numbers only on the other ones of several processes.
            results = metric.compute(**read_table(table, features)) or {}
        except ValueError as error:
            return [], f"**{error}**"
        return [[name, f"{value:.6g}"] for name, value in results.items()], ""

    with gr.Blocks(title=metric.name, analytics_enabled=False) as page:
        about, _, details = parse_readme(readme).partition("\n- ")
        gr.Markdown(f"{about}\n\nOne line per image; the entries are made up. Change them, and compute.")
        table = gr.Dataframe(
            rows, headers=list(features), type="array", interactive=True, wrap=True, max_height=420, elem_id="table"
        )
        button = gr.Button("Compute", variant="primary", elem_id="compute")
        line = gr.Markdown(elem_id="message")
        numbers = gr.Dataframe(headers=["result", "value"], interactive=False, wrap=True, elem_id="numbers")
        button.click(compute, table, [numbers, line], api_visibility="private", show_progress="hidden")
        gr.Markdown(f"- {details}")
    return page


def launch_widget(metric: evaluate.EvaluationModule, readme: Path) -> None:
    """Serves the page of a metric. For the arguments see [`make_page`]."""
    import gradio as gr

    # Strings are fonts of the reader's machine; those of gradio's theme would be fetched from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    make_page(metric, readme).launch(theme=theme, ssr_mode=False, footer_links=[])
