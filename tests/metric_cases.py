"""The metrics by name, columns for each of them, and what the definitions in the tests compare them with."""

import math
from pathlib import Path

import evaluate
import numpy as np

import hf_unlearn.metrics


METRICS = Path(hf_unlearn.metrics.__path__[0])
NAMES = sorted(folder.name for folder in METRICS.iterdir() if (folder / f"{folder.name}.py").exists())
# The accuracies of two models, for [`models_with_accuracies`].
UNLEARNED = {"forget": 0.1, "retain": 0.9, "test": 0.7}
RETRAINED = {"forget": 0.0, "retain": 1.0, "test": 0.9}


def load(name, **kwargs):
    return evaluate.load(str(METRICS / name), keep_in_memory=True, **kwargs)


def make_columns(name):
    """Four pairs of models, 36 images: what each metric needs, in random numbers."""
    rng = np.random.default_rng(0)
    labels, splits = [0, 1, 2, 3] * 9, ["forget"] * 12 + ["retain"] * 12 + ["test"] * 12
    columns = {
        "predictions": rng.dirichlet(np.ones(4), size=4 * 36).tolist(),
        "references": rng.dirichlet(np.ones(4), size=4 * 36).tolist(),
        "labels": labels * 4,
        "splits": splits * 4,
        "images": list(range(36)) * 4,
        "models": [pair for pair in range(4) for _ in range(36)],
    }
    features = load(name).features
    if "int64" in str(features["references"]):
        columns["references"] = columns["labels"]
    return {column: columns[column] for column in features}


def cut(columns, start, stop):
    return {column: values[start:stop] for column, values in columns.items()}


def random_rows(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], 0.3), size=shape[:-1])


def js_written_out(p, q):
    def kl(a, b):
        return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def models_with_accuracies(unlearned, retrained, images=10):
    """Columns of two models with tenths of right answers per split."""
    columns = {"predictions": [], "references": [], "labels": [], "splits": []}
    for split in unlearned:
        for image in range(images):
            for column, accuracies in (("predictions", unlearned), ("references", retrained)):
                right = image < round(accuracies[split] * images)
                columns[column].append([0.9, 0.1] if right else [0.2, 0.8])
            columns["labels"].append(0)
            columns["splits"].append(split)
    return columns
