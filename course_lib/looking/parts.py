"""Attention between parts and over the steps of sampling, in numbers. Derived in lesson 13."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..data.drawn import Layers
from ..models.parts import part_attention
from ..shapes import Float
from .attention import agreement

__all__ = [
    "layer_iou",
    "part_looks",
    "part_matrix",
    "part_rows",
    "part_separation",
    "step_stability",
]


def layer_iou(layers: Layers, truth: Layers) -> Float[Tensor, "batch parts"]:
    """Intersection over union of the pixels that are more than half covered; NaN where there are
    none in either.
    """
    predicted, true = layers > 0.5, truth > 0.5
    union = (predicted | true).flatten(2).sum(2)
    return torch.where(union > 0, (predicted & true).flatten(2).sum(2) / union, torch.nan)


def part_matrix(weights: Tensor, parts: int) -> Float[Tensor, "*batch parts parts"]:
    """How much each part asks each other part: `*batch queries keys`, tokens in `parts` equal runs,
    to a small matrix.

    A cell is the attention that a token of one part spends on all tokens of another, so rows still
    sum to 1. Raises ValueError for tokens that do not divide into `parts`. Derived in lesson 13.
    """
    queries, keys = weights.shape[-2:]
    if parts < 1 or queries % parts or keys % parts:
        raise ValueError(
            f"{queries} queries and {keys} keys do not divide into {parts} equal parts; give the"
            " number of parts that the model was built with"
        )
    return weights.unflatten(-1, (parts, -1)).sum(-1).unflatten(-2, (parts, -1)).mean(-2)


def part_rows(weights: Tensor, parts: int) -> Float[Tensor, "*batch parts keys"]:
    """How much each part attends to each key: the mean over its tokens, which are `parts` equal
    runs of the queries.

    Raises ValueError for queries that do not divide into `parts`.
    """
    queries = weights.shape[-2]
    if parts < 1 or queries % parts:
        raise ValueError(
            f"{queries} queries do not divide into {parts} equal parts; give the number of parts"
            " that the model was built with"
        )
    return weights.unflatten(-2, (parts, -1)).mean(-2)


def step_stability(maps: Tensor) -> Float[Tensor, "steps ..."]:
    """How much of each map is still there one step later: `steps *batch keys` to one step fewer, 1
    if nothing moved.

    It is the attention that both steps have in common, 1 minus the total variation distance. Raises
    ValueError for fewer than two steps. Derived in lesson 13.
    """
    if len(maps) < 2:
        raise ValueError(f"stability compares steps, and there is {len(maps)}; record at least two")
    return agreement(maps[:-1], maps[1:])


def part_separation(maps: Tensor) -> Float[Tensor, "*batch"]:
    """How far apart parts look: `*batch parts keys` to the mean over pairs of 1 − the attention
    they have in common.

    0 if all look at one place alike, 1 if no two share any. A part that is absent has an empty map
    and is left out; NaN where fewer than two are present. Derived in lesson 13.
    """
    apart = torch.stack(
        [
            torch.where(one.any(-1) & other.any(-1), 1 - agreement(one, other), torch.nan)
            for one, other in combinations(maps.unbind(-2), 2)
        ]
    )
    return apart.nanmean(0)


def part_looks(
    recording: Any, layers: Layers
) -> Float[Tensor, "steps blocks batch parts rows columns"]:
    """Where each part of a recorded sampling looks in the image, at every step and in every block.

    `layers`, of the result or the true ones, say which of a part's tokens hold it:
    `part_attention`. Derived in lesson 13.
    """
    cross = [record for record in recording.records if record.name.endswith("cross_attention")]
    steps = 1 + max(record.step for record in cross)
    return torch.stack([part_attention(record.weights, layers) for record in cross]).unflatten(
        0, (steps, -1)
    )
