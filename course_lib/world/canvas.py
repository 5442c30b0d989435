"""The drawing tools of the drawn world: smooth curves, shapes in face coordinates, and a painter.

Face coordinates: the origin lies between eyes and nose, x to the right and y down, the crown at y =
-1 and the chin near y = +1. Everything a face consists of is a `Shape`: a polygon or a line with a
colour, a depth and the attributes it decides. Painting is one `cv2` call a shape. A face is a
hundred small shapes, so what each costs counts: colours are tuples, and a curve or a disc is one
small matrix product.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

from ..shapes import Float, Int, UInt8

__all__ = [
    "Colour",
    "Shape",
    "Sketch",
    "Stroke",
    "band",
    "both_sides",
    "darker",
    "ellipse",
    "lighter",
    "mirror",
    "mix",
    "other_half",
    "paint",
    "paint_all",
    "shade",
    "smooth",
    "split",
    "to_fixed",
]

_FRACTION_BITS = 4  # cv2 takes polygon corners in 1/16 px

_PIXEL = 1 << _FRACTION_BITS

Colour = tuple[float, float, float]  # RGB, 0 to 255


class Shape(NamedTuple):
    """One brush stroke. `colour` None paints nothing and only marks the place of the attributes in
    `decides`.
    """

    part: str  # skin, hair, eyes, … : the layer it belongs to
    points: Float[np.ndarray, "points 2"]
    colour: Colour | None  # for kind "shade" a factor for each channel
    depth: float = 0.0  # towards the viewer; -1 lies behind the face and does not turn with it
    decides: tuple[str, ...] = ()
    kind: str = "fill"  # fill, line, loop, tint (30 % opaque) or shade (soft, multiplies)
    width: int = 1  # of lines, in px of a 224 px canvas


Stroke = tuple[Shape, Int[np.ndarray, "points 2"]]  # with its corners on a canvas


class Sketch(list):
    """A list of shapes with the few methods that make drawing code short."""

    def fill(self, part, points, colour, depth=0.0, decides=(), kind="fill"):
        self.append(Shape(part, np.asarray(points, float), colour, depth, decides, kind))

    def line(self, part, points, colour, depth=0.0, decides=(), width=2, closed=False):
        kind = "loop" if closed else "line"
        self.append(Shape(part, np.asarray(points, float), colour, depth, decides, kind, width))

    def shade(self, points, factor, depth=0.0):
        self.append(Shape("skin", np.asarray(points, float), factor, depth, (), "shade"))

    def place(self, points, decides, depth=0.0):
        """Mark where attributes are decided without painting anything."""
        self.append(Shape("", np.asarray(points, float), None, depth, decides))


@cache
def _spline(corners: int, closed: bool, steps: int) -> Float[np.ndarray, "points corners"]:
    """The matrix that turns control points into points of a Catmull-Rom curve through them."""
    rows = []
    for segment in range(corners if closed else corners - 1):
        for t in np.arange(steps) / steps:
            row = np.zeros(corners)
            weights = (
                -t + 2 * t**2 - t**3,
                2 - 5 * t**2 + 3 * t**3,
                t + 4 * t**2 - 3 * t**3,
                -(t**2) + t**3,
            )
            for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
                corner = segment + offset
                row[corner % corners if closed else min(max(corner, 0), corners - 1)] += weight / 2
            rows.append(row)
    if not closed:
        rows.append(np.eye(corners)[-1])
    return np.array(rows)


def smooth(points, closed: bool = True, steps: int = 4) -> Float[np.ndarray, "points 2"]:
    """A smooth curve through the control points (Catmull-Rom), `steps` points a segment."""
    return _spline(len(points), closed, steps) @ np.asarray(points, float)


_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)

_DISC = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.ones(20)], 1)


def ellipse(x: float, y: float, width: float, height: float) -> Float[np.ndarray, "20 2"]:
    """A 20-gon that stands for the ellipse with these half axes."""
    return _DISC @ np.array(((width, 0), (0, height), (x, y)), float)


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Float[np.ndarray, "points 2"]:
    """The polygon between two curves over x."""
    return np.array((np.concatenate([x, x[::-1]]), np.concatenate([top, bottom[::-1]]))).T


_MIRROR = np.array((-1.0, 1.0))


def mirror(points) -> Float[np.ndarray, "... 2"]:
    """The same points on the other side of the face."""
    return np.asarray(points, float) * _MIRROR


def both_sides(points) -> tuple:
    """A shape at x > 0 and its mirror image: a pair of brows, cheeks or ears."""
    return points, mirror(points)


def other_half(half: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mirror image of one half of an outline, backwards, so that it goes on where the half
    ends.
    """
    return [(-x, y) for x, y in reversed(half)]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    (red, green, blue), (red2, green2, blue2), other_share = first, second, 1 - share
    return (
        red * other_share + red2 * share,
        green * other_share + green2 * share,
        blue * other_share + blue2 * share,
    )


