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
    field = F.interpolate(flow.permute(0, 3, 1, 2), (height, width), **{"mode": "bilinear", **how})
    factor = (width / flow.shape[2], height / flow.shape[1]) if factor is None else factor
    return field.permute(0, 2, 3, 1) * torch.tensor(factor)


def ratio(flow, height, width):
    return height / flow.shape[1], width / flow.shape[2]


def min_max(flow, limit):
    low, high = flow.amin((1, 2, 3), keepdim=True), flow.amax((1, 2, 3), keepdim=True)
    return (flow - low) / (high - low)


def flattened(ix, iy, it):
    """The equations of one window, as a matrix of pixels by 2 and a right-hand side."""
    return torch.stack([ix.flatten(), iy.flatten()], 1), -it.flatten()


def solved(matrix, target):
    return torch.linalg.solve(matrix, target)


def normal(ix, iy, it):
    equations, target = flattened(ix, iy, it)
    return equations.T @ equations, equations.T @ target


def averages(ix, iy, it, window):
    """a, b, c, p and q of the lesson, by a convolution that counts only pixels inside."""
    products = torch.stack([ix * ix, ix * iy, iy * iy, -ix * it, -iy * it], 1)
    pooled = F.avg_pool2d(products, window, 1, window // 2, count_include_pad=False)
    return pooled.unbind(1)


def cramer(a, b, c, p, q, minus=1):
    return torch.stack([c * p - b * q, a * q - b * p], -1) / (a * c - minus * b * b)[..., None]


def by_solve(ix, iy, it, window=13, damping=10.0):
    a, b, c, p, q = averages(ix, iy, it, window)
    matrix = torch.stack([a + damping, b, b, c + damping], -1).unflatten(-1, (2, 2))
    return torch.linalg.solve(matrix, torch.stack([p, q], -1))


def undamped(ix, iy, it, window=13, damping=10.0):
    return cramer(*averages(ix, iy, it, window))


def damped_everywhere(ix, iy, it, window=13, damping=10.0):
    a, b, c, p, q = averages(ix, iy, it, window)
    return cramer(a + damping, b + damping, c + damping, p, q)


def plus_in_the_determinant(ix, iy, it, window=13, damping=10.0):
    a, b, c, p, q = averages(ix, iy, it, window)
    return cramer(a + damping, b, c + damping, p, q, minus=-1)


def apart(ix, iy, it, window=13, damping=10.0):
    a, _, c, p, q = averages(ix, iy, it, window)
    return torch.stack([p / (a + damping), q / (c + damping)], -1)


RIGHT = {
    "lucas_kanade": [
        lambda ix, iy, it: torch.linalg.lstsq(
            *(x[..., None] if x.ndim == 1 else x for x in flattened(ix, iy, it))
        ).solution[:, 0],
        lambda *window: torch.linalg.inv(normal(*window)[0]) @ normal(*window)[1],
    ],
    "dense_flow": [by_solve],
    "end_point_error": [
        lambda e, t, valid: torch.hypot(*(e - t)[valid].T).mean(),
        lambda e, t, valid: ((e - t).norm(dim=-1) * valid).sum().item() / valid.sum().item(),
    ],
    "resize_flow": [
        resized,
        lambda flow, h, w: resized(flow, h, w, mode="bicubic", antialias=True),
    ],
    "clip_and_scale": [lambda flow, limit: torch.clamp(flow / limit, -1, 1)],
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
        "expected one number, got a Tensor of shape (3, 6, 5)": lambda e, t, v: (e - t).norm(
            dim=-1
        ),
        "expected one number, got a list": lambda e, t, v: [0.0],
        "the number is not right": lambda e, t, v: 5.0,
    },
    "lucas_kanade": {
        "your step points the wrong way": lambda ix, iy, it: solved(*normal(ix, iy, -it)),
        "you return (v, u)": lambda ix, iy, it: solved(*normal(iy, ix, it)),
        "you solve for u and for v apart": lambda *window: (
            normal(*window)[1] / normal(*window)[0].diagonal()
        ),
        "this is the right-hand side": lambda *window: normal(*window)[1],
        "you multiply by the matrix": lambda *window: torch.mv(*normal(*window)),
        "you solve each pixel alone": lambda ix, iy, it: torch.stack(
            [(-it * ix / (ix**2 + iy**2)).mean(), (-it * iy / (ix**2 + iy**2)).mean()]
        ),
        "expected the shape (2,), got (2, 1)": lambda *window: solved(*normal(*window))[:, None],
    },
    "dense_flow": {
        "your steps point the wrong way": lambda ix, iy, it, *o: by_solve(ix, iy, -it, *o),
        "you return (v, u)": lambda ix, iy, it, *o: by_solve(iy, ix, it, *o),
        "you leave `damping` out": undamped,
        "on the diagonal, to a and c": damped_everywhere,
        "you solve for u and for v apart": apart,
        "with a minus": plus_in_the_determinant,
        "take means": lambda ix, iy, it, w=13, d=10.0: by_solve(ix, iy, it, w, d / w**2),
        "every pixel is solved alone": lambda ix, iy, it, w=13, d=10.0: by_solve(ix, iy, it, 1, d),
        "use the `window` that is passed": lambda ix, iy, it, w=13, d=10.0: by_solve(
            ix, iy, it, 13, d
        ),
        "use the `damping` that is passed": lambda ix, iy, it, w=13, d=10.0: by_solve(
            ix, iy, it, w
        ),
        "expected the shape (2, 24, 20, 2)": lambda *window: by_solve(*window).movedim(-1, 1),
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
        "mode='area' does that": lambda f, h, w: (
            F.interpolate(f.permute(0, 3, 1, 2), (h, w), mode="area").permute(0, 2, 3, 1)
            * torch.tensor([w / f.shape[2], h / f.shape[1]])
        ),
        "your corners are aligned": lambda f, h, w: resized(f, h, w, align_corners=True),
        "the numbers are not": lambda f, h, w: resized(
            f.permute(0, 3, 1, 2).reshape(f.shape), h, w
        ),
        "expected the shape (2, 6, 24, 2)": lambda f, h, w: resized(f, w, h),
        "got (2, 2, 6, 24)": lambda f, h, w: resized(f, h, w).permute(0, 3, 1, 2),
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
    imported_before = "import cv2, numpy as np; from course_lib.pictures import Animation"
    form = next(cell for cell in notebook.cells if cell.id == "form")
    form.source = f"{imported_before}\nVIDEO = {str(video)!r}"
    notebook.cells = [
        cell for cell in notebook.cells if cell.id in ("setup", "form", "read", *cells)
    ]
    return NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True).execute()


@pytest.mark.skipif(not REAL, reason="COURSE_REAL_CLIPS names no folder of real clips")
@pytest.mark.parametrize("name", ["bbaf2n.mpg", "swiz3n.mpg"])
def test_it_runs_on_a_real_video(name):
    notebook = run(Path(REAL) / name, "track", "crops", "loader", "batches", "movie")
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
