"""The exercises of lesson 03: a network that sees time, and what its features are good for."""

from collections.abc import Callable

import torch
from torch import nn

from ..models.dynamic import inflate
from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES"]


# inflate_kernel


def kernel_is_repeated_and_divided(student: Callable, library: Callable) -> None:
    kernel = torch.randn(4, 2, 3, 3)
    repeated = kernel[:, :, None].repeat(1, 1, 5, 1, 1)
    middle = torch.zeros_like(repeated)
    middle[:, :, 2] = kernel
    expect(
        student(kernel, 5),
        library(kernel, 5),
        {
            "you repeat and do not divide, so a still video gives 5 times the 2-D answer; divide by `time`": (
                repeated
            ),
            "you divide by 3, the side of the kernel; divide by `time`, how often it is repeated": (
                repeated / 3
            ),
            "you normalise as if time were one more side of the square; only the sum over `time` must stay": (
                repeated / 15
            ),
            "only your middle slice is not 0: right on a still video, but such a kernel never sees motion; repeat it": (
                middle
            ),
            "your time axis comes last; a 3-D convolution wants (out, channels, time, height, width)": (
                repeated.movedim(2, -1) / 5
            ),
            "your time axis comes before the channels; a 3-D convolution wants (out, channels, time, height, width)": (
                repeated.transpose(1, 2) / 5
            ),
            "`kernel.repeat` along an axis that exists makes more channels; add the time axis first": (
                kernel.repeat(1, 5, 1, 1) / 5
            ),
        },
    )


def kernel_of_any_size(student: Callable, library: Callable) -> None:
    for shape, time in (((1, 1, 1, 1), 1), ((2, 3, 1, 7), 1), ((8, 2, 7, 7), 7), ((3, 3, 3, 3), 2)):
        kernel = torch.randn(shape, dtype=torch.float64)
        expect(
            student(kernel, time),
            library(kernel, time),
            given=f"for a kernel of shape {shape} and {time=}",
        )


def kernel_passes_gradients(student: Callable, library: Callable) -> None:
    kernel = torch.randn(4, 2, 3, 3, requires_grad=True)
    expect_gradient(kernel, student(kernel, 3))


# boring_video_errors


def _networks(padding: str = "zeros") -> tuple[nn.Module, nn.Module]:
    """A 2-D network and its inflation, which strides in time, so that there are fewer steps than
    frames.

    Its largest value is negative, and zero padding makes its largest change a negative one, so that
    signs matter.
    """
    flat = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
    ).eval()
    with torch.no_grad():
        flat[2].weight[0] = 3 * flat[2].weight[0].abs()
        flat[2].bias[1] = -5
    return flat, inflate(flat, padding)


