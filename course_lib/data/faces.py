"""Drawn faces that know their answers: attributes at CelebA's rates, and for each the region that decides it.

Derived in lessons 00 and 07.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ..shapes import Bool, Float, UInt8
from . import anatomy, wardrobe
from .anatomy import Expression
from .canvas import Shape, ellipse, paint, shade, split, to_fixed
from .population import ATTRIBUTES, check_attributes, sample_attributes, sample_tone

__all__ = ["DIFFICULTIES", "SPLITS", "Difficulty", "FaceDataset", "Portrait", "Pose", "draw_face", "item_seed",
           "pose_points", "to_image", "whole_number"]

Seed = int | float                      # a whole number; a float is refused in a sentence


@dataclass(frozen=True)
class Difficulty:
    """What stands between a face and its answer; each amount is 0 for a clean portrait."""

    turn: float = 0.0           # spread of yaw and pitch, face units of parallax
    roll: float = 0.0           # spread of the head's tilt, radians
    scale: tuple[float, float] = (0.325, 0.325)     # image heights a face unit: a face is about two units tall
    shift: float = 0.0          # largest shift, image heights
    light: float = 0.0          # uneven light
    noise: float = 0.0          # largest sensor noise, grey levels
    blur: float = 0.0           # largest blur, px of a 112 px image
    contrast: float = 1.0       # smallest contrast
    occluder: float = 0.0       # share of faces with something in front
    jpeg: float = 0.0           # share of images saved at a low JPEG quality


DIFFICULTIES = {
    "clean": Difficulty(),
    "easy": Difficulty(0.05, 0.06, (0.30, 0.34), 0.02, 0.15, 4, 0, 1.0, 0, 0),
    "medium": Difficulty(0.09, 0.11, (0.23, 0.34), 0.08, 0.22, 10, 1.2, 0.7, 0.25, 0.2),
    "hard": Difficulty(0.13, 0.16, (0.18, 0.33), 0.14, 0.30, 18, 2.6, 0.45, 0.45, 0.4),
}


class Pose(NamedTuple):
    """Where a face is and how it is turned: parallax in face units, radians, image heights."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 0.325
    x: float = 0.5
    y: float = 0.53


class Portrait(NamedTuple):
    """A drawn face and where each attribute is decided; attributes without a place (Male, Young) have an empty mask."""

    image: UInt8[np.ndarray, "height width 3"]
    regions: Bool[np.ndarray, "attributes height width"]
    expression: Expression
    pose: Pose


def pose_points(points: np.ndarray, depth: np.ndarray | float, pose: Pose, expression: Expression) -> np.ndarray:
    """Points in face units (… 2) to image heights: expression and parallax, then the head's roll, size and place."""
    moved = anatomy.displacement(points, pose.yaw, pose.pitch, expression.brow, expression.smile, expression.open)
    points = points + moved * (1 + np.asarray(depth)[..., None])
    cosine, sine = pose.scale * np.cos(pose.roll), pose.scale * np.sin(pose.roll)
    return points @ np.array([(cosine, sine), (-sine, cosine)]) + (pose.x, pose.y)


def draw_face(attributes: Iterable[str], seed: Seed, size: int = 112, difficulty: str | Difficulty = "easy", *,
              tone: float | None = None, picture: int = 0, expression: Expression | None = None,
              pose: Pose | None = None, regions: bool = True) -> Portrait:
    """Draw the person `seed` with these positive attributes; `picture` counts the images of one person.

    Returns the image (`size size 3`, RGB, 0 to 255) and, for each of `ATTRIBUTES` in order, the boolean region that
    decides it. `expression`, `pose` and `tone` (skin, 0 light to 1 dark) override what is drawn at random.

    Raises ValueError for unknown or contradictory attributes, an unknown difficulty, a size under 32 and a seed that
    is not a whole number. Derived in lesson 00.
    """
    attributes = check_attributes(attributes)
    if isinstance(difficulty, str):
        difficulty = _difficulty(difficulty)
    if size < 32:
        raise ValueError(f"size must be at least 32 px for a face to be recognisable, but it is {size}; try size=112")
    looks = np.random.Generator(np.random.SFC64(whole_number(seed)))
    tone = sample_tone(looks) if tone is None else tone
    person = anatomy.appearance(attributes, tone, looks)
    rng = np.random.Generator(np.random.SFC64((seed, picture, 1)))
    random_pose, random_expression = _random_pose(rng, difficulty), _random_expression(rng, attributes)
    pose, expression = pose or random_pose, expression or random_expression

    under = [*wardrobe.back_hair(person), *wardrobe.body(person), *anatomy.head(person)]
    over = [*anatomy.features(person), *anatomy.eyes(person, expression), *anatomy.mouth(person, expression),
            *wardrobe.front(person)]
    shapes = under + over + (list(wardrobe.places(person)) if regions else [])
    counts = [len(shape.points) for shape in shapes]
    depth = np.repeat([shape.depth for shape in shapes], counts)
    points = pose_points(np.concatenate([shape.points for shape in shapes]), depth, pose, expression)

    canvas = _background(rng, 2 * size)
    corners = split(to_fixed(points * 2 * size), counts)
    strokes = list(zip(shapes, corners, strict=True))
    for stroke in strokes[:len(under)]:
        paint(canvas, *stroke)
    shade(canvas, [stroke for stroke in strokes[:len(under)] if stroke[0].kind == "shade"])
    for stroke in strokes[len(under):]:
        paint(canvas, *stroke)
    image = _photograph(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), difficulty, rng)
    corners = split(to_fixed(points * size), counts) if regions else []
    return Portrait(image, _regions(shapes, corners, size if regions else 0), expression, pose)


