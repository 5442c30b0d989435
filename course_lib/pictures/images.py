"""Images and what lies over them: sheets, tracks, flow, feature maps, and a layer in space and time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..data.flow import warp
from ..data.video import Clip, FaceTrack
from ..looking.layers import record_activations
from ..models.parts import LAYERS
from ..shapes import Bool, Float, Int, UInt8
from ..world.layers import part_index
from .base import (
    HIGHLIGHT,
    INK,
    LETTERS,
    PAPER,
    Animation,
    Picture,
    blank_axes,
    fitting,
    to_picture,
)

__all__ = [
    "animate_features",
    "contact_sheet",
    "features_beside_flow",
    "flow_arrows",
    "flow_colours",
    "frame_of_step",
    "overlay",
    "part_drawing",
    "plot_depth",
    "plot_flow",
    "plot_flow_wheel",
    "plot_scalings",
    "plot_track",
    "visualize_feature_maps",
]


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
    tile = 1.35 if columns < 7 else 1.22  # inches
    height = tile * max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure, axes = blank_axes(
        rows, columns, tile * columns, (height + 0.25 * bool(captions)) * rows
    )
    for k, picture in enumerate(pictures):
        axis = axes.flat[k]
        axis.imshow(picture)
        if captions:
            axis.set_title(captions[k], fontsize=LETTERS, color=INK, pad=2)
    return Picture(figure, description)


def plot_track(clip: Clip, track: FaceTrack, shown: int = 6) -> Picture:
    """Frames of a video, spread over its length, with the tracked face outlined."""
    times = np.linspace(0, len(track.boxes) - 1, shown).round().astype(int)
    pictures, captions = [], []
    for t, frame in enumerate(clip):
        if t in times:
            left, top, right, bottom = track.boxes[t].round().astype(int).tolist()
            pictures.append(
                cv2.rectangle(frame.copy(), (left, top), (right, bottom), (255, 220, 60), 3)
            )
            captions.append(
                f"{t / clip.fps:.1f} s, "
                + ("detected" if track.confidence[t] > 0.5 else "followed")
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


MAP_COLOUR = (225, 0, 190)  # no skin, hair or outline has it
MAP_OPACITY = 0.6  # of the strongest place: what lies under it can still be seen
LARGE = 448  # pixels a side, so that edges and outlines are sharp on any screen


def overlay(
    image,
    region: Bool[np.ndarray, "height width"] | None = None,
    heat: Float[np.ndarray, "rows columns"] | None = None,
    smooth: bool = False,
) -> UInt8[np.ndarray, "large_height large_width 3"]:
    """The image, enlarged if it is small, with a region outlined, or with a map laid over it.

    The map is one colour, clear where the weight is 0 and strongest at the map's own maximum; a
    square is a token, and `smooth` interpolates between their middles. The region may be finer
    than the image: its outline is thin, white with a dark rim. The explorer's pages draw the same.
    """
    picture = to_picture(image)
    times = max(1, -(-LARGE // min(picture.shape[:2])))
    size = (times * picture.shape[1], times * picture.shape[0])
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    if heat is not None:
        weights = np.asarray(heat, np.float32)
        shares = np.clip(weights / max(float(weights.max()), 1e-12), 0, 1)
        between = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        opacity = MAP_OPACITY * cv2.resize(shares, size, interpolation=between)[..., None]
        picture = ((1 - opacity) * picture + opacity * MAP_COLOUR).round().astype(np.uint8)
    if region is not None:
        share = cv2.resize(np.asarray(region, np.float32), size, interpolation=cv2.INTER_LINEAR)
        mask = (share >= 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, (20, 20, 20), 6, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return picture


PART_COLOURS = {  # from behind to the front
    "skin": (238, 190, 150),
    "hair": (120, 72, 38),
    "eyes": (30, 90, 190),
    "mouth": (200, 40, 60),
    "glasses": (25, 25, 25),
    "hat": (120, 90, 200),
}


def part_drawing(layers: Float[Tensor, "parts height width"]) -> UInt8[np.ndarray, "large large 3"]:
    """The layers that lesson 13 draws as one picture, each part in a colour of its own; what is half
    sure is half clear.
    """
    times = max(1, -(-LARGE // layers.shape[-1]))
    picture = np.full((*layers.shape[1:], 3), 245, np.float32)
    for part, colour in PART_COLOURS.items():
        opacity = layers[part_index(part, LAYERS)].clamp(0, 1).numpy()[..., None]
        picture = (1 - opacity) * picture + opacity * np.array(colour, np.float32)
    return cv2.resize(picture, None, fx=times, fy=times).round().astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# Optical flow
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
    figure, axes = blank_axes(1, 5, 8.5, 2.0)
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


def plot_flow_wheel() -> Picture:
    """The key to flow colours: the colour at a place of the disc is that of a pixel moving there
    from the centre.

    Used in lesson 02.
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
        axis.text(1.22 * x, 1.12 * y, name, ha="center", va="center", fontsize=LETTERS, color=INK)
    axis.set(xlim=(-1.5, 1.5), ylim=(1.3, -1.3))
    return Picture(
        figure,
        "The colours of flow: hue is the direction, with right red, down yellow-green, left cyan "
        "and up violet; saturation is the speed, with stillness white in the centre.",
    )


