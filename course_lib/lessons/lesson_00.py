"""The exercises of lesson 00: tokens, and the scores and baselines that every later lesson uses."""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..shapes import Float
from .exercises import Exercise, expect, expect_gradient

__all__ = ["EXERCISES", "floor_prediction", "mean_accuracy"]


# to_tokens


def tokens_come_row_by_row(student: Callable, library: Callable) -> None:
    feature_map = torch.randn(2, 5, 3, 4)
    expect(
        student(feature_map),
        library(feature_map),
        {
            "your channels come before your tokens; move them last: (batch, height · width, channels)": feature_map.flatten(
                2
            ),
            "`reshape` and `view` regroup numbers in memory order and move no axis; bring the channels to the end first": feature_map.reshape(
                2, 12, 5
            ),
            "your tokens run down the columns; row-major order runs along each row: (height width), not (width height)": rearrange(
                feature_map, "batch channels height width -> batch (width height) channels"
            ),
            "your tokens of all images are in one list; keep the batch axis in front": rearrange(
                feature_map, "batch channels height width -> (batch height width) channels"
            ),
        },
    )


def tokens_of_any_size(student: Callable, library: Callable) -> None:
    for shape in ((1, 1, 1, 1), (3, 8, 7, 7), (2, 4, 1, 6)):
        feature_map = torch.randn(shape, dtype=torch.float64)
        expect(
            student(feature_map), library(feature_map), given=f"for a feature map of shape {shape}"
        )


def tokens_pass_gradients(student: Callable, library: Callable) -> None:
    feature_map = torch.randn(2, 5, 3, 4, requires_grad=True)
    expect_gradient(feature_map, student(feature_map))


# mean_accuracy


def mean_accuracy(
    prediction: Float[Tensor, "batch traits"], target: Float[Tensor, "batch traits"]
) -> Float[Tensor, " traits"]:
    """1 − mean absolute error of each trait."""
    error = (prediction - target).abs()
    return 1 - error.mean(dim=0)


def accuracy_per_trait(student: Callable, library: Callable) -> None:
    prediction, target = torch.rand(2, 7, 5)
    error = prediction - target
    expect(
        student(prediction, target),
        library(prediction, target),
        {
            "your one number mixes all traits; average over the batch only (dim=0)": (
                1 - error.abs().mean()
            ),
            "you average over the traits; average over the batch (dim=0), so that each trait keeps its own": (
                1 - error.abs().mean(dim=1)
            ),
            "this is the error, where 0 is best; the accuracy is 1 minus it": (
                error.abs().mean(dim=0)
            ),
            "errors of opposite sign cancel in your mean; take the absolute value first": (
                1 - error.mean(dim=0)
            ),
            "errors of opposite sign cancel in your mean; take the absolute value before the mean, not after": (
                1 - error.mean(dim=0).abs()
            ),
            "you square the errors; this measure takes their absolute value": (
                1 - error.square().mean(dim=0)
            ),
            "you sum over the batch; average, so that the size of the batch does not matter": (
                1 - error.abs().sum(dim=0)
            ),
        },
    )


def accuracy_is_one_at_best(student: Callable, library: Callable) -> None:
    target = torch.rand(4, 5)
    expect(student(target, target), torch.ones(5), tolerance=1e-6)


def accuracy_of_any_size(student: Callable, library: Callable) -> None:
    for shape in ((1, 5), (5, 5), (64, 2)):
        prediction, target = torch.rand(2, *shape, dtype=torch.float64)
        expect(
            student(prediction, target),
            library(prediction, target),
            given=f"for inputs of shape {shape}",
        )


def accuracy_passes_gradients(student: Callable, library: Callable) -> None:
    prediction = torch.rand(7, 5, requires_grad=True)
    expect_gradient(prediction, student(prediction, torch.rand(7, 5)))


# floor_prediction


def floor_prediction(
    train_targets: Float[Tensor, "batch traits"], count: int
) -> Float[Tensor, "count traits"]:
    """The mean training target of each trait, `count` times."""
    mean = train_targets.mean(dim=0)
    return repeat(mean, "traits -> count traits", count=count)


