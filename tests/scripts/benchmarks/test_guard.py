"""The guard judged on architectures that its limit was not set on."""

from scripts.benchmarks.architectures.guard import best_limit, left_out_table, missed_table, mistakes


def made_run(architecture="vit", lost=0.0, change=0.1, kind="class", far=False, setting=""):
    return {"architecture": architecture, "kind": kind, "setting": setting, "lost": lost, "far": far, "change": change}


RUNS = [
    made_run("vit", lost=0.5, change=0.20),
    made_run("vit", lost=40, change=0.50, setting="bad"),
    made_run("resnet", lost=1.0, change=0.30),
    made_run("resnet", lost=20, change=0.40, setting="bad"),
    # Its limit is another, and its distance has none.
    made_run("resnet", lost=0.0, change=0.35, kind="subclass"),
    made_run("resnet", lost=30, change=0.05, far=True, setting="bad"),
]


def test_mistakes_are_wrecks_saved_and_good_runs_refused():
    assert mistakes(RUNS, 0.25) == (0, 1)
    assert mistakes(RUNS, 0.45) == (1, 0)


def test_limit_is_the_strictest_that_spares_the_good_runs():
    """Of two classes that lost little the further changed 0.30; a wreck has no say in it."""
    assert best_limit(RUNS) == 0.3
    assert best_limit([*RUNS, made_run(lost=50, change=0.2)]) == 0.3


def test_limit_may_refuse_a_few_good_runs():
    """One of 23 is 4.3 %, one of 22 is 4.5 %, one of 21 is more than the budget."""
    assert best_limit([made_run(change=0.12)] * 22 + [made_run(change=0.3)]) == 0.12
    assert best_limit([made_run(change=0.12)] * 20 + [made_run(change=0.3)]) == 0.3


def test_limit_of_the_one_left_out_is_set_on_the_others():
    """0.20 without the ResNet's runs, which refuses its good one at 0.30; 0.30 without the ViT's."""
    table = left_out_table(RUNS)
    assert "2 architectures; the limits set without one of them: 0.20 to 0.30" in table
    assert "| all | 6 | 0 of 3 | 1 of 3 |" in table


def test_missed_wrecks_are_named():
    assert missed_table(RUNS) == "None."
    assert "| vit | class | defaults | 12.0 | 0.20 |" in missed_table([made_run(lost=12, change=0.2)])
