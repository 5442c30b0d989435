"""How much to keep of an attention map, and what that costs: one map of a model with 16,000 tokens
is gigabytes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..shapes import Float

__all__ = [
    "BUDGET",
    "CHUNK",
    "KEEP",
    "Plan",
    "Statistics",
    "cost",
    "finish",
    "megabytes",
    "reduce_rows",
]

KEEP = {
    "full": "every weight",
    "heads": "the mean of the heads",
    "thumbnail": "at most 32 × 32 blocks, keys summed and queries averaged",
    "statistics": "five numbers for each head",
    "shapes": "shapes only",
}
SIDE = 32  # of a thumbnail
CHUNK = 1 << 24  # weights that exist at once while a map is reduced
BUDGET = 2_000_000_000


class Statistics:
    """Numbers for each head, gathered from some rows of the map at a time."""

    def __init__(self):
        self.rows, self.received = [], 0

    def add(self, weights: Float[Tensor, "batch heads queries keys"]) -> Self:
        entropy = torch.special.entr(weights).sum(-1)
        self.rows.append(
            torch.stack(
                [
                    weights.amax(-1),
                    (weights < 0.01).to(weights.dtype).mean(-1),
                    entropy,
                    entropy.exp(),
                ]
            ).cpu()
        )
        self.received = self.received + weights.sum(-2).cpu()
        return self

    def of_heads(self) -> dict[str, Float[Tensor, "batch heads"]]:
        largest, sparsity, entropy, support = torch.cat(self.rows, dim=-1)
        return {
            "max": largest.amax(-1),
            "sparsity": sparsity.mean(-1),
            "entropy": entropy.mean(-1),
            "support": support.mean(-1),
            "sink": self.received.amax(-1) / largest.shape[-1],
        }


def _fold(weights: Tensor, axis: int) -> Tensor:
    """Sum neighbours along an axis until at most `SIDE` blocks are left."""
    size = weights.shape[axis]
    if size <= SIDE:
        return weights
    shape = list(weights.shape)
    shape[axis] = SIDE
    blocks = torch.arange(size, device=weights.device) * SIDE // size
    return weights.new_zeros(shape).index_add_(axis, blocks, weights)


def reduce_rows(weights: Tensor, policy: str) -> Tensor | None:
    """What a policy leaves of some rows: row by row, so that a large map never exists as a whole."""
    if policy in ("statistics", "shapes"):
        return None
    if policy == "heads":
        return weights.mean(1, keepdim=True)
    return _fold(weights, -1) if policy == "thumbnail" else weights


def finish(weights: Tensor | None, policy: str) -> Tensor | None:
    """What a policy does to all rows together."""
    if weights is None or policy != "thumbnail":
        return weights
    return _fold(weights, -2) / _fold(torch.ones(weights.shape[-2], 1), -2)


def cost(shape: Sequence[int], policies: Sequence[str], rows: Sequence[int] | None = None) -> int:
    """The bytes that a map of this shape takes, in float32, when reduced by these policies."""
    batch, heads, queries, keys = shape
    queries = queries if rows is None else len(rows)
    numbers = 5 * batch * heads if policies[-1] not in ("full", "shapes") else 0
    if policies[-1] not in ("statistics", "shapes"):
        side = SIDE if "thumbnail" in policies else max(queries, keys)
        numbers += (
            batch * (1 if "heads" in policies else heads) * min(queries, side) * min(keys, side)
        )
    return 4 * numbers


@dataclass(frozen=True)
class Plan:
    """What recording one forward would cost: the maps it makes, and their bytes under each policy."""

    shapes: tuple[tuple[int, ...], ...]
    keep: str
    rows: tuple[int, ...] | None
    budget: int

    def bytes(self, keep: str) -> int:
        return sum(cost(shape, (keep,), self.rows) for shape in self.shapes)

    def __str__(self) -> str:
        if not self.shapes:
            return "one forward shows no attention: there is nothing to record"
        counted = ", ".join(
            f"{count} of {' × '.join(map(str, shape))}"
            for shape, count in Counter(self.shapes).items()
        )
        lines = [
            f"attention maps of one forward: {len(self.shapes)} (batch × heads × queries × keys:"
            f" {counted})"
        ]
        if self.rows is not None:
            lines.append(f"of each, {len(self.rows)} chosen queries")
        for keep, what in KEEP.items():
            fits = int(self.budget // self.bytes(keep)) if self.bytes(keep) else None
            lines.append(
                f"{'→' if keep == self.keep else ' '} {keep:10} {megabytes(self.bytes(keep)):>11}  "
                f" {what}" + ("" if fits is None else f"; the budget holds {fits} forwards")
            )
        return "\n".join(
            [
                *lines,
                f"budget {megabytes(self.budget)}: when it is full, every map steps down this list",
            ]
        )


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
