"""The deterministic function that is unlearned: dropout off, and the statistics of BatchNorm frozen."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer


def make_deterministic(model: nn.Module, recomputes_activations: bool) -> None:
    """Puts the model in eval mode, and leaves layers that recompute their activations able to do so."""
    model.eval()
    if recomputes_activations:
        # These layers recompute only in training mode. The flag is theirs alone: their submodules stay in eval.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True


def freeze_batch_norm(model: nn.Module) -> None:
    """Puts every BatchNorm layer in eval mode: its running statistics are used and not updated."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
