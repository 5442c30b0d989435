"""Drawn faces that know their answers: attributes at CelebA's rates, and for each the region that
decides it.

Derived in lessons 00 and 07.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache as remember
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..shapes import Bool, Float, UInt8
from . import anatomy, wardrobe
from .anatomy import Expression
from .camera import DIFFICULTIES, Difficulty, background, named_difficulty, photograph
from .canvas import Shape, paint, shade, split, to_fixed
from .population import ATTRIBUTES, check_attributes, sample_attributes, sample_tone
from .stored import StoredItems, source_version

__all__ = [
    "DIFFICULTIES",
    "SPLITS",
    "Difficulty",
    "FaceDataset",
    "Portrait",
    "Pose",
    "draw_face",
    "item_seed",
    "pose_points",
    "pose_shapes",
    "sketch",
    "to_image",
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
    looks = np.random.Generator(np.random.SFC64(whole_number(seed)))
    tone = sample_tone(looks) if tone is None else tone
    person = anatomy.appearance(attributes, tone, looks)
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
    for stroke in strokes[: len(under)]:
        paint(canvas, *stroke)
    shade(canvas, [stroke for stroke in strokes[: len(under)] if stroke[0].kind == "shade"])
    for stroke in strokes[len(under) : len(under) + len(over)]:
        paint(canvas, *stroke)
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


def to_image(picture: UInt8[np.ndarray, "height width 3"]) -> Float[torch.Tensor, "3 height width"]:
    """An 8-bit RGB picture as the course's images are: channels first, in [0, 1]."""
    return torch.from_numpy(
        np.divide(np.ascontiguousarray(picture.transpose(2, 0, 1)), 255, dtype=np.float32)
    )


