"""Do maps agree? Rank correlations, mean maps, and models whose parts are as untrained.

A high correlation alone says little: maps of two images agree too where both follow one habit.
"""

import copy
import math
from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor, nn

from ..shapes import Float, Int
from ..training.bootstrap import bootstrap_counts, interval

__all__ = [
    "frequency_trend",
    "mean_maps",
    "randomise_layers",
    "rank_correlation",
    "resampled_means",
]

RESAMPLES = 1_000


def resampled_means(
    values: Float[Tensor, " items"],
    image: Int[Tensor, " items"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval, drawing images: what belongs to one image is drawn
    together.
    """
    _, who = image.cpu().unique(return_inverse=True)
    sums = torch.stack([torch.bincount(who, values.cpu().double()), torch.bincount(who).double()])
    total, count = sums @ bootstrap_counts(sums.shape[1], resamples, seed).T
    low, high = interval(total / count).tolist()
    return values.mean().item(), low, high


def mean_maps(maps: Tensor, chosen: Tensor) -> Float[Tensor, "attributes rows columns"]:
    """One map an attribute, the same for all images: the mean of `maps`, `batch attributes rows
    columns`.

    Over the images that `chosen`, `batch attributes`, counts for it: those that have it, as a rule.
    Zero where none does. What a map adds to it, it has from its image.
    """
    counted = chosen.to(maps)[..., None, None]
    return (maps.detach() * counted).sum(0) / counted.sum(0).clamp(min=1)


def rank_correlation(first: Tensor, second: Tensor) -> Float[Tensor, "*batch"]:
    """Spearman's ρ along the last axis; ties share their mean rank; NaN where one of the two does
    not vary.

    1: the same order. 0: as good as shuffled. What holds NaN is NaN.
    """
    if first.shape != second.shape or first.ndim == 0 or first.shape[-1] < 2:
        raise ValueError(
            f"the two have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected the"
            " same, with at least two values along the last axis"
        )
    comparable = ~(first.isnan() | second.isnan()).any(-1).cpu()
    first, second = (_ranks(values) for values in (first, second))
    spread = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return torch.where(
        comparable & (spread > 0), (first * second).sum(-1) / spread.clamp(min=1e-12), torch.nan
    ).float()


def _ranks(values: Tensor) -> Float[Tensor, "*batch values"]:
    """The rank of each value among the last axis, from its mean: exact halves where values tie."""
    ranks = stats.rankdata(values.detach().cpu().double().numpy(), axis=-1)
    return torch.from_numpy(ranks - (values.shape[-1] + 1) / 2)


def frequency_trend(
    values: Float[Tensor, " attributes"],
    frequencies: Float[Tensor, " attributes"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The rank correlation of an attribute's value with its frequency, and its 95 % interval over
    resampled attributes.

    Attributes without a value (NaN) are left out; NaN where fewer than two are left, or where all
    are equal.
    """
    finite = values.isfinite()
    values, frequencies = values[finite], frequencies[finite]
    if len(values) < 2:
        return math.nan, math.nan, math.nan
    counts = bootstrap_counts(len(values), resamples, seed).long()
    drawn = torch.arange(len(values)).repeat(resamples).repeat_interleave(counts.flatten())
    drawn = drawn.view(resamples, -1)  # indices: ranks are no sums
    low, high = interval(rank_correlation(values[drawn], frequencies[drawn])).tolist()
    return rank_correlation(values, frequencies).item(), low, high


def randomise_layers(model: nn.Module, untrained: nn.Module, parts: Sequence[str]) -> nn.Module:
    """A copy of the model in which the named `parts` are as in an `untrained` model of the same
    shape.

    A part is a module or a parameter, by its name in `state_dict`. Maps that stay the same do not
    depend on what the model learned there. Source: Adebayo et al., arXiv 1810.03292. Used in lesson
    11.
    """
    trained, fresh = model.state_dict(), untrained.state_dict()
    for part in parts:
        if not any(_belongs(name, part) for name in trained):
            raise ValueError(
                f"the model has no part {part!r}; choose from"
                f" {', '.join(dict(model.named_children()))} and what is inside them"
            )
    mixed = copy.deepcopy(model)
    for name in trained:
        if any(_belongs(name, part) for part in parts):
            trained[name] = fresh[name]
    mixed.load_state_dict(trained)
    return mixed


def _belongs(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
