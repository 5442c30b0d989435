"""Attention drawn: one map, a grid of heads, a run over its steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..looking.attention import Evidence
from ..shapes import Float
from .base import BLUE, HIGHLIGHT, INK, Animation, Picture, blank_axes, open_axis

__all__ = [
    "animate_attention",
    "draw_map",
    "first_item",
    "plot_attention_map",
    "plot_evidence",
    "plot_heads",
]

CELL = 0.34  # inches; where cells are wider, each shows its weight


def first_item(weights) -> Float[Tensor, "heads queries keys"]:
    """The heads of the first item of a batch, from weights with any number of leading axes."""
    weights = torch.as_tensor(weights).detach().float().cpu()
    if weights.ndim < 2 or 0 in weights.shape:
        raise ValueError(
            f"a map needs queries and keys, but the weights have the shape {tuple(weights.shape)};"
            " pass `batch heads queries keys`, or one map `queries keys`"
        )
    weights = weights[(None,) * max(0, 3 - weights.ndim)]
    return weights[(0,) * (weights.ndim - 3)]


def draw_map(
    axis,
    values: Float[np.ndarray, "queries keys"],
    width: float,
    brightest: float | None = None,
    query_names: Sequence[str] | None = None,
    key_names: Sequence[str] | None = None,
):
    """One map on `axis`, `width` inches wide, black-to-yellow from 0 to `brightest` (its own
    maximum).
    """
    queries, keys = values.shape
    brightest = brightest or max(float(values.max()), 1e-12)
    image = axis.imshow(
        values,
        cmap="cividis",
        vmin=0,
        vmax=brightest,
        interpolation="nearest",
        aspect="equal" if 0.4 < queries / keys < 2.5 else "auto",
    )
    axis.set_axis_on()
    axis.tick_params(length=0, labelsize=8)
    for side, count, names in ((axis.yaxis, queries, query_names), (axis.xaxis, keys, key_names)):
        if names is not None:
            side.set_ticks(range(count), [str(name) for name in names])
        elif count <= 8:
            side.set_ticks(range(count))
        else:
            side.set_major_locator(MaxNLocator(8, integer=True))
    if key_names is not None:
        axis.tick_params(
            axis="x", labelrotation=45 if max(len(str(name)) for name in key_names) > 3 else 0
        )
    if max(queries, keys) * CELL <= width:
        for q, k in np.ndindex(queries, keys):
            axis.text(
                k,
                q,
                f"{values[q, k]:.2f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="black" if values[q, k] > 0.55 * brightest else "white",
            )
    return image


def plot_attention_map(
    weights,
    save_path: str | Path | None = None,
    *,
    title: str = "",
    query_names: Sequence[str] | None = None,
    key_names: Sequence[str] | None = None,
) -> Picture:
    """One map, `queries keys`; the heads of `batch heads queries keys` are averaged and the first
    item is shown.

    Raises `ValueError` if names are given and are not as many as the tokens. Derived in lesson 04.
    """
    heads = first_item(weights)
    values = heads.mean(0).numpy()
    queries, keys = values.shape
    for side, count, names in (("queries", queries, query_names), ("keys", keys, key_names)):
        if names is not None and len(names) != count:
            raise ValueError(f"{len(names)} names for {count} {side}; give one name for each")
    width = float(np.clip(0.42 * keys, 4.2, 7))
    figure, axes = blank_axes(1, 1, width, float(np.clip(0.42 * queries, 2.2, 5.6)))
    axis = axes[0, 0]
    image = draw_map(axis, values, width, None, query_names, key_names)
    axis.set(xlabel="key", ylabel="query")
    if title:
        axis.set_title(title, fontsize=10, color=INK)
    figure.colorbar(image, ax=axis, label="weight", fraction=0.05)
    top = np.unravel_index(values.argmax(), values.shape)
    of = f"the mean of {len(heads)} heads" if len(heads) > 1 else "one head"
    picture = Picture(
        figure,
        f"{title or 'Attention'}: {queries} queries over {keys} keys, {of}; the largest weight "
        f"is {values.max():.2f}, from query {top[0]} to key {top[1]} (uniform: {1 / keys:.2f}).",
    )
    if save_path is not None:
        picture.save(save_path)
    return picture


def plot_heads(
    weights, title: str = "Attention", columns: int = 4, names: Sequence[str] | None = None
) -> Picture:
    """The heads of one layer (or any maps, with `names`) side by side, on one scale, each with its
    support in keys.

    Raises `ValueError` if names are given and are not as many as the maps. Derived in lesson 04.
    """
    heads = first_item(weights)
    count, _, keys = heads.shape
    names = [f"head {head}" for head in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} maps; give one name for each")
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = float(np.clip(heads.shape[1] / keys, 0.5, 1.6))
    figure, axes = blank_axes(rows, columns, 2.3 * columns + 0.6, (2.1 * shape + 0.35) * rows)
    support = torch.special.entr(heads).sum(-1).exp().mean(-1)
    for head, axis in zip(range(count), axes.flat, strict=False):
        image = draw_map(axis, heads[head].numpy(), 2, float(heads.max()))
        axis.set_title(
            f"{names[head]}: {support[head]:.1f} of {keys} keys", fontsize=8.5, color=INK
        )
    figure.colorbar(image, ax=axes, label="weight", fraction=0.03)
    sharpest, widest = int(support.argmin()), int(support.argmax())
    return Picture(
        figure,
        f"{title}: {count} maps on one scale; {names[sharpest]} looks effectively at "
        f"{support[sharpest]:.1f} of {keys} keys, {names[widest]} at {support[widest]:.1f}.",
    )


def plot_evidence(evidence: Evidence) -> Picture:
    """A finding's map beside the numbers that say what is wrong with it. Derived in lesson 04."""
    values, measured = evidence.weights.numpy(), evidence.measured.numpy()
    reference, label, reference_label = evidence[2:]
    figure, axes = blank_axes(1, 2, 7.6, 3.0)
    draw_map(axes[0, 0], values, 2)
    axes[0, 0].set(xlabel="key", ylabel="query")
    axis = axes[0, 1]
    axis.bar(range(len(measured)), measured, color=BLUE, width=0.7)
    axis.axhline(reference, color=HIGHLIGHT, linewidth=1.5, linestyle="--", label=reference_label)
    open_axis(axis, ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return Picture(
        figure,
        f"The mean map, its largest weight {values.max():.2f}, and the {label}: "
        f"{measured.min():.3g} to {measured.max():.3g}, against {reference_label},"
        f" {reference:.3g}.",
    )


def animate_attention(sequence: Sequence, fps: float = 2) -> Animation:
    """One map a step (heads averaged, first item), all on one scale, as an animation."""
    if not len(sequence):
        raise ValueError(
            "an animation needs at least one step of attention, but the sequence is empty; record a"
            " run first"
        )
    maps = [first_item(weights).mean(0).numpy() for weights in sequence]
    if len({values.shape for values in maps}) > 1:
        raise ValueError(
            f"the steps have maps of the shapes {sorted({values.shape for values in maps})};"
            " animate one layer at a time"
        )
    brightest = max(max(float(values.max()) for values in maps), 1e-12)
    figure, axes = blank_axes(1, 1, 4.2, 3.8)
    canvas = FigureCanvasAgg(figure)
    axes[0, 0].set(xlabel="key", ylabel="query")
    image = draw_map(axes[0, 0], maps[0], 0, brightest)  # numbers that flicker cannot be read
    frames = []
    for step, values in enumerate(maps):
        image.set_data(values)
        axes[0, 0].set_title(f"step {step} of {len(maps)}", fontsize=10, color=INK)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    largest = [float(values.max()) for values in maps]
    return Animation(
        frames,
        fps,
        f"Attention over {len(maps)} steps on one scale; the largest weight goes from "
        f"{largest[0]:.2f} at step 0 to {largest[-1]:.2f} at step {len(maps) - 1}.",
    )
