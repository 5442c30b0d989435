"""Does a map point at the right place? Pointing game, energy and IoU against known regions, each
beside its baselines.

A map is `rows columns` of tokens over an image; a region is `height width` of that image's pixels.
Where a region is empty there is nothing to find, and the scores are NaN. Derived in lesson 11.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import Bool, Float
from ..tables import aligned

__all__ = [
    "LocalisationScores",
    "area_share",
    "chance_of_pointing",
    "energy",
    "follows",
    "iou_curve",
    "pointing_at_one_place",
    "pointing_game",
    "score_localisation",
]

THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))  # of the map's own largest value


def pointing_game(maps: Tensor, regions: Tensor, tolerance: float = 0.5) -> Float[Tensor, "*batch"]:
    """1 where the strongest token of a map, `*batch rows columns`, hits its region, `*batch height
    width`; else 0.

    A token hits if the region comes within `tolerance` token widths of its centre: at 0.5 it
    touches the token. Tokens that tie for strongest share the point, so a uniform map scores
    chance. Source: Zhang et al., arXiv 1608.00507.
    """
    check_shapes(maps, regions)
    hit = touched(regions, maps.shape[-2:], tolerance).flatten(-2)
    values = maps.detach().flatten(-2)
    strongest = (values == values.amax(-1, keepdim=True)).float()
    return _where_known(regions, (strongest * hit).sum(-1) / strongest.sum(-1))


def chance_of_pointing(
    regions: Tensor, grid: tuple[int, int], tolerance: float = 0.5
) -> Float[Tensor, "*batch"]:
    """What the pointing game gives to a token chosen at random: the share of tokens that hit."""
    return _where_known(regions, touched(regions, grid, tolerance).float().mean((-2, -1)))


def pointing_at_one_place(
    regions: Tensor, grid: tuple[int, int], tolerance: float = 0.5
) -> Bool[Tensor, "batch ..."]:
    """Which of the regions, `batch attributes height width`, are hit by each attribute's luckiest
    token.

    That token is chosen with these regions in hand, so no map that is the same for all images
    points better. What it misses is where a map must follow its image: score the pointing game
    there. Derived in lesson 11.
    """
    hit = touched(regions, grid, tolerance).flatten(-2)
    luckiest = hit.float().sum(0).argmax(-1)
    return hit.gather(-1, luckiest.expand(hit.shape[:-1])[..., None])[..., 0]


def follows(maps: Tensor, regions: Tensor) -> Float[Tensor, " attributes"]:
    """Do maps move with their regions? The correlation of their centres over images, the mean of
    both directions.

    `maps` are `batch attributes rows columns`, `regions` `batch attributes height width`, and
    images with an empty region do not count. A map that is the same for all images follows nothing:
    0, as by chance. NaN with fewer than 3 images.
    """
    check_shapes(maps, regions)
    visible = regions.flatten(-2).any(-1)[..., None]
    images = visible.sum(0)
    ours, true = (
        (centre - torch.where(visible, centre, 0).sum(0) / images.clamp(min=1)) * visible
        for centre in (_centre(maps.detach()), _centre(regions))
    )
    spread = (ours.square().sum(0) * true.square().sum(0)).sqrt()
    correlation = torch.where(spread > 1e-9, (ours * true).sum(0) / spread.clamp(min=1e-9), 0)
    return torch.where(images > 2, correlation, torch.nan).mean(-1).float()


def _centre(maps: Tensor) -> Float[Tensor, "*batch 2"]:
    """The centre of mass, as shares of height and width."""
    mass = maps.double().clamp(min=0)
    return torch.stack(
        [
            (mass.sum(-1 - axis) * ((torch.arange(size, device=maps.device) + 0.5) / size)).sum(-1)
            / mass.sum((-2, -1)).clamp(min=1e-12)
            for axis, size in enumerate(maps.shape[-2:])
        ],
        -1,
    )


def area_share(regions: Tensor) -> Float[Tensor, "*batch"]:
    """The share of the image, `*batch height width`, that a region covers: what blind pointing
    scores. Lesson 00.
    """
    return regions.float().mean((-2, -1))


def energy(maps: Tensor, regions: Tensor) -> Float[Tensor, "*batch"]:
    """The share of a map's positive part that lies inside its region; a token counts by the area it
    shares with it.

    Chance, for any map whose tokens are shuffled, is the region's share of the image; a map without
    positive part counts as a flat one. Source: Wang et al., arXiv 1910.01279. Derived in lessons 01
    and 11.
    """
    check_shapes(maps, regions)
    positive = maps.detach().clamp(min=0)
    positive = torch.where(positive.sum((-2, -1), keepdim=True) > 0, positive, 1)
    inside = (positive * covered(regions, maps.shape[-2:])).sum((-2, -1))
    return _where_known(regions, inside / positive.sum((-2, -1)))


def iou_curve(
    maps: Tensor, regions: Tensor, thresholds: tuple[float, ...] = THRESHOLDS
) -> Float[Tensor, "*batch thresholds"]:
    """Intersection over union of the region with the tokens above each threshold, a share of the
    map's maximum.
    """
    intersection, chosen, region = _areas(maps, regions, thresholds)
    return _where_known(
        regions[..., None, :, :], intersection / (chosen + region - intersection).clamp(min=1e-12)
    )


def _chance_of_iou(
    maps: Tensor,
    regions: Tensor,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Float[Tensor, "*batch thresholds"]:
    """The same with as many tokens anywhere: their expected intersection is the product of the two
    shares.
    """
    _, chosen, region = _areas(maps, regions, thresholds)
    expected = chosen * region
    return _where_known(
        regions[..., None, :, :], expected / (chosen + region - expected).clamp(min=1e-12)
    )


def _areas(
    maps: Tensor, regions: Tensor, thresholds: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of the image: chosen tokens that lie in the region, chosen tokens, region."""
    check_shapes(maps, regions)
    inside = covered(regions, maps.shape[-2:])[..., None, :, :]
    maps = maps.detach()[..., None, :, :]
    chosen = (
        maps >= torch.tensor(thresholds).to(maps)[:, None, None] * maps.amax((-2, -1), keepdim=True)
    ).float()
    return (chosen * inside).mean((-2, -1)), chosen.mean((-2, -1)), inside.mean((-2, -1))


