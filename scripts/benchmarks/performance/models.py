"""What run.py measures: models of the usual sizes with random weights, and the two ways to an update."""

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_unlearn import JiTConfig, JiTTrainer


NUM_LABELS = 100
SIGMA = 0.5
SEED = 0


def make_model(name: str, image_size: int, num_labels: int = NUM_LABELS):
    """A classifier of the usual size, with random weights, always the same ones."""
    torch.manual_seed(SEED)
    patch_size = 16 if image_size >= 128 else 4
    if name == "vit-tiny":
        config = ViTConfig(
            image_size=image_size, patch_size=patch_size, hidden_size=192, num_attention_heads=3,
            intermediate_size=768, num_labels=NUM_LABELS,
        )  # fmt: skip
        return ViTForImageClassification(config).eval()
    if name == "vit-base":
        config = ViTConfig(image_size=image_size, patch_size=patch_size, num_labels=num_labels)
        return ViTForImageClassification(config).eval()
    if name == "resnet-18":
        config = ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=num_labels
        )
        return ResNetForImageClassification(config).eval()
    return ConvNextForImageClassification(ConvNextConfig(num_labels=num_labels)).eval()


MODELS = ("vit-tiny", "resnet-18", "convnext-tiny", "vit-base")


def make_batch(batch_size: int, image_size: int, device: str) -> dict[str, torch.Tensor]:
    """What the collator gives, of random images in the range of normalised pixels."""
    generator = torch.Generator().manual_seed(SEED)
    pixel_values = 2 * torch.rand(batch_size, 3, image_size, image_size, generator=generator) - 1
    return {
        "pixel_values": pixel_values.to(device),
        "sample_index": torch.arange(batch_size, device=device),
        "positions": list(range(batch_size)),
        "sample_weight": torch.ones(batch_size, device=device),
    }


def make_trainer(model, batch, folder: str, num_perturbations: int, **settings) -> JiTTrainer:
    """The package's trainer, set to the definition of the released code."""
    args = JiTConfig(
        output_dir=folder,
        step_rule="fixed",
        num_perturbations=num_perturbations,
        noise_clamp="batch",
        loss_reduction="sum",
        seed=SEED,
        sigma=SIGMA,
        use_cpu=batch["pixel_values"].device.type == "cpu",
        **settings,
    )
    images = [{"pixel_values": pixels} for pixels in batch["pixel_values"].cpu()]
    trainer = JiTTrainer(model=model, args=args, forget_dataset=images)
    # As `train` does.
    trainer.answers = torch.zeros(len(images), dtype=torch.long, device=args.device)
    trainer.model.to(memory_format=trainer.memory_format())
    return trainer


def released_update(model, pixel_values: torch.Tensor, num_perturbations: int, noise_of=None) -> None:
    """
    Gradients of one batch as the released code computes them: noise made on the CPU, cut to the range of the batch, one
    forward pass for each perturbation, the mean over perturbations summed over the batch.

    Args:
        noise_of (`Callable`, *optional*):
            Gives the noise of a perturbation, in place of a draw.
    """
    low, high = pixel_values.min().item(), pixel_values.max().item()
    outputs = model(pixel_values=pixel_values).logits
    total = 0
    for number in range(num_perturbations):
        if noise_of is None:
            noise = (torch.randn(pixel_values.shape) * SIGMA).to(pixel_values.device)
        else:
            noise = noise_of(number)
        perturbed = torch.clamp(pixel_values + noise, low, high)
        distance = (perturbed - pixel_values).flatten(1).norm(dim=1)
        with torch.no_grad():
            perturbed_outputs = model(pixel_values=perturbed).logits
        total = total + (outputs - perturbed_outputs).norm(dim=1) / distance
    (total / num_perturbations).sum().backward()


def our_update(trainer: JiTTrainer, batch: dict[str, torch.Tensor]) -> None:
    """The same by the package's own code."""
    trainer.compute_loss(trainer.model, dict(batch)).backward()


def make_demo_model():
    """The network of `hf-unlearn demo`, with random weights."""
    torch.manual_seed(SEED)
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config).eval()


@torch.no_grad()
def model_forward(model, pixel_values: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixel_values).logits
