"""Two blobs in the plane: how far the boundary moves near the forget point and away from it."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contourpy import contour_generator
from torch import nn
from torch.nn.functional import cross_entropy

from hf_unlearn.unlearning.losses import jit_loss
from scripts.benchmarks.results import markdown, median_and_range, new_figure, save_figure


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
        markdown(["forget point", "after", *header], rows),
        markdown(["forget point", "change of the margin at distance", *distances], rings),
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
    save_figure(figure, path, dpi=100)
