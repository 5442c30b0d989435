"""A drawn face as a texture that can be set in motion: painted once, eyes and mouth again for every frame."""

import cv2
import numpy as np

from ..shapes import Float, UInt8
from . import anatomy
from .anatomy import Expression, Person
from .canvas import Shape, paint, shade, to_fixed

__all__ = ["GRID", "MATERIALS", "ORIGIN", "TEXTURE", "UNIT", "carried_by", "make_grain", "paint_face", "paint_layer"]

TEXTURE, UNIT = 176, 54.0                               # texture size, and texture px a face unit
ORIGIN = np.array((88.0, 92.0))
GRID = np.stack(np.meshgrid(*[np.arange(TEXTURE) + 0.5] * 2), -1)
GRID = ((GRID - ORIGIN) / UNIT).astype(np.float32)  # face coordinates of each texture pixel
MATERIALS = {"iris": 1, "lid": 2, "lip": 3, "eyes": 4, "mouth": 5}


def _corners(shape: Shape, supersampling: int = 1) -> np.ndarray:
    return to_fixed((shape.points * UNIT + ORIGIN) * supersampling)


def paint_layer(shapes: list[Shape], grain: np.ndarray) -> UInt8[np.ndarray, "texture texture 4"]:
    """Shapes as a premultiplied RGBA texture at twice the size, shaded, with the fine grain that flow holds on to."""
    canvas = np.zeros((2 * TEXTURE, 2 * TEXTURE, 4), np.uint8)
    strokes = [(shape, _corners(shape, 2)) for shape in shapes]
    last_shade = max((k for k, shape in enumerate(shapes) if shape.kind == "shade"), default=-1)
    for stroke in strokes[:last_shade + 1]:
        paint(canvas, *stroke)
    if last_shade >= 0:
        shade(canvas, [stroke for stroke in strokes if stroke[0].kind == "shade"])
    for stroke in strokes[last_shade + 1:]:
        paint(canvas, *stroke)
    texture = cv2.resize(canvas, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA).astype(np.int16)
    texture[..., :3] += (grain[..., None] * (texture[..., 3:] / 255)).astype(np.int16)
    return np.clip(texture, 0, texture[..., 3:]).astype(np.uint8)


def make_grain(rng: np.random.Generator, size: int, fine: float, coarse: float) -> Float[np.ndarray, "size size"]:
    noise = rng.standard_normal((size, size), np.float32)
    return fine * cv2.GaussianBlur(noise, (0, 0), 1.0) + coarse * cv2.GaussianBlur(noise, (0, 0), 3.0)


def paint_face(head: UInt8[np.ndarray, "texture texture 4"], person: Person,
               expression: Expression) -> tuple[np.ndarray, np.ndarray]:
    """The head with the eyes and mouth of this frame, and what material each texture pixel shows."""
    texture, material = head.copy(), np.zeros((TEXTURE, TEXTURE), np.uint8)
    for shape in (*anatomy.eyes(person, expression), *anatomy.mouth(person, expression)):
        corners = _corners(shape)
        paint(texture, shape, corners)
        if shape.kind == "fill":
            cv2.fillPoly(material, [corners], MATERIALS[shape.part], cv2.LINE_8, 4)
    return texture, material


def carried_by(material: np.ndarray, person: Person, now: Expression,
               then: Expression) -> Float[np.ndarray, "texture texture 2"]:
    """How far (texture px) irises, lids and lower lip move on the skin from this frame to the next."""
    carried = np.zeros((TEXTURE, TEXTURE, 2), np.float32)
    step = UNIT * np.array(anatomy.GAZE_REACH) * (then.gaze_x - now.gaze_x, then.gaze_y - now.gaze_y)
    carried[material == MATERIALS["iris"]] = step
    rows, columns = np.nonzero(material == MATERIALS["lip"])
    carried[rows, columns, 1] = UNIT * (then.open - now.open) * anatomy.lip_drop(person, GRID[0, columns, 0])
    rows, columns = np.nonzero(material == MATERIALS["lid"])
    if len(rows):
        top = anatomy.EYE_Y - anatomy.EYE_HEIGHT
        carried[rows, columns, 1] = UNIT * (then.lid - now.lid) / now.lid * (GRID[rows, 0, 1] - top)
    return carried
