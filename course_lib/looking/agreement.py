"""Do maps agree? Rank correlations between kinds of maps, and with those of a model whose layers
are randomised.

A high correlation alone says little: maps of two images agree too where both follow one habit. So
each comparison has another image's map beside it. Derived in lesson 11.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn

from ..shapes import Float, Int
from ..training.bootstrap import bootstrap_counts, interval

__all__ = [
    "MapAgreement",
    "RandomisationCheck",
    "frequency_trend",
    "map_agreement",
    "mean_maps",
    "randomisation_check",
    "randomise_layers",
    "rank_correlation",
    "resampled_means",
]

Maps = Float[Tensor, "batch attributes rows columns"]

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
    Zero where none does. What a map adds to it, it has from its image. Derived in lesson 11.
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


@dataclass(frozen=True)
class MapAgreement:
    """How alike two kinds of maps rank the tokens, `attributes` each (NaN where no image counts);
    prints as a line.

    `other_image` compares with the second kind's map of another image, what a shared habit gives;
    `shuffled` with the same map in random places, 0 on average.
    """

    same_image: Float[Tensor, " attributes"]
    other_image: Float[Tensor, " attributes"]
    shuffled: Float[Tensor, " attributes"]

    def __str__(self) -> str:
        return (
            f"rank correlation {self.same_image.nanmean():.3f} between maps of one image,"
            f" {self.other_image.nanmean():.3f} with another image's,"
            f" {self.shuffled.nanmean():+.3f} with shuffled tokens"
        )

    __repr__ = __str__


def map_agreement(
    first: Tensor, second: Tensor, chosen: Tensor | None = None, seed: int = 0
) -> MapAgreement:
    """Compare two kinds of maps, `batch attributes rows columns`, by the mean rank correlation of
    each attribute.

    `chosen`, `batch attributes`, says which count: those that are there, as a rule; all unless
    given. The other image is the next one that counts. Raises ValueError for shapes that differ.
    Derived in lesson 11.
    """
    if (
        first.shape != second.shape
        or first.ndim != 4
        or (chosen is not None and chosen.shape != first.shape[:2])
    ):
        raise ValueError(
            f"the maps have the shapes {tuple(first.shape)} and {tuple(second.shape)}, expected the"
            " same `batch attributes rows columns`, and `batch attributes` for `chosen`; bring"
            " both to one grid first"
        )
    first, second = first.detach().flatten(2), second.detach().flatten(2)
    chosen = torch.ones(first.shape[:2], dtype=torch.bool) if chosen is None else chosen.bool()
    chosen = chosen.to(first.device)
    elsewhere, places = torch.full_like(second, torch.nan), _random_places(second, seed)
    for attribute, counts in enumerate(chosen.T):
        if (images := counts.nonzero()[:, 0]).numel() > 1:
            elsewhere[images, attribute] = second[images.roll(-1), attribute]
    correlations = (
        rank_correlation(first, other) for other in (second, elsewhere, second.gather(-1, places))
    )
    return MapAgreement(
        *(torch.where(chosen, values, torch.nan).nanmean(0) for values in correlations)
    )


def _random_places(values: Tensor, seed: int) -> Int[Tensor, "batch attributes tokens"]:
    return (
        torch.rand(values.shape, generator=torch.Generator().manual_seed(seed))
        .argsort(-1)
        .to(values.device)
    )


# Randomisation
def randomise_layers(model: nn.Module, untrained: nn.Module, parts: Sequence[str]) -> nn.Module:
    """A copy of the model in which the named `parts` are as in an `untrained` model of the same
    shape.

    A part is a module or a parameter, by its name in `state_dict`.
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


@dataclass(frozen=True)
class RandomisationCheck:
    """How far maps stay what they were, `attributes` each, as one part after another is untrained;
    prints as a table.

    `correlation["decoder.head"]` is the rank correlation with the trained model's map when that
    part and all before it are untrained; `other_image` that of the trained model's maps of two
    images, what a shared habit gives.
    """

    correlation: dict[str, Float[Tensor, " attributes"]]
    other_image: Float[Tensor, " attributes"]

    def __str__(self) -> str:
        width = max(map(len, self.correlation)) + 2
        rows = {f"+ {part}": values for part, values in self.correlation.items()} | {
            "another image": self.other_image
        }
        return "\n".join(
            [
                f"{'untrained from the output down':<{width}}  rank correlation",
                *(f"{name:<{width}}  {values.nanmean():.3f}" for name, values in rows.items()),
            ]
        )

    __repr__ = __str__


def randomisation_check(
    model: nn.Module,
    untrained: nn.Module,
    parts: Sequence[str],
    explain: Callable[[nn.Module], Tensor],
    chosen: Tensor | None = None,
) -> RandomisationCheck:
    """Untrain the model part by part, from the output down, and see whether its maps notice.

    `explain` makes maps, `batch attributes rows columns`, of a model; `chosen` is that of
    `map_agreement`. Maps that stay the same do not depend on what the model learned there:
    attention does not see the parts behind it. Source: Adebayo et al., arXiv 1810.03292. Derived in
    lesson 11.
    """
    trained, correlation = explain(model), {}
    for last, part in enumerate(parts, 1):
        maps = explain(randomise_layers(model, untrained, parts[:last]))
        correlation[part] = map_agreement(trained, maps, chosen).same_image
    return RandomisationCheck(correlation, map_agreement(trained, trained, chosen).other_image)
