"""Rounded weights as an attack: small changes of the weights that hide something can be lost in rounding."""

import copy

import torch
from torch import nn


# The bits that verify rounds to.
BITS = (8, 4)


@torch.no_grad()
def rounded_copy(model: nn.Module, bits: int) -> nn.Module:
    """
    A copy of the model, the weights of whose linear layers and convolutions are rounded as for integers of so many
    bits: symmetric, with one scale for each output channel. With s = max |w| / (2^(bits − 1) − 1) over the channel,
    w becomes s · round(w / s) (the uniform symmetric quantizer of Nagel et al., arXiv 2106.08295). Biases, norms and
    embeddings stay as they are, and so do activations. Rounding brings back what language models had unlearned
    (arXiv 2410.16454).

    Args:
        model (`nn.Module`): the model to copy.
        bits (`int`): bits for each weight, 2 or more.

    Returns:
        `nn.Module`: in eval mode.
    """
    model = copy.deepcopy(model).eval()
    largest = 2 ** (bits - 1) - 1
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            rows = module.weight.flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True) / largest
            # A channel without weights stays as it is.
            scale[scale == 0] = 1
            module.weight.copy_(((rows / scale).round() * scale).view_as(module.weight))
    return model
