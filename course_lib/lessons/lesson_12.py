"""The exercise of lesson 12 so far: the calibration error."""

from collections.abc import Callable

import torch
from torch import Tensor

from .exercises import Exercise, expect

__all__ = ["EXERCISES"]


def _predictions(images: int = 60, attributes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities that know a little of targets of which some are rare; both kinds occur."""
    rates = torch.linspace(0.1, 0.7, attributes)
    targets = (torch.rand(images, attributes) < rates).float()
    targets[0], targets[1] = 1, 0
    return (0.6 * torch.rand(images, attributes) + 0.3 * targets).clamp(0.01, 0.99), targets


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
    expect(
        student(probabilities, targets, 5),
        torch.zeros(1),
        tolerance=1e-4,
        given="where a quarter of what is given 25 % is positive, and all of what is given 100 %,",
    )


EXERCISES = {
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
        properties=(gaps_are_weighted_by_images, calibrated_is_zero),
    ),
}