class FaceDataset(Dataset):
    """`n` drawn faces by index, the same in every process: dicts of `image`, `target`, `regions`;
    more is known.

    `image` float32 `3 size size` in [0, 1]; `target` float32 `attributes` in {0, 1}; `regions` bool
    `attributes size size` (left out with `regions=False`); `expression` and `pose` float32 `6`, as
    in `Expression` and `Pose`; `tone` 0 light to 1 dark; `person` int. With `images_per_person` > 1
    consecutive items show one person, whose expression, light and pose differ. `label_noise` flips
    that share of the labels, not of what is drawn. With `cache`, a folder or True for the course's
    own, each item is drawn once and then read from one file (90 kB an item of 112 px). Derived in
    lesson 00.
    """

    def __init__(
        self,
        n: int,
        split: str = "train",
        seed: int = 0,
        difficulty: str | Difficulty = "medium",
        size: int = 112,
        images_per_person: int = 1,
        label_noise: float = 0.0,
        regions: bool = True,
        cache: str | Path | bool = False,
    ):
        item_seed(seed, split, 0)
        self.n, self.split, self.seed, self.size = n, split, seed, size
        self.difficulty = named_difficulty(difficulty)
        self.images_per_person, self.label_noise, self.regions = (
            images_per_person,
            label_noise,
            regions,
        )
        self.stored = self._open(cache) if cache else None

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
        if picture:  # another picture, another mood
            mood = np.random.Generator(np.random.SFC64((seed, 3, picture)))
            for name, rate in (("Smiling", 0.48), ("Mouth_Slightly_Open", 0.48)):
                attributes = attributes | {name} if mood.random() < rate else attributes - {name}
        return seed, tone, attributes

    def target(self, index: int) -> Float[torch.Tensor, " attributes"]:
        """The labels of item `index` without drawing it: what frequencies are counted from."""
        seed, _, attributes = self.person(index)
        return torch.from_numpy(self._labels(index, seed, attributes))

    def _labels(
        self, index: int, seed: int, attributes: frozenset[str]
    ) -> Float[np.ndarray, " attributes"]:
        target = np.array([name in attributes for name in ATTRIBUTES])
        if self.label_noise:
            noise = np.random.Generator(np.random.SFC64((seed, 4, index % self.images_per_person)))
            target ^= noise.random(len(ATTRIBUTES)) < self.label_noise
        return target.astype(np.float32)

    def __getitem__(self, index: int) -> dict:
        values = self._stored(index) or self._drawn(index)
        item = {
            "image": to_image(values["image"]),
            "tone": float(values["tone"]),
            "person": index // self.images_per_person,
        }
        for name in ("target", "expression", "pose"):
            # a copy: what is stored can't be written to
            item[name] = torch.from_numpy(np.array(values[name]))
        return item | ({"regions": torch.from_numpy(values["regions"])} if self.regions else {})

    def _drawn(self, index: int) -> dict[str, np.ndarray | float]:
        seed, tone, attributes = self.person(index)
        portrait = draw_face(
            attributes,
            seed,
            self.size,
            self.difficulty,
            tone=tone,
            picture=index % self.images_per_person,
            regions=self.regions,
        )
        values = {
            "image": portrait.image,
            "target": self._labels(index, seed, attributes),
            "tone": tone,
            "expression": np.array(portrait.expression, np.float32),
            "pose": np.array(portrait.pose, np.float32),
        }
        regions = {"regions": portrait.regions} if self.regions else {}
        if self.stored:
            self.stored.put(
                index, values | {name: np.packbits(masks) for name, masks in regions.items()}
            )
        return values | regions

    def _stored(self, index: int) -> dict[str, np.ndarray | float] | None:
        record = self.stored.get(index) if self.stored and 0 <= index < self.n else None
        if record is None:
            return None
        values = {name: record[name] for name in ("image", "target", "tone", "expression", "pose")}
        if self.regions:
            masks = (len(ATTRIBUTES), self.size, self.size)
            values["regions"] = (
                np.unpackbits(record["regions"], count=math.prod(masks)).reshape(masks).view(bool)
            )
        return values

    def _open(self, cache: str | Path | bool) -> StoredItems:
        fields = [
            ("image", np.uint8, (self.size, self.size, 3)),
            ("target", np.float32, len(ATTRIBUTES)),
            ("tone", np.float64),
            ("expression", np.float32, 6),
            ("pose", np.float32, 6),
        ]
        if self.regions:
            fields.append(("regions", np.uint8, -(-len(ATTRIBUTES) * self.size**2 // 8)))
        settings = {
            "split": self.split,
            "seed": int(self.seed),
            "difficulty": asdict(self.difficulty),
            "size": self.size,
            "images_per_person": self.images_per_person,
            "label_noise": self.label_noise,
            "regions": self.regions,
        }
        return StoredItems(cache, "faces", self.n, fields, settings, _drawing_version())

    def fill_cache(self, workers: int = 2) -> None:
        """Draw what the cache lacks with `workers` processes; after an interruption, go on from
        there.

        Raises ValueError for a data set without a cache, OSError when the cache cannot be written.
        """
        if not self.stored:
            raise ValueError(
                "this data set has no cache to fill; make it with cache=True or cache=FOLDER"
            )
        missing = [index for index in range(self.n) if not self.stored.holds(index)]
        batches = [missing[first : first + 16] for first in range(0, len(missing), 16)]
        loader = DataLoader(self, batch_sampler=batches, num_workers=workers, collate_fn=len)
        with tqdm(
            total=self.n, initial=self.n - len(missing), desc=f"{self.n} faces", mininterval=5
        ) as bar:
            for batch, drawn in zip(batches, loader, strict=True):
                if not self.stored.holds(batch[-1]):
                    raise OSError(
                        f"the cache {self.stored.path} takes no more; make room, or name another"
                        " folder with cache=FOLDER, and run again: what is there is kept"
                    )
                bar.update(drawn)


@remember
def _drawing_version() -> str:
    """The code that draws, and the OpenCV that it draws with."""
    sources = ("anatomy", "camera", "canvas", "faces", "population", "wardrobe")
    return (
        f"{source_version(*(Path(__file__).with_name(f'{name}.py') for name in sources))} OpenCV"
        f" {cv2.__version__}"
    )
