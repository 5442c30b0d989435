"""What maps of attention have in common, in numbers; what is wrong with them, in words; and how
layers compose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..shapes import Float

__all__ = [
    "STATISTICS",
    "Evidence",
    "Finding",
    "agreement",
    "attention_relevance",
    "attention_rollout",
    "attention_statistics",
    "check_attention",
    "diagnose",
    "effective_support",
]

STATISTICS = {
    "mean": "the mean weight, 1 / keys wherever rows sum to 1",
    "max": "the largest weight of the map",
    "sparsity": "the share of weights below 0.01",
    "entropy": "the mean entropy of the rows in nats; log(keys) when attention is uniform",
    "support": "at how many keys a row effectively looks: exp(entropy), averaged over the rows",
    "sink": (
        "the share of all attention that the most looked-at key receives; 1 / keys when attention"
        " is uniform"
    ),
    "distance": "how far attention reaches on average, in keys, or in patches of the grid",
    "diagonality": (
        "the correlation of a query's place with its keys' places: 1 on the diagonal, 0 without"
        " order"
    ),
    "blocks": (
        "how much of the map equal blocks explain (adjusted R², best of 2 to 8 blocks a side)"
    ),
    "similarity": (
        "how alike this head and the others look (mean Bhattacharyya coefficient): 1 when identical"
    ),
}

MOST_BLOCKS = 8

# of the largest entropy; of all attention; moved a step
UNIFORM, COLLAPSED, UNSTABLE = 0.97, 0.9, 0.5

LARGE = 1 << 30  # bytes

SMALLER = (
    "Keep some layers, some query rows, the mean of the heads or statistics only (keep=…), or a"
    " smaller batch."
)


def attention_statistics(weights: Tensor, grid: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Ten numbers for each map of `weights`, `*batch heads queries keys`: a dict of `*batch heads`
    tensors.

    What each says stands in `STATISTICS`. With `grid` (rows, columns), distance is measured between
    the patches of a self-attention map; leading tokens (a class token) have no place and are left
    out of it. Raises `ValueError` if the weights are no distributions over keys. Used in lesson
    05.
    """
    weights = check_attention(weights).detach().float()
    return {
        "mean": weights.mean((-2, -1)),
        "max": weights.amax((-2, -1)),
        "sparsity": (weights < 0.01).float().mean((-2, -1)),
        "entropy": torch.special.entr(weights).sum(-1).mean(-1),
        "support": effective_support(weights).mean(-1),
        "sink": weights.mean(-2).amax(-1),
        "distance": _distance(weights, grid),
        "diagonality": _diagonality(weights),
        "blocks": _blocks(weights),
        "similarity": _similarity(weights),
    }


def effective_support(weights: Float[Tensor, "*batch keys"]) -> Float[Tensor, "*batch"]:
    """At how many keys a query effectively looks, exp(entropy): 1 for one key, all of them when
    uniform.

    Derived in lesson 05.
    """
    return torch.special.entr(weights).sum(-1).exp()


def agreement(
    weights: Float[Tensor, "*batch keys"], truth: Float[Tensor, "*batch keys"]
) -> Float[Tensor, "*batch"]:
    """The share of each query's attention that lies where the true weights put it: 1 if they are
    equal, 0 if apart.

    It is 1 minus the total variation distance. Derived in lesson 05.
    """
    return torch.minimum(weights, truth).sum(-1)


def check_attention(weights: Tensor, tolerance: float = 1e-2) -> Tensor:
    """Return `weights` if each row is a distribution over keys, or all zero (a query that may look
    nowhere).
    """
    if weights.ndim < 2 or 0 in weights.shape:
        raise ValueError(
            f"attention weights have the shape {tuple(weights.shape)}, expected `batch heads"
            " queries keys`; stack them into one tensor, keys last"
        )
    values = weights.detach().float()
    if not torch.isfinite(values).all():
        raise ValueError(
            "attention weights hold NaN or infinite values, expected a distribution over keys; let"
            " each query see at least one key: a row masked with -inf throughout has no softmax"
        )
    sums, smallest = values.sum(-1), float(values.min())
    off = torch.where(sums == 0, 0, (sums - 1).abs())
    if smallest < 0 or off.max() > tolerance:
        worst = float(sums.flatten()[off.argmax()])
        over_queries = smallest >= 0 and (values.sum(-2) - 1).abs().max() < tolerance
        hint = (
            "transpose them: their columns sum to 1"
            if over_queries
            else "take them after softmax over the keys and before dropout"
        )
        raise ValueError(
            f"attention weights are no distribution over keys: the smallest is {smallest:.3g} and a"
            f" row sums to {worst:.3g}, expected 0 or more and 1; {hint}"
        )
    return weights


