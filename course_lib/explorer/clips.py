"""The personality explorer: which moments of a clip a face asks about, and what each of them does
to a trait.
"""

import html
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import files
from ..models.inference import evaluating, to_model
from ..models.personality import (
    EndToEndPersonalityModel,
    TokenPersonalityModel,
    attention_per_trait,
)
from ..pictures.attention import attention_on_clip
from ..pictures.base import Picture, data_url
from ..pictures.images import flow_colours
from ..recorder.page import fill_page, jpeg_url
from ..shapes import Float, UInt8
from ..world.stories import FRAMES_PER_MOMENT, TRAITS
from .packing import ATTENTION, Item, explorer_script
from .widget import PersonalityWidget

__all__ = ["ClipLook", "PersonalityExplorer", "film", "listen"]

HELD = 16  # clips that are kept in memory, about 4 MB each

COLUMNS, LARGEST = 8, 128  # frames in a row of a film, and px of their longer side

SHOWN = 2  # clips of the still part

PARTS = {"face", "flow", "frames", "traits", "moment"}


class ClipLook(NamedTuple):
    """What a model makes of one clip: the traits, what its face tokens listened to, and whose
    answer counted.
    """

    traits: Float[Tensor, " traits"]
    importance: Float[Tensor, " queries"]  # of each face token's answer; sums to 1
    weights: Float[Tensor, "heads queries steps"]
    # attention × gradient, the mean over the heads
    relevance: Float[Tensor, "traits queries steps"]

    def shares(
        self, trait: str = ATTENTION, head: int = -1, token: int = -1, names: Sequence[str] = TRAITS
    ) -> Float[Tensor, " steps"]:
        """How what was listened to is spread over time, summing to 1, for one face token or (-1)
        the whole face.

        Attention: the weights of a head (-1: their mean), for the whole face averaged by
        importance. A trait: the size of its attention × gradient, whatever its sign.
        """
        if trait == ATTENTION:
            weights = self.weights.mean(0) if head < 0 else self.weights[head]
            return self.importance @ weights if token < 0 else weights[token]
        size = self.relevance[names.index(trait)].abs()
        size = size.sum(0) if token < 0 else size[token]
        return size / size.sum().clamp(min=1e-30)


def listen(
    model: EndToEndPersonalityModel,
    face: Float[Tensor, "3 height width"],
    flow: Float[Tensor, "frames height width 2"],
) -> ClipLook:
    """Run the model on one clip in evaluation mode, its weights recorded and differentiated for
    each trait.
    """
    attention = model.model.cross_attention.attention
    record = attention.record
    face, flow = to_model(model, face[None], flow[None])
    try:
        with evaluating(model), torch.no_grad():
            tokens = model.static.tokens(face), model.dynamic.tokens(flow)
            relevance = attention_per_trait(model.model, *tokens)
            attention.record = True
            traits = model.model(*tokens)
        found = (
            traits,
            model.model.cross_attention.last_importance,
            attention.last_attn_weights,
            relevance,
        )
    finally:
        attention.record = record
    return ClipLook(*(tensor[0].float().cpu() for tensor in found))


