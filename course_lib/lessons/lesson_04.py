"""The exercises of lesson 04: attention by hand, its heads, the one-key trap, and maps held against
the truth.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from ..models.attention import CrossAttention
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


# silent_parameters


def _after_backward() -> tuple[nn.Module, list[str]]:
    model = CrossAttention(6, 5, 4, 2)
    model(torch.randn(3, 6), torch.randn(3, 5)).square().sum().backward()
    return model, [
        f"attention.to_{role}.{kind}" for role in ("query", "key") for kind in ("weight", "bias")
    ]


def silence_is_found(student: Callable, library: Callable) -> None:
    model, silent = _after_backward()
    came = student(model)
    if not isinstance(came, (list, tuple, set)) or not all(isinstance(name, str) for name in came):
        raise Mistake("return a list of names, as `model.named_parameters()` gives them")
    everything = {name for name, _ in model.named_parameters()}
    if set(came) == everything - set(silent):
        raise Mistake("these are the parameters that *do* learn; turn the condition round")
    for name in came:
        if name not in silent:
            raise Mistake(f"{name!r} has a gradient that is not 0, yet you call it silent")
    if missing := [name for name in silent if name not in came]:
        raise Mistake(
            f"{missing[0]!r} has a gradient of exactly 0 everywhere, and you do not list it"
        )


def one_zero_is_not_silence(student: Callable, library: Callable) -> None:
    model = nn.Linear(3, 2)
    model.weight.grad, model.bias.grad = (
        torch.tensor([[0.0, -1, 1], [0, 0, 0]]),
        torch.tensor([1.0, -1]),
    )
    if list(student(model)):
        raise Mistake(
            "a parameter with *some* zeros, or whose gradient sums to 0, still learns; it is silent"
            " only if every number of its gradient is 0"
        )


def no_gradient_is_silence(student: Callable, library: Callable) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0](torch.randn(1, 2)).sum().backward()
    if list(student(model)) != ["1.weight", "1.bias"]:
        raise Mistake(
            "a parameter that the loss never reached has `grad is None`; that is silence too"
        )


# effective_support


def support_counts_keys(student: Callable, library: Callable) -> None:
    weights = torch.randn(2, 3, 4, 7).mul(2).softmax(-1)
    entropy = -(weights * weights.log()).sum(-1)
    expect(
        student(weights),
        library(weights),
        {
            "this is the entropy, in nats; its exponential is a number of keys": entropy,
            "your entropy has the wrong sign, so you return 1 / keys": (-entropy).exp(),
            "you raise 2 to an entropy in nats; use exp, or logarithms to base 2": 2**entropy,
            "you average over queries; keep one number for each query": library(weights).mean(-1),
            "your sum runs over the queries; sum over the keys (dim=-1)": (
                (-(weights * weights.log()).sum(-2)).exp()
            ),
            "this is 1 / Σ weight², another count of keys; use the exponential of the entropy": (
                1 / weights.square().sum(-1)
            ),
        },
    )


def support_of_known_maps(student: Callable, library: Callable) -> None:
    one, all_keys = torch.eye(5)[2], torch.full((5,), 0.2)
    came = student(torch.stack([one, all_keys, torch.tensor([0.5, 0.5, 0, 0, 0])]))
    if isinstance(came, torch.Tensor) and came.isnan().any():
        raise Mistake(
            "a weight of 0 gives 0 · log 0 = NaN; `torch.special.entr` knows that this is 0"
        )
    expect(
        came,
        torch.tensor([1.0, 5, 2]),
        tolerance=1e-4,
        given="for one key, all five, and two of five",
    )


# agreement


def agreement_is_shared_mass(student: Callable, library: Callable) -> None:
    weights, truth = torch.randn(2, 4, 6).softmax(-1), torch.randn(2, 4, 6).mul(3).softmax(-1)
    expect(
        student(weights, truth),
        library(weights, truth),
        {
            "you average over queries; keep one number for each query": (
                library(weights, truth).mean(-1)
            ),
            "your products reward a map for being sharp; a map compared with itself must give 1": (
                (weights * truth).sum(-1)
            ),
            "this is the distance; agreement is what is left: 1 − ½ Σ |difference|": (
                (weights - truth).abs().sum(-1) / 2
            ),
            "you forget the half: what is missing here is too much there, so Σ |difference| counts it twice": (
                1 - (weights - truth).abs().sum(-1)
            ),
            "this is the cosine of the angle; count attention that lies in the same place": (
                torch.cosine_similarity(weights, truth, dim=-1)
            ),
            "you take the larger of the two; attention they share is the *smaller*": (
                torch.maximum(weights, truth).sum(-1)
            ),
        },
    )


def agreement_of_known_maps(student: Callable, library: Callable) -> None:
    truth = torch.eye(4)
    for weights, answer, what in (
        (torch.eye(4), 1.0, "equal maps"),
        (torch.eye(4).roll(1, 0), 0.0, "maps apart"),
        (torch.full((4, 4), 0.25), 0.25, "a uniform map over 4 keys"),
    ):
        expect(student(weights, truth), torch.full((4,), answer), given=f"for {what}")


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
    "silent_parameters": Exercise(
        solution="course_lib.looking.features:silent_parameters",
        hints=(
            (
                "After `loss.backward()` each parameter carries `.grad`. What does it look like if"
                " the loss does not care?"
            ),
            (
                "`model.named_parameters()` gives pairs of name and parameter; the answer is a list"
                " of names."
            ),
            (
                "for each name and parameter: keep the name if grad is None, or if no number of"
                " grad differs from 0"
            ),
        ),
        properties=(silence_is_found, one_zero_is_not_silence, no_gradient_is_silence),
    ),
    "effective_support": Exercise(
        solution="course_lib.looking.attention:effective_support",
        hints=(
            (
                "Entropy says how spread a row is. A row spread evenly over n keys has entropy log"
                " n: undo the logarithm."
            ),
            "(… queries keys) → (… queries).",
            "entropy = sum over keys of −w log w, where 0 log 0 is 0; return its exponential",
        ),
        properties=(support_counts_keys, support_of_known_maps),
    ),
    "agreement": Exercise(
        solution="course_lib.looking.attention:agreement",
        hints=(
            "Lay the two rows over each other. Which part of the attention lies in the same place?",
            (
                "(… queries keys), (… queries keys) → (… queries); 1 for equal rows, 0 for rows"
                " that never meet."
            ),
            "sum over keys of the smaller of the two weights",
        ),
        properties=(agreement_is_shared_mass, agreement_of_known_maps),
    ),
}