def _places(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Where queries and keys stand on a line from 0 to 1."""
    return tuple(
        (torch.arange(count, device=weights.device) + 0.5) / count for count in weights.shape[-2:]
    )


def _distance(weights: Tensor, grid: tuple[int, int] | None) -> Tensor:
    queries, keys = weights.shape[-2:]
    if grid is None:
        at_query, at_key = _places(weights)
        apart = (at_query[:, None] - at_key).abs() * keys
    else:
        rows, columns = grid
        if queries != keys or not 0 <= keys - rows * columns < keys:
            raise ValueError(
                f"a grid of {rows} × {columns} patches does not fit a map of {queries} queries and"
                f" {keys} keys; pass the grid of a self-attention map, or none"
            )
        weights = weights[..., keys - rows * columns :, keys - rows * columns :]
        where = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(weights)
        apart = torch.cdist(where, where)
    return (weights * apart).sum((-2, -1)) / weights.sum((-2, -1)).clamp(min=1e-12)


def _diagonality(weights: Tensor) -> Tensor:
    at_query, at_key = _places(weights)
    joint = weights / weights.sum((-2, -1), keepdim=True).clamp(min=1e-12)
    of_query, of_key = joint.sum(-1), joint.sum(-2)
    from_mean = at_query - (of_query * at_query).sum(-1, keepdim=True)
    to_mean = at_key - (of_key * at_key).sum(-1, keepdim=True)
    together = torch.einsum("...qk,...q,...k->...", joint, from_mean, to_mean)
    spread = ((of_query * from_mean**2).sum(-1) * (of_key * to_mean**2).sum(-1)).sqrt()
    return torch.where(spread > 1e-6, together / spread.clamp(min=1e-6), torch.zeros_like(spread))


def _blocks(weights: Tensor) -> Tensor:
    """The share of the map's variance that lies between blocks, adjusted for how many blocks
    explain it.
    """
    queries, keys = weights.shape[-2:]
    size, mean = queries * keys, weights.mean((-2, -1), keepdim=True)
    # rounding is no structure
    total = (weights - mean).pow(2).sum((-2, -1)).clamp(min=1e-9 * size / keys**2)
    sides = range(2, min(MOST_BLOCKS, queries // 2, keys // 2) + 1)
    best = torch.zeros_like(total)
    if len(sides) == 0:
        return best
    rows, columns = (
        torch.cat([_membership(count, side) for side in sides]).to(weights)
        for count in (queries, keys)
    )
    sums, counts = rows @ weights @ columns.T, rows.sum(1)[:, None] * columns.sum(1)
    between = counts * (sums / counts - mean) ** 2
    first = 0
    for side in sides:  # the blocks of one division stand together on the diagonal
        here = slice(first, first := first + side)
        unexplained = 1 - between[..., here, here].sum((-2, -1)) / total
        best = torch.maximum(best, 1 - unexplained * (size - 1) / (size - side**2))
    return best


def _membership(count: int, parts: int) -> Float[Tensor, "parts count"]:
    return ((torch.arange(count) * parts // count) == torch.arange(parts)[:, None]).float()


def _similarity(weights: Tensor) -> Tensor:
    if weights.ndim == 2 or weights.shape[-3] == 1:
        return torch.ones(weights.shape[:-2], device=weights.device)
    heads = weights.shape[-3]
    roots = torch.nn.functional.normalize(weights.sqrt().flatten(-2), dim=-1)
    return ((roots @ roots.mT).sum(-1) - 1) / (heads - 1)


class Evidence(NamedTuple):
    """What shows a finding: the mean map, and numbers beside the value they are held against."""

    weights: Float[Tensor, "queries keys"]
    measured: Float[Tensor, " items"]
    reference: float
    label: str
    reference_label: str
    items: str = "head"  # what was measured: one number for each of these


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with recorded attention: its name, what was measured, what to do, and
    the evidence, which `plot_evidence` draws.
    """

    name: str
    says: str
    remedy: str
    evidence: Evidence | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.says} {self.remedy}"

    __repr__ = __str__


