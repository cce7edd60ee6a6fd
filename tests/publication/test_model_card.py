import copy

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_unlearn import UnlearningReport
from hf_unlearn.commands.main import main
from hf_unlearn.publication.model_card import (
    card_sha256,
    merge_cards,
    render_model_card,
    split_front_matter,
    write_model_card,
)
from hf_unlearn.publication.plots import save_figures
from hf_unlearn.publication.record_check import verify


GOLDEN = ROOT / "model_cards" / "digits-unlearned"


@pytest.fixture
def report():
    return UnlearningReport.from_json(GOLDEN / "report.json")


def write(report, folder, repo_id=None):
    folder.mkdir(exist_ok=True)
    report.to_json(folder / "report.json")
    return write_model_card(folder, repo_id).read_text()


def test_card_of_the_demo_is_the_one_committed(tmp_path):
    """After a change of the template: `hf-unlearn demo`, then copy README.md, report.json, unlearning_record.json and figures."""
    folder = tmp_path / "digits-unlearned"
    (folder / "figures").mkdir(parents=True)
    for path in (GOLDEN / "figures").iterdir():
        (folder / "figures" / path.name).write_bytes(path.read_bytes())
    card = write(UnlearningReport.from_json(GOLDEN / "report.json"), folder)
    assert card == (GOLDEN / "README.md").read_text()


def test_record_of_the_demo_fits_its_card_and_report():
    holds = {check.text: check.holds for check in verify(GOLDEN)}
    assert holds["the report holds the numbers of the record"]
    assert holds["the card says what it was written to say"]


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
    assert measured["Accuracy on the forget set"].dataset_split == "forget"
    assert measured["Accuracy on retained unseen images"].metric_value == metrics["retain_test_accuracy"]
    assert measured["Accuracy on retained unseen images"].dataset_split == "retain_test"
    assert len(measured) == 5
    # One entry per split, and no examples that could show what was forgotten.
    entries = yaml.safe_load(card.content.split("---")[1])["model-index"][0]["results"]
    assert [entry["dataset"]["split"] for entry in entries] == ["forget", "forget_test", "retain", "retain_test"]
    assert "widget" not in card.content


def test_local_model_and_dataset_are_not_links(report, tmp_path):
    card = ModelCard(write(report, tmp_path / "out"))
    assert card.data.base_model is None and card.data.datasets is None
    assert "huggingface.co/" not in card.text
    assert "`digits-original`" in card.text


def test_card_names_the_way_back_and_what_it_cost(report, tmp_path):
    report.run |= {"model": "org/model", "model_revision": "ab" * 20, "energy_kwh": None}
    card = write(report, tmp_path / "out")
    assert f"[org/model](https://huggingface.co/org/model) at the commit `{'ab' * 20}`, and still knows" in card
    assert "The energy was not measured" in card
    report.run["energy_kwh"] = 0.001234
    assert "took 0.00123 kWh, as codecarbon estimates it" in write(report, tmp_path / "out")


def test_table_holds_the_measured_values_and_a_dash_for_the_others(report, tmp_path):
    report.band = {}
    card = write(report, tmp_path / "out")
    values = [
        report.results[model]["metrics"]["retain_test_accuracy"] for model in ("original", "unlearned", "retrained")
    ]
    assert (
        "| retain test | " + " | ".join(f"{100 * value:.1f}" for value in values) + " | other unseen images |" in card
    )
    assert "*band*" not in card
    del report.results["retrained"]["metrics"]["retain_test_accuracy"]
    card = write(report, tmp_path / "out")
    assert f"| retain test | {100 * values[0]:.1f} | {100 * values[1]:.1f} | – |" in card


def test_table_shows_the_band_of_several_retrained_models(report, tmp_path):
    report.results["unlearned"]["metrics"]["retain_test_accuracy"] = 0.5
    report.band["retain_test_accuracy"] = [0.6, 0.7]
    card = write(report, tmp_path / "out")
    assert "| accuracy in % | original | unlearned | retrained | band | in band | what it is |" in card
    assert "| 60.0 to 70.0 | below | other unseen images |" in card
    assert "*band* is what several such models say" in card


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


