"""How much has the model changed elsewhere? Estimated with no retained data, and the limit past which nothing is saved."""

from collections.abc import Callable, Set

import torch
import torch.nn.functional as F
from accelerate.utils import reduce

from ..terminal import progress
from .shares import in_batches, own_share, share


# Calibrated in docs/auto_step.md: no alarm in good runs, and models that lost ten points or more are caught.
CHANGE_LIMIT = 0.40
# Of JiT for whole classes. A step of the last stage that passes it gives way to one of the head, so it can be stricter.
JIT_CHANGE_LIMIT = 0.25
# Of the norm of the weights that move; no step of the defaults was longer than 8.4 %.
DISTANCE_LIMIT = 0.10
# With retained images in the update, answers to probes move further than the accuracy. In 51 runs (Fashion-MNIST, one class,
# three networks, six methods) models that lost up to 3.1 points were below 0.65, all others, 8 points and more, above 0.7.
RETAIN_CHANGE_LIMIT = 0.70
# Forget images looked at: enough for the estimate to be steady, few enough to fit in memory at any size.
NUM_IMAGES = 64
# Impressions are made of so many classes at most, one of each: four rank models no better, see docs/auto_step.md.
MAX_CLASSES = 30
# Of a batch of probes: 64 images of 64 × 64, 5 of 224 × 224. Their gradients must not be what fills the memory.
NUM_PIXELS = 64 * 64 * 64


