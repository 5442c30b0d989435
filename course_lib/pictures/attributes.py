"""Pictures of lesson 07: how rare attributes are, a model that gives them up, what remedies do,
where it looks.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from ..looking.localisation import pointing_game
from ..shapes import Bool, Float
from .base import BLUE, GREY, HIGHLIGHT, INK, Picture, blank_axes, open_axis, overlay, plot_stages

__all__ = [
    "plot_attribute_maps",
    "plot_attribute_pipeline",
    "plot_focal_bug",
    "plot_frequencies",
    "plot_gains",
    "plot_reliability",
    "plot_watch",
]

MARKS = "os^Dv"

_STAGES = {  # name: (column, row, width, what it is)
    "face image": (0, 0.5, 1.5, "3 × height × width"),
    "token extractor": (2.1, 0.5, 1.7, "convolutions"),
    "49 tokens": (4.4, 1, 1.4, "one a place"),
    "33 queries": (4.4, 0, 1.4, "one an attribute"),
    "cross-attention": (6.5, 0.5, 1.7, "lesson 04"),
    "33 classifiers": (8.8, 0.5, 1.6, "one logit each"),
}

_ARROWS = [
    ("face image", "token extractor"),
    ("token extractor", "49 tokens"),
    ("49 tokens", "cross-attention"),
    ("33 queries", "cross-attention"),
    ("cross-attention", "33 classifiers"),
]


def plot_attribute_pipeline(*here: str) -> Picture:
    """The second story of the course, with the stages named in `here` picked out."""
    return plot_stages(
        _STAGES,
        _ARROWS,
        here,
        "The attribute model: convolutions turn a face into 49 tokens, one query for each attribute"
        " looks at them through cross-attention, and a classifier each answers.",
    )


def plot_frequencies(
    frequencies: Float[Tensor, " attributes"], names: Sequence[str], rare: float = 0.05
) -> Picture:
    """The share of images that has each attribute, the rarest first."""
    order = frequencies.argsort().tolist()
    shares = frequencies[order].numpy()
    figure, axes = blank_axes(1, 1, 9, 3.2)
    axes[0, 0].bar(
        range(len(order)), shares, color=[HIGHLIGHT if share < rare else BLUE for share in shares]
    )
    for k in np.flatnonzero(shares < rare):
        axes[0, 0].text(
            k,
            shares[k] + 0.015,
            f"{shares[k]:.1%}",
            ha="center",
            fontsize=6.5,
            color=INK,
            rotation=90,
        )
    open_axis(axes[0, 0], ylabel="share of images", ylim=(0, 1))
    axes[0, 0].set_xticks(
        range(len(order)),
        [names[k].replace("_", " ") for k in order],
        rotation=60,
        ha="right",
        fontsize=7,
    )
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1))
    few = int((shares < rare).sum())
    return Picture(
        figure,
        f"The share of images that has each of {len(order)} attributes, from {names[order[0]]} "
        f"({shares[0]:.1%}) to {names[order[-1]]} ({shares[-1]:.0%}); {few} are under {rare:.0%} "
        "(red).",
    )


def plot_watch(history: Sequence[Mapping], names: Sequence[str], watched: Sequence[str]) -> Picture:
    """The history of a `StuckDetector`: accuracy beside saying no, F1 of the `watched` attributes,
    positive rate.
    """
    epochs = range(1, len(history) + 1)
    figure, axes = blank_axes(1, 3, 9.6, 2.6)
    columns = {
        key: [epoch[key] for epoch in history] for key in ("accuracy", "positive_rate", "true_rate")
    }
    f1 = {name: [epoch["f1"][names.index(name)] for epoch in history] for name in watched}
    mean = [float(np.mean(epoch["f1"])) for epoch in history]
    panels = (
        {
            "the model": columns["accuracy"],
            "always no": [1 - rate for rate in columns["true_rate"]],
        },
        {"mean of all": mean, **f1},
        {"predicted": columns["positive_rate"], "true": columns["true_rate"]},
    )
    for axis, title, curves in zip(
        axes[0], ("accuracy", "F1 at 0.5", "positive rate"), panels, strict=True
    ):
        colours = colormaps["viridis"](np.linspace(0, 0.6, len(curves)))
        for (name, values), colour, mark, line in zip(
            curves.items(), colours, cycle(MARKS), cycle(("-", "--", ":", "-.")), strict=False
        ):
            axis.plot(
                epochs,
                values,
                line,
                color=colour,
                marker=mark,
                markersize=4,
                label=name.replace("_", " "),
            )
        open_axis(axis, title, xlabel="epoch")
        axis.legend(frameon=False, fontsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0, 1].set_ylim(-0.03, 1)
    said = ", ".join(f"{name} {values[-1]:.2f}" for name, values in f1.items())
    right, found, true = (columns[key] for key in ("accuracy", "positive_rate", "true_rate"))
    return Picture(
        figure,
        f"Over {len(history)} epochs accuracy went from {right[0]:.3f} to {right[-1]:.3f} (always "
        f"no: {1 - true[-1]:.3f}), mean F1 from {mean[0]:.2f} to {mean[-1]:.2f}; at the end F1 is "
        f"{said}; {found[-1]:.1%} of the predictions are positive, {true[-1]:.1%} of the labels.",
    )


def plot_focal_bug(weight: float = 43.56, gamma: float = 2.0, at: float = 0.9) -> Picture:
    """The loss of a positive against its probability: BCE, focal loss, and the one whose p_t knows
    the weight.
    """
    p = np.linspace(0.02, 0.995, 200)
    curves = {
        "weighted BCE": weight * -np.log(p),
        "with the bug": weight * (1 - p**weight) ** gamma * -np.log(p),
        "focal": weight * (1 - p) ** gamma * -np.log(p),
    }
    figure, axes = blank_axes(1, 1, 5.4, 2.9)
    for (name, loss), colour, line in zip(
        curves.items(), (GREY, HIGHLIGHT, BLUE), ("-", "--", "-."), strict=True
    ):
        axes[0, 0].plot(p, loss, line, color=colour, label=name, linewidth=1.8)
    axes[0, 0].axvline(at, color=INK, linewidth=0.7, linestyle=":")
    open_axis(
        axes[0, 0],
        xlabel="probability that the model gives to a positive",
        ylabel="its loss",
        yscale="log",
    )
    axes[0, 0].legend(frameon=False, fontsize=8)
    ratio = (1 - at**weight) ** gamma / (1 - at) ** gamma
    return Picture(
        figure,
        f"The loss of a positive of weight {weight:g} by its probability, γ = {gamma:g}: the "
        "buggy loss follows weighted BCE until the positive is nearly certain; at p = "
        f"{at:g} it is {ratio:.0f} times the focal loss.",
    )


def plot_gains(gains: Mapping[str, Mapping[str, tuple[float, float]]]) -> Picture:
    """What each remedy adds: for every score, by remedy, a mean difference and half the width of
    its interval.
    """
    remedies = list(next(iter(gains.values())))
    figure, axes = blank_axes(1, len(gains), 3 * len(gains) + 1.6, 0.27 * len(remedies) + 0.9)
    for number, (axis, (score, values)) in enumerate(zip(axes[0], gains.items(), strict=True)):
        means, halves = np.array([values[remedy] for remedy in remedies]).T
        rows = np.arange(len(remedies))[::-1]
        surely = np.sign(means) * (np.abs(means) > halves)
        for sign, colour, mark in ((1, BLUE, "o"), (0, GREY, "D"), (-1, HIGHLIGHT, "s")):
            chosen = surely == sign
            axis.errorbar(
                means[chosen],
                rows[chosen],
                xerr=halves[chosen],
                fmt=mark,
                color=colour,
                markersize=5,
                capsize=2,
                linewidth=1.2,
            )
        axis.axvline(0, color=INK, linewidth=0.8)
        open_axis(axis, score, xlabel="gain over naive")
        axis.set_yticks(rows, remedies if number == 0 else [""] * len(remedies))
    best = {
        score: max(values, key=lambda remedy, values=values: values[remedy][0])
        for score, values in gains.items()
    }
    said = "; ".join(
        f"{score}: most by {name}, {gains[score][name][0]:+.3f} ± {gains[score][name][1]:.3f}"
        for score, name in best.items()
    )
    return Picture(
        figure,
        "The gain of each remedy over naive training, with 95 % intervals over seeds; blue circles "
        f"are surely above 0, red squares surely below. {said}.",
    )


def plot_reliability(answers: Mapping[str, tuple[Tensor, Tensor]], bins: int = 10) -> Picture:
    """Mean probability against the share of positives, all attributes together; answers are
    probabilities, targets.
    """
    figure, axes = blank_axes(1, 1, 4.4, 3.4)
    axes[0, 0].plot((0, 1), (0, 1), color=GREY, linewidth=0.8)
    colours, said = colormaps["viridis"](np.linspace(0, 0.6, len(answers))), []
    for (name, (probabilities, targets)), colour, mark in zip(
        answers.items(), colours, cycle(MARKS), strict=False
    ):
        p, y = probabilities.flatten().double(), targets.flatten().double()
        which = (p * bins).long().clamp(max=bins - 1)
        counts, sums, positives = (
            torch.zeros(bins).double().index_add(0, which, values)
            for values in (torch.ones_like(p), p, y)
        )
        filled = counts > 30
        axes[0, 0].plot(
            (sums / counts)[filled],
            (positives / counts)[filled],
            color=colour,
            marker=mark,
            markersize=4,
            label=name,
        )
        said.append(f"{name}: {(sums - positives).abs().sum() / len(p):.3f} away on average")
    open_axis(
        axes[0, 0],
        xlabel="what the model says",
        ylabel="how often it is so",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes[0, 0].legend(frameon=False, fontsize=8)
    return Picture(
        figure,
        f"Predicted probability against the share of positives in {bins} bins; on the grey line a "
        f"probability means what it says. {'; '.join(said)}.",
    )


def plot_attribute_maps(
    images: Float[Tensor, "n 3 height width"],
    maps: Mapping[str, Float[Tensor, "n rows columns"]],
    regions: Bool[Tensor, "n height width"] | None,
    titles: Sequence[str],
) -> Picture:
    """A column an image and attribute: the image with the deciding region outlined, and a row for
    each model's map.
    """
    figure, axes = blank_axes(
        1 + len(maps), len(images), 1.35 * len(images) + 0.5, 1.45 * (1 + len(maps))
    )
    for k, image in enumerate(images):
        region = None if regions is None else regions[k].numpy()
        axes[0, k].imshow(overlay(image, region))
        axes[0, k].set_title(titles[k], fontsize=7.5, color=INK, pad=2)
        for row, values in enumerate(maps.values(), start=1):
            axes[row, k].imshow(overlay(image, region, values[k].numpy()))
    for row, name in enumerate(maps, start=1):
        axes[row, 0].text(
            -0.06,
            0.5,
            fill(name, 16),
            transform=axes[row, 0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
            color=INK,
        )
    said = f"{len(images)} faces, each with where one attribute's query looks (bright: most)"
    if regions is not None:
        said += "; the brightest place is on the outlined region in " + ", ".join(
            f"{pointing_game(values, regions).nansum():.0f} ({name})"
            for name, values in maps.items()
        )
    return Picture(figure, f"{said}.")
