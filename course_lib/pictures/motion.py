"""Pictures of what a video network says over time: features as curves, as maps over the frames, and
as a GIF.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from ..shapes import Float, Int, UInt8
from .base import (
    BLUE,
    HIGHLIGHT,
    INK,
    PAPER,
    Animation,
    Picture,
    blank_axes,
    flow_colours,
    open_axis,
    styles,
)

__all__ = [
    "animate_features",
    "features_beside_flow",
    "frame_of_step",
    "plot_all_features",
    "plot_boring_video",
    "plot_features_over_time",
]

MAP = (255, 0, 170)  # of a map over a frame: no skin, hair or background has this colour


def frame_of_step(steps: int, frames: int) -> Int[np.ndarray, " steps"]:
    """The middle frame of the stretch of video that each time step stands for."""
    return ((np.arange(steps) + 0.5) * frames / steps).astype(int)


def plot_boring_video(errors: Mapping[str, Float[np.ndarray, " steps"]]) -> Picture:
    """How far an inflated network is from the 2-D one at each time step, for each kind of padding
    by name.

    Derived in lesson 03.
    """
    figure, axes = blank_axes(1, 1, 6.4, 2.6)
    axis, said = axes[0, 0], []
    for (name, values), (mark, line, colour) in zip(errors.items(), styles(), strict=False):
        axis.plot(np.maximum(values, 1e-9), mark + line, color=colour, label=name, markersize=5)
        said.append(f"{name} {values.max():.1g} at worst, {values.min():.1g} at best")
    open_axis(axis, yscale="log", xlabel="time step", ylabel="difference to the 2-D network")
    axis.legend(
        title="padding in time",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        bbox_to_anchor=(1, 0.5),
        loc="center left",
    )
    return Picture(
        figure,
        "A still video through the inflated network: largest difference to the 2-D network, as a "
        f"share of its largest value, over time steps; {'; '.join(said)}.",
    )


def plot_features_over_time(
    features: Float[np.ndarray, "features steps"],
    names: Sequence[str],
    truth: np.ndarray | None = None,
    truth_name: str = "truth",
) -> Picture:
    """Several features as curves over time, one above the other, each beside what is known to
    happen, if it is.

    `truth` is `features steps` too. Raises `ValueError` if names or truth do not fit the features.
    Derived in lesson 03.
    """
    if len(names) != len(features) or (truth is not None and truth.shape != features.shape):
        raise ValueError(
            f"{len(names)} names and a truth of shape {None if truth is None else truth.shape} do"
            f" not fit features of shape {features.shape}; give one name, and one curve of truth,"
            " for each feature"
        )
    figure, axes = blank_axes(len(features), 1, 7.2, 0.4 + 0.85 * len(features))
    said = []
    for row, (axis, name, values) in enumerate(zip(axes[:, 0], names, features, strict=True)):
        axis.plot(values, "o-", color=BLUE, markersize=4, label="feature")
        open_axis(axis, yticks=[], xticks=range(len(values)))
        axis.tick_params(labelbottom=row == len(features) - 1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK)
        if truth is None:
            said.append(f"{name} peaks at step {values.argmax()}")
            continue
        known = axis.twinx()  # a scale of its own: the feature has no unit
        known.plot(truth[row], "D--", color=HIGHLIGHT, markersize=4, label=truth_name)
        known.set_axis_off()
        said.append(f"{name} {_correlation(values, truth[row]):.2f}")
        if row == 0:
            axis.legend(
                [axis.lines[0], known.lines[0]],
                ["feature", truth_name],
                frameon=False,
                fontsize=8,
                bbox_to_anchor=(1, 1),
                loc="upper left",
            )
    axes[-1, 0].set_xlabel("time step", fontsize=8)
    lead = f"correlation with the {truth_name}: " if truth is not None else ""
    return Picture(
        figure,
        f"{len(features)} features over {features.shape[1]} time steps; {lead}{', '.join(said)}.",
    )


def _correlation(values: Float[np.ndarray, " steps"], truth: Float[np.ndarray, " steps"]) -> float:
    """Pearson's; 0 where one of them never changes."""
    return float(np.corrcoef(values, truth)[0, 1]) if values.std() and truth.std() else 0.0


def plot_all_features(tokens: Float[np.ndarray, "steps dim"]) -> Picture:
    """Every feature as a row over time, each scaled to its own range and sorted by when it peaks.

    Features that never change are left out and counted. Derived in lesson 03.
    """
    low, high = tokens.min(axis=0), tokens.max(axis=0)
    moving = high > low
    rows = ((tokens - low) / np.maximum(high - low, 1e-12)).T[moving]
    peaks = rows.argmax(axis=1)
    figure, axes = blank_axes(1, 1, 7.2, 3.4)
    axis = axes[0, 0]
    axis.set_axis_on()
    image = axis.imshow(
        rows[np.argsort(peaks, kind="stable")],
        aspect="auto",
        cmap="cividis",
        interpolation="nearest",
    )
    axis.set(
        xlabel="time step", ylabel="features, by the step of their peak", xticks=range(len(tokens))
    )
    axis.tick_params(labelsize=8)
    figure.colorbar(image, ax=axis, label="share of own range")
    counts = np.bincount(peaks, minlength=len(tokens))
    return Picture(
        figure,
        f"{len(rows)} of {len(low)} features change in this clip; each of the {len(tokens)} steps "
        f"is the peak of {counts.min()} to {counts.max()} of them.",
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
    return (frame + (np.array(MAP) - frame) * 0.85 * share).astype(np.uint8)


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
    figure = Figure(
        figsize=(1.32 * len(steps) + 1.2, 1.36 * len(rows)), layout="constrained", facecolor=PAPER
    )
    axes = figure.subplots(len(rows), len(steps), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5, color=INK)
    for axis, step in zip(axes[0], steps, strict=True):
        axis.set_title(f"step {step}", fontsize=8.5, color=INK)
    peaks = (np.unravel_index(heat.argmax(), heat.shape) for heat in maps)
    said = ", ".join(
        f"{name} at step {step}, row {row}, column {column}"
        for name, (step, row, column) in zip(names, peaks, strict=True)
    )
    return Picture(
        figure,
        f"Frames, flow (white is still, {fastest:.1f} px saturated) and features of a clip, on a "
        f"grid of {maps.shape[2]} × {maps.shape[3]} places; strongest: {said}.",
        caption="Frames, flow, and where each feature is active, on one scale for all steps.",
    )


def animate_features(
    frames: np.ndarray, flow: np.ndarray, maps: np.ndarray, names: Sequence[str], fps: float = 8
) -> Animation:
    """The clip, its flow, and where each feature is active, side by side as a GIF.

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


def _titled(
    panel: UInt8[np.ndarray, "height width 3"], title: str
) -> UInt8[np.ndarray, "taller width 3"]:
    strip = np.full((18, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (34, 34, 34), 1, cv2.LINE_AA)
    return np.vstack([strip, panel])
