"""The attention explorer: what each attribute's query looks at, in any image of a data set, layer
by layer.
"""

import copy
import html
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm.std import tqdm

from .. import files
from ..pictures.base import ExplorableFigure
from ..recorder.page import FINE, fill_page
from .figure import explorer_figure, static_part
from .packing import (
    COMMON,
    OWN,
    RARE,
    Item,
    Predictions,
    Removal,
    explorer_script,
    fitting_names,
    look,
    one_each,
    pack_item,
    predict_all,
    read_image,
    remove_patches,
    unpack,
)
from .widget import ExplorerWidget

__all__ = ["AttentionExplorer", "ImbalanceAwareAttentionExplorer"]

HELD = 64  # samples that are kept in memory


class AttentionExplorer:
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

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        names: Sequence[str] | None = None,
        thresholds: Any = 0.5,
        checkpoints: Mapping[str, Any] | Sequence[Any] = (),
    ):
        if not len(dataset):
            raise ValueError(
                "the data set is empty, so there is nothing to look at; give one with images"
            )
        if not isinstance(checkpoints, Mapping):
            checkpoints = {str(index): state for index, state in enumerate(checkpoints)}
        self.checkpoints = {
            name: state.state_dict() if isinstance(state, nn.Module) else state
            for name, state in checkpoints.items()
        }
        self.model = copy.deepcopy(model) if checkpoints else model
        self.loaded: int | None = None
        self.dataset, self.own, self.own_name = dataset, None, ""
        self.held: OrderedDict[tuple[int, int], Item] = OrderedDict()
        self.predictions: dict[int, Predictions] = {}
        self.image_size, seen = self._first()
        count = seen.probabilities.shape[1]
        self.names = fitting_names(names, getattr(dataset, "names", None), count)
        self.thresholds = one_each("thresholds", thresholds, self.names)
        self.layers = [
            {"name": name, "heads": weights.shape[1]} for name, weights in seen.weights.items()
        ]
        self.tokens = {weights.shape[3] for weights in seen.weights.values()}
        if len(self.tokens) > 1:
            raise ValueError(
                f"the layers attend to {sorted(self.tokens)} tokens, expected one grid for all;"
                " explore a model whose layers share their tokens"
            )
        self.tokens = self.tokens.pop()

    # ---------------------------------------------------------------- samples

    def read(self, sample: int) -> dict:
        """An item of the data set, or one's own image; `ValueError` says why it could not be
        loaded.
        """
        if sample == OWN:
            if self.own is None:
                raise ValueError(
                    "there is no image of your own yet; drop one in, or call show_image(path)"
                )
            return {"image": self.own}
        try:
            item = self.dataset[sample]
            if item["image"].ndim != 3 or item["image"].shape[0] != 3:
                raise ValueError(
                    f"its image has the shape {tuple(item['image'].shape)}, expected 3 height width"
                )
            return item
        except Exception as error:  # a data set may fail in any way; the explorer goes on
            raise ValueError(
                f"sample {sample} could not be loaded ({type(error).__name__}: {error}); look at"
                " another one"
            ) from error

    def item(self, sample: int, checkpoint: int | None = None) -> Item:
        """One sample's maps and all that is known of it; the last `HELD` of them are kept."""
        checkpoint = self._checkpoint(checkpoint)
        key = sample, checkpoint
        if key not in self.held:
            self.held[key] = self._packed(self.read(sample), sample, checkpoint)
            if len(self.held) > HELD:
                self.held.popitem(last=False)
        self.held.move_to_end(key)
        return self.held[key]

    def weights(self, sample: int, checkpoint: int | None = None) -> list[np.ndarray]:
        """Each layer's weights, `heads attributes tokens`, as they are shown: within 1/255 of each
        map's largest.
        """
        return unpack(self.item(sample, checkpoint), self.layers, self.tokens)

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
        weights = self.weights(sample, checkpoint)[layer]
        weights = weights.mean(0) if head < 0 else weights[head]
        return remove_patches(
            self._model(checkpoint),
            self.read(sample)["image"],
            weights[attribute],
            attribute,
            count,
        )

    def predict(
        self,
        checkpoint: int | None = None,
        batch_size: int = 64,
        told: Callable[[int], None] = lambda done: None,
    ) -> Predictions:
        """Predict every sample, once for each checkpoint, with a progress bar; `told` hears how
        many are done.
        """
        checkpoint = self._checkpoint(checkpoint)
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
        wanted = [
            (word.startswith("-"), self._named(word.lstrip("-"))) for word in words.lower().split()
        ]
        truth_of = getattr(self.dataset, "target", None) or (
            lambda sample: self.read(sample).get("target")
        )
        for step in range(min(most, len(self.dataset))):
            sample = (start + step) % len(self.dataset)
            truth = truth_of(sample)
            if truth is not None and all(
                bool((truth[indices] == 1).any()) != absent for absent, indices in wanted
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

    # ---------------------------------------------------------------- what is made of it

    def create_interactive_viewer(self, **state: Any) -> ExplorerWidget:
        """The explorer as a widget; its whole state is traits, which `state` sets: `sample`,
        `attribute`, `head`, …

        Raises `TraitError` for a state that cannot be.
        """
        return ExplorerWidget(self, **state)

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

    def to_html(
        self, path: str | Path, samples: int | Sequence[int] = 32, title: str = "Attention explorer"
    ) -> Path:
        """Write the explorer of these samples (the first so many, or a list), at all checkpoints,
        as one offline page.

        Masking patches, images of one's own and other samples need the widget, and the page says
        so.
        """
        page = self.page(samples, title)
        with files.atomic(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return Path(path)

    def page(
        self, samples: int | Sequence[int] = 32, title: str = "Attention explorer", **state: Any
    ) -> str:
        """What `to_html` writes."""
        chosen = (
            list(range(min(samples, len(self.dataset))))
            if isinstance(samples, int)
            else list(samples)
        )
        if not chosen:
            raise ValueError("no sample was chosen for the page; give at least one")
        items, planes, at = [], [], 0
        for sample in chosen:
            for checkpoint in range(max(1, len(self.checkpoints))):
                try:
                    item = self.item(sample, checkpoint)
                except ValueError as error:
                    item = Item(
                        {"sample": sample, "checkpoint": checkpoint, "failed": str(error)}, b""
                    )
                # the first one has them
                shared = {"image": None, "outlines": None} if checkpoint else {}
                items.append(item.header | shared | {"at": at, "bytes": len(item.planes)})
                planes.append(item.planes)
                at += len(item.planes)
        state = {"attribute": self.surest(chosen[0]), "checkpoint": self._checkpoint(None)} | state
        meta = self.meta() | {"kernel": False, "items": items, "state": state}
        summary = (
            f"{len(chosen)} of {len(self.dataset):,} samples, {len(self.names)} attributes. Each"
            f" weight is stored within {100 / FINE:.2g} % of its map's largest, faint ones closer."
        )
        return fill_page(
            title,
            html.escape(summary),
            static_part(self, chosen),
            meta,
            b"".join(planes),
            explorer_script(),
            "openPage(renderExplorer, EXPLORER_STATE)",
        )

    def meta(self) -> dict[str, Any]:
        """What the page knows before any sample: names, layers and bounds."""
        frequencies = (
            [None] * len(self.names) if self.frequencies is None else self.frequencies.tolist()
        )
        rows = zip(self.names, frequencies, self.thresholds.tolist(), strict=True)
        return {
            "attributes": [
                {
                    "name": name,
                    "frequency": frequency and round(frequency, 6),
                    "threshold": float(f"{threshold:.6g}"),
                }
                for name, frequency, threshold in rows
            ],
            "layers": self.layers,
            "tokens": self.tokens,
            "levels": FINE,
            "count": len(self.dataset),
            "checkpoints": list(self.checkpoints),
            "rare": RARE,
            "common": COMMON,
            "kernel": True,
        }

    # ---------------------------------------------------------------- inside

    def _first(self) -> tuple:
        """The size of the images and what the model makes of the first one that can be loaded."""
        for sample in range(min(16, len(self.dataset))):
            try:
                image = self.read(sample)["image"]
                break
            except ValueError as error:
                failure = error
        else:
            raise ValueError(f"none of the first samples could be loaded; the last said: {failure}")
        return tuple(image.shape[1:]), look(self._model(None), image[None])

    def _packed(self, item: dict, sample: int, checkpoint: int) -> Item:
        seen = look(self._model(checkpoint), item["image"][None])
        return pack_item(
            item["image"],
            [weights[0] for weights in seen.weights.values()],
            seen.probabilities[0],
            item.get("target"),
            item.get("regions"),
            sample=sample,
            checkpoint=checkpoint,
        )

    def _checkpoint(self, checkpoint: int | None) -> int:
        last = max(0, len(self.checkpoints) - 1)
        if checkpoint is not None and not 0 <= checkpoint <= last:
            raise ValueError(
                f"checkpoint is {checkpoint}, expected 0 to {last}; give more checkpoints, or"
                " choose one of these"
            )
        return last if checkpoint is None else checkpoint

    def _model(self, checkpoint: int | None) -> nn.Module:
        checkpoint = self._checkpoint(checkpoint)
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
        found = [index for index, name in enumerate(self.names) if word in name.lower()]
        if not found:
            raise ValueError(
                f"no attribute has {word!r} in its name; the names are {', '.join(self.names)}"
            )
        return found


class ImbalanceAwareAttentionExplorer(AttentionExplorer):
    """The explorer that knows how often each attribute is positive: rare (< 10 %) and common (> 30
    %) ones apart.

    `frequencies` are shares of the training images, one an attribute in the order of the names, or
    by name. Raises `ValueError` for frequencies that are no shares or not one an attribute. Derived
    in lesson 08.
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
        self.frequencies = one_each("frequencies", frequencies, self.names)