def plot_scalings(
    pairs: Mapping[
        str, tuple[UInt8[np.ndarray, "height width 3"], Float[Tensor, "height width 2"]]
    ],
    scalings: Mapping[str, Callable[[Tensor], Tensor]],
) -> Picture:
    """Frames by name, and the horizontal flow that begins there as each scaling hands it to a
    network.

    Each column has one range of colours, in which the middle is 0. Used in lesson 02.
    """
    figure, axes = blank_axes(
        len(pairs), 1 + len(scalings), 2.6 * (1 + len(scalings)), 2.2 * len(pairs) + 0.3
    )
    clauses = []
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
        bar.ax.set_yticklabels([f"{-largest:.2f}", "0", f"{largest:.2f}"], fontsize=LETTERS)
        clauses += [
            f"{title}, {name}: from {field.min():.2f} to {field.max():.2f}"
            for name, field in zip(pairs, fields, strict=True)
        ]
    return Picture(figure, "Horizontal flow as a network receives it. " + "; ".join(clauses) + ".")


# --------------------------------------------------------------------------------------------------
# Feature maps
def visualize_feature_maps(
    model: nn.Module,
    layer_name: str,
    input_data: Tensor,
    save_dir: str | Path | None = None,
    max_maps: int = 16,
) -> Picture:
    """The `max_maps` channels of a layer that vary most, for one input or a row for each of
    several.

    `input_data` is a batch, shown beside its maps if it is `batch 3 height width`. Of a layer with
    a time axis (`batch channels steps height width`) each row is a time step of the first item. A
    channel has one scale in all rows: yellow is its highest value there, dark blue its lowest. With
    `save_dir` the picture is written to `feature_maps_<layer>.png` in it. Raises `ValueError` for a
    layer that does not exist or has no maps. Derived in lesson 01.
    """
    maps = record_activations(model, layer_name, input_data)[layer_name].float()
    if maps.ndim not in (4, 5) or max_maps < 1:
        raise ValueError(
            f"{max_maps} maps were asked for of layer {layer_name!r}, which puts out"
            f" {tuple(maps.shape)}; choose one or more, and a layer with maps, batch channels"
            " height width"
        )
    images = (
        list(input_data)
        if maps.ndim == 4 and input_data.ndim == 4 and input_data.shape[1] == 3
        else []
    )
    if maps.ndim == 5:
        maps = rearrange(maps[0], "channels steps height width -> steps channels height width")
    per_channel = rearrange(maps, "rows channels height width -> channels (rows height width)")
    chosen = per_channel.std(1).topk(min(max_maps, maps.shape[1])).indices
    tiles, captions = [], []
    for row, channels in enumerate(maps[:, chosen]):
        if images:
            tiles.append(to_picture(images[row]))
            captions.append("input")
        for channel, one in zip(chosen.tolist(), channels.numpy(), strict=True):
            tiles.append(_colours(one, per_channel[channel].numpy()))
            captions.append(f"{channel}")
    row_length = len(chosen) + bool(images)
    silent = int((per_channel.amax(1) == per_channel.amin(1)).sum())
    picture = contact_sheet(
        tiles,
        captions,
        row_length if len(maps) > 1 else min(row_length, 9),
        description=(
            f"The {len(chosen)} channels of {layer_name} that vary most, of {maps.shape[1]}, each"
            f" {maps.shape[2]} × {maps.shape[3]} places; {silent} channels say the same everywhere."
        ),
    )
    if save_dir is not None:
        picture.save(Path(save_dir) / f"feature_maps_{layer_name}.png")
    return picture


