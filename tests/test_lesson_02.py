"""Lesson 02: its exercises know right from wrong, its pictures state their numbers, and it runs on
real videos.
"""

import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from test_lesson_00 import shown

from course_lib.data import clip_and_scale
from course_lib.pictures import (
    flow_colours,
    plot_flow_wheel,
    plot_scalings,
)

LESSON = Path(__file__).parent.parent / "notebooks" / "02_optical_flow.ipynb"
REAL = os.environ.get("COURSE_REAL_CLIPS")


def resized(flow, height, width, factor=None, **how):
    planes = F.interpolate(flow.permute(0, 3, 1, 2), (height, width), **{"mode": "bilinear", **how})
    factor = (width / flow.shape[2], height / flow.shape[1]) if factor is None else factor
    return planes.permute(0, 2, 3, 1) * torch.tensor(factor)


def ratio(flow, height, width):
    return height / flow.shape[1], width / flow.shape[2]


def padded(flow, frames):
    cut = max(0, len(flow) - frames) // 2
    return F.pad(flow[cut : cut + frames], (0, 0, 0, 0, 0, 0, 0, max(0, frames - len(flow))))


def min_max(flow, limit):
    low, high = flow.amin((1, 2, 3), keepdim=True), flow.amax((1, 2, 3), keepdim=True)
    return (flow - low) / (high - low)


RIGHT = [
    ("end_point_error", lambda e, t, valid: torch.hypot(*(e - t)[valid].T).mean()),
    (
        "end_point_error",
        lambda e, t, valid: ((e - t).norm(dim=-1) * valid).sum().item() / valid.sum().item(),
    ),
    ("resize_flow", resized),
    ("resize_flow", lambda flow, h, w: resized(flow, h, w, mode="bicubic", antialias=True)),
    ("clip_and_scale", lambda flow, limit: torch.clamp(flow / limit, -1, 1)),
    ("adjust_length", padded),
]


