"""The exercises of lesson 04: attention by hand, and its heads."""

import math
from collections.abc import Callable

import torch

from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES"]


# attend


def _pair(result) -> tuple:
    if not isinstance(result, tuple) or len(result) != 2:
        raise Mistake(
            "return two things: the weighted mean of the values, and the weights, in this order"
        )
    return result


def attend_is_a_weighted_mean(student: Callable, library: Callable) -> None:
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    output, weights = _pair(student(q, k, v))
    scores = q @ k.mT
    right = (scores / 2).softmax(-1)
    expect(
        weights,
        right,
        {
            "you do not divide the scores by √dim; large dims would make the softmax a hard choice": scores.softmax(
                -1
            ),
            "you divide by dim; divide by its square root": (scores / 4).softmax(-1),
            "your softmax runs over the queries; each *query* spends one unit of attention over the keys (dim=-1)": (
                (scores / 2).softmax(-2)
            ),
            "your softmax runs over the batch; take dim=-1": (scores / 2).softmax(0),
            "these are scores, not weights; take their softmax over the keys": scores / 2,
            "you divide by the square root of the number of keys; divide by that of dim": (
                (scores / math.sqrt(5)).softmax(-1)
            ),
            "you divide after the softmax, so rows do not sum to 1; divide the scores": (
                scores.softmax(-1) / 2
            ),
        },
        given="for the weights, which come second",
    )
    expect(
        output,
        right @ v,
        {
            "you weigh the keys; weigh the values: keys decide the weights, values are what is averaged": (
                right @ k
            ),
        },
    )


def attend_of_any_size(student: Callable, library: Callable) -> None:
    for leading, queries, keys, dim in (((), 1, 1, 2), ((2, 4), 3, 7, 8), ((5,), 2, 1, 3)):
        q, k, v = (
            torch.randn(*leading, queries, dim),
            torch.randn(*leading, keys, dim),
            torch.randn(*leading, keys, 3),
        )
        given = f"for {len(leading)} leading axes, {queries} queries, {keys} keys and {dim=}"
        for came, answer in zip(_pair(student(q, k, v)), library(q, k, v), strict=True):
            expect(came, answer, given=given)


def attend_survives_large_scores(student: Callable, library: Callable) -> None:
    q, k, v = (
        torch.full((1, 1, 4), 60.0),
        torch.tensor([[[60.0] * 4, [0.0] * 4]]),
        torch.tensor([[[1.0], [5.0]]]),
    )
    output, _ = _pair(student(q, k, v))
    if not output.isfinite().all():
        raise Mistake(
            "large scores give NaN: exp overflows; use torch.softmax, which subtracts the largest"
            " first"
        )
    expect(output, torch.tensor([[[1.0]]]), given="for very large scores")


def attend_passes_gradients(student: Callable, library: Callable) -> None:
    q, k, v = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(3))
    for inputs in (q, k, v):
        expect_gradient(inputs, _pair(student(q, k, v))[0].square())


# split_heads


def heads_are_contiguous_parts(student: Callable, library: Callable) -> None:
    x = torch.randn(2, 5, 12)
    expect(
        student(x, 3),
        library(x, 3),
        {
            "you reshape across tokens: `view(batch, heads, tokens, dim)` deals the numbers out in memory order; split the last axis first, then move `heads` before `tokens`": x.reshape(
                2, 3, 5, 4
            ),
            "each head takes every third number; PyTorch's heads take neighbours: (heads dim), not (dim heads)": (
                x.unflatten(-1, (4, 3)).permute(0, 3, 1, 2)
            ),
            "your heads come after the tokens; attention treats all axes before tokens as batch, so move heads there": x.unflatten(
                -1, (3, 4)
            ),
            "your heads come before the batch; keep the batch first": (
                x.unflatten(-1, (3, 4)).permute(2, 0, 1, 3)
            ),
        },
    )


def heads_of_any_number(student: Callable, library: Callable) -> None:
    for shape, heads in (((1, 1, 1), 1), ((3, 49, 128), 4), ((2, 7, 6), 6), ((2, 8, 10), 1)):
        x = torch.randn(shape, dtype=torch.float64)
        expect(student(x, heads), library(x, heads), given=f"for x of shape {shape} and {heads=}")


EXERCISES = {
    "attend": Exercise(
        solution="course_lib.models.attention:attend",
        hints=(
            (
                "A query scores every key by how well they point in the same direction. The scores"
                " of one query become shares that sum to 1, and the shares weigh the values."
            ),
            (
                "q (… queries dim), k (… keys dim) → scores (… queries keys); weights @ v → (…"
                " queries value_dim)."
            ),
            (
                "scores = q @ k transposed / √dim; weights = softmax of scores over the last axis;"
                " return weights @ v, weights"
            ),
        ),
        properties=(
            attend_is_a_weighted_mean,
            attend_of_any_size,
            attend_survives_large_scores,
            attend_passes_gradients,
        ),
    ),
    "split_heads": Exercise(
        solution="course_lib.models.attention:split_heads",
        hints=(
            "A head is a slice of each token's vector. No number changes; only the axes do.",
            (
                "(batch tokens width) → (batch heads tokens dim), width = heads · dim, the parts of"
                " one head side by side."
            ),
            'rearrange(x, "batch tokens (heads dim) -> …", heads=heads)',
        ),
        properties=(heads_are_contiguous_parts, heads_of_any_number),
    ),
}
