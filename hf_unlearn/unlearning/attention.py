"""Attention in bfloat16 on a CPU by two matrix products, which take less time there than torch's fused kernel."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def attention_by_products() -> Generator[None, None, None]:
    """Inside, models of transformers that use `sdpa` compute attention by [`softmax_of_products`] where it pays."""
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = softmax_of_products
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def softmax_of_products(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    softmax(q kᵀ · scaling) v in bfloat16 on a CPU, as the encoders of images have it. All else goes to the
    library's own function, `sdpa`: other types and devices, a gradient, masks, dropout, keys that heads share, and so many
    positions that their scores would be more than the hidden layer holds.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, heads, positions, head_dim)`):
            For each position of each head.

        For the others see transformers' `AttentionInterface`.

    Returns:
        `tuple`: the output, of shape `(B, positions, heads, head_dim)`, and `None`, for the weights are not given out.
    """
    positions, head_dim = query.shape[-2:]
    pays = query.dtype == torch.bfloat16 and query.device.type == "cpu" and positions <= 4 * head_dim
    # What says nothing of it is causal to the library.
    sees_all = not (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    asks_for_more = dropout or any(value is not None and value is not False for value in kwargs.values())
    is_plain = sees_all and attention_mask is None and query.shape == key.shape
    if not (pays and is_plain) or scaling is None or asks_for_more or query.requires_grad:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    weights = (query * scaling @ key.transpose(2, 3)).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), None