WRONG = [
    ("end_point_error", lambda e, t, v: (e - t).norm(dim=-1).mean(), "you average over all pixels"),
    ("end_point_error", lambda e, t, v: ((e - t).norm(dim=-1) * v).mean(), "still count them"),
    (
        "end_point_error",
        lambda e, t, v: (e - t).norm(dim=-1)[~v].mean(),
        "pixels that are *not* valid",
    ),
    ("end_point_error", lambda e, t, v: (e - t).norm(dim=-1)[v].sum(), "this is the sum"),
    (
        "end_point_error",
        lambda e, t, v: (e - t).square().sum(-1)[v].mean(),
        "the mean of the squares",
    ),
    (
        "end_point_error",
        lambda e, t, v: (e - t)[v].square().mean(1).sqrt().mean(),
        "*sum* over the last axis",
    ),
    (
        "end_point_error",
        lambda e, t, v: (e - t)[v].square().sum(1).mean().sqrt(),
        "the root after the mean",
    ),
    ("end_point_error", lambda e, t, v: (e - t)[v].abs().sum(1).mean(), "you add |u| and |v|"),
    ("end_point_error", lambda e, t, v: (e - t)[v].abs().mean(), "you average |u| and |v|"),
    (
        "end_point_error",
        lambda e, t, v: (e - t)[v].mean(0).norm(),
        "errors to the left and to the right cancel",
    ),
    (
        "end_point_error",
        lambda e, t, v: (e.norm(dim=-1) - t.norm(dim=-1))[v].abs().mean(),
        "subtract the vectors",
    ),
    (
        "end_point_error",
        lambda e, t, v: (e - t).norm(dim=-1),
        "expected one number, came a Tensor of shape (3, 6, 5)",
    ),
    ("end_point_error", lambda e, t, v: [0.0], "expected one number, came a list"),
    ("end_point_error", lambda e, t, v: 5.0, "the number is not right"),
    ("resize_flow", lambda f, h, w: resized(f, h, w, (1, 1)), "leave the vectors"),
    (
        "resize_flow",
        lambda f, h, w: resized(f, h, w, (f.shape[2] / w, f.shape[1] / h)),
        "factors are upside down",
    ),
    ("resize_flow", lambda f, h, w: resized(f, h, w, ratio(f, h, w)), "factors are swapped"),
    (
        "resize_flow",
        lambda f, h, w: resized(f, h, w, ratio(f, h, w)[1]),
        "both components by the width's",
    ),
    (
        "resize_flow",
        lambda f, h, w: resized(f, h, w, ratio(f, h, w)[0]),
        "both components by the height's",
    ),
    (
        "resize_flow",
        lambda f, h, w: resized(f, h, w, mode="nearest"),
        "you pick the nearest vector",
    ),
    (
        "resize_flow",
        lambda f, h, w: resized(f, h, w, align_corners=True),
        "your corners are aligned",
    ),
    (
        "resize_flow",
        lambda f, h, w: resized(f.permute(0, 3, 1, 2).reshape(f.shape), h, w),
        "the numbers are not",
    ),
    ("resize_flow", lambda f, h, w: resized(f, w, h), "expected the shape (2, 6, 24, 2)"),
    ("resize_flow", lambda f, h, w: resized(f, h, w).permute(0, 3, 1, 2), "came (2, 2, 6, 24)"),
    ("clip_and_scale", lambda flow, limit: flow / limit, "you divide and do not clip"),
    ("clip_and_scale", lambda flow, limit: flow.clip(-limit, limit), "you clip and do not divide"),
    (
        "clip_and_scale",
        lambda flow, limit: (flow / limit).clip(-limit, limit),
        "after the division the limit is 1",
    ),
    ("clip_and_scale", min_max, "this is min-max to [0, 1]"),
    (
        "clip_and_scale",
        lambda flow, limit: 2 * min_max(flow, limit) - 1,
        "this is min-max to [-1, 1]",
    ),
    ("clip_and_scale", lambda flow, limit: flow / flow.abs().max(), "this flow's own maximum"),
    (
        "clip_and_scale",
        lambda flow, limit: ((flow / limit).clip(-1, 1) + 1) / 2,
        "rest must stay 0",
    ),
    (
        "clip_and_scale",
        lambda flow, limit: (flow / limit).clip(0, 1),
        "motion to the left and up is negative",
    ),
    (
        "clip_and_scale",
        lambda flow, limit: (
            F.normalize(flow, dim=-1) * flow.norm(dim=-1, keepdim=True).clip(max=limit) / limit
        ),
        "clip u and v each",
    ),
    (
        "clip_and_scale",
        lambda flow, limit: flow.clip(-20, 20) / 20,
        "use the `limit` that is passed",
    ),
    (
        "clip_and_scale",
        lambda flow, limit: flow.clip(-limit, limit) / flow.clip(-limit, limit).abs().max(),
        "a still clip looks violent",
    ),
    (
        "clip_and_scale",
        lambda flow, limit: flow.clip_(-limit, limit) / limit,
        "changes its input in place",
    ),
    ("adjust_length", lambda flow, frames: padded(flow[:frames], frames), "you keep the beginning"),
    ("adjust_length", lambda flow, frames: padded(flow[-frames:], frames), "you keep the end"),
    (
        "adjust_length",
        lambda flow, frames: flow[torch.linspace(0, len(flow) - 1, frames).round().long()],
        "you squeeze the whole sequence",
    ),
    (
        "adjust_length",
        lambda flow, frames: padded(flow[max(0, len(flow) - frames + 1) // 2 :][:frames], frames),
        "cut the smaller half from the beginning",
    ),
    (
        "adjust_length",
        lambda flow, frames: flow[max(0, (len(flow) - frames) // 2) :][:frames],
        "sequences of one length",
    ),
    (
        "adjust_length",
        lambda flow, frames: torch.cat(
            [padded(flow, min(frames, len(flow)))] + [flow[-1:]] * (frames - len(flow))
        ),
        "you repeat the last field",
    ),
    (
        "adjust_length",
        lambda flow, frames: padded(torch.cat([flow] * 8)[: max(frames, len(flow))], frames),
        "you play the sequence again",
    ),
    (
        "adjust_length",
        lambda flow, frames: (
            padded(flow.flip(0), frames).flip(0) if len(flow) < frames else padded(flow, frames)
        ),
        "add them at the end",
    ),
]


# Pictures


def test_the_wheel_shows_the_colours_of_flow(tmp_path):
    wheel = plot_flow_wheel()
    assert wheel.save(tmp_path / "wheel.png").stat().st_size > 3000
    disc = np.asarray(wheel.figure.axes[0].images[0].get_array())
    assert (disc[0, 0] == 255).all()
    for row, column, vector in ((80, 150, (0.875, 0)), (150, 80, (0, 0.875)), (80, 80, (0, 0))):
        expected = flow_colours(np.float32(vector).reshape(1, 1, 2), 1)[0, 0]
        assert np.abs(disc[row, column].astype(int) - expected).max() <= 3


def test_scalings_state_what_they_show(tmp_path):
    flow = torch.zeros(2, 10, 10, 2)
    flow[0, 0, 0] = torch.tensor([-25.0, 0])
    flow[1, 0, :4, 1] = 3.0
    frame = np.zeros((10, 10, 3), np.uint8)
    scalings = plot_scalings(
        {"fast": (frame, flow[0]), "still": (frame, flow[1])},
        {"clipped": clip_and_scale, "raw": lambda field: field},
    )
    assert (
        "clipped, fast: from -1.00 to 0.00; clipped, still: from 0.00 to 0.00; raw, fast: from -25"
        in str(scalings)
    )
    assert scalings.save(tmp_path / "scalings.png").stat().st_size > 3000


# The notebook


def run(video, *cells):
    """The named cells of the lesson, run on a video of the reader's own."""
    notebook = nbformat.read(LESSON, as_version=4)
    next(cell for cell in notebook.cells if cell.id == "form").source = f"VIDEO = {str(video)!r}"
    notebook.cells = [
        cell for cell in notebook.cells if cell.id in ("setup", "form", "read", *cells)
    ]
    return NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True).execute()


@pytest.mark.skipif(not REAL, reason="COURSE_REAL_CLIPS names no folder of real clips")
@pytest.mark.parametrize("name", ["bbaf2n.mpg", "swiz3n.mpg"])
def test_it_runs_on_a_real_video(name):
    notebook = run(
        Path(REAL) / name, "track", "crops", "loader", "cached", "windows", "batches", "movie"
    )
    assert "75 frames of 360 × 288 px, 25 per second" in shown(notebook, "read")
    assert f"The tracked face in 6 frames of {name}" in shown(notebook, "track")
    assert "8 windows: face (3, 112, 112), flow (16, 112, 112, 2)" in shown(notebook, "loader")
    assert "The face and its flow" in shown(notebook, "movie")


def test_a_video_that_is_not_there_is_said(tmp_path):
    notebook = run(tmp_path / "mine.mp4")
    errors = [
        output.evalue
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert len(errors) == 1
    assert re.fullmatch(
        r"no video file .*mine\.mp4; check the path, and that the upload has finished", errors[0]
    )
