"""The exercises of lesson 11: an intervention, the pointing game, the luckiest place, deletion, and
how well a measure tells models apart.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Bool, Float, Int
from .exercises import Exercise, Mistake, expect, expect_number

__all__ = [
    "EXERCISES",
    "deletion_curve",
    "intervention_effect",
    "pointing_at_one_place",
    "pointing_game",
]


def intervention_effect(
    model: nn.Module, before: Tensor, after: Tensor, output: int = 0
) -> Float[Tensor, " items"]:
    """By how much the probability of one output moves from `before` to `after`. Derived in lesson 11."""
    with torch.no_grad():
        first, second = model(before)[:, output], model(after)[:, output]
    return second.sigmoid() - first.sigmoid()


def pointing_game(maps: Tensor, regions: Tensor) -> Float[Tensor, "*batch"]:
    """1 where the strongest token touches the region, else 0; NaN without a region. Derived in lesson
    11.
    """
    hit = F.adaptive_max_pool2d(regions.float(), maps.shape[-2:])
    strongest = (maps == maps.amax((-2, -1), keepdim=True)).float()
    score = (strongest * hit).sum((-2, -1)) / strongest.sum((-2, -1))
    return torch.where(regions.flatten(-2).any(-1), score, torch.nan)


def pointing_at_one_place(
    regions: Bool[Tensor, "batch attributes height width"], grid: tuple[int, int]
) -> Bool[Tensor, "batch attributes"]:
    """Which regions each attribute's luckiest token hits. Derived in lesson 11."""
    hit = F.adaptive_max_pool2d(regions.float(), grid).flatten(2) > 0
    luckiest = hit.sum(0).argmax(-1)
    return hit[:, torch.arange(hit.shape[1]), luckiest]


def deletion_curve(
    model: nn.Module,
    images: Float[Tensor, "items 3 height width"],
    attributes: Int[Tensor, " items"],
    maps: Float[Tensor, "items rows columns"],
    hidden: Float[Tensor, "items 3 height width"],
    removed: list[int],
) -> Float[Tensor, "items steps"]:
    """Probabilities while the strongest tokens are replaced by those of `hidden`. Derived in lesson 11."""
    turn = maps.flatten(1).argsort(1, descending=True).argsort(1).view(maps.shape)
    curve = []
    for count in removed:
        gone = F.interpolate((turn < count).float()[:, None], images.shape[-2:]) > 0
        with torch.no_grad():
            logits = model(torch.where(gone, hidden, images))
        curve.append(logits.gather(1, attributes[:, None]).sigmoid())
    return torch.cat(curve, 1)


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


# intervention_effect


class _Scaled(nn.Module):
    """Three logits from fixed random sums of the input."""

    def __init__(self, numbers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, numbers) / numbers**0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.T


def the_effect_is_a_change_of_probability(student: Callable, library: Callable) -> None:
    model, before, after = _Scaled(12).eval(), torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    first, second = model(before).detach(), model(after).detach()
    expected = library(model, before, after, 1)
    expect(
        student(model, before, after, 1),
        expected,
        {
            "you subtract the other way round; the effect is after minus before": -expected,
            "these are differences of logits; the effect is a difference of probabilities": (
                second - first
            )[:, 1],
            "this is the probability of the difference; take the difference of the probabilities": (
                (second - first).sigmoid()[:, 1]
            ),
            "you read column 0; the column is `output`": library(model, before, after, 0),
            "you return all outputs; only column `output` is asked for": (
                second.sigmoid() - first.sigmoid()
            ),
            "you drop the sign; a change can lower the probability too": expected.abs(),
            "keep one difference for each item; the mean comes later": expected.mean(),
        },
    )


def the_first_output_unless_told(student: Callable, library: Callable) -> None:
    model, before, after = _Scaled(20).eval(), torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    expect(student(model, before, after), library(model, before, after), given="for output 0")


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


# superiority


def superiority_counts_pairs(student: Callable, library: Callable) -> None:
    first, second = torch.tensor([3.0, 1.0, 5.0]), torch.tensor([2.0, 4.0, 0.5, 0.0])
    expect_number(
        student(first, second),
        library(first, second),
        {
            "you count the pairs in which `second` is larger": library(second, first),
            "you count pairs; divide by how many there are": 9.0,
            "you compare the two means; compare every value with every other": 1.0,
        },
        given="for 3 values and 4",
    )


def a_tie_counts_half(student: Callable, library: Callable) -> None:
    first, second = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 0.5])
    expect_number(
        student(first, second),
        library(first, second),
        {
            "a tie counts half, and you count it as lost": 4 / 9,
            "a tie counts half, and you count it in full": 6 / 9,
            "a tie counts half; you leave such pairs out": 4 / 7,
        },
        given="with two ties",
    )
    apart = student(torch.tensor([5.0, 6.0]), torch.tensor([1.0, 2.0, 3.0]))
    expect_number(apart, 1.0, given="for values that never mix")


EXERCISES = {
    "intervention_effect": Exercise(
        solution="course_lib.lessons.lesson_11:intervention_effect",
        hints=(
            "Ask the model about both versions of every item, and compare the two probabilities.",
            "model(before) is (items, outputs) of logits; what you return is (items,).",
            (
                "first = model(before)[:, output].sigmoid(), second the same of `after`, without"
                " gradients; return second - first"
            ),
        ),
        properties=(the_effect_is_a_change_of_probability, the_first_output_unless_told),
    ),
    "pointing_game": Exercise(
        solution="course_lib.lessons.lesson_11:pointing_game",
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
    "pointing_at_one_place": Exercise(
        solution="course_lib.lessons.lesson_11:pointing_at_one_place",
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
        solution="course_lib.lessons.lesson_11:deletion_curve",
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
    "superiority": Exercise(
        solution="course_lib.looking.faithfulness:superiority",
        hints=(
            "Let every value of the one group meet every value of the other. How many meetings does it win?",
            "(first,) and (second,) → one number between 0 and 1; a table of (first, second) helps.",
            (
                "gap = first[:, None] - second; the mean of (gap > 0) plus half the mean of"
                " (gap == 0)"
            ),
        ),
        properties=(superiority_counts_pairs, a_tie_counts_half),
    ),
}