def diagnose(weights) -> list[Finding]:
    """What is wrong with these weights, in words, each with its remedy; an empty list when nothing
    is.

    `weights` is `batch heads queries keys`, or a sequence of such, one a step. None or an empty
    sequence (nothing was captured) and the out-of-memory error that ended a recording are diagnosed
    too. Used in lesson 05.
    """
    if isinstance(weights, (MemoryError, torch.OutOfMemoryError)):
        return [
            Finding(
                "out of memory",
                f"The recording ended with “{str(weights).split(chr(10))[0]}”.",
                SMALLER,
            )
        ]
    if weights is None or len(weights) == 0:
        return [
            Finding(
                "nothing captured",
                "There are no weights.",
                "Run the model inside the recorder and read its "
                "coverage report: it names what looks like attention and gave nothing.",
            )
        ]
    steps = [weights] if isinstance(weights, Tensor) else list(weights)
    for step in steps:
        try:
            check_attention(step)
        except ValueError as error:
            says, remedy = (part.strip() for part in str(error).split(";"))
            return [
                Finding("no distribution", _sentence(says), _sentence(remedy), _sums_of_rows(step))
            ]
    last = _four_axes(steps[-1])
    if last.shape[-1] == 1:
        return [
            Finding(
                "one key only",
                "Softmax over one key is always 1: every weight is exactly 1, whatever the "
                "input, and the query and key projections get no gradient.",
                "Attend to tokens before they are pooled.",
                _evidence(last, last.amax((0, 2, 3)), 1.0, "largest weight, by head", "always 1"),
            )
        ]
    findings = (
        _large(steps),
        _uniform(last),
        _collapsed(last),
        _same_for_every_input(last),
        _unstable(steps),
    )
    return [finding for finding in findings if finding is not None]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _four_axes(weights: Tensor) -> Float[Tensor, "batch heads queries keys"]:
    weights = weights.detach().float()
    return weights[(None,) * max(0, 4 - weights.ndim)].flatten(0, -4)


def _evidence(
    weights: Float[Tensor, "batch heads queries keys"],
    values: Tensor,
    reference: float,
    label: str,
    reference_label: str,
    items: str = "head",
) -> Evidence:
    mean = weights.mean((0, 1)).cpu()
    return Evidence(mean, values.cpu(), reference, label, reference_label, items)


def _sums_of_rows(weights: Tensor) -> Evidence | None:
    if weights.ndim < 2 or 0 in weights.shape:
        return None
    maps = _four_axes(weights.detach().float().nan_to_num(0, 0, 0))
    return _evidence(maps, maps.sum(-1).mean((0, 1)), 1.0, "sum of the row", "expected", "query")


def _large(steps: Sequence[Tensor]) -> Finding | None:
    held = sum(step.numel() * step.element_size() for step in steps)
    return (
        Finding("large", f"These weights hold {held / 2**30:.1f} GiB.", SMALLER)
        if held >= LARGE
        else None
    )


def _uniform(weights: Float[Tensor, "batch heads queries keys"]) -> Finding | None:
    largest = math.log(weights.shape[-1])
    entropy = torch.special.entr(weights).sum(-1).mean((0, 2))
    uniform = int((entropy > UNIFORM * largest).sum())
    if 2 * uniform <= len(entropy):
        return None
    return Finding(
        "uniform",
        f"{uniform} of {len(entropy)} heads look everywhere alike: entropy {entropy.mean():.2f} "
        f"of at most {largest:.2f} nats.",
        "Check that the keys differ (add positions), that queries and "
        "keys are normalised and get a gradient; then train longer.",
        _evidence(weights, entropy, largest, "entropy, nats", "uniform"),
    )


