"""Pictures of optical flow as a measurement: its colours, its errors, its size, and what scaling
does to it.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from ..shapes import Bool, Float, UInt8
from ..world.clips import PARTS
from .base import BLUE, HIGHLIGHT, INK, Picture, blank_axes, flow_colours, open_axis, to_picture

__all__ = ["plot_flow_errors", "plot_flow_wheel", "plot_scalings", "plot_speeds"]

LINES = {"color": [INK, HIGHLIGHT, BLUE, "#66a182", "#8d6a9f"], "marker": ["o", "s", "^", "D", "v"]}


def plot_flow_wheel() -> Picture:
    """The key to flow colours: the colour at a place of the disc is that of a pixel moving there
    from the centre.

    Derived in lesson 02.
    """
    figure, axes = blank_axes(1, 1, 2.6, 2.6)
    axis = axes[0, 0]
    v, u = np.mgrid[-1:1:161j, -1:1:161j].astype(np.float32)
    wheel = flow_colours(np.dstack([u, v]), 1)
    wheel[np.hypot(u, v) > 1] = 255
    axis.imshow(wheel, extent=(-1, 1, 1, -1))
    for angle, name in zip(range(0, 360, 90), ("right", "down", "left", "up"), strict=True):
        x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        axis.annotate(
            "", (0.95 * x, 0.95 * y), (0, 0), arrowprops={"arrowstyle": "->", "color": INK}
        )
        axis.text(1.22 * x, 1.12 * y, name, ha="center", va="center", fontsize=8, color=INK)
    axis.set(xlim=(-1.5, 1.5), ylim=(1.3, -1.3))
    return Picture(
        figure,
        "The colours of flow: hue is the direction, with right red, down yellow-green, left cyan "
        "and up violet; saturation is the speed, with stillness white in the centre.",
    )


def plot_flow_errors(
    estimates: Mapping[str, Float[Tensor, "frames height width 2"]],
    truth: Float[Tensor, "frames height width 2"],
    judged: Bool[Tensor, "frames height width"],
    parts: UInt8[np.ndarray, "frames height width"],
) -> Picture:
    """The end-point error of each estimate, by how far pixels really move and by the part of the
    picture they show.

    It is divided by the error of zero flow, the mean true speed: at 1 an estimate is worth nothing.
    Only pixels that are `judged` count, and only groups of at least 50 of them. Derived in lesson
    02.
    """
    speed = truth.norm(dim=-1)[judged].numpy()
    shown = parts[judged.numpy()]
    edges = [0, 0.5, 1, 2, 4, np.inf]
    sizes = {
        f"{low:g}–{high:g}" if high < np.inf else f"> {low:g}": (speed > low) & (speed <= high)
        for low, high in pairwise(edges)
    }
    places = {part: shown == k for k, part in enumerate(PARTS)}
    figure, axes = blank_axes(1, 2, 10.5, 3.0)
    said = []
    for axis, groups, title in zip(
        axes[0], (sizes, places), ("by true motion, px", "by part"), strict=True
    ):
        groups = {name: chosen for name, chosen in groups.items() if chosen.sum() >= 50}
        for k, (name, estimate) in enumerate(estimates.items()):
            error = (estimate - truth).norm(dim=-1)[judged].numpy()
            ratios = [error[chosen].mean() / speed[chosen].mean() for chosen in groups.values()]
            axis.plot(
                range(len(groups)),
                ratios,
                LINES["marker"][k],
                color=LINES["color"][k],
                label=name,
                linestyle="-" if groups.keys() <= sizes.keys() else "none",
                markersize=6,
                alpha=0.85,
            )
            worst = int(np.argmax(ratios))
            said.append(
                f"{name} {error.mean():.2f} px, worst {title.split(',')[0]} at"
                f" {list(groups)[worst]} ({ratios[worst]:.2f} of zero flow's)"
            )
        axis.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        open_axis(axis, title, ylim=(0, None), xticks=range(len(groups)), xticklabels=groups)
    axes[0, 0].set_ylabel("error / error of zero flow")
    axes[0, 1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return Picture(
        figure,
        f"End-point error of {len(judged[judged])} moving pixels, zero flow {speed.mean():.2f} px: "
        + "; ".join(said)
        + ".",
    )


def plot_scalings(
    pairs: Mapping[
        str, tuple[UInt8[np.ndarray, "height width 3"], Float[Tensor, "height width 2"]]
    ],
    scalings: Mapping[str, Callable[[Tensor], Tensor]],
) -> Picture:
    """Frames by name, and the horizontal flow that begins there as each scaling hands it to a
    network.

    Each column has one range of colours, in which the middle is 0. Derived in lesson 02.
    """
    figure, axes = blank_axes(
        len(pairs), 1 + len(scalings), 2.6 * (1 + len(scalings)), 2.2 * len(pairs) + 0.3
    )
    said = []
    for row, (name, (frame, _)) in zip(axes, pairs.items(), strict=True):
        row[0].imshow(to_picture(frame))
        row[0].set_title(name, fontsize=9, color=INK)
    for column, (title, scaled) in enumerate(scalings.items(), start=1):
        fields = [scaled(flow[None])[0, ..., 0].numpy() for _, flow in pairs.values()]
        largest = max(np.abs(field).max() for field in fields)
        for row, field in zip(axes[:, column], fields, strict=True):
            picture = row.imshow(field, cmap="cividis", vmin=-largest, vmax=largest)
        axes[0, column].set_title(title, fontsize=9, color=INK)
        bar = figure.colorbar(
            picture, ax=list(axes[:, column]), shrink=0.7, ticks=(-largest, 0, largest)
        )
        bar.ax.set_yticklabels([f"{-largest:.2f}", "0", f"{largest:.2f}"], fontsize=8)
        said += [
            f"{title}, {name}: from {field.min():.2f} to {field.max():.2f}"
            for name, field in zip(pairs, fields, strict=True)
        ]
    return Picture(figure, "Horizontal flow as a network receives it. " + "; ".join(said) + ".")


def plot_speeds(
    flow: Float[Tensor, "frames height width 2"],
    limit: float = 20.0,
    marks: Sequence[float] = (0.5, 0.99),
) -> Picture:
    """How fast pixels move, on a logarithmic count, with the limit at which flow is clipped.

    Derived in lesson 02.
    """
    components, speed = flow.abs().numpy(), flow.norm(dim=-1).numpy()
    clipped = (components > limit).any(-1).mean()
    figure, axes = blank_axes(1, 1, 7.2, 2.6)
    axis, colours = axes[0, 0], LINES["color"]
    axis.hist(
        speed.ravel(),
        np.linspace(0, max(limit * 1.1, speed.max()), 120),
        color=colours[2],
        log=True,
    )
    said = []
    for mark, style in zip((*marks, 1.0), ("--", ":", "-."), strict=False):
        value = float(np.quantile(speed, mark))
        said.append(f"{mark:.0%} are at most {value:.2f} px")
        axis.axvline(value, color=INK, linestyle=style, linewidth=1, label=said[-1])
    axis.axvline(
        limit, color=colours[1], linewidth=2, label=f"limit {limit:g} px: {clipped:.2%} clipped"
    )
    open_axis(axis, xlabel="speed, px per frame", ylabel="pixels")
    axis.legend(frameon=False, fontsize=8)
    return Picture(
        figure,
        f"Speeds of {speed.size:,} pixels: {', '.join(said)}; {clipped:.2%} are clipped at "
        f"±{limit:g} px.",
    )
