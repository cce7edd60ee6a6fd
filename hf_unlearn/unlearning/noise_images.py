"""Images made of noise and of a model's gradients, which stand in for a class that has none."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn

from ..errors import InputError


def optimize_noise(
    forward: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    shape: Sequence[int],
    *,
    maximize: bool,
    num_steps: int,
    seed: int,
) -> torch.Tensor:
    """
    Noise images that a model finds hard, or easy, to take for the given classes. From N(0, 1), Adam with rate 0.1 takes
    steps down

        −CE(f(z), y) + 0.1 ‖z‖²   to maximise the error (arXiv 2111.08947), the penalty keeping the noise small, or
        CE(f(z), y)               to minimise it (arXiv 2201.05629).

    Args:
        forward (`Callable`):
            Maps pixel values of shape `(B, C, H, W)` to logits of shape `(B, K)`.
        labels (`torch.Tensor` of shape `(B,)`):
            The classes y, on the device where to compute.
        shape (`Sequence[int]`):
            `(C, H, W)`.
        maximize (`bool`):
            Which of the two.
        num_steps (`int`):
            Of Adam.
        seed (`int`):
            Of the first noise.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`: in units of `pixel_values`, not clamped; the same on all processes.
    """
    # Drawn on the CPU: every kind of device starts from the same.
    first = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed))
    noise = first.to(labels.device).requires_grad_(True)
    optimizer = torch.optim.Adam([noise], lr=0.1)
    for _ in range(num_steps):
        with torch.enable_grad():
            loss = F.cross_entropy(forward(noise).float(), labels)
            if maximize:
                loss = -loss + 0.1 * noise.square().sum(dim=(1, 2, 3)).mean()
            # Of the noise alone: the weights' gradients stay untouched.
            noise.grad = torch.autograd.grad(loss, noise)[0]
        optimizer.step()
    return broadcast(noise.detach())


class NoiseSet(list):
    """
    The part of a training set that is made in `prepare()`: its length is known before, its images and labels later.

    Args:
        num_images (`int`): its length.
    """

    def __init__(self, num_images: int, shape: Sequence[int]):
        super().__init__({"pixel_values": torch.zeros(shape), "labels": -1} for _ in range(num_images))

    def fill(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        for item, image, label in zip(self, pixel_values.cpu(), labels.tolist(), strict=True):
            item.update(pixel_values=image, labels=label)


def take_turns(classes: torch.Tensor, num_images: int) -> torch.Tensor:
    """
    Labels of so many images among which the classes take turns.

    Raises:
        [`InputError`]: if there are fewer images than classes, or no classes.
    """
    if not 0 < len(classes) <= num_images:
        raise InputError(
            "forget_dataset", f"leaves {num_images} noise images for {len(classes)} classes, and each needs one."
        )
    return classes[torch.arange(num_images, device=classes.device) % len(classes)]


def check_forget_kind(name: str | None, forget_kind: str | None, possible: tuple[str, ...]) -> None:
    """
    Raises:
        [`InputError`]: if the method, which forgets classes, cannot forget what the request names.
    """
    if forget_kind not in possible:
        raise InputError(
            "forget_kind",
            f"is {forget_kind!r}, but {name} forgets all of a class and uses no single image of it. Valid: "
            f"{', '.join(possible)}.",
        )


class ImageGenerator(nn.Module):
    """
    Makes images of latent vectors: a linear layer to a quarter of the size, then twice a doubling and a convolution,
    with a last BatchNorm that finds the range of the pixels (the generator of arXiv 2201.05629 in its outline). Its
    BatchNorm layers use the statistics of the batch.

    Args:
        shape (`Sequence[int]`):
            `(C, H, W)` of the images.
    """

    z_dim = 128

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        channels, height, width = shape
        quarter, half = ((-(-height // k), -(-width // k)) for k in (4, 2))
        self.layers = nn.Sequential(
            nn.Linear(self.z_dim, 128 * quarter[0] * quarter[1]),
            nn.Unflatten(1, (128, *quarter)),
            nn.BatchNorm2d(128),
            nn.Upsample(size=half),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Upsample(size=(height, width)),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)
