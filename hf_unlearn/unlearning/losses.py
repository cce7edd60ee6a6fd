"""Losses, and the noise and random labels that they need: pure tensor functions, nothing of Hugging Face."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F


def jit_loss(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    *,
    sigma: float | torch.Tensor,
    num_perturbations: int,
    noise: "torch.Tensor | KeyedNoise | None" = None,
    clamp: tuple[float | torch.Tensor, float | torch.Tensor] | None = None,
    stop_gradient: bool = True,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""
    JiT's measure of how fast the model's output changes around each image (arXiv 2402.01401, Algorithm 1):

        (1/N) Σ_i ‖f(x) − f(x + ξ_i)‖₂ / ‖(x + ξ_i) − x‖₂,    ξ_i ~ N(0, σ²)

    Minimising it flattens `f` in a small neighbourhood of `x`. Norms are unsquared and run over all dimensions but the
    batch. A perturbation that the clamp reduces to nothing counts as zero.

    Args:
        forward (`Callable`):
            Maps pixel values of shape `(B, C, H, W)` to outputs of shape `(B, K)`, raw logits in the paper. Called with
            perturbed batches of shape `(n * B, C, H, W)`, and in the end once with `pixel_values` itself.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            The images, preprocessed as the model expects them.
        sigma (`float` or `torch.Tensor`):
            Standard deviation of the noise, in units of `pixel_values`. Not used when `noise` is given.
        num_perturbations (`int`):
            N, the number of perturbed copies of each image.
        noise (`torch.Tensor` of shape `(N, B, C, H, W)` or [`KeyedNoise`], *optional*):
            The perturbations ξ themselves, already scaled by σ, in place of a draw.
        clamp (`tuple` of two, *optional*):
            Lowest and highest value of the perturbed image, in units of `pixel_values`: floats, or tensors that
            broadcast against `(B, C, H, W)`. The denominator uses the clamped difference.
        stop_gradient (`bool`, *optional*, defaults to `True`):
            Whether f(x + ξ) is a constant, as in the authors' code. With `False`, as in Algorithm 1, gradients flow
            through both outputs and the activations of all N copies are kept.
        chunk_size (`int`, *optional*, defaults to 1):
            How many perturbations share one forward pass. Changes memory and speed, never the result.
        generator (`torch.Generator`, *optional*):
            For the draw when `noise` is not given.

    Returns:
        `torch.Tensor` of shape `(B,)`: one value per image.
    """
    if num_perturbations < 1:
        raise ValueError(f"num_perturbations must be at least 1, got {num_perturbations}.")
    chunk_size = chunk_size or 1
    perturbed_outputs, distances = [], []
    for start in range(0, num_perturbations, chunk_size):
        chunk = min(chunk_size, num_perturbations - start)
        if noise is None:
            perturbation = sigma * torch.randn(
                (chunk, *pixel_values.shape),
                generator=generator,
                device=pixel_values.device,
                dtype=pixel_values.dtype,
            )
        else:
            perturbation = noise[start : start + chunk]
        perturbed = pixel_values + perturbation
        # The pass below needs the room.
        del perturbation
        if clamp is not None:
            low, high = (torch.as_tensor(bound, device=perturbed.device, dtype=perturbed.dtype) for bound in clamp)
            perturbed.clamp_(low, high)
        distances.append((perturbed - pixel_values).flatten(2).norm(dim=2))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stop_gradient):
            perturbed_outputs.append(forward(perturbed.flatten(0, 1)).flatten(1).unflatten(0, (chunk, -1)))
        del perturbed

    # Last: what its backward pass needs is not in memory beside the passes above.
    outputs = forward(pixel_values).flatten(1)
    change = (outputs - torch.cat(perturbed_outputs)).norm(dim=2)
    distance = torch.cat(distances)
    moved = distance > 0
    return (change / torch.where(moved, distance, 1) * moved).mean(dim=0)


class KeyedNoise:
    """
    Gaussian noise whose values depend on (seed, sample index, perturbation number) and on nothing else, so that a
    forget set gives the same noise however it is cut into batches, accumulation steps, processes and chunks.

    It is drawn when sliced, `noise[start:stop]`, and has then the shape `(stop - start, B, C, H, W)`: memory does not
    grow with the number of perturbations.

    Args:
        seed (`int`):
            Seed of the run.
        sample_indices (`Sequence[int]`):
            Position of each image of the batch in the forget set.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            Gives shape, dtype and device. Devices of different kinds draw different values.
        sigma (`float`):
            Standard deviation.
    """

    def __init__(self, seed: int, sample_indices: Sequence[int], pixel_values: torch.Tensor, sigma: float):
        self.seed = seed
        self.sample_indices = sample_indices
        self.pixel_values = pixel_values
        self.sigma = sigma
        self.generator = torch.Generator(device=pixel_values.device)

    def __getitem__(self, perturbations: slice) -> torch.Tensor:
        numbers = range(perturbations.start, perturbations.stop)
        noise = self.pixel_values.new_empty((len(numbers), *self.pixel_values.shape))
        keys = product(numbers, self.sample_indices)
        for (number, sample_index), image in zip(keys, noise.flatten(0, 1).unbind(), strict=True):
            self.generator.manual_seed(noise_key(self.seed, sample_index, number))
            image.normal_(std=self.sigma, generator=self.generator)
        return noise


def noise_key(seed: int, sample_index: int, perturbation: int) -> int:
    """Mixes the three numbers into one 63-bit seed. The steps are those of splitmix64, a well-known bit mixer."""
    key = 0
    for number in (seed, sample_index, perturbation):
        key = (key ^ number) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        key = (key ^ key >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        key ^= key >> 31
    return key >> 1


def other_classes(
    classes: torch.Tensor, sample_indices: Sequence[int], num_labels: int, seed: int, draw: int = 0
) -> torch.Tensor:
    """
    For each image a class that is not its own, all others being equally likely. It depends on (seed, sample index, draw)
    and on nothing else, so that it is the same however a forget set is cut.

    Args:
        classes (`torch.Tensor` of shape `(B,)`):
            Label ids of the images' own classes.
        sample_indices (`Sequence[int]`):
            Position of each image of the batch in the training set.
        num_labels (`int`):
            K, at least 2.
        seed (`int`):
            Seed of the run.
        draw (`int`, *optional*, defaults to 0):
            Another number gives another, independent choice.

    Returns:
        `torch.Tensor` of shape `(B,)`: label ids.
    """
    offsets = [1 + noise_key(seed, sample_index, draw) % (num_labels - 1) for sample_index in sample_indices]
    return (classes + torch.tensor(offsets, device=classes.device)) % num_labels


def kl_divergence(target_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(target) ‖ softmax(logits)) of each row, of shape `(B,)`, from logits of shape `(B, K)`."""
    return F.kl_div(logits.log_softmax(dim=-1), target_logits.softmax(dim=-1), reduction="none").sum(dim=-1)