def covered(regions: Tensor, grid: tuple[int, int]) -> Float[Tensor, "*batch rows columns"]:
    """The share of each token's area that the region covers, exact for any ratio of pixels to
    tokens.
    """
    down, across = (
        _overlap(tokens, pixels, 0.5).to(regions.device)
        for tokens, pixels in zip(grid, regions.shape[-2:], strict=True)
    )
    return down @ regions.float() @ across.T * (grid[0] * grid[1])


def touched(
    regions: Tensor, grid: tuple[int, int], tolerance: float
) -> Bool[Tensor, "*batch rows columns"]:
    """Which tokens have the region within `tolerance` token widths of their centre, along both
    axes.
    """
    if tolerance <= 0:
        raise ValueError(
            f"tolerance is {tolerance} token widths, expected more than 0; 0.5 asks that the region"
            " touch the token"
        )
    down, across = (
        (_overlap(tokens, pixels, tolerance) > 1e-9).float().to(regions.device)
        for tokens, pixels in zip(grid, regions.shape[-2:], strict=True)
    )
    return down @ regions.float() @ across.T > 0


def _overlap(tokens: int, pixels: int, reach: float) -> Float[Tensor, "tokens pixels"]:
    """The length that each pixel shares with the interval `reach` tokens either side of a token's
    centre, side = 1.
    """
    centre = (torch.arange(tokens, dtype=torch.float64)[:, None] + 0.5) / tokens
    edge = torch.arange(pixels + 1, dtype=torch.float64) / pixels
    shared = torch.minimum(centre + reach / tokens, edge[1:]) - torch.maximum(
        centre - reach / tokens, edge[:-1]
    )
    return shared.clamp(min=0).float()


