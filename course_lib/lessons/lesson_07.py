"""The exercises of lesson 07: a fair score, a schedule, when to stop, how sure to be, and a split
that leaks.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .exercises import Exercise, Mistake, expect, expect_number

__all__ = ["EXERCISES"]


# concordance


def _answers(batch: int = 40, traits: int = 5) -> tuple[Tensor, Tensor]:
    target = torch.rand(batch, traits, dtype=torch.float64)
    return 0.2 + 0.5 * target + 0.1 * torch.randn(batch, traits, dtype=torch.float64), target


def concordance_of_each_trait(student: Callable, library: Callable) -> None:
    prediction, target = _answers()
    p, t = prediction - prediction.mean(0), target - target.mean(0)
    covariance, offset = (p * t).mean(0), (prediction.mean(0) - target.mean(0)).square()
    spread = p.square().mean(0) + t.square().mean(0)
    unbiased = prediction.var(0) + target.var(0)
    expect(
        student(prediction, target),
        library(prediction, target),
        {
            "you forget the 2: the variances of both sides are added, so twice the covariance stands above": (
                covariance / (spread + offset)
            ),
            "this is Pearson's correlation; it forgives a wrong mean and a wrong spread, and that is what CCC is about": (
                covariance / (p.square().mean(0) * t.square().mean(0)).sqrt()
            ),
            "you forget the difference of the means below; an answer that is always too high must pay for it": (
                2 * covariance / spread
            ),
            "you take the difference of the means without its square": (
                2 * covariance / (spread + offset.sqrt())
            ),
            "you mix two kinds of variance: `var` divides by n − 1 unless you say correction=0, your covariance by n": (
                2 * covariance / (unbiased + offset)
            ),
            "you average over the traits; keep one number for each": (
                library(prediction, target).mean()
            ),
        },
    )


def concordance_knows_its_ends(student: Callable, library: Callable) -> None:
    _, target = _answers(12, 2)
    expect(
        student(target, target), torch.ones(2, dtype=torch.float64), given="for a perfect answer"
    )
    mirrored = 2 * target.mean(0) - target
    expect(
        student(mirrored, target),
        -torch.ones(2, dtype=torch.float64),
        given="for a mirrored answer",
    )
    constant = torch.full_like(target, 0.5)
    expect(student(constant, target), torch.zeros(2, dtype=torch.float64), given="for a constant")


# cosine_factor


def factor_rises_then_falls(student: Callable, library: Callable) -> None:
    came, expected = (
        [float(function(step, 100, 0.1)) for step in range(101)] for function in (student, library)
    )
    if came[0] == 0:
        raise Mistake(
            "your first step has a factor of 0, so it learns nothing: warm-up gives step 0 a share"
            " of 1 / rising"
        )
    if max(came) > 1 + 1e-6:
        raise Mistake(
            f"your factor reaches {max(came):.3f}; the largest is 1, at the end of the warm-up"
        )
    for step in (32, 80):  # where the likely mistakes differ from the answer
        share = (step - 10) / 90
        expect_number(
            came[step],
            expected[step],
            {
                "your cosine begins at step 0; it begins when the warm-up ends, and its length is what is left": (
                    0.5 * (1 + math.cos(math.pi * step / 100))
                ),
                "you fall along a line; take half a cosine: ½ (1 + cos(π · share))": 1 - share,
                "your cosine goes down to −1; add 1 and halve it": math.cos(math.pi * share),
                "you go a whole cosine round, down and up again; half a cosine is cos from 0 to π": (
                    0.5 * (1 + math.cos(2 * math.pi * share))
                ),
            },
            given=f"at step {step} of 100 with a warm-up of 0.1",
        )
    for step in (0, 4, 9, 10, 55, 100):
        expect_number(
            came[step], expected[step], given=f"at step {step} of 100 with a warm-up of 0.1"
        )


def factor_of_any_length(student: Callable, library: Callable) -> None:
    for total, warmup in ((10, 0.2), (7, 0.0), (1000, 0.05), (3, 1.0)):
        for step in range(total):
            expect_number(
                student(step, total, warmup),
                library(step, total, warmup),
                given=f"at step {step} of {total} with a warm-up of {warmup}",
            )


# epochs_since_best


def waiting_is_counted_from_the_best(student: Callable, library: Callable) -> None:
    for losses in (
        [5.0, 1.0, 4.0, 2.0, 3.0],
        [3.0, 2.0, 1.0],
        [3.0, 1.0, 2.0, 1.5],
        [1.0, 2.0, 3.0, 4.0],
        [2.0],
    ):
        came, expected = student(list(losses)), library(losses)
        if came == losses.index(min(losses)) != expected:
            raise Mistake("you return which epoch was best; count how many came after it")
        if came == expected + 1:
            raise Mistake(f"for {losses} you count the best epoch itself; {expected} came after it")
        drops = sum(after >= before for before, after in pairwise(losses))
        if came == drops != expected:
            raise Mistake(
                "you count every epoch that got worse; count those since the *best*, also if they"
                " improve on their neighbour"
            )
        if came != expected:
            raise Mistake(f"for {losses} the best is followed by {expected}, got {came!r}")


def an_equal_is_no_better(student: Callable, library: Callable) -> None:
    if student([2.0, 1.0, 1.0, 1.0]) != 2:
        raise Mistake(
            "in [2, 1, 1, 1] the first 1 is the best: an equal loss is no improvement, or a stuck"
            " run would never stop"
        )


def nan_is_never_best(student: Callable, library: Callable) -> None:
    if student([2.0, 1.0, float("nan"), 3.0]) != 2:
        raise Mistake(
            "a loss of NaN is no improvement, but it confuses `min` and `argmin`; compare with `<`,"
            " which NaN never is"
        )


# resample_speakers


def _speakers() -> np.ndarray:
    return np.array(["ann", "ben", "ann", "cem", "dia", "ann", "ben", "cem", "eva", "eva"])


def whole_speakers_are_drawn(student: Callable, library: Callable) -> None:
    speakers = _speakers()
    names, counts = np.unique(speakers, return_counts=True)
    seen = set()
    for seed in range(40):
        indices = np.asarray(student(speakers, np.random.default_rng(seed)))
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise Mistake(
                f"return the indices of the items, whole numbers in one row; got {indices.dtype}"
                f" of shape {indices.shape}"
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= len(speakers)):
            raise Mistake(f"an index lies outside the {len(speakers)} items")
        times = np.array([(speakers[indices] == name).sum() for name in names])
        if (times % counts).any():
            raise Mistake(
                "you draw clips one by one; draw *speakers*, and take all clips of each, as often"
                " as the speaker was drawn"
            )
        for name, count, drawn in zip(names, counts, times, strict=True):
            if any(
                (indices == item).sum() != drawn // count
                for item in np.flatnonzero(speakers == name)
            ):
                raise Mistake(
                    f"all clips of a speaker come equally often; those of {name!r} do not"
                )
        if (drawn := (times // counts).sum()) != len(names):
            raise Mistake(
                f"draw as many speakers as there are, {len(names)}; you drew {drawn}"
                + (": perhaps one for each clip" if drawn == len(speakers) else "")
            )
        seen.add(tuple(times // counts))
    if seen == {(1,) * len(names)}:
        raise Mistake(
            "every speaker comes exactly once; draw *with* replacement, so that some come twice,"
            " some never"
        )
    if len(seen) < 10:
        raise Mistake(
            "your draws hardly differ from seed to seed; use the generator that is passed in"
        )


def speakers_are_drawn_evenly(student: Callable, library: Callable) -> None:
    speakers, rng = np.repeat([0, 1, 2], [1, 2, 7]), np.random.default_rng(0)
    times = np.zeros(3)
    for _ in range(600):
        indices = np.asarray(student(speakers, rng))
        times += [(indices == first).sum() for first in (0, 1, 3)]
    if np.abs(times / 600 - 1).max() > 0.2:
        raise Mistake(
            "speakers with many clips are drawn more often; each speaker has the same chance,"
            " whatever the number of their clips"
        )


# leaked_share


def leak_is_a_share_of_test_items(student: Callable, library: Callable) -> None:
    train, test = ["a", "b", "b", "c"], ["b", "d", "b", "c", "e"]
    expect_number(
        student(train, test),
        library(train, test),
        {
            "you give the share of test *speakers*; a speaker with many clips leaks more: count items": (
                2 / 4
            ),
            "you give the share of training items; ask of every *test* item whether its speaker was in training": (
                3 / 4
            ),
            "you count the items; divide by how many test items there are": 3.0,
            "you give the share that does not leak": 2 / 5,
        },
    )


def leak_of_any_split(student: Callable, library: Callable) -> None:
    for train, test, what in (
        ([1, 2], [3, 4], "for a clean split"),
        ([1], [1, 1], "where all leak"),
        (torch.tensor([5, 6]), torch.tensor([6, 7, 8, 6]), "for tensors of speaker ids"),
    ):
        expect_number(student(train, test), library(train, test), given=what)


def concordance_of_tensors_only(student: Callable, library: Callable) -> None:
    prediction, target = (values.float().requires_grad_() for values in _answers(9, 3))
    expect(
        student(prediction, target).detach(),
        library(prediction, target).detach(),
        given="in single precision",
    )


EXERCISES = {
    "leaked_share": Exercise(
        solution="course_lib.training.trait_scores:leaked_share",
        hints=(
            (
                "A test item leaks if the model has met its speaker in training. How many of the"
                " test items are like that?"
            ),
            "Two lists (or tensors) of speaker ids → one number between 0 and 1.",
            (
                "np.isin(test_speakers, train_speakers) is True or False for each test item; its"
                " mean is the share"
            ),
        ),
        properties=(leak_is_a_share_of_test_items, leak_of_any_split),
    ),
    "cosine_factor": Exercise(
        solution="course_lib.training.callbacks:cosine_factor",
        hints=(
            (
                "Two pieces: a line up to 1, then half a cosine from 1 to 0. How many steps does"
                " the first piece have?"
            ),
            "step, total_steps, warmup (a share) → one number from 0 to 1.",
            (
                "rising = at least 1, else round(warmup · total); before it (step + 1) / rising;"
                " after it ½ (1 + cos(π · (step − rising) / what is left))"
            ),
        ),
        properties=(factor_rises_then_falls, factor_of_any_length),
    ),
    "epochs_since_best": Exercise(
        solution="course_lib.training.callbacks:epochs_since_best",
        hints=(
            (
                "Walk through the losses and remember the smallest so far. What happens to your"
                " count when a smaller one comes, and what when none does?"
            ),
            "a list of losses, one an epoch → a whole number; 0 if the last is the best.",
            (
                "best, waited = infinity, 0; for each loss: if loss < best, set best and waited ="
                " 0, else waited + 1"
            ),
        ),
        properties=(waiting_is_counted_from_the_best, an_equal_is_no_better, nan_is_never_best),
    ),
    "concordance": Exercise(
        solution="course_lib.training.trait_scores:concordance",
        hints=(
            "Like a correlation, but an answer must also have the right mean and the right spread.",
            "(batch traits), (batch traits) → (traits,).",
            (
                "2 · covariance / (variance of one + variance of the other + (difference of the"
                " means)²), all over the batch, all divided by n; 0 for a constant"
            ),
        ),
        properties=(
            concordance_of_each_trait,
            concordance_knows_its_ends,
            concordance_of_tensors_only,
        ),
    ),
    "resample_speakers": Exercise(
        solution="course_lib.training.trait_scores:resample_speakers",
        hints=(
            (
                "Clips of one speaker are alike, so they are no independent witnesses. What must be"
                " drawn, and what comes along with it?"
            ),
            "one id a clip, a NumPy generator → indices of clips.",
            (
                "names = the different speakers; drawn = rng.choice(names, as many as names);"
                " concatenate, for each drawn name, the indices of that speaker's clips"
            ),
        ),
        properties=(whole_speakers_are_drawn, speakers_are_drawn_evenly),
    ),
}
