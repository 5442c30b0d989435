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

from ..pictures.base import ExplorableFigure
from ..recorder.packing import FINE, rounded
from .base import OWN, Explorer, Item
from .figure import explorer_figure, static_part
from .packing import (
    COMMON,
    RARE,
    Predictions,
    Removal,
    as_labels,
    fitting_names,
    look,
    pack_item,
    predict_all,
    read_image,
    remove_patches,
    shares_of,
    unpack,
)
from .widget import ExplorerWidget

__all__ = ["AttentionExplorer", "ImbalanceAwareAttentionExplorer"]

HELD = 64  # samples that are kept in memory


class AttentionExplorer(Explorer):
    """Look through a data set at what an attribute model attends to; nothing is computed before it
    is looked at.

    `model` maps images, `batch 3 height width`, to a logit for each attribute, and attends from a
    query an attribute to a square grid of patches. Items of the `dataset` are dicts with `image`
    and, where known, `target` and `regions` (what is not known is called unknown). `names` are the
    data set's own, or the course's, unless given; a probability from the `thresholds` on (one
    number, or one an attribute) predicts the attribute. `checkpoints`, named state dicts (or
    models) of the same architecture, are walked through by a slider.

    Raises `ValueError` for an empty data set, a model that attends to no grid, and names,
    thresholds or checkpoints that do not fit it.
    """

    frequencies: Tensor | None = None

    what, title, shown, most = "sample", "Attention explorer", 32, HELD
    view, opening = "attributes.js", "openPage(renderExplorer, EXPLORER_STATE)"
    widget, static_part = ExplorerWidget, static_part
    frequencies: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        names: Sequence[str] | None = None,
        thresholds: Any = 0.5,
        checkpoints: Mapping[str, Any] | Sequence[Any] = (),
    ):
        super().__init__(copy.deepcopy(model) if checkpoints else model, dataset)
        if not isinstance(checkpoints, Mapping):
            checkpoints = {str(index): state for index, state in enumerate(checkpoints)}
        self.checkpoints = {
            name: state.state_dict() if isinstance(state, nn.Module) else state
            for name, state in checkpoints.items()
        }
        self.loaded: int | None = None
        self.own, self.own_name = None, ""
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
        return {"image": self.own}

    def packed(self, sample: int, checkpoint: int) -> Item:
        item = self.read(sample)
        seen = look(self._model(checkpoint), item["image"][None])
        if (count := next(iter(seen.weights.values())).shape[3]) != self.tokens:
            raise ValueError(
                f"the image of {self.what} {sample} becomes {count} tokens, and the first one"
                f" {self.tokens}; let the data set resize and crop all to one size"
            )
        return pack_item(
            item["image"],
            [weights[0] for weights in seen.weights.values()],
            seen.probabilities[0],
            item.get("target"),
            item.get("regions"),
            sample=sample,
            checkpoint=checkpoint,
        )

    def weights(self, sample: int, checkpoint: int | None = None) -> list[np.ndarray]:
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
        self.own = read_image(image, self.image_size, name or "the image")
        self.own_name = name or "own image"
        for key in [key for key in self.held if key[0] == OWN]:
            del self.held[key]

    def remove(
        self,
        sample: int,
        attribute: int,
        layer: int,
        head: int,
        count: int,
        checkpoint: int | None = None,
    ) -> Removal:
        """What becomes of the prediction without the `count` patches that this map attends to most
        (head -1: mean).
        """
        weights = self.weights(sample, checkpoint)[layer][:, attribute]
        weights = weights.mean(0) if head < 0 else weights[head]
        image = self.read(sample)["image"]
        return remove_patches(self._model(checkpoint), image, weights, attribute, count)

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
        words are part of.

        A word with a minus before it must be absent: "bald -eyeglasses". Looks at `most` samples.
        Raises `ValueError` for a word that is part of no name.
        """
        terms = [
            (self._named(word.lstrip("-")), not word.startswith("-"))
            for word in words.lower().split()
        ]
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
        aware = self.frequencies is not None
        options = {
            "attribute": self.names,
            "rarity": ["all", "rare", "common"] if aware else ["all"],
            "sort": ["probability", "rarity", "error"] if aware else ["probability", "error"],
            "outcome": ["any", "found", "missed", "false alarm", "off region"],
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
        }

    def summary(self, count: int) -> str:
        return (
            f"{count} of {len(self.dataset):,} samples, {len(self.names)} attributes. Each weight is"
            f" stored within {100 / FINE:.2g} % of its map's largest, faint ones closer."
        )

    def opening_state(self, sample: int) -> dict[str, Any]:
        return {"attribute": self.surest(sample), "checkpoint": self.checkpoint(None)}

    # ---------------------------------------------------------------- inside

    def _truth(self, sample: int) -> Tensor | None:
        if hasattr(self.dataset, "target"):  # faster than the whole item
            return as_labels(self.dataset.target(sample))
        return self.read(sample).get("target")

    def _model(self, checkpoint: int | None) -> nn.Module:
        checkpoint = self.checkpoint(checkpoint)
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

    def _named(self, word: str) -> list[int]:
        indices = [index for index, name in enumerate(self.names) if word in name.lower()]
        if not indices:
            raise ValueError(
                f"no attribute has {word!r} in its name; the names are {', '.join(self.names)}"
            )
        return indices


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
