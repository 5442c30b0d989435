"""The exercises of lesson 12: what decisions cost, calibration, what a loss asks for, gaps between
groups and how sure they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..shapes import Bool, Float
from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES", "asked_for", "mean_cost", "resampled_differences"]


def mean_cost(
    positive: Bool[Tensor, "images attributes"],
    truth: Bool[Tensor, "images attributes"],
    miss: float,
    alarm: float,
) -> Float[Tensor, " attributes"]:
    """The mean cost of an image where a miss and a false alarm have these prices. Derived in lesson
    12.
    """
    misses = (truth & ~positive).float().mean(0)
    alarms = (positive & ~truth).float().mean(0)
    return miss * misses + alarm * alarms


def asked_for(
    loss: Callable[[Tensor, Tensor], Tensor], share: float, answers: Float[Tensor, " answers"]
) -> Float[Tensor, ""]:
    """The one of `answers` with the smallest mean loss where a `share` of the targets is 1. Derived
    in lesson 12.
    """
    yes, no = torch.ones_like(answers), torch.zeros_like(answers)
    cost = share * loss(answers, yes) + (1 - share) * loss(answers, no)
    return answers[cost.argmin()]


def resampled_differences(
    first: Float[Tensor, " people"],
    second: Float[Tensor, " others"],
    resamples: int,
    generator: torch.Generator,
) -> Float[Tensor, " resamples"]:
    """The mean of a bootstrap sample of `first` minus that of `second`, many times. Derived in
    lesson 12.
    """

    def means(values: Tensor) -> Tensor:
        drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
        return values[drawn].mean(1)

    return means(first) - means(second)


# mean_cost


def errors_have_prices(student: Callable, library: Callable) -> None:
    truth = torch.rand(60, 3) < torch.tensor([0.2, 0.5, 0.7])
    positive = torch.where(torch.rand(60, 3) < 0.7, truth, ~truth)
    misses, alarms = truth & ~positive, positive & ~truth

    def priced(miss: float, alarm: float, mean: Callable = lambda errors: errors.float().mean(0)):
        return miss * mean(misses) + alarm * mean(alarms)

    expect(
        student(positive, truth, 5, 2),
        library(positive, truth, 5, 2),
        {
            "you pay the price of a miss for each false alarm, and the other way round": priced(
                2, 5
            ),
            "you count each error once; multiply misses and false alarms by their prices": priced(
                1, 1
            ),
            "you add the costs up over the images; the mean divides by their number": priced(
                5, 2, lambda errors: errors.sum(0).float()
            ),
            "you average over the attributes too; return a number for each": priced(5, 2).mean(),
            "you divide misses by the positives: that is the share of them that is missed; divide by all images": (
                5 * misses.sum(0) / truth.sum(0) + 2 * alarms.sum(0) / (~truth).sum(0)
            ),
            "you charge for what is right too; a cost comes from an error only": (
                5 * truth.float().mean(0) + 2 * positive.float().mean(0)
            ),
        },
        given="with a miss of 5 and a false alarm of 2",
    )


def no_error_costs_nothing(student: Callable, library: Callable) -> None:
    truth = torch.rand(30, 2) < 0.5
    expect(student(truth, truth, 3, 0.5), torch.zeros(2), given="where every decision is right")
    expect(
        student(~truth[:, :1], truth[:, :1], 0.0, 0.5),
        0.5 * (~truth[:, :1]).float().mean(0),
        given="where every decision is wrong and a miss costs nothing",
    )


# calibration_error


def _predictions(images: int, attributes: int) -> tuple[Tensor, Tensor]:
    probabilities = torch.rand(images, attributes)
    return probabilities, (torch.rand(images, attributes) < probabilities.square()).float()


def gaps_are_weighted_by_images(student: Callable, library: Callable) -> None:
    probabilities, targets = _predictions(200, 3)
    bins = 10
    which = (probabilities * bins).long().clamp(max=bins - 1)
    gaps, counts, signed = (torch.zeros(bins, 3) for _ in range(3))
    for k in range(bins):
        inside = (which == k).float()
        counts[k] = inside.sum(0)
        signed[k] = ((probabilities - targets) * inside).sum(0)
        gaps[k] = signed[k].abs() / counts[k].clamp(min=1)
    expect(
        student(probabilities, targets, bins),
        library(probabilities, targets, bins),
        {
            "you average over the bins as if each held as many images; weigh each by its share of the images": (
                gaps.sum(0) / (counts > 0).sum(0)
            ),
            "you take the mean over all bins, empty ones too; weigh each bin by its share of the images": gaps.mean(
                0
            ),
            "too high in one bin and too low in another would cancel: take the absolute value in each bin first": (
                signed.sum(0).abs() / len(targets)
            ),
            "this is the error of every single image; compare the *mean* probability of a bin with the share of positives in it": (
                (probabilities - targets).abs().mean(0)
            ),
            "you square the gaps; take their absolute value": (
                (gaps.square() * counts).sum(0) / len(targets)
            ),
        },
        tolerance=1e-4,
        given="with 10 bins",
    )


def calibrated_is_zero(student: Callable, library: Callable) -> None:
    probabilities = torch.tensor([[0.25], [0.25], [0.25], [0.25], [1.0], [1.0]])
    targets = torch.tensor([[1.0], [0], [0], [0], [1], [1]])
    came = student(probabilities, targets, 5)
    if isinstance(came, Tensor) and came.isnan().any():
        raise Mistake("a bin without images has no mean, and 0 / 0 is NaN; such a bin adds nothing")
    expect(
        came,
        torch.zeros(1),
        tolerance=1e-4,
        given="where a quarter of what is given 25 % is positive, and all of what is given 100 %",
    )


def one_is_in_the_last_bin(student: Callable, library: Callable) -> None:
    probabilities = torch.tensor([[0.25], [0.25], [0.25], [0.25], [1.0], [1.0]])
    targets = torch.tensor([[1.0], [0], [0], [0], [1], [0]])
    expect(
        student(probabilities, targets, 5),
        torch.full((1,), 0.5 * 2 / 6),
        {"your bins leave out a probability of exactly 1; it belongs to the last": torch.zeros(1)},
        tolerance=1e-4,
        given="where two of six images are given 100 % and one of the two is positive",
    )


# asked_for


def _cross_entropy(p: Tensor, y: Tensor) -> Tensor:
    return -(y * p.log() + (1 - y) * (1 - p).log())


def the_cheapest_answer_is_returned(student: Callable, library: Callable) -> None:
    answers, share = torch.linspace(0.01, 0.99, 99), 0.8
    yes, no = _cross_entropy(answers, torch.ones(99)), _cross_entropy(answers, torch.zeros(99))
    cost = share * yes + (1 - share) * no
    expect(
        torch.as_tensor(student(_cross_entropy, share, answers)),
        library(_cross_entropy, share, answers),
        {
            "this is the place in the list; return the answer that stands there": cost.argmin(),
            "this is the smallest loss; return the answer that has it": cost.min(),
            "this is the dearest answer; take the smallest mean loss": answers[cost.argmax()],
            "you exchange the shares: the loss of a positive counts `share`, that of a negative 1 − `share`": (
                answers[((1 - share) * yes + share * no).argmin()]
            ),
            "you count positives and negatives as equally many; weigh their losses by `share` and 1 − `share`": (
                answers[(yes + no).argmin()]
            ),
            "you count the positives only; the negatives have a loss too": answers[yes.argmin()],
        },
        tolerance=1e-4,
        given="for cross-entropy and a share of 0.8",
    )


def any_loss_is_asked(student: Callable, library: Callable) -> None:
    answers = torch.linspace(0.01, 0.99, 99)

    def squared(p: Tensor, y: Tensor) -> Tensor:
        return (p - y) ** 2 * (1 + 3 * y)

    expect(
        torch.as_tensor(student(squared, 0.4, answers)),
        library(squared, 0.4, answers),
        {"call the `loss` that you are given, not cross-entropy": torch.tensor(0.4)},
        tolerance=1e-4,
        given="for a squared error in which positives count four times",
    )


# recall_gaps


def _decisions(images: int = 400) -> tuple[Tensor, Tensor, list[str]]:
    """What was predicted, what is true, and labels of three groups of unequal size; nobody in c
    wears the last.
    """
    groups = ["abcaab"[k % 6] for k in range(images)]
    inside = torch.tensor(["abc".index(group) for group in groups])
    truth = torch.rand(images, 4) < torch.tensor([0.5, 0.4, 0.6, 0.5])
    truth[inside == 2, 3] = False
    found = torch.tensor([[0.9, 0.5, 0.8, 0.7], [0.6, 0.7, 0.8, 0.4], [0.3, 0.9, 0.5, 0.5]])[inside]
    return (
        torch.where(
            truth,
            torch.rand(images, 4) < found,
            torch.rand(images, 4) < 0.15 * (1 + inside[:, None]),
        ),
        truth,
        groups,
    )


def gaps_are_between_best_and_worst_recall(student: Callable, library: Callable) -> None:
    positive, truth, groups = _decisions()
    positive, truth = positive[:, :3], truth[:, :3]
    expected = library(positive, truth, groups)

    def spread(score: Callable[[Tensor, Tensor], Tensor], best: Callable = max) -> Tensor:
        members = [torch.tensor([label == group for label in groups]) for group in "abc"]
        scores = torch.stack([score(positive[mine], truth[mine]) for mine in members])
        return scores.amax(0) - (scores.amin(0) if best is max else scores.mean(0))

    def recall(p: Tensor, t: Tensor) -> Tensor:
        return (p & t).sum(0) / t.sum(0)

    expect(
        student(positive, truth, groups),
        expected,
        {
            "this is the gap in accuracy, where the many easy *no*s count; recall counts only images that have the attribute": spread(
                lambda p, t: (p == t).float().mean(0)
            ),
            "you divide the hits by what was *predicted*: that is precision; recall divides by what is there": spread(
                lambda p, t: (p & t).sum(0) / p.sum(0)
            ),
            "this is the gap in how often *yes* is said; recall asks how many of those who have it are found": spread(
                lambda p, t: p.float().mean(0)
            ),
            "you count every *yes*, also where the attribute is not there; count the hits": spread(
                lambda p, t: p.sum(0) / t.sum(0)
            ),
            "you divide by all images of the group; divide by those that have the attribute": (
                spread(lambda p, t: (p & t).float().mean(0))
            ),
            "you compare the best group with the mean; the worst is what a mean hides": spread(
                recall, min
            ),
            "you give one gap for all attributes; each has its own, and they cancel in a mean": (
                expected.mean()
            ),
            "best minus worst, so that the gap is positive": -expected,
        },
        given="for three groups",
    )


def groups_too_small_do_not_count(student: Callable, library: Callable) -> None:
    positive, truth, groups = _decisions()
    few = truth.clone()
    few[[k for k, group in enumerate(groups) if group == "c"][24:], 0] = False
    came, expected = student(positive, few, groups), library(positive, few, groups)
    if isinstance(came, Tensor) and came.shape == expected.shape:
        if came.isnan().any():
            raise Mistake(
                "nobody in one group has the last attribute, and 0 / 0 makes your gap NaN; leave"
                " that group out and compare the others"
            )
        if not torch.isclose(came[0], expected[0], atol=1e-5):
            raise Mistake(
                "a group with fewer than 25 positives does not count: its recall is a guess;"
                f" expected {expected[0]:.4f}, got {came[0]:.4f}"
            )
    expect(came, expected, given="where a group has fewer than 25 positives")


def gaps_need_two_groups(student: Callable, library: Callable) -> None:
    positive, truth, groups = _decisions(300)
    truth[[k for k, group in enumerate(groups) if group != "a"], 1] = False
    came, expected = student(positive, truth, groups), library(positive, truth, groups)
    if isinstance(came, Tensor) and came.shape == expected.shape and not came[1].isnan():
        raise Mistake(
            "where only one group has 25 positives there is nothing to compare, and the gap is"
            f" NaN; got {came[1]:g}, which reads as fair"
        )
    expect(came.nan_to_num(-1), expected.nan_to_num(-1), given="where one group is left")


# resampled_differences


def people_are_drawn_again(student: Callable, library: Callable) -> None:
    first, second = (torch.arange(40) < 30).float(), (torch.arange(90) % 2).float()
    came = student(first, second, 4_000, torch.Generator().manual_seed(1))
    if not isinstance(came, Tensor) or came.shape != (4_000,):
        shape = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
        raise Mistake(f"expected a tensor of 4000 differences for 4000 resamples, got {shape}")
    again = student(first, second, 4_000, torch.Generator().manual_seed(1))
    if not torch.equal(came, again):
        raise Mistake("the same generator must give the same differences: pass it to torch.randint")
    came = came.double()
    mean, spread = came.mean().item(), came.std().item()
    if spread < 1e-6:
        raise Mistake("all differences are equal: draw with replacement, so that people repeat")
    if abs(mean + 0.25) < 0.02:
        raise Mistake("you subtract the first group from the second; it is first minus second")
    if abs(mean) < 0.02:
        raise Mistake(
            "your differences lie around 0, as if both groups were one; draw each group from its own"
            " people"
        )
    if abs(mean - 0.25) > 0.02:
        raise Mistake(
            f"the differences must lie around 0.25, that of the groups; yours: {mean:.3f}"
        )
    right = (0.75 * 0.25 / 40 + 0.5 * 0.5 / 90) ** 0.5
    if abs(spread / right - 1) > 0.1:
        raise Mistake(
            f"the differences spread by {spread:.3f}, expected {right:.3f}; draw as many people as"
            " each group has: 40 of the first and 90 of the second, each by indices of its own"
        )


def numbers_need_not_be_zero_or_one(student: Callable, library: Callable) -> None:
    generator = torch.Generator().manual_seed(2)
    came = student(torch.full((3,), 2.0), torch.full((5,), 0.5), 7, generator)
    expect(came, torch.full((7,), 1.5), given="where everybody of a group has the same number")


EXERCISES = {
    "mean_cost": Exercise(
        solution="course_lib.lessons.lesson_12:mean_cost",
        hints=(
            "Which answers are misses, which are false alarms? Each has its price.",
            "(images, attributes) yes or no, twice, and two numbers → (attributes,), float32.",
            (
                "miss · mean over the images of (truth and not positive) + alarm · mean of (positive"
                " and not truth)"
            ),
        ),
        properties=(errors_have_prices, no_error_costs_nothing),
    ),
    "calibration_error": Exercise(
        solution="course_lib.training.attribute_scores:calibration_error",
        hints=(
            (
                "Sort the images into bins by their probability. In each bin, compare the mean"
                " probability with the share that really has the attribute."
            ),
            (
                "(images, attributes), (images, attributes), a number of bins of equal width →"
                " (attributes,)."
            ),
            (
                "for each bin: |sum of (probability − target) of its images|; add the bins up;"
                " divide by the number of all images"
            ),
        ),
        properties=(gaps_are_weighted_by_images, calibrated_is_zero, one_is_in_the_last_bin),
    ),
    "asked_for": Exercise(
        solution="course_lib.lessons.lesson_12:asked_for",
        hints=(
            "What does each answer cost, if a share of the targets is 1 and the others are 0?",
            "a function, a number, (answers,) → a tensor without axes, one of the answers.",
            (
                "cost = share · loss(answers, ones) + (1 − share) · loss(answers, zeros); the answer"
                " where cost is smallest"
            ),
        ),
        properties=(the_cheapest_answer_is_returned, any_loss_is_asked),
    ),
    "recall_gaps": Exercise(
        solution="course_lib.looking.subgroups:recall_gaps",
        hints=(
            (
                "Of those in a group who have the attribute, how many are found? In which group"
                " most, in which least?"
            ),
            "(batch, attributes) yes or no, twice, and a list of labels → (attributes,).",
            (
                "for each group: hits / present, NaN where present < 25; then the largest minus the"
                " smallest over the groups that are not NaN; NaN where fewer than two are left"
            ),
        ),
        properties=(
            gaps_are_between_best_and_worst_recall,
            groups_too_small_do_not_count,
            gaps_need_two_groups,
        ),
    ),
    "resampled_differences": Exercise(
        solution="course_lib.lessons.lesson_12:resampled_differences",
        hints=(
            "A bootstrap sample of a group: as many people as it has, some twice, some not at all.",
            "(people,), (others,), a number, a generator → (resamples,).",
            (
                "index = torch.randint(len(first), (resamples, len(first)), generator=generator);"
                " first[index].mean(1); the same for second; subtract"
            ),
        ),
        properties=(people_are_drawn_again, numbers_need_not_be_zero_or_one),
    ),
}
