"""Pictures: everything that is looked at and saved, made with matplotlib, each with a sentence that
describes it.

A `Picture` shows itself in a notebook as an image with that sentence as alternative text and
caption, so it is read with or without eyes, in a light or a dark theme, and without JavaScript.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .. import files
from ..data.flow import warp
from ..data.video import Clip, FaceTrack
from ..shapes import Bool, Float, UInt8
from ..world.stories import TRAITS

__all__ = [
    "Animation",
    "Picture",
    "attention_on_clip",
    "blank_axes",
    "contact_sheet",
    "data_url",
    "flow_arrows",
    "flow_colours",
    "open_axis",
    "overlay",
    "plot_flow",
    "plot_pipeline",
    "plot_stages",
    "plot_track",
    "plot_traits",
]

INK, PAPER, HIGHLIGHT, BLUE, GREY = "#222222", "#ffffff", "#d1495b", "#345995", "#777777"


def styles() -> Iterator[tuple[str, str, str]]:
    """Marker, line and colour of one series after another, without end, so that each is drawn.

    They repeat after 13, 4 and 4 series, so that marker and line tell 52 apart without colour.
    """
    return zip(
        cycle("os^Dvx*P<>pd+"),
        cycle(("-", "--", ":", "-.")),
        cycle((BLUE, HIGHLIGHT, INK, GREY)),
        strict=False,
    )


class Picture:
    """A matplotlib figure with its description; `save` writes PNG, SVG or PDF.

    The `caption` is what is read below it, the whole description unless it is given.
    """

    def __init__(self, figure: Figure, description: str, caption: str = ""):
        self.figure, self.description = figure, description
        self.caption = caption or description

    def save(self, path: str | Path, dpi: int = 150) -> Path:
        """Write the picture atomically; the suffix decides the format."""
        with files.atomic(path) as temporary:
            self.figure.savefig(temporary, dpi=dpi, bbox_inches="tight", facecolor=PAPER)
        return Path(path)

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight", facecolor=PAPER)
        return _as_html(buffer.getvalue(), "png", self.description, caption=self.caption)

    def __repr__(self) -> str:
        return self.description


class Animation:
    """RGB frames that play as a GIF, with a one-sentence description; `save` writes the GIF."""

    def __init__(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], fps: float, description: str
    ):
        self.frames, self.fps, self.description = frames, fps, description

    def _gif(self) -> bytes:
        buffer = io.BytesIO()
        first, *rest = (
            Image.fromarray(frame).quantize(dither=Image.Dither.NONE) for frame in self.frames
        )
        first.save(
            buffer,
            "GIF",
            save_all=True,
            append_images=rest,
            duration=round(1000 / self.fps),
            loop=0,
        )
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the GIF atomically."""
        with files.atomic(path) as temporary:
            temporary.write_bytes(self._gif())
        return Path(path)

    def _repr_html_(self) -> str:
        still = io.BytesIO()
        Image.fromarray(self.frames[-1]).save(still, "PNG")
        return _as_html(self._gif(), "gif", self.description, still.getvalue())

    def __repr__(self) -> str:
        return self.description


def _as_html(
    data: bytes, kind: str, description: str, still: bytes | None = None, caption: str = ""
) -> str:
    """An image with its description and caption; who asked for less motion sees the `still`."""
    alternative, caption = html.escape(description), html.escape(caption or description)
    image = f'<img alt="{alternative}" src="{data_url(data, kind)}" style="max-width:100%">'
    if still is not None:
        image = (
            '<picture><source media="(prefers-reduced-motion: reduce)"'
            f' srcset="{data_url(still, "png")}">{image}</picture>'
        )
    return f'<figure style="margin:0">{image}<figcaption>{caption}</figcaption></figure>'