def plot_depth(activations: Mapping[str, Tensor], image: Tensor, per_layer: int = 4) -> Picture:
    """The channels that vary most over one image, layer by layer from left to right.

    `activations` are those of `record_activations` for a batch whose first item is `image`, `3
    height width`. Derived in lesson 01.
    """
    figure, axes = blank_axes(
        per_layer, len(activations) + 1, 1.45 * (len(activations) + 1), 1.4 * per_layer + 0.3
    )
    axes[0, 0].imshow(to_picture(image))
    axes[0, 0].set_title("input", fontsize=LETTERS, color=INK)
    clauses = []
    for column, (name, maps) in enumerate(activations.items(), start=1):
        maps = maps[0].float().cpu()
        for row, channel in enumerate(maps.flatten(1).std(1).topk(per_layer).indices):
            axes[row, column].imshow(_colours(maps[channel].numpy()))
        axes[0, column].set_title(
            f"{name}\n{' × '.join(map(str, maps.shape))}", fontsize=LETTERS, color=INK
        )
        clauses.append(
            f"{name} {maps.shape[1]} × {maps.shape[2]} places, {(maps > 0).float().mean():.0%} of"
            " them active"
        )
    return Picture(
        figure,
        f"One image through {len(activations)} layers, the {per_layer} channels that vary most of "
        f"each: {'; '.join(clauses)}.",
    )


def _colours(
    values: np.ndarray, scale: np.ndarray | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """A map in cividis, from the lowest to the highest of `scale`, or of the map itself."""
    scale = values if scale is None else scale
    low, high = float(scale.min()), float(scale.max())
    scaled = (255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_CIVIDIS)[..., ::-1])


# --------------------------------------------------------------------------------------------------
# Features over time
def frame_of_step(steps: int, frames: int) -> Int[np.ndarray, " steps"]:
    """The middle frame of the stretch of video that each time step stands for."""
    return ((np.arange(steps) + 0.5) * frames / steps).astype(int)


