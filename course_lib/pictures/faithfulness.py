"""Pictures of whether maps can be believed, and of whom a model fails, each with what was measured
in its sentence.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from ..looking.agreement import RandomisationCheck, frequency_trend
from ..looking.faithfulness import FaithfulnessScores
from ..looking.localisation import THRESHOLDS
from ..looking.subgroups import MEASURES, SMALLEST, SubgroupScores
from ..shapes import Float
from .base import GREY, INK, Picture, blank_axes, open_axis, styles

__all__ = [
    "plot_against_frequency",
    "plot_each_attribute",
    "plot_faithfulness",
    "plot_iou",
    "plot_randomisation",
    "plot_subgroups",
]

BASELINES = {"mean map": (INK, ":"), "random order": (GREY, "--")}


def plot_each_attribute(
    scores: Mapping[str, Float[Tensor, " attributes"]],
    names: Sequence[str],
    quantity: str = "pointing game",
) -> Picture:
    """A score of each attribute for several kinds of maps and baselines by name, the best of the
    first kind on top.

    Attributes that the first does not know (NaN) are left out. Derived in lesson 09.
    """
    first = next(iter(scores.values()))
    order = [index for index in first.argsort(descending=True).tolist() if first[index].isfinite()]
    figure, axes = blank_axes(1, 1, 6.8, 1.0 + 0.17 * len(order))
    axis, rows = axes[0, 0], range(len(order))
    axis.hlines(rows, 0, 1, color=GREY, linewidth=0.3)
    for (name, values), (marker, _, colour) in zip(scores.items(), styles(), strict=False):
        axis.plot(
            values[order].cpu(),
            rows,
            marker,
            color=colour,
            markersize=7 if marker == "x" else 5,
            label=name,
            markeredgewidth=1.8 if marker == "x" else None,
        )
    open_axis(
        axis,
        xlabel=quantity,
        xlim=(-0.02, 1.02),
        yticks=rows,
        ylim=(len(order) - 0.4, -0.6),
        yticklabels=[names[index].replace("_", " ") for index in order],
    )
    axis.tick_params(axis="y", labelsize=7, length=0)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    means = ", ".join(f"{name} {values[order].nanmean():.2f}" for name, values in scores.items())
    last = ", ".join(f"{names[index].replace('_', ' ')} {first[index]:.2f}" for index in order[-3:])
    return Picture(
        figure,
        f"The {quantity} of {len(order)} attributes; means: {means}. The lowest of "
        f"{next(iter(scores))}: {last}.",
    )


def plot_iou(curves: Mapping[str, Float[Tensor, " thresholds"]]) -> Picture:
    """Overlap with the region against the share of its maximum at which a map is cut, several kinds
    by name.

    Derived in lesson 09.
    """
    figure, axes = blank_axes(1, 1, 6.4, 2.6)
    axis, said = axes[0, 0], []
    for (name, curve), (marker, line, colour) in zip(curves.items(), styles(), strict=False):
        axis.plot(THRESHOLDS, curve.cpu(), marker + line, markersize=4, color=colour, label=name)
        said.append(f"{name} {curve.max():.2f} at {THRESHOLDS[int(curve.argmax())]:g}")
    open_axis(
        axis,
        xlabel="threshold, share of the map's maximum",
        ylabel="intersection over union",
        ylim=(0, 1.2 * max(float(curve.max()) for curve in curves.values())),
    )
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(
        figure,
        f"Overlap of what lies above a threshold with the region; largest: {', '.join(said)}.",
    )


def plot_faithfulness(scores: FaithfulnessScores) -> Picture:
    """Deletion and insertion curves, each kind of map beside the mean map and a random order.
    Derived in lesson 09.
    """
    kinds = [name for name in scores.curves["deletion"] if name not in BASELINES]
    colours = dict(zip(kinds, colormaps["viridis"](np.linspace(0, 0.6, len(kinds))), strict=True))
    styles = {name: (colour, "-") for name, colour in colours.items()} | BASELINES
    figure, axes = blank_axes(1, 2, 9.6, 3.2)
    share = np.array(scores.removed) / scores.tokens
    for axis, (measure, curves) in zip(axes[0], scores.curves.items(), strict=True):
        for name, curve in curves.items():
            colour, line = styles[name]
            axis.plot(
                share,
                curve.mean(0).cpu().numpy(),
                line,
                marker="o",
                markersize=3,
                color=colour,
                label=f"{name}: area {scores.area(measure, name):.3f}",
            )
        verb, wanted = ("hidden", "low") if measure == "deletion" else ("shown", "high")
        open_axis(
            axis,
            f"{measure}: a good map is {wanted}",
            xlabel=f"share of the tokens {verb}, strongest first",
            ylabel="mean probability",
            xlim=(0, share[-1]),
            ylim=(0, 1),
        )
        axis.legend(frameon=False, fontsize=8)
    said = []
    for name in kinds:
        gains = (
            "{} {:.3f} (gain over the mean map {:+.3f}, {:+.3f} to {:+.3f})".format(
                measure, scores.area(measure, name), *scores.gain(measure, name, "mean map")
            )
            for measure in scores.curves
        )
        said.append(f"{name}: {', '.join(gains)}")
    chance = ", ".join(
        f"{measure} {scores.area(measure, 'random order'):.3f}" for measure in scores.curves
    )
    return Picture(
        figure,
        f"The probability of {len(scores.image)} attributes as tokens are hidden by the image's own"
        f" {scores.replacement}, and as they are shown again; area under the curves:"
        f" {'; '.join(said)}; a random order: {chance}.",
    )


def plot_randomisation(checks: Mapping[str, RandomisationCheck]) -> Picture:
    """How alike maps stay as a model is untrained from its output down, for several kinds of maps
    by name.

    The dotted lines are what another image's map gives. Derived in lesson 09.
    """
    parts = list(next(iter(checks.values())).correlation)
    figure, axes = blank_axes(1, 1, 7.6, 1.2 + 0.3 * len(parts))
    axis, said = axes[0, 0], []
    places = np.arange(len(parts) + 1)
    for (name, check), (marker, _, colour) in zip(checks.items(), styles(), strict=False):
        means = [1.0, *(float(values.nanmean()) for values in check.correlation.values())]
        habit = float(check.other_image.nanmean())
        axis.plot(means, places, marker=marker, markersize=5, color=colour, label=name)
        axis.axvline(
            habit, color=colour, linestyle=":", linewidth=1.4, label=f"{name}, another image"
        )
        kept = [part for part, mean in zip(parts, means[1:], strict=True) if mean > 0.999]
        below = [part for part, mean in zip(parts, means[1:], strict=True) if mean < habit]
        said.append(
            f"{name} is the same without {', '.join(kept)}"
            if kept
            else f"{name} changes with {parts[0]}"
        )
        said[-1] += f", falls below another image's ({habit:.2f}) " + (
            f"at {below[0]}" if below else "nowhere"
        )
        said[-1] += f" and ends at {means[-1]:.2f}"
    open_axis(
        axis,
        xlabel="rank correlation with the trained model's map",
        yticks=places,
        yticklabels=["trained", *(f"+ {part}" for part in parts)],
        ylim=(len(parts) + 0.4, -0.4),
    )
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(figure, f"Maps as parts are untrained, from the output down: {'; '.join(said)}.")


def plot_subgroups(scores: SubgroupScores, measure: str = "recall", shown: int = 8) -> Picture:
    """A measure of each group with its interval: the mean, and the attributes with the largest
    gaps.

    Raises ValueError for an unknown measure. Derived in lesson 09.
    """
    if measure not in MEASURES:
        raise ValueError(f"no measure {measure!r}; choose one of {', '.join(MEASURES)}")
    gaps = scores.gaps(measure)
    rows = ["mean", *(gap.column for gap in gaps[:shown])]
    figure, axes = blank_axes(1, 1, 7.4, 1.1 + 0.34 * len(rows))
    axis, intervals = axes[0, 0], scores.interval(measure)
    colours = colormaps["viridis"](np.linspace(0, 0.6, len(scores.groups)))
    for index, (group, size) in enumerate(zip(scores.groups, scores.sizes, strict=True)):
        columns = [scores.columns.index(row) for row in rows]
        value = scores.value[measure][index, columns].numpy()
        low, high = intervals[:, index, columns].numpy()
        places = np.arange(len(rows)) + 0.22 * (index - (len(scores.groups) - 1) / 2)
        axis.hlines(places, low, high, color=colours[index], linewidth=1.6)
        axis.plot(
            value,
            places,
            "osD^v<>P"[index % 8],
            color=colours[index],
            markersize=5,
            label=f"{group} ({size} images)",
        )
    labels = [f"mean of {len(scores.compared(measure))}", *rows[1:]]
    open_axis(
        axis,
        xlabel=f"{measure.replace('_', ' ')} and its 95 % interval",
        xlim=(-0.02, 1.02),
        yticks=range(len(rows)),
        yticklabels=labels,
        ylim=(len(rows) - 0.4, -0.6),
    )
    axis.axhline(0.5, color=GREY, linewidth=0.6)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    few = int((scores.counts[measure] < SMALLEST).any(0).sum())
    return Picture(
        figure,
        f"{measure.replace('_', ' ').capitalize()} by group: {scores.gap(measure)}; the largest gap"
        f" of one attribute is {gaps[0]}; {few} of {len(scores.columns) - 1} attributes have a"
        f" group with fewer than {SMALLEST} {MEASURES[measure]}, which says nothing.",
    )


def plot_against_frequency(
    values: Mapping[str, Float[Tensor, " attributes"]],
    frequencies: Float[Tensor, " attributes"],
    quantity: str = "entropy, nats",
) -> Picture:
    """A quantity of each attribute's maps against how frequent the attribute is, for several kinds
    of maps by name.

    Derived in lesson 09.
    """
    figure, axes = blank_axes(1, 1, 6.4, 3.0)
    axis, said = axes[0, 0], []
    for (name, scores), (marker, _, colour) in zip(values.items(), styles(), strict=False):
        axis.plot(
            frequencies.cpu(),
            scores.cpu(),
            marker,
            color=colour,
            markersize=5,
            alpha=0.8,
            label=name,
        )
        trend, low, high = frequency_trend(scores, frequencies)
        said.append(f"{name} {trend:+.2f} (95 % interval {low:+.2f} to {high:+.2f})")
    open_axis(
        axis, xlabel="frequency of the attribute (logarithmic)", ylabel=quantity, xscale="log"
    )
    axis.xaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)),
        major_formatter=lambda share, _: f"{share:.0%}",
        minor_locator=NullLocator(),
    )
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(
        figure,
        f"{quantity} against frequency, an attribute a point; rank correlation: {'; '.join(said)}.",
    )
