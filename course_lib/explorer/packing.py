"""What the explorer shows of an image: where each attribute's query looks, as bytes, beside truth
and regions.

Also what it knows of all images: predictions made once, from which samples are chosen by how an
attribute came out.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.drawn import to_image
from ..data.photographs import decode_picture
from ..looking.localisation import covered, pointing_game
from ..models.attention import VisualizableCrossAttention, split_heads
from ..models.inference import evaluating, to_model
from ..pictures.base import data_url
from ..recorder.operators import unobserved
from ..recorder.packing import dequantise, pack_arrays, quantise, read_arrays, rounded
from ..recorder.page import jpeg_url
from ..recorder.recorder import AttentionRecorder
from ..recorder.recording import layer_name
from ..shapes import Bool, Float, UInt8
from ..world.faces import Portrait
from ..world.population import ATTRIBUTES
from .base import Item

__all__ = [
    "COMMON",
    "RARE",
    "Look",
    "Predictions",
    "Removal",
    "as_labels",
    "fitting_names",
    "look",
    "outline",
    "pack_item",
    "predict_all",
    "read_image",
    "remove_patches",
    "shares_of",
    "unpack",
    "untrained_copy",
]

RARE, COMMON = 0.10, 0.30  # rare attributes are below the first, common ones above the second


OUTCOMES = ("unknown", "found", "missed", "false alarm", "rightly refused")

OFF_REGION = 8  # added to an outcome's number: present, but the strongest patch misses it

# pixels of a side, and bytes of a file, that an image of one's own may have
SMALLEST, LARGEST = 32, 20_000_000

UNTRAINED_SEED = 170_603_762  # one that no recipe trains with

DRAWS = 16  # how often random patches are masked, to compare with


class Look(NamedTuple):
    """A model's probabilities, its layers' weights, and what these are the softmax of, if known."""

    probabilities: Float[Tensor, "batch attributes"]
    weights: dict[str, Float[Tensor, "batch heads attributes tokens"]]
    scores: dict[str, Float[Tensor, "batch heads attributes tokens"]]

    def maps(self) -> Float[Tensor, "batch attributes rows columns"]:
        """The mean over the heads of the last layer, on the grid of patches."""
        mean = list(self.weights.values())[-1].mean(1)
        return mean.unflatten(-1, (round(mean.shape[-1] ** 0.5), -1))


@torch.inference_mode()
def look(model: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Look:
    """Run the model in evaluation mode and record where the query of each attribute looks.

    Every attention of `attributes` queries to a square number of tokens counts as a layer.
    Raises `ValueError` if there is none.
    """
    with (
        evaluating(model),
        comparing(model) as scores,
        AttentionRecorder(model) as recording,
    ):
        logits = model(*to_model(model, images))
    weights = {
        layer_name(record): record.weights
        for record in recording.records
        if record.weights is not None
        and record.shape[2] == logits.shape[-1]
        and round(record.shape[3] ** 0.5) ** 2 == record.shape[3]
    }
    if not weights:
        raise ValueError(
            f"{type(model).__name__} recorded no attention of its {logits.shape[-1]} attributes to"
            " a square grid of tokens; explore a model with a query for each attribute, such as"
            " AttributeModel"
        )
    scores = {name: scores[name] for name in weights if name in scores}
    return Look(logits.sigmoid().float().cpu(), weights, scores)


@contextmanager
def comparing(
    model: nn.Module,
) -> Iterator[dict[str, Float[Tensor, "batch heads queries keys"]]]:
    """Inside, each `VisualizableCrossAttention` that runs leaves its q·k / √dim here, by its name."""
    scores = {}

    def keep(name: str, module: VisualizableCrossAttention, inputs: tuple) -> None:
        with unobserved():
            q = split_heads(module.to_query(inputs[0]), module.heads).float()
            k = split_heads(module.to_key(inputs[1]), module.heads).float()
            scores[name] = (q @ k.mT / math.sqrt(q.shape[-1])).cpu()

    handles = [
        module.register_forward_pre_hook(partial(keep, name))
        for name, module in model.named_modules()
        if isinstance(module, VisualizableCrossAttention)
    ]
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


def untrained_copy(model: nn.Module) -> nn.Module:
    """The same architecture with random weights: each module as it is initialised, and parameters
    that no module initialises, such as learned queries, with their values shuffled.
    """
    fresh = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(UNTRAINED_SEED)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(UNTRAINED_SEED)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    return fresh


def as_labels(target: Tensor) -> Tensor:
    """Labels of 1 and 0, or of 1 and -1 as CelebA's tables have them, as 1 where present, else 0."""
    absent = target == -1
    if absent.any() and (target == 0).any():
        raise ValueError("its target holds both -1 and 0; give 1 where present, else 0")
    return torch.where(absent, 0, target)


