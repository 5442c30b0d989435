"""The exercises of lesson 08: what accuracy hides, thresholds, weights, focal loss, samplers,
calibration, pooling.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .exercises import Exercise, Mistake, expect, expect_number

__all__ = ["EXERCISES"]


def _predictions(images: int = 60, attributes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities that know a little of targets of which some are rare; both kinds occur."""
    rates = torch.linspace(0.1, 0.7, attributes)
    targets = (torch.rand(images, attributes) < rates).float()
    targets[0], targets[1] = 1, 0
    return (0.6 * torch.rand(images, attributes) + 0.3 * targets).clamp(0.01, 0.99), targets


# blind_accuracies


def blind_models_are_right_by_frequency(student: Callable, library: Callable) -> None:
    frequencies = torch.tensor([0.02, 0.8, 0.9, 0.48])
    came, expected = student(frequencies), library(frequencies)
    if not isinstance(came, tuple | list) or len(came) != 2:
        raise Mistake(
            "return two numbers: the accuracy of always no, and that of always the usual answer"
        )
    expect_number(
        came[0],
        expected[0],
        {
            "you give how often *yes* is right; saying no is right for everybody who does not have the attribute": float(
                frequencies.mean()
            ),
            "the first number is of saying no to everything, also to what most people have": (
                expected[1]
            ),
        },
        given="for saying no to everything",
    )
    expect_number(
        came[1],
        expected[1],
        {
            "the usual answer is right as often as the larger of the two shares; you took the smaller": float(
                torch.minimum(frequencies, 1 - frequencies).mean()
            ),
            "decide for each attribute what is usual, and average after that": max(
                float(frequencies.mean()), 1 - float(frequencies.mean())
            ),
            "these are two different models: the second says *yes* where most images have the attribute": expected[
                0
            ],
        },
        given="for saying what is usual",
    )


def blind_models_of_any_attributes(student: Callable, library: Callable) -> None:
    for frequencies in (torch.tensor([0.5]), torch.rand(40)):
        for number, name in enumerate(("saying no", "saying what is usual")):
            expect_number(
                student(frequencies)[number],
                library(frequencies)[number],
                given=f"for {name} to {len(frequencies)} attributes",
            )


# best_thresholds


def threshold_of_the_best_f1(student: Callable, library: Callable) -> None:
    probabilities, targets = _predictions()
    came = student(probabilities, targets)
    expect_shape(came, library(probabilities, targets))
    best, reached = (
        _f1(probabilities, targets, values) for values in (library(probabilities, targets), came)
    )
    if torch.allclose(came.float(), _most_accurate(probabilities, targets), atol=1e-4):
        raise Mistake(
            "these thresholds have the best accuracy, and for a rare attribute that is to say no;"
            " look for the best F1"
        )
    together = library(probabilities.reshape(-1, 1), targets.reshape(-1, 1))
    if torch.allclose(came.float(), together.expand_as(came).float()):
        raise Mistake("you choose one threshold for all; each attribute has its own")
    if (reached < best - 1e-6).any():
        worst = int((best - reached).argmax())
        raise Mistake(
            f"with your threshold attribute {worst} reaches an F1 of {reached[worst]:.3f}, with"
            f" another {best[worst]:.3f}; an attribute counts as predicted where its probability is"
            " *at least* the threshold, and only its own probabilities need to be tried"
        )


def threshold_where_probabilities_tie(student: Callable, library: Callable) -> None:
    probabilities = torch.tensor([[0.2], [0.2], [0.2], [0.6], [0.6]])
    targets = torch.tensor([[0.0], [1], [0], [1], [0]])
    came = student(probabilities, targets)
    expect_shape(came, library(probabilities, targets))
    if (
        _f1(probabilities, targets, came)
        < _f1(probabilities, targets, library(probabilities, targets)) - 1e-6
    ).any():
        raise Mistake(
            "where probabilities are equal, no threshold lies between them: count the images that"
            " the threshold really lets through, not the first so many of the sorted list"
        )


def expect_shape(came: object, expected: Tensor) -> None:
    """Refuse what is no tensor with one number an attribute."""
    if not isinstance(came, Tensor) or came.shape != expected.shape:
        shape = f" of shape {tuple(came.shape)}" if isinstance(came, Tensor) else ""
        raise Mistake(
            f"expected a tensor with one threshold an attribute, {tuple(expected.shape)}; got a "
            f"{type(came).__name__}{shape}"
        )


