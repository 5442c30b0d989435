"""The exercises of lesson 13: an Euler step, the part matrix, where a part looks, stability,
separation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


def _attention(*shape: int) -> Tensor:
    """Rows that sum to 1 and differ from each other."""
    return torch.softmax(2 * torch.randn(*shape), -1)


# euler_step


def one_step_of_twenty(student: Callable, library: Callable) -> None:
    layers, clean = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    right = library(layers, clean, 0.4, 0.45)
    expect(
        student(layers, clean, 0.4, 0.45),
        right,
        {
            "you forget to divide by what is left of the time, 1 − time: this goes too slowly and never arrives": (
                layers + 0.05 * (clean - layers)
            ),
            "you divide by the time that has passed; what counts is the time that is left, 1 − time": (
                layers + 0.05 * (clean - layers) / 0.4
            ),
            "you go the wrong way, from clean to noise: the velocity is (clean − layers) / (1 − time)": (
                layers - 0.05 * (clean - layers) / 0.6
            ),
            "this jumps to the clean layers at once; a step goes only from time to next_time": (
                clean
            ),
            "this is the velocity; multiply it by next_time − time and add it to where you are": (
                (clean - layers) / 0.6
            ),
            "this is how far the step goes; add it to where you are, layers": (
                0.05 * (clean - layers) / 0.6
            ),
            "the step is as long as next_time − time, not as next_time": (
                layers + 0.45 * (clean - layers) / 0.6
            ),
            "divide by what is left when the step *begins*, 1 − time, not when it ends": (
                layers + 0.05 * (clean - layers) / 0.55
            ),
        },
        given="from time 0.4 to 0.45",
    )


def the_last_step_arrives(student: Callable, library: Callable) -> None:
    layers, clean = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    expect(
        student(layers, clean, 0.95, 1.0),
        clean,
        tolerance=1e-4,
        given="a step that ends at time 1 arrives;",
    )
    expect(student(layers, clean, 0.3, 0.3), layers, given="a step of no length goes nowhere;")


def any_number_of_steps_arrives(student: Callable, library: Callable) -> None:
    noise, clean = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    for steps in (1, 3, 7):
        layers = noise
        for step in range(steps):
            layers = student(layers, clean, step / steps, (step + 1) / steps)
        expect(
            layers,
            clean,
            tolerance=1e-4,
            given=f"after {steps} steps towards the same clean layers",
        )


# part_matrix


def a_matrix_of_three_parts(student: Callable, library: Callable) -> None:
    weights = _attention(2, 12, 6)
    blocks = weights.unflatten(-1, (3, 2)).unflatten(-3, (3, 4))  # batch parts queries parts keys
    right = library(weights, 3)
    expect(
        student(weights, 3),
        right,
        {
            "you average over the keys too; the shares of all keys of a part *add up*, so that rows still sum to 1": blocks.mean(
                (2, 4)
            ),
            "you add up the queries too; rows then sum to the number of tokens, so average over the queries": blocks.sum(
                (2, 4)
            ),
            "sums and means are exchanged: add up over keys, average over queries": (
                blocks.sum(2).mean(-1)
            ),
            "rows are who asks, columns who is asked; yours is transposed": right.mT,
            "you average over the batch; keep all axes but the last two": right.mean(0),
            "tokens of one part stand together, part after part; you take every third token": (
                weights.unflatten(-1, (2, 3)).sum(-2).unflatten(-2, (4, 3)).mean(-3)
            ),
        },
        given="for three parts of four queries and two keys",
    )


def a_matrix_of_anything(student: Callable, library: Callable) -> None:
    for shape, parts in (((1, 4, 8, 6), 2), ((5, 5), 5), ((2, 6, 6), 1), ((3, 2, 10, 20), 10)):
        weights = _attention(*shape)
        expect(
            student(weights, parts),
            library(weights, parts),
            given=f"for weights {shape} and {parts} parts",
        )


# part_attention


def parts_look_with_the_tokens_that_hold_them(student: Callable, library: Callable) -> None:
    # two parts of four tokens look at 4 × 4
    weights, layers = _attention(2, 3, 8, 16), torch.zeros(2, 2, 4, 4)
    layers[:, 0, :2, 2:], layers[:, 1, 1:3, :2] = 1, 0.5
    right = library(weights, layers)
    looks = weights.mean(1).unflatten(1, (2, 4))
    held = layers.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(2)
    summed = torch.einsum("bpt,bptk->bpk", held, looks).unflatten(2, (4, 4))
    expect(
        student(weights, layers),
        right,
        {
            "this is the plain mean over a part's tokens; most of them hold nothing of the part and hide the others": (
                looks.mean(2).unflatten(2, (4, 4))
            ),
            "divide by how much is held in all, so that the map of each part sums to 1": summed,
            "you add the heads; average them": 3 * right,
            "keys are still in a row of 16; lay them out as 4 × 4": right.flatten(2),
            "the tokens' own grid is counted row by row; yours is transposed": (
                torch.einsum(
                    "bpt,bptk->bpk",
                    held.unflatten(2, (2, 2)).mT.flatten(2) / held.sum(2, keepdim=True),
                    looks,
                ).unflatten(2, (4, 4))
            ),
        },
        given="for two parts of 2 × 2 tokens",
    )


def parts_that_are_not_there(student: Callable, library: Callable) -> None:
    weights, layers = _attention(1, 2, 12, 16), torch.rand(1, 3, 8, 8)
    layers[:, 1] = 0
    came = student(weights, layers)
    if isinstance(came, Tensor) and came.isnan().any():
        raise Mistake(
            "a part that is not there holds nothing, and nothing divided by nothing is NaN; its map"
            " should be empty, so clamp the divisor, for example .clamp(min=1e-6)"
        )
    expect(came, library(weights, layers), given="where the second part is absent")


def parts_of_other_sizes(student: Callable, library: Callable) -> None:
    for parts, grid, side, size in ((10, 4, 8, 64), (1, 1, 2, 4), (3, 2, 7, 6)):
        weights, layers = (
            _attention(2, 4, parts * grid * grid, side * side),
            torch.rand(2, parts, size, size),
        )
        expect(
            student(weights, layers),
            library(weights, layers),
            given=f"for {parts} parts of {grid} × {grid} tokens over {side} × {side}",
        )


# step_stability


def what_stays_from_step_to_step(student: Callable, library: Callable) -> None:
    maps = _attention(4, 2, 3, 6)
    right = library(maps)
    moved = (maps[1:] - maps[:-1]).abs().sum(-1)
    expect(
        student(maps),
        right,
        {
            "this is how much moved, counted twice: what one key loses another wins; stability is 1 minus half of it": (
                moved
            ),
            "this is how much moved; stability is what stayed, 1 minus it": moved / 2,
            "half of the sum is what moved: what one key loses another wins, so this counts it twice": (
                1 - moved
            ),
            "each step is compared with the first one; compare it with the step before": (
                torch.minimum(maps[:1], maps[1:]).sum(-1)
            ),
            "you average over steps; give one number for each pair of steps, to see *when* it settles": right.mean(
                0
            ),
            "this is the cosine of the angle between maps; what is asked for is the attention both have in common": torch.cosine_similarity(
                maps[:-1], maps[1:], dim=-1
            ),
        },
        given="for four steps",
    )


def known_stability(student: Callable, library: Callable) -> None:
    still, walking = _attention(1, 5).expand(3, 5), torch.eye(4)
    expect(student(still), torch.ones(2), given="where nothing moves")
    expect(
        student(walking),
        torch.zeros(3),
        given="where all attention moves to another key at each step",
    )
    maps = _attention(2, 8)
    expect(student(maps), library(maps), given="for two steps of one map")


# part_separation


def how_far_apart_parts_look(student: Callable, library: Callable) -> None:
    maps = _attention(3, 4, 9)
    common = torch.minimum(maps[:, :, None], maps[:, None]).sum(-1)  # batch parts parts
    right, off = library(maps), 1 - torch.eye(4)
    expect(
        student(maps),
        right,
        {
            "this is what parts have in common; separation is 1 minus it": 1 - right,
            "you count each part beside itself, which is 0 apart and says nothing; leave the diagonal out": (
                1 - common.mean((-2, -1))
            ),
            "you add the pairs up; take their mean, so that it does not grow with the number of parts": (
                ((1 - common) * off).sum((-2, -1)) / 2
            ),
            "this is twice too much: each pair counts once, and what moves between two maps is half the sum of differences": (
                2 * right
            ),
            "this is one number for the whole batch; keep the leading axes": right.mean(),
        },
        given="for four parts",
    )


def known_separation(student: Callable, library: Callable) -> None:
    expect(student(torch.eye(5)), torch.tensor(1.0), given="where no two parts share a key")
    expect(student(_attention(1, 7).expand(3, 7)), torch.tensor(0.0), given="where all look alike")


def separation_of_those_present(student: Callable, library: Callable) -> None:
    maps = _attention(2, 4, 9)
    maps[0, 1] = 0
    came = student(maps)
    naive = 1 - torch.minimum(maps[:, :, None], maps[:, None]).sum(-1)
    pairs = torch.triu_indices(4, 4, 1)
    expect(
        came,
        library(maps),
        {
            "a part that is absent has an empty map, which shares nothing with anybody and looks perfectly apart; leave its pairs out": (
                naive[:, pairs[0], pairs[1]].mean(-1)
            )
        },
        given="where a part is absent",
    )


EXERCISES = {
    "euler_step": Exercise(
        "course_lib.models.parts:euler_step",
        (
            (
                "You stand at `layers` and would like to be at `clean` when time is 1. How fast do"
                " you have to go, and how far do you get until next_time?"
            ),
            (
                "all layers `batch parts height width`, both times are numbers; velocity = way left"
                " / time left"
            ),
            (
                "velocity = (clean - layers) / (1 - time); return layers + (next_time - time) *"
                " velocity"
            ),
        ),
        (one_step_of_twenty, the_last_step_arrives, any_number_of_steps_arrives),
    ),
    "part_matrix": Exercise(
        "course_lib.looking.parts:part_matrix",
        (
            (
                "Cut both axes into runs of one part each. What has to happen to the keys of a run,"
                " so that rows still sum to 1? And to its queries?"
            ),
            (
                "`… queries keys` → `… queries parts` (sum over the keys of each part) → `… parts"
                " parts` (mean over the queries of each part)"
            ),
            (
                "weights.unflatten(-1, (parts, -1)).sum(-1) has one column for each part; then"
                " unflatten axis -2 and take the mean over the tokens, axis -2"
            ),
        ),
        (a_matrix_of_three_parts, a_matrix_of_anything),
    ),
    "part_attention": Exercise(
        "course_lib.models.parts:part_attention",
        (
            (
                "Each token of a part covers one patch of the layer. Ask how much of the part lies"
                " in it, and let the tokens speak in that proportion."
            ),
            (
                "layers → `batch parts tokens` (the mean of each patch) → shares that sum to 1;"
                " weights → mean over heads, `batch parts tokens keys`; then `batch parts keys`,"
                " laid out as a square"
            ),
            (
                "held = F.adaptive_avg_pool2d(layers, grid).flatten(2); share = held / held.sum(2,"
                " keepdim=True).clamp(min=1e-6); (share[..., None] * looks).sum(2), reshaped to"
                " side × side"
            ),
        ),
        (parts_look_with_the_tokens_that_hold_them, parts_that_are_not_there, parts_of_other_sizes),
    ),
    "step_stability": Exercise(
        "course_lib.looking.parts:step_stability",
        (
            "Lay two maps over each other. At each key, which part of the attention is in both?",
            (
                "`steps … keys` → maps[:-1] and maps[1:], `steps-1 … keys` → the smaller of the two"
                " at each key → sum over keys"
            ),
            "torch.minimum(maps[:-1], maps[1:]).sum(-1)",
        ),
        (what_stays_from_step_to_step, known_stability),
    ),
    "part_separation": Exercise(
        "course_lib.looking.parts:part_separation",
        (
            (
                "Take two parts: how much attention do they have in common? Then all pairs, each"
                " once. And who is not there?"
            ),
            (
                "`… parts keys` → one number for each pair, `… pairs` → mean over pairs, `…`; pairs"
                " with an empty map do not count"
            ),
            (
                "for one, other in combinations(maps.unbind(-2), 2): 1 - torch.minimum(one,"
                " other).sum(-1), or NaN if ~one.any(-1) | ~other.any(-1); stack them and take"
                " nanmean(0)"
            ),
        ),
        (how_far_apart_parts_look, known_separation, separation_of_those_present),
    ),
}
