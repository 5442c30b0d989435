"""Lesson 00: answers to its exercises, right and wrong; and the lesson on a video of the reader's own."""

import os
import re
from pathlib import Path

import nbformat
import pytest
import torch
from einops import rearrange
from nbclient import NotebookClient

from course_lib import setup

LESSON = Path(__file__).parent.parent / "notebooks" / "00_start_here.ipynb"


def transposed(feature_map):
    batch, channels, height, width = feature_map.shape
    return feature_map.permute(0, 2, 3, 1).reshape(batch, height * width, channels)


def averaged(prediction, target):
    return 1 - torch.stack(
        [torch.nn.functional.l1_loss(p, t) for p, t in zip(prediction.T, target.T, strict=True)]
    )


def expanded(train_targets, count):
    return train_targets.mean(0, keepdim=True).expand(count, -1)


RIGHT = {
    "to_tokens": [transposed, lambda feature_map: feature_map.flatten(2).mT],
    "mean_accuracy": [averaged],
    "floor_prediction": [expanded],
    "area_share": [
        lambda regions: regions.sum((1, 2)) / regions[0].numel(),
        lambda regions: regions.double().mean((1, 2)),
    ],
}


WRONG = {
    "to_tokens": {
        "channels come before your tokens": lambda x: x.flatten(2),
        "move no axis": lambda x: x.reshape(x.shape[0], -1, x.shape[1]),
        "down the columns": lambda x: x.permute(0, 3, 2, 1).flatten(1, 2),
        "keep the batch axis": lambda x: x.permute(0, 2, 3, 1).flatten(0, 2),
        r"expected the shape (2, 12, 5), got (2, 5)": lambda x: x.mean((2, 3)),
        "no gradient reaches the input": lambda x: x.flatten(2).mT.detach(),
        "expected the dtype torch.float64, got torch.float32": lambda x: x.flatten(2).mT.float(),
        "the shape is right, the numbers are not: at [0, 0, 0]": lambda x: torch.zeros(2, 12, 5),
        "raises EinopsError": lambda x: rearrange(x, "b c (h k) w -> b (h k w) c", k=3),
        "changes its input in place": lambda x: x.relu_().flatten(2).mT,
    },
    "mean_accuracy": {
        "mixes all traits": lambda p, t: 1 - (p - t).abs().mean(),
        "average over the batch (dim=0)": lambda p, t: 1 - (p - t).abs().mean(1),
        "the accuracy is 1 minus it": lambda p, t: (p - t).abs().mean(0),
        "take the absolute value first": lambda p, t: 1 - (p - t).mean(0),
        "before the mean, not after": lambda p, t: 1 - (p - t).mean(0).abs(),
        "you square the errors": lambda p, t: 1 - (p - t).square().mean(0),
        "you sum over the batch": lambda p, t: 1 - (p - t).abs().sum(0),
        "for inputs of shape (1, 5), the shape is right": lambda p, t: 1 - (p - t).abs().sum(0) / 7,
        "expected a tensor, got a list": lambda p, t: (1 - (p - t).abs().mean(0)).tolist(),
        "no gradient reaches": lambda p, t: 1 - (p - t.requires_grad_()).detach().abs().mean(0),
    },
    "floor_prediction": {
        "you return one row": lambda t, n: t.mean(0),
        "your axes are swapped": lambda t, n: t.mean(0)[:, None].expand(-1, n),
        "once for each training item": lambda t, n: t.mean(0).expand_as(t),
        "one number for all traits": lambda t, n: t.mean().expand(n, t.shape[1]),
        "best constant for the absolute error; the floor of this course is the mean": lambda t, n: (
            t.median(0).values.expand(n, -1)
        ),
        "training items, not their mean": lambda t, n: t[:n],
        "for 1 × 5 targets and count=3, expected the shape": lambda t, n: t.mean(0).expand(4, 5),
    },
    "area_share": {
        "divide by the number of pixels": lambda r: r.sum((1, 2)).float(),
        "mixes all regions": lambda r: r.float().mean(),
        "you average over the regions": lambda r: r.float().mean(0),
        "height and width both go": lambda r: r.float().mean(2),
        "the share outside": lambda r: (~r).float().mean((1, 2)),
        "compare it with the image": lambda r: r.sum((1, 2)) / r.sum(),
        "the numbers are not": lambda r: r.sum((1, 2)) / r.shape[1] ** 2,
    },
}


def shown(notebook, cell_id: str) -> str:
    """All text and HTML that the cell of this id put out."""
    cell = next(cell for cell in notebook.cells if cell.id == cell_id)
    return "\n".join(
        str(output.get("text", "") or output.get("data", {})) for output in cell.outputs
    )


@pytest.mark.skipif(
    "COURSE_REAL_CLIPS" not in os.environ, reason="COURSE_REAL_CLIPS names no folder of real clips"
)
def test_the_finished_model_runs_on_a_real_video():
    notebook = nbformat.read(LESSON, as_version=4)
    last = next(index for index, cell in enumerate(notebook.cells) if cell.id == "attention")
    notebook.cells = notebook.cells[: last + 1]
    form = next(cell for cell in notebook.cells if cell.id == "source")
    video = Path(os.environ["COURSE_REAL_CLIPS"]) / "swiz3n.mpg"
    form.source = f'SOURCE, VIDEO, CLIP = "my video", {str(video)!r}, 33'
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert "The tracked face in 6 frames of swiz3n.mpg" in shown(notebook, "track")
    assert "Optical flow between two frames" in shown(notebook, "flow")
    assert "predicted: Openness" in shown(notebook, "traits")
    assert "Attention over the 8 moments" in shown(notebook, "attention")
    assert "deciding moment" not in shown(notebook, "attention")  # nobody knows it


def test_attention_finds_the_moment_and_an_average_does_not():
    cells = {cell.id: cell.source for cell in nbformat.read(LESSON, as_version=4).cells}
    names = {"rt": setup(quiet=True)}
    for cell_id in ("tokens", "average", "train", "effects", "attend"):
        exec(cells[cell_id], names)
    shares = {
        name: names["right"](names[name]).float().mean() for name in ("averaging", "attending")
    }
    assert shares["averaging"] < 0.35
    assert shares["attending"] > 0.8


def test_the_paths_are_those_of_the_readme():
    readme = (LESSON.parent.parent / "README.md").read_text(encoding="utf-8")
    path = re.compile(
        r"(personality|imbalance|interpretability)[*]* ?[:(] ?([0-9to, ]+[0-9])", re.I
    )
    cell = next(
        cell for cell in nbformat.read(LESSON, as_version=4).cells if cell.id == "clip-after"
    )
    here = {name.lower(): lessons for name, lessons in path.findall(cell.source)}
    there = dict(path.findall(readme.split("paths**: ")[1].split("\n\n")[0]))
    assert here == there
    assert len(here) == 3
