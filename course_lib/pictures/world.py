"""Pictures of the drawn world: how common its attributes are, and how hard its faces are."""

from collections.abc import Sequence

import numpy as np

from ..shapes import Float
from .base import BLUE, HIGHLIGHT, Picture, blank_axes, open_axis

__all__ = ["plot_difficulty", "plot_rates"]


def plot_rates(
    names: Sequence[str],
    rates: Float[np.ndarray, " names"],
    reference: Float[np.ndarray, " names"],
    reference_name: str,
) -> Picture:
    """How common each attribute is, rarest first, with a reference as marks."""
    order = np.argsort(reference)
    figure, axes = blank_axes(1, 1, 10.5, 3.4)
    axis = axes[0, 0]
    axis.bar(range(len(names)), rates[order], color=BLUE, width=0.7, label="drawn")
    axis.plot(
        range(len(names)),
        reference[order],
        "D",
        color=HIGHLIGHT,
        markersize=4.5,
        label=reference_name,
    )
    open_axis(axis, ylabel="share of images", xlim=(-0.7, len(names) - 0.3))
    axis.set_xticks(
        range(len(names)), [names[i] for i in order], rotation=60, ha="right", fontsize=7.5
    )
    axis.legend(frameon=False)
    largest = float(np.abs(rates - reference).max())
    rarest, commonest = (f"{names[i]} ({reference[i]:.1%})" for i in order[[0, -1]])
    return Picture(
        figure,
        f"How common {len(names)} attributes are, from {rarest} to {commonest}; the largest "
        f"difference to {reference_name} is {100 * largest:.1f} points.",
    )


def plot_difficulty(rows: Sequence[dict]) -> Picture:
    """F1 on rare attributes against the number of training images, a line a difficulty; the bars
    span the seeds.

    `rows` are those of the stored study "difficulty". On the left the usual threshold, on the right
    thresholds chosen on other images: what lies between is room for a remedy.
    """
    sizes = sorted({row["faces"] for row in rows})
    difficulties = list(dict.fromkeys(row["difficulty"] for row in rows))
    figure, axes = blank_axes(1, 2, 9.0, 3.2)
    said = []
    for axis, score, title in zip(
        axes[0], ("f1_rare", "f1_tuned_rare"), ("threshold 0.5", "threshold chosen"), strict=True
    ):
        for difficulty, marker, colour in zip(
            difficulties, "os^D", np.linspace(0.05, 0.75, 4), strict=False
        ):
            scores = np.array(
                [
                    [
                        row[score]
                        for row in rows
                        if row["faces"] == faces
                        and row["difficulty"] == row["tested"] == difficulty
                    ]
                    for faces in sizes
                ]
            )
            mean = scores.mean(1)
            axis.errorbar(
                sizes,
                mean,
                [mean - scores.min(1), scores.max(1) - mean],
                marker=marker,
                capsize=3,
                color=_cividis(colour),
                label=difficulty,
            )
            said.append(f"{difficulty} {mean[0]:.2f} to {mean[-1]:.2f} ({title})")
        open_axis(axis, title, xscale="log", ylim=(0, 1), xlabel="training images")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("F1, rare attributes")
    axes[0, 1].legend(
        frameon=False, fontsize=8, title="difficulty", bbox_to_anchor=(1, 1), loc="upper left"
    )
    return Picture(
        figure,
        f"F1 on attributes under 10 %, from {sizes[0]:,} to {sizes[-1]:,} training images: "
        + "; ".join(said)
        + ".",
    )


def _cividis(value: float) -> tuple:
    from matplotlib import colormaps

    return colormaps["cividis"](value)
