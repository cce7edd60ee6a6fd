import itertools

import pytest
import torch

from hf_unlearn import jit_loss
from hf_unlearn.unlearning.losses import KeyedNoise, kl_divergence, noise_key, other_classes


N, B, K = 3, 4, 5
SHAPE = (2, 3, 3)


def make_case():
    """A small smooth classifier in float64, images and noise."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(18, 7), torch.nn.Tanh(), torch.nn.Linear(7, K)
    ).double()
    pixel_values = torch.randn(B, *SHAPE, dtype=torch.float64)
    noise = 0.5 * torch.randn(N, B, *SHAPE, dtype=torch.float64)
    return model, pixel_values, noise


def loop(model, pixel_values, noise, clamp, stop_gradient):
    """The definition of arXiv 2402.01401, Algorithm 1, as a double loop over images and perturbations."""
    values = []
    for b in range(B):
        x = pixel_values[b : b + 1]
        total = 0
        for n in range(N):
            perturbed = x + noise[n, b]
            if clamp is not None:
                perturbed = perturbed.clamp(*clamp)
            output = model(perturbed)
            if stop_gradient:
                output = output.detach()
            change = ((model(x) - output) ** 2).sum().sqrt()
            distance = ((perturbed - x) ** 2).sum().sqrt()
            total = total + change / distance
        values.append(total / N)
    return torch.stack(values)


@pytest.mark.parametrize(
    ("clamp", "stop_gradient", "chunk_size"), list(itertools.product([None, (-1.0, 0.8)], [True, False], [None, 2, 3]))
)
def test_value_and_gradient_are_those_of_a_double_loop(clamp, stop_gradient, chunk_size):
    model, pixel_values, noise = make_case()
    parameters = list(model.parameters())
    expected = loop(model, pixel_values, noise, clamp, stop_gradient)
    loss = jit_loss(
        model,
        pixel_values,
        sigma=0.5,
        num_perturbations=N,
        noise=noise,
        clamp=clamp,
        stop_gradient=stop_gradient,
        chunk_size=chunk_size,
    )
    assert loss.shape == (B,)
    # float64 carries 16 digits; sums of a few hundred terms lose two or three of them.
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(loss.sum(), parameters)
    for gradient, expected_gradient in zip(gradients, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_clamp_takes_a_bound_per_channel():
    model, pixel_values, noise = make_case()
    low, high = torch.tensor([-1.0, -0.5]).view(2, 1, 1), torch.tensor([0.5, 1.0]).view(2, 1, 1)
    seen = []

    def forward(x):
        seen.append(x)
        return model(x)

    jit_loss(forward, pixel_values, sigma=0.5, num_perturbations=N, noise=noise, clamp=(low, high))
    perturbed = torch.cat(seen[:-1])
    assert (perturbed >= low).all() and (perturbed <= high).all()


def test_draw_has_the_standard_deviation_sigma():
    seen = []

    def forward(x):
        seen.append(x)
        return x.flatten(1)

    generator = torch.Generator().manual_seed(0)
    jit_loss(forward, torch.zeros(8, 3, 32, 32), sigma=0.3, num_perturbations=4, generator=generator)
    noise = torch.cat(seen[:-1])
    # 98,304 values: the standard error of a standard deviation is σ/√(2n), here 0.0007.
    assert abs(noise.std().item() - 0.3) < 4 * 0.0007
    assert abs(noise.mean().item()) < 4 * 0.3 / noise.numel() ** 0.5


def test_linear_function_has_the_ratio_of_its_only_slope():
    # f(x) = 3x changes by exactly three times the perturbation, whatever the noise.
    loss = jit_loss(lambda x: 3 * x, torch.zeros(2, 1, 4, 4, dtype=torch.float64), sigma=1.0, num_perturbations=5)
    torch.testing.assert_close(loss, torch.full((2,), 3.0, dtype=torch.float64))


def test_perturbation_that_is_clamped_away_counts_as_zero():
    pixel_values = torch.ones(1, 1, 2, 2, requires_grad=True)
    noise = torch.ones(1, 1, 1, 2, 2)
    loss = jit_loss(lambda x: 2 * x, pixel_values, sigma=1.0, num_perturbations=1, noise=noise, clamp=(0.0, 1.0))
    loss.sum().backward()
    assert loss.item() == 0 and pixel_values.grad.isfinite().all()


def test_no_perturbation_is_an_error():
    with pytest.raises(ValueError, match="num_perturbations must be at least 1, got 0"):
        jit_loss(lambda x: x, torch.zeros(1, 1, 2, 2), sigma=1.0, num_perturbations=0)


def test_keyed_noise_does_not_depend_on_the_batch_or_the_slice():
    pixel_values = torch.zeros(3, 1, 4, 4)
    whole = KeyedNoise(7, [5, 0, 9], pixel_values, sigma=0.5)[0:4]
    assert whole.shape == (4, 3, 1, 4, 4)
    alone = KeyedNoise(7, [0], pixel_values[:1], sigma=0.5)
    assert torch.equal(alone[2:3][0, 0], whole[2, 1])
    assert not torch.equal(whole[0, 0], whole[1, 0])
    assert not torch.equal(KeyedNoise(8, [5], pixel_values[:1], sigma=0.5)[0:1][0, 0], whole[0, 0])


def test_noise_keys_of_neighbours_differ():
    keys = {noise_key(seed, index, number) for seed in range(4) for index in range(200) for number in range(25)}
    assert len(keys) == 4 * 200 * 25


def test_other_classes_are_never_the_own_one_and_all_equally_likely():
    classes = torch.arange(4).repeat(3000)
    others = other_classes(classes, range(12000), num_labels=4, seed=0)
    counts = torch.zeros(4, 4).index_put((classes, others), torch.ones(12000), accumulate=True)
    assert counts.diagonal().sum() == 0
    # 1,000 expected in each of twelve cells, with a standard deviation of 26.
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1000).abs().max() < 110


def test_other_classes_follow_seed_position_and_draw_alone():
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    whole = other_classes(classes, range(6), num_labels=50, seed=7)
    assert torch.equal(other_classes(classes[3:5], [3, 4], num_labels=50, seed=7), whole[3:5])
    assert not torch.equal(other_classes(classes, range(6), num_labels=50, seed=8), whole)
    assert not torch.equal(other_classes(classes, range(6), num_labels=50, seed=7, draw=1), whole)


def test_kl_divergence_is_the_sum_over_classes():
    target, logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).split(2)
    p, q = target.softmax(dim=-1), logits.softmax(dim=-1)
    torch.testing.assert_close(kl_divergence(target, logits), (p * (p / q).log()).sum(dim=-1))
