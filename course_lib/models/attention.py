"""Cross-attention, from a weighted look-up to face tokens that attend to motion tokens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from ..shapes import Bool, Float

__all__ = [
    "CrossAttention",
    "TokenCrossAttention",
    "VisualizableCrossAttention",
    "attend",
    "attention_weights",
    "merge_heads",
    "recording",
    "split_heads",
    "time_positions",
]


def attend(
    q: Float[Tensor, "*batch queries dim"],
    k: Float[Tensor, "*batch keys dim"],
    v: Float[Tensor, "*batch keys value_dim"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*batch queries value_dim"], Float[Tensor, "*batch queries keys"]]:
    """Return the output softmax(q kᵀ / √dim) v, the values' weighted mean for each query, and the
    weights.

    `mask` is True where a query may attend and broadcasts to `*batch queries keys`; a query that may
    attend nowhere gets zeros. Weights are at least float32, also under mixed precision. Source:
    Vaswani et al., arXiv 1706.03762, equation 1. Derived in lesson 04.
    """
    weights = attention_weights(q, k, mask)
    with torch.autocast(q.device.type, enabled=False):
        return (weights @ v.to(weights.dtype)).to(v.dtype), weights


def attention_weights(
    q: Float[Tensor, "*batch queries dim"],
    k: Float[Tensor, "*batch keys dim"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch queries keys"]:
    """The weights softmax(q kᵀ / √dim), each query's on each key, of which `attend` makes its
    output.
    """
    precise = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(precise) @ k.to(precise).mT / math.sqrt(q.shape[-1])
        if mask is None:
            return scores.softmax(dim=-1)
        # Not -inf: a row of nothing but -inf has no softmax.
        lowest = torch.finfo(precise).min
        return scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0)


def split_heads(
    x: Float[Tensor, "batch tokens width"], heads: int
) -> Float[Tensor, "batch heads tokens dim"]:
    """Cut each token's vector into `heads` equal parts, so that every head attends for itself.
    Derived in lesson 04.
    """
    return rearrange(x, "batch tokens (heads dim) -> batch heads tokens dim", heads=heads)


def merge_heads(x: Float[Tensor, "batch heads tokens dim"]) -> Float[Tensor, "batch tokens width"]:
    """Put the parts that `split_heads` cut side by side again."""
    return rearrange(x, "batch heads tokens dim -> batch tokens (heads dim)")


class VisualizableCrossAttention(nn.Module):
    """Multi-head cross-attention on PyTorch's fused kernel that shows its weights.

    After a call `last_attn_weights` holds the exact weights, `batch heads queries keys`, detached.
    With `record=False`, as in models that train, it is None outside a recorder. The output comes
    from the fused kernel either way, so looking does not change it. Each head is `head_dim` wide
    (`query_dim / heads` unless given). Derived in lesson 04.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        heads: int = 8,
        *,
        head_dim: int | None = None,
        bias: bool = False,
        record: bool = True,
    ):
        super().__init__()
        if head_dim is None and query_dim % heads:
            raise ValueError(
                f"{heads} heads cannot share query_dim={query_dim} equally; choose heads that"
                " divide it, or give head_dim"
            )
        width = heads * (head_dim or query_dim // heads)
        self.to_query = nn.Linear(query_dim, width, bias=bias)
        self.to_key = nn.Linear(key_dim, width, bias=bias)
        self.to_value = nn.Linear(value_dim, width, bias=bias)
        self.to_output = nn.Linear(width, query_dim, bias=bias)
        self.heads, self.record = heads, record
        self.last_attn_weights: Tensor | None = None

    def forward(
        self,
        query: Float[Tensor, "batch queries query_dim"],
        key: Float[Tensor, "*batch keys key_dim"],
        value: Float[Tensor, "*batch keys value_dim"],
        mask: Bool[Tensor, "#batch #queries #keys"] | None = None,
        record: bool | None = None,
    ) -> Float[Tensor, "batch queries query_dim"]:
        """`mask` is True where a query may attend; `record` overrides `self.record` for this call.

        Raises `ValueError` for other widths than the layer was built with, or batches of unequal
        size.
        """
        check_width("query", query, "query_dim", self.to_query.in_features)
        check_width("key", key, "key_dim", self.to_key.in_features)
        check_width("value", value, "value_dim", self.to_value.in_features)
        # a batch of 1 would be broadcast silently
        if query.shape[0] != key.shape[0]:
            raise ValueError(
                f"there are queries for {query.shape[0]} items and keys for {key.shape[0]}; give"
                " both the same batch, for example with tensor.expand(batch, -1, -1)"
            )
        q, k, v = (
            split_heads(x, self.heads)
            for x in (self.to_query(query), self.to_key(key), self.to_value(value))
        )
        mask = (
            None if mask is None else rearrange(mask, "batch queries keys -> batch 1 queries keys")
        )
        self.last_attn_weights = None  # a recorder around this call fills it during the next lines
        # the fused kernel's backward rounds what must be exactly 0, and Adam would amplify it
        if key.shape[1] == 1:
            attended = attend(q, k, v, mask)[0]
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if self.record if record is None else record:
            self.last_attn_weights = attention_weights(q.detach(), k.detach(), mask)
        return self.to_output(merge_heads(attended))


@contextmanager
def recording(attention: VisualizableCrossAttention) -> Iterator[VisualizableCrossAttention]:
    """Inside, the layer records its weights; afterwards it does what it did before."""
    before, attention.record = attention.record, True
    try:
        yield attention
    finally:
        attention.record = before


class CrossAttention(nn.Module):
    """Let the static vector attend to the dynamic vector: project both, attend, add to the static
    side, normalise.

    There is one key, so every weight is 1 and the query and key projections never learn: the trap
    that `TokenCrossAttention` avoids. Each head is `fusion_dim` wide.
    """

    def __init__(
        self,
        static_dim: int = 512,
        dynamic_dim: int = 256,
        fusion_dim: int = 128,
        num_heads: int = 4,
    ):
        super().__init__()
        self.project_static = nn.Linear(static_dim, fusion_dim)
        self.project_dynamic = nn.Linear(dynamic_dim, fusion_dim)
        self.attention = VisualizableCrossAttention(
            fusion_dim,
            fusion_dim,
            fusion_dim,
            num_heads,
            head_dim=fusion_dim,
            bias=True,
            record=False,
        )
        self.norm = nn.LayerNorm(fusion_dim)

    def forward(
        self, static: Float[Tensor, "batch static_dim"], dynamic: Float[Tensor, "batch dynamic_dim"]
    ) -> Float[Tensor, "batch fusion_dim"]:
        check_width("static", static, "static_dim", self.project_static.in_features)
        check_width("dynamic", dynamic, "dynamic_dim", self.project_dynamic.in_features)
        face = rearrange(self.project_static(static), "batch dim -> batch 1 dim")
        motion = rearrange(self.project_dynamic(dynamic), "batch dim -> batch 1 dim")
        fused = self.norm(face + self.attention(face, motion, motion))
        return rearrange(fused, "batch 1 dim -> batch dim")


class TokenCrossAttention(nn.Module):
    """Let face tokens attend to motion tokens, then pool the outputs into one vector.

    Pooling comes *after* attention: with one key the softmax is always 1. Each place has a query of
    its own, and `importance` (Ilse et al., arXiv 1802.04712) learns whose output counts: the places
    that hold the cue. Keys carry sinusoidal positions, values do not, so any number of motion
    tokens will do. Derived in lesson 04.
    """

    def __init__(self, static_dim: int, dynamic_dim: int, dim: int = 128, heads: int = 4):
        super().__init__()
        self.project_face = nn.Sequential(nn.LayerNorm(static_dim), nn.Linear(static_dim, dim))
        self.project_motion = nn.Sequential(nn.LayerNorm(dynamic_dim), nn.Linear(dynamic_dim, dim))
        self.query_norm, self.key_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = VisualizableCrossAttention(dim, dim, dim, heads, record=False)
        self.importance = nn.Sequential(
            nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1), nn.Softmax(dim=1)
        )
        self.last_importance: Tensor | None = None

    def forward(
        self,
        face_tokens: Float[Tensor, "batch queries static_dim"],
        motion_tokens: Float[Tensor, "batch keys dynamic_dim"],
        mask: Bool[Tensor, "#batch #queries #keys"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """`mask` is True where a face token may attend. Raises `ValueError` for other widths than
        the layer was built with.
        """
        check_width("face_tokens", face_tokens, "static_dim", self.project_face[1].in_features)
        check_width(
            "motion_tokens", motion_tokens, "dynamic_dim", self.project_motion[1].in_features
        )
        face, motion = self.project_face(face_tokens), self.project_motion(motion_tokens)
        positions = time_positions(*motion.shape[1:], motion.device).to(motion)
        query, key = self.query_norm(face), self.key_norm(motion + positions)
        attended = self.norm(face + self.attention(query, key, motion, mask))
        importance = self.importance(attended)
        recorded = self.attention.last_attn_weights is not None
        self.last_importance = importance.detach().squeeze(-1) if recorded else None
        return (importance * attended).sum(dim=1)

    @property
    def last_pooled_weights(self) -> Float[Tensor, "batch heads keys"] | None:
        """The pooled output's weight on each key: the recorded weights, averaged by importance."""
        if self.last_importance is None:
            return None
        return einsum(
            self.last_importance.to(self.attention.last_attn_weights.dtype),
            self.attention.last_attn_weights,
            "batch queries, batch heads queries keys -> batch heads keys",
        )


def time_positions(
    keys: int, dim: int, device: torch.device | None = None
) -> Float[Tensor, "keys dim"]:
    """Sinusoidal positions (arXiv 1706.03762, section 3.5): they exist for any number of keys.
    Derived in lesson 04.
    """
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, dim, 2, device=device) / dim)
    angles = torch.outer(torch.arange(keys, dtype=torch.float32, device=device), rates)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]


def check_width(name: str, features: Tensor, argument: str, width: int) -> None:
    """Raise one `ValueError` that says which constructor argument disagrees with these features."""
    if features.shape[-1] != width:
        raise ValueError(
            f"{name} is {features.shape[-1]} wide but the model was built with {argument}={width};"
            f" build it with {argument}={features.shape[-1]}, or project first with"
            f" nn.Linear({features.shape[-1]}, {width})"
        )
