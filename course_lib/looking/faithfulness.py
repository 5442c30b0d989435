"""Is the map what the model uses? Hide the tokens that it ranks highest and see whether the
prediction goes.

A map is `rows columns` of tokens over an image; hiding a token hides that part of the image.
Derived in lesson 11.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.inference import evaluating, in_chunks, to_cpu, to_model
from ..shapes import Float, Int
from ..tables import aligned
from .agreement import mean_maps, resampled_means

__all__ = [
    "FaithfulnessScores",
    "area_under",
    "blurred",
    "deletion_curve",
    "insertion_curve",
    "intervention_effect",
    "mean_colour",
    "removal_order",
    "score_faithfulness",
    "superiority",
]


def blurred(
    images: Float[Tensor, "batch 3 height width"], radius: float = 0.1
) -> Float[Tensor, "batch 3 height width"]:
    """The images out of focus: a Gaussian whose standard deviation is `radius` of their width."""
    from torchvision.transforms.functional import gaussian_blur

    spread = radius * images.shape[-1]
    reach = min(round(3 * spread), min(images.shape[-2:]) - 1)
    return gaussian_blur(images, 2 * reach + 1, spread)


def mean_colour(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """The images as one flat colour each, their own mean."""
    return images.mean((-2, -1), keepdim=True).expand_as(images)


REPLACEMENTS = {"blur": blurred, "mean colour": mean_colour}


def removal_order(
    maps: Float[Tensor, "items rows columns"], seed: int = 0
) -> Int[Tensor, "items rows columns"]:
    """Each token's turn, 0 for the strongest; tokens that tie take turns at random, so a flat map
    is a random order.
    """
    values = maps.detach().flatten(1)
    shuffled = (
        torch.rand(values.shape, generator=torch.Generator().manual_seed(seed))
        .argsort(1)
        .to(values.device)
    )
    strongest_first = shuffled.gather(
        1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    )
    return strongest_first.argsort(1).view(maps.shape)


def deletion_curve(
    model: nn.Module,
    images: Tensor,
    attributes: Tensor,
    maps: Tensor,
    hidden: Tensor,
    removed: Sequence[int] | None = None,
    chunk: int = 250,
) -> Float[Tensor, "items steps"]:
    """An attribute's probability while the tokens that its map ranks highest are replaced by those
    of `hidden`.

    An item is an image, `items 3 height width`, the index of one of the model's outputs, `items`,
    and its map, `items rows columns`; `hidden` are the images to replace with (`blurred`,
    `mean_colour`). There is a step for each number of tokens `removed`, by default 0, 1, 2, … all.
    A map of what the model uses makes it fall early. Source: Petsiuk et al., arXiv 1806.07421.
    Derived in lesson 11.
    """
    removed = _check_items(images, attributes, maps, hidden, removed)
    images, attributes, maps, hidden = (
        tensor.cpu() for tensor in (images, attributes, maps, hidden)
    )
    turns, curves = removal_order(maps)[:, None], []
    for items in torch.arange(len(images)).split(chunk):
        image, replacement, turn = to_model(model, images[items], hidden[items], turns[items])
        curve = []
        for count in removed:
            gone = F.interpolate((turn < count).float(), images.shape[-2:]) > 0
            with evaluating(model), torch.no_grad():
                logits = to_cpu(model(torch.where(gone, replacement, image)))
            curve.append(logits.gather(1, attributes[items, None]).sigmoid())
        curves.append(torch.cat(curve, 1))
    return torch.cat(curves)


def insertion_curve(
    model: nn.Module,
    images: Tensor,
    attributes: Tensor,
    maps: Tensor,
    hidden: Tensor,
    inserted: Sequence[int] | None = None,
    chunk: int = 250,
) -> Float[Tensor, "items steps"]:
    """The same in reverse: start from `hidden` and put the image's tokens back, the highest ranked
    first.

    A map of what the model uses makes it rise early.
    """
    return deletion_curve(model, hidden, attributes, maps, images, inserted, chunk)


def intervention_effect(
    model: nn.Module, before: Tensor, after: Tensor, output: int = 0, chunk: int = 250
) -> Float[Tensor, " items"]:
    """By how much one probability moves when the inputs `before` become `after`, item by item.

    The two, `items ...` each, differ in one thing, so the difference is what this thing does to the
    answer. `output` is the column of the model's logits. Raises ValueError for shapes that differ.
    Derived in lesson 11.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"before has the shape {tuple(before.shape)} and after {tuple(after.shape)}; give the"
            " same items twice, with one thing changed"
        )
    first, second = (
        in_chunks(model, model, inputs, chunk)[:, output].sigmoid() for inputs in (before, after)
    )
    return second - first


def superiority(first: Float[Tensor, " first"], second: Float[Tensor, " second"]) -> float:
    """The share of pairs, one value of each, in which the one of `first` is larger; ties count half.

    1 and 0: the two never mix. 0.5: they cannot be told apart. It is the area under the ROC curve;
    Vargha and Delaney (2000) call it a measure of stochastic superiority. Derived in lesson 11.
    """
    gap = first[:, None] - second
    return ((gap > 0).double() + (gap == 0).double() / 2).mean().item()


def area_under(
    curve: Float[Tensor, "items steps"], removed: Sequence[int]
) -> Float[Tensor, " items"]:
    """The mean height of each curve over the share of tokens removed: low is good for deletion,
    high for insertion.
    """
    at = torch.tensor(removed, dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, at) / (at[-1] - at[0])


