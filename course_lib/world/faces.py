"""Drawn faces that know their answers: attributes at CelebA's rates, and for each the region that
decides it.

Derived in lessons 00 and 08.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from ..shapes import Bool, Float, UInt8
from . import anatomy, wardrobe
from .anatomy import Expression
from .camera import Difficulty, background, named_difficulty, photograph
from .canvas import Shape, paint_all, shade, split, to_fixed
from .population import ATTRIBUTES, check_attributes, sample_tone

__all__ = [
    "SPLITS",
    "Portrait",
    "Pose",
    "draw_face",
    "item_seed",
    "pose_points",
    "pose_shapes",
    "sketch",
    "whole_number",
]

Seed = int | float  # a whole number; a float is refused in a sentence


class Pose(NamedTuple):
    """Where a face is and how it is turned: parallax in face units, radians, image heights."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 0.325
    x: float = 0.5
    y: float = 0.53


class Portrait(NamedTuple):
    """A drawn face and where each attribute is decided; attributes without a place (Male, Young)
    have an empty mask.
    """

    image: UInt8[np.ndarray, "height width 3"]
    regions: Bool[np.ndarray, "attributes height width"]
    expression: Expression
    pose: Pose


def pose_points(
    points: np.ndarray, depth: np.ndarray | float, pose: Pose, expression: Expression
) -> np.ndarray:
    """Points in face units (… 2) to image heights: expression and parallax, then the head's roll,
    size and place.
    """
    moved = anatomy.displacement(
        points, pose.yaw, pose.pitch, expression.brow, expression.smile, expression.open
    )
    points = points + moved * (1 + np.asarray(depth)[..., None])
    cosine, sine = pose.scale * math.cos(pose.roll), pose.scale * math.sin(pose.roll)
    return points @ np.array(((cosine, sine), (-sine, cosine))) + np.array((pose.x, pose.y))


def draw_face(
    attributes: Iterable[str],
    seed: Seed,
    size: int = 112,
    difficulty: str | Difficulty = "easy",
    *,
    tone: float | None = None,
    picture: int = 0,
    expression: Expression | None = None,
    pose: Pose | None = None,
    regions: bool = True,
) -> Portrait:
    """Draw the person `seed` with these positive attributes; `picture` counts the images of one
    person.

    Returns the image (`size size 3`, RGB, 0 to 255) and, for each of `ATTRIBUTES` in order, the
    boolean region that decides it. `expression`, `pose` and `tone` (skin, 0 light to 1 dark)
    override what is drawn at random.

    Raises ValueError for unknown or contradictory attributes, an unknown difficulty, a size under
    32 and a seed that is not a whole number. Derived in lesson 00.
    """
    attributes = check_attributes(attributes)
    difficulty = named_difficulty(difficulty)
    if size < 32:
        raise ValueError(
            f"size must be at least 32 px for a face to be recognisable, but it is {size}; try"
            " size=112"
        )
    generator = np.random.Generator(np.random.SFC64(whole_number(seed)))
    tone = sample_tone(generator) if tone is None else tone
    person = anatomy.appearance(attributes, tone, generator)
    rng = np.random.Generator(np.random.SFC64((seed, picture, 1)))
    random_pose, random_expression = (
        _random_pose(rng, difficulty),
        _random_expression(rng, attributes),
    )
    pose, expression = pose or random_pose, expression or random_expression

    under, over = sketch(person, expression)
    shapes = under + over + (list(wardrobe.places(person)) if regions else [])
    points, counts = pose_shapes(shapes, pose, expression)

    canvas = background(rng, 2 * size)
    strokes = list(zip(shapes, split(to_fixed(points * (2 * size)), counts), strict=True))
    paint_all(canvas, strokes[: len(under)])
    shade(canvas, [stroke for stroke in strokes[: len(under)] if stroke[0].kind == "shade"])
    paint_all(canvas, strokes[len(under) : len(under) + len(over)])
    image = photograph(
        cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), difficulty, rng
    )
    corners = split(to_fixed(points * size), counts) if regions else []
    return Portrait(image, _regions(shapes, corners, size if regions else 0), expression, pose)


