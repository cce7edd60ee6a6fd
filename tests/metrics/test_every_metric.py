"""What holds for every metric: it loads, describes itself, adds batches up, and names the split at fault."""

import math
import multiprocessing
import os
import socket
import subprocess
import sys

import evaluate
import pytest
from metric_cases import METRICS, NAMES, cut, load, make_columns


@pytest.mark.parametrize("name", NAMES)
def test_module_loads_without_a_network_and_gives_a_flat_dictionary_of_floats(name, monkeypatch):
    def refuse(*args):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    results = load(name).compute(**make_columns(name))
    assert name in results
    assert all(type(value) is float and math.isfinite(value) for value in results.values())


LOAD_ALL = """
import os, sys
import evaluate

metrics, elsewhere, *names = sys.argv[1:]
for working_directory in (elsewhere, os.path.dirname(os.path.dirname(metrics))):
    os.chdir(working_directory)
    for name in names:
        folder = os.path.relpath(os.path.join(metrics, name))
        for path in (folder, os.path.join(folder, name + ".py"), os.path.join(metrics, name)):
            print(evaluate.load(path, keep_in_memory=True).name)
"""


def test_new_process_loads_every_module_by_folder_and_by_file_from_any_working_directory(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(METRICS.parent.parent),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_METRICS_CACHE": str(tmp_path / "tables"),
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", LOAD_ALL, str(METRICS), str(tmp_path), *NAMES]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [name for name in NAMES for _ in range(3)] * 2


@pytest.mark.parametrize("name", NAMES)
def test_module_describes_itself_its_columns_and_its_result(name):
    metric = load(name)
    assert metric.name == name
    assert metric.description == " ".join(type(metric).__doc__.split())
    types = {"float64": "list[list[float]]", "int64": "list[int]", "string": "list[str]"}
    for column, feature in metric.features.items():
        stored = getattr(feature, "feature", feature).dtype
        assert f"\n    {column} (`{types[stored]}`): " in metric.inputs_description
    assert f"\n\nReturns:\n    `dict[str, float]`: `{name}`" in metric.inputs_description
    assert max(map(len, metric.inputs_description.splitlines())) < 120


@pytest.mark.parametrize("name", NAMES)
def test_batches_add_up(name):
    columns, metric = make_columns(name), load(name)
    for start, stop in [(0, 1), (1, 50), (50, 144)]:
        metric.add_batch(**cut(columns, start, stop))
    assert metric.compute() == load(name).compute(**columns)


@pytest.mark.parametrize("column", ["labels", "rows"])
def test_modules_with_the_same_kind_of_references_combine(column):
    columns = {name: make_columns(name) for name in NAMES}
    names = [name for name in NAMES if isinstance(columns[name]["references"][0], list) == (column == "rows")]
    combined = evaluate.combine([load(name) for name in names])
    combined.add_batch(**{column: values for name in names for column, values in columns[name].items()})
    results = combined.compute()
    for name in names:
        assert results[name] == load(name).compute(**columns[name])[name]


def compute_share(process_id, columns, folder, connection):
    results = {}
    for name, whole in columns.items():
        metric = evaluate.load(
            str(METRICS / name), num_process=2, process_id=process_id, experiment_id="shares", cache_dir=folder
        )
        # Unequal shares, the border inside a split.
        metric.add_batch(**(cut(whole, 0, 53), cut(whole, 53, 144))[process_id])
        results[name] = metric.compute()
    connection.send(results)


def test_two_processes_give_the_numbers_of_one(tmp_path):
    context = multiprocessing.get_context("fork")
    columns = {name: make_columns(name) for name in NAMES}
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=compute_share, args=(rank, columns, str(tmp_path), pipes[rank][1]), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    # A process that fails sends nothing.
    assert all(receiver.poll(60) for receiver, _ in pipes)
    first, second = (receiver.recv() for receiver, _ in pipes)
    for process in processes:
        process.join()
    assert first == {name: load(name).compute(**columns[name]) for name in NAMES}
    assert second == dict.fromkeys(NAMES)


@pytest.mark.parametrize("split", ["forget", "retain", "test"])
@pytest.mark.parametrize("name", NAMES)
def test_nan_is_an_error_that_names_the_split(name, split):
    """In any split, also one that the metric does not use."""
    columns = make_columns(name)
    column = "references" if isinstance(columns["references"][0], list) else "predictions"
    columns[column][columns["splits"].index(split)] = [0.5, float("nan"), 0.25, 0.25]
    with pytest.raises(ValueError, match=f"{column}: 1 of 48 rows of the split '{split}' hold NaN or infinity"):
        load(name).compute(**columns)


# The splits that each module cannot do without.
REQUIRED = {
    "average_gap": ("forget", "retain", "test"),
    "membership_inference": ("forget", "retain", "test"),
    "retrain_free_js": ("forget", "test"),
    "tug_of_war": ("forget", "retain", "test"),
    "unlearning_accuracy": (),
}


@pytest.mark.parametrize("name, split", [(name, split) for name in NAMES for split in REQUIRED.get(name, ("forget",))])
def test_empty_split_is_an_error_that_names_it(name, split):
    columns = make_columns(name)
    keep = [row for row, value in enumerate(columns["splits"]) if value != split]
    with pytest.raises(ValueError, match=f"{name} needs at least one image of the split '{split}'"):
        load(name).compute(**{column: [values[row] for row in keep] for column, values in columns.items()})


@pytest.mark.parametrize(
    "name, split",
    [
        (name, split)
        for name in NAMES
        for split in ("forget", "retain", "test")
        if split not in REQUIRED.get(name, ("forget",))
    ],
)
def test_metric_does_without_the_splits_that_it_does_not_need(name, split):
    columns = make_columns(name)
    keep = [row for row, value in enumerate(columns["splits"]) if value != split]
    results = load(name).compute(**{column: [values[row] for row in keep] for column, values in columns.items()})
    assert math.isfinite(results[name])


@pytest.mark.parametrize("name", NAMES)
def test_no_images_at_all_are_an_error(name):
    which = "any split" if REQUIRED.get(name) == () else "the split '(forget|retain|test)'"
    with pytest.raises(ValueError, match=which):
        load(name).compute(**cut(make_columns(name), 0, 0))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unlearning_accuracy"])
@pytest.mark.parametrize("row", [[1.0, 2.0, 3.0, 4.0], [1.5, -0.5, 0.0, 0.0]], ids=["logits", "negative"])
def test_rows_that_are_no_probabilities_are_an_error_that_names_the_split(name, row):
    columns = make_columns(name)
    columns["predictions"][0] = row
    with pytest.raises(ValueError, match="1 of 48 rows of the split 'forget' are not probabilities"):
        load(name).compute(**columns)


def test_rows_of_different_lengths_are_an_error_that_names_the_split():
    columns = make_columns("js_divergence")
    columns["references"][20] = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"references: rows of the split 'retain' .* not \[2, 4\]"):
        load("js_divergence").compute(**columns)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_without_a_class_is_an_error_that_names_the_split(label):
    columns = make_columns("unlearning_accuracy")
    columns["references"] = [label if row == 30 else value for row, value in enumerate(columns["references"])]
    with pytest.raises(ValueError, match=f"the split 'test' has the label {label}, .* Valid: 0 to 3"):
        load("unlearning_accuracy").compute(**columns)


@pytest.mark.parametrize("name", NAMES)
def test_readme_defines_the_number(name):
    text = (METRICS / name / "README.md").read_text()
    assert text.startswith("---\ntitle: ")
    for part in ("**Formula", "**Columns:**", "**Result:**", "**Good:**", "**Does not show:**", "**Source:**"):
        assert part in text
    for column in load(name).features:
        assert f"`{column}`" in text
