"""A face that a reader draws: switches for its attributes, sliders for its pose and its damage."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from ..data.drawn import to_image
from ..shapes import UInt8
from ..world.faces import Pose, draw_face
from ..world.population import ATTRIBUTES, check_attributes

__all__ = ["SLIDERS", "drawing_of", "drawing_table", "drawn_item"]

# Lowest, highest and first value. Angles and parallax are those of `Pose`; blur in px of a 112-px
# face, noise in grey levels; `dim` is the contrast that is lost, `cover` the height of a grey bar
# across the face, as a share of the image.
SLIDERS = {
    "person": (0, 999, 7),
    "skin": (0.0, 1.0, 0.3),
    "turn": (-0.25, 0.25, 0.0),
    "nod": (-0.2, 0.2, 0.0),
    "tilt": (-0.4, 0.4, 0.0),
    "size": (0.18, 0.34, 0.3),
    "right": (0.3, 0.7, 0.5),
    "down": (0.4, 0.65, 0.53),
    "blur": (0.0, 3.0, 0.0),
    "noise": (0.0, 30.0, 0.0),
    "dim": (0.0, 0.8, 0.0),
    "cover": (0.0, 0.4, 0.0),
}

COVER = 96  # grey level of the bar


@cache
def _excluded() -> dict[str, list[str]]:
    """The attributes that cannot stand beside each attribute."""
    table: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    for name, others in table.items():
        for other in ATTRIBUTES:
            try:
                check_attributes({name, other})
            except ValueError:
                others.append(other)
    return table


def drawing_table(names: Sequence[str], size: tuple[int, int]) -> dict[str, Any] | None:
    """What a page needs to offer switches and sliders; None for a model whose attributes, or whose
    image's shape, no drawn face has.
    """
    if not set(names) <= set(ATTRIBUTES) or size[0] != size[1]:
        return None
    return {"sliders": SLIDERS, "excludes": _excluded()}


def drawing_of(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A whole drawing: `attributes`, a list of names, and a number for each of `SLIDERS`, whose first
    value stands where none is given.

    Raises `ValueError` for what cannot be drawn.
    """
    drawing = {name: first for name, (_, _, first) in SLIDERS.items()} | {"attributes": []}
    if unknown := [name for name in wanted if name not in drawing]:
        raise ValueError(
            f"a drawing has no {unknown[0]!r}; it has attributes, {', '.join(SLIDERS)}"
        )
    drawing |= wanted
    attributes = drawing["attributes"]
    if not isinstance(attributes, list | tuple) or not all(
        isinstance(name, str) for name in attributes
    ):
        raise ValueError(f"attributes are {attributes!r}, expected a list of names")
    check_attributes(attributes)
    for name, (low, high, _) in SLIDERS.items():
        value = drawing[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected {low} to {high}")
    drawing["person"] = round(drawing["person"])
    return drawing | {"attributes": list(attributes)}


def drawn_item(drawing: Mapping[str, Any], names: Sequence[str], size: int, clear: int) -> dict:
    """The drawing as an item of a data set: `image` of `size` px as the model sees it, `target`,
    `regions`, and the `clear` twin of so many px, a `Portrait`.
    """
    attributes = check_attributes(drawing["attributes"])
    pose = Pose(*(drawing[name] for name in ("turn", "nod", "tilt", "size", "right", "down")))
    same = {"tone": drawing["skin"], "pose": pose}
    seen = draw_face(attributes, drawing["person"], size, "clean", **same)
    twin = draw_face(attributes, drawing["person"], clear, "clean", **same)
    order = [ATTRIBUTES.index(name) for name in names]
    target = torch.tensor([float(name in attributes) for name in names])
    regions = torch.from_numpy(seen.regions[order])
    return {
        "image": to_image(_damaged(seen.image, drawing)),
        "target": target,
        "regions": regions & (target == 1)[:, None, None],
        "clear": twin._replace(regions=twin.regions[order]),
    }


def _damaged(
    image: UInt8[np.ndarray, "size size 3"], drawing: Mapping[str, Any]
) -> UInt8[np.ndarray, "size size 3"]:
    """What the sliders put between the face and the model, in the order of a camera."""
    size, image = image.shape[0], image.copy()
    if half := round(drawing["cover"] * size / 2):
        middle = round(drawing["down"] * size)
        image[max(0, middle - half) : middle + half] = COVER
    if drawing["blur"] > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), drawing["blur"] * size / 112)
    gain = 1 - drawing["dim"]
    grain = np.random.default_rng(drawing["person"]).standard_normal(image.shape)
    shown = gain * image + (1 - gain) * 110 + drawing["noise"] * grain
    return shown.clip(0, 255).astype(np.uint8)