def sketch(person: anatomy.Person, expression: Expression) -> tuple[list[Shape], list[Shape]]:
    """All that is painted of a person, from back to front: what shadows fall on, and what lies
    above them.
    """
    return (
        [*wardrobe.back_hair(person), *wardrobe.body(person), *anatomy.head(person)],
        [
            *anatomy.features(person),
            *anatomy.eyes(person, expression),
            *anatomy.mouth(person, expression),
            *wardrobe.front(person),
        ],
    )


def pose_shapes(
    shapes: list[Shape], pose: Pose, expression: Expression
) -> tuple[Float[np.ndarray, "points 2"], list[int]]:
    """The points of all shapes as shares of the image, and how many each shape has."""
    counts = [len(shape.points) for shape in shapes]
    depth = np.repeat([shape.depth for shape in shapes], counts)
    return (
        pose_points(np.concatenate([shape.points for shape in shapes]), depth, pose, expression),
        counts,
    )


def whole_number(seed: Seed) -> int:
    """The seed itself, if it is one."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, but it is {seed!r}; try seed=0")
    return int(seed)


def _random_pose(rng: np.random.Generator, difficulty: Difficulty) -> Pose:
    normal, uniform = rng.standard_normal(3).clip(-2, 2).tolist(), rng.uniform(-1, 1, 3).tolist()
    low, high = difficulty.scale
    return Pose(
        difficulty.turn * normal[0],
        0.7 * difficulty.turn * normal[1],
        difficulty.roll * normal[2],
        (low + high) / 2 + (high - low) / 2 * uniform[0],
        0.5 + difficulty.shift * uniform[1],
        0.53 + difficulty.shift * (uniform[2] - 0.2),
    )


def _random_expression(rng: np.random.Generator, attributes: frozenset[str]) -> Expression:
    brow, smile, opening, direction, reach = rng.random(5).tolist()
    smile = 0.55 + 0.45 * smile if "Smiling" in attributes else 0.12 * smile
    opening = 0.35 + 0.65 * opening if "Mouth_Slightly_Open" in attributes else 0.0
    angle = 2 * math.pi * direction
    return Expression(0.3 * brow, smile, opening, reach * math.cos(angle), reach * math.sin(angle))


_INDEX = {name: index for index, name in enumerate(ATTRIBUTES)}


def _regions(
    shapes: list[Shape], corners: list[np.ndarray], size: int
) -> Bool[np.ndarray, "attributes size size"]:
    """One mask an attribute: the union of the shapes that decide it, drawn once where several
    attributes share it.
    """
    deciding = defaultdict(list)
    for index, shape in enumerate(shapes[: len(corners)]):
        for name in shape.decides:
            deciding[name].append(index)
    masks, drawn = np.zeros((len(ATTRIBUTES), size, size), np.uint8), {}
    for name, indices in deciding.items():
        mask, key = masks[_INDEX[name]], tuple(indices)
        if key in drawn:
            mask[:] = drawn[key]
            continue
        for index in indices:
            cv2.fillPoly(mask, [corners[index]], 1, cv2.LINE_8, 4)
        drawn[key] = mask
    return masks.view(bool)


SPLITS = ("train", "valid", "test", "assets")  # "assets" is what the shipped weights are trained on

_ITEMS = 1_000_000_000  # seeds a split


def item_seed(seed: Seed, split_name: str, index: int) -> int:
    """The seed of item `index` of a split: no two splits, nor two seeds of a data set, ever share
    one.
    """
    if split_name not in SPLITS:
        raise ValueError(f"unknown split {split_name!r}; choose one of {', '.join(SPLITS)}")
    if not 0 <= index < _ITEMS:
        raise ValueError(f"item {index} lies outside 0 to {_ITEMS - 1}; ask for a smaller index")
    return (whole_number(seed) * len(SPLITS) + SPLITS.index(split_name)) * _ITEMS + int(index)