def check_shapes(maps: Tensor, regions: Tensor) -> None:
    """Raise one `ValueError` that says how maps and regions disagree."""
    if maps.ndim < 2 or maps.shape[:-2] != regions.shape[:-2]:
        raise ValueError(
            f"maps have the shape {tuple(maps.shape)} and regions {tuple(regions.shape)}, expected"
            " `*batch rows columns` and `*batch height width`; reshape attention over tokens to"
            " its grid"
        )


def _where_known(regions: Tensor, scores: Tensor) -> Tensor:
    return torch.where(regions.flatten(-2).any(-1), scores, torch.nan)


@dataclass(frozen=True)
class LocalisationScores:
    """Each measure's score beside its baselines, `attributes` each (NaN where nothing is known);
    prints as a table.

    Columns: `map`, `mean map` (one map for all images), `untrained` if such a model's maps were
    given, and `chance`.
    """

    table: dict[str, dict[str, Float[Tensor, " attributes"]]]
    tolerance: float
    items: int

    def mean(self, measure: str, column: str = "map") -> float:
        """The mean over attributes with a known region."""
        return float(self.table[measure][column].nanmean())

    def __str__(self) -> str:
        columns = list(self.table["pointing"])
        rows = [("", *columns)]
        for measure in self.table:
            rows.append((measure, *(f"{self.mean(measure, column):.3f}" for column in columns)))
        return (
            f"{aligned(rows)}\n{self.items} regions; pointing within {self.tolerance:g} token widths;"
            f" IoU is the mean over thresholds {THRESHOLDS[0]} to {THRESHOLDS[-1]} of the maximum"
        )

    __repr__ = __str__


def score_localisation(
    maps: Tensor,
    regions: Tensor,
    untrained: Tensor | None = None,
    mean_map: Tensor | None = None,
    tolerance: float = 0.5,
) -> LocalisationScores:
    """Score maps, `batch attributes rows columns`, against regions, `batch attributes height
    width`, empty if unknown.

    Every measure stands beside chance, beside the mean map of each attribute, which cannot see the
    image (the mean of `maps` over items with a region, unless `mean_map`, `attributes rows
    columns`, is given from other images), and beside an `untrained` model's maps if given. Used in
    lesson 09.
    """
    check_shapes(maps, regions)
    if maps.ndim != 4:
        raise ValueError(
            f"maps have the shape {tuple(maps.shape)}, expected `batch attributes rows columns`;"
            " add the missing axis, for example maps[:, None]"
        )
    visible = regions.flatten(-2).any(-1)
    if not visible.any():
        raise ValueError(
            "no region is known: every mask is empty, so there is nothing to score; pass items"
            " whose attributes have a place"
        )
    if mean_map is None:
        shared = (maps.detach() * visible[..., None, None]).sum(0) / visible.sum(0).clamp(min=1)[
            :, None, None
        ]
    else:
        shared = mean_map
    compared = {"map": maps, "mean map": shared.expand_as(maps)}
    if untrained is not None:
        check_shapes(untrained, regions)
        compared["untrained"] = untrained
    measures = {
        "pointing": lambda values: pointing_game(values, regions, tolerance),
        "energy": lambda values: energy(values, regions),
        "IoU": lambda values: iou_curve(values, regions).mean(-1),
    }
    chance = {
        "pointing": chance_of_pointing(regions, tuple(maps.shape[-2:]), tolerance),
        "energy": _where_known(regions, area_share(regions)),
        "IoU": _chance_of_iou(maps, regions).mean(-1),
    }
    table = {}
    for name, measure in measures.items():
        table[name] = {column: measure(values).nanmean(0) for column, values in compared.items()}
        table[name]["chance"] = chance[name].nanmean(0)
    return LocalisationScores(table, tolerance, int(visible.sum()))
