"""Pictures of lesson 10: layers, where each part looks, and how both form over the steps of
sampling.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..data.drawn import compose
from ..looking.localisation import energy
from ..looking.parts import part_matrix
from ..shapes import Float
from ..world.layers import PARTS, part_index
from .attention import draw_map, first_item
from .base import (
    GREY,
    INK,
    Animation,
    Picture,
    blank_axes,
    open_axis,
    overlay,
    plot_stages,
    to_picture,
)

__all__ = [
    "animate_sampling",
    "plot_layers",
    "plot_over_steps",
    "plot_part_attention",
    "plot_part_looks",
    "plot_part_pipeline",
]

_STAGES = {  # name: (column, row, width, what it is)
    "face image": (0, 0, 1.5, "3 × 64 × 64"),
    "image tokens": (2.1, 0, 1.7, "8 × 8, one a place"),
    "noisy layers": (0, 1, 1.5, "10 × 64 × 64"),
    "part tokens": (2.1, 1, 1.7, "10 parts × 4 × 4"),
    "blocks": (4.5, 0.5, 1.9, "local, global, image"),
    "clean layers": (7.1, 0.5, 1.6, "10 × 64 × 64"),
    "Euler step": (9.4, 0.5, 1.6, "twenty times"),
}

_ARROWS = [
    ("face image", "image tokens"),
    ("noisy layers", "part tokens"),
    ("image tokens", "blocks"),
    ("part tokens", "blocks"),
    ("blocks", "clean layers"),
    ("clean layers", "Euler step"),
]


def plot_part_pipeline(*here: str) -> Picture:
    """The generative model of lesson 10, with the stages named in `here` picked out."""
    return plot_stages(
        _STAGES,
        _ARROWS,
        here,
        "The part transformer: tokens of noisy layers hear each other and look at the tokens of a"
        " face image, clean layers come out, and an Euler step goes a little towards them; twenty"
        " times from pure noise to layers.",
    )


def plot_layers(image: Float[Tensor, "3 height width"], layers: Mapping[str, Tensor]) -> Picture:
    """One face and one row of its parts for each name in `layers`, `parts height width` each, white
    where covered.
    """
    figure, axes = blank_axes(len(layers), 1 + len(PARTS), 10.6, 1.12 * len(layers) + 0.2)
    for row, (name, values) in enumerate(layers.items()):
        axes[row, 0].imshow(to_picture(image))
        axes[row, 0].set_title(name, fontsize=8, color=INK, pad=3)
        for column, part in enumerate(PARTS, start=1):
            axes[row, column].imshow(values[column - 1].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_title(part, fontsize=8, color=INK, pad=3)
    said = "; ".join(
        f"{name}: "
        + ", ".join(part for k, part in enumerate(PARTS) if (values[k] > 0.5).sum() >= 8)
        for name, values in layers.items()
    )
    return Picture(figure, f"A face and its layers. Parts that cover eight pixels or more, {said}.")


def plot_part_attention(
    weights,
    num_parts: int,
    title: str = "Attention between parts",
    names: Sequence[str] | None = None,
) -> Picture:
    """The map of tokens that come in `num_parts` equal parts, and beside it how much each part asks
    each other part.

    A cell of the right map is the attention a token of one part spends on all tokens of another:
    rows sum to 1. Derived in lesson 10.
    """
    values = first_item(weights).mean(0)
    parts, (queries, keys) = part_matrix(values, num_parts), values.shape
    figure, axes = blank_axes(1, 2, 8.6, 3.9)
    draw_map(axes[0, 0], values.numpy(), 3)
    for part in range(1, num_parts):
        axes[0, 0].axhline(part * queries / num_parts - 0.5, color="white", linewidth=0.7)
        axes[0, 0].axvline(part * keys / num_parts - 0.5, color="white", linewidth=0.7)
    axes[0, 0].set(xlabel="key token", ylabel="query token")
    image = draw_map(axes[0, 1], parts.numpy(), 3, None, names, names)
    figure.colorbar(image, ax=axes[0, 1], label="share of attention", fraction=0.05)
    axes[0, 1].set(xlabel="part that is looked at", ylabel="part that looks")
    figure.suptitle(title, fontsize=10, color=INK)
    return Picture(
        figure,
        f"{title}: the tokens of {num_parts} parts spend {parts.diagonal().mean():.0%} of their "
        f"attention within their own part (uniform would be {1 / num_parts:.0%}).",
    )


def plot_part_looks(
    image: Float[Tensor, "3 height width"],
    looks: Mapping[str, Tensor],
    layers: Float[Tensor, "parts height width"],
    shown: Sequence[str] | None = None,
) -> Picture:
    """Where each part looks in the image, one row for each name in `looks`, `parts rows columns`
    each.

    The outline is the part's true place, the number the share of attention inside it. Parts that
    `layers` do not show are left out, and those not in `shown` if it is given.
    """
    regions = layers > 0.5
    parts = [
        k for k, part in enumerate(PARTS) if regions[k].sum() >= 8 and part in (shown or PARTS)
    ]
    figure, axes = blank_axes(len(looks), len(parts), 1.25 * len(parts) + 0.9, 1.42 * len(looks))
    means = []
    for row, (name, maps) in enumerate(looks.items()):
        inside = energy(maps[parts], regions[parts])
        means.append(f"{name} {inside.mean():.0%}")
        axes[row, 0].text(
            -0.12,
            0.5,
            name,
            fontsize=8,
            color=INK,
            rotation=90,
            va="center",
            ha="center",
            transform=axes[row, 0].transAxes,
        )
        for column, part in enumerate(parts):
            axes[row, column].imshow(
                overlay(_large(image), _large(regions[part, None])[0].numpy(), maps[part].numpy())
            )
            axes[row, column].set_title(
                f"{PARTS[part]} {inside[column]:.0%}", fontsize=8, color=INK, pad=3
            )
    area = regions[parts].float().mean()
    return Picture(
        figure,
        f"Where {len(parts)} parts look (bright), their true places outlined; attention inside, "
        f"mean over these parts: {', '.join(means)}; they cover {area:.0%} of the image on"
        " average.",
    )


def plot_over_steps(
    curves: Mapping[str, Tensor],
    label: str,
    reference: tuple[str, float] | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """One curve over the steps of sampling for each name; a reference, (name, value), is a dashed
    line.
    """
    figure, axes = blank_axes(1, 1, 6.4, 2.8)
    colours = colormaps["viridis"](np.linspace(0, 0.6, len(curves)))
    for (name, values), colour, mark in zip(curves.items(), colours, cycle("os^Dvx"), strict=False):
        axes[0, 0].plot(
            range(len(values)), values.tolist(), color=colour, marker=mark, markersize=4, label=name
        )
    if reference is not None:
        axes[0, 0].axhline(
            reference[1], color=GREY, linestyle="--", linewidth=1, label=reference[0]
        )
    open_axis(axes[0, 0], xlabel="step", ylabel=label)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(10, integer=True))
    if limits is not None:
        axes[0, 0].set_ylim(limits)
    axes[0, 0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    said = ", ".join(
        f"{name} from {values[0]:.2f} to {values[-1]:.2f}" for name, values in curves.items()
    )
    beside = "" if reference is None else f"; {reference[0]} is {reference[1]:.2f}"
    return Picture(figure, f"{label[0].upper()}{label[1:]} over the steps: {said}{beside}.")


def animate_sampling(
    image: Float[Tensor, "3 height width"],
    states: Float[Tensor, "steps parts height width"],
    looks: Float[Tensor, "steps parts rows columns"],
    shown: Sequence[str] = ("hair", "eyes", "nose", "mouth"),
    fps: float = 4,
) -> Animation:
    """Layers that form out of noise, below them where their parts look meanwhile, and the picture
    they make.
    """
    chosen = [part_index(part) for part in shown]
    built = compose((states > 0.5).float(), image.expand(len(states), -1, -1, -1))
    figure, axes = blank_axes(2, 1 + len(chosen), 1.45 * (1 + len(chosen)), 3.3)
    figure.set_dpi(100)
    canvas, frames, shows = FigureCanvasAgg(figure), [], []
    for step in range(len(states)):
        pixels = [
            to_picture(image),
            *(states[step, part].numpy() for part in chosen),
            to_picture(built[step]),
            *(overlay(_large(image), heat=looks[step, part].numpy()) for part in chosen),
        ]
        titles = [
            "image",
            *shown,
            f"step {step + 1} of {len(states)}",
            *["looks here"] * len(chosen),
        ]
        shows = shows or [
            axis.imshow(drawn, cmap="gray", vmin=0, vmax=1)
            for axis, drawn in zip(axes.flat, pixels, strict=True)
        ]
        for axis, show, title, drawn in zip(axes.flat, shows, titles, pixels, strict=True):
            axis.set_title(title, fontsize=9, color=INK, pad=3)
            show.set_data(drawn)
        canvas.draw()
        figure.set_layout_engine("none")  # laid out once: nothing but pixels changes
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    moved = torch.minimum(looks[0, chosen], looks[-1, chosen]).sum((-2, -1)).mean()
    return Animation(
        frames,
        fps,
        f"Layers form out of noise in {len(states)} steps, and below them where "
        f"{', '.join(shown)} look; {moved:.0%} of the last step's attention was there at "
        "the first.",
    )


def _large(image: Tensor) -> Tensor:
    """Four times as large, so that an outline does not cover what it surrounds."""
    return image.repeat_interleave(4, -1).repeat_interleave(4, -2)