def features_beside_flow(
    frames: np.ndarray,
    flow: np.ndarray,
    maps: np.ndarray,
    names: Sequence[str],
    steps: Sequence[int] | None = None,
) -> Picture:
    """Frames, their flow, and below it where each feature is active: a column for each of `steps`
    (all of them).

    `frames` are 8-bit RGB `frames height width 3`, `flow` is `flows height width 2` and `maps` are
    `features steps rows columns`; a feature's scale is one for all steps. The flow shown is in the
    first half of a step, on the way out. Raises `ValueError` for maps that do not fit names, frames
    or flow. Derived in lesson 03.
    """
    _check(frames, flow, maps, names)
    total = maps.shape[1]
    steps = range(total) if steps is None else steps
    middle = frame_of_step(total, len(flow))
    moving = frame_of_step(2 * total, len(flow))[::2]  # the middle of each step's first half
    fastest = float(np.quantile(np.hypot(flow[..., 0], flow[..., 1]), 0.995))
    rows = [
        ("frame", [frames[middle[step]] for step in steps]),
        ("flow", [flow_colours(flow[moving[step]], fastest) for step in steps]),
    ]
    rows += [
        (name, [_over(frames[middle[step]], heat[step], float(heat.max())) for step in steps])
        for name, heat in zip(names, maps, strict=True)
    ]
    size = fitting(1.2 * len(steps) + 1.2, 1.24 * len(rows))
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    axes = figure.subplots(len(rows), len(steps), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=LETTERS, color=INK)
    for axis, step in zip(axes[0], steps, strict=True):
        axis.set_title(f"step {step}", fontsize=LETTERS, color=INK)
    peaks = (np.unravel_index(heat.argmax(), heat.shape) for heat in maps)
    clauses = ", ".join(
        f"{name} at step {step}, row {row}, column {column}"
        for name, (step, row, column) in zip(names, peaks, strict=True)
    )
    return Picture(
        figure,
        f"Frames, flow (white is still, {fastest:.1f} px saturated) and features of a clip, on a "
        f"grid of {maps.shape[2]} × {maps.shape[3]} places; strongest: {clauses}.",
        caption="Frames, flow, and where each feature is active, on one scale for all steps.",
    )


def animate_features(
    frames: np.ndarray, flow: np.ndarray, maps: np.ndarray, names: Sequence[str], fps: float = 8
) -> Animation:
    """The clip, its flow, and where each feature is active, side by side as a film.

    Arguments and errors as in `features_beside_flow`. Derived in lesson 03.
    """
    _check(frames, flow, maps, names)
    fastest = float(np.quantile(np.hypot(flow[..., 0], flow[..., 1]), 0.995))
    titles = ["clip", "flow", *names]
    movie = []
    for t, field in enumerate(flow):
        step = t * maps.shape[1] // len(flow)
        panels = [frames[t], flow_colours(field, fastest)]
        panels += [_over(frames[t], heat[step], float(heat.max())) for heat in maps]
        movie.append(
            np.hstack([_titled(panel, title) for panel, title in zip(panels, titles, strict=True)])
        )
    return Animation(
        movie,
        fps,
        f"A clip of {len(flow)} frames, its flow, and where {', '.join(names)} "
        f"{'is' if len(names) == 1 else 'are'} active, step by step.",
    )


def _check(frames: np.ndarray, flow: np.ndarray, maps: np.ndarray, names: Sequence[str]) -> None:
    if maps.ndim != 4 or len(maps) != len(names) or not maps.size:
        raise ValueError(
            f"maps have shape {maps.shape} and there are {len(names)} names; expected features,"
            " steps, rows, columns, with one name for each feature"
        )
    if len(frames) < len(flow) or len(flow) < maps.shape[1] or frames.shape[1:3] != flow.shape[1:3]:
        raise ValueError(
            f"{len(frames)} frames of {frames.shape[1:3]}, {len(flow)} flow fields of"
            f" {flow.shape[1:3]} and {maps.shape[1]} steps are not of one clip; give the frames and"
            " flow the maps are of"
        )
    if not np.isfinite(maps).all():
        raise ValueError(
            "the maps hold values that are not finite; look for NaN in the flow they were made from"
        )


def _over(
    frame: UInt8[np.ndarray, "height width 3"],
    heat: Float[np.ndarray, "rows columns"],
    largest: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """A map laid over the frame, clear where it is small. `largest` is strongest in *every* frame,
    so that they can be compared.
    """
    share = np.clip(heat / max(largest, 1e-12), 0, 1).astype(np.float32)
    # no finer than the network sees
    share = cv2.resize(share, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None]
    # no skin, hair or background has this colour
    return (frame + (np.array((255, 0, 170)) - frame) * 0.85 * share).astype(np.uint8)


def _titled(
    panel: UInt8[np.ndarray, "height width 3"], title: str
) -> UInt8[np.ndarray, "taller width 3"]:
    strip = np.full((18, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (34, 34, 34), 1, cv2.LINE_AA)
    return np.vstack([strip, panel])
