"""How arrays travel to a page: one writer, and one reader here; `readArrays` of `web/kit.js` is the
page's.

A pack is bytes and a description that JSON can hold: for each array its name, dtype, shape and
where it begins. Maps travel as levels, one byte a weight: the square root of its share of the
map's largest, so that faint weights keep their digits beside a strong one.
"""

import re
from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..shapes import Float, UInt8

__all__ = ["FINE", "dequantise", "pack_arrays", "quantise", "read_arrays", "rounded", "script"]

FINE = 255  # levels of a map: a weight is off by less than one of them


def pack_arrays(arrays: Mapping[Any, Tensor | np.ndarray]) -> tuple[dict[Any, Any], bytes]:
    """The description of some arrays, uint8 or float32, and their bytes, one after the other."""
    described, parts, at = {}, [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        described[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "at": at}
        parts.append(content)
        at += len(content)
    return described, b"".join(parts)


def read_arrays(described: Mapping[str, Any], planes: bytes) -> dict[str, np.ndarray]:
    """What `pack_arrays` was given."""
    arrays = {}
    for name, entry in described.items():
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"]))
        arrays[name] = np.frombuffer(planes, dtype, count, entry["at"]).reshape(entry["shape"])
    return arrays


def quantise(
    maps: Float[Tensor, "*maps weights"], levels: int = FINE
) -> tuple[UInt8[Tensor, "*maps weights"], Float[Tensor, "*maps"]]:
    """Each map, its last axis, on its own scale: levels, and the largest weight of each."""
    tops = maps.amax(-1).float()
    shares = maps / tops.clamp(min=1e-30)[..., None]
    return (shares.sqrt() * levels).round().to(torch.uint8), tops


def dequantise(
    quantised: UInt8[np.ndarray, "*maps weights"],
    tops: Float[np.ndarray, "*maps"],
    levels: int = FINE,
) -> Float[np.ndarray, "*maps weights"]:
    """The weights that a page shows: each is off by less than 1 / `levels` of its map's largest."""
    return tops[..., None] * (quantised / np.float32(levels)) ** 2


def rounded(values: Any, digits: int) -> Any:
    """Numbers, of a tensor or of nested lists, as JSON holds them: so many digits that count."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, list):
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}")


def script(*names: str) -> str:
    """One JavaScript module out of these, such as `recorder/web/kit.js`, without their imports.

    It exports its default only: a widget would take another export called `render` for its own.
    """
    folder = package_files("course_lib")
    joined = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    joined = re.sub(r"^import [^;]*;\n", "", joined, flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", joined, flags=re.MULTILINE)
