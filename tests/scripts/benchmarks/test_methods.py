"""The benchmark: what the search may look at, what an interruption costs, and what the tables say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from hf_unlearn.unlearning.method_names import METHODS
from scripts.benchmarks.methods import make_tables
from scripts.benchmarks.methods import run as benchmark


CONFIGS = sorted((ROOT / "scripts" / "benchmarks" / "methods" / "configs").glob("*.yaml"))


@pytest.fixture
def config(saved_dataset) -> dict:
    return {
        "name": "animals",
        "dataset_name": saved_dataset,
        "max_eval_samples": 10,
        "image_processor": {"size": {"height": 16, "width": 16}},
        "seeds": {"training": [0, 1], "request": [10, 11], "unlearning": [20, 21], "evaluation": [30, 31]},
        "models": {
            "tiny": {
                "config": {
                    "model_type": "resnet",
                    "embedding_size": 8,
                    "hidden_sizes": [8],
                    "depths": [1],
                    "layer_type": "basic",
                },
                "training": {"num_train_epochs": 1, "learning_rate": 1e-2},
            }
        },
        "scenarios": {
            "class": {
                "label_column": "label",
                "search": {"forget_class": ["dog"]},
                "requests": [{"forget_class": ["cat"]}],
            },
        },
        "methods": {
            "gradient_ascent": {"search": {"learning_rate": [1e-4, 1e-2]}},
            "delete": {"num_train_epochs": 1},
        },
    }


def results(config: dict, folder: Path) -> pd.DataFrame:
    """The table of a whole run, without the times."""
    benchmark.run_all(config, folder, ["tiny"], list(config["scenarios"]))
    rows = pd.read_parquet(benchmark.write_results(folder)).drop(columns=["seconds", "cpu_seconds", "date"])
    return rows.sort_values(["phase", "label", "settings"]).reset_index(drop=True)


def kill_after(config: dict, folder: Path, rows: int) -> None:
    """Starts the script and kills it as soon as so many runs are done."""
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", benchmark.__name__, str(file), "--output_dir", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(folder.glob("runs/*.json"))) < rows:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_and_started_again_it_gives_the_same_table(config, tmp_path):
    whole = results(config, tmp_path / "whole")
    # Two settings on the request of the search; both methods, the original and the yardstick on the other one.
    assert len(whole) == 2 + 4
    kill_after(config, tmp_path / "killed", rows=2)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("runs/*.json")}
    assert len(done) >= 2
    pd.testing.assert_frame_equal(results(config, tmp_path / "killed"), whole)
    # What was done was not done again.
    for name, changed in done.items():
        assert (tmp_path / "killed" / "runs" / name).stat().st_mtime_ns == changed


def test_search_looks_at_its_own_request_alone(config, tmp_path):
    """Handmade rows: the second setting is best where the search looks, whatever the reported request says."""
    search = benchmark.Case(config, tmp_path, "tiny", "class", -1)
    final = benchmark.Case(config, tmp_path, "tiny", "class", 0)
    assert search.request_flags["forget_class"] == ["dog"] and search.seeds["training"] == 1
    assert final.request_flags["forget_class"] == ["cat"] and final.seeds["training"] == 0
    settings = benchmark.settings_of(config, "tiny", "gradient_ascent")
    assert [one["learning_rate"] for one in settings] == [1e-4, 1e-2]
    for case, gaps in ((search, [0.5, 0.1]), (final, [0.0, 0.9])):
        for one, gap in zip(settings, gaps, strict=True):
            path = benchmark.row_file(case, "gradient_ascent", one)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"average_gap": gap}))
    assert benchmark.best_settings(config, tmp_path, "tiny", "class", "gradient_ascent") == settings[1]
    benchmark.row_file(search, "gradient_ascent", settings[0]).unlink()
    assert benchmark.best_settings(config, tmp_path, "tiny", "class", "gradient_ascent") is None


def test_models_learn_the_label_column_of_their_scenario(config, tmp_path):
    config["scenarios"]["class"] |= {"label_column": "breed", "search": {"forget_class": ["poodle"]}}
    case = benchmark.Case(config, tmp_path, "tiny", "class", -1)
    assert set(case.original.config.label2id) == {"tabby", "poodle", "barn", "siamese", "collie", "eagle"}
    assert case.retrained.config.label2id == case.original.config.label2id


def test_refused_run_is_a_row_that_says_why(config, tmp_path):
    config["methods"] = {"jit": {"sigma": -1.0}}
    row = results(config, tmp_path).set_index("label").loc["jit"]
    assert row["status"] == "refused" and row["reason"].startswith("sigma: must be greater than 0")
    assert pd.isna(row["average_gap"])


def made_rows(label: str, gaps: list[float]) -> list[dict]:
    return [
        {
            "benchmark": "b", "model": "m", "scenario": "class", "phase": "final", "number": number, "label": label,
            "settings": json.dumps({"method": label}), "status": "done", "reason": None, "average_gap": gap,
            "forget_accuracy": 0.2, "retrained_forget_accuracy": 0.0, "retain_test_accuracy": 0.75,
            "retrained_retain_test_accuracy": 0.8, "loss_attack_auc": 0.5, "retrained_loss_attack_auc": 0.5,
            "forget_test_accuracy": 0.1, "cpu_seconds": 2.0,
        }
        for number, gap in enumerate(gaps)
    ]  # fmt: skip


def test_table_has_mean_and_standard_deviation_and_rank(tmp_path):
    file = tmp_path / "results.parquet"
    pd.DataFrame(made_rows("jit", [0.01, 0.03]) + made_rows("delete", [0.02, 0.06])).to_parquet(file)
    rows = make_tables.read_results(file)
    # 1 and 3 points: mean 2, standard deviation √2; first in both cases.
    assert "| jit | forget | 2.0 ± 1.4 | 3.0 | 1.0 | 2.0 |" in make_tables.overview(rows)
    assert "| delete | forget | 4.0 ± 2.8 | 6.0 | 2.0 | 2.0 |" in make_tables.overview(rows)
    # Lost: 80 % of the retrained model less 75 %.
    assert "| 75.0 ± 0.0 | 5.0 ± 0.0 |" in make_tables.detail(rows)


def test_published_numbers_stand_beside_ours(tmp_path):
    file, published = tmp_path / "results.parquet", tmp_path / "published.csv"
    pd.DataFrame(made_rows("jit", [0.01, 0.03])).to_parquet(file)
    published.write_text(
        "benchmark,model,scenario,label,metric,mean,std,source\nb,m,class,jit,forget_accuracy,14.2,0.6,paper\n"
    )
    table = make_tables.beside_published(make_tables.read_results(file), published)
    assert "| jit | b, m | forget_accuracy | 14.2 ± 0.6 | 20.0 ± 0.0 |" in table


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_files_name_every_method_and_separate_seeds(path):
    config = benchmark.read_config(path)
    methods = {settings.get("method", label) for label, settings in config["methods"].items()}
    assert methods == set(METHODS) - set(make_tables.NOT_COMPARED)
    seeds = [seed for stream in config["seeds"].values() for seed in stream]
    assert len(seeds) == len(set(seeds))
    for scenario in config["scenarios"].values():
        assert scenario["search"] not in scenario["requests"] or "forget_count" in scenario["search"]
        assert len(scenario["requests"]) == len(config["seeds"]["training"]) - 1


def test_page_holds_the_tables_of_the_committed_results():
    rows = pd.concat(
        [make_tables.read_results(path) for path in sorted((ROOT / "docs" / "methods").glob("*.parquet"))]
    )
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert make_tables.fill(text, make_tables.sections(rows)) == text
    assert "<!-- begin overview -->" in text


def test_committed_results_hold_every_method_and_three_seeds():
    paths = sorted((ROOT / "docs" / "methods").glob("*.parquet"))
    rows = pd.concat([make_tables.read_results(path) for path in paths])
    assert set(rows["method"]) == {*METHODS, *make_tables.YARDSTICKS} - set(make_tables.NOT_COMPARED)
    assert (rows.groupby(["benchmark", "model", "scenario", "label"])["number"].nunique() == 3).all()
