"""The attention explorer: what each attribute's query looks at, in any image of a data set, layer
by layer.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.std import tqdm

from ..looking.localisation import area_share, energy, pointing_game
from ..pictures.base import ExplorableFigure, to_picture
from ..recorder.packing import FINE, pack_arrays, rounded
from .base import MEAN, OWN, UNTRAINED, Explorer, Item
from .drawing import drawing_of, drawing_table, drawn_item
from .figure import CLEAR, explorer_figure, static_part, still
from .live import page_model, png_url
from .packing import (
    COMMON,
    RARE,
    Predictions,
    Removal,
    as_labels,
    fitting_names,
    look,
    pack_item,
    pack_maps,
    predict_all,
    read_image,
    remove_patches,
    shares_of,
    unpack,
    untrained_copy,
)
from .widget import ExplorerWidget
from .words import find_terms, near_words

__all__ = ["AttentionExplorer", "ImbalanceAwareAttentionExplorer"]

HELD = 64  # samples that are kept in memory

AVERAGED = 64  # samples of which the mean map is the mean

LOOKED = 400  # samples among which a good one to open with is sought,

TRIED = 64  # and how many of them the model is shown


class AttentionExplorer(Explorer):
    """Look through a data set at what an attribute model attends to; nothing is computed before it
    is looked at.

    `model` maps images, `batch 3 height width`, to a logit for each attribute, and attends from a
    query an attribute to a square grid of patches. Items of the `dataset` are dicts with `image`
    and, where known, `target` and `regions` (what is not known is called unknown). `names` are the
    data set's own, or the course's, unless given; a probability from the `thresholds` on (one
    number, or one an attribute) predicts the attribute. `checkpoints`, named state dicts (or
    models) of the same architecture, are walked through by a slider. Beside the model's maps stand
    those of an `untrained` model, which is a copy with random weights unless it is given, and the
    mean of many images' maps. A data set that can draw an item's clear twin (`clear_twin(index, size)`,
    as `FaceDataset` can) has it shown beside what the model sees.

    Raises `ValueError` for an empty data set, a model that attends to no grid, and names,
    thresholds or checkpoints that do not fit it.
    """

    what, title, shown, most = "sample", "Attention explorer", 16, HELD
    view, opening = "attributes.js", "openPage(renderExplorer, EXPLORER_STATE)"
    widget, static_part, still = ExplorerWidget, static_part, still
    frequencies: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        names: Sequence[str] | None = None,
        thresholds: Any = 0.5,
        checkpoints: Mapping[str, Any] | Sequence[Any] = (),
        untrained: nn.Module | None = None,
    ):
        super().__init__(copy.deepcopy(model) if checkpoints else model, dataset)
        if not isinstance(checkpoints, Mapping):
            checkpoints = {str(index): state for index, state in enumerate(checkpoints)}
        self.checkpoints = {
            name: state.state_dict() if isinstance(state, nn.Module) else state
            for name, state in checkpoints.items()
        }
        self.loaded: int | None = None
        self.untrained, self.openings = untrained, {}
        self.own: dict[str, Any] | None = None  # an item, and its clear twin if it is drawn
        self.own_name, self.drawn = "", 0
        self.predictions: dict[int, Predictions] = {}
        image = self.first(self.load, 16)["image"]
        self.image_size = tuple(image.shape[1:])
        seen = look(self._model(None), image[None])
        count = seen.probabilities.shape[1]
        self.names = fitting_names(names, getattr(dataset, "names", None), count)
        self.thresholds = shares_of("thresholds", thresholds, self.names)
        self.layers = [
            {"name": name, "heads": weights.shape[1]} for name, weights in seen.weights.items()
        ]
        self.compares = (
            seen.scores.keys() == seen.weights.keys()
        )  # what a weight arose from is known
        tokens = {weights.shape[3] for weights in seen.weights.values()}
        if len(tokens) > 1:
            raise ValueError(
                f"the layers attend to {sorted(tokens)} tokens, expected one grid for all; explore"
                " a model whose layers share their tokens"
            )
        (self.tokens,) = tokens

    # ---------------------------------------------------------------- samples

    def fetch(self, sample: int) -> dict:
        item = dict(self.dataset[sample])
        image, target = item["image"], item.get("target")
        shape = tuple(image.shape)
        if len(shape) != 3 or shape[0] != 3:
            raise ValueError(f"its image has the shape {shape}, expected 3 height width")
        if image.dtype == torch.uint8:
            item["image"] = image.float() / 255
        if target is not None:
            item["target"] = as_labels(target)
        if target is not None and item.get("regions") is not None:
            # what is absent has no place where it is decided
            item["regions"] = item["regions"] & (item["target"] == 1)[:, None, None]
        return item

    def read(self, sample: int) -> dict:
        """An item of the data set, or one's own image; `ValueError` says why it could not be
        loaded.
        """
        if sample != OWN:
            return self.load(sample)
        if self.own is None:
            raise ValueError(
                "there is no image of your own yet; drop one in, or call show_image(path)"
            )
        return self.own

    def packed(self, sample: int, checkpoint: int | str) -> Item:
        if sample == MEAN:
            return self._mean_maps(checkpoint)
        item = self.read(sample)
        seen = look(self._model(checkpoint), item["image"][None])
        if (count := next(iter(seen.weights.values())).shape[3]) != self.tokens:
            raise ValueError(
                f"the image of {self.what} {sample} becomes {count} tokens, and the first one"
                f" {self.tokens}; let the data set resize and crop all to one size"
            )
        maps = [weights[0] for weights in seen.weights.values()]
        if checkpoint == UNTRAINED:
            return _maps_item(maps, sample, checkpoint)
        return pack_item(
            item["image"],
            maps,
            seen.probabilities[0],
            item.get("target"),
            item.get("regions"),
            [scores[0] for scores in seen.scores.values()] if self.compares else [],
            self.clear(sample, CLEAR),
            sample=sample,
            checkpoint=checkpoint,
        )

    def clear(self, sample: int, size: int) -> Any:
        """The clear twin, a `Portrait`, of a sample that the data set can draw again; else None."""
        if sample == OWN:
            return (self.own or {}).get("clear")
        draw = getattr(self.dataset, "clear_twin", None)
        return None if draw is None or sample < 0 else draw(sample, size)

    def _mean_maps(self, checkpoint: int | str) -> Item:
        """The mean over the first samples of each layer's, head's and attribute's map."""
        images: list[Tensor] = []
        for sample in range(min(AVERAGED, len(self.dataset))):
            try:
                image = self.read(sample)["image"]
            except ValueError:
                continue
            if tuple(image.shape[1:]) == self.image_size:
                images.append(image)
        seen = look(self._model(checkpoint), torch.stack(images))
        return _maps_item([weights.mean(0) for weights in seen.weights.values()], MEAN, checkpoint)

    def page_model(self) -> tuple[dict[str, Any], bytes]:
        if len(self.checkpoints) > 1:  # a page holds one model
            return {}, b""
        image = self.first(self.load, 16)["image"]
        return page_model(self._model(None), image, self.layers)

    def exact_image(self, sample: int) -> str:
        """What the model sees, without loss, so that a page's model sees the same."""
        return png_url(self.read(sample)["image"])

    def versions(self) -> list[int | str]:
        return [*super().versions(), UNTRAINED]

    def held_by_page(self, samples: Sequence[int]) -> list[tuple[int, int | str]]:
        """Besides, the mean map at every checkpoint."""
        means = [(MEAN, version) for version in super().versions()]
        return super().held_by_page(samples) + means

    def checkpoint(self, number: int | str | None) -> int | str:
        """A checkpoint's number, None is the last; or the untrained model."""
        return number if number == UNTRAINED else super().checkpoint(number)

    def weights(self, sample: int, checkpoint: int | str | None = None) -> list[np.ndarray]:
        """Each layer's weights, `heads attributes tokens`, as they are shown: within 1/255 of each
        map's largest.
        """
        return unpack(self.item(sample, checkpoint), self.layers)

    def show_image(self, image: str | Path | bytes, name: str = "") -> None:
        """Take a PNG or JPEG, a path or its bytes, as sample `OWN`; nothing is known of it but the
        image.
        """
        if not isinstance(image, bytes):
            name, image = name or Path(image).name, Path(image).read_bytes()
        picture = read_image(image, self.image_size, name or "the image")
        self._take({"image": picture}, name or "own image")

    def draw(self, drawing: Mapping[str, Any]) -> None:
        """Draw a face as sample `OWN`, of which everything is known: `attributes`, a list of names,
        and numbers for the sliders `SLIDERS`.

        Raises `ValueError` for what cannot be drawn, and a model of other attributes.
        """
        drawing = drawing_of(drawing)
        if drawing_table(self.names, self.image_size) is None:
            raise ValueError(
                "this model has attributes, or images of a shape, that no drawn face has; draw with"
                " a model of the course's attributes"
            )
        self.drawn += 1
        item = drawn_item(drawing, self.names, self.image_size[0], CLEAR)
        self._take(item, f"drawn face {self.drawn}")

    def _take(self, item: dict[str, Any], name: str) -> None:
        self.own, self.own_name = item, name
        for key in [key for key in self.held if key[0] == OWN]:
            del self.held[key]

    def remove(
        self,
        sample: int,
        attribute: int,
        layer: int = -1,
        head: int = -1,
        count: int = 0,
        checkpoint: int | None = None,
        patches: Sequence[int] = (),
    ) -> Removal:
        """What becomes of the prediction without `patches`, or without the `count` patches that this
        map attends to most (head -1: mean).
        """
        if not patches:
            weights = self.weights(sample, checkpoint)[layer][:, attribute]
            weights = weights.mean(0) if head < 0 else weights[head]
            patches = np.argsort(-weights, kind="stable")[:count].tolist()
        image = self.read(sample)["image"]
        return remove_patches(self._model(checkpoint), image, patches, attribute, self.tokens)

    def predict(
        self,
        checkpoint: int | None = None,
        batch_size: int = 64,
        told: Callable[[int], None] = lambda done: None,
    ) -> Predictions:
        """Predict every sample, once for each checkpoint, with a progress bar; `told` hears how
        many are done.
        """
        checkpoint = self.checkpoint(checkpoint)
        if checkpoint not in self.predictions:
            with tqdm(total=len(self.dataset), desc="predicting", mininterval=2) as bar:

                def advance(done: int) -> None:
                    bar.update(done - bar.n)
                    told(done)

                self.predictions[checkpoint] = predict_all(
                    self._model(checkpoint), self.read, len(self.dataset), batch_size, advance
                )
        return self.predictions[checkpoint]

    def find(self, words: str, start: int = 0, most: int = 20_000) -> int | None:
        """The first sample from `start` on, and round, whose truth has all attributes that the
        words name.

        A word is part of a name, or near it ("moustache", "woman"); with a minus before it, it must
        be absent: "bald -eyeglasses". Looks at `most` samples. Raises `ValueError` for a word that
        names nothing.
        """
        terms = find_terms(words, self.names)
        for step in range(min(most, len(self.dataset))):
            sample = (start + step) % len(self.dataset)
            truth = self._truth(sample)
            if truth is not None and all(
                bool((truth[indices] == 1).any()) == present for indices, present in terms
            ):
                return sample
        return None

    def surest(self, sample: int) -> str:
        """The attribute that the model gives the highest probability, among those present if that
        is known.
        """
        try:
            header = self.item(sample).header
        except ValueError:
            return self.names[0]
        present = header["truth"] if any(header["truth"] or []) else [1] * len(self.names)
        return self.names[int(np.argmax(np.multiply(present, header["probabilities"])))]

    def first_view(self, samples: Sequence[int] = (), attribute: str = "") -> dict[str, Any]:
        """A good sample and attribute to open with, among these samples (the first ones of the data
        set); empty if there is none.

        Of attributes that are there, rare, found with a good margin, and have their strongest patch
        on the region, on the less damaged half of such faces: the one with the most attention on
        its region, as a multiple of chance. An `attribute` that is given is the one to look for.
        """
        key = tuple(samples), attribute
        if key not in self.openings:
            self.openings[key] = self._sought(samples or range(len(self.dataset)), attribute)
        return dict(self.openings[key])

    def _sought(self, samples: Sequence[int], attribute: str) -> dict[str, Any]:
        wanted = torch.ones(len(self.names), dtype=torch.bool)
        if attribute:
            wanted = torch.tensor([name == attribute for name in self.names])
        elif self.frequencies is not None:
            wanted = self.frequencies < RARE
        # without `target`, labels cost as much as items
        most, items = LOOKED if hasattr(self.dataset, "target") else TRIED, {}
        for sample in samples[:most]:
            if sample == OWN:  # it is no face of the data set
                continue
            try:
                truth = self._truth(sample)
                if truth is None or not (wanted & (truth == 1)).any():
                    continue
                item = self.read(sample)
            except ValueError:
                continue
            if (
                item.get("regions") is not None
                and tuple(item["image"].shape[1:]) == self.image_size
            ):
                items[sample] = item
            if len(items) == TRIED:
                break
        if not items:
            return {}
        seen = look(self._model(None), torch.stack([item["image"] for item in items.values()]))
        regions = torch.stack([item["regions"] for item in items.values()]) & wanted[:, None, None]
        maps, room = seen.maps(), (1 - self.thresholds).clamp(min=1e-6)
        sure = (seen.probabilities - self.thresholds) / room >= 0.5
        good = sure & (pointing_game(maps, regions) > 0.5)
        if not good.any():
            return {}
        with_one = good.any(1).nonzero()[:, 0].tolist()
        damages = torch.full((len(items),), torch.inf)
        for k in with_one:
            damages[k] = self._damage(*list(items.items())[k])
        good &= (damages <= damages[with_one].median())[:, None]
        gain = torch.where(good, energy(maps, regions) / area_share(regions), 0)
        best, index = divmod(int(gain.argmax()), len(self.names))
        return {"sample": list(items)[best], "attribute": self.names[index]}

    def _damage(self, sample: int, item: dict) -> float:
        """How far what the model sees is from the clear twin, in grey levels; 0 if there is none."""
        clear = self.clear(sample, max(32, item["image"].shape[-1]))
        if clear is None:
            return 0.0
        return float(np.abs(to_picture(item["image"]).astype(float) - clear.image).mean())

    def figure(
        self,
        sample: int = 0,
        attribute: str | None = None,
        layer: int = -1,
        head: int = -1,
        checkpoint: int | None = None,
    ) -> ExplorableFigure:
        """The same view as a plotly figure: one attribute's map over the image, beside all
        predictions.
        """
        return explorer_figure(self, sample, attribute, layer, head, checkpoint)

    # ---------------------------------------------------------------- what the page is told

    def bounds(self) -> dict[str, Any]:
        """Which states can be."""
        ranges = {
            "sample": [OWN, len(self.dataset) - 1],
            "checkpoint": [0, self.checkpoint(None)],
            "layer": [0, len(self.layers) - 1],
            "head": [-1, [layer["heads"] - 1 for layer in self.layers]],
            "patch": [-1, self.tokens - 1],
            "mask": [0, self.tokens],
            "strength": [0, 1],
        }
        maps = ["trained", UNTRAINED, "mean map"]
        aware = self.frequencies is not None
        options = {
            "attribute": self.names,
            "rarity": ["all", "rare", "common"] if aware else ["all"],
            "sort": ["probability", "rarity", "error"] if aware else ["probability", "error"],
            "outcome": ["any", "found", "missed", "false alarm", "off region"],
            "maps": maps,
            "drawer": ["", "details", "weight", "share"],
            "mode": ["explore", "point", "draw"],
        }
        return {"ranges": ranges, "options": options}

    def described(self) -> dict[str, Any]:
        frequencies = [None] * len(self.names)
        if self.frequencies is not None:
            frequencies = [round(share, 6) for share in self.frequencies.tolist()]
        rows = zip(self.names, frequencies, rounded(self.thresholds, 6), strict=True)
        keys = ("name", "frequency", "threshold")
        return {
            "attributes": [dict(zip(keys, row, strict=True)) for row in rows],
            "layers": self.layers,
            "tokens": self.tokens,
            "rare": RARE,
            "common": COMMON,
            "near": near_words(self.names),
            "averaged": min(AVERAGED, len(self.dataset)),
            "drawing": drawing_table(self.names, self.image_size),
        }

    def summary(self, count: int) -> str:
        return (
            f"{count} of {len(self.dataset):,} samples, {len(self.names)} attributes. Each weight is"
            f" stored within {100 / FINE:.2g} % of its map's largest, faint ones closer."
        )

    def opening_state(self, samples: Sequence[int]) -> dict[str, Any]:
        state = self.first_view(samples) or {
            "sample": samples[0],
            "attribute": self.surest(samples[0]),
        }
        return state | {"checkpoint": self.checkpoint(None)}

    # ---------------------------------------------------------------- inside

    def _truth(self, sample: int) -> Tensor | None:
        if hasattr(self.dataset, "target"):  # faster than the whole item
            return as_labels(self.dataset.target(sample))
        return self.read(sample).get("target")

    def _model(self, checkpoint: int | str | None) -> nn.Module:
        checkpoint = self.checkpoint(checkpoint)
        if checkpoint == UNTRAINED:
            self.untrained = self.untrained or untrained_copy(self.model)
            return self.untrained
        if self.checkpoints and self.loaded != checkpoint:
            name = list(self.checkpoints)[checkpoint]
            try:
                self.model.load_state_dict(self.checkpoints[name])
            except RuntimeError as error:
                raise ValueError(
                    f"checkpoint {name!r} does not fit the model ({str(error).splitlines()[0]});"
                    " give states of the same architecture"
                ) from error
            self.loaded = checkpoint
        return self.model


def _maps_item(maps: Sequence[Tensor], sample: int, checkpoint: int | str) -> Item:
    """Maps and nothing else."""
    described, planes = pack_arrays(pack_maps(maps))
    return Item({"sample": sample, "checkpoint": checkpoint, "arrays": described}, planes)


class ImbalanceAwareAttentionExplorer(AttentionExplorer):
    """The explorer that knows how often each attribute is positive: rare (< 10 %) and common (> 30
    %) ones apart.

    `frequencies` are shares of the training images, one an attribute in the order of the names, or
    by name. Raises `ValueError` for frequencies that are no shares or not one an attribute. Derived
    in lesson 10.
    """

    def __init__(self, model: nn.Module, dataset: Any, frequencies: Any, **options: Any):
        super().__init__(model, dataset, **options)
        if isinstance(frequencies, Mapping):
            missing = [name for name in self.names if name not in frequencies]
            if missing:
                raise ValueError(
                    f"frequencies lack {missing[0]!r}; give one for each of the {len(self.names)}"
                    " names"
                )
            frequencies = [frequencies[name] for name in self.names]
        self.frequencies = shares_of("frequencies", frequencies, self.names)