def pack_item(
    image: Float[Tensor, "3 height width"],
    weights: Sequence[Float[Tensor, "heads attributes tokens"]],
    probabilities: Float[Tensor, " attributes"],
    truth: Tensor | None = None,
    regions: Tensor | None = None,
    scores: Sequence[Float[Tensor, "heads attributes tokens"]] = (),
    clear: Portrait | None = None,
    **known: Any,
) -> Item:
    """One sample's header and bytes; `known` goes into the header as it is.

    The arrays are those of `pack_maps`, and, where regions are known, `cover`: the share of each
    token that each attribute's region covers, above 0 wherever it touches. An attribute that is
    absent has no region. `clear` is the clear twin, whose regions give finer outlines.
    """
    arrays, rows = pack_maps(weights, scores), weights[0]
    outlines, size = None, list(image.shape[1:])
    if regions is not None:
        side = round(rows.shape[-1] ** 0.5)
        share = covered(regions, (side, side))
        cover = torch.where(share > 1e-9, (255 * share).round().clamp(1, 255), 0)
        arrays["cover"] = cover.to(torch.uint8)
        masks = regions.numpy()
        if clear is not None:
            masks, size = clear.regions & masks.any((1, 2))[:, None, None], clear.image.shape[:2]
        outlines = _outlines(masks)
    described, planes = pack_arrays(arrays)
    header = {
        "arrays": described,
        "image": jpeg_url(image),
        "clear": None if clear is None else webp_url(clear.image),
        "size": list(size),
        "outlines": outlines,
        "truth": None if truth is None else truth.int().tolist(),
        "probabilities": rounded(probabilities, 6),
    }
    return Item(header | known, planes)


def pack_maps(
    weights: Sequence[Float[Tensor, "heads attributes tokens"]],
    scores: Sequence[Float[Tensor, "heads attributes tokens"]] = (),
) -> dict[str, Tensor]:
    """Arrays of each layer's, head's and attribute's map, a row each: `tops` and `levels`, so that a
    weight is off by less than 1/255 of its map's largest; and, of scores, their `low` and `high`
    and 255 even steps between.
    """
    levels, tops = quantise(torch.cat([layer.flatten(0, 1) for layer in weights]))
    arrays = {"tops": tops}
    if scores:
        rows = torch.cat([layer.flatten(0, 1) for layer in scores])
        low, high = rows.amin(-1), rows.amax(-1)
        steps = (rows - low[:, None]) / (high - low).clamp(min=1e-9)[:, None]
        arrays |= {"low": low, "high": high, "scores": (255 * steps).round().to(torch.uint8)}
    return arrays | {"levels": levels}


