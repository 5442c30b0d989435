"""Drawn faces taken apart: for each part, what of it is to be seen, exactly. Derived in lesson 13."""

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..shapes import UInt8
from . import anatomy
from .camera import Difficulty
from .canvas import Shape, paint, split, to_fixed
from .faces import Seed, draw_face, pose_shapes, sketch
from .population import check_attributes

__all__ = ["CLOSE", "PARTS", "SEEN", "PartPortrait", "draw_parts", "part_index"]

PARTS = ("skin", "hair", "brows", "eyes", "glasses", "nose", "mouth", "beard", "hat", "clothes")

# jewellery counts as what it lies on
_BELONGS = {"iris": "eyes", "lid": "eyes", "lip": "mouth", "earring": "skin"}

SEEN = 8  # pixels that a part must have more than half of to count as present

# A face fills most of the image, so that brows are more than a pixel thick, and may lie anywhere in it, tilted, so that
# place alone gives no part away.
CLOSE = Difficulty(
    turn=0.09,
    roll=0.14,
    scale=(0.30, 0.42),
    shift=0.12,
    light=0.22,
    noise=10,
    blur=0.8,
    contrast=0.7,
    occluder=0,
    jpeg=0.2,
)


def part_index(name: str, parts: Sequence[str] = PARTS) -> int:
    """The place of a part in `parts`. Raises ValueError for an unknown one."""
    if name not in parts:
        near = difflib.get_close_matches(str(name), parts, 1, 0.3) or [parts[-1]]
        raise ValueError(
            f"unknown part {name!r}; did you mean {near[0]!r}? The parts are {', '.join(parts)}"
        )
    return parts.index(name)


class PartPortrait(NamedTuple):
    """A drawn face, and of each of `PARTS` how much of every pixel it covers to the eye, 0 to 255."""

    image: UInt8[np.ndarray, "height width 3"]
    layers: UInt8[np.ndarray, "parts height width"]


def draw_parts(
    attributes: Iterable[str],
    seed: Seed,
    size: int = 64,
    difficulty: str | Difficulty = CLOSE,
    *,
    tone: float = 0.5,
) -> PartPortrait:
    """Draw the person `seed` with `draw_face`, and their parts as layers.

    A layer holds what is visible: skin ends where hair begins. Only glasses are there as a whole,
    frame and lenses, together with the eyes seen through them. Raises ValueError for what
    `draw_face` refuses.
    """
    attributes = check_attributes(attributes)
    portrait = draw_face(attributes, seed, size, difficulty, tone=tone, regions=False)
    person = anatomy.appearance(attributes, tone, np.random.Generator(np.random.SFC64(seed)))
    under, over = sketch(person, portrait.expression)
    shapes = under + over
    points, counts = pose_shapes(shapes, portrait.pose, portrait.expression)
    corners = split(to_fixed(points * (2 * size)), counts)
    return PartPortrait(portrait.image, _layers(list(zip(shapes, corners, strict=True)), size))


def _layers(
    strokes: list[tuple[Shape, np.ndarray]], size: int
) -> UInt8[np.ndarray, "parts size size"]:
    """Paint the face once more, brush stroke by brush stroke, in colours that say which part each
    belongs to.

    An image has three colours, so four sheets hold ten parts; soft edges mix on them just as they
    do in the picture.
    """
    sheets = np.zeros((-(-len(PARTS) // 3), 2 * size, 2 * size, 3), np.uint8)
    lenses = np.zeros((2 * size, 2 * size, 3), np.uint8)
    colours = np.eye(len(PARTS), 3 * len(sheets)) * 255
    for shape, corners in strokes:
        if shape.kind == "tint":  # what lies behind a lens is still there
            paint(lenses, shape._replace(colour=(255, 255, 255), kind="fill"), corners)
            continue
        if shape.colour is None or shape.kind == "shade":
            continue  # a place or a shadow covers nothing
        part = PARTS.index(_BELONGS.get(shape.part, shape.part))
        for sheet, colour in zip(sheets, colours[part].reshape(-1, 3), strict=True):
            paint(sheet, shape._replace(colour=tuple(colour)), corners)
    layers = np.concatenate(
        [
            cv2.resize(sheet, (size, size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
            for sheet in sheets
        ]
    )[: len(PARTS)]
    glasses = layers[PARTS.index("glasses")]
    np.maximum(
        glasses, cv2.resize(lenses[..., 0], (size, size), interpolation=cv2.INTER_AREA), out=glasses
    )
    return layers


def dressed(attributes: frozenset[str], rng: np.random.Generator) -> frozenset[str]:
    """The same person, more often with glasses, hat or beard."""
    glasses, hat, beard = rng.random(3) < (0.3, 0.2, 0.3)
    if glasses:
        attributes |= {"Eyeglasses"}
    if hat:
        attributes = attributes - {"Bald", "Receding_Hairline", "Bangs"} | {"Wearing_Hat"}
    if beard and "Male" in attributes:
        attributes = attributes - {"No_Beard"} | {"Goatee", "Mustache"}
    return attributes
