"""The exercises of lesson 03: right answers pass however they are written, wrong ones read their
mistake.
"""

import torch
from einops import reduce, repeat
from torch import nn

from course_lib.lessons.lesson_03 import EXERCISES


def stacked(kernel, time):
    return torch.stack([kernel / time] * time, dim=2)


def looped(flat, inflated, image, frames):
    expected = flat(image)
    video = inflated(torch.stack([image] * frames, dim=2))
    return (
        torch.stack([(video[:, :, step] - expected).abs().max() for step in range(video.shape[2])])
        / expected.abs().max()
    )


def still(image, frames):
    return repeat(
        image, "batch channels height width -> batch channels frames height width", frames=frames
    )


def difference(flat, inflated, image, frames):
    return inflated(still(image, frames)) - flat(image)[:, :, None]


def largest(flat, image):
    return flat(image).abs().max()


RIGHT = {
    "inflate_kernel": [
        stacked,
        lambda kernel, time: kernel[:, :, None].expand(-1, -1, time, -1, -1) / time,
    ],
    "boring_video_errors": [looped],
    "time_tokens": [
        lambda volume: volume.mean((-1, -2)).transpose(1, 2),
        lambda volume: torch.stack([step.mean((2, 3)) for step in volume.unbind(2)], dim=1),
    ],
    "dead_dimensions": [
        lambda features: features.std(0) < 1e-6 * features.abs().amax().clamp(min=1e-12),
        lambda features: ((features - features[0]).abs() <= 1e-6 * features.abs().max()).all(0),
    ],
}


def middle_only(kernel, time):
    inflated = kernel.new_zeros(*kernel.shape[:2], time, *kernel.shape[2:])
    inflated[:, :, time // 2] = kernel
    return inflated


def scaled_frames(flat, inflated, image, frames):
    return (inflated(still(image, frames) / frames) - flat(image)[:, :, None]).abs().amax(
        (0, 1, 3, 4)
    ) / largest(flat, image)


WRONG = {
    "inflate_kernel": {
        "divide by `time`": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1),
        "you divide by 3": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1) / k.shape[-1],
        "one more side": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1) / t / k.shape[-1],
        "never sees motion": middle_only,
        "time axis comes last": lambda k, t: k[..., None].repeat(1, 1, 1, 1, t) / t,
        "before the channels": lambda k, t: k[:, None].repeat(1, t, 1, 1, 1) / t,
        "makes more channels": lambda k, t: k.repeat(1, t, 1, 1) / t,
        "no gradient reaches": lambda k, t: stacked(k.detach(), t),
        "dtype": lambda k, t: stacked(k, t).float(),
    },
    "boring_video_errors": {
        "as a share of": lambda f, i, x, n: difference(f, i, x, n).abs().amax((0, 1, 3, 4)),
        "for each time": lambda f, i, x, n: difference(f, i, x, n).abs().max() / largest(f, x),
        "cancel": lambda f, i, x, n: difference(f, i, x, n).mean((0, 1, 3, 4)) / largest(f, x),
        "no place can hide": lambda f, i, x, n: (
            difference(f, i, x, n).abs().mean((0, 1, 3, 4)) / largest(f, x)
        ),
        "may be too small": lambda f, i, x, n: (
            difference(f, i, x, n).amax((0, 1, 3, 4)) / largest(f, x)
        ),
        "*signed* value": lambda f, i, x, n: (
            difference(f, i, x, n).abs().amax((0, 1, 3, 4)) / f(x).max()
        ),
        "you reduce over time": lambda f, i, x, n: (
            difference(f, i, x, n).abs().amax((0, 1, 2, 3)) / largest(f, x)
        ),
        "numbers are not": scaled_frames,
        "for 12 frames, expected the shape (6,)": lambda f, i, x, n: looped(f, i, x, 16),
        "came a list": lambda f, i, x, n: looped(f, i, x, n).tolist(),
    },
    "time_tokens": {
        "channels come before your steps": lambda v: v.mean((3, 4)),
        "moves no axis": lambda v: v.mean((3, 4)).reshape(v.shape[0], v.shape[2], -1),
        "keep the time steps": lambda v: v.mean((2, 3, 4)),
        "you keep every place": lambda v: v.flatten(2).mT,
        "average over the channels": lambda v: v.mean(1).flatten(2),
        "maximum over places": lambda v: v.amax((3, 4)).mT,
        "sum over places": lambda v: v.sum((3, 4)).mT,
        "no gradient reaches": lambda v: reduce(v, "b c t h w -> b t c", "mean").detach(),
    },
    "dead_dimensions": {
        "turn it round": lambda f: f.std(0) > 1e-6 * f.abs().max(),
        "stuck at another value": lambda f: (f == 0).all(0),
        "one zero makes no dimension dead": lambda f: (f == 0).any(0),
        "compare the items": lambda f: f.amax(1) == f.amin(1),
        "you return where": lambda f: (f.amax(0) == f.amin(0)).nonzero().flatten(),
        "you return how many": lambda f: (f.amax(0) == f.amin(0)).sum(),
        "allow a millionth": lambda f: f.amax(0) == f.amin(0),
        "small features are all dead": lambda f: f.amax(0) - f.amin(0) < 1e-3,
        "came a list": lambda f: (f.amax(0) - f.amin(0) < 1e-6 * f.abs().max()).tolist(),
    },
}


def test_a_check_leaves_the_networks_alone():
    """An answer that trains, or leaves in training mode, would spoil what comes after it in the
    lesson.
    """
    flat = nn.Conv2d(1, 1, 3, padding=1).eval()
    before = flat.weight.clone()
    EXERCISES["boring_video_errors"].load_solution()(
        flat, nn.Conv3d(1, 1, 3, padding=1), torch.rand(1, 1, 6, 6), 4
    )
    assert torch.equal(flat.weight, before)
    assert not flat.training
