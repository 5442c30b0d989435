"""The exercises of lesson 02: measuring optical flow, estimating it after Lucas and Kanade, resizing
and scaling it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .exercises import Exercise, expect, expect_number

__all__ = ["EXERCISES", "dense_flow", "lucas_kanade"]


# end_point_error


def error_is_a_mean_length(student: Callable, library: Callable) -> None:
    estimate, truth = torch.randn(2, 3, 6, 5, 2).mul(3)
    valid = torch.rand(3, 6, 5) > 0.3
    difference = estimate - truth
    length = difference.norm(dim=-1)
    mistakes = {
        "you average over all pixels; only those where `valid` is True have a truth to compare with": (
            length.mean()
        ),
        "you set the pixels that are not valid to zero but still count them; average over `length[valid]`": (
            (length * valid).mean()
        ),
        "you average over the pixels that are *not* valid": length[~valid].mean(),
        "this is the sum; average, so that the number is in pixels whatever the size of the picture": (
            length[valid].sum()
        ),
        "this is the mean of the squares; take the root for each pixel, before the mean": (
            difference.square().sum(-1)[valid].mean()
        ),
        "you average over u and v too; square, *sum* over the last axis, then take the root": (
            difference.square().mean(-1).sqrt()[valid].mean()
        ),
        "you take the root after the mean; the error is the mean of lengths, so take it for each pixel": (
            difference.square().sum(-1)[valid].mean().sqrt()
        ),
        "you add |u| and |v|; the length of a vector is the root of the sum of its squares": (
            difference.abs().sum(-1)[valid].mean()
        ),
        "you average |u| and |v|; the length of a vector is the root of the sum of its squares": (
            difference.abs()[valid].mean()
        ),
        "errors to the left and to the right cancel in your mean; take each pixel's length first": (
            difference[valid].mean(0).norm()
        ),
        "you compare lengths, so a vector that points the wrong way counts as right; subtract the vectors first": (
            (estimate.norm(dim=-1) - truth.norm(dim=-1)).abs()[valid].mean()
        ),
    }
    expect_number(
        student(estimate, truth, valid),
        library(estimate, truth, valid),
        {sentence: wrong.item() for sentence, wrong in mistakes.items()},
    )


def error_of_simple_cases(student: Callable, library: Callable) -> None:
    truth, valid = torch.zeros(2, 4, 4, 2), torch.ones(2, 4, 4, dtype=torch.bool)
    for u, v, length in ((0.0, 0.0, 0.0), (3.0, -4.0, 5.0), (-6.0, 0.0, 6.0)):
        expect_number(
            student(truth + torch.tensor([u, v]), truth, valid),
            length,
            given=f"for vectors that are all off by ({u:g}, {v:g})",
        )


# lucas_kanade


def lucas_kanade(ix, iy, it):
    """The step (u, v) of one window: least squares over its pixels `height width`."""
    gradients = torch.stack([ix.flatten(), iy.flatten()], dim=-1)  # pixels 2
    matrix = gradients.T @ gradients
    return torch.linalg.solve(matrix, -gradients.T @ it.flatten())


def _window(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Derivatives of a window with texture in both directions, more of it along x."""
    ix, iy, noise = torch.randn(3, height, width, dtype=dtype)
    iy = 0.7 * iy + 0.4 * ix
    return [2 * ix, iy, -(0.8 * 2 * ix - 0.5 * iy) + 0.3 * noise + 0.2]


def one_window_is_least_squares(student: Callable, library: Callable) -> None:
    for height, width in ((7, 7), (5, 9)):
        ix, iy, it = _window(height, width)
        right = library(ix, iy, it)
        gradients = torch.stack([ix.flatten(), iy.flatten()])
        matrix, target = gradients @ gradients.T, -gradients @ it.flatten()
        squared = ix**2 + iy**2
        expect(
            student(ix, iy, it),
            right,
            {
                "your step points the wrong way; I_t goes to the right-hand side, so it gets a minus": (
                    -right
                ),
                "you return (v, u); u, the step to the right, comes first": right.flip(0),
                "you solve for u and for v apart; the matrix also has Σ I_x I_y, off its diagonal": (
                    target / matrix.diagonal()
                ),
                "this is the right-hand side; the matrix is still to be divided out": target,
                "you multiply by the matrix; the step times the matrix is the right-hand side, so solve": (
                    matrix @ target
                ),
                "you solve each pixel alone and average; sum the products over the window first": (
                    torch.stack([(-it * ix / squared).mean(), (-it * iy / squared).mean()])
                ),
                "the signs off your inverse's diagonal are wrong: both are minus": torch.linalg.solve(
                    matrix * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), target
                ),
                "you square I_x and I_y without their product I_x I_y in one corner; the matrix is symmetric": (
                    torch.linalg.solve(matrix.triu(), target)
                ),
            },
            1e-4,
            f"for a window of {height} × {width}",
        )


