"""The exercises of lesson 13: the objective of a flow, an Euler step, the sampler, where a part
looks, stability, separation.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.parts import euler_step
from ..shapes import Float
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES", "flow_loss", "flow_sample"]


def flow_loss(
    model: Callable[[Tensor, Tensor], Tensor],
    clean: Float[Tensor, "batch dim"],
    noise: Float[Tensor, "batch dim"],
    time: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """How far from `clean` the model says that the line ends, as a mean squared error. Derived in
    lesson 13.
    """
    noisy = (1 - time)[:, None] * noise + time[:, None] * clean
    return F.mse_loss(model(noisy, time), clean)


def flow_sample(
    predict: Callable[[Tensor, float], Tensor], noise: Tensor, times: Sequence[float]
) -> Tensor:
    """From `noise` through all `times`, one Euler step between two of them. Derived in lesson 13."""
    x = noise
    for time, next_time in pairwise(times):
        x = euler_step(x, predict(x, time), time, next_time)
    return x


def _attention(*shape: int) -> Tensor:
    """Rows that sum to 1 and differ from each other."""
    return torch.softmax(2 * torch.randn(*shape), -1)


# flow_loss


def _bent(noisy: Tensor, time: Tensor) -> Tensor:
    """A model whose answer depends on the place and on the time, and not along a line."""
    return torch.sin(2 * noisy) + time[:, None] * noisy


def the_error_of_the_predicted_end(student: Callable, library: Callable) -> None:
    clean, noise, time = torch.randn(6, 2), torch.randn(6, 2), torch.rand(6)
    t = time[:, None]
    right = (1 - t) * noise + t * clean
    answer = _bent(right, time)
    expect(
        student(_bent, clean, noise, time),
        library(_bent, clean, noise, time),
        {
            "time runs the wrong way: at time 0 the point is pure noise, at time 1 it is clean": (
                F.mse_loss(_bent(t * noise + (1 - t) * clean, time), clean)
            ),
            "the model says where the line ends; you compare its answer with the noise": (
                F.mse_loss(answer, noise)
            ),
            "you compare the answer with the velocity clean − noise; this model predicts the clean point itself": (
                F.mse_loss(answer, clean - noise)
            ),
            "you compare the answer with the point between; the model is to say where the line ends": (
                F.mse_loss(answer, right)
            ),
            "the model gets the clean point; it is to see the point between noise and clean": (
                F.mse_loss(_bent(clean, time), clean)
            ),
            "the model gets pure noise; it is to see the point between noise and clean": (
                F.mse_loss(_bent(noise, time), clean)
            ),
            "the noise has to become less as time goes on: (1 − time) · noise": (
                F.mse_loss(_bent(noise + t * clean, time), clean)
            ),
            "you add the squares; take their mean, so that the loss does not grow with the batch": (
                F.mse_loss(answer, clean, reduction="sum")
            ),
            "one number for each point: take the mean over the batch": (
                (answer - clean).square().mean(1)
            ),
        },
        given="for six points",
    )


def the_model_sees_point_and_time(student: Callable, library: Callable) -> None:
    seen = []

    def model(noisy: Tensor, time: Tensor) -> Tensor:
        seen.append((noisy, time))
        return noisy

    clean, noise = torch.randn(3, 2), torch.randn(3, 2)
    time = torch.tensor([0.0, 0.5, 1.0])
    student(model, clean, noise, time)
    if len(seen) != 1:
        raise Mistake(f"call the model once; you called it {len(seen)} times")
    middle = (noise[1] + clean[1]) / 2
    expect(
        seen[0][0], torch.stack([noise[0], middle, clean[2]]), given="at times 0, 0.5 and 1 it sees"
    )
    expect(seen[0][1], time, given="the model is told the times;")


def the_loss_teaches(student: Callable, library: Callable) -> None:
    shift = torch.zeros(2, requires_grad=True)
    loss = student(
        lambda noisy, time: noisy + shift, torch.ones(4, 2), torch.zeros(4, 2), torch.zeros(4)
    )
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Mistake("no gradient reaches the model; return the loss as a tensor, not as a number")
    loss.backward()
    expect(shift.grad, -torch.ones(2), given="the gradient for a model that is 1 too low")


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


# flow_sample


def a_walk_of_four_steps(student: Callable, library: Callable) -> None:
    noise, times = torch.randn(5, 2), (0.0, 0.1, 0.3, 0.6, 1.0)

    def predict(x: Tensor, time: float) -> Tensor:
        return torch.sin(2 * x) + time

    def walk(steps: list[tuple[float, float]], ask: Callable) -> Tensor:
        x = noise
        for time, next_time in steps:
            x = euler_step(x, ask(x, time, next_time), time, next_time)
        return x

    steps = list(pairwise(times))
    expect(
        student(predict, noise.clone(), times),
        library(predict, noise, times),
        {
            "ask again at every step, from where you are; you keep the answer of the first": (
                walk(steps, lambda x, time, next_time: predict(noise, 0.0))
            ),
            "the model is asked about the noise at every step; ask it about where you are": (
                walk(steps, lambda x, time, next_time: predict(noise, time))
            ),
            "the model is told the time at which the step ends; tell it the one at which it begins": (
                walk(steps, lambda x, time, next_time: predict(x, next_time))
            ),
            "the last step is missing": walk(
                steps[:-1], lambda x, time, next_time: predict(x, time)
            ),
            "all steps are equally long; go from each of `times` to the next": walk(
                [(k / 4, (k + 1) / 4) for k in range(4)],
                lambda x, time, next_time: predict(x, time),
            ),
        },
        given="through four steps",
    )


def the_model_is_asked_once_a_step(student: Callable, library: Callable) -> None:
    for steps in (1, 7):
        asked = []

        def predict(x: Tensor, time: float, asked: list = asked) -> Tensor:
            asked.append(time)
            return torch.ones_like(x)

        noise = torch.randn(1, 3, 4, 4)
        times = [step / steps for step in range(steps + 1)]
        came = student(predict, noise, times)
        expect(
            came,
            torch.ones(1, 3, 4, 4),
            tolerance=1e-4,
            given=f"after {steps} steps to a known end",
        )
        if len(asked) != steps:
            raise Mistake(f"{steps} steps need {steps} predictions; you made {len(asked)}")


# part_attention


def parts_look_with_the_tokens_that_hold_them(student: Callable, library: Callable) -> None:
    # two parts of four tokens look at two photographs of 3 × 3
    weights, layers = _attention(2, 3, 8, 18), torch.zeros(2, 2, 4, 4)
    layers[:, 0, :2, 2:], layers[:, 1, 1:3, :2] = 1, 0.5
    right = library(weights, layers)
    looks = weights.mean(1).unflatten(1, (2, 4))
    held = layers.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(2)
    summed = torch.einsum("bpt,bptk->bpk", held, looks).unflatten(2, (3, 6))
    expect(
        student(weights, layers),
        right,
        {
            "this is the plain mean over a part's tokens; those that hold nothing of the part hide the others": (
                looks.mean(2).unflatten(2, (3, 6))
            ),
            "divide by how much is held in all, so that the map of each part sums to 1": summed,
            "you add the heads; average them": 3 * right,
            "keys are still in a row of 18; lay them out as 3 × 6": right.flatten(2),
            "keys go row by row over both photographs: 3 rows of 6, not 6 rows of 3": (
                right.flatten(2).unflatten(2, (6, 3))
            ),
            "the tokens' own grid is counted row by row; yours is transposed": (
                torch.einsum(
                    "bpt,bptk->bpk",
                    held.unflatten(2, (2, 2)).mT.flatten(2) / held.sum(2, keepdim=True),
                    looks,
                ).unflatten(2, (3, 6))
            ),
        },
        given="for two parts of 2 × 2 tokens",
    )


def parts_that_are_not_there(student: Callable, library: Callable) -> None:
    weights, layers = _attention(1, 2, 12, 8), torch.rand(1, 3, 8, 8)
    layers[:, 1] = 0
    came = student(weights, layers)
    if isinstance(came, Tensor) and came.isnan().any():
        raise Mistake(
            "a part that is not there holds nothing, and nothing divided by nothing is NaN; its map"
            " should be empty, so clamp the divisor, for example .clamp(min=1e-6)"
        )
    expect(came, library(weights, layers), given="where the second part is absent")


def parts_of_other_sizes(student: Callable, library: Callable) -> None:
    for parts, grid, side, size in ((10, 2, 8, 32), (1, 1, 2, 4), (3, 4, 5, 8)):
        weights, layers = (
            _attention(2, 4, parts * grid * grid, 2 * side * side),
            torch.rand(2, parts, size, size),
        )
        expect(
            student(weights, layers),
            library(weights, layers),
            given=f"for {parts} parts of {grid} × {grid} tokens over {side} × {2 * side}",
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
    "flow_loss": Exercise(
        "course_lib.lessons.lesson_13:flow_loss",
        (
            "Where on the line from `noise` to `clean` are you at `time`? And what is the model to say there?",
            "`clean` and `noise` batch dim, `time` batch → time[:, None] is batch 1; the loss is one number",
            (
                "noisy = (1 - time)[:, None] * noise + time[:, None] * clean; the mean of (model(noisy,"
                " time) - clean) squared"
            ),
        ),
        (the_error_of_the_predicted_end, the_model_sees_point_and_time, the_loss_teaches),
    ),
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
    "flow_sample": Exercise(
        "course_lib.lessons.lesson_13:flow_sample",
        (
            "Stand at the noise. For each pair of neighbouring times: ask, then take one step.",
            (
                "`x` has the shape of `noise` all the way; predict(x, time) gives the end of the"
                " line, in the same shape"
            ),
            (
                "for time, next_time in zip(times[:-1], times[1:]): x = euler_step(x, predict(x,"
                " time), time, next_time); return x"
            ),
        ),
        (a_walk_of_four_steps, the_model_is_asked_once_a_step),
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
                " laid out as rows of both photographs"
            ),
            (
                "held = F.adaptive_avg_pool2d(layers, grid).flatten(2); share = held / held.sum(2,"
                " keepdim=True).clamp(min=1e-6); (share[..., None] * looks).sum(2), reshaped to"
                " rows × 2·rows, where rows = sqrt(keys / 2)"
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
