"""The drawing tools of the drawn world: smooth curves, shapes in face coordinates, and a painter.

Face coordinates: the origin lies between eyes and nose, x to the right and y down, the crown at y = -1 and the
chin near y = +1. Everything a face consists of is a `Shape`: a polygon or a line with a colour, a depth and the
attributes it decides. Painting is one `cv2` call a shape.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from ..shapes import Float, Int, UInt8

__all__ = [
    "Shape",
    "Sketch",
    "band",
    "bump",
    "darker",
    "ellipse",
    "lighter",
    "mirror",
    "mix",
    "paint",
    "shade",
    "smooth",
    "split",
    "to_fixed",
]

_FRACTION_BITS = 4          # cv2 takes polygon corners in 1/16 px


class Shape(NamedTuple):
    """One brush stroke. `colour` None paints nothing and only marks the place of the attributes in `decides`."""

    part: str                                   # skin, hair, eyes, … : the layer it belongs to
    points: Float[np.ndarray, "points 2"]
    colour: Float[np.ndarray, "3"] | None       # RGB, 0 to 255; for kind "shade" a factor for each channel
    depth: float = 0.0                          # towards the viewer; -1 lies behind the face and does not turn with it
    decides: tuple[str, ...] = ()
    kind: str = "fill"                          # fill, line, loop, tint (30 % opaque) or shade (soft, multiplies)
    width: int = 1                              # of lines, in px of a 224 px canvas


class Sketch(list):
    """A list of shapes with the few methods that make drawing code short."""

    def fill(self, part, points, colour, depth=0.0, decides=(), kind="fill"):
        self.append(Shape(part, np.asarray(points, float), colour, depth, tuple(decides), kind))

    def line(self, part, points, colour, depth=0.0, decides=(), width=2, closed=False):
        kind = "loop" if closed else "line"
        self.append(Shape(part, np.asarray(points, float), colour, depth, tuple(decides), kind, width))

    def shade(self, points, factor, depth=0.0):
        self.append(Shape("skin", np.asarray(points, float), np.asarray(factor, float), depth, (), "shade"))

    def place(self, points, decides, depth=0.0):
        """Mark where attributes are decided without painting anything."""
        self.append(Shape("", np.asarray(points, float), None, depth, tuple(decides)))


@cache
def _spline(corners: int, closed: bool, steps: int) -> Float[np.ndarray, "points corners"]:
    """The matrix that turns control points into points of a Catmull-Rom curve through them."""
    rows = []
    for segment in range(corners if closed else corners - 1):
        for t in np.arange(steps) / steps:
            row = np.zeros(corners)
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
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
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def ellipse(x: float, y: float, width: float, height: float) -> Float[np.ndarray, "20 2"]:
    """A 20-gon that stands for the ellipse with these half axes."""
    return _CIRCLE * (width, height) + (x, y)


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Float[np.ndarray, "points 2"]:
    """The polygon between two curves over x."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def mirror(points) -> Float[np.ndarray, "points 2"]:
    """The same points on the other side of the face."""
    return np.asarray(points, float) * (-1, 1)


def bump(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radius: tuple[float, float]) -> np.ndarray:
    """A Gaussian hill of height 1: the building block of soft, invertible deformations."""
    return np.exp(-(((x - centre[0]) / radius[0]) ** 2) - ((y - centre[1]) / radius[1]) ** 2)


def mix(first, second, share: float) -> np.ndarray:
    """`share` of the second colour in the first."""
    return np.asarray(first, float) * (1 - share) + np.asarray(second, float) * share


def darker(colour, share: float) -> np.ndarray:
    return np.asarray(colour, float) * (1 - share)


def lighter(colour, share: float) -> np.ndarray:
    return mix(colour, (255, 255, 255), share)


def to_fixed(points: Float[np.ndarray, "points 2"]) -> Int[np.ndarray, "points 2"]:
    """Points in pixels (0.5 is the middle of the first pixel) as cv2's fixed-point corners."""
    return np.rint(points * (1 << _FRACTION_BITS)).astype(np.int32) - (1 << _FRACTION_BITS) // 2


def split(points: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """Cut a long array of points back into the pieces that it was joined from."""
    ends = np.cumsum(counts).tolist()
    return [points[end - count:end] for end, count in zip(ends, counts, strict=True)]


def paint(canvas: UInt8[np.ndarray, "height width channels"], shape: Shape, corners: Int[np.ndarray, "points 2"]):
    """Paint one shape onto an RGB canvas, or onto a premultiplied RGBA one; shades are left to `shade`."""
    if shape.colour is None or shape.kind == "shade":
        return
    colour = (*shape.colour.tolist(), 255.0)[: canvas.shape[2]]
    if shape.kind == "fill":
        cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA, _FRACTION_BITS)
    elif shape.kind == "tint":
        x, y, width, height = cv2.boundingRect(corners >> _FRACTION_BITS)
        part = canvas[max(y, 0):y + height + 1, max(x, 0):x + width + 1]
        painted = cv2.fillPoly(part.copy(), [corners - (max(x, 0) << _FRACTION_BITS, max(y, 0) << _FRACTION_BITS)],
                               colour, cv2.LINE_AA, _FRACTION_BITS)
        part[:] = cv2.addWeighted(part, 0.7, painted, 0.3, 0)
    else:
        width = max(1, round(shape.width * canvas.shape[0] / 224))
        cv2.polylines(canvas, [corners], shape.kind == "loop", colour, width, cv2.LINE_AA, _FRACTION_BITS)


def shade(canvas: UInt8[np.ndarray, "height width channels"], shades: list[tuple[Shape, Int[np.ndarray, "points 2"]]]):
    """Multiply the canvas by soft light and shadow: polygons on a quarter of the size, blurred and enlarged."""
    quarter = canvas.shape[0] // 4
    light = np.full((quarter, quarter, canvas.shape[2]), 128, np.uint8)
    for shape, corners in shades:
        corners = corners >> 2
        x, y = np.maximum((corners.min(0) >> _FRACTION_BITS) - 1, 0)
        right, bottom = (corners.max(0) >> _FRACTION_BITS) + 2
        part = light[y:bottom, x:right]
        if not part.size:
            continue
        factor = (*(shape.colour * 128).tolist(), 128.0)[: canvas.shape[2]]
        painted = np.full_like(part, 128)
        cv2.fillPoly(painted, [corners - np.array([x, y], np.int32) * (1 << _FRACTION_BITS)], factor, cv2.LINE_AA,
                     _FRACTION_BITS)
        part[:] = cv2.multiply(part, painted, scale=1 / 128)
    light = cv2.GaussianBlur(light, (0, 0), quarter / 28)
    cv2.multiply(canvas, cv2.resize(light, canvas.shape[1::-1]), canvas, scale=1 / 128)