def errors_say_how_far_each_step_is(student: Callable, library: Callable) -> None:
    flat, inflated = _networks()
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        came, share = student(flat, inflated, image, 16), library(flat, inflated, image, 16)
        expected = flat(image)
        video = image[:, :, None].expand(-1, -1, 16, -1, -1)
        difference = inflated(video) - expected[:, :, None]
        sizes = difference.abs().amax((0, 1, 3, 4))
    expect(
        came,
        share,
        {
            "you return the difference itself; give it as a share of the largest value of the 2-D output": (
                sizes
            ),
            "you return one number for the whole video; keep one for each time step": share.max(),
            "differences of opposite sign cancel in your mean; take the absolute value, then the largest": (
                difference.mean((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you take the mean difference; take the largest, so that no place can hide": (
                difference.abs().mean((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you take the largest difference without its absolute value; the 3-D output may be too small as well": (
                difference.amax((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you divide by the largest *signed* value; take the absolute value of the 2-D output first": (
                sizes / expected.max()
            ),
            "you reduce over time and keep the places; reduce over batch, channels, height and width": (
                difference.abs().amax((0, 1, 2, 3)) / expected.abs().max()
            ),
        },
    )


def errors_vanish_for_a_faithful_inflation(student: Callable, library: Callable) -> None:
    flat, inflated = _networks("replicate")
    with torch.no_grad():
        came = student(flat, inflated, torch.rand(1, 3, 8, 8), 12)
    if isinstance(came, torch.Tensor) and came.numel() and not came.max() < 1e-4:
        raise Mistake(
            "a network padded with copies says the same at every step, yet your largest error is "
            f"{came.max():.2g}; is every frame of your video the image itself, unscaled?"
        )
    expect(came, torch.zeros(6), tolerance=1e-4, given="for 12 frames")


def errors_of_any_length(student: Callable, library: Callable) -> None:
    flat, inflated = _networks()
    for batch, size, frames in ((1, 8, 2), (3, 6, 7), (1, 12, 32)):
        image = torch.rand(batch, 3, size, size)
        with torch.no_grad():
            expect(
                student(flat, inflated, image, frames),
                library(flat, inflated, image, frames),
                given=f"for {batch} images of {size} × {size} and {frames=}",
            )


# time_tokens


def tokens_are_means_over_places(student: Callable, library: Callable) -> None:
    volume = torch.randn(2, 5, 4, 3, 3)
    expect(
        student(volume),
        library(volume),
        {
            "your channels come before your steps; a token is a vector of channels: (batch, steps, channels)": volume.mean(
                (3, 4)
            ),
            "`reshape` regroups numbers in memory order and moves no axis; swap channels and steps instead": (
                volume.mean((3, 4)).reshape(2, 4, 5)
            ),
            "you average over time and places, which gives one vector for the clip; keep the time steps": volume.mean(
                (2, 3, 4)
            ),
            "you keep every place; average over height and width, so that one token is left for each time step": (
                volume.flatten(2).mT
            ),
            "you average over the channels; average over height and width": (
                volume.mean(1).flatten(2)
            ),
            "you take the maximum over places; this network's tokens are means": (
                volume.amax((3, 4)).mT
            ),
            "you sum over places; take the mean, so that larger pictures do not give larger tokens": (
                volume.sum((3, 4)).mT
            ),
        },
    )


def tokens_of_any_size(student: Callable, library: Callable) -> None:
    for shape in ((1, 1, 1, 1, 1), (3, 7, 8, 4, 4), (2, 6, 5, 1, 3)):
        volume = torch.randn(shape, dtype=torch.float64)
        expect(student(volume), library(volume), given=f"for activations of shape {shape}")


def tokens_pass_gradients(student: Callable, library: Callable) -> None:
    volume = torch.randn(2, 5, 4, 3, 3, requires_grad=True)
    expect_gradient(volume, student(volume))


# dead_dimensions


def dead_is_what_never_changes(student: Callable, library: Callable) -> None:
    features = torch.randn(7, 6)
    features[:, 1] = 0  # silent
    features[:, 4] = 0.7  # stuck at a value: as dead
    features[:4, 2] = 0  # silent on some items only: alive
    features[:, 3] = features[:, 0]  # a copy: redundant, not dead
    zero = features == 0
    expect(
        student(features),
        library(features),
        {
            "you return which dimensions are alive; turn it round": ~library(features),
            "you look for zeros, but a dimension stuck at another value says as little; look for what never changes": zero.all(
                0
            ),
            "one zero makes no dimension dead; it must be the same for *all* items": zero.any(0),
            "you compare the dimensions of each item; compare the items, dimension by dimension (dim=0)": (
                features.std(1) == 0
            ),
            "you return where they are; return True or False for each dimension": torch.tensor(
                [1, 4]
            ),
            "you return how many there are; return True or False for each dimension": torch.tensor(
                2
            ),
        },
    )


def dead_forgives_rounding(student: Callable, library: Callable) -> None:
    features = torch.rand(50, 4) * 100
    features[:, 2] = 33.3
    features[::2, 2] += 4e-6  # the last bit of a 32-bit float
    if not features[:, 2].unique().numel() == 2:
        raise AssertionError("the input of this property must differ in its last bit")
    expect(
        student(features),
        library(features),
        {
            "a dimension that differs only in its last bit is alive to you; allow a millionth of the largest value": torch.zeros(
                4, dtype=torch.bool
            ),
        },
        given="with rounding errors",
    )
    small = torch.rand(50, 4) * 1e-4
    expect(
        student(small),
        library(small),
        {
            "small features are all dead to you; measure against the largest value of the features, not against 1": torch.ones(
                4, dtype=torch.bool
            ),
        },
        given="for features of about 0.0001",
    )


def dead_of_any_size(student: Callable, library: Callable) -> None:
    for items, dim in ((2, 1), (3, 8), (40, 3)):
        features = torch.randn(items, dim, dtype=torch.float64)
        features[:, dim // 2] = -2
        expect(student(features), library(features), given=f"for {items} items of {dim} dimensions")
    expect(student(torch.zeros(3, 2)), torch.ones(2, dtype=torch.bool), given="where all is 0")


EXERCISES = {
    "inflate_kernel": Exercise(
        solution="course_lib.models.dynamic:inflate_kernel",
        hints=(
            (
                "On a still video the kernel meets the same picture `time` times. What must each"
                " meeting add, so that the sum is what one meeting gave before?"
            ),
            (
                "(out, channels, height, width) → (out, channels, time, height, width); all slices"
                " along time are equal."
            ),
            (
                "add an axis before the last two, repeat along it `time` times, divide everything"
                " by `time`"
            ),
        ),
        properties=(kernel_is_repeated_and_divided, kernel_of_any_size, kernel_passes_gradients),
    ),
    "boring_video_errors": Exercise(
        solution="course_lib.models.dynamic:boring_video_errors",
        hints=(
            (
                "Build the most boring video there is: the same frame over and over. The 3-D"
                " network must say at every time step what the 2-D network says about the frame."
            ),
            (
                "video (batch, channels, frames, height, width) → output (batch, channels, steps,"
                " height, width); the 2-D output lacks the axis `steps`. The answer is (steps,)."
            ),
            (
                "repeat image along a new axis 2; difference = |inflated(video) − flat(image) with"
                " an axis 2|; take its maximum over all axes but `steps`; divide by the maximum of"
                " |flat(image)|"
            ),
        ),
        properties=(
            errors_say_how_far_each_step_is,
            errors_vanish_for_a_faithful_inflation,
            errors_of_any_length,
        ),
    ),
    "time_tokens": Exercise(
        solution="course_lib.models.dynamic:time_tokens",
        hints=(
            (
                "A token here is what the network says about one stretch of time, wherever in the"
                " picture it happens."
            ),
            "(batch, channels, steps, height, width) → (batch, steps, channels).",
            'reduce(volume, "batch channels steps height width -> batch … …", "mean")',
        ),
        properties=(tokens_are_means_over_places, tokens_of_any_size, tokens_pass_gradients),
    ),
    "dead_dimensions": Exercise(
        solution="course_lib.looking.features:dead_dimensions",
        hints=(
            (
                "A dimension is dead if it says the same about every item. How far apart are its"
                " largest and its smallest value, compared with how large the features are?"
            ),
            "(items, dim) → (dim,), True or False; the comparison is over the items, dim 0.",
            (
                "range = maximum − minimum over dim 0; dead where range ≤ 1e-6 × the largest"
                " absolute value of all"
            ),
        ),
        properties=(dead_is_what_never_changes, dead_forgives_rounding, dead_of_any_size),
    ),
}
