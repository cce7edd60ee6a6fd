"""The notebook runs from top to bottom without a network, on its digits and on a model and data that its variable names."""

import copy
import re

import pytest
from conftest import ROOT


nbformat = pytest.importorskip("nbformat", reason="needs nbclient: make test-space")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: make test-space")
pytest.importorskip("ipykernel", reason="needs ipykernel: make test-space")

NOTEBOOK = nbformat.read(ROOT / "docs" / "notebooks" / "forget_a_class.ipynb", as_version=4)
# Runs before the first cell. The kernel itself speaks by other means than this module.
NO_NETWORK = """
import os, socket
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
def refuse(*args):
    raise OSError("no network")
socket.socket.connect = socket.create_connection = refuse
"""


def execute(tmp_path, **replaced):
    """Runs the notebook with pieces of its code replaced, and returns what its cells print and show, as text."""
    notebook = copy.deepcopy(NOTEBOOK)
    for old, new in replaced.values():
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(NO_NETWORK))
    client = nbclient.NotebookClient(
        notebook, timeout=900, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    return "\n".join(texts(notebook))


def texts(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield output.get("text") or output.get("data", {}).get("text/plain", "")


@pytest.mark.timeout(1200)
def test_runs_on_the_digits(tmp_path):
    shown = execute(tmp_path)
    original, unlearned, retrained = map(
        float, re.search(r"forget set.*?([\d.]+) +([\d.]+) +([\d.]+)", shown).groups()
    )
    assert original > 90 and unlearned < 5 and retrained < 5


@pytest.mark.timeout(1200)
def test_runs_on_a_model_and_data_that_the_variable_names(tmp_path, saved_model, dataset):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, images in dataset.items():
        images.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    names = (saved_model, str(folder), "cat")
    shown = execute(
        tmp_path,
        names=("HUB = None", f"HUB = {names!r}"),
        # The data has a second column of classes, and an untrained network is right on no cat, which the trainer refuses.
        collapse=('logging_strategy="no")', 'logging_strategy="no", allow_collapse=True)'),
    )
    assert re.search(r"forget set.*?[\d.]+ +[\d.]+\s*\n", shown) and "'forget': 10" in shown


def test_is_kept_without_outputs():
    """They would be those of one machine on one day; the run above makes them anew."""
    cells = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
