"""Pictures of training: losses, the log of a run, and where its time went."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ..training.callbacks import epochs_since_best, read_log
from .base import BLUE, GREY, HIGHLIGHT, Picture, blank_axes, open_axis

__all__ = ["TimeReport", "plot_losses", "plot_training", "time_report"]

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


PARTS = ("data", "forward", "backward", "step", "validation", "callbacks")

WAITING, VALIDATING, COMPUTING = 0.3, 0.3, 0.5  # shares of the time from which on advice is given

SMALL = 0.002  # seconds; an MLP takes .5 ms for 8 items and .6 ms for 128

LATE, LATE_SHARE = 5, 1 / 3  # epochs since the best, and their share of all


class TimeReport(NamedTuple):
    """A picture of where the time went, and a sentence for each thing that would save some of it."""

    picture: Picture
    advice: list[str]

    def __str__(self) -> str:
        return "\n".join([self.picture.description, *self.advice])


def time_report(log: str | Path | Sequence[Mapping]) -> TimeReport:
    """Read a run's log (a folder, its `log.csv`, or rows of one), as `MetricLog` and `Timing` write
    it.

    Advice is given where waiting for data takes over 30 % of the training; where a batch takes less
    than 2 ms; where validation takes over 30 % of all; where at least 5 epochs and a third of all
    came after the best `valid_loss`; and where forward and backward take over half on a GPU in full
    precision. Raises FileNotFoundError without a log, ValueError for one without an epoch or
    without `Timing`. Derived in lesson 06.
    """
    rows = read_log(log) if isinstance(log, str | Path) else list(log)
    if not rows or "seconds_data" not in rows[-1]:
        raise ValueError(
            f"the log has {len(rows)} epochs and no seconds; run at least one epoch with Timing()"
            " among the callbacks"
        )
    seconds = {
        part: np.array([float(row.get(f"seconds_{part}") or 0) for row in rows]) for part in PARTS
    }
    spent = {part: float(values.sum()) for part, values in seconds.items()}
    return TimeReport(_picture(seconds, spent), _advice(rows, seconds, spent))


def _advice(
    rows: Sequence[Mapping], seconds: Mapping[str, np.ndarray], spent: Mapping[str, float]
) -> list[str]:
    total, learning = sum(spent.values()), spent["forward"] + spent["backward"] + spent["step"]
    batches, last, advice = sum(float(row["batches"]) for row in rows), rows[-1], []
    if (share := spent["data"] / (spent["data"] + learning)) > WAITING:
        advice.append(
            f"Waiting for data takes {share:.0%} of the training: give the loader num_workers, or"
            " cache what it computes."
        )
    if (each := learning / batches) < SMALL:
        advice.append(
            f"A batch takes {1000 * each:.1f} ms, most of them Python's own: a larger batch takes"
            " hardly longer."
        )
    if (share := spent["validation"] / total) > VALIDATING:
        advice.append(
            f"Validation takes {share:.0%} of the time: validate on a fixed part of the items, or"
            " in larger batches."
        )
    if last.get("valid_loss"):
        waited = epochs_since_best([float(row["valid_loss"]) for row in rows])
        best = len(rows) - waited
        late = sum(float(values[best:].sum()) for values in seconds.values())
        if waited >= max(LATE, LATE_SHARE * len(rows)):
            advice.append(
                f"The validation loss was lowest after epoch {best} of {len(rows)}: what came after"
                f" took {late / total:.0%} of the time, so stop earlier (EarlyStopping) or lower"
                " the learning rate there (Plateau)."
            )
    share = (spent["forward"] + spent["backward"]) / total
    if float(last["gpu"]) and not float(last["mixed_precision"]) and share > COMPUTING:
        advice.append(
            f"Forward and backward take {share:.0%} of the time in full precision: give fit "
            'precision="bf16", or "fp16" on GPUs older than 2020.'
        )
    return advice


def _picture(seconds: Mapping[str, np.ndarray], spent: Mapping[str, float]) -> Picture:
    """A column an epoch, stacked from the parts, with each part's share of the whole run beside."""
    total, epochs = sum(spent.values()), len(seconds["data"])
    shares = {part: f"{part} {value / total:.0%}" for part, value in spent.items()}
    figure, axes = blank_axes(1, 1, 7.2, 2.8)
    axis, at = axes[0, 0], np.arange(1, epochs + 1)
    below = np.zeros(epochs)
    for part, colour in zip(
        PARTS, colormaps["viridis"](np.linspace(0.05, 0.95, len(PARTS))), strict=True
    ):
        axis.bar(at, seconds[part], 0.85, below, color=colour, label=shares[part])
        below = below + seconds[part]
    open_axis(axis, xlabel="epoch", ylabel="seconds", xlim=(0.4, epochs + 0.6))
    axis.xaxis.set_major_locator(MaxNLocator(min(epochs, 12), integer=True))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, reverse=True)
    return Picture(
        figure,
        f"Where {total:.1f} s of training went in {epochs} epochs: {', '.join(shares.values())}.",
    )