class PersonalityExplorer:
    """Look through clips at what a personality model listens to: face tokens against time, beside
    the clip as it plays.

    `model` reads a face and its flow as tokens and attends from one to the other: an
    `EndToEndPersonalityModel` around a `TokenPersonalityModel`. Items of the `dataset` are dicts
    with `face` and `flow` and, where known, `traits`, the deciding `moment` and `frames` (a data
    set of drawn clips has them, too). Nothing is computed before it is looked at.

    Raises `ValueError` for a model without face and motion tokens, and for an empty data set. Used
    in lesson 08.
    """

    def __init__(self, model: nn.Module, dataset: Any):
        inner = model.model if isinstance(model, EndToEndPersonalityModel) else model
        if inner is model or not isinstance(inner, TokenPersonalityModel):
            raise ValueError(
                f"{type(inner).__name__} does not take a face and flow and attend from face tokens"
                " to motion tokens; give an EndToEndPersonalityModel around a"
                " TokenPersonalityModel (one on vectors has one key, so there is nothing to see)"
            )
        if not len(dataset):
            raise ValueError(
                "the data set is empty, so there is nothing to look at; give one with clips"
            )
        self.model, self.dataset = model, dataset
        self.names = tuple(getattr(dataset, "trait_names", TRAITS))
        self.heads = model.model.cross_attention.attention.heads
        self.clip = lru_cache(maxsize=HELD)(self._clip)
        self.tokens, self.steps = self._first().weights.shape[1:]

    def item(self, sample: int) -> Item:
        """One clip as it travels: films of its frames and flow, its face, and all weights as
        float32 bytes.
        """
        clip, seen = self.clip(sample)
        if seen.weights.shape[1:] != (self.tokens, self.steps):
            raise ValueError(
                f"clip {sample} has {seen.weights.shape[1]} face tokens and {seen.weights.shape[2]}"
                f" time steps, expected {self.tokens} and {self.steps} as in the first; give clips"
                " of one size"
            )
        frames = clip.get("frames")
        flows = clip["flow"].numpy()
        fastest = float(np.quantile(np.hypot(flows[..., 0], flows[..., 1]), 0.995))
        coloured = np.stack([flow_colours(flow, max(fastest, 1e-6)) for flow in flows])
        header = {
            "sample": sample,
            "face": jpeg_url(clip["face"]),
            "count": len(flows),
            "fastest": round(fastest, 2),
            "frames": None if frames is None else film(frames[: len(flows)]),
            "flow": film(coloured),
            "moment": self.moment(sample),
            "truth": clip["traits"].tolist() if "traits" in clip else None,
            "traits": [float(f"{value:.6g}") for value in seen.traits.tolist()],
            "importance": [float(f"{value:.6g}") for value in seen.importance.tolist()],
        }
        return Item(
            header,
            b"".join(
                part.numpy().astype("<f4").tobytes() for part in (seen.weights, seen.relevance)
            ),
        )

    def moment(self, sample: int) -> int | None:
        """The time step in which the deciding moment lies, where the data knows it."""
        clip, _ = self.clip(sample)
        if "moment" not in clip:
            return None
        return int(clip["moment"]) * FRAMES_PER_MOMENT * self.steps // len(clip["flow"])

    def describe(self, sample: int, trait: str = ATTENTION, head: int = -1, token: int = -1) -> str:
        """One sentence on a view: what is predicted, when the model listens, and when it should."""
        clip, seen = self.clip(sample)
        shares, moment = seen.shares(trait, head, token, self.names), self.moment(sample)
        best, side = int(shares.argmax()), round(self.tokens**0.5)
        if trait == ATTENTION:
            subject = f"Attention, {'mean of the heads' if head < 0 else f'head {head}'}"
        else:
            index = self.names.index(trait)
            truth = (
                f"in truth {float(clip['traits'][index]):.2f}"
                if "traits" in clip
                else "truth unknown"
            )
            subject = f"{trait}, predicted {seen.traits[index]:.2f}, {truth}: attention × gradient"
        who = (
            "the whole face"
            if token < 0
            else (
                f"face patch {token} (row {token // side}, column {token % side}), whose answer"
                f" counts {_percent(seen.importance[token])}"
            )
        )
        known = (
            "when it should listen is unknown"
            if moment is None
            else (
                f"the moment that decides is step {moment}, with {_percent(shares[moment])} against"
                f" 1 in {self.steps} by chance"
            )
        )
        spread = torch.special.entr(shares.double()).sum().exp()
        return (
            f"Clip {sample}. {subject}, {who}: most at time step {best}, {_percent(shares[best])},"
            f" as widely as if evenly at {spread:.1f} of {self.steps}; {known}."
        )

    # ---------------------------------------------------------------- what is made of it

    def create_interactive_viewer(self, **state: Any) -> PersonalityWidget:
        """The explorer as a widget; its whole state is traits, which `state` sets: `sample`,
        `trait`, `step`, …

        Raises `TraitError` for a state that cannot be.
        """
        return PersonalityWidget(self, **state)

    def figure(self, sample: int = 0, head: int = -1, token: int = -1) -> Picture:
        """A clip as a picture: a frame of each time step above the shares of attention and of the
        five traits.

        Of one face token, or (-1) the whole face; `head` is that of the attention, -1 the mean.
        Raises `ValueError` for a head or token that does not exist.
        """
        for name, value, count in (("head", head, self.heads), ("token", token, self.tokens)):
            if not -1 <= value < count:
                raise ValueError(
                    f"{name} is {value}, expected -1 to {count - 1}; choose one of these"
                )
        clip, seen = self.clip(sample)
        frames = clip.get("frames")
        if frames is None:
            frames = np.stack([flow_colours(flow) for flow in clip["flow"].numpy()])
        rows = [ATTENTION, *self.names]
        shares = torch.stack([seen.shares(row, head, token, self.names) for row in rows])
        return attention_on_clip(frames, shares.numpy(), rows, self.moment(sample))

    def to_html(
        self,
        path: str | Path,
        samples: int | Sequence[int] = 8,
        title: str = "Personality explorer",
    ) -> Path:
        """Write the explorer of these clips (the first so many, or a list) as one offline page."""
        page = self.page(samples, title)
        with files.atomic(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return Path(path)

    def page(
        self, samples: int | Sequence[int] = 8, title: str = "Personality explorer", **state: Any
    ) -> str:
        """What `to_html` writes."""
        chosen = (
            list(range(min(samples, len(self.dataset))))
            if isinstance(samples, int)
            else list(samples)
        )
        if not chosen:
            raise ValueError("no clip was chosen for the page; give at least one")
        items, planes = [], b""
        for sample in chosen:
            try:
                item = self.item(sample)
            except ValueError as error:
                item = Item({"sample": sample, "failed": str(error)}, b"")
            items.append(item.header | {"at": len(planes), "bytes": len(item.planes)})
            planes += item.planes
        state = {"sample": chosen[0], "step": self._opening_step(chosen[0])} | state
        meta = self.meta() | {"kernel": False, "items": items, "state": state}
        summary = (
            f"{len(chosen)} of {len(self.dataset):,} clips, {self.tokens} face tokens, {self.steps}"
            " time steps."
        )
        return fill_page(
            title,
            html.escape(summary),
            self._static_part(chosen),
            meta,
            planes,
            explorer_script("clips.js"),
            "openPage(renderClips, CLIP_STATE)",
        )

    def meta(self) -> dict[str, Any]:
        """What the page knows before any clip."""
        return {
            "names": list(self.names),
            "heads": self.heads,
            "tokens": self.tokens,
            "steps": self.steps,
            "count": len(self.dataset),
            "kernel": True,
        }

    # ---------------------------------------------------------------- inside

    def _clip(self, sample: int) -> tuple[dict, ClipLook]:
        """An item with its frames, and what the model makes of it; `ValueError` says why it could
        not be loaded.
        """
        try:
            clip = {name: value for name, value in self.dataset[sample].items() if name in PARTS}
            if "frames" not in clip and hasattr(self.dataset, "clip"):
                clip["frames"] = self.dataset.clip(sample).frames
            return clip, listen(self.model, clip["face"], clip["flow"])
        except Exception as error:  # a data set may fail in any way; the explorer goes on
            raise ValueError(
                f"clip {sample} could not be loaded ({type(error).__name__}: {error}); look at"
                " another one"
            ) from error

    def _first(self) -> ClipLook:
        for sample in range(min(4, len(self.dataset))):
            try:
                seen = self.clip(sample)[1]
                break
            except ValueError as error:
                failure = error
        else:
            raise ValueError(f"none of the first clips could be loaded; the last said: {failure}")
        if round(seen.weights.shape[1] ** 0.5) ** 2 != seen.weights.shape[1]:
            raise ValueError(
                f"the model has {seen.weights.shape[1]} face tokens, expected a square grid of"
                " them; explore one that reads all places of the face"
            )
        return seen

    def _opening_step(self, sample: int) -> int:
        """The time step that the whole face listens to most, so that the view opens at something."""
        try:
            return int(self.clip(sample)[1].shares().argmax())
        except ValueError:
            return 0

    def _static_part(self, samples: Sequence[int]) -> str:
        """For readers without JavaScript: the pictures of a few clips."""
        pictures = []
        for sample in samples[:SHOWN]:
            try:
                pictures.append(self.figure(sample)._repr_html_())
            except ValueError as error:
                pictures.append(f"<p>{html.escape(str(error))}</p>")
        return "".join(pictures)


def film(frames: UInt8[np.ndarray, "frames height width 3"]) -> dict[str, Any]:
    """Frames as one JPEG, `COLUMNS` in a row, with the size of each: a page plays them from there."""
    height, width = frames.shape[1:3]
    scale = min(1.0, LARGEST / max(height, width))
    size = round(width * scale), round(height * scale)
    small = [
        cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        for frame in frames
    ]
    small += [np.zeros_like(small[0])] * (-len(small) % COLUMNS)
    sheet = np.vstack(
        [np.hstack(small[first : first + COLUMNS]) for first in range(0, len(small), COLUMNS)]
    )
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=75)
    return {
        "source": data_url(buffer.getvalue(), "jpeg"),
        "width": size[0],
        "height": size[1],
        "columns": COLUMNS,
    }


def _percent(share: Any) -> str:
    share = float(share)
    return f"{100 * share:.{1 if share < 0.1 else 0}f} %"