def whole_number(seed: Seed) -> int:
    """The seed itself, if it is one."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, but it is {seed!r}; try seed=0")
    return int(seed)


def _difficulty(name: str) -> Difficulty:
    if name not in DIFFICULTIES:
        raise ValueError(f"unknown difficulty {name!r}; choose one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[name]


def _random_pose(rng: np.random.Generator, difficulty: Difficulty) -> Pose:
    normal, uniform = np.clip(rng.standard_normal(3), -2, 2), rng.uniform(-1, 1, 3)
    low, high = difficulty.scale
    return Pose(difficulty.turn * normal[0], 0.7 * difficulty.turn * normal[1], difficulty.roll * normal[2],
                (low + high) / 2 + (high - low) / 2 * uniform[0], 0.5 + difficulty.shift * uniform[1],
                0.53 + difficulty.shift * (uniform[2] - 0.2))


def _random_expression(rng: np.random.Generator, attributes: frozenset[str]) -> Expression:
    brow, smile, opening, direction, reach = rng.random(5)
    smile = 0.55 + 0.45 * smile if "Smiling" in attributes else 0.12 * smile
    opening = 0.35 + 0.65 * opening if "Mouth_Slightly_Open" in attributes else 0.0
    angle = 2 * np.pi * direction
    return Expression(0.3 * brow, smile, opening, float(reach * np.cos(angle)), float(reach * np.sin(angle)))


def _background(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A muted, out-of-focus room: a few random tones, enlarged."""
    base, tint = rng.uniform(70, 205), rng.normal(0, 14, 3)
    rough = base + tint + rng.normal(0, 17, (4, 4, 1)) + rng.normal(0, 5, (4, 4, 3))
    return cv2.resize(np.clip(rough, 10, 245).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)


_NOISE = np.clip(np.random.default_rng(0).normal(0, 32, (1 << 20)), -127, 127).astype(np.int8)
_AXIS = np.linspace(-1, 1, 8, dtype=np.float32)


def _photograph(image: UInt8[np.ndarray, "size size 3"], difficulty: Difficulty,
                rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """What a camera adds: uneven light, something in front, blur, low contrast, noise, compression."""
    size, uniform, normal = image.shape[0], rng.random(16), rng.standard_normal(5)
    if difficulty.light:
        slope = difficulty.light * np.clip(normal[:2], -1.5, 1.5)
        light = 128 * (1 + slope[0] * _AXIS[None, :, None] + slope[1] * _AXIS[:, None, None]) * (1 + 0.04 * normal[2:])
        light = cv2.resize(np.clip(light, 30, 255).astype(np.uint8), (size, size))
        image = cv2.multiply(image, light, scale=1 / 128)
    if uniform[0] < difficulty.occluder:
        x, y, width, height = uniform[1:5] * (1, 1, 0.14, 0.14) + (0, 0, 0.06, 0.06)
        outline = ellipse(x, y, width, height) if uniform[5] < 0.5 else ellipse(x, y, 3 * width, 0.5 * height)[::5]
        painted = cv2.fillPoly(image.copy(), [to_fixed(outline * size)], (uniform[6:9] * 220).tolist(), cv2.LINE_AA, 4)
        image = cv2.addWeighted(painted, 0.9, image, 0.1, 0)
    if uniform[9] * difficulty.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), uniform[9] * difficulty.blur * size / 112)
    if difficulty.contrast < 1:
        gain = 1 - (1 - difficulty.contrast) * uniform[10]
        image = cv2.convertScaleAbs(image, alpha=gain, beta=(1 - gain) * (60 + 100 * uniform[11]))
    if difficulty.noise:
        start = int(uniform[12] * (_NOISE.size - image.size)) if image.size < _NOISE.size else 0
        grain = np.resize(_NOISE[start:start + image.size], image.shape)
        image = cv2.addWeighted(image, 1, grain, uniform[13] * difficulty.noise / 32, 0, dtype=cv2.CV_8U)
    if uniform[14] < difficulty.jpeg:
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(25 + 50 * uniform[15]))
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


