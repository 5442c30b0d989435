"""A drawn face as a texture that can be set in motion: painted once, eyes and mouth again for every
frame.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..shapes import Float, UInt8
from . import anatomy
from .anatomy import Expression, Person
from .canvas import Shape, Stroke, paint_all, shade, split, to_fixed

__all__ = [
    "GRID",
    "MATERIALS",
    "ORIGIN",
    "TEXTURE",
    "UNIT",
    "fixed_point",
    "make_grain",
    "paint_face",
    "paint_layer",
    "part_motion",
]

TEXTURE, UNIT = 176, 54.0  # texture size, and texture px a face unit

ORIGIN = np.array((88.0, 92.0))

GRID = np.stack(np.meshgrid(*[np.arange(TEXTURE) + 0.5] * 2), -1)

GRID = ((GRID - ORIGIN) / UNIT).astype(np.float32)  # face coordinates of each texture pixel

MATERIALS = {"iris": 1, "lid": 2, "lip": 3, "eyes": 4, "mouth": 5}


def _strokes(shapes: Sequence[Shape], supersampling: int = 1) -> list[Stroke]:
    """Each shape with its corners on the texture."""
    if not shapes:
        return []
    points = np.concatenate([shape.points for shape in shapes])
    corners = to_fixed((points * UNIT + ORIGIN) * supersampling)
    return list(zip(shapes, split(corners, [len(shape.points) for shape in shapes]), strict=True))


def paint_layer(shapes: list[Shape], grain: np.ndarray) -> UInt8[np.ndarray, "texture texture 4"]:
    """Shapes as a premultiplied RGBA texture at twice the size, shaded, with the fine grain that
    flow holds on to.
    """
    canvas = np.zeros((2 * TEXTURE, 2 * TEXTURE, 4), np.uint8)
    strokes = _strokes(shapes, 2)
    last_shade = max((k for k, shape in enumerate(shapes) if shape.kind == "shade"), default=-1)
    paint_all(canvas, strokes[: last_shade + 1])
    if last_shade >= 0:
        shade(canvas, [stroke for stroke in strokes if stroke[0].kind == "shade"])
    paint_all(canvas, strokes[last_shade + 1 :])
    texture = cv2.resize(canvas, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)
    alpha = cv2.extractChannel(texture, 3)
    shown_grain = (grain * (alpha / 255)).astype(np.int16)
    grainy = cv2.add(
        texture, cv2.merge([*[shown_grain] * 3, np.zeros_like(shown_grain)]), dtype=cv2.CV_8U
    )
    return cv2.min(grainy, cv2.merge([alpha] * 4))  # premultiplied: no colour is above its alpha


def make_grain(
    rng: np.random.Generator, size: int, fine: float, coarse: float
) -> Float[np.ndarray, "size size"]:
    noise = rng.standard_normal((size, size), np.float32)
    return fine * cv2.GaussianBlur(noise, (0, 0), 1.0) + coarse * cv2.GaussianBlur(
        noise, (0, 0), 3.0
    )


def paint_face(
    head: UInt8[np.ndarray, "texture texture 4"], person: Person, expression: Expression
) -> tuple[np.ndarray, np.ndarray]:
    """The head with the eyes and mouth of this frame, and what material each texture pixel shows."""
    texture, material = head.copy(), np.zeros((TEXTURE, TEXTURE), np.uint8)
    strokes = _strokes([*anatomy.eyes(person, expression), *anatomy.mouth(person, expression)])
    paint_all(texture, strokes)
    for shape, corners in strokes:
        if shape.kind == "fill":
            cv2.fillPoly(material, [corners], MATERIALS[shape.part], cv2.LINE_8, 4)
    return texture, material


def part_motion(
    material: UInt8[np.ndarray, " points"],
    places: Float[np.ndarray, "points 2"],
    person: Person,
    now: Expression,
    then: Expression,
) -> Float[np.ndarray, "points 2"]:
    """How far (texture px) irises, lids and lower lip, at places of the texture, move on the skin
    to the next frame.
    """
    carried = np.zeros_like(places)
    carried[material == MATERIALS["iris"]] = (
        UNIT * np.array(anatomy.GAZE_REACH) * (then.gaze_x - now.gaze_x, then.gaze_y - now.gaze_y)
    )
    lip, lid = (np.flatnonzero(material == MATERIALS[part]) for part in ("lip", "lid"))
    columns, rows = np.rint(places[lip, 0]).astype(int), np.rint(places[lid, 1]).astype(int)
    carried[lip, 1] = UNIT * (then.open - now.open) * anatomy.lip_drop(person, GRID[0, columns, 0])
    if len(lid):
        top = anatomy.EYE_Y - anatomy.EYE_HEIGHT
        carried[lid, 1] = UNIT * (then.lid - now.lid) / now.lid * (GRID[rows, 0, 1] - top)
    return carried


def fixed_point(
    there: Float[np.ndarray, "points 2"],
    target: Float[np.ndarray, "points 2"],
    deformation: Float[np.ndarray, "texture texture 2"],
) -> tuple[np.ndarray, np.ndarray]:
    """Solve q = target + D(q) from a first guess; returns q and the length of the last step.

    cv2 looks D up in steps of 1/32 px, so most points soon come to rest and are done; at a mouth's
    corner a round leaves two thirds of the error.
    """
    # a point, a number
    there, target = (points.copy().view(np.complex64).ravel() for points in (there, target))
    step, moving = np.zeros_like(there), np.arange(len(there))
    for _ in range(16):
        before = there[moving]
        after = target[moving] + _look_up(deformation, before)
        there[moving], step[moving] = after, after - before
        moving = moving[after != before]
    return there.view(np.float32).reshape(-1, 2), abs(step)


_LONGEST_ROW = 32_000  # cv2 remaps to fewer than 2^15 columns


def _look_up(field: Float[np.ndarray, "texture texture 2"], points: np.ndarray) -> np.ndarray:
    """The field at points between its pixels; points and values are complex numbers, x + iy."""
    result = np.empty_like(points)
    for k in range(0, len(points), _LONGEST_ROW):
        row = points[k : k + _LONGEST_ROW].view(np.float32).reshape(1, -1, 2)
        values = cv2.remap(field, row, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        result[k : k + _LONGEST_ROW] = values.view(np.complex64).ravel()
    return result