def darker(colour: Colour, share: float) -> Colour:
    red, green, blue = colour
    return red * (1 - share), green * (1 - share), blue * (1 - share)


def lighter(colour: Colour, share: float) -> Colour:
    return mix(colour, (255, 255, 255), share)


def to_fixed(points: Float[np.ndarray, "points 2"]) -> Int[np.ndarray, "points 2"]:
    """Points in pixels (0.5 is the middle of the first pixel) as cv2's fixed-point corners."""
    return np.rint(points * _PIXEL).astype(np.int32) - _PIXEL // 2


def split(points: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """Cut a long array of points back into the pieces that it was joined from."""
    ends = accumulate(counts)
    return [points[end - count : end] for end, count in zip(ends, counts, strict=True)]


def paint_all(canvas: UInt8[np.ndarray, "height width channels"], strokes: Iterable[Stroke]):
    """Paint shapes with their corners, from back to front."""
    for shape, corners in strokes:
        paint(canvas, shape, corners)


def paint(
    canvas: UInt8[np.ndarray, "height width channels"],
    shape: Shape,
    corners: Int[np.ndarray, "points 2"],
):
    """Paint one shape onto an RGB canvas, or onto a premultiplied RGBA one; shades are left to
    `shade`.
    """
    if shape.colour is None or shape.kind == "shade":
        return
    colour = (*shape.colour, 255.0)  # cv2 takes as many channels as the canvas has
    if shape.kind == "fill":
        cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA, _FRACTION_BITS)
    elif shape.kind == "tint":
        painted = cv2.fillPoly(canvas.copy(), [corners], colour, cv2.LINE_AA, _FRACTION_BITS)
        box = _box(corners)
        canvas[box] = cv2.addWeighted(canvas[box], 0.7, painted[box], 0.3, 0)
    else:
        width = max(1, round(shape.width * canvas.shape[0] / 224))
        cv2.polylines(
            canvas, [corners], shape.kind == "loop", colour, width, cv2.LINE_AA, _FRACTION_BITS
        )


def shade(
    canvas: UInt8[np.ndarray, "height width channels"],
    shades: Sequence[Stroke],
):
    """Multiply the canvas by soft light and shadow: polygons on a quarter of the size, blurred and
    enlarged.
    """
    quarter = canvas.shape[0] // 4
    light = np.full((quarter, quarter, canvas.shape[2]), 128, np.uint8)
    painted = light.copy()
    for shape, corners in shades:
        corners, factor = corners >> 2, [128 * channel for channel in (*shape.colour, 1)]
        box = _box(corners)
        painted[:] = 128
        cv2.fillPoly(painted, [corners], factor, cv2.LINE_AA, _FRACTION_BITS)
        if light[box].size:
            light[box] = cv2.multiply(light[box], painted[box], scale=1 / 128)
    light = cv2.GaussianBlur(light, (0, 0), quarter / 28)
    cv2.multiply(canvas, cv2.resize(light, canvas.shape[1::-1]), canvas, scale=1 / 128)


def _box(corners: Int[np.ndarray, "points 2"]) -> tuple[slice, slice]:
    """The rows and columns that a polygon lies in, and a pixel more on each side for its soft edge."""
    x, y, width, height = cv2.boundingRect(corners)
    left, top = (x >> _FRACTION_BITS) - 1, (y >> _FRACTION_BITS) - 1
    right, bottom = (x + width - 1 >> _FRACTION_BITS) + 2, (y + height - 1 >> _FRACTION_BITS) + 2
    return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
