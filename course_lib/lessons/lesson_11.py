"""The exercises of lesson 11: the pointing game, the mean map, the luckiest place, deletion."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


def _regions(images: int, attributes: int, side: int = 28) -> Tensor:
    """Rectangles anywhere, wider than high, that cover tokens of 4 pixels only in part."""
    corner = torch.rand(images, attributes, 2) * torch.tensor([0.8, 0.55])
    reach = corner + torch.tensor([0.07, 0.3]) + 0.1 * torch.rand(images, attributes, 2)
    at = (torch.arange(side) + 0.5) / side
    rows, columns = (
        (at > corner[..., axis, None]) & (at < reach[..., axis, None]) for axis in (0, 1)
    )
    return rows[..., :, None] & columns[..., None, :]


def _touched(regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which tokens hold a pixel of the region, where pixels divide evenly."""
    return F.adaptive_max_pool2d(regions.float(), grid)


def _strongest(maps: Tensor) -> Tensor:
    return F.one_hot(maps.flatten(-2).argmax(-1), maps[0, 0].numel()).view(maps.shape).float()


# pointing_game


def pointing_asks_whether_the_strongest_touches(student: Callable, library: Callable) -> None:
    maps, regions = torch.rand(40, 3, 7, 7), _regions(40, 3)
    one = _strongest(maps)
    covered = F.avg_pool2d(regions.float(), 4)
    expect(
        student(maps, regions),
        library(maps, regions),
        {
            "rows and columns are swapped: a map is `rows columns`, a region `height width`": (
                (one * _touched(regions, (7, 7)).mT).sum((-2, -1))
            ),
            "you look at the pixel in the middle of the strongest token; it hits if the region touches any pixel of it": (
                (one * regions[..., 2::4, 2::4]).sum((-2, -1))
            ),
            "you ask that the region cover half of the token; touching it is enough": (
                (one * (covered >= 0.5)).sum((-2, -1))
            ),
            "you give the share of the token that lies inside; a hit is 1, a miss is 0": (
                (one * covered).sum((-2, -1))
            ),
            "this is the share of the map that lies inside, its energy; here only the strongest token counts": (
                (maps * covered).sum((-2, -1)) / maps.sum((-2, -1))
            ),
            "keep one score for each map; the mean comes later": library(maps, regions).mean(),
            "1 is a hit and 0 a miss; you have it the other way round": 1 - library(maps, regions),
        },
    )


def pointing_at_nothing_is_unknown(student: Callable, library: Callable) -> None:
    maps, regions = torch.rand(2, 2, 7, 7), _regions(2, 2)
    regions[0, 1] = False
    came, expected = student(maps, regions), library(maps, regions)
    if isinstance(came, Tensor) and came.shape == expected.shape and not came[0, 1].isnan():
        raise Mistake(
            "where the region is empty there is nothing to hit, and the score is NaN; came"
            f" {came[0, 1]:g}, which would pull the mean"
        )
    expect(came.nan_to_num(-1), expected.nan_to_num(-1), given="with one empty region")


def tokens_that_tie_share_the_point(student: Callable, library: Callable) -> None:
    maps, regions = torch.full((6, 1, 7, 7), 1 / 49), _regions(6, 1)
    came, chance = student(maps, regions), _touched(regions, (7, 7)).mean((-2, -1))
    if isinstance(came, Tensor) and ((came == 0) | (came == 1)).all():
        raise Mistake(
            "of a map that is the same everywhere you take the first token; all that tie share the"
            f" point, so it scores chance, here {chance[0, 0]:.2f}"
        )
    expect(came, library(maps, regions), given="for maps that are the same everywhere")


# mean_maps


def mean_is_over_the_images_that_count(student: Callable, library: Callable) -> None:
    maps, chosen = torch.rand(8, 3, 4, 5), torch.rand(8, 3) < 0.5
    chosen[0], chosen[1] = True, False
    counted = chosen[..., None, None]
    expect(
        student(maps, chosen),
        library(maps, chosen),
        {
            "this is the mean over all images; each attribute's map is the mean over those that count for it": maps.mean(
                0
            ),
            "you divide by the number of all images; divide by how many count for this attribute": (
                (maps * counted).mean(0)
            ),
            "you add the maps up; divide by how many count": (maps * counted).sum(0),
            "each attribute has a mean map of its own; you average over the attributes too": (
                (maps * counted).sum((0, 1)) / chosen.sum()
            ),
            "these are the images that do *not* count": (
                (maps * ~counted).sum(0) / (~chosen).sum(0)[:, None, None]
            ),
            "you make each mean map sum to 1; the mean of maps is enough": (
                library(maps, chosen) / library(maps, chosen).sum((-2, -1), keepdim=True)
            ),
        },
    )


