"""The low-dimensional experiments: what they measure, against definitions written out, and the page about them."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from scripts.paper.low_dimensional import blobs, entropy
from scripts.paper.low_dimensional.run import tables
from scripts.paper.low_dimensional.sigmoid import jit_on_sigmoid, mean_pull


PAGE = ROOT / "docs" / "low_dimensional.md"


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slope(x):
    return sigmoid(x) * (1 - sigmoid(x))


def line(a, b, c):
    """A classifier whose boundary is a·x + b·y + c = 0."""

    def network(points):
        height = a * points[:, 0] + b * points[:, 1] + c
        return torch.stack([-height / 2, height / 2], dim=1)

    return network


# ---- The boundary ----


def test_blobs_hold_100_points_a_class_and_the_forget_points_belong_to_class_1():
    points, labels = blobs.make_blobs(3)
    assert torch.bincount(labels).tolist() == [100, 100]
    assert points[-2:].tolist() == [pytest.approx((0.6, 0.1)), pytest.approx((1.3, 2.2))]
    assert labels[-2:].tolist() == [1, 1]


def test_changed_decisions_are_counted_on_the_grid_near_the_point_and_away_from_it():
    # Only points of the grid with -0.52 < x ≤ -0.01 change class.
    near, far = [], []
    for x, y in blobs.GRID.tolist():
        changed = -0.52 < x <= -0.01
        (near if math.dist((x, y), (0.03, 0.02)) <= 1 else far).append(changed)
    measured = blobs.changed_decisions(line(1, 0, 0.01), line(1, 0, 0.52), torch.tensor([0.03, 0.02]))
    assert measured == pytest.approx((100 * np.mean(near), 100 * np.mean(far)))
    assert near and measured[0] > measured[1] > 0


def test_boundary_of_a_line_and_its_normals():
    points, normals = blobs.find_boundary(line(3, 4, 1))
    # Five-digit coordinates, float32.
    assert (3 * points[:, 0] + 4 * points[:, 1] + 1).abs().max() < 1e-4
    assert normals.tolist() == [pytest.approx((0.6, 0.8), abs=1e-5)] * len(points)
    # From one side of the square to the other.
    assert (points[:, 0].min().item(), points[:, 0].max().item()) == pytest.approx((-5, 5))


def test_distance_moved_is_taken_along_the_normal():
    points, normals = blobs.find_boundary(line(1, 0, 0))
    assert blobs.distance_moved(line(1, 0, -0.31), points, normals).tolist() == pytest.approx([0.31] * len(points))
    # x = y / 4 meets the normal at (x, y) = (0, y) after |y| / 4.
    expected = (points[:, 1].abs() / 4).tolist()
    assert blobs.distance_moved(line(4, -1, 0), points, normals).tolist() == pytest.approx(expected, abs=1e-5)


def test_distance_moved_ends_at_the_reach():
    points, normals = blobs.find_boundary(line(1, 0, 0))
    for after in (line(1, 0, 3), line(0, 0, 1)):
        assert set(blobs.distance_moved(after, points, normals).tolist()) == {blobs.REACH}


def test_distance_moved_takes_the_nearest_of_two_boundaries():
    points, normals = blobs.find_boundary(line(1, 0, 0))

    def two_lines(points):
        height = (points[:, 0] - 0.2) * (points[:, 0] + 1.1)
        return torch.stack([-height, height], dim=1)

    # Linear between steps of 0.025, while the height is a parabola.
    assert blobs.distance_moved(two_lines, points, normals).tolist() == pytest.approx([0.2] * len(points), abs=1e-3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_jit_step_is_one_gradient_step_on_one_point(network, stop_gradient):
    point = torch.tensor([0.6, 0.1])
    generator = torch.Generator().manual_seed(5)
    total = 0
    for _ in range(25):
        noise = 0.5 * torch.randn((1, 1, 2, 1, 1), generator=generator).flatten()
        moved = network((point + noise)[None])
        total = total + (network(point[None]) - (moved.detach() if stop_gradient else moved)).norm() / noise.norm()
    gradients = torch.autograd.grad(total / 25, list(network.parameters()), allow_unused=True)

    after = blobs.jit_step(network, point, 0.03, "logits", stop_gradient, seed=5)
    for old, new, gradient in zip(network.parameters(), after.parameters(), gradients, strict=True):
        torch.testing.assert_close(new, old - 0.03 * (0 if gradient is None else gradient))


def test_greedy_relabelling_ends_with_the_other_label_and_leaves_the_original(network):
    with torch.no_grad():
        network[2].bias += torch.tensor([-1.0, 1.0])
    before = copy.deepcopy(network.state_dict())
    point = torch.tensor([1.3, 2.2])
    assert network(point[None]).argmax() == 1
    assert blobs.greedy(network, point)(point[None]).argmax() == 0
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


# ---- The sigmoid; one step, so that the gradient is the original's ----


@pytest.mark.parametrize("x", [-2, -0.5, 0, 0.25, 1.5, 4])
def test_gradient_through_both_outputs_flattens_inside_and_steepens_outside(x):
    # For small σ the loss is w S'(wx); its derivative at w = 1 is S'(x) (1 - x tanh(x / 2)).
    w, _ = jit_on_sigmoid(x, sigma=0.001, stop_gradient=False, rate=0.5, steps=1)
    assert w == pytest.approx(1 - 0.5 * slope(x) * (1 - x * math.tanh(x / 2)), abs=1e-5)
    assert (w < 1) == (abs(x) < 1.543)


@pytest.mark.parametrize("x", [-2, 0, 0.5, 4])
def test_with_a_constant_perturbed_output_nothing_moves_in_the_mean(x):
    assert jit_on_sigmoid(x, rate=10.0, bias_moves=True) == pytest.approx((1, 0), abs=1e-9)


def test_with_a_constant_perturbed_output_single_draws_move_by_the_mean_of_one_over_the_noise():
    noise = torch.tensor([0.4, -1.2, 2.0, -0.1], dtype=torch.float64)
    mean = (1 / 0.4 - 1 / 1.2 + 1 / 2.0 - 1 / 0.1) / 4
    w, b = jit_on_sigmoid(1.5, noise=noise, rate=0.01, steps=1, bias_moves=True)
    assert (w, b) == pytest.approx((1 + 0.01 * mean * 1.5 * slope(1.5), 0.01 * mean * slope(1.5)))


@pytest.mark.parametrize("x", [-1.25, -0.5, 0, 0.25, 0.75, 1, 1.5, 2, 4])
def test_the_clamp_pulls_points_within_it_outwards_and_points_beyond_it_inwards(x):
    clamp, sigma = 1.1, 0.7
    # The mean of 1 / ξ over two million equally probable values.
    noise = sigma * torch.distributions.Normal(0, 1).icdf((torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2e6)
    clamped = (x + noise).clamp(-clamp, clamp) - x
    pull = mean_pull(x, clamp, sigma)
    assert pull == pytest.approx((1 / clamped).mean().item(), abs=1e-3)
    assert np.sign(pull * x) == (0 if x == 0 else 1 if abs(x) < clamp else -1)
    # A thousand values in place of two million.
    w, _ = jit_on_sigmoid(x, sigma=sigma, clamp=clamp, rate=0.01, steps=1)
    assert w - 1 == pytest.approx(0.01 * pull * x * slope(x), rel=0.02, abs=1e-6)


@pytest.mark.parametrize("x", [-2, 0, 0.5, 1.25])
def test_the_squared_ratio_flattens_everywhere_but_at_the_middle(x):
    # For small σ the mean gradient is -S''(x) x S'(x) = S'(x)² x tanh(x / 2).
    w, _ = jit_on_sigmoid(x, sigma=0.01, power=2, rate=1.0, steps=1)
    assert w == pytest.approx(1 - slope(x) ** 2 * x * math.tanh(x / 2), abs=1e-4)


@pytest.mark.parametrize("x", [-2, 0, 0.5])
def test_logits_of_a_line_flatten_alike_at_every_point(x):
    # |w ξ| / |ξ| = w: its derivative is 1.
    w, _ = jit_on_sigmoid(x, stop_gradient=False, logits=True, rate=0.3, steps=1)
    assert w == pytest.approx(0.7)


# ---- The entropy ----


def test_entropy_is_in_nats():
    logits = torch.tensor([[0.0, 0, 0, 0], [100, 0, 0, 0], [math.log(3), 0, -100, -100]])
    expected = [math.log(4), 0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert entropy.output_entropy(logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_wilcoxon_pairs_the_images_and_is_two_sided():
    retrained = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    # All five differences have one sign: the exact p is 2 / 2⁵, whatever their size.
    larger = retrained + [1, 2, 3, 4, 5]
    p = entropy.compare_entropies({"original": larger, "retrained": retrained, "JiT": retrained - [1, 2, 3, 4, 5]})
    assert p == pytest.approx({"original": 0.0625, "JiT": 0.0625})


@pytest.mark.parametrize("unlearn", [entropy.unlearn_by_released_loss, entropy.unlearn_automatically])
def test_unlearning_stops_at_the_accuracy_asked_for_and_leaves_the_original(unlearn):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.3, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    images = torch.randn(20, 1, 8, 8)
    labels = model(pixel_values=images).logits.argmax(dim=1)
    unlearned = unlearn(model, images, labels, 0.8, seed=0)
    assert entropy.accuracy(unlearned, images, labels) <= 0.8
    assert entropy.accuracy(model, images, labels) == 1


# ---- The page ----


def test_the_command_of_the_page_is_there():
    command = re.search(r"^python -m (\S+) --output_dir (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert (ROOT / command[1].replace(".", "/")).with_suffix(".py").is_file()
    assert (ROOT / command[2] / "numbers.json").is_file()


def test_the_tables_of_the_page_are_those_of_the_numbers():
    numbers = json.loads((ROOT / "docs" / "low_dimensional" / "numbers.json").read_text())
    page = PAGE.read_text(encoding="utf-8")
    for table in tables(numbers):
        assert table in page


def test_the_pictures_of_the_page_are_there():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(pictures) == 3
    assert all((PAGE.parent / picture).stat().st_size < 200_000 for picture in pictures)
