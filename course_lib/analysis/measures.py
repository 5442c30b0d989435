"""Numbers about attention: the weights themselves, and what each weight did to a prediction."""

import torch
from einops import einsum, rearrange
from torch import Tensor

from ..models.personality import TokenPersonalityModel
from ..shapes import Float

__all__ = ["attention_per_trait", "attention_weights"]


def attention_weights(model: TokenPersonalityModel, face_tokens: Float[Tensor, "batch queries static_dim"],
                      motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
                      ) -> Float[Tensor, "batch heads queries keys"]:
    """How much each face token listens to each motion token; rows sum to 1. Derived in lesson 04."""
    attention = model.cross_attention.attention
    recording, attention.record = attention.record, True
    try:
        with torch.no_grad():
            model(face_tokens, motion_tokens)
        return attention.last_attn_weights
    finally:
        attention.record, attention.last_attn_weights = recording, None


def attention_per_trait(model: TokenPersonalityModel, face_tokens: Float[Tensor, "batch queries static_dim"],
                        motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
                        ) -> Float[Tensor, "batch traits queries keys"]:
    """Attention × gradient: how each weight, times what it carries, moves each trait; summed over heads.

    The fused kernel hides its weights from autograd, so their gradient is taken from what they produce:
    heard = weights @ value, hence d trait / d weights = (d trait / d heard) @ valueᵀ.
    Source: Chefer et al., arXiv 2103.15679. Derived in lesson 04.
    """
    attention, seen = model.cross_attention.attention, {}
    hooks = [attention.to_output.register_forward_pre_hook(lambda _, inputs: seen.update(heard=inputs[0])),
             attention.to_value.register_forward_hook(lambda _, inputs, value: seen.update(value=value))]
    try:
        traits = model(face_tokens, motion_tokens)
    finally:
        for hook in hooks:
            hook.remove()
    value = rearrange(seen["value"], "batch keys (heads dim) -> batch heads keys dim", heads=attention.heads)
    weights, maps = attention_weights(model, face_tokens, motion_tokens), []
    for trait in traits.unbind(dim=1):
        gradient = torch.autograd.grad(trait.sum(), seen["heard"], retain_graph=True)[0]
        gradient = rearrange(gradient, "batch queries (heads dim) -> batch heads queries dim", heads=attention.heads)
        moved = einsum(gradient, value, "batch heads queries dim, batch heads keys dim -> batch heads queries keys")
        maps.append((weights * moved).sum(dim=1))
    return torch.stack(maps, dim=1).detach()