def webp_url(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """A drawn picture as a WebP inside its own address: flat colours, so half of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=80, method=2)
    return data_url(buffer.getvalue(), "webp")


def _outlines(masks: Bool[np.ndarray, "attributes height width"]) -> list[str]:
    """The outline of each mask; equal ones, such as those of all hair colours, are drawn once."""
    known: dict[bytes, str] = {}
    paths = []
    for mask in masks.astype(np.uint8):
        key = np.packbits(mask).tobytes()
        if key not in known:
            known[key] = outline(mask)
        paths.append(known[key])
    return paths


def outline(mask: UInt8[np.ndarray, "height width"]) -> str:
    """The border of a region as an SVG path in pixels of the image; empty where the region is."""
    if not mask.any():
        return ""
    # borders between pixels
    twice = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    found, _ = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = (cv2.approxPolyDP(ring, 1.6, True)[:, 0] / 2 + 0.25 for ring in found)
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in ring.round(1)) + "Z" for ring in rings)


def unpack(
    item: Item, layers: Sequence[Mapping[str, Any]]
) -> list[Float[np.ndarray, "heads attributes tokens"]]:
    """The weights that a page reads from an item: what was packed, within the stated error."""
    arrays = read_arrays(item.header["arrays"], item.planes)
    rows = dequantise(arrays["levels"], arrays["tops"])
    heads = [layer["heads"] for layer in layers]
    maps = rows.reshape(sum(heads), -1, rows.shape[-1])
    return np.split(maps, np.cumsum(heads)[:-1])


def read_image(
    content: bytes, size: tuple[int, int], name: str = "the image"
) -> Float[Tensor, "3 height width"]:
    """Decode a PNG or JPEG as a person sees it (`read_picture`) and cut the largest piece of the
    shape `size` from its middle, scaled to it.

    Raises `ValueError` for another kind of file, a damaged or too large one, and sides under 32 px.
    """
    if len(content) > LARGEST:
        raise ValueError(
            f"{name} has {len(content) / 1e6:.0f} MB, expected at most {LARGEST / 1e6:.0f}; make it"
            " smaller"
        )
    try:
        picture = decode_picture(io.BytesIO(content), name, formats=("PNG", "JPEG"))
    except ValueError as error:
        raise ValueError(
            f"{name} is no PNG or JPEG that can be read; choose an image file of one of these two"
            " kinds"
        ) from error
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{name} has {width} × {height} px, expected at least {SMALLEST} on each side; choose a"
            " larger image"
        )
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    piece = np.ascontiguousarray(picture[top : top + rows, left : left + columns])
    return to_image(
        cv2.resize(
            piece, size[::-1], interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
        )
    )


class Removal(NamedTuple):
    """An attribute's probability with the image whole, without `patches`, and without as many random
    ones; and without `patches` those of all attributes.
    """

    whole: float
    without: float
    random: Float[np.ndarray, " draws"]
    patches: list[int]
    probabilities: list[float]


def remove_patches(
    model: nn.Module,
    image: Float[Tensor, "3 height width"],
    patches: Sequence[int],
    attribute: int,
    tokens: int,
) -> Removal:
    """Paint `patches` of a square grid of `tokens` in the image's mean colour and predict again;
    `DRAWS` times as many random ones.

    Source: Petsiuk et al., arXiv 1806.07421, deletion.
    """
    image, patches, side = image.cpu(), list(patches), round(tokens**0.5)
    generator = torch.Generator().manual_seed(len(patches))
    draws = [torch.randperm(tokens, generator=generator)[: len(patches)] for _ in range(DRAWS)]
    masks = torch.zeros(len(draws) + 2, tokens)  # the first stays empty: the whole image
    for mask, painted in zip(masks[1:], [torch.tensor(patches, dtype=int), *draws], strict=True):
        mask[painted] = 1
    masks = torch.nn.functional.interpolate(
        masks.view(-1, 1, side, side), image.shape[1:], mode="nearest-exact"
    )
    images = torch.where(masks > 0, image.mean((1, 2))[:, None, None], image)
    probabilities = look(model, images).probabilities
    whole, without, *random = probabilities[:, attribute].tolist()
    return Removal(whole, without, np.array(random, np.float32), patches, probabilities[1].tolist())


@dataclass(frozen=True)
class Predictions:
    """What the model says of every sample: probabilities, truth (NaN unknown), and whether the
    strongest patch hits.

    `pointing` is that of the mean over the last layer's heads, 0 to 1, NaN where no region is
    known. A sample that could not be read is NaN throughout; its message is in `failures`.
    """

    probabilities: Float[Tensor, "samples attributes"]
    truth: Float[Tensor, "samples attributes"]
    pointing: Float[Tensor, "samples attributes"]
    failures: dict[int, str]

    def outcomes(self, attribute: int, threshold: float) -> UInt8[np.ndarray, " samples"]:
        """How each sample came out: an index of `OUTCOMES`, and `OFF_REGION` if it is present and
        not looked at.
        """
        predicted, truth = self.probabilities[:, attribute] >= threshold, self.truth[:, attribute]
        outcome = torch.where(
            truth == 1, torch.where(predicted, 1, 2), torch.where(predicted, 3, 4)
        )
        outcome[truth.isnan()] = 0
        off = (truth == 1) & (self.pointing[:, attribute] < 0.5)
        return (outcome + OFF_REGION * off).to(torch.uint8).numpy()


def predict_all(
    model: nn.Module,
    read: Callable[[int], dict],
    count: int,
    batch_size: int,
    told: Callable[[int], None],
) -> Predictions:
    """Predict samples 0 to `count`, a batch at a time; `told` hears how many are done."""
    parts: list[tuple[int, Tensor, Tensor, Tensor]] = []
    failures: dict[int, str] = {}
    for first in range(0, count, batch_size):
        items = {}
        for index in range(first, min(first + batch_size, count)):
            try:
                items[index] = read(index)
            except ValueError as error:
                failures[index] = str(error)
        for size in {item["image"].shape for item in items.values()}:  # most often one
            same = {index: item for index, item in items.items() if item["image"].shape == size}
            seen = look(model, torch.stack([item["image"] for item in same.values()]))
            maps, missing = seen.maps(), torch.full_like(seen.probabilities[0], torch.nan)
            for index, item, probabilities, of_image in zip(
                same, same.values(), seen.probabilities, maps, strict=True
            ):
                truth, regions = item.get("target"), item.get("regions")
                parts.append(
                    (
                        index,
                        probabilities,
                        missing if truth is None else truth.float(),
                        missing if regions is None else pointing_game(of_image, regions),
                    )
                )
        told(min(first + batch_size, count))
    if not parts:
        raise ValueError(
            f"none of the {count} samples could be read ({next(iter(failures.values()))}); check"
            " the data set"
        )
    table = torch.full((3, count, parts[0][1].shape[0]), torch.nan)
    for index, *values in parts:
        table[:, index] = torch.stack(values)
    return Predictions(*table, failures)


def fitting_names(
    names: Sequence[str] | None, of_dataset: Sequence[str] | None, count: int
) -> list[str]:
    """The names given, or the data set's own, or the course's; `ValueError` unless each attribute
    has one.
    """
    given = names or of_dataset or (ATTRIBUTES if count == len(ATTRIBUTES) else range(count))
    fitting = [name if isinstance(name, str) else f"attribute {name}" for name in given]
    if len(fitting) != count or len(set(fitting)) != count:
        raise ValueError(
            f"there are {len(fitting)} names ({len(set(fitting))} different ones) and the model has"
            f" {count} attributes; give each a name of its own with names="
        )
    return fitting


def shares_of(what: str, values: Any, names: Sequence[str]) -> Tensor:
    """Shares between 0 and 1, one an attribute."""
    tensor = torch.as_tensor(values, dtype=torch.float32).detach().cpu()
    tensor = tensor.expand(len(names)) if tensor.ndim == 0 else tensor
    if tensor.shape != (len(names),) or not ((tensor >= 0) & (tensor <= 1)).all():
        raise ValueError(
            f"{what} have the shape {tuple(tensor.shape)} and run from {tensor.min():.3g} to"
            f" {tensor.max():.3g}, expected {len(names)} values from 0 to 1; give one for each"
            " attribute"
        )
    return tensor
