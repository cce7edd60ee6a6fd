"""
Time the evaluation against the way of released unlearning code, on the same models and images in one run; the table of
docs/evaluation.md:

    hf-unlearn demo --output_dir demo
    python -m scripts.benchmarks.evaluation.speed demo/digits-original demo/digits-unlearned demo/digits-retrained \
        --dataset_name demo/digits --forget_class 3

The released way, as in the code of arXiv 2402.01401 and of the work that it builds on: each metric passes the models that
it needs over the images that it needs, and membership inference does so at batch size 1. Where one of its passes could
serve several metrics it is counted once: one pass at batch size 1 serves all attacks of a model, and the gaps to the
retrained model are taken from accuracies that are there already. Images are read by the same code in both ways.
"""

import statistics
import sys
import tempfile
import time

import numpy as np
import torch

from hf_unlearn import evaluate_unlearning
from hf_unlearn.commands.arguments import ModelArguments, message_of
from hf_unlearn.commands.compare import make_parser
from hf_unlearn.commands.loading import load_model, load_splits
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.evaluate import COMPARISONS, SPLITS, gaps, label_ids_of, unseen_split
from hf_unlearn.evaluation.logits import collect_logits
from hf_unlearn.metrics.membership_inference.membership_inference import attack, entropy, entropy_attack, scores
from hf_unlearn.metrics.retrain_free_js.retrain_free_js import retrain_free_js
from hf_unlearn.metrics.unlearning_accuracy.unlearning_accuracy import accuracy
from hf_unlearn.metrics.zero_retrain_forgetting.zero_retrain_forgetting import zero_retrain_forgetting
from hf_unlearn.unlearning.random_model import random_model
from scripts.benchmarks.results import markdown


BATCH_SIZE = 64
REPEATS = 3
ACCURACY, MEMBERSHIP, ZRF = "accuracy", "membership inference, batch size 1", "ZRF"


