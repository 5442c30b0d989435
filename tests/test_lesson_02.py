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


RIGHT = {
    "end_point_error": [
        lambda e, t, valid: torch.hypot(*(e - t)[valid].T).mean(),
        lambda e, t, valid: ((e - t).norm(dim=-1) * valid).sum().item() / valid.sum().item(),
    ],
    "resize_flow": [
        resized,
        lambda flow, h, w: resized(flow, h, w, mode="bicubic", antialias=True),
    ],
    "clip_and_scale": [lambda flow, limit: torch.clamp(flow / limit, -1, 1)],
    "adjust_length": [padded],
}


WRONG = {
    "end_point_error": {
        "you average over all pixels": lambda e, t, v: (e - t).norm(dim=-1).mean(),
        "still count them": lambda e, t, v: ((e - t).norm(dim=-1) * v).mean(),
        "pixels that are *not* valid": lambda e, t, v: (e - t).norm(dim=-1)[~v].mean(),
        "this is the sum": lambda e, t, v: (e - t).norm(dim=-1)[v].sum(),
        "the mean of the squares": lambda e, t, v: (e - t).square().sum(-1)[v].mean(),
        "*sum* over the last axis": lambda e, t, v: (e - t)[v].square().mean(1).sqrt().mean(),
        "the root after the mean": lambda e, t, v: (e - t)[v].square().sum(1).mean().sqrt(),
        "you add |u| and |v|": lambda e, t, v: (e - t)[v].abs().sum(1).mean(),
        "you average |u| and |v|": lambda e, t, v: (e - t)[v].abs().mean(),
        "errors to the left and to the right cancel": lambda e, t, v: (e - t)[v].mean(0).norm(),
        "subtract the vectors": lambda e, t, v: (e.norm(dim=-1) - t.norm(dim=-1))[v].abs().mean(),
        "expected one number, came a Tensor of shape (3, 6, 5)": lambda e, t, v: (e - t).norm(
            dim=-1
        ),
        "expected one number, came a list": lambda e, t, v: [0.0],
        "the number is not right": lambda e, t, v: 5.0,
    },
    "resize_flow": {
        "leave the vectors": lambda f, h, w: resized(f, h, w, (1, 1)),
        "factors are upside down": lambda f, h, w: resized(
            f, h, w, (f.shape[2] / w, f.shape[1] / h)
        ),
        "factors are swapped": lambda f, h, w: resized(f, h, w, ratio(f, h, w)),
        "both components by the width's": lambda f, h, w: resized(f, h, w, ratio(f, h, w)[1]),
        "both components by the height's": lambda f, h, w: resized(f, h, w, ratio(f, h, w)[0]),
        "you pick the nearest vector": lambda f, h, w: resized(f, h, w, mode="nearest"),
        "your corners are aligned": lambda f, h, w: resized(f, h, w, align_corners=True),
        "the numbers are not": lambda f, h, w: resized(
            f.permute(0, 3, 1, 2).reshape(f.shape), h, w
        ),
        "expected the shape (2, 6, 24, 2)": lambda f, h, w: resized(f, w, h),
        "came (2, 2, 6, 24)": lambda f, h, w: resized(f, h, w).permute(0, 3, 1, 2),
    },
    "clip_and_scale": {
        "you divide and do not clip": lambda flow, limit: flow / limit,
        "you clip and do not divide": lambda flow, limit: flow.clip(-limit, limit),
        "after the division the limit is 1": lambda flow, limit: (flow / limit).clip(-limit, limit),
        "this is min-max to [0, 1]": min_max,
        "this is min-max to [-1, 1]": lambda flow, limit: 2 * min_max(flow, limit) - 1,
        "this flow's own maximum": lambda flow, limit: flow / flow.abs().max(),
        "rest must stay 0": lambda flow, limit: ((flow / limit).clip(-1, 1) + 1) / 2,
        "motion to the left and up is negative": lambda flow, limit: (flow / limit).clip(0, 1),
        "clip u and v each": lambda flow, limit: (
            F.normalize(flow, dim=-1) * flow.norm(dim=-1, keepdim=True).clip(max=limit) / limit
        ),
        "use the `limit` that is passed": lambda flow, limit: flow.clip(-20, 20) / 20,
        "a still clip looks violent": lambda flow, limit: (
            flow.clip(-limit, limit) / flow.clip(-limit, limit).abs().max()
        ),
        "changes its input in place": lambda flow, limit: flow.clip_(-limit, limit) / limit,
    },
    "adjust_length": {
        "you keep the beginning": lambda flow, frames: padded(flow[:frames], frames),
        "you keep the end": lambda flow, frames: padded(flow[-frames:], frames),
        "you squeeze the whole sequence": lambda flow, frames: flow[
            torch.linspace(0, len(flow) - 1, frames).round().long()
        ],
        "cut the smaller half from the beginning": lambda flow, frames: padded(
            flow[max(0, len(flow) - frames + 1) // 2 :][:frames], frames
        ),
        "sequences of one length": lambda flow, frames: flow[max(0, (len(flow) - frames) // 2) :][
            :frames
        ],
        "you repeat the last field": lambda flow, frames: torch.cat(
            [padded(flow, min(frames, len(flow)))] + [flow[-1:]] * (frames - len(flow))
        ),
        "you play the sequence again": lambda flow, frames: padded(
            torch.cat([flow] * 8)[: max(frames, len(flow))], frames
        ),
        "add them at the end": lambda flow, frames: (
            padded(flow.flip(0), frames).flip(0) if len(flow) < frames else padded(flow, frames)
        ),
    },
}


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