def test_run_that_changed_nothing_says_so(report, tmp_path):
    assert "No weight was changed" not in write(copy.deepcopy(report), tmp_path / "out")
    report.run["weights_sha256_after"] = report.run["weights_sha256_before"]
    assert "**No weight was changed.**" in write(report, tmp_path / "out")


def test_fixed_step_is_not_described_as_found(report, tmp_path):
    automatic = write(copy.deepcopy(report), tmp_path / "out")
    assert "The step was found from the forget set alone" in automatic
    report.run["step"] = None
    assert "The step was found" not in write(report, tmp_path / "out")


def test_figures_are_those_that_the_report_allows(report, tmp_path):
    assert [path.name for path in save_figures(report, tmp_path / "all")] == [
        "accuracy.png", "entropy.png", "class_accuracy.png", "confusion.png", "attacks.png"
    ]  # fmt: skip
    report.confusion_classes = []
    for result in report.results.values():
        result["metrics"], result["class_accuracy"], result["roc"] = {}, {}, {}
    assert [path.name for path in save_figures(report, tmp_path / "some")] == ["entropy.png"]


# ---- The user's own words ----


def test_own_text_survives_an_update_wherever_it_stands(report, tmp_path):
    card = tmp_path / "out" / "README.md"
    text = write(report, tmp_path / "out")
    text = text.replace("library_name:", "license: mit\ntags:\n- animals\nlibrary_name:", 1).replace(
        "tags:\n- unlearning\n- machine-unlearning\n- jit-unlearning\n", "", 1
    )
    text = text.replace(
        "<!-- hf-unlearn:end results -->\n", "<!-- hf-unlearn:end results -->\n\n## Ours\n\nBetween.\n"
    )
    card.write_text(text + "\nAfter.\n")
    report.results["unlearned"]["metrics"]["retain_test_accuracy"] = 0.123
    updated = write(report, tmp_path / "out")
    front, body = split_front_matter(updated)
    assert front["license"] == "mit" and {"animals", "unlearning"} <= set(front["tags"])
    assert body.index("begin results") < body.index("## Ours\n\nBetween.") < body.index("begin use")
    assert body.endswith("\nAfter.\n") and "12.3" in body
    assert updated == write(report, tmp_path / "out")


def test_sections_that_come_or_go_find_their_place():
    def make(*names):
        sections = [f"<!-- hf-unlearn:begin {name} -->\n{name}!\n<!-- hf-unlearn:end {name} -->\n" for name in names]
        return "---\ntags: []\n---\n\n" + "\n".join(sections)

    old = make("a", "c").replace("begin c", "begin c", 1) + "\nOwn.\n"
    assert merge_cards(old, make("a", "b", "c")) == make("a", "b", "c") + "\nOwn.\n"
    assert "c!" not in merge_cards(old, make("a", "b"))
    assert merge_cards("Mine alone.\n", make("a")) == make("a") + "\nMine alone.\n"


def test_hash_of_the_card_is_that_of_its_statements(report, tmp_path):
    text = write(report, tmp_path / "out")
    assert card_sha256(text) == card_sha256(text.replace("library_name", "license: mit\nlibrary_name") + "\nOwn.\n")
    assert card_sha256(text) == card_sha256(text.replace("\n", "\r\n"))
    assert card_sha256(text) != card_sha256(text.replace("100.0", "100.1", 1))
    assert card_sha256(text) != card_sha256(text.replace("value: 1.0", "value: 0.9", 1))


# ---- From files alone ----


def test_card_is_written_again_from_files_alone_and_with_a_template(report, tmp_path, capsys):
    folder = tmp_path / "out"
    first = write(report, folder)
    (folder / "README.md").unlink()
    assert main(["card", str(folder)]) == 0
    assert (folder / "README.md").read_text() == first
    template = tmp_path / "short.md"
    template.write_text("---\n{{ front_matter }}\n---\n{{ name }} forgot {{ num_forget }} images.\n")
    (folder / "README.md").unlink()
    assert main(["card", str(folder), "--template", str(template), "--hub_model_id", "me/mine"]) == 0
    assert split_front_matter((folder / "README.md").read_text())[1] == "mine forgot 133 images.\n"


