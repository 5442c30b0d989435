"""The exercises of lesson 14, a piece for each challenge: effective numbers, overlap, easy first,
what to draw.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES"]


# effective_numbers


def worth_grows_and_levels_off(student: Callable, library: Callable) -> None:
    counts, beta = torch.tensor([1.0, 10.0, 100.0, 5000.0], dtype=torch.float64), 0.99
    expect(
        student(counts, beta),
        library(counts, beta),
        {
            "this is the *weight*, one over what the images are worth; return their worth, and let the loss divide": (
                1 / library(counts, beta)
            ),
            "you forget to divide by 1 − β: one image is worth 1, and here it is worth 0.01": (
                1 - beta**counts
            ),
            "you multiply by 1 − β; divide by it": (1 - beta**counts) * (1 - beta),
            "it is β to the power of n; you have β · n": (1 - beta * counts) / (1 - beta),
            "it is β to the power of n; you have n to the power of β": (
                (1 - counts**beta) / (1 - beta)
            ),
            "the last image is worth β^(n−1); add up all of them": beta ** (counts - 1),
            "you subtract 1: n images are worth 1 + β + … + β^(n−1), n terms": (
                (1 - beta ** (counts - 1)) / (1 - beta)
            ),
        },
        given="for 1, 10, 100 and 5,000 images and β = 0.99",
    )


def worth_at_the_ends(student: Callable, library: Callable) -> None:
    counts = torch.tensor([[1.0, 7.0], [80.0, 2.0]], dtype=torch.float64)
    expect(
        student(counts, 0.0),
        torch.ones_like(counts),
        given="with β = 0 everything is worth one image;",
    )
    expect(
        student(counts, 0.999999),
        counts,
        tolerance=1e-3,
        given="with β near 1 each image counts nearly in full;",
    )
    expect(student(counts, 0.9), library(counts, 0.9), given="for counts of shape (2, 2)")


# head_diversity_penalty


def _overlap(maps: Tensor, pairs: Callable[[int, int], bool]) -> Tensor:
    """The mean over chosen pairs of heads of the dot product of their maps."""
    heads = maps.shape[1]
    chosen = [
        (maps[:, i] * maps[:, j]).sum(-1) for i in range(heads) for j in range(heads) if pairs(i, j)
    ]
    return torch.stack(chosen).mean()


def overlap_is_of_two_heads(student: Callable, library: Callable) -> None:
    maps = torch.rand(3, 4, 5, 9).softmax(-1)
    maps = maps**4 / (maps**4).sum(-1, keepdim=True)
    normed = torch.nn.functional.normalize(maps, dim=-1)
    expect(
        student(maps),
        library(maps),
        {
            "a head always overlaps with itself, and nothing can change that; leave these pairs out": _overlap(
                maps, lambda i, j: True
            ),
            "you only count a head with itself: that is how sharp it is, not what two share": (
                _overlap(maps, lambda i, j: i == j)
            ),
            "you compare queries; two *heads* of the same query are compared": _overlap(
                maps.transpose(1, 2), lambda i, j: i != j
            ),
            "these are cosines; the dot product also sees how sharp the two are": _overlap(
                normed, lambda i, j: i != j
            ),
            "you add up the pairs; the mean does not depend on how many heads there are": (
                _overlap(maps, lambda i, j: i < j) * 6
            ),
            "overlap is to be *charged*: the more, the larger": -library(maps),
            "this rewards overlap; you have 1 minus it": 1 - library(maps),
            "keep one number: the mean over the batch and the queries too": maps.new_tensor(
                torch.nan
            ),
        },
        given="for 4 heads",
    )


def overlap_of_known_maps(student: Callable, library: Callable) -> None:
    one = torch.zeros(1, 2, 1, 49)
    one[0, :, 0, 7] = 1
    apart = torch.zeros(1, 2, 1, 49)
    apart[0, 0, 0, 7] = apart[0, 1, 0, 8] = 1
    for given, maps in (
        ("for two heads on the same token", one),
        ("for two heads on two tokens", apart),
        ("for two heads that look everywhere alike", torch.full((1, 2, 1, 49), 1 / 49)),
    ):
        expect(student(maps), library(maps), given=given)


def overlap_can_be_learned_from(student: Callable, library: Callable) -> None:
    scores = torch.randn(2, 3, 4, 9, requires_grad=True)
    expect_gradient(scores, student(scores.softmax(-1)))


# easiest_weights


def _equal(chosen: Tensor) -> Tensor:
    return chosen.double() / chosen.sum()


def easy_is_a_low_loss(student: Callable, library: Callable) -> None:
    losses = torch.tensor([1.0, 0.2, 0.6, 0.3, 0.8, 0.4, 0.9, 0.5], dtype=torch.float64)
    rank, share = losses.argsort().argsort(), 0.25
    expect(
        student(losses, share),
        library(losses, share),
        {
            "these are the *hardest* images; easy is a low loss": _equal(rank >= 6),
            "`argsort` lists which image comes first, second, …; you read it as the rank of each image": _equal(
                losses.argsort() < 2
            ),
            "this is everything but the easiest": _equal(rank >= 2),
            "divide by how many are shown, so that the weights sum to 1": (rank < 2).double(),
            "you divide by the number of all images; the weights have to sum to 1": (
                (rank < 2).double() / 8
            ),
            "`share` is a part of the images, not a loss: you show all whose loss is below it": (
                _equal(losses < share)
            ),
            "all that are shown come equally often; you weigh them by their loss": (
                (rank < 2) * losses / losses[rank < 2].sum()
            ),
            "all that are shown come equally often; you weigh them by how easy they are": (
                (rank < 2) / losses / (1 / losses[rank < 2]).sum()
            ),
        },
        given="for a quarter of 8 images",
    )


def easy_of_any_share(student: Callable, library: Callable) -> None:
    losses = torch.rand(40, dtype=torch.float64)
    expect(
        student(losses, 1.0),
        library(losses, 1.0),
        given="with a share of 1, where all images come,",
    )
    expect(student(losses, 0.5), library(losses, 0.5), given="for half of 40 images")
    came = student(losses, 0.001)
    if isinstance(came, Tensor) and not came.nan_to_num().any():
        raise Mistake(
            "with a small share no image at all is left, and nothing can be drawn; show at"
            " least one"
        )
    expect(came, library(losses, 0.001), given="with a share of 0.001, where one image is left,")


# faces_to_draw


def drawn_faces_make_the_whole_larger(student: Callable, library: Callable) -> None:
    positives, images, share = torch.tensor([20, 40, 130]), 1000, 0.125
    wanted = (share * images - positives.double()).clamp(min=0)
    alone, behind = (wanted / (1 - share)).ceil().long(), positives.max() - positives
    came = _counts(student(positives, images, share), 3)
    expected = library(positives, images, share)
    for sentence, wrong in {
        "you forget that each drawn face makes the whole larger: with yours the share is missed": (
            wanted.ceil().long()
        ),
        "each attribute makes the whole larger for the others too; you count only its own faces": (
            alone
        ),
        "you bring all up to the most frequent; `share` is enough": behind,
        "you say how many there should be; return how many to *draw*, without those that are there": (
            expected + positives
        ),
    }.items():
        if torch.equal(came, wrong):
            raise Mistake(sentence)
    _enough_and_no_more(came, expected, positives, images, share)


def nothing_to_draw_is_zero(student: Callable, library: Callable) -> None:
    positives = torch.tensor([5, 600, 250, 100])
    came = _counts(student(positives, 1000, 0.0625), 4)
    if (came < 0).any():
        raise Mistake(
            f"for an attribute that is frequent enough you draw {int(came.min())} faces; draw none"
        )
    _enough_and_no_more(came, library(positives, 1000, 0.0625), positives, 1000, 0.0625)
    came = _counts(student(positives, 1000, 0.0), 4)
    if came.any():
        raise Mistake(
            f"with a share of 0 there is nothing to draw; you draw {int(came.sum())} faces"
        )


def common_attributes_can_fall_behind(student: Callable, library: Callable) -> None:
    positives = torch.tensor([0, 0, 0, 260])  # enough of 1,000, too few once the others are drawn
    _enough_and_no_more(
        _counts(student(positives, 1000, 0.21875), 4),
        library(positives, 1000, 0.21875),
        positives,
        1000,
        0.21875,
    )


def _counts(came: object, attributes: int) -> Tensor:
    """The answer as whole numbers, if it is that."""
    if not isinstance(came, Tensor) or came.shape != (attributes,):
        what = f" of shape {tuple(came.shape)}" if isinstance(came, Tensor) else ""
        raise Mistake(
            f"expected a tensor with one count an attribute, ({attributes},); got a "
            f"{type(came).__name__}{what}"
        )
    if not torch.equal(came.double(), came.double().round()):
        raise Mistake(
            f"you draw {next(count for count in came.tolist() if count % 1):.2f} faces; a face is"
            " whole, so round up"
        )
    return came.long()


def _enough_and_no_more(
    came: Tensor, expected: Tensor, positives: Tensor, images: int, share: float
) -> None:
    total = images + int(came.sum())
    reached = (positives + came).double() / total
    given = f"for {positives.tolist()} of {images} and a share of {share:g}"
    if (reached < share - 1e-9).any():
        worst = int(reached.argmin())
        raise Mistake(
            f"{given}, you draw {came.tolist()}; then attribute {worst} is in {reached[worst]:.2%}"
            f" of the {total} faces, and that is too few"
        )
    if came.sum() > expected.sum():
        raise Mistake(
            f"{given}, {int(expected.sum())} faces are enough, and you draw {int(came.sum())}"
        )


EXERCISES = {
    "effective_numbers": Exercise(
        solution="course_lib.data.samplers:effective_numbers",
        hints=(
            (
                "If each new image adds β times what the one before it added, n of them are worth 1"
                " + β + β² + … + β^(n−1). There is a formula for that sum."
            ),
            "counts of any shape, and a number → the same shape.",
            "(1 − β to the power of counts) / (1 − β)",
        ),
        properties=(worth_grows_and_levels_off, worth_at_the_ends),
    ),
    "head_diversity_penalty": Exercise(
        solution="course_lib.training.losses:head_diversity_penalty",
        hints=(
            (
                "Multiply the maps of two heads token by token and add up: 1 if both look at the"
                " same one token, 0 if they share none. Then the mean over all pairs of *different*"
                " heads."
            ),
            "(batch, heads, queries, keys) → one number, with its gradient.",
            (
                "for each pair i < j: (weights[:, i] * weights[:, j]).sum(-1).mean(); the mean of"
                " these. Without a loop: (sum over heads)² − sum over heads of squares counts every"
                " pair twice"
            ),
        ),
        properties=(overlap_is_of_two_heads, overlap_of_known_maps, overlap_can_be_learned_from),
    ),
    "easiest_weights": Exercise(
        solution="course_lib.data.samplers:easiest_weights",
        hints=(
            (
                "Sort the images by their loss. Those at the beginning come, all equally often; the"
                " others do not."
            ),
            "(images,) and a number from 0 to 1 → (images,) that sum to 1.",
            (
                "shown = round(share · images), at least 1; weights = zeros;"
                " weights[losses.argsort()[:shown]] = 1 / shown"
            ),
        ),
        properties=(easy_is_a_low_loss, easy_of_any_share),
    ),
    "faces_to_draw": Exercise(
        solution="course_lib.data.samplers:faces_to_draw",
        hints=(
            (
                "If there were M faces in the end, how many of each attribute would be missing? And"
                " how many faces would that make? Look for the M that agrees with itself."
            ),
            (
                "(attributes,) counts, a number of images, a share → (attributes,) whole numbers,"
                " none below 0."
            ),
            (
                "total = images; repeat: missing = ceil(share · total − positives), at least 0; new"
                " total = images + sum of missing; until the total no longer changes"
            ),
        ),
        properties=(
            drawn_faces_make_the_whole_larger,
            nothing_to_draw_is_zero,
            common_attributes_can_fall_behind,
        ),
    ),
}
