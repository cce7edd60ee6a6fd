"""The folder of each metric is a Space of `evaluate`: on the hub, `evaluate.load("org/<name>")` finds it."""

import json
import os
import subprocess
import sys

import evaluate
import pytest
import yaml
from hub_server import HubServer, parse_card
from metric_cases import METRICS, NAMES, load, make_columns

from hf_unlearn.metrics.widget import example, read_table
from hf_unlearn.publication.hub_space import SPACE


# Runs in a process of its own, for the clients read the address of the hub when they are imported.
PUSH_AND_LOAD = """
import json, sys
import evaluate
from huggingface_hub import HfApi

metrics, columns = sys.argv[1], json.load(sys.stdin)
api, results = HfApi(), {}
for name in columns:
    api.create_repo(f"tester/{name}", repo_type="space", space_sdk="gradio")
    api.upload_folder(repo_id=f"tester/{name}", repo_type="space", folder_path=f"{metrics}/{name}",
                      ignore_patterns=["*.pyc"])
    results[name] = evaluate.load(f"tester/{name}", keep_in_memory=True).compute(**columns[name])
print(json.dumps(results))
"""


def test_every_metric_loads_from_the_hub_and_gives_the_same_numbers(tmp_path):
    columns = {name: make_columns(name) for name in NAMES}
    with HubServer() as hub:
        environment = os.environ | hub.environ(tmp_path / "hf_home")
        environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_EVALUATE_CACHE": str(tmp_path / "evaluate")}
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD, str(METRICS)],
            env=environment,
            input=json.dumps(columns),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        for name in NAMES:
            files = hub.repos[f"spaces/tester/{name}"].history("main")[-1].files
            assert {"README.md", "app.py", "requirements.txt", f"{name}.py"} <= set(files)
    assert json.loads(done.stdout.splitlines()[-1]) == {name: load(name).compute(**columns[name]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_front_matter_is_one_of_a_space(name):
    text = (METRICS / name / "README.md").read_text()
    card = parse_card(text, is_space=True)
    assert card["tags"] == ["evaluate", "metric"] and card["app_file"] == "app.py"
    assert " ".join(card["description"].split()) in " ".join(text.split("---")[2].split())
    # What the pages are tried with, and those of the metrics all alike.
    space = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert card["sdk_version"] == space["sdk_version"]


def test_apps_and_requirements_differ_in_the_name_alone():
    for file in ("app.py", "requirements.txt"):
        texts = {(METRICS / name / file).read_text().replace(f'"{name}.py"', "NAME") for name in NAMES}
        assert len(texts) == 1
    assert "hf-unlearn" in texts.pop().split()


@pytest.mark.parametrize("name", NAMES)
def test_entries_of_the_page_give_numbers(name):
    metric = load(name)
    columns = example(metric.features)
    table = [
        [entry if isinstance(entry, str) else json.dumps(entry) for entry in row]
        for row in zip(*columns.values(), strict=True)
    ]
    assert read_table([*table, [""] * len(columns)], metric.features) == columns
    assert name in metric.compute(**columns)


@pytest.mark.parametrize("entry", ["[0.5, 0.5", "0.5", "", "null"])
def test_entry_that_does_not_fit_is_named_with_its_line(entry):
    features = evaluate.load(str(METRICS / "js_divergence"), keep_in_memory=True).features
    with pytest.raises(ValueError, match="references: .* in line 2 does not fit"):
        read_table([["[0.5, 0.5]", "[0.5, 0.5]", "forget"], ["[0.5, 0.5]", entry, "forget"]], features)