def nothing_chosen_is_zero(student: Callable, library: Callable) -> None:
    maps, chosen = torch.rand(5, 2, 3, 3), torch.tensor([[True, False]] * 5)
    came = student(maps, chosen)
    if isinstance(came, Tensor) and came.isnan().any():
        raise Mistake(
            "an attribute that no image has gives 0 / 0; divide by at least 1, and its map is 0"
        )
    expect(came, library(maps, chosen), given="with an attribute that no image has")


# pointing_at_one_place


def one_place_for_all_images(student: Callable, library: Callable) -> None:
    _is_a_luckiest_place(student, library, _regions(30, 4), (7, 7))


def one_place_of_any_grid(student: Callable, library: Callable) -> None:
    for grid in ((4, 7), (2, 2)):
        _is_a_luckiest_place(student, library, _regions(20, 3), grid)


def _is_a_luckiest_place(
    student: Callable, library: Callable, regions: Tensor, grid: tuple[int, int]
) -> None:
    came, hit = student(regions, grid), _touched(regions, grid).bool().flatten(2)
    given = f"with a grid of {grid[0]} × {grid[1]}"
    if not isinstance(came, Tensor) or came.dtype != torch.bool or came.shape != regions.shape[:2]:
        what = (
            f"{came.dtype} of shape {tuple(came.shape)}"
            if isinstance(came, Tensor)
            else type(came).__name__
        )
        raise Mistake(
            f"{given}, expected yes or no (torch.bool) for each image and attribute, "
            f"{tuple(regions.shape[:2])}; got {what}"
        )
    if came.all():
        raise Mistake(
            "you choose a token for each image, and so it always hits; one token an attribute has"
            " to do for all images"
        )
    together = hit.flatten(0, 1).sum(0).argmax()
    if torch.equal(came, hit[..., together]):
        raise Mistake(
            "you choose one token for all attributes; each attribute has its own luckiest token"
        )
    area = F.adaptive_avg_pool2d(regions.float(), grid).sum(0).flatten(1).argmax(-1)
    counts = hit.sum(0)
    for attribute, best in enumerate(counts.amax(-1).tolist()):
        tokens = (counts[attribute] == best).nonzero()[:, 0]
        if any(torch.equal(came[:, attribute], hit[:, attribute, token]) for token in tokens):
            continue
        if torch.equal(came[:, attribute], hit[:, attribute, area[attribute]]):
            raise Mistake(
                "your token is the one that regions cover most; luckiest is the one that most"
                " *images'* regions touch"
            )
        raise Mistake(
            f"{given}, you hit {int(came[:, attribute].sum())} of {len(regions)} regions of"
            f" attribute {attribute}; its luckiest token touches {best}, each region counted where"
            " it has a pixel in the token"
        )


# deletion_curve