def _check_items(
    images: Tensor, attributes: Tensor, maps: Tensor, hidden: Tensor, removed: Sequence[int] | None
) -> list[int]:
    """How many tokens to remove, step by step, if all arguments fit."""
    if (
        maps.ndim != 3
        or not len(maps) == len(images) == len(attributes)
        or images.shape != hidden.shape
    ):
        raise ValueError(
            f"images {tuple(images.shape)}, attributes {tuple(attributes.shape)}, maps"
            f" {tuple(maps.shape)} and hidden {tuple(hidden.shape)} do not belong together; give an"
            " image, an index, a map `rows columns` and a replacement for each item"
        )
    if not maps.isfinite().all():
        raise ValueError(
            "the maps hold NaN or infinite values, which have no order; look for a model that"
            " diverged"
        )
    tokens = maps[0].numel()
    steps = list(range(tokens + 1)) if removed is None else list(removed)
    if len(steps) < 2 or steps != sorted(set(steps)) or not 0 <= steps[0] <= steps[-1] <= tokens:
        raise ValueError(
            f"the numbers of tokens to remove are {steps}; expected at least two, rising from 0 to"
            f" at most {tokens}"
        )
    return steps


@dataclass(frozen=True)
class FaithfulnessScores:
    """Deletion and insertion curves, `items steps`, of kinds of maps and of two baselines; prints
    as a table.

    The baselines are `curves["deletion"]["random order"]` and `["mean map"]`, one map for all
    images.
    """

    curves: dict[str, dict[str, Float[Tensor, "items steps"]]]
    removed: list[int]
    tokens: int
    replacement: str
    image: Int[Tensor, " items"]

    def area(self, measure: str, order: str) -> float:
        """The mean area under the curves: of a `measure`, deletion or insertion, in one of the
        orders.
        """
        return area_under(self.curves[measure][order], self.removed).mean().item()

    def gain(
        self, measure: str, order: str, over: str = "random order"
    ) -> tuple[float, float, float]:
        """How much better than another order, and its 95 % interval over resampled images; positive
        is better.
        """
        better, worse = (
            area_under(self.curves[measure][name], self.removed) for name in (order, over)
        )
        return resampled_means(
            better - worse if measure == "insertion" else worse - better, self.image
        )

    def __str__(self) -> str:
        rows = [("", "deletion", "insertion", *(f"{measure} gains" for measure in self.curves))]
        for order in self.curves["deletion"]:
            areas = [f"{self.area(measure, order):.3f}" for measure in ("deletion", "insertion")]
            gains = ["", ""]
            if order != "random order":
                numbers = [self.gain(measure, order) for measure in self.curves]
                gains = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*each) for each in numbers]
            rows.append((order, *areas, *gains))
        return (
            f"{aligned(rows)}\ngains over random order, with 95 % intervals; {len(self.image)}"
            f" attributes of {len(self.image.unique())} images, of {self.tokens} tokens each; hidden"
            f" tokens show the image's own {self.replacement}"
        )

    __repr__ = __str__


def score_faithfulness(
    model: nn.Module,
    images: Tensor,
    chosen: Tensor,
    maps: Mapping[str, Tensor],
    replacement: str = "blur",
    removed: Sequence[int] | None = None,
    mean_map: Tensor | None = None,
) -> FaithfulnessScores:
    """Deletion and insertion by each kind of map, `batch attributes rows columns`, by the mean map,
    and at random.

    `chosen`, `batch attributes`, says which attributes of which images to score: those that are
    there, as a rule. The mean map, `attributes rows columns`, is that of the first kind over the
    chosen images unless given from others. `replacement` is "blur" or "mean colour": what the model
    makes of the fully hidden image, where the curves end, depends on it, so look at both. Raises
    ValueError for an empty choice or shapes that differ.
    """
    if replacement not in REPLACEMENTS:
        raise ValueError(f"no replacement {replacement!r}; choose one of {', '.join(REPLACEMENTS)}")
    first = next(iter(maps.values()))
    for kind, values in maps.items():
        if values.shape != first.shape or values.ndim != 4 or values.shape[:2] != chosen.shape:
            raise ValueError(
                f"maps of kind {kind!r} have the shape {tuple(values.shape)} and `chosen` has"
                f" {tuple(chosen.shape)}; expected `batch attributes rows columns` and `batch"
                " attributes`"
            )
    images, maps = images.cpu(), {kind: values.cpu() for kind, values in maps.items()}
    first = next(iter(maps.values()))
    image, attribute = chosen.cpu().bool().nonzero(as_tuple=True)
    if not len(image):
        raise ValueError(
            "no attribute of any image is chosen; choose those that are there, as targets.bool()"
            " does"
        )
    if mean_map is None:
        mean_map = mean_maps(first, chosen.cpu())
    mean_map = mean_map.cpu()
    orders = {kind: values[image, attribute] for kind, values in maps.items()}
    orders |= {
        "mean map": mean_map[attribute],
        "random order": torch.zeros_like(first[image, attribute]),
    }
    original, hidden = images[image], REPLACEMENTS[replacement](images)[image]
    removed = _check_items(original, attribute, orders["mean map"], hidden, removed)
    curves = {}
    for measure, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
        curves[measure] = {
            name: curve(model, original, attribute, order, hidden, removed)
            for name, order in orders.items()
        }
    return FaithfulnessScores(curves, removed, first[0, 0].numel(), replacement, image)