_INDEX = {name: index for index, name in enumerate(ATTRIBUTES)}


def _regions(shapes: list[Shape], corners: list[np.ndarray], size: int) -> Bool[np.ndarray, "attributes size size"]:
    """One mask an attribute: the union of the shapes that decide it."""
    masks = np.zeros((len(ATTRIBUTES), size, size), np.uint8)
    for shape, polygon in zip(shapes, corners, strict=False):
        for name in shape.decides:
            cv2.fillPoly(masks[_INDEX[name]], [polygon], 1, cv2.LINE_8, 4)
    return masks.view(bool)


SPLITS = ("train", "valid", "test", "assets")       # "assets" is what the shipped weights are trained on
_ITEMS = 1_000_000_000                              # seeds a split


def item_seed(seed: Seed, split_name: str, index: int) -> int:
    """The seed of item `index` of a split: no two splits, nor two seeds of a data set, ever share one."""
    if split_name not in SPLITS:
        raise ValueError(f"unknown split {split_name!r}; choose one of {', '.join(SPLITS)}")
    if not 0 <= index < _ITEMS:
        raise ValueError(f"item {index} lies outside 0 to {_ITEMS - 1}; ask for a smaller index")
    return (whole_number(seed) * len(SPLITS) + SPLITS.index(split_name)) * _ITEMS + int(index)


def to_image(picture: UInt8[np.ndarray, "height width 3"]) -> Float[torch.Tensor, "3 height width"]:
    """An 8-bit RGB picture as the course's images are: channels first, in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


class FaceDataset(torch.utils.data.Dataset):
    """`n` drawn faces by index, the same in every process: dicts of `image`, `target`, `regions`; more is known.

    `image` float32 `3 size size` in [0, 1]; `target` float32 `attributes` in {0, 1}; `regions` bool `attributes size
    size` (left out with `regions=False`); `expression` and `pose` float32 `6`, as in `Expression` and `Pose`;
    `tone` 0 light to 1 dark; `person` int.
    With `images_per_person` > 1 consecutive items show one person, whose expression, light and pose differ.
    `label_noise` flips that share of the labels, not of what is drawn. Derived in lesson 00.
    """

    def __init__(self, n: int, split: str = "train", seed: int = 0, difficulty: str | Difficulty = "medium",
                 size: int = 112, images_per_person: int = 1, label_noise: float = 0.0, regions: bool = True):
        item_seed(seed, split, 0)
        self.n, self.split, self.seed, self.size = n, split, seed, size
        self.difficulty = _difficulty(difficulty) if isinstance(difficulty, str) else difficulty
        self.images_per_person, self.label_noise, self.regions = images_per_person, label_noise, regions

    def __len__(self) -> int:
        return self.n

    def person(self, index: int) -> tuple[int, float, frozenset[str]]:
        """Seed, skin tone and attributes of item `index`, without drawing it."""
        if not 0 <= index < self.n:
            raise IndexError(f"item {index} of a data set of {self.n}; ask for 0 to {self.n - 1}")
        person, picture = divmod(index, self.images_per_person)
        seed = item_seed(self.seed, self.split, person)
        rng = np.random.Generator(np.random.SFC64((seed, 2)))
        tone = sample_tone(rng)
        attributes = sample_attributes(rng, tone)
        if picture:                                  # another picture, another mood
            mood = np.random.Generator(np.random.SFC64((seed, 3, picture)))
            for name, rate in (("Smiling", 0.48), ("Mouth_Slightly_Open", 0.48)):
                attributes = attributes | {name} if mood.random() < rate else attributes - {name}
        return seed, tone, attributes

    def target(self, index: int) -> Float[torch.Tensor, "attributes"]:  # noqa: F821
        """The labels of item `index` without drawing it: what frequencies are counted from."""
        seed, _, attributes = self.person(index)
        target = torch.tensor([name in attributes for name in ATTRIBUTES])
        if self.label_noise:
            noise = np.random.Generator(np.random.SFC64((seed, 4, index % self.images_per_person)))
            target ^= torch.from_numpy(noise.random(len(ATTRIBUTES)) < self.label_noise)
        return target.float()

    def __getitem__(self, index: int) -> dict:
        seed, tone, attributes = self.person(index)
        picture = index % self.images_per_person
        portrait = draw_face(attributes, seed, self.size, self.difficulty, tone=tone, picture=picture,
                             regions=self.regions)
        item = {"image": to_image(portrait.image), "target": self.target(index), "tone": tone,
                "expression": torch.tensor(portrait.expression, dtype=torch.float32),
                "pose": torch.tensor(portrait.pose, dtype=torch.float32),
                "person": index // self.images_per_person}
        return item | ({"regions": torch.from_numpy(portrait.regions)} if self.regions else {})
