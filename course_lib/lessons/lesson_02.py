"""The exercises of lesson 02: measuring, resizing and scaling optical flow, and sequences of one
length.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .exercises import Exercise, expect, expect_number

__all__ = ["EXERCISES"]


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
    for height, width in ((12, 8), (48, 32)):

        def interpolated(planes: Tensor, size=(height, width), **how) -> Tensor:
            planes = F.interpolate(planes, size, **how)
            return planes.permute(0, 2, 3, 1) * planes.new_tensor([size[1] / 16, size[0] / 24])

        planes = flow.permute(0, 3, 1, 2)
        came, right = student(flow, height, width), library(flow, height, width)
        fits = isinstance(came, Tensor) and came.shape == right.shape
        expect(
            came[inside] if fits else came,
            right[inside] if fits else right,
            {
                "you pick the nearest vector; interpolate between them (mode='bilinear')": (
                    interpolated(planes, mode="nearest")[inside]
                ),
                "your corners are aligned; a pixel is an area, so use align_corners=False": (
                    interpolated(planes, mode="bilinear", align_corners=True)[inside]
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
        kept = flow.clip(-limit, limit)
        expect(
            student(flow, limit),
            library(flow, limit),
            {
                "you divide by the largest value left after clipping; divide by the limit, or a still clip looks violent": (
                    kept / kept.abs().max()
                )
            },
            given=f"for flow of about {largest:g} px and limit={limit:g}",
        )


# adjust_length


def long_sequences_keep_their_middle(student: Callable, library: Callable) -> None:
    for steps, frames in ((10, 4), (7, 4), (5, 5), (3, 2)):
        flow = torch.randn(steps, 3, 2, 2)
        start = (steps - frames) // 2
        mistakes = {
            "you keep the beginning; keep the middle, where the clip is at its task": flow[:frames],
            "you keep the end; keep the middle": flow[-frames:],
            "you squeeze the whole sequence; leaving fields out makes motion too slow for its frames": flow[
                torch.linspace(0, steps - 1, frames).round().long()
            ],
        }
        if (steps - frames) % 2:
            mistakes["an odd number is to be cut off; cut the smaller half from the beginning"] = (
                flow[start + 1 : start + 1 + frames]
            )
        right = library(flow, frames)
        expect(
            student(flow, frames),
            right,
            {
                sentence: wrong
                for sentence, wrong in mistakes.items()
                if not torch.equal(wrong, right)
            },
            given=f"for {steps} fields, {frames=}",
        )


def short_sequences_end_in_rest(student: Callable, library: Callable) -> None:
    for steps, frames in ((3, 8), (1, 4), (6, 7)):
        flow = torch.randn(steps, 2, 3, 2, dtype=torch.float64)
        missing = frames - steps
        rest = flow.new_zeros(missing, 2, 3, 2)
        expect(
            student(flow, frames),
            library(flow, frames),
            {
                "you return the short sequence as it is; a batch needs sequences of one length": (
                    flow
                ),
                "you repeat the last field, so the face keeps moving; add zeros, which say that it stops": torch.cat(
                    [flow, flow[-1:].expand(missing, -1, -1, -1)]
                ),
                "you play the sequence again, and motion that never happened with it; add zeros": (
                    flow[torch.arange(frames) % steps]
                ),
                "your zeros come first; the clip starts moving and then ends, so add them at the end": torch.cat(
                    [rest, flow]
                ),
            },
            given=f"for {steps} fields, {frames=}",
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
                "planes = F.interpolate(flow with u and v as channels, (height, width),"
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
    "adjust_length": Exercise(
        solution="course_lib.data.flow:adjust_length",
        hints=(
            (
                "There are two cases. Too long: which part matters most? Too short: what does a"
                " clip that has ended do?"
            ),
            (
                "(steps, height, width, 2) and a number → (frames, height, width, 2), whichever of"
                " the two is larger."
            ),
            (
                "start = (steps - frames) // 2, but at least 0; cut out flow[start:start + frames];"
                " append zeros until there are `frames` fields"
            ),
        ),
        properties=(long_sequences_keep_their_middle, short_sequences_end_in_rest),
    ),
}