@pytest.mark.parametrize("text", ["{{ nothing }}", "{% if %}", "{{ ''.__class__.__mro__ }}"])
def test_template_that_cannot_be_used_is_one_line(report, text, tmp_path, capsys):
    write(report, tmp_path / "out")
    (tmp_path / "template.md").write_text(text)
    assert main(["card", str(tmp_path / "out"), "--template", str(tmp_path / "template.md")]) == 2
    assert "--template: " in capsys.readouterr().err
    assert main(["card", str(tmp_path / "out"), "--template", str(tmp_path / "no.md")]) == 2
    assert main(["card", str(tmp_path)]) == 2


# ---- Names that come from data or the hub ----

NASTY = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](https://evil.example)", "![x](//evil.example/a.png)",
    "https://evil.example", "www.evil.example", "someone@evil.example", "a\n---\nlicense: mit\n", "a | b | c", "`x` <b>",
    "``` \n# Title", "\\[x](y)", "&lt;script&gt;", "<!-- hf-unlearn:end summary -->", "{{ 7 * 7 }}", "\u202egnp.exe",
    "'\"; rm -rf /", "[a]: https://evil.example", "$$x$$", "\\(x\\)", "| --- |", "- a\n- b", "javascript:alert(1)", "___",
]  # fmt: skip


def poison(report, text):
    """Puts a text wherever a name from data, the hub or a report that was tampered with can stand."""
    report.run["request"] = {
        "kind": "classes",
        "description": f"every image of the class {text}",
        "id": text,
        "date": text,
    }
    report.run |= {"model": text, "dataset": text, "model_revision": text, "architecture": text, "method": text}
    report.run["environment"] = dict.fromkeys(report.run["environment"], text) | {"processes": 1}
    report.run["hyperparameters"] |= {"optim_args": text, f"x {text}": text}
    report.run["paper"] = text
    report.missing = {"retain_accuracy": text}
    step = {"model": {"name": text, "revision": text}, "request": {"id": text, "description": text}, "images": 3}
    report.run["lineage"] = [{**step, "weights": {"sha256_after": text}}]
    report.run["sequence"] = {"requests": [text], "steps": [{"after": text, "accuracy": {text: 0.5}}]}


def check_harmless(text, report):
    """The card has the structure and the links of the harmless one; every line of its front matter is one of YAML."""
    harmless, poisoned = copy.deepcopy(report), copy.deepcopy(report)
    poison(harmless, "x")
    poison(poisoned, text)
    cards = [render_model_card(report, name, []) for report, name in ((harmless, "x"), (poisoned, text))]
    (good_front, good), (front, body) = (split_front_matter(card) for card in cards)
    assert front.keys() <= good_front.keys() | {"base_model", "base_model_relation", "datasets"}
    markdown = MarkdownIt("commonmark").enable("table")

    def structure(text):
        tokens = [token for block in markdown.parse(text) for token in [block, *(block.children or [])]]
        kinds = [token.type for token in tokens if token.type not in ("text", "inline", "softbreak", "text_special")]
        links = [dict(token.attrs) for token in tokens if token.type in ("link_open", "image")]
        html = [token.content for token in tokens if token.type.startswith("html")]
        return [kind for kind in kinds if not kind.startswith("code_inline")], links, html

    assert structure(body) == structure(good)
    plain_text = [
        token.content for block in markdown.parse(body) for token in block.children or [] if token.type == "text"
    ]
    for part in plain_text:
        assert "://" not in part and "www." not in part.lower() and "@" not in part


@pytest.mark.parametrize("text", NASTY)
def test_names_cannot_inject_yaml_html_or_links(report, text):
    check_harmless(text, report)


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1) | st.text("<>[]()!`*_|\\\n #-:/.w@{}%$&'\"a", min_size=1))
@example("\x00")
def test_no_name_at_all_can(text):
    check_harmless(text, UnlearningReport.from_json(GOLDEN / "report.json"))


def test_names_stand_in_the_front_matter_as_they_are(report, tmp_path):
    report.run |= {"dataset": "a: [b]\n- c", "model": "../../etc/passwd"}
    front = split_front_matter(write(report, tmp_path / "out"))[0]
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "a: [b] - c"
    assert "base_model" not in front
