import copy
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_unlearn import UnlearningReport
from hf_unlearn.model_card import write_model_card
from hf_unlearn.plots import save_figures


GOLDEN = Path(__file__).parents[1] / "model_cards" / "digits-unlearned"


@pytest.fixture
def report():
    return UnlearningReport.from_json(GOLDEN / "report.json")


def write(report, folder, repo_id=None):
    folder.mkdir(exist_ok=True)
    report.to_json(folder / "report.json")
    return write_model_card(folder, repo_id).read_text()


def test_card_of_the_demo_is_the_one_committed(tmp_path):
    """After a change of the template: `hf-unlearn demo`, then copy README.md, report.json and figures."""
    folder = tmp_path / "digits-unlearned"
    (folder / "figures").mkdir(parents=True)
    for path in (GOLDEN / "figures").iterdir():
        (folder / "figures" / path.name).write_bytes(path.read_bytes())
    card = write(UnlearningReport.from_json(GOLDEN / "report.json"), folder)
    assert card == (GOLDEN / "README.md").read_text()


def test_front_matter_says_what_the_hub_needs(report, tmp_path):
    report.run |= {"model": "org/model", "dataset": "org/data"}
    card = ModelCard(write(report, tmp_path / "out", "me/unlearned"))
    assert card.data.base_model == "org/model" and card.data.base_model_relation == "finetune"
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "transformers"
    assert {"unlearning", "machine-unlearning", "jit-unlearning"} <= set(card.data.tags)
    assert card.data.datasets == ["org/data"]
    measured = {result.metric_name: result for result in card.data.eval_results}
    metrics = report.results["unlearned"]["metrics"]
    assert measured["Accuracy on the forget set"].metric_value == metrics["forget_accuracy"]
    assert measured["Accuracy on the forget set"].dataset_split == "train"
    assert measured["Accuracy on retained unseen images"].metric_value == metrics["retain_test_accuracy"]
    assert measured["Accuracy on retained unseen images"].dataset_split == "test"
    assert len(measured) == 5


def test_local_model_and_dataset_are_not_links(report, tmp_path):
    card = ModelCard(write(report, tmp_path / "out"))
    assert card.data.base_model is None and card.data.datasets is None
    assert "huggingface.co/" not in card.text


def test_table_holds_the_measured_values_and_a_dash_for_the_others(report, tmp_path):
    card = write(report, tmp_path / "out")
    values = [
        report.results[model]["metrics"]["retain_test_accuracy"] for model in ("original", "unlearned", "retrained")
    ]
    assert (
        "| retain test | " + " | ".join(f"{100 * value:.1f}" for value in values) + " | other unseen images |" in card
    )
    del report.results["retrained"]["metrics"]["retain_test_accuracy"]
    card = write(report, tmp_path / "out")
    assert f"| retain test | {100 * values[0]:.1f} | {100 * values[1]:.1f} | – |" in card


def test_card_without_retained_data_says_what_was_not_measured(report, tmp_path):
    report.splits = {"forget": 3}
    for result in report.results.values():
        result["metrics"] = {}
    report.missing = {"retain_test_accuracy": "there is no retain test split"}
    card = write(report, tmp_path / "out")
    assert "no other training images were at hand" in card
    assert "Not measured: retain test, because there is no retain test split." in card
    front_matter = yaml.safe_load(card.split("---")[1])
    assert "model-index" not in front_matter


def test_fixed_step_is_not_described_as_found(report, tmp_path):
    automatic = write(copy.deepcopy(report), tmp_path / "out")
    assert "The step was found from the forget set alone" in automatic
    report.run["step"] = None
    assert "The step was found" not in write(report, tmp_path / "out")


def test_figures_are_those_that_the_report_allows(report, tmp_path):
    assert [path.name for path in save_figures(report, tmp_path / "all")] == [
        "accuracy.png", "entropy.png", "class_accuracy.png"
    ]  # fmt: skip
    for result in report.results.values():
        result["metrics"], result["class_accuracy"] = {}, {}
    assert [path.name for path in save_figures(report, tmp_path / "some")] == ["entropy.png"]