def _f1(probabilities: Tensor, targets: Tensor, thresholds: Tensor) -> Tensor:
    positive = probabilities >= thresholds.to(probabilities)
    return 2 * (positive * targets).sum(0) / (positive.sum(0) + targets.sum(0))


def _most_accurate(probabilities: Tensor, targets: Tensor) -> Tensor:
    right = torch.stack(
        [((probabilities >= row) == targets.bool()).float().mean(0) for row in probabilities]
    )
    return probabilities.gather(0, right.argmax(0, keepdim=True))[0]


# inverse_frequencies


def weights_are_capped_inverses(student: Callable, library: Callable) -> None:
    frequencies = torch.tensor([0.004, 0.0224, 0.05, 0.3, 0.9995])
    plain = 1 / (frequencies + 0.001)
    expect(
        student(frequencies, 20.0),
        library(frequencies, 20.0),
        {
            "you forget the cap: an attribute that nearly nobody has would get a weight without bound": plain.clamp(
                min=1
            ),
            "you forget the 0.001 that keeps a frequency of nearly 0 from an infinite weight": (
                (1 / frequencies).clamp(1, 20)
            ),
            "this is negatives over positives; here it is 1 / (frequency + 0.001)": (
                ((1 - frequencies) / frequencies).clamp(1, 20)
            ),
            "a weight under 1 would make a positive count less than a negative; the smallest is 1": plain.clamp(
                max=20
            ),
            "the frequent ones should weigh less, the rare ones more": frequencies.clamp(1, 20),
        },
        given="with a cap of 20",
    )


def weights_of_any_cap(student: Callable, library: Callable) -> None:
    for cap in (1.0, 10.0, 1000.0):
        frequencies = 0.001 + 0.9 * torch.rand(7)
        expect(student(frequencies, cap), library(frequencies, cap), given=f"with a cap of {cap:g}")


# focal_terms