class ReleasedWay:
    """
    One pass of a model over a split whenever a metric asks for its outputs.

    Args:
        models (`dict[str, PreTrainedModel]`):
            `original`, `unlearned`, `retrained` and `random`.
        images (`dict[str, ImageDataset]`):
            By split.
        labels (`dict[str, np.ndarray]`):
            By split.
    """

    def __init__(self, models, images, labels):
        self.models, self.images, self.labels = models, images, labels
        # Seconds of each pass over a split, by kind of metric and model that is measured.
        self.passes = {}

    def outputs(self, key: tuple[str, str], model: str, splits, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Probabilities of a model on some splits, of shape `(n, K)`, by a pass over each."""
        logits = []
        for split in splits:
            start = time.process_time()
            logits.append(collect_logits(self.models[model], self.images[split], batch_size)[0])
            self.passes.setdefault(key, []).append(time.process_time() - start)
        return torch.from_numpy(np.concatenate(logits)).double().softmax(dim=-1).numpy()

    def measure(self, name: str) -> dict[str, float]:
        """All metrics of one model that the report holds, but for the gaps."""
        labels, tests = self.labels, ("forget_test", "retain_test")
        metrics = {}
        for split in SPLITS:
            metrics[f"{split}_accuracy"] = accuracy(self.outputs((ACCURACY, name), name, [split]), labels[split])

        one = {split: self.outputs((MEMBERSHIP, name), name, [split], batch_size=1) for split in SPLITS}
        entropies = {split: entropy(rows) for split, rows in one.items()}
        metrics["membership_inference"] = entropy_attack(
            retain=entropies["retain"],
            test=np.concatenate([entropies[split] for split in tests]),
            forget=entropies["forget"],
        )
        members, others = (scores(one[split], labels[split]) for split in ("forget", unseen_split(one)))
        for statistic in members:
            values = attack(members[statistic], others[statistic])
            metrics |= {f"{statistic}_attack_{key}": value for key, value in values.items()}

        key = ("JS, KL, distance, disagreement", name)
        for reference in {"original", "retrained"} - {name}:
            for split in SPLITS:
                for comparison, function in COMPARISONS.items():
                    rows = [self.outputs(key, model, [split]) for model in (name, reference)]
                    metrics[f"{split}_{comparison}_to_{reference}"] = float(np.mean(function(*rows)))
        metrics["retrain_free_js"] = retrain_free_js(
            self.outputs(("RF-JSD", name), name, ["forget"]),
            labels["forget"],
            self.outputs(("RF-JSD", name), "original", tests),
            np.concatenate([labels[split] for split in tests]),
        )
        for split, key in (("forget", ""), ("forget_test", "_forget_test")):
            rows = [self.outputs((ZRF, name), model, [split]) for model in (name, "random")]
            metrics[f"zero_retrain_forgetting{key}"] = zero_retrain_forgetting(*rows)
        return metrics


def largest_difference(ours: dict[str, dict], theirs: dict[str, dict]) -> tuple[int, float, str]:
    """Number of metrics of our report, and the largest difference of one from the released way's, with its name."""
    differences = {
        f"{name} of {model}": abs(value - theirs[model][name]) for model in ours for name, value in ours[model].items()
    }
    largest = max(differences, key=differences.get)
    return len(differences), differences[largest], largest


def median_seconds(function) -> float:
    """Of a few calls."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main(names, data_args, forget_args, compare_args) -> None:
    """Loads the models and the splits, measures both ways and prints the table."""
    if len(names) != 3:
        raise InputError("models", "name three: ORIGINAL UNLEARNED RETRAINED.")
    loaded = [load_model(ModelArguments(model_name_or_path=name)) for name in names]
    models = dict(zip(("original", "unlearned", "retrained"), (model for model, _ in loaded), strict=True))
    image_processor, config = loaded[0][1], loaded[0][0].config
    splits, columns, _ = load_splits(
        data_args, forget_args, forget_args.to_request(), config.id2label, ModelArguments()
    )
    if set(splits) != set(SPLITS):
        raise InputError("forget_request", f"must leave images in each of the splits {', '.join(SPLITS)}.")

    def evaluate(parts, cache_dir=None):
        return evaluate_unlearning(
            models["unlearned"], parts, image_processor, models["original"], models["retrained"],
            batch_size=BATCH_SIZE, logits_cache_dir=cache_dir, **columns,
        )  # fmt: skip

    # Imports and first calls.
    evaluate(type(splits)({name: split.select(range(2)) for name, split in splits.items()}))
    report = evaluate(splits)
    ours = median_seconds(lambda: evaluate(splits))
    alone = median_seconds(
        lambda: evaluate_unlearning(models["unlearned"], splits, image_processor, batch_size=BATCH_SIZE, **columns)
    )
    with tempfile.TemporaryDirectory() as cache_dir:
        evaluate(splits, cache_dir)
        cached = median_seconds(lambda: evaluate(splits, cache_dir))
        again = evaluate(splits, cache_dir)
    if again != report:
        sys.exit("speed.py: error: the cache gives other numbers.")

    images = {name: ImageDataset(split, image_processor, columns["image_column"]) for name, split in splits.items()}
    labels = {
        name: label_ids_of(split, name, columns["label_column"], config.id2label) for name, split in splits.items()
    }
    released = ReleasedWay(models | {"random": random_model(models["unlearned"])}, images, labels)
    start = time.process_time()
    metrics = {name: released.measure(name) for name in models}
    for name in ("original", "unlearned"):
        metrics[name] |= gaps(metrics[name], metrics["retrained"])
    theirs = time.process_time() - start
    count, difference, where = largest_difference({name: report.results[name]["metrics"] for name in models}, metrics)

    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    weights = sum(parameter.numel() for parameter in models["unlearned"].parameters())
    print(f"{config.architectures[0]}, {weights:,} weights; {sizes}; {torch.get_num_threads()} thread(s)\n")
    table = []
    for kind in dict.fromkeys(kind for kind, _ in released.passes):
        of_kind = [seconds for key, passes in released.passes.items() if key[0] == kind for seconds in passes]
        table.append([f"released: {kind}", str(len(of_kind)), f"{sum(of_kind):.1f}"])
    number = sum(len(passes) for passes in released.passes.values())
    table.append(["released: all, with the metrics themselves", str(number), f"{theirs:.1f}"])
    table.append(["`evaluate_unlearning`", str(3 * len(splits) + 2), f"{ours:.2f}"])
    table.append(["`evaluate_unlearning` again, from the cache", "0", f"{cached:.2f}"])
    print(markdown(["way", "passes over a split", "seconds"], table))
    print(f"\n{theirs / ours:.1f} times as fast, {theirs / cached:.0f} times from the cache.")
    print(f"{count} numbers, largest difference {difference:.1e} ({where}).")
    papers = sum(sum(released.passes[kind, "unlearned"]) for kind in (ACCURACY, MEMBERSHIP, ZRF))
    print(
        f"The unlearned model alone, accuracy, membership inference and ZRF only: {papers:.1f} s the released way, "
        f"{alone:.2f} s by `evaluate_unlearning`, {papers / alone:.1f} times as fast."
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    *arguments, positional = make_parser().parse_args_into_dataclasses(look_for_args_file=False)
    try:
        main(positional.models, *arguments)
    except InputError as error:
        sys.exit(f"speed.py: error: {message_of(error)}")