def data_url(data: bytes, kind: str) -> str:
    """A picture's bytes as an address that holds them; `kind` is png, gif or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def blank_axes(rows: int, columns: int, width: float, height: float):
    """A figure of its own (never pyplot's current one), with a bare grid of axes."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def open_axis(axis, title: str = "", **settings) -> None:
    """Turn a blank axis into one to read values from, with a title and any settings of `Axes.set`."""
    axis.set_axis_on()
    axis.set(**settings)
    axis.set_title(title, fontsize=9, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def to_picture(image) -> UInt8[np.ndarray, "height width 3"]:
    """A course image (tensor `3 height width` in [0, 1]) or an RGB array, as an 8-bit RGB array."""
    if not isinstance(image, np.ndarray):
        image = (
            (image.detach().cpu().numpy().transpose(1, 2, 0) * 255)
            .round()
            .clip(0, 255)
            .astype(np.uint8)
        )
    return image


def contact_sheet(
    images: Sequence, captions: Sequence[str] | None = None, columns: int = 8, *, description: str
) -> Picture:
    """Images (tensors `3 height width` or RGB arrays) side by side, each with an optional caption."""
    if not len(images):
        raise ValueError(
            "a contact sheet needs at least one image, but the list is empty; pass images"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pictures = [to_picture(image) for image in images]
    height = 1.35 * max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure, axes = blank_axes(
        rows, columns, 1.35 * columns, (height + 0.25 * bool(captions)) * rows
    )
    for k, picture in enumerate(pictures):
        axis = axes.flat[k]
        axis.imshow(picture)
        if captions:
            axis.set_title(captions[k], fontsize=8, color=INK, pad=2)
    return Picture(figure, description)


def plot_track(clip: Clip, track: FaceTrack, shown: int = 6) -> Picture:
    """Frames of a video, spread over its length, with the tracked face outlined."""
    wanted, pictures, captions = (
        np.linspace(0, len(track.boxes) - 1, shown).round().astype(int),
        [],
        [],
    )
    for t, frame in enumerate(clip):
        if t in wanted:
            left, top, right, bottom = track.boxes[t].round().astype(int).tolist()
            pictures.append(
                cv2.rectangle(frame.copy(), (left, top), (right, bottom), (255, 220, 60), 3)
            )
            captions.append(
                f"{t / clip.fps:.1f} s, " + ("detected" if track.confidence[t] else "followed")
            )
    return contact_sheet(
        pictures,
        captions,
        shown,
        description=(
            f"The tracked face in {shown} frames of {clip.path.name}; a box between two detections"
            " is followed by the motion of the picture."
        ),
    )


def overlay(
    image,
    region: Bool[np.ndarray, "height width"] | None = None,
    heat: Float[np.ndarray, "rows columns"] | None = None,
    strength: float = 0.55,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image with a region outlined, or with a map laid over it (cividis, the map's own maximum
    is brightest).
    """
    picture = to_picture(image).copy()
    size = picture.shape[1::-1]
    if heat is not None:
        scaled = cv2.resize(np.asarray(heat, np.float32), size, interpolation=cv2.INTER_CUBIC)
        scaled = np.clip(scaled / max(float(scaled.max()), 1e-12) * 255, 0, 255).astype(np.uint8)
        colours = cv2.applyColorMap(scaled, cv2.COLORMAP_CIVIDIS)[..., ::-1]
        picture = cv2.addWeighted(picture, 1 - strength, np.ascontiguousarray(colours), strength, 0)
    if region is not None:
        outlines, _ = cv2.findContours(
            region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, outlines, -1, (0, 0, 0), 2)
        cv2.drawContours(picture, outlines, -1, (255, 220, 60), 1)
    return picture


def flow_colours(
    flow: Float[np.ndarray, "height width 2"],
    largest: float | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Direction as hue and speed as saturation: white is still, the fastest pixel (or `largest` px)
    is saturated.
    """
    speed = np.hypot(flow[..., 0], flow[..., 1])
    hue = (np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1) * 179
    saturation = np.clip(speed / max(largest or float(speed.max()), 1e-6), 0, 1) * 255
    return cv2.cvtColor(
        np.dstack([hue, saturation, np.full_like(hue, 255)]).astype(np.uint8), cv2.COLOR_HSV2RGB
    )


def flow_arrows(
    axis, frame, flow: Float[np.ndarray, "height width 2"], step: int = 7, stretch: float = 3.0
) -> None:
    """Draw the flow on `axis` as arrows over the grey frame, `stretch` times as long as the motion."""
    axis.imshow(
        cv2.cvtColor(to_picture(frame), cv2.COLOR_RGB2GRAY),
        cmap="gray",
        vmin=0,
        vmax=255,
        alpha=0.65,
    )
    y, x = np.mgrid[step // 2 : flow.shape[0] : step, step // 2 : flow.shape[1] : step]
    u, v = flow[y, x].transpose(2, 0, 1)
    moving = np.hypot(u, v) > 0.15
    axis.quiver(
        x[moving],
        y[moving],
        u[moving],
        v[moving],
        angles="xy",
        scale_units="xy",
        scale=1 / stretch,
        color=HIGHLIGHT,
        width=0.006,
    )


def plot_flow(frame, following, flow: Float[np.ndarray, "height width 2"]) -> Picture:
    """Two frames, the flow between them as colours and as arrows, and the first frame rebuilt from
    the second.
    """
    first, second = to_picture(frame), to_picture(following)
    rebuilt = np.clip(warp(second.astype(np.float32), flow), 0, 255)
    before, after = (np.abs(first - other.astype(np.float32)).mean() for other in (second, rebuilt))
    figure, axes = blank_axes(1, 5, 10.5, 2.4)
    shown = {
        "frame t": first,
        "frame t + 1": second,
        "flow as colours": flow_colours(flow),
        "t rebuilt from t + 1": rebuilt.astype(np.uint8),
    }
    for axis, (title, picture) in zip(axes[0, [0, 1, 2, 4]], shown.items(), strict=True):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9, color=INK)
    flow_arrows(axes[0, 3], first, flow)
    axes[0, 3].set_title("flow as arrows, × 3", fontsize=9, color=INK)
    fastest = np.hypot(flow[..., 0], flow[..., 1]).max()
    return Picture(
        figure,
        f"Optical flow between two frames: motion is up to {fastest:.1f} px; sampling frame t + 1 "
        f"along the flow changes the mean difference to frame t from {before:.1f} to {after:.1f} "
        "grey levels.",
    )


def plot_traits(
    prediction: Float[np.ndarray, "5"], reference: dict[str, Float[np.ndarray, "5"]] | None = None
) -> Picture:
    """The five predicted traits as bars, with named references (the truth, the floor) as marks."""
    figure, axes = blank_axes(1, 1, 6.2, 2.4)
    axis = axes[0, 0]
    positions = np.arange(len(TRAITS))[::-1]
    axis.barh(positions, prediction, color=BLUE, height=0.55, label="predicted")
    for (name, values), marker in zip((reference or {}).items(), cycle("Do^svx*"), strict=False):
        axis.plot(
            values,
            positions,
            marker,
            color=HIGHLIGHT,
            markerfacecolor="none" if marker != "D" else HIGHLIGHT,
            markersize=7,
            label=name,
        )
    open_axis(
        axis,
        xlim=(0, 1),
        yticks=positions,
        yticklabels=TRAITS,
        xlabel="predicted impression, 0 to 1",
    )
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    said = ", ".join(f"{name} {value:.2f}" for name, value in zip(TRAITS, prediction, strict=True))
    return Picture(figure, f"Predicted impressions: {said}.")


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
    figure = Figure(
        figsize=(1.15 * keys + 1.2, 1.35 + 0.36 * len(rows)), layout="constrained", facecolor=PAPER
    )
    grid = figure.add_gridspec(2, keys, height_ratios=(1.15, 0.36 * len(rows)))
    shown = ((np.arange(keys) + 0.5) * (len(frames) - 1) / keys).round().astype(int)
    for key, frame in enumerate(shown):
        axis = figure.add_subplot(grid[0, key])
        axis.imshow(frames[frame])
        axis.set(xticks=[], yticks=[])
        deciding = key == moment
        axis.set_title(
            "decides" if deciding else f"{key}", fontsize=8, color=HIGHLIGHT if deciding else INK
        )
        for spine in axis.spines.values():
            spine.set(color=HIGHLIGHT, linewidth=2.5) if deciding else spine.set_visible(False)
    axis = figure.add_subplot(grid[1, :])
    axis.imshow(weights, cmap="cividis", vmin=0, vmax=max(0.5, float(weights.max())), aspect="auto")
    for row in range(len(rows)):
        for key in range(keys):
            value = weights[row, key]
            axis.text(
                key,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if value > 0.6 * max(0.5, float(weights.max())) else "white",
            )
    axis.set(
        xticks=range(keys),
        yticks=range(len(rows)),
        yticklabels=rows,
        xlabel="moment in time (motion token)",
    )
    axis.tick_params(length=0, labelsize=8)
    if moment is not None:
        axis.add_patch(_frame(moment, len(rows)))
    top = ", ".join(
        f"{name}: moment {int(row.argmax())} ({row.max():.2f})"
        for name, row in zip(rows, weights, strict=True)
    )
    known = "" if moment is None else f" The deciding moment is {moment}."
    return Picture(
        figure, f"Attention over the {keys} moments of the clip; strongest for {top}.{known}"
    )


def _frame(column: int, rows: int):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, -0.5), 1, rows, fill=False, edgecolor=HIGHLIGHT, linewidth=2.5)


_STAGES = {  # name: (column, row, width, what it is)
    "face image": (0, 1, 1.5, "3 × 112 × 112"),
    "ResNet-50": (1.9, 1, 1.5, "lesson 01"),
    "face tokens": (3.8, 1, 1.5, "49 × 2048"),
    "optical flow": (0, 0, 1.5, "lesson 02"),
    "I3D": (1.9, 0, 1.5, "lesson 03"),
    "motion tokens": (3.8, 0, 1.5, "8 × 1024"),
    "cross-attention": (5.8, 0.5, 1.6, "lesson 04"),
    "fusion and head": (7.9, 0.5, 1.6, "lessons 05, 06"),
    "five traits": (10.0, 0.5, 1.3, "O C E A N"),
}

_ARROWS = [
    ("face image", "ResNet-50"),
    ("ResNet-50", "face tokens"),
    ("optical flow", "I3D"),
    ("I3D", "motion tokens"),
    ("face tokens", "cross-attention"),
    ("motion tokens", "cross-attention"),
    ("cross-attention", "fusion and head"),
    ("fusion and head", "five traits"),
]


def plot_pipeline(*here: str) -> Picture:
    """The course's pipeline with the stages named in `here` picked out: where a lesson is."""
    return plot_stages(
        _STAGES,
        _ARROWS,
        here,
        "The pipeline: a face image becomes face tokens, optical flow becomes "
        "motion tokens, cross-attention lets the face ask the motion, a head predicts five traits.",
    )


def plot_stages(
    stages: Mapping[str, tuple[float, float, float, str]],
    arrows: Sequence[tuple[str, str]],
    here: Sequence[str],
    description: str,
) -> Picture:
    """Boxes with arrows; a stage is a column, a row, a width and what it is, and those in `here`
    are picked out.
    """
    unknown = [stage for stage in here if stage not in stages]
    if unknown:
        raise ValueError(
            f"no stage {unknown[0]!r} in the pipeline; the stages are {', '.join(stages)}"
        )
    figure, axes = blank_axes(1, 1, 10.5, 1.9)
    axis = axes[0, 0]
    for stage, (x, y, width, note) in stages.items():
        chosen = stage in here
        axis.text(
            x + width / 2,
            y,
            f"{stage}\n{note}",
            ha="center",
            va="center",
            fontsize=8.5,
            color=PAPER if chosen else INK,
            fontweight="bold" if chosen else "normal",
            bbox={
                "boxstyle": "round,pad=0.45",
                "facecolor": BLUE if chosen else "#eef1f6",
                "edgecolor": BLUE,
            },
        )
    for start, end in arrows:
        (x, y, width, _), (to_x, to_y, _, _) = stages[start], stages[end]
        axis.annotate(
            "", (to_x, to_y), (x + width, y), arrowprops={"arrowstyle": "->", "color": GREY}
        )
    axis.set(xlim=(-0.2, 11.5), ylim=(-0.55, 1.55))
    return Picture(figure, description + (f" Here: {', '.join(here)}." if here else ""))