def a_step_without_noise_is_recovered(student: Callable, library: Callable) -> None:
    for u, v in ((0.5, -0.25), (-1.0, 0.0)):
        ix, iy, _ = _window(9, 7, torch.float64)
        expect(
            student(ix, iy, -(u * ix + v * iy)),
            torch.tensor([u, v], dtype=torch.float64),
            tolerance=1e-6,
            given=f"for a window that moves by ({u:g}, {v:g})",
        )


# dense_flow


def dense_flow(ix, iy, it, window=13, damping=10.0):
    """Lucas-Kanade in a window around every pixel: `batch height width` each to `… 2`."""

    def mean(field):
        return F.avg_pool2d(field, window, 1, window // 2)

    a, b, c = mean(ix * ix) + damping, mean(ix * iy), mean(iy * iy) + damping
    p, q = -mean(ix * it), -mean(iy * it)
    return torch.stack([c * p - b * q, a * q - b * p], dim=-1) / (a * c - b * b)[..., None]


def every_window_is_solved(student: Callable, library: Callable) -> None:
    """Away from the edges, where padding may be counted or not."""
    derivatives = torch.stack([torch.stack(_window(24, 20)) for _ in range(2)], dim=1)
    window, damping = 7, 0.5
    inside = (slice(None), slice(6, -6), slice(6, -6))
    right = library(*derivatives, window, damping)
    result = student(*derivatives, window, damping)
    fits = isinstance(result, Tensor) and result.shape == right.shape

    ix, iy, it = derivatives
    products = torch.stack([ix * ix, ix * iy, iy * iy, -ix * it, -iy * it], dim=1)
    a, b, c, p, q = F.avg_pool2d(products, window, 1, window // 2).unbind(1)

    def solved(a: Tensor, b: Tensor, c: Tensor, determinant: Tensor | None = None) -> Tensor:
        determinant = a * c - b * b if determinant is None else determinant
        return torch.stack([c * p - b * q, a * q - b * p], -1) / determinant[..., None]

    damped, counted = (a + damping, b, c + damping), window**2
    mistakes = {
        "your steps point the wrong way; I_t goes to the right-hand side, so it gets a minus": -right,
        "you return (v, u); u, the step to the right, comes first": right.flip(-1),
        "you leave `damping` out; add it to a and to c, or a wall divides by zero": solved(a, b, c),
        "you add `damping` to b too; it belongs on the diagonal, to a and c": solved(
            a + damping, b + damping, c + damping
        ),
        "you add `damping` to the determinant; add it to a and to c": solved(
            a, b, c, a * c - b * b + damping
        ),
        "you solve for u and for v apart; b, the mean of I_x I_y, couples them": torch.stack(
            [p / damped[0], q / damped[2]], -1
        ),
        "a and c are swapped: u needs c, v needs a": torch.stack(
            [damped[0] * p - b * q, damped[2] * q - b * p], -1
        )
        / (damped[0] * damped[2] - b * b)[..., None],
        "the determinant is a c − b², with a minus": solved(
            *damped, determinant=damped[0] * damped[2] + b * b
        ),
        "you sum over the window; take means, so that `damping` means the same for every window": (
            solved(a + damping / counted, b, c + damping / counted)
        ),
        "you average the derivatives and multiply afterwards; multiply first, then average the products": (
            library(*F.avg_pool2d(torch.stack([ix, iy, it]), window, 1, window // 2), 1, damping)
        ),
        "every pixel is solved alone; average the five products over the window": library(
            *derivatives, 1, damping
        ),
        "your window has 13 pixels a side; use the `window` that is passed": library(
            *derivatives, 13, damping
        ),
        "your damping is 10; use the `damping` that is passed": library(*derivatives, window, 10.0),
    }
    expect(
        result[inside] if fits else result,
        right[inside] if fits else right,
        {sentence: wrong[inside] for sentence, wrong in mistakes.items()} if fits else None,
        1e-4,
        f"for derivatives of 2 × 24 × 20 and {window=}, away from the edges",
    )


def a_wall_does_not_move(student: Callable, library: Callable) -> None:
    wall = torch.zeros(3, 1, 15, 18)
    expect(student(*wall), library(*wall), given="for derivatives that are all zero")


# resize_flow


def vectors_are_scaled_along(student: Callable, library: Callable) -> None:
    u, v = 3.0, -2.0
    flow = torch.tensor([u, v]).expand(2, 12, 8, 2).contiguous()

    def everywhere(*vector: float) -> Tensor:
        return torch.tensor(vector).expand(2, 6, 24, 2)

    expect(
        student(flow, 6, 24),
        everywhere(3 * u, v / 2),
        {
            "you resample the picture and leave the vectors: in a picture twice as wide everything moves twice as far": everywhere(
                u, v
            ),
            "your factors are upside down: in a picture twice as wide everything moves twice as far": everywhere(
                u / 3, 2 * v
            ),
            "your factors are swapped: u, the first, runs along the width and v along the height": (
                everywhere(u / 2, 3 * v)
            ),
            "you scale both components by the width's factor; v runs along the height": everywhere(
                3 * u, 3 * v
            ),
            "you scale both components by the height's factor; u runs along the width": everywhere(
                u / 2, v / 2
            ),
        },
        given="for a field of 12 × 8 resized to 6 × 24",
    )


def places_are_interpolated(student: Callable, library: Callable) -> None:
    """On a ramp every sound interpolation agrees away from the edges, with antialiasing or without."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij")
    flow = torch.stack([torch.stack([x, y], -1), torch.stack([2 * y, -x], -1)])
    inside = (slice(None), slice(4, -4), slice(3, -3))
    for height, width, nearest in (
        (12, 8, "you pick the nearest vector; interpolate between them (mode='bilinear')"),
        (
            48,
            32,
            "where the field grows, your vectors are repeated (mode='area' does that, and"
            " 'nearest-exact'); interpolate between them (mode='bilinear')",
        ),
    ):

        def interpolated(channels_first: Tensor, size=(height, width), **how) -> Tensor:
            resized = F.interpolate(channels_first, size, **how).permute(0, 2, 3, 1)
            return resized * resized.new_tensor([size[1] / 16, size[0] / 24])

        channels_first = flow.permute(0, 3, 1, 2)
        result, right = student(flow, height, width), library(flow, height, width)
        fits = isinstance(result, Tensor) and result.shape == right.shape
        expect(
            result[inside] if fits else result,
            right[inside] if fits else right,
            {
                nearest: interpolated(channels_first, mode="nearest")[inside],
                "your corners are aligned; a pixel is an area, so use align_corners=False": (
                    interpolated(channels_first, mode="bilinear", align_corners=True)[inside]
                ),
                "you regroup numbers and move no axis; bring u and v to the second place with `permute`, not `reshape`": interpolated(
                    flow.reshape(2, 2, 24, 16), mode="bilinear"
                )[inside],
            },
            1e-3,
            f"for two ramps of 24 × 16 resized to {height} × {width}, away from the edges",
        )


# clip_and_scale


def flow_is_clipped_then_scaled(student: Callable, library: Callable) -> None:
    flow = torch.randn(3, 5, 4, 2) * 25
    flow[0, 0, 0] = torch.tensor([30.0, -40.0])
    limit = 4.0
    length = flow.norm(dim=-1, keepdim=True)
    low, high = (bound(flow, dim=(1, 2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    expect(
        student(flow, limit),
        library(flow, limit),
        {
            "you divide and do not clip; values beyond the limit must end at -1 or 1": flow / limit,
            "you clip and do not divide; the result must lie in [-1, 1]": flow.clip(-limit, limit),
            "you divide first and clip at the limit afterwards; after the division the limit is 1": (
                (flow / limit).clip(-limit, limit)
            ),
            "this is min-max to [-1, 1]: each frame gets a scale of its own, and zero is lost": (
                2 * (flow - low) / (high - low) - 1
            ),
            "this is min-max to [0, 1]: each frame gets a scale of its own, and zero is lost": (
                (flow - low) / (high - low)
            ),
            "you divide by this flow's own maximum; another clip would get another scale": (
                flow / flow.abs().max()
            ),
            "your zero lands on 0.5; rest must stay 0": (flow.clip(-limit, limit) / limit + 1) / 2,
            "you clip at zero from below; motion to the left and up is negative": (
                flow.clip(0, limit) / limit
            ),
            "you clip at 20 and divide by 20; use the `limit` that is passed": (
                flow.clip(-20, 20) / 20
            ),
            "you shorten long vectors; the networks that use this clip u and v each": (
                flow * (limit / length).clip(max=1) / limit
            ),
        },
    )


def small_motion_and_other_limits(student: Callable, library: Callable) -> None:
    for largest, limit in ((0.5, 20.0), (0.0, 8.0)):
        flow = torch.randn(2, 3, 3, 2, dtype=torch.float64) * largest
        clipped = flow.clip(-limit, limit)
        expect(
            student(flow, limit),
            library(flow, limit),
            {
                "you divide by the largest value left after clipping; divide by the limit, or a still clip looks violent": (
                    clipped / clipped.abs().max()
                )
            },
            given=f"for flow of about {largest:g} px and limit={limit:g}",
        )


EXERCISES = {
    "end_point_error": Exercise(
        solution="course_lib.data.flow:end_point_error",
        hints=(
            "Subtract the vectors. How long is what is left over at each pixel?",
            (
                "(frames, height, width, 2) minus the same → one length a pixel, (frames, height,"
                " width) → one number."
            ),
            (
                "length = root of the sum of squares over the last axis; return the mean of"
                " length[valid]"
            ),
        ),
        properties=(error_is_a_mean_length, error_of_simple_cases),
    ),
    "lucas_kanade": Exercise(
        solution="course_lib.lessons.lesson_02:lucas_kanade",
        hints=(
            "Each entry of the matrix is one sum over the window. Which two pictures are multiplied in it?",
            (
                "Flatten the window: gradients are (pixels, 2), it is (pixels); the matrix is"
                " (2, 2), the right-hand side (2), the step (2)."
            ),
            (
                "gradients = ix and iy side by side; matrix = gradientsᵀ gradients; solve(matrix,"
                " -gradientsᵀ it)"
            ),
        ),
        properties=(one_window_is_least_squares, a_step_without_noise_is_recovered),
    ),
    "dense_flow": Exercise(
        solution="course_lib.lessons.lesson_02:dense_flow",
        hints=(
            "The sums of one window become five pictures: one local mean for each product.",
            (
                "a, b, c, p, q are (batch, height, width) each; stack u and v at the end:"
                " (batch, height, width, 2)."
            ),
            (
                "mean = F.avg_pool2d(field, window, 1, window // 2); a = mean(ix * ix) + damping …;"
                " u = (c p − b q) / (a c − b b); stack([u, v], dim=-1)"
            ),
        ),
        properties=(every_window_is_solved, a_wall_does_not_move),
    ),
    "resize_flow": Exercise(
        solution="course_lib.data.flow:resize_flow",
        hints=(
            (
                "Resampling moves the vectors to new places. But each of them is a distance, in"
                " pixels of the old picture."
            ),
            (
                "(frames, height, width, 2) → (frames, 2, height, width) for F.interpolate, and"
                " back; then two factors."
            ),
            (
                "resized = F.interpolate(flow with u and v as channels, (height, width),"
                " mode='bilinear'); put u and v last again; return them times (width / old width,"
                " height / old height)"
            ),
        ),
        properties=(vectors_are_scaled_along, places_are_interpolated),
    ),
    "clip_and_scale": Exercise(
        solution="course_lib.data.flow:clip_and_scale",
        hints=(
            (
                "The same rule for every frame of every clip: nothing in it may depend on the flow"
                " at hand."
            ),
            (
                "Any shape in, the same shape out, all values in [-1, 1]; `limit` becomes 1 and"
                " zero stays zero."
            ),
            "return (flow cut off at -limit and limit) / limit",
        ),
        properties=(flow_is_clipped_then_scaled, small_motion_and_other_limits),
    ),
}
