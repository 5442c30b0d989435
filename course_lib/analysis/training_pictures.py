"""A training run drawn from its log: losses, scores and learning rate over the epochs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .pictures import BLUE, GREY, HIGHLIGHT, Picture, blank_axes, open_axis

__all__ = ["plot_losses", "plot_training"]

_SCORES = {"valid_mae": "mean absolute error", "valid_ccc": "concordance (CCC)"}


def plot_training(log: Sequence[Mapping[str, float]]) -> Picture:
    """Curves of a log as `MetricLog` writes it, a row for each epoch; the best epoch is marked.

    Raises `ValueError` for an empty log. Used in lesson 06.
    """
    if not log:
        raise ValueError("the log has no epoch yet; train for at least one")
    epochs = [row["epoch"] for row in log]
    best = min(log, key=lambda row: row.get("valid_loss", row["loss"]))
    panels = [name for name in (*_SCORES, "learning_rate") if name in log[0]]
    figure, axes = blank_axes(1, 1 + len(panels), 3.1 * (1 + len(panels)), 2.7)
    for name, label, colour in (("loss", "training", GREY), ("valid_loss", "validation", BLUE)):
        if name in log[0]:
            axes[0, 0].plot(
                epochs, [row[name] for row in log], color=colour, label=label, marker=_dots(epochs)
            )
    open_axis(axes[0, 0], "loss", xlabel="epoch", yscale="log")
    axes[0, 0].yaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)),
        major_formatter="{x:.2g}",
        minor_locator=NullLocator(),
    )
    axes[0, 0].legend(frameon=False, fontsize=8)
    for axis, name in zip(axes[0, 1:], panels, strict=True):
        axis.plot(epochs, [row[name] for row in log], color=BLUE, marker=_dots(epochs))
        open_axis(axis, _SCORES.get(name, "learning rate"), xlabel="epoch")
    for axis in axes.flat:
        axis.axvline(best["epoch"], color=HIGHLIGHT, linestyle="--", linewidth=1)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    said = [
        f"Training loss went from {log[0]['loss']:.4f} to {log[-1]['loss']:.4f} in {len(log)}"
        " epochs"
    ]
    if "valid_loss" in best:
        said.append(
            f"validation loss was lowest, {best['valid_loss']:.4f}, in epoch {best['epoch']:.0f}"
            f" (dashed) and ended at {log[-1]['valid_loss']:.4f}"
        )
    said += [
        f"there, the {_SCORES[name]} was {best[name]:.3f}" for name in panels if name in _SCORES
    ]
    return Picture(figure, "; ".join(said) + ".")


def _dots(epochs: Sequence[float]) -> str | None:
    """Marks, where there are few epochs: a line of one point cannot be seen."""
    return "o" if len(epochs) < 8 else None


def plot_losses(curves: Mapping[str, Sequence[float]], xlabel: str = "step") -> Picture:
    """Several runs' losses in one picture, on a logarithmic axis. Used in lesson 06."""
    figure, axes = blank_axes(1, 1, 6.4, 2.8)
    colours = colormaps["viridis"](np.linspace(0, 0.6, len(curves)))
    for (name, values), colour, line in zip(curves.items(), colours, cycle(("-", "--", "-.", ":"))):
        axes[0, 0].plot(
            range(1, len(values) + 1), values, line, color=colour, label=name, linewidth=1.6
        )
    open_axis(axes[0, 0], "loss", xlabel=xlabel, yscale="log")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ends = "; ".join(
        f"{name}: from {values[0]:.3g} to {values[-1]:.3g}, lowest {min(values):.3g}"
        for name, values in curves.items()
    )
    return Picture(figure, f"The loss by {xlabel}. {ends}.")
