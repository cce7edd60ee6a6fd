"""The benchmark of the evaluation compares what is equal."""

import re

from hf_unlearn.commands.compare import make_parser
from scripts.benchmarks.evaluation import speed as benchmark


def test_benchmark_finds_the_numbers_of_the_released_way_which_passes_every_split_for_every_metric(
    checkpoints, saved_dataset, capsys, monkeypatch
):
    monkeypatch.setattr(benchmark, "REPEATS", 1)
    flags = ["--dataset_name", saved_dataset, "--label_column_name", "label", "--forget_class", "cat"]
    *arguments, positional = make_parser().parse_args_into_dataclasses([*checkpoints[:3], *flags])
    benchmark.main(positional.models, *arguments)
    out = capsys.readouterr().out
    count, difference = re.search(r"(\d+) numbers, largest difference (\S+) ", out).groups()
    # 60 pairs of images make an AUC: not one may change its order.
    assert int(count) > 100 and float(difference) < 1e-5