def focal_weight_stays_outside(student: Callable, library: Callable) -> None:
    logits = torch.tensor([[math.log(9.0), -math.log(9.0), 0.4]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([43.56, 5.0, 2.0], dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.exp(-plain)
    expect(
        student(logits, targets, 2.0, weight),
        library(logits, targets, 2.0, weight),
        {
            "this is the bug: `exp(-weighted BCE)` is p_t to the power of the weight, so a positive that is already right keeps nearly all of its loss; take p_t from the *unweighted* BCE": (
                (1 - torch.exp(-bce)).square() * bce
            ),
            "the weight is for positives only; negatives keep 1": (
                weight * (1 - right).square() * plain
            ),
            "you leave the weight out": (1 - right).square() * plain,
            "you leave the focusing out: (1 − p_t)^γ": bce,
            "it is (1 − p_t)^γ, small where the answer is right; you have p_t^γ": (
                right.square() * bce
            ),
            "p is the probability of the *attribute*; p_t is that of the true answer, 1 − p where it is absent": (
                (1 - torch.sigmoid(logits)).square() * bce
            ),
            "keep one number for each image and attribute; the mean comes later": (
                library(logits, targets, 2.0, weight).mean()
            ),
        },
        given="for p_t = 0.9 and a weight of 43.56",
    )


def focal_without_weight_or_focus(student: Callable, library: Callable) -> None:
    logits, targets = torch.randn(6, 3, dtype=torch.float64), (torch.rand(6, 3) < 0.4).double()
    expect(
        student(logits, targets, 0.0),
        F.binary_cross_entropy_with_logits(logits, targets, reduction="none"),
        given="with γ = 0 and no weight it is plain BCE;",
    )
    expect(
        student(logits, targets, 3.0),
        library(logits, targets, 3.0),
        given="with γ = 3 and no weight",
    )


def focal_of_sure_answers(student: Callable, library: Callable) -> None:
    logits, targets = torch.tensor([[60.0, -60.0, 60.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    came = student(logits, targets, 2.0)
    if isinstance(came, Tensor) and not came.isfinite().all():
        raise Mistake(
            "for logits of ±60 your loss is not finite: log(sigmoid(x)) is −∞ where sigmoid rounds"
            " to 0; use F.logsigmoid, or F.binary_cross_entropy_with_logits"
        )
    expect(came, library(logits, targets, 2.0), given="for logits of ±60")


# rarest_weights


def images_weigh_by_their_rarest(student: Callable, library: Callable) -> None:
    targets = torch.tensor(
        [[0.0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    )
    targets = targets.double()
    frequencies = targets.mean(0)
    inverse = torch.where(targets > 0, 1 / frequencies, 0)

    def shares(weights: Tensor) -> Tensor:
        return weights / weights.sum()

    expect(
        student(targets),
        library(targets),
        {
            "you add up what an image has; it counts by the *rarest* attribute that it has, or images with many common attributes would come first": shares(
                inverse.sum(1).clamp(min=1)
            ),
            "an image that has nothing would never be drawn: it weighs 1": shares(inverse.amax(1)),
            "divide by the sum, so that the weights are shares": (
                library(targets) * torch.where(targets > 0, 1 / frequencies, 1).amax(1).sum()
            ),
            "you weigh by the frequency; the rare must come more often, so take 1 / frequency": (
                shares(torch.where(targets > 0, frequencies, 1).amin(1))
            ),
            "you count images; a frequency is a share of all images": shares(
                torch.where(
                    targets > 0, 1 / targets.sum(0), (targets.sum(1, keepdim=True) == 0).double()
                ).amax(1)
            ),
        },
    )


def weights_of_any_labels(student: Callable, library: Callable) -> None:
    targets = (torch.rand(50, 6) < torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])).double()
    targets[0] = 1
    expect(student(targets), library(targets), given="for 50 images and 6 attributes")


EXERCISES = {
    "blind_accuracies": Exercise(
        solution="course_lib.training.attribute_scores:blind_accuracies",
        hints=(
            (
                "If 2 % have an attribute, how often is *no* the right answer? And if 90 % have it,"
                " what is the usual answer, and how often is it right?"
            ),
            "(attributes,) shares → two numbers: always no; always the usual answer.",
            "mean of (1 − frequency); mean of the larger of frequency and 1 − frequency",
        ),
        properties=(blind_models_are_right_by_frequency, blind_models_of_any_attributes),
    ),
    "best_thresholds": Exercise(
        solution="course_lib.training.attribute_scores:best_thresholds",
        hints=(
            (
                "Between two neighbouring probabilities nothing changes, so only the probabilities"
                " themselves need to be tried as thresholds."
            ),
            (
                "(images, attributes), (images, attributes) → (attributes,). F1 = 2 hits /"
                " (predicted + present)."
            ),
            (
                "for each attribute, for each of its probabilities t: positive = probability ≥ t;"
                " keep the t with the largest F1. Loops are fine; sorting and a cumulative sum are"
                " faster"
            ),
        ),
        properties=(threshold_of_the_best_f1, threshold_where_probabilities_tie),
    ),
    "inverse_frequencies": Exercise(
        solution="course_lib.training.losses:inverse_frequencies",
        hints=(
            (
                "One divided by the frequency, but neither without bound for the very rare, nor"
                " below 1 for the common."
            ),
            "(attributes,), a number → (attributes,).",
            "(1 / (frequencies + 0.001)).clamp(1, cap)",
        ),
        properties=(weights_are_capped_inverses, weights_of_any_cap),
    ),
    "focal_terms": Exercise(
        solution="course_lib.training.losses:focal_terms",
        hints=(
            (
                "Three factors: the weight (of positives only), the focusing (1 − p_t)^γ, and −log"
                " p_t. Which of them may know the weight?"
            ),
            (
                "logits and targets (batch, attributes), a number, and (attributes,) or None →"
                " (batch, attributes)."
            ),
            (
                "bce = F.binary_cross_entropy_with_logits(…, reduction='none') without weight; p_t"
                " = exp(−bce); weight = pos_weight where the target is 1, else 1; weight · (1 −"
                " p_t)^γ · bce"
            ),
        ),
        properties=(
            focal_weight_stays_outside,
            focal_without_weight_or_focus,
            focal_of_sure_answers,
        ),
    ),
    "rarest_weights": Exercise(
        solution="course_lib.data.samplers:rarest_weights",
        hints=(
            (
                "How rare is the rarest thing that this image shows? That many times as often"
                " should it come."
            ),
            "(images, attributes) of 0 and 1 → (images,) that sum to 1.",
            (
                "1 / frequency where the image has the attribute, 1 where not; the largest over the"
                " attributes; divided by the sum"
            ),
        ),
        properties=(images_weigh_by_their_rarest, weights_of_any_labels),
    ),
}
