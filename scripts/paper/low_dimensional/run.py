"""
Look at JiT where everything can be seen: a boundary in the plane, a sigmoid, and the entropy of forgotten digits:

    python scripts/low_dimensional.py --output_dir docs/low_dimensional

Writes blobs.png, sigmoid.png, entropy.png and numbers.json, and prints the tables of docs/low_dimensional.md, which
explains what is measured. About a minute on one CPU core, without a network.
"""

import argparse
import copy
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn.functional import cross_entropy

from hf_unlearn.losses import jit_loss


COLORS = {"original": "#0072B2", "JiT": "#D55E00", "retrained": "#009E73", "released": "#CC79A7"}


def main(output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for name, measure, draw in (
        ("blobs", measure_blobs, draw_blobs),
        ("sigmoid", measure_sigmoid, draw_sigmoid),
        ("entropy", measure_entropy, draw_entropy),
    ):
        start = time.perf_counter()
        numbers[name] = measure()
        draw(numbers, output_dir / f"{name}.png")
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    # Lists of numbers on one line.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(numbers, indent=1))
    (output_dir / "numbers.json").write_text(text + "\n")
    print("", *tables(numbers), sep="\n\n")


def tables(numbers: dict) -> list[str]:
    """The tables of the page, in Markdown."""
    return [*blobs_tables(numbers["blobs"]), *sigmoid_tables(numbers["sigmoid"]), *entropy_tables(numbers["entropy"])]


def markdown(header: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table whose first columns hold words and the others numbers."""
    rule = [":--"] * words + ["--:"] * (len(header) - words)
    return "\n".join([f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)])


def median_and_range(values: list[float], digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def new_figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def save(figure, path: Path) -> None:
    figure.savefig(path, dpi=100, metadata={"Software": None})


# ---- Two blobs: how far the boundary moves near the point and away from it ----

BLOB_SEEDS = range(10, 20)
# Both belong to class 1, the upper right blob.
FORGET_POINTS = {"near the boundary": (0.6, 0.1), "inside the class": (1.3, 2.2)}
RADIUS, REACH = 1.0, 2.0
# Distances from the forget point: the change of the margin is told apart by them.
RINGS = (0, 0.5, 1, 2, 3, 6)
AXIS = torch.linspace(-5, 5, 201)
GRID = torch.cartesian_prod(AXIS, AXIS)
# Learning rate of the one step, what is compared, and whether f(x + ξ) is a constant.
JIT_STEPS = {
    "JiT, Algorithm 1, rate 0.01": (0.01, "logits", False),
    "JiT, Algorithm 1, rate 0.03": (0.03, "logits", False),
    "JiT, Algorithm 1, rate 0.1": (0.1, "logits", False),
    "JiT, constant f(x + ξ), rate 0.03": (0.03, "logits", True),
    "JiT, constant f(x + ξ), probabilities, rate 0.1": (0.1, "probabilities", True),
}
SHOWN = ("retrained", "JiT, Algorithm 1, rate 0.03", "greedy relabelling")


def make_blobs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    100 points of shape (2,) for each of two classes, and labels: centres ±(1.2, 1.2), spread 1. The last two points are
    `FORGET_POINTS`.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(198, 2, generator=generator)
    points[:100] -= 1.2
    points[100:] += 1.2
    return torch.cat([points, torch.tensor([*FORGET_POINTS.values()])]), torch.arange(200) // 100


def train_network(points: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
    """From new weights, 200 steps of Adam on all points at once."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(network(points), labels).backward()
        optimizer.step()
    return network


def jit_step(
    network: nn.Module, point: torch.Tensor, learning_rate: float, space: str, stop_gradient: bool, seed: int
):
    """A copy after one step of JiT on one point: σ = 0.5, N = 25."""
    network = copy.deepcopy(network)

    def forward(pixel_values):
        logits = network(pixel_values.flatten(1))
        return logits if space == "logits" else logits.softmax(dim=1)

    loss = jit_loss(
        forward,
        # A point is an image of one pixel with two channels.
        point.view(1, 2, 1, 1),
        sigma=0.5,
        num_perturbations=25,
        stop_gradient=stop_gradient,
        generator=torch.Generator().manual_seed(seed),
    )
    loss.sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= learning_rate * parameter.grad
    return network


def greedy(network: nn.Module, point: torch.Tensor) -> nn.Module:
    """A copy trained on the point with the other label, SGD at 0.01, until it gets that label."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    while (logits := network(point[None])).argmax() != 0:
        optimizer.zero_grad()
        cross_entropy(logits, torch.tensor([0])).backward()
        optimizer.step()
    return network


def margin(network: Callable, points: torch.Tensor) -> torch.Tensor:
    """Logit of class 1 less that of class 0; the boundary is where it is 0."""
    logits = network(points)
    return logits[:, 1] - logits[:, 0]


def changed_decisions(before: Callable, after: Callable, point: torch.Tensor) -> tuple[float, float]:
    """Share of the grid's points that change class, in percent: up to `RADIUS` from the point, and further away."""
    with torch.no_grad():
        changed = ((margin(before, GRID) > 0) != (margin(after, GRID) > 0)).double()
    near = (GRID - point).norm(dim=1) <= RADIUS
    return 100 * changed[near].mean().item(), 100 * changed[~near].mean().item()


@torch.no_grad()
def margin_change(before: Callable, after: Callable, points: torch.Tensor, point: torch.Tensor) -> list[float]:
    """Median change of the margin's size over the training points in each ring around the forget point."""
    change = (margin(after, points) - margin(before, points)).abs()
    distance = (points - point).norm(dim=1)
    return [
        change[(low <= distance) & (distance < high)].median().item()
        for low, high in zip(RINGS[:-1], RINGS[1:], strict=True)
    ]


def find_boundary(network: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the boundary, one for each cell of the grid that it crosses or more, and their unit normals."""
    from contourpy import contour_generator

    with torch.no_grad():
        heights = margin(network, GRID).view(len(AXIS), len(AXIS)).T
    lines = contour_generator(AXIS.numpy(), AXIS.numpy(), heights.numpy()).lines(0.0)
    points = torch.tensor(np.concatenate(lines), dtype=torch.float32).requires_grad_()
    (normals,) = torch.autograd.grad(margin(network, points).sum(), points)
    return points.detach(), normals / normals.norm(dim=1, keepdim=True)


@torch.no_grad()
def distance_moved(after: Callable, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """How far along its normal each boundary point meets the new boundary; `REACH` where it does not meet it before."""
    steps = torch.linspace(-REACH, REACH, 161)
    heights = margin(after, (points[:, None] + steps[:, None] * normals[:, None]).flatten(0, 1)).view(len(points), -1)
    low, high = heights[:, :-1], heights[:, 1:]
    crosses = (low > 0) != (high > 0)
    # Linear between neighbouring steps.
    at = steps[:-1] + (steps[1:] - steps[:-1]) * low / torch.where(crosses, low - high, 1)
    return torch.where(crosses, at.abs(), REACH).amin(dim=1)


def measure_blobs() -> dict:
    """By forget point and way to forget, lists over seeds."""
    numbers = {place: {} for place in FORGET_POINTS}
    for seed in BLOB_SEEDS:
        points, labels = make_blobs(seed)
        original = train_network(points, labels, seed)
        boundary, normals = find_boundary(original)
        for row, (place, coordinates) in enumerate(FORGET_POINTS.items()):
            point = torch.tensor(coordinates)
            distance = (boundary - point).norm(dim=1)
            near = distance <= distance.min() + RADIUS
            # Where no data are, the boundary lies by accident.
            far = ~near & (torch.cdist(boundary, points).amin(dim=1) <= RADIUS)
            networks = forget(original, points, labels, 198 + row, seed)
            for way, network in networks.items():
                moved = distance_moved(network, boundary, normals)
                changed = changed_decisions(original, network, point)
                measured = {
                    "changed_near": changed[0],
                    "changed_far": changed[1],
                    "unlike_retrained_near": changed_decisions(networks["retrained"], network, point)[0],
                    "moved_near": moved[near].median().item(),
                    "moved_far": moved[far].median().item(),
                    "margin_change": margin_change(original, network, points, point),
                    "margin_before": margin(original, point[None]).item(),
                    "margin": margin(network, point[None]).item(),
                }
                for name, value in measured.items():
                    numbers[place].setdefault(way, {}).setdefault(name, []).append(np.round(value, 4).tolist())
    return numbers


def forget(original: nn.Module, points: torch.Tensor, labels: torch.Tensor, row: int, seed: int) -> dict:
    """The networks that are to have forgotten the point in this row."""
    rest = torch.arange(len(points)) != row
    return {
        "retrained": train_network(points[rest], labels[rest], seed),
        **{way: jit_step(original, points[row], *settings, seed) for way, settings in JIT_STEPS.items()},
        "greedy relabelling": greedy(original, points[row]),
    }


def blobs_tables(numbers: dict) -> list[str]:
    rows, rings = [], []
    for place, ways in numbers.items():
        for way, measured in ways.items():
            shift = np.subtract(measured["margin"], measured["margin_before"])
            lists = [(measured[name], 1) for name in ("changed_near", "changed_far", "unlike_retrained_near")]
            lists += [(measured[name], 3) for name in ("moved_near", "moved_far")]
            cells = [median_and_range(values, digits) for values, digits in lists]
            rows.append([place, way, *cells, f"{(shift < 0).sum()} of {len(shift)}"])
            rings.append([place, way, *(f"{value:.3f}" for value in np.median(measured["margin_change"], axis=0))])
    header = ["changed near, %", "changed far, %", "unlike retrained near, %", "moved near", "moved far", "less sure"]
    distances = [f"{low} to {high}" for low, high in zip(RINGS[:-1], RINGS[1:], strict=True)]
    return [
        markdown(["forget point", "after", *header], rows, words=2),
        markdown(["forget point", "change of the margin at distance", *distances], rings, words=2),
    ]


def draw_blobs(numbers: dict, path: Path) -> None:
    seed = BLOB_SEEDS[0]
    points, labels = make_blobs(seed)
    original = train_network(points, labels, seed)
    figure = new_figure(11, 5.6)
    for row, (place, axes_of_row) in enumerate(zip(FORGET_POINTS, figure.subplots(2, 4), strict=True)):
        networks = forget(original, points, labels, 198 + row, seed)
        shown = {"original": original, **{way: networks[way] for way in SHOWN}}
        for axes, (way, network) in zip(axes_of_row, shown.items(), strict=True):
            with torch.no_grad():
                before, after = (margin(f, GRID).view(len(AXIS), -1).T.numpy() for f in (original, network))
            axes.contourf(AXIS, AXIS, after > 0, levels=[-0.5, 0.5, 1.5], colors=["#c6dcec", "#fbdcc4"])
            axes.contour(AXIS, AXIS, before, levels=[0], colors="black", linestyles="dashed", linewidths=1)
            for label, color in enumerate(("#0072B2", "#D55E00")):
                axes.scatter(*points[labels == label].T, s=5, color=color)
            axes.plot(*points[198 + row], "*", color="black", markersize=10, markeredgecolor="white")
            axes.set(xlim=(-5, 5), ylim=(-5, 5), xticks=(-5, 0, 5), yticks=(-5, 0, 5), aspect="equal")
            axes.set_title(way, fontsize=10)
        axes_of_row[0].set_ylabel(f"forget point {place}")
    save(figure, path)


# ---- A sigmoid: what JiT at one point does to S(wx + b) ----

SIGMOID_POINTS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 4)
# Equally probable values of N(0, 1) in place of a draw: what is seen is the mean over the noise.
NOISE = torch.distributions.Normal(0, 1).icdf((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
CLAMP = 1.1
# Of the paper's picture one value is known: at x = 2, S falls from 0.88 to about 0.745. The rate is set to that.
CLAMP_RATE = 1.55
SIGMOID_VARIANTS = {
    "constant f(x + ξ)": {},
    "constant f(x + ξ), noise clamped to ±1.1": {"clamp": CLAMP, "rate": CLAMP_RATE},
    "the same, clamped to ±1.1, b moves too": {"clamp": CLAMP, "rate": CLAMP_RATE, "bias_moves": True},
    "constant f(x + ξ), noise clamped to ±1": {"clamp": 1.0, "rate": CLAMP_RATE},
    "gradient through both, σ 0.1": {"stop_gradient": False, "sigma": 0.1},
    "gradient through both, σ 1": {"stop_gradient": False},
    "gradient through both, noise clamped to ±1.1": {"stop_gradient": False, "clamp": CLAMP},
    "gradient through both, logits": {"stop_gradient": False, "logits": True, "rate": 0.5},
    "constant f(x + ξ), ratio squared": {"power": 2, "rate": 10.0},
}


def jit_on_sigmoid(
    x: float,
    sigma: float = 1.0,
    clamp: float | None = None,
    stop_gradient: bool = True,
    logits: bool = False,
    power: int = 1,
    bias_moves: bool = False,
    rate: float = 1.0,
    noise: torch.Tensor = NOISE,
    steps: int = 50,
) -> tuple[float, float]:
    """w and b of S(wx + b), 1 and 0 at first, after `steps` steps of JiT at x, each of `rate / steps`."""
    w, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 0.0))
    # One copy of x for each perturbation, so that each ratio can be squared.
    pixel_values = torch.full((len(noise), 1, 1, 1), float(x), dtype=torch.float64)

    def forward(pixel_values):
        z = w * pixel_values.flatten(1) + b
        return z if logits else z.sigmoid()

    for _ in range(steps):
        ratios = jit_loss(
            forward,
            pixel_values,
            sigma=sigma,
            num_perturbations=1,
            noise=sigma * noise.view(1, -1, 1, 1, 1),
            clamp=None if clamp is None else (-clamp, clamp),
            stop_gradient=stop_gradient,
        )
        gradient = torch.autograd.grad((ratios**power).mean(), (w, b))
        with torch.no_grad():
            w -= rate / steps * gradient[0]
            b -= rate / steps * gradient[1] * bias_moves
    return w.item(), b.item()


def mean_pull(x: float, clamp: float, sigma: float) -> float:
    """
    E[1/ξ] for ξ ~ N(0, σ²) clamped so that x + ξ stays within ±clamp: with I the integral of P(N(0, σ²) > t) / t² over t
    from |c − x| to c + x, it is I for 0 ≤ x < c and I − 1/(x − c) for x > c; odd in x. Times S'(wx) x, it is what w gains
    in a step of JiT with f(x + ξ) constant.
    """
    if x < 0:
        return -mean_pull(-x, clamp, sigma)
    tail, _ = integrate.quad(lambda t: stats.norm.sf(t / sigma) / t**2, abs(clamp - x), clamp + x)
    return tail if x < clamp else tail - 1 / (x - clamp)


def measure_sigmoid() -> dict:
    """By variant, w, S(x) and the slope at x after JiT at each of ±`SIGMOID_POINTS`; the range of w after single draws."""
    points = sorted({sign * x for x in SIGMOID_POINTS for sign in (-1, 1)})
    numbers = {"points": points, "variants": {}}
    for name, settings in SIGMOID_VARIANTS.items():
        w, b = np.transpose([jit_on_sigmoid(x, **settings) for x in points])
        value = 1 / (1 + np.exp(-(w * points + b)))
        measured = {"w": w, "value": value, "slope": w * value * (1 - value)}
        # Adding 0 makes -0.0 a plain zero.
        numbers["variants"][name] = {key: (np.round(values, 4) + 0).tolist() for key, values in measured.items()}
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(100, 25, generator=generator, dtype=torch.float64)
    numbers["single_draws"] = []
    for clamp in (None, CLAMP):
        settings = {"clamp": clamp, "rate": 0.3, "steps": 1}
        w = [[jit_on_sigmoid(x, noise=noise, **settings)[0] for noise in draws] for x in SIGMOID_POINTS]
        numbers["single_draws"].append((np.quantile(w, (0.1, 0.9), axis=1).T.round(4) + 0).tolist())
    return numbers


def sigmoid_tables(numbers: dict) -> list[str]:
    at = [numbers["points"].index(x) for x in SIGMOID_POINTS]
    header = [f"{x:g}" for x in SIGMOID_POINTS]
    rows = [[name, *(f"{measured['w'][i]:.2f}" for i in at)] for name, measured in numbers["variants"].items()]
    # Below the mean over the noise, without and with the clamp.
    for row, ranges in zip((1, 3), numbers["single_draws"], strict=True):
        rows.insert(row, ["one draw, 80 % of 100 draws", *(f"{low:.2f} to {high:.2f}" for low, high in ranges)])
    after = list(numbers["variants"].values())[1]
    x = np.array(SIGMOID_POINTS)
    before = 1 / (1 + np.exp(-x))
    figures = {
        "S(x) before": before,
        "S(x) after": [after["value"][i] for i in at],
        "slope at x before": before * (1 - before),
        "slope at x after": [after["slope"][i] for i in at],
        "E[1/ξ], closed form": [mean_pull(value, CLAMP, 1.0) for value in SIGMOID_POINTS],
    }
    closer = [[name, *(f"{value:.3f}" for value in values)] for name, values in figures.items()]
    return [markdown(["w after JiT at x =", *header], rows), markdown(["x", *header], closer)]


def draw_sigmoid(numbers: dict, path: Path) -> None:
    figure = new_figure(11, 3.9)
    shown = {
        "gradient through both, σ 0.1": "Gradient through both outputs, σ = 0.1",
        "constant f(x + ξ)": "f(x + ξ) constant, mean over the noise",
        "constant f(x + ξ), noise clamped to ±1.1": "f(x + ξ) constant, noise clamped to ±1.1",
    }
    x = np.linspace(-6, 6, 400)
    from matplotlib import colormaps

    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=True), shown.items(), strict=True):
        for number, point in enumerate(SIGMOID_POINTS):
            w, b = jit_on_sigmoid(point, **SIGMOID_VARIANTS[name])
            color = colormaps["viridis"](number / 8.5)
            axes.plot(x, 1 / (1 + np.exp(-(w * x + b))), color=color, linewidth=1.2)
            axes.plot(
                point, 1 / (1 + np.exp(-(w * point + b))), "o", color=color, label=f"x = {point:g}", markersize=5
            )
        axes.plot(x, 1 / (1 + np.exp(-x)), color="black", linestyle="dashed", linewidth=1.2, label="before")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="x", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    save(figure, path)


# ---- Digits: the entropy of the forget set under growing noise ----

ENTROPY_SEEDS = (0, 1, 2)
NOISE_LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
EPOCHS = 20
AUTOMATIC, RELEASED, OTHER_SEED = "JiT, automatic", "JiT, released loss", "retrained, other seed"


def load_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's 1,797 digits: pixel values between -1 and 1 of shape (B, 1, 8, 8), and labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None], torch.tensor(digits.target)


def train_vit(images: torch.Tensor, labels: torch.Tensor, seed: int):
    """A small ViT from new weights: AdamW, one cycle up to 3e-3, batches of 64."""
    from transformers import ViTConfig, ViTForImageClassification, set_seed

    set_seed(seed)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=48, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, initializer_range=0.08, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = EPOCHS * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(pixel_values=images[rows]).logits, labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def unlearn_automatically(model, images: torch.Tensor, labels: torch.Tensor, target: float, seed: int):
    """A copy after the package's default for single images."""
    from transformers import PrinterCallback

    from hf_unlearn import JiTConfig, JiTTrainer

    model = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        args = JiTConfig(
            output_dir=folder, forget_kind="images", forget_target=target, noise_clamp="none", seed=seed,
            disable_tqdm=True, logging_strategy="no", save_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        forget_set = [
            {"pixel_values": image, "labels": label} for image, label in zip(images, labels.tolist(), strict=True)
        ]
        trainer = JiTTrainer(model=model, args=args, forget_dataset=forget_set)
        # It prints a dictionary per log.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.eval()


def unlearn_by_released_loss(model, images: torch.Tensor, labels: torch.Tensor, target: float, seed: int):
    """
    A copy after steps of the released loss (raw logits, f(x + ξ) constant, σ = 0.5, N = 25, all weights), each along the
    gradient of the whole forget set and 0.1 % of the norm of the weights long, until the accuracy there is the target.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    while accuracy(model, images, labels) > target:
        loss = jit_loss(
            lambda pixel_values: model(pixel_values=pixel_values).logits,
            images,
            sigma=0.5,
            num_perturbations=25,
            chunk_size=25,
            generator=generator,
        )
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradient = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
        norms = [sum(t.square().sum() for t in tensors if t is not None).sqrt() for tensors in (weights, gradient)]
        with torch.no_grad():
            for weight, slope in zip(weights, gradient, strict=True):
                if slope is not None:
                    weight -= 1e-3 * norms[0] / norms[1] * slope
    return model


@torch.no_grad()
def accuracy(model, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (model(pixel_values=images).logits.argmax(dim=1) == labels).double().mean().item()


def output_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the softmax in nats, of shape (B,)."""
    log_probabilities = logits.double().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def compare_entropies(entropies: dict[str, np.ndarray]) -> dict[str, float]:
    """Two-sided p of Wilcoxon's signed-rank test for each model beside the retrained one, image by image."""
    others = [name for name in entropies if name != "retrained"]
    return {name: float(stats.wilcoxon(entropies[name], entropies["retrained"]).pvalue) for name in others}


def measure_entropy() -> dict:
    """By seed (of weights, test set, forget set and noise): entropies, accuracies and the tests."""
    images, labels = load_images()
    numbers = {"noise_levels": NOISE_LEVELS, "seeds": []}
    for seed in ENTROPY_SEEDS:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(images), generator=generator)
        test, train = rows[:450], rows[450:]
        # The order is random already.
        forget_set, retain_set = train[: len(train) // 10], train[len(train) // 10 :]
        original = train_vit(images[train], labels[train], seed)
        # Unseen images, not the retrained model, say where to stop.
        target = accuracy(original, images[test], labels[test])
        models = {
            "original": original,
            AUTOMATIC: unlearn_automatically(original, images[forget_set], labels[forget_set], target, seed),
            RELEASED: unlearn_by_released_loss(original, images[forget_set], labels[forget_set], target, seed),
            "retrained": train_vit(images[retain_set], labels[retain_set], seed),
            OTHER_SEED: train_vit(images[retain_set], labels[retain_set], seed + 100),
        }
        noise = torch.randn(images[forget_set].shape, generator=generator)
        entropies = {
            name: [clean_or_noisy(model, images[forget_set], level * noise) for level in NOISE_LEVELS]
            for name, model in models.items()
        }
        numbers["seeds"].append(
            {
                "num_images": len(forget_set),
                "mean_entropy": {
                    name: [round(level.mean().item(), 4) for level in levels] for name, levels in entropies.items()
                },
                "median_entropy": {name: round(np.median(levels[0]), 5) for name, levels in entropies.items()},
                "accuracy": {
                    name: {
                        split: round(100 * accuracy(model, images[rows], labels[rows]), 2)
                        for split, rows in (("forget", forget_set), ("retain", retain_set), ("test", test))
                    }
                    for name, model in models.items()
                },
                "p": compare_entropies({name: levels[0] for name, levels in entropies.items()}),
            }
        )
    return numbers


@torch.no_grad()
def clean_or_noisy(model, images: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
    return output_entropy(model(pixel_values=images + noise).logits).numpy()


def entropy_tables(numbers: dict) -> list[str]:
    seeds = numbers["seeds"]
    measured, tested = [], []
    for name in seeds[0]["accuracy"]:
        values = [[seed["mean_entropy"][name][0] for seed in seeds], [seed["median_entropy"][name] for seed in seeds]]
        values += [[seed["accuracy"][name][split] for seed in seeds] for split in ("forget", "retain", "test")]
        digits = (3, 4, 1, 1, 1)
        measured.append([name, *(median_and_range(v, d) for v, d in zip(values, digits, strict=True))])
    for name in seeds[0]["p"]:
        tested.append([f"{name} / retrained", *(f"{seed['p'][name]:.1e}" for seed in seeds)])
    header = ["model", "mean entropy, nats", "median", "forget, %", "retain, %", "test, %"]
    return [markdown(header, measured), markdown(["p of", *(f"seed {seed}" for seed in ENTROPY_SEEDS)], tested)]


def draw_entropy(numbers: dict, path: Path) -> None:
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    styles = {
        "original": (COLORS["original"], "solid"),
        AUTOMATIC: (COLORS["JiT"], "solid"),
        RELEASED: (COLORS["released"], "dotted"),
        "retrained": (COLORS["retrained"], "dashed"),
        OTHER_SEED: (COLORS["retrained"], "dotted"),
    }
    for name, (color, style) in styles.items():
        levels = [seed["mean_entropy"][name] for seed in numbers["entropy"]["seeds"]]
        axes.plot(NOISE_LEVELS, np.median(levels, axis=0), color=color, linestyle=style, marker="o", ms=3, label=name)
        axes.fill_between(NOISE_LEVELS, np.min(levels, axis=0), np.max(levels, axis=0), color=color, alpha=0.1)
    axes.axhline(np.log(10), color="grey", linewidth=0.8)
    axes.annotate(
        "all ten digits alike", (0, np.log(10)), (0, -11), textcoords="offset points", fontsize=8, color="grey"
    )
    axes.set(xlabel="standard deviation of the noise, pixel values from -1 to 1")
    axes.set(ylabel="mean entropy on the forget set, nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/low_dimensional"))
    arguments = parser.parse_args()
    # Networks this small gain nothing from more threads.
    torch.set_num_threads(1)
    main(arguments.output_dir)
