"""The first step of the noise, against its closed form."""

import pytest
import torch

from hf_unlearn.unlearning.noise_images import optimize_noise


@pytest.mark.parametrize("maximize", [True, False])
def test_first_step_of_the_noise_goes_down_its_loss(maximize):
    """The first step of Adam is the sign of the gradient, which a linear model gives in closed form."""
    torch.manual_seed(0)
    matrix, labels = torch.randn(3, 12), torch.tensor([0, 2])
    noise = optimize_noise(
        lambda z: z.flatten(1) @ matrix.T, labels, (3, 2, 2), maximize=maximize, num_steps=1, seed=7
    )

    first = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(7)).flatten(1)
    of_error = ((first @ matrix.T).softmax(dim=-1) - torch.eye(3)[labels]) @ matrix
    gradient = -of_error + 0.2 * first if maximize else of_error
    assert torch.allclose(noise.flatten(1), first - 0.1 * gradient.sign(), atol=1e-5)
