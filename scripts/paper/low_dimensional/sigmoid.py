"""A sigmoid: what JiT at one point does to S(wx + b)."""

from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from scipy import integrate, stats

from hf_unlearn.unlearning.losses import jit_loss
from scripts.benchmarks.results import markdown, new_figure, save_figure


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
    save_figure(figure, path, dpi=100)
