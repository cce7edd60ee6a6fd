"""One request of run.py, and what became of the model."""

import tempfile
import time
from functools import cache

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from hf_unlearn import JiTTrainer
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.unlearning.original import check_collapse
from scripts.benchmarks.networks import IMAGE_PROCESSOR, as_rows, hits, labels_of, load_data, load_model, quiet_trainer


class BenchmarkTrainer(JiTTrainer):
    """The package's trainer; `stretch` makes the step that it found that many times as long."""

    stretch = 1.0

    def finish(self):
        super().finish()
        if self.stretch != 1:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if name in self.original.weights:
                        original = self.original.weights[name]
                        parameter.copy_(original + self.stretch * (parameter - original))
            # That of the step as it was found.
            self.change = None


def unlearn(
    options, architecture, problem, seed, kind=None, draw=None, num_images=None, settings=None, images=None,
    stretch=1.0, nan_weight=False,
) -> dict:  # fmt: skip
    """
    One request, for the images of a kind or else for the random images of a draw, with the defaults if nothing else is
    given, and what became of the model.
    """
    model = load_model(options, architecture, problem, seed)
    forget_before, retain_before = test_accuracy(
        original_hits(options, architecture, problem, seed), options, problem, kind
    )
    if nan_weight:
        with torch.no_grad():
            list(model.parameters())[-1].view(-1)[0] = torch.nan
    passes = {"forward": 0, "backward": 0}

    def count(module, args, kwargs, output):
        passes["forward"] += len(output.logits)
        passes["backward"] += len(output.logits) * output.logits.requires_grad

    hook = model.register_forward_hook(count, with_kwargs=True)
    x, kinds = load_data(options, problem, "train")
    if kind is None:
        rows = torch.tensor(np.random.RandomState(draw).permutation(len(kinds))[:num_images])
    else:
        rows = (kinds == kind).nonzero()[:num_images, 0]
    x, y = x[rows], labels_of(problem, kinds)[rows]
    # What an unprepared image would be: all networks were trained on pixel values between -1 and 1.
    x = images(x) if images else x
    # Of a forget set alone nothing tells that it is all of a class.
    settings = {"per_device_train_batch_size": 64, "forget_kind": "class"} | (settings or {})
    if "preset" in settings:
        # Presets fill in what was left at its default.
        del settings["per_device_train_batch_size"]
    forget_set = as_rows(x, y)
    started, refused, changed = time.time(), "", float("nan")
    with tempfile.TemporaryDirectory() as output_dir:

        def train(**more):
            trainer = quiet_trainer(
                model, forget_set, output_dir, IMAGE_PROCESSOR, BenchmarkTrainer, **settings, **more
            )
            trainer.stretch = stretch
            trainer.train()
            return trainer

        original = {name: weight.clone() for name, weight in model.state_dict().items()}
        try:
            trainer = train(allow_collapse=True)
            changed, start, step = trainer.change, 100 * trainer.start, trainer.step
            distance = trainer.distance_moved()
        except CollapsedModelError:
            # Even --allow_collapse does not take a step along a gradient that is not finite.
            refused, start, step, distance = "collapsed", float("nan"), None, float("nan")
        seconds = time.time() - started
        hook.remove()
        found = hits(model, *test_images(options, problem))
        forget, retain = test_accuracy(found, options, problem, kind)
        membership = {} if kind is not None else {"membership_auc": membership_auc(model, options, problem, x, y)}
        if not refused:
            # The package's own verdict on the same weights; it puts the original ones back.
            trainer.args.allow_collapse = False
            try:
                check_collapse(trainer)
                if images:
                    # Such a run may end before it begins.
                    model.load_state_dict(original)
                    train()
            except CollapsedModelError:
                refused = "collapsed"
            except InputError:
                refused = "input"
    return {
        "num_images": len(x),
        "forget_test_before": forget_before,
        "forget_test": forget,
        "retain_test_before": retain_before,
        "retain_test": retain,
        "lost": retain_before - retain,
        "change_elsewhere": changed,
        "distance_moved": distance,
        "refused": refused,
        "start": start,
        "target": 100 * step.target if step else "",
        "reached": 100 * step.accuracy if step else "",
        "evaluations": step.evaluations if step else "",
        **membership,
        **passes,
        "seconds": seconds,
    }


def test_images(options, problem: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, kinds = load_data(options, problem, "test")
    return x, labels_of(problem, kinds)


@cache
def original_hits(options, architecture: str, problem: str, seed: int, without: int | None = None) -> np.ndarray:
    model = load_model(options, architecture, problem, seed, without)
    return hits(model, *test_images(options, problem))


def test_accuracy(found: np.ndarray, options, problem: str, kind: int | None) -> tuple[float, float]:
    """In percent, on the kind to forget and on the others; without a kind, on none and on all."""
    _, kinds = load_data(options, problem, "test")
    if kind is None:
        return float("nan"), 100 * found.mean()
    return 100 * found[kinds == kind].mean(), 100 * found[kinds != kind].mean()


@torch.no_grad()
def membership_auc(model, options, problem: str, x: torch.Tensor, y: torch.Tensor) -> float:
    """How well the loss tells forget images from up to 2,000 test images; 0.5: not at all."""
    test_x, test_y = test_images(options, problem)
    some = torch.tensor(np.random.RandomState(0).permutation(len(test_y))[:2000])
    losses = [
        torch.cat([
            cross_entropy(model(pixel_values=images).logits, labels, reduction="none")
            for images, labels in zip(all_images.split(500), all_labels.split(500), strict=True)
        ]).numpy()
        for all_images, all_labels in ((x, y), (test_x[some], test_y[some]))
    ]  # fmt: skip
    return roc_auc_score(np.repeat([1, 0], [len(x), len(some)]), -np.concatenate(losses))
