"""Pictures of a run, made from what is in its folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from .. import files
from ..pictures.attention import plot_attention_map, plot_heads
from ..pictures.base import Picture
from ..pictures.charts import lines
from ..pictures.report import time_report
from ..shapes import Float
from ..training.callbacks import read_log
from .runs import read_manifest

__all__ = ["curves", "visualize"]

DPI = 300


def visualize(
    run: str, *, format: Literal["png", "svg", "pdf"] = "png", clip: int = 0, output: str = ""
) -> list[Path]:
    """Draw the training curves of a run, where its time went and, if `evaluate --attention` stored
    it, its attention, at 300 dpi; returns the paths.

    Args:
        run: the run's folder
        format: of the pictures
        clip: the clip, of those evaluated, whose heads are drawn
        output: where to write; default: the run's folder, visualizations/
    """
    folder = Path(run)
    target = Path(output or folder / "visualizations")
    read_manifest(folder)  # says so where there is no run
    spent = time_report(log := read_log(folder))
    pictures = {"training": curves(log), "time": spent.picture}
    stored = folder / "evaluation" / "attention.safetensors"
    if stored.exists():
        pictures |= _attention(files.load_tensors(stored)[0]["attention"].float(), clip)
    paths = []
    for name, picture in pictures.items():
        paths.append(picture.save(target / f"{name}.{format}", DPI))
        print(f"{paths[-1]}: {picture.description}")
    for advice in spent.advice:
        print(advice)
    return paths


SCORES = {"valid_mae": "mean absolute error", "valid_ccc": "concordance (CCC)"}


def curves(log: Sequence[Mapping[str, float]]) -> Picture:
    """The losses, scores and learning rate of a log as `MetricLog` writes it, and its best epoch."""
    best = min(log, key=lambda row: row.get("valid_loss", row["loss"]))
    titles = {"loss": {"training": "loss", "validation": "valid_loss"}}
    titles |= {title: {title: name} for name, title in SCORES.items()}
    titles |= {"learning rate": {"learning rate": "learning_rate"}}
    panels = {}
    for title, columns in titles.items():
        logged = {name: key for name, key in columns.items() if key in log[0]}
        if logged:
            panels[title] = {
                name: [row.get(key, math.nan) for row in log] for name, key in logged.items()
            }
    epochs, marks = [row["epoch"] for row in log], {"lowest loss": best["epoch"]}
    return lines(panels, epochs, marks=marks, xlabel="epoch", yscale={"loss": "log"})


def _attention(weights: Float[Tensor, "batch heads queries keys"], clip: int) -> dict[str, Picture]:
    """The mean over all clips, and the heads of one."""
    if weights.shape[-1] == 1:
        print("there is one key, so every weight is 1 and there is nothing to draw (lesson 04)")
        return {}
    if not 0 <= clip < len(weights):
        raise ValueError(
            f"there is no clip {clip} among the {len(weights)} that were evaluated; choose 0 to "
            f"{len(weights) - 1}"
        )
    return {
        "attention": plot_attention_map(
            weights.mean(dim=0), title=f"Mean attention of {len(weights)} clips"
        ),
        "heads": plot_heads(weights[clip], f"Attention of clip {clip}"),
    }