def floor_is_the_training_mean(student: Callable, library: Callable) -> None:
    targets = torch.rand(9, 5).square()
    mean = targets.mean(dim=0)
    expect(
        student(targets, 4),
        library(targets, 4),
        {
            "you return one row; repeat it `count` times, one for each item to predict": mean,
            "your axes are swapped; an item is a row: (count, traits)": mean[:, None].expand(5, 4),
            "you repeat it once for each training item; repeat it `count` times": mean.expand(9, 5),
            "you predict one number for all traits; each trait has its own mean (dim=0)": (
                targets.mean().expand(4, 5)
            ),
            "this is the median, the best constant for the absolute error; the floor of this course is the mean, the best one for the squared error": (
                targets.median(dim=0).values.expand(4, 5)
            ),
            "these are training items, not their mean": targets[:4],
        },
    )


def floor_of_any_size(student: Callable, library: Callable) -> None:
    for items, traits, count in ((1, 5, 3), (6, 2, 1), (3, 5, 8)):
        targets = torch.rand(items, traits, dtype=torch.float64)
        expect(
            student(targets, count),
            library(targets, count),
            given=f"for {items} × {traits} targets and {count=}",
        )


# area_share


def in_single_precision(answer: object) -> object:
    """Any precision will do: the input is boolean."""
    floating = isinstance(answer, Tensor) and answer.is_floating_point()
    return answer.float() if floating else answer


def share_of_each_region(student: Callable, library: Callable) -> None:
    regions = torch.rand(4, 6, 8) < torch.tensor([0.1, 0.4, 0.6, 0.9])[:, None, None]
    share = library(regions)
    expect(
        in_single_precision(student(regions)),
        share,
        {
            "this counts pixels; divide by the number of pixels of the image, so that its size does not matter": (
                regions.float().sum((1, 2))
            ),
            "your one number mixes all regions; average over height and width only": (
                regions.float().mean()
            ),
            "you average over the regions; each keeps its own number, so average over height and width": (
                regions.float().mean(0)
            ),
            "you average over one of the two axes of the image; height and width both go": (
                regions.float().mean(2)
            ),
            "this is the share outside; True is inside": 1 - share,
            "this compares a region with all regions together; compare it with the image": (
                regions.float().sum((1, 2)) / regions.float().sum()
            ),
        },
    )


def share_of_nothing_and_of_everything(student: Callable, library: Callable) -> None:
    regions = torch.stack([torch.zeros(5, 3, dtype=torch.bool), torch.ones(5, 3, dtype=torch.bool)])
    share = in_single_precision(student(regions))
    expect(share, torch.tensor([0.0, 1.0]), given="for an empty region and a full one")


EXERCISES = {
    "to_tokens": Exercise(
        solution="course_lib.models.static:to_tokens",
        hints=(
            (
                "Attention reads a list. Each place of the feature map becomes one item of it: its"
                " channels."
            ),
            (
                "(batch, channels, height, width) → (batch, height · width, channels); row 0 comes"
                " first, left to right."
            ),
            (
                'Let einops name the axes: rearrange(feature_map, "batch channels height width ->'
                ' batch (… …) …").'
            ),
        ),
        properties=(tokens_come_row_by_row, tokens_of_any_size, tokens_pass_gradients),
    ),
    "mean_accuracy": Exercise(
        solution="course_lib.lessons.lesson_00:mean_accuracy",
        hints=(
            (
                "How far off is each prediction, whichever side it errs on? 1 minus the average of"
                " that."
            ),
            (
                "Two tensors (batch, traits) → one value per trait, (traits,): only the batch axis"
                " is averaged away."
            ),
            "error = |prediction − target|; return 1 − mean of error over dim 0",
        ),
        properties=(
            accuracy_per_trait,
            accuracy_is_one_at_best,
            accuracy_of_any_size,
            accuracy_passes_gradients,
        ),
    ),
    "floor_prediction": Exercise(
        solution="course_lib.lessons.lesson_00:floor_prediction",
        hints=(
            (
                "It may look at the training targets, never at the item. Which row has the smallest"
                " mean squared distance to all of them?"
            ),
            "(batch, traits) and a number → (count, traits), all rows the same.",
            (
                "mean = average of train_targets over dim 0; return mean as a row, repeated count"
                " times"
            ),
        ),
        properties=(floor_is_the_training_mean, floor_of_any_size),
    ),
    "area_share": Exercise(
        solution="course_lib.looking.localisation:area_share",
        hints=(
            "Point at the image without looking. What must you count, and divide by what?",
            (
                "Booleans (attributes, height, width) → one number for each attribute,"
                " (attributes,), between 0 and 1."
            ),
            "regions as floats; mean over the last two axes",
        ),
        properties=(share_of_each_region, share_of_nothing_and_of_everything),
    ),
}
