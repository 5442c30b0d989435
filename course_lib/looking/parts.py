"""Attention between parts and over the steps of sampling, in numbers. Derived in lesson 13."""

from itertools import combinations

import torch
from torch import Tensor

from ..data.drawn import Layers
from ..shapes import Float
from .attention import agreement

__all__ = [
    "layer_iou",
    "part_matrix",
    "part_rows",
    "part_separation",
    "person_overlap",
    "step_stability",
]


def layer_iou(layers: Layers, truth: Layers) -> Float[Tensor, "batch parts"]:
    """Intersection over union of the pixels that are more than half covered; NaN where there are
    none in either.
    """
    predicted, true = layers > 0.5, truth > 0.5
    union = (predicted | true).flatten(2).sum(2)
    return torch.where(union > 0, (predicted & true).flatten(2).sum(2) / union, torch.nan)


def person_overlap(
    layers: Layers, people: Float[Tensor, "batch people drawn height width"]
) -> Float[Tensor, "batch people"]:
    """How much of each person is drawn: the mean IoU over the parts that this person shows.

    The person drawn is the one with the larger overlap; the difference is the lead. Derived in
    lesson 13.
    """
    layers = layers[:, : people.shape[2]]  # without the layer that says who it is
    overlaps = torch.stack([layer_iou(layers, person) for person in people.unbind(1)], 1)
    shown = (people > 0.5).flatten(3).any(-1)
    return torch.where(shown, overlaps, torch.nan).nanmean(-1)


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