class Guard:
    """
    Compares the outputs of the original and of the unlearned model on probes made from the original model and some
    forget images:

    - *varied*: forget images transposed, flipped, inverted, mixed and cut into shuffled patches;
    - *impressions*: those and noise, moved until the original model is 80 % sure of a class that stays;
    - *near*: the forget images themselves, moved likewise: what lies next to the forgotten is damaged first.

    The classes that are to vanish are left out of the comparison. Impressions of which the model is surer hide damage.
    Several processes share the passes.

    Args:
        forward (`Callable`):
            Maps pixel values of shape `(B, C, H, W)` to logits of shape `(B, K)`: the original model, now.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            Some forget images.
        num_labels (`int`):
            K.
        vanishing (`set[int]`, *optional*):
            Label ids of classes that are to vanish.
        seed (`int`, *optional*, defaults to 0):
            Of the choices among probes, the same on all processes.
        forward_again (`Callable`, *optional*):
            For probes, which pass twice, before and after: maps their number to a function of their positions, a
            `list[int]`, and their pixel values that gives their logits. By `forward` when not given.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar while impressions are made.
        in_step (`bool`, *optional*, defaults to `False`):
            Whether each process must pass as often as the others, as a sharded model wants it.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        pixel_values: torch.Tensor,
        num_labels: int,
        vanishing: Set[int] = frozenset(),
        seed: int = 0,
        forward_again: Callable[[int], Callable[[list[int], torch.Tensor], torch.Tensor]] | None = None,
        show_progress: bool = False,
        in_step: bool = False,
    ):
        forward_again = forward_again or (lambda number: lambda positions, pixel_values: forward(pixel_values))
        # Single images passed forward, a backward pass to the image counting as one more.
        self.passes = 0
        self.staying = staying_classes(num_labels, vanishing)
        self.generator = torch.Generator().manual_seed(seed)
        self.low, self.high = pixel_values.min(), pixel_values.max()

        varied = self.vary(pixel_values[:16])
        self.probes = {"varied": varied}
        for name, pool in (
            ("impressions", torch.cat([varied, self.noise_like(pixel_values)])),
            ("near", pixel_values),
        ):
            self.probes[name], passes = impressions(
                forward, pool, self.staying, self.generator, show_progress=show_progress, in_step=in_step
            )
            self.passes += passes
        self.forward_again = {name: forward_again(len(probes)) for name, probes in self.probes.items()}
        self.before = {name: self.outputs(name) for name in self.probes}

    @torch.no_grad()
    def outputs(self, name: str) -> torch.Tensor:
        """Probabilities among the classes that stay, of shape `(number of probes, number of them)`."""
        pixel_values, forward = self.probes[name], self.forward_again[name]
        self.passes += len(pixel_values)
        batches = in_batches(len(pixel_values), batch_size_for(pixel_values))
        logits = share(batches, lambda rows: forward(rows.tolist(), pixel_values[rows]))
        return logits[:, self.staying].float().softmax(dim=-1)

    def change(self) -> float:
        """
        Mean total variation ½ Σ_k |p_k − p'_k| between the outputs before and now, over the kinds of probes: 0 for an
        untouched model, 1 for one that shares no answer with the original, or whose output is not finite.
        """
        changes = []
        for name, before in self.before.items():
            now = self.outputs(name)
            if not now.isfinite().all():
                return 1.0
            changes.append(0.5 * (before - now).abs().sum(dim=-1).mean())
        return torch.stack(changes).mean().item()

    def vary(self, x: torch.Tensor) -> torch.Tensor:
        """Eight variants of each image that keep its colours and lose its meaning to different degrees."""
        turned = x.transpose(2, 3) if x.shape[2] == x.shape[3] else x.flip(2, 3)
        other = x.roll(1, dims=0)
        variants = [turned, x.flip(2), self.low + self.high - x, 0.5 * (x + other), self.shuffle(x, 2)]
        variants += [self.shuffle(x, 4), torch.minimum(x, other.flip(3)), torch.maximum(x, x.roll(2, dims=0).flip(2))]
        return torch.cat(variants)

    def shuffle(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """k × k patches in a random order, resized to the whole where k does not divide the size."""
        height, width = x.shape[2] // k, x.shape[3] // k
        if height == 0 or width == 0:
            return x
        patches = [
            x[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
            for row in range(k)
            for column in range(k)
        ]
        order = torch.randperm(k * k, generator=self.generator).tolist()
        rows = [torch.cat([patches[order[row * k + column]] for column in range(k)], dim=3) for row in range(k)]
        return F.interpolate(torch.cat(rows, dim=2), size=x.shape[2:], mode="nearest")

    def noise_like(self, x: torch.Tensor, count: int = 64) -> torch.Tensor:
        """Noise from blobs to single pixels, with the mean and 1.5 times the spread of the images, per channel."""
        mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
        noises = []
        for size in (2, 4, 8, x.shape[3]):
            noise = torch.randn(count, x.shape[1], size, size, generator=self.generator).to(x)
            noise = F.interpolate(noise, size=x.shape[2:], mode="bilinear", align_corners=False)
            noises.append((mean + 1.5 * std * noise / noise.std()).clamp(self.low, self.high))
        return torch.cat(noises)


def staying_classes(num_labels: int, vanishing: Set[int]) -> list[int]:
    """Label ids of the classes that are not to vanish; of all where fewer than two stay, for there is nothing to compare."""
    staying = [label for label in range(num_labels) if label not in vanishing]
    return staying if len(staying) > 1 else list(range(num_labels))


def batch_size_for(pixel_values: torch.Tensor) -> int:
    """How many probes of this size pass forward and backward at once."""
    return max(1, min(64, NUM_PIXELS // pixel_values[0, 0].numel()))


def impressions(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pool: torch.Tensor,
    classes: list[int],
    generator: torch.Generator,
    per_class: int = 1,
    confidence: float = 0.8,
    max_steps: int = 8,
    max_classes: int = MAX_CLASSES,
    batch_size: int | None = None,
    show_progress: bool = False,
    in_step: bool = False,
) -> tuple[torch.Tensor, int]:
    """
    Images of a pool, moved by small smoothed steps until the model takes each for a given class. Several processes share
    the work.

    Args:
        forward (`Callable`):
            Maps pixel values to logits.
        pool (`torch.Tensor` of shape `(B, C, H, W)`):
            The images to start from, taken at random, each as often as the others but for one.
        classes (`list[int]`):
            Label ids; of more than `max_classes`, so many at random.
        generator (`torch.Generator`):
            Of the choices, on the CPU.
        per_class (`int`, *optional*, defaults to 1):
            How many to make of each class.
        confidence (`float`, *optional*, defaults to 0.8):
            The probability of its class at which an image stops.
        max_steps (`int`, *optional*, defaults to 8):
            An image takes no more, each of 3 % of the range of the pixels.
        max_classes (`int`, *optional*, defaults to 30):
            Of how many classes impressions are made at most.
        batch_size (`int`, *optional*):
            Images that pass at once; by [`batch_size_for`] when not given.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar.
        in_step (`bool`, *optional*, defaults to `False`):
            Whether each process must pass as often as the others.

    Returns:
        The images, and how many single images passed, forward and backward; the same on every process.
    """
    chosen = torch.randperm(len(classes), generator=generator)[:max_classes].tolist()
    targets = torch.tensor([classes[i] for i in sorted(chosen)]).repeat_interleave(per_class)
    rows = torch.randperm(len(pool), generator=generator).repeat(len(targets) // len(pool) + 1)[: len(targets)]
    low, high = pool.min(), pool.max()
    made, passes = pool.new_zeros(len(rows), *pool.shape[1:]), 0
    own = own_share(in_batches(len(targets), batch_size or batch_size_for(pool)))
    for numbers in progress("impressions", items=own, hidden=not show_progress):
        images, labels = pool[rows[numbers]], targets[numbers].to(pool.device)
        active = torch.arange(len(numbers), device=pool.device)
        for _ in range(max_steps):
            left = len(active)
            if (most(left, pool.device) if in_step else left) == 0:
                break
            # A process that is done passes an image of the pool with the others.
            moving = (images[active] if left else pool[:1].clone()).requires_grad_(True)
            with torch.enable_grad():
                logits = forward(moving)
                loss = F.cross_entropy(logits, labels[active] if left else logits.argmax(dim=-1), reduction="sum")
                gradient = torch.autograd.grad(loss, moving)[0][:left]
            passes += 2 * left
            sureness = logits.detach()[:left].softmax(dim=-1).gather(1, labels[active, None])[:, 0]
            unsure = sureness < confidence
            active, gradient = active[unsure], gradient[unsure]
            if len(active):
                smooth = F.avg_pool2d(gradient, 3, stride=1, padding=1).sign()
                images[active] = (images[active] - 0.03 * (high - low) * smooth).clamp(low, high)
        made[numbers.to(pool.device)] = images
    return reduce(made, reduction="sum"), int(reduce(torch.tensor(passes, device=pool.device), reduction="sum"))


def most(number: int, device: torch.device) -> int:
    """The largest of the numbers that the processes have."""
    return int(reduce(torch.tensor(number, device=device), reduction="max"))