def _collapsed(weights: Float[Tensor, "batch heads queries keys"]) -> Finding | None:
    share, key = weights.mean((0, 2)).max(-1)
    collapsed = int((share > COLLAPSED).sum())
    if 2 * collapsed <= len(share):
        return None
    return Finding(
        "collapsed",
        f"In {collapsed} of {len(share)} heads nearly all attention goes to one key: key "
        f"{int(key.mode().values)} receives {share.mean():.0%}.",
        "If it is a separator, a class token or background, it is a sink: mask it, or give the"
        " model one of its own. Otherwise normalise queries and keys, lower the learning rate, and"
        " reward entropy early in training.",
        _evidence(weights, share, 1 / weights.shape[-1], "share of the top key", "uniform"),
    )


def _same_for_every_input(weights: Float[Tensor, "batch heads queries keys"]) -> Finding | None:
    spread = (weights.amax(0) - weights.amin(0)).amax((-2, -1))
    if len(weights) < 2 or spread.max() > 1e-5:
        return None
    return Finding(
        "the same for every input",
        f"Across {len(weights)} inputs no weight differs by more than {spread.max():.1g}.",
        "The map is a habit, not an answer: check that the inputs differ and that "
        "queries or keys depend on them.",
        _evidence(weights, spread, 1.0, "difference between inputs", "largest possible"),
    )


def _unstable(steps: Sequence[Tensor]) -> Finding | None:
    if len(steps) < 3 or len({step.shape for step in steps}) > 1:
        return None
    moved = torch.stack(
        [
            (after.float() - before.float()).abs().sum(-1).mean() / 2
            for before, after in pairwise(steps)
        ]
    )
    if moved.mean() < UNSTABLE:
        return None
    return Finding(
        "unstable over steps",
        f"From step to step {moved.mean():.0%} of the attention moves elsewhere.",
        "Average over steps or seeds before reading a map, or take more and smaller steps.",
        _evidence(
            _four_axes(steps[-1]), moved, UNSTABLE, "share that moves", "called unstable", "step"
        ),
    )


def attention_rollout(
    layers: Sequence[Tensor], residual: float = 0.5
) -> Float[Tensor, "batch queries keys"]:
    """How much each output token drew on each input token through all `layers`, `batch heads tokens
    tokens` each.

    Heads are averaged; a share `residual` of each layer goes past attention, through the skip
    connection. Source: Abnar and Zuidema, arXiv 2005.00928. Derived in lesson 10.
    """
    if not len(layers):
        raise ValueError(
            "rollout needs the self-attention of at least one layer, but the list is empty; record"
            " the model first"
        )
    if any(
        layer.ndim != 4 or layer.shape != layers[0].shape or layer.shape[-2] != layer.shape[-1]
        for layer in layers
    ):
        shapes = ", ".join(str(tuple(layer.shape)) for layer in layers[:4])
        raise ValueError(
            "rollout composes self-attention of equal shapes, `batch heads tokens tokens`, but got "
            f"{shapes}; pass only the layers over the same tokens"
        )
    identity = torch.eye(layers[0].shape[-1], device=layers[0].device)
    flow = identity
    for layer in layers:
        flow = (residual * identity + (1 - residual) * layer.detach().float().mean(1)) @ flow
    return flow


def attention_relevance(
    weights: Float[Tensor, "batch heads queries keys"], gradient: Tensor
) -> Float[Tensor, "batch queries keys"]:
    """Which attention raises an output: weight × the output's gradient by it, the positive part,
    averaged over heads.

    Source: Chefer et al., arXiv 2103.15679, equation 5.
    """
    if gradient.shape != weights.shape:
        raise ValueError(
            f"the gradient has the shape {tuple(gradient.shape)} but the weights"
            f" {tuple(weights.shape)}; record with gradients and pass both of one record"
        )
    return (weights * gradient).detach().clamp(min=0).mean(1)
