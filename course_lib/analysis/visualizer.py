"""Attention taken out of a model, to be looked at."""

import torch
from torch import Tensor

from ..models.attention import CrossAttention, TokenCrossAttention
from ..shapes import Float

__all__ = ["get_attention_weights"]


def get_attention_weights(cross_attention: CrossAttention | TokenCrossAttention, static: Tensor,
                          dynamic: Tensor) -> Float[Tensor, "batch heads queries keys"]:
    """How much each query listens to each key, for the inputs `static` and `dynamic` of that module; rows sum to 1.

    Inputs are `batch dim` for `CrossAttention` (one key: the weights are all 1) and `batch tokens dim` for
    `TokenCrossAttention`. Nothing stays recorded in the module. Derived in lesson 04.
    """
    attention = cross_attention.attention
    recording, attention.record = attention.record, True
    try:
        with torch.no_grad():
            cross_attention(static, dynamic)
        return attention.last_attn_weights
    finally:
        attention.record, attention.last_attn_weights = recording, None