class _Reader(nn.Module):
    """Three outputs that read different places, each a fixed random sum of the image."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3 * height * width) / 6)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def _hidden_by(
    order: Tensor,
    model: nn.Module,
    images: Tensor,
    attributes: Tensor,
    hidden: Tensor,
    removed: list[int],
    finish: Callable = torch.sigmoid,
) -> Tensor:
    """The curve that hides the tokens whose `order` is below each count."""
    curve = []
    for count in removed:
        gone = F.interpolate((order[:, None] < count).float(), images.shape[-2:]) > 0
        curve.append(
            finish(model(torch.where(gone, hidden, images))).gather(1, attributes[:, None])
        )
    return torch.cat(curve, 1).detach()


def deletion_hides_the_strongest_first(student: Callable, library: Callable) -> None:
    model, removed = _Reader(8, 12).eval(), [0, 1, 2, 4, 6]
    images, hidden = torch.rand(5, 3, 8, 12), torch.rand(5, 3, 8, 12)
    attributes, maps = torch.tensor([2, 0, 1, 1, 0]), torch.rand(5, 2, 3)
    falling = maps.flatten(1).argsort(1, descending=True)
    turn = falling.argsort(1).view(maps.shape)
    given = (model, images, attributes, hidden, removed)
    expected = library(model, images, attributes, maps, hidden, removed)
    expect(
        student(model, images, attributes, maps, hidden, removed),
        expected,
        {
            "you hide the weakest tokens first; the strongest go first": _hidden_by(
                5 - turn, *given
            ),
            "`argsort` lists which token comes first, second, …; you read it as the rank of each token. Sort it once more, or hide the tokens that it lists": _hidden_by(
                falling.view(maps.shape), *given
            ),
            "these are logits; the curve is of probabilities": _hidden_by(
                turn, *given, finish=lambda logits: logits
            ),
            "you start from what hides and put the image back: that is insertion": _hidden_by(
                turn, model, hidden, attributes, images, removed
            ),
            "each item asks for its own output, `attributes`; you take the first for all": (
                _hidden_by(turn, model, images, torch.zeros_like(attributes), hidden, removed)
            ),
            "hidden tokens show `hidden`; you paint them black": _hidden_by(
                turn, model, images, attributes, torch.zeros_like(hidden), removed
            ),
            "keep a curve for each item; the mean comes later": expected.mean(0),
            "one row an item, one column a step; yours is transposed": expected.T,
        },
        given="for tokens of 4 × 4 pixels",
    )


def deletion_begins_and_ends_where_it_must(student: Callable, library: Callable) -> None:
    model, images, hidden = (
        _Reader(28, 28).eval(),
        torch.rand(4, 3, 28, 28),
        torch.zeros(4, 3, 28, 28),
    )
    attributes, maps = torch.tensor([0, 1, 2, 0]), torch.rand(4, 7, 7)
    came = student(model, images, attributes, maps, hidden, [0, 20, 49])
    expected = library(model, images, attributes, maps, hidden, [0, 20, 49])
    if isinstance(came, Tensor) and came.shape == expected.shape:
        for step, which in (
            (0, "with nothing hidden, the probability is the image's own"),
            (2, "with all 49 tokens hidden, nothing of the image may be left"),
        ):
            if not torch.allclose(came[:, step], expected[:, step], atol=1e-4):
                raise Mistake(f"{which}: expected {expected[0, step]:.4f}, got {came[0, step]:.4f}")
    expect(came, expected, tolerance=1e-4, given="for 7 × 7 tokens of 28 × 28 pixels")


EXERCISES = {
    "pointing_game": Exercise(
        solution="course_lib.looking.localisation:pointing_game",
        hints=(
            (
                "First find out which tokens the region touches, then look whether the strongest is"
                " among them."
            ),
            (
                "(…, rows, columns) weights and (…, height, width) yes or no → (…). With 56 pixels"
                " and 7 tokens, a token is 8 × 8 pixels."
            ),
            (
                "hit = F.adaptive_max_pool2d(regions.float(), maps.shape[-2:]); strongest = maps =="
                " their own maximum; score = sum of strongest · hit over the sum of strongest; NaN"
                " where the region has no pixel"
            ),
        ),
        properties=(
            pointing_asks_whether_the_strongest_touches,
            pointing_at_nothing_is_unknown,
            tokens_that_tie_share_the_point,
        ),
    ),
    "mean_maps": Exercise(
        solution="course_lib.looking.agreement:mean_maps",
        hints=(
            "For one attribute: take the maps of the images that have it, and average.",
            (
                "(batch, attributes, rows, columns) and (batch, attributes) yes or no →"
                " (attributes, rows, columns)."
            ),
            (
                "counted = chosen as 0 and 1 with two more axes; sum of maps · counted over the"
                " batch, divided by the sum of counted, which is at least 1"
            ),
        ),
        properties=(mean_is_over_the_images_that_count, nothing_chosen_is_zero),
    ),
    "pointing_at_one_place": Exercise(
        solution="course_lib.looking.localisation:pointing_at_one_place",
        hints=(
            (
                "Somebody who sees no image but knows all the answers: which token would they"
                " choose for hats?"
            ),
            (
                "(batch, attributes, height, width) yes or no and (rows, columns) → (batch,"
                " attributes) yes or no."
            ),
            (
                "hit = which tokens each region touches, (batch, attributes, tokens); count over"
                " the batch; the token with the largest count of each attribute; return its column"
                " of hit"
            ),
        ),
        properties=(one_place_for_all_images, one_place_of_any_grid),
    ),
    "deletion_curve": Exercise(
        solution="course_lib.looking.faithfulness:deletion_curve",
        hints=(
            (
                "Rank the tokens of each map. For each number in `removed`, replace those that come"
                " first, and ask the model again."
            ),
            (
                "images and hidden (items, 3, height, width), attributes (items,), maps (items,"
                " rows, columns), a list of numbers → (items, steps)."
            ),
            (
                "turn = rank of each token, 0 for the strongest; gone = turn < count, enlarged to"
                " pixels with F.interpolate; model(torch.where(gone, hidden, images)).gather(1,"
                " attributes[:, None]).sigmoid(); a column a step"
            ),
        ),
        properties=(deletion_hides_the_strongest_first, deletion_begins_and_ends_where_it_must),
    ),
}
