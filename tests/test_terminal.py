"""What a person sees in a terminal or a log: no word and no number is cut, however narrow it is."""

from collections import Counter

import pytest

from hf_unlearn.evaluation.verification_report import MEASURES, VerificationReport
from hf_unlearn.publication.report import METRICS, UnlearningReport
from hf_unlearn.terminal import print_table


WIDTHS = [40, 60, 80, 120, 200]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """As in a pipe or a log, whatever the tests run in."""

    def refuse(*args):
        raise OSError

    monkeypatch.setattr("os.get_terminal_size", refuse)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[*WIDTHS, None], ids=lambda width: f"width {width}")
def width(request, monkeypatch):
    """How many columns there are. Where nothing says it, rich takes 80."""
    if request.param is not None:
        monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param or 80


def made_up_report(num_retrained: int) -> UnlearningReport:
    """Every metric, with the widest numbers there are."""
    models = ["original", "unlearned", "retrained", *(f"retrained_{number}" for number in range(2, num_retrained + 1))]
    models = models[: 2 + num_retrained]
    names = [name for name, metric in METRICS.items() if num_retrained or "retrained" not in metric.needs]
    results = {
        model: {"metrics": {name: 1 - 0.0137 * (place + row) for row, name in enumerate(names)}}
        for place, model in enumerate(models)
    }
    results["original"]["metrics"]["forget_accuracy"] = 1.0
    band = dict.fromkeys(names, [0.1234, 1.0]) if num_retrained > 1 else {}
    missing = {name: "there is no retrained model" for name in METRICS if name not in names}
    return UnlearningReport(results, splits={"forget": 100}, missing=missing, band=band)


def made_up_verification(num_retrained: int) -> VerificationReport:
    """Every measure, some with numbers that were not reached."""
    models = ["original", "unlearned", "head-only", "BatchNorm", *(f"retrained {i + 1}" for i in range(num_retrained))]
    measures = {}
    for row, (name, (_, kind)) in enumerate(MEASURES.items()):
        for split in ("",) if name in ("information", "idi") else ("/forget", "/forget_test"):
            values = {model: 0.0237 * (place + row) for place, model in enumerate(models)}
            if kind == "count":
                values = dict.fromkeys(models, 5) | dict.fromkeys(models[4:6])
            measures[name + split] = values
    measures["idi"] = dict.fromkeys(models)
    measures["accuracy/forget"]["original"] = 1.0
    return VerificationReport(
        models=models,
        measures=measures,
        margins=dict.fromkeys(measures, 0.1),
        curves={},
        layer_information={},
        steps=[0, 1, 5, 100],
        images={},
        missing={} if num_retrained else {"anamnesis_index": "it needs a retrained model"},
    )


def words_of(output: str, width: int) -> Counter:
    """How often each word is printed, and that none was cut. Fewer columns than 40 have no room for a name and a number."""
    assert "…" not in output and "..." not in output
    assert all(len(line) <= max(width, 40) for line in output.splitlines()), output
    return Counter(output.split())


@pytest.mark.parametrize("num_retrained", [0, 1, 2, 5])
def test_tables_of_run_and_compare_are_whole(num_retrained, width, capsys):
    report = made_up_report(num_retrained)
    report.print()
    printed = words_of(capsys.readouterr().out, width)
    expected = Counter(" ".join(report.columns()).split())
    for heading, rows in report.tables():
        expected.update(heading.split())
        for label, _, texts in rows:
            expected.update(f"{label} {' '.join(texts.values())}".split())
    assert not expected - printed


@pytest.mark.parametrize("num_retrained", [0, 1, 2, 5])
def test_table_of_verify_is_whole(num_retrained, width, capsys):
    report = made_up_verification(num_retrained)
    report.print()
    output = capsys.readouterr().out
    printed = words_of(output, width)
    columns = [*report.models, "band"] if num_retrained > 1 else report.models
    if num_retrained > 1 and width < 200 and "retrained 1" not in output:
        # There is no room for all: the band stands for the models that make it.
        columns = ["original", "unlearned", "head-only", "BatchNorm", "band"]
    expected = Counter(word for column in columns for word in column.split())
    for measure in report.measures:
        expected.update(word for column in columns for word in report.texts(measure)[column].split())
    for name, _ in MEASURES.values():
        expected.update(set(name.split()) if num_retrained or name != "anamnesis index" else ())
    assert not expected - printed


def test_band_of_what_no_model_has_is_a_dash():
    texts = made_up_verification(2).texts
    assert texts("idi")["band"] == "–" and texts("relearning_steps/forget")["band"] == "> 100 to > 100"


@pytest.mark.parametrize("columns", [1, 10, 20])
def test_no_terminal_is_too_narrow(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    made_up_report(2).print()
    made_up_verification(2).print()
    assert {"disagreement", "12.3", "re-learning,", "head-only"} <= words_of(capsys.readouterr().out, columns).keys()


def test_report_without_numbers_prints_no_table(capsys):
    UnlearningReport(results={}, splits={}).print()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("columns", "shown"), [(40, False), (60, False), (80, False), (120, True), (200, True)])
def test_explanations_beside_a_band_are_shown_where_there_is_room(columns, shown, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    made_up_report(2).print()
    assert ("(training images to forget)" in capsys.readouterr().out) == shown


SECTIONS = [
    ("in %", [("forget set", "to be forgotten", {"original": "100.0", "retrained": "9.5", "band": "9.5 to 10.0"})]),
    (
        "others",
        [
            ("JS to retrained, forget set", "0 to 0.693", {"original": "0.5", "retrained": "–", "band": "0.0 to 0.1"}),
            ("rank", "", {}),
            ("  unseen", "", {"original": "5", "retrained": "> 100", "band": "5 to > 100"}),
        ],
    ),
]


def printed_at(columns, monkeypatch, capsys, **options):
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(["original", "retrained", "band"], SECTIONS, **options)
    return "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines())


def test_wide_table_has_explanations(monkeypatch, capsys):
    assert (
        printed_at(84, monkeypatch, capsys)
        == """
in %                                      original  retrained         band
──────────────────────────────────────────────────────────────────────────
forget set (to be forgotten)                 100.0        9.5  9.5 to 10.0

others
JS to retrained, forget set (0 to 0.693)       0.5          –   0.0 to 0.1
rank
  unseen                                         5      > 100   5 to > 100

"""
    )


def test_narrow_table_breaks_names_and_goes_on_below(monkeypatch, capsys):
    assert (
        printed_at(44, monkeypatch, capsys)
        == """
in %              original  retrained
─────────────────────────────────────
forget set           100.0        9.5

others
JS to retrained,       0.5          –
  forget set
rank
  unseen                 5      > 100

in %                                band
────────────────────────────────────────
forget set                   9.5 to 10.0

others
JS to retrained, forget set   0.0 to 0.1
rank
  unseen                      5 to > 100

"""
    )


def test_columns_to_spare_go_where_there_is_no_room_for_all(monkeypatch, capsys):
    heading = "in %              original         band"
    assert printed_at(44, monkeypatch, capsys, spare=["retrained"]).splitlines()[1] == heading
    assert "retrained " in printed_at(60, monkeypatch, capsys, spare=["retrained"]).splitlines()[1]
