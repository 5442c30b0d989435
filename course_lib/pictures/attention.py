"""Attention drawn: maps, grids of heads, maps over images, and runs over their steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..looking.attention import Evidence
from ..looking.localisation import pointing_game
from ..looking.parts import part_matrix, part_rows
from ..models.parts import LAYERS
from ..shapes import Bool, Float, UInt8
from ..world.layers import part_index
from .base import (
    BLUE,
    HIGHLIGHT,
    INK,
    LETTERS,
    PAPER,
    PER_INCH,
    WIDTHS,
    Animation,
    Picture,
    blank_axes,
    fitting,
    open_axis,
)
from .images import overlay, part_drawing

__all__ = [
    "animate_attention",
    "animate_sampling",
    "attention_on_clip",
    "draw_map",
    "first_item",
    "plot_attention_map",
    "plot_attribute_maps",
    "plot_evidence",
    "plot_heads",
    "plot_matrices",
    "plot_part_attention",
    "refill_attention_map",
]

CELL = 0.4  # inches; where cells are wider, each shows its weight


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
    axis.tick_params(length=0, labelsize=LETTERS)
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
                fontsize=LETTERS,
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

    Raises `ValueError` if names are given and are not as many as the tokens. Used in lesson 05.
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


def refill_attention_map(picture: Picture, weights, title: str) -> None:
    """Show other weights of the same shape in a picture of `plot_attention_map` that was saved: its
    layout, which takes a third of the time, stays.
    """
    values = first_item(weights).mean(0).numpy()
    picture.figure.set_layout_engine("none")
    axis = picture.figure.axes[0]
    brightest = max(float(values.max()), 1e-12)
    axis.images[0].set(data=values, clim=(0, brightest))
    axis.set_title(title, fontsize=10, color=INK)
    for text, value in zip(axis.texts, values.flat, strict=False):
        text.set(text=f"{value:.2f}", color="black" if value > 0.55 * brightest else "white")


def plot_heads(
    weights, title: str = "Attention", columns: int = 4, names: Sequence[str] | None = None
) -> Picture:
    """The heads of one layer (or any maps, with `names`) side by side, on one scale, each with its
    support in keys.

    Raises `ValueError` if names are given and are not as many as the maps. Used in lesson 05.
    """
    heads = first_item(weights)
    count, _, keys = heads.shape
    names = [f"head {head}" for head in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} maps; give one name for each")
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = float(np.clip(heads.shape[1] / keys, 0.5, 1.6))
    figure, axes = blank_axes(rows, columns, 2.0 * columns + 0.6, (1.9 * shape + 0.5) * rows)
    support = torch.special.entr(heads).sum(-1).exp().mean(-1)
    for head, axis in zip(range(count), axes.flat, strict=False):
        image = draw_map(axis, heads[head].numpy(), 2, float(heads.max()))
        title_of_map = f"{fill(names[head], 24)}\n{support[head]:.1f} of {keys} keys"
        axis.set_title(title_of_map, fontsize=LETTERS, color=INK)
    figure.colorbar(image, ax=axes, label="weight", fraction=0.03)
    sharpest, widest = int(support.argmin()), int(support.argmax())
    return Picture(
        figure,
        f"{title}: {count} maps on one scale; {names[sharpest]} looks effectively at "
        f"{support[sharpest]:.1f} of {keys} keys, {names[widest]} at {support[widest]:.1f}.",
        caption=f"{title}: {count} maps on one scale, each with the number of keys that it spreads over.",
    )


def plot_part_attention(
    weights,
    num_parts: int,
    title: str = "Attention between parts",
    names: Sequence[str] | None = None,
    keys_in_parts: bool | None = None,
) -> Picture:
    """The map of tokens that come in `num_parts` equal parts, and beside it how much each part asks
    each other part.

    A cell of the right map is the attention a token of one part spends on all tokens of another:
    rows sum to 1. Where keys are not `keys_in_parts` (cross-attention, as to the tokens of an
    image; assumed unless they are as many as the queries), it is the mean attention of a part's
    tokens to each key.
    """
    values = first_item(weights).mean(0)
    queries, keys = values.shape
    if keys_in_parts is None:
        keys_in_parts = queries == keys
    parts = part_matrix(values, num_parts) if keys_in_parts else part_rows(values, num_parts)
    figure, axes = blank_axes(1, 2, 8.6, 3.9)
    draw_map(axes[0, 0], values.numpy(), 3)
    for part in range(1, num_parts):
        axes[0, 0].axhline(part * queries / num_parts - 0.5, color="white", linewidth=0.7)
        if keys_in_parts:
            axes[0, 0].axvline(part * keys / num_parts - 0.5, color="white", linewidth=0.7)
    axes[0, 0].set(xlabel="key token", ylabel="query token")
    image = draw_map(axes[0, 1], parts.numpy(), 3, None, names, names if keys_in_parts else None)
    figure.colorbar(image, ax=axes[0, 1], label="share of attention", fraction=0.05)
    looked_at = "part that is looked at" if keys_in_parts else "key token"
    axes[0, 1].set(xlabel=looked_at, ylabel="part that looks")
    figure.suptitle(title, fontsize=10, color=INK)
    if not keys_in_parts:
        part, key = np.unravel_index(parts.numpy().argmax(), parts.shape)
        return Picture(
            figure,
            f"{title}: where {num_parts} parts look among {keys} keys; the largest mean weight is "
            f"{parts.max():.2f}, from part {part} to key {key} (uniform: {1 / keys:.2f}).",
        )
    return Picture(
        figure,
        f"{title}: the tokens of {num_parts} parts spend {parts.diagonal().mean():.0%} of their "
        f"attention within their own part (uniform would be {1 / num_parts:.0%}).",
    )


def plot_evidence(evidence: Evidence) -> Picture:
    """A finding's map beside the numbers that say what is wrong with it. Used in lesson 05."""
    values, measured = evidence.weights.numpy(), evidence.measured.numpy()
    reference, label, reference_label, items = evidence[2:]
    figure, axes = blank_axes(1, 2, 7.6, 3.0)
    draw_map(axes[0, 0], values, 2)
    axes[0, 0].set(xlabel="key", ylabel="query")
    axis = axes[0, 1]
    axis.bar(range(len(measured)), measured, color=BLUE, width=0.7)
    axis.axhline(reference, color=HIGHLIGHT, linewidth=1.5, linestyle="--", label=reference_label)
    open_axis(axis, ylabel=label, xlabel=items)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.legend(frameon=False, fontsize=LETTERS, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return Picture(
        figure,
        f"The mean map, its largest weight {values.max():.2f}, and the {label} of each {items}: "
        f"{measured.min():.3g} to {measured.max():.3g}, against {reference_label},"
        f" {reference:.3g}.",
        caption=f"The mean map, and the {label} of each {items}.",
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


# --------------------------------------------------------------------------------------------------
# Over images
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
        axes[0, k].set_title(titles[k].replace("_", " "), fontsize=LETTERS, color=INK, pad=2)
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
            fontsize=LETTERS,
            color=INK,
        )
    sentence = f"{len(images)} faces, and over each where it is looked at (strongest colour: most)"
    if regions is not None:
        sentence += "; the strongest place is on the outlined region in " + ", ".join(
            f"{pointing_game(values, regions).nansum():.0f} ({name})"
            for name, values in maps.items()
        )
    return Picture(figure, f"{sentence}.")


def attention_on_clip(
    frames: UInt8[np.ndarray, "frames height width 3"],
    weights: Float[np.ndarray, "rows keys"],
    rows: Sequence[str],
    moment: int | None = None,
) -> Picture:
    """One frame a motion token above a table of attention: a row each in `rows`, a column a moment
    in time.

    `weights` rows sum to 1. `moment`, where it is known, is the deciding one and is outlined.
    """
    keys = weights.shape[1]
    size = fitting(1.2 * keys + 1.2, 1.6 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    grid = figure.add_gridspec(2, keys, height_ratios=(1.5, 0.36 * len(rows)))
    figure.get_layout_engine().set(w_pad=0.01, wspace=0.0)
    shown = ((np.arange(keys) + 0.5) * (len(frames) - 1) / keys).round().astype(int)
    for key, frame in enumerate(shown):
        axis = figure.add_subplot(grid[0, key])
        axis.imshow(frames[frame])
        axis.set(xticks=[], yticks=[])
        deciding = key == moment
        axis.set_title(
            "decides" if deciding else f"{key}",
            fontsize=LETTERS,
            color=HIGHLIGHT if deciding else INK,
        )
        for spine in axis.spines.values():
            spine.set(color=HIGHLIGHT, linewidth=2.5) if deciding else spine.set_visible(False)
    axis = figure.add_subplot(grid[1, :])
    draw_map(
        axis,
        weights,
        1.2 * keys,
        max(0.5, float(weights.max())),
        rows,
        [str(key) for key in range(keys)],
    )
    axis.set(aspect="auto", xlabel="moment in time (motion token)")
    if moment is not None:
        look = {"fill": False, "edgecolor": HIGHLIGHT, "linewidth": 2.5}
        axis.add_patch(Rectangle((moment - 0.5, -0.5), 1, len(rows), **look))
    top = ", ".join(
        f"{name}: moment {int(row.argmax())} ({row.max():.2f})"
        for name, row in zip(rows, weights, strict=True)
    )
    deciding = "" if moment is None else f" The deciding moment is {moment}."
    caption = f"Attention over the {keys} moments of the clip"
    return Picture(figure, f"{caption}; strongest for {top}.{deciding}", f"{caption}.")


def animate_sampling(
    image: Float[Tensor, "3 side two_sides"],
    states: Float[Tensor, "steps parts height width"],
    looks: Float[Tensor, "steps parts rows columns"],
    shown: Sequence[str] = ("hair", "eyes", "mouth"),
    fps: float = 4,
) -> Animation:
    """Layers that form, and below them where their parts look in the two photographs meanwhile.

    `states` are the layers predicted at each step.
    """
    chosen = [part_index(part, LAYERS) for part in shown]
    figure, axes = blank_axes(2, 1 + len(chosen), 2.4 * (1 + len(chosen)), 3.9)
    figure.set_dpi(100)
    canvas, frames, shows = FigureCanvasAgg(figure), [], []
    for step, (layers, maps) in enumerate(zip(states, looks, strict=True)):
        pixels = [
            part_drawing(layers),
            *(layers[part].numpy() for part in chosen),
            overlay(image),
            *(overlay(image, heat=maps[part].numpy()) for part in chosen),
        ]
        titles = [
            f"step {step + 1} of {len(states)}",
            *shown,
            "two photographs",
            *(f"attention of {part}" for part in shown),
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


def plot_matrices(
    matrices: Mapping[str, Float[Tensor, "rows columns"]],
    sides: Mapping[str, tuple[str, str]] | None = None,
    description: str = "",
) -> Picture:
    """Matrices side by side, their cells equally large, with their numbers where there is room.

    `sides` names the rows and the columns of a matrix. Each has its own scale: from 0, or around 0
    where it holds negative numbers. Used in lesson 04.
    """
    values = {name: torch.as_tensor(matrix).float().cpu() for name, matrix in matrices.items()}
    rows = max(len(matrix) for matrix in values.values())
    columns = [matrix.shape[1] for matrix in values.values()]
    room = WIDTHS[-1] / PER_INCH - 0.7 * len(values)
    cell = float(np.clip(min(room / sum(columns), 4.4 / rows), 0.06, 0.48))
    figure = Figure(
        figsize=(cell * sum(columns) + 0.7 * len(values), cell * rows + 1.0),
        layout="constrained",
        facecolor=PAPER,
    )
    axes = figure.subplots(1, len(values), width_ratios=columns, squeeze=False)[0]
    for axis, (name, matrix) in zip(axes, values.items(), strict=True):
        largest = max(float(matrix.abs().max()), 1e-12)
        signed = bool(matrix.min() < 0)
        colours, lowest = ("RdBu", -largest) if signed else ("cividis", 0.0)
        axis.imshow(matrix, cmap=colours, vmin=lowest, vmax=largest, interpolation="nearest")
        axis.set_title(name, fontsize=9, color=INK)
        axis.tick_params(length=0, labelsize=LETTERS)
        for side, count in ((axis.yaxis, len(matrix)), (axis.xaxis, matrix.shape[1])):
            side.set_major_locator(MaxNLocator(min(8, count), integer=True))
        vertical, horizontal = (sides or {}).get(name, ("", ""))
        axis.set_ylabel(vertical, fontsize=9)
        axis.set_xlabel(horizontal, fontsize=9)
        if cell < CELL:
            continue
        for place in np.ndindex(*matrix.shape):
            number = float(matrix[place])
            dark = abs(number) > 0.6 * largest if signed else number < 0.55 * largest
            axis.text(
                *place[::-1],
                f"{number:z.2f}",
                ha="center",
                va="center",
                fontsize=LETTERS,
                color="white" if dark else "black",
            )
    ranges = ", ".join(
        f"{name}, {len(matrix)} × {matrix.shape[1]}, from {matrix.min():z.2f} to {matrix.max():z.2f}"
        for name, matrix in values.items()
    )
    sentence = f"{description} {ranges[0].upper()}{ranges[1:]}.".strip()
    return Picture(figure, sentence, caption=description or sentence)
