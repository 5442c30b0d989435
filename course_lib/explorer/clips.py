"""The personality explorer: which moments of a clip a face asks about, and what each of them does
to a trait.
"""

import html
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.flow import OpticalFlowComputer, face_and_flow
from ..data.video import face_windows, read_clip, track_face
from ..models.attention import recording
from ..models.inference import evaluating, to_model
from ..models.personality import (
    EndToEndPersonalityModel,
    TokenPersonalityModel,
    attention_per_trait,
)
from ..pictures.attention import attention_on_clip
from ..pictures.base import Picture, data_url
from ..pictures.images import flow_colours
from ..recorder.packing import pack_arrays, rounded
from ..recorder.page import jpeg_url
from ..shapes import Float, UInt8
from ..world.stories import FRAMES_PER_MOMENT, TRAITS
from .base import ATTENTION, OWN, Explorer, Item, percent
from .packing import outline
from .widget import PersonalityWidget

__all__ = ["ClipLook", "PersonalityExplorer", "film", "listen"]

HELD = 16  # clips that are kept in memory, about 4 MB each

COLUMNS, LARGEST = 8, 128  # frames in a row of a film, and px of their longer side

STILL = 2  # clips of the still part

RATE = 8.0  # frames a second of a clip of one's own: so many as the drawn clips have

SPARE = 4  # frames more than a clip needs: a camera may begin in the dark

LONGEST = 640  # px of the longer side of a video of one's own, as it is read

WARNING = (
    "The five numbers mean nothing about you: this model was trained on drawings only. They are not"
    " personality, not fair, and not for decisions about people."
)  # lesson 00 says why

PARTS = {"face", "flow", "frames", "traits", "moment", "region"}  # of a data set's item


class ClipLook(NamedTuple):
    """What a model makes of one clip: the traits, what its face tokens attend to, and whose
    answer counts.
    """

    traits: Float[Tensor, " traits"]
    importance: Float[Tensor, " queries"]  # of each face token's answer; sums to 1
    weights: Float[Tensor, "heads queries steps"]
    # attention × gradient, the mean over the heads
    relevance: Float[Tensor, "traits queries steps"]

    def shares(
        self, trait: str = ATTENTION, head: int = -1, token: int = -1, names: Sequence[str] = TRAITS
    ) -> Float[Tensor, " steps"]:
        """How attention is spread over time, summing to 1, for one face token or (-1)
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
    cross_attention = model.model.cross_attention
    face, flow = to_model(model, face[None], flow[None])
    with evaluating(model), torch.no_grad():
        tokens = model.static.tokens(face), model.dynamic.tokens(flow)
        relevance = attention_per_trait(model.model, *tokens)
        with recording(cross_attention.attention) as attention:
            traits = model.model(*tokens)
    results = traits, cross_attention.last_importance, attention.last_attn_weights, relevance
    return ClipLook(*(tensor[0].float().cpu() for tensor in results))


class PersonalityExplorer(Explorer):
    """Look through clips at what a personality model listens to: face tokens against time, beside
    the clip as it plays.

    `model` reads a face and its flow as tokens and attends from one to the other: an
    `EndToEndPersonalityModel` around a `TokenPersonalityModel`. Items of the `dataset` are dicts
    with `face` and `flow` and, where known, `traits`, the deciding `moment`, where each trait's
    movement is seen then (`region`), and `frames` (a data set of drawn clips has them, too).
    Nothing is computed before it is looked at. A clip of one's own, from a file or recorded in the
    notebook, is sample -1.

    Raises `ValueError` for a model without face and motion tokens, and for an empty data set. Used
    in lessons 00 and 10.
    """

    what, title, shown, most = "clip", "Personality explorer", 8, HELD
    view, opening, widget = "clips.js", "openPage(renderClips, CLIP_STATE)", PersonalityWidget

    def __init__(self, model: nn.Module, dataset: Any):
        inner = model.model if isinstance(model, EndToEndPersonalityModel) else model
        if inner is model or not isinstance(inner, TokenPersonalityModel):
            raise ValueError(
                f"{type(inner).__name__} does not take a face and flow and attend from face tokens"
                " to motion tokens; give an EndToEndPersonalityModel around a"
                " TokenPersonalityModel (one on vectors has one key, so there is nothing to see)"
            )
        super().__init__(model, dataset)
        self.names = tuple(getattr(dataset, "trait_names", TRAITS))
        self.heads = inner.cross_attention.attention.heads
        self.own: tuple[dict, ClipLook] | None = None
        self.own_name = ""
        self.loaded = lru_cache(maxsize=HELD)(self.load)
        clip, seen = self.first(self.clip, 4)
        self.frames, self.size = clip["flow"].shape[:2]
        self.tokens, self.steps = seen.weights.shape[1:]
        if round(self.tokens**0.5) ** 2 != self.tokens:
            raise ValueError(
                f"the model has {self.tokens} face tokens, expected a square grid of them; explore"
                " one that reads all places of the face"
            )

    def fetch(self, sample: int) -> tuple[dict, ClipLook]:
        """A clip with its frames, drawn once, and what the model makes of it."""
        if hasattr(self.dataset, "item_of"):
            drawn = self.dataset.clip(sample)
            clip = self.dataset.item_of(sample, drawn) | {"frames": drawn.frames}
        else:
            clip = self.dataset[sample]
        clip = {name: value for name, value in clip.items() if name in PARTS}
        return clip, listen(self.model, clip["face"], clip["flow"])

    def clip(self, sample: int) -> tuple[dict, ClipLook]:
        """A clip and what the model makes of it; the last ones are held."""
        if sample != OWN:
            return self.loaded(sample)
        if self.own is None:
            raise ValueError(
                "there is no clip of your own yet; record one, or call show_clip(path)"
            )
        return self.own

    def show_clip(self, video: str | Path | bytes, name: str = "") -> None:
        """Take the first seconds of a video of one's own, a path or a file's bytes, as sample `OWN`:
        as many frames as the data set's clips have, 8 a second.

        The face is found, followed and cut out, and its flow estimated. Nothing is stored. Raises
        `FileNotFoundError` for a missing file, `ValueError` for one that cannot be decoded, is too
        short, or shows no face.
        """
        if isinstance(video, bytes):
            with TemporaryDirectory() as folder:  # ffmpeg wants a file; it is gone after this line
                path = Path(folder).resolve() / "clip"
                path.write_bytes(video)
                try:
                    frames = self.read(path)
                except ValueError as error:
                    raise ValueError(str(error).replace(str(path), name or "the video")) from error
        else:
            name, frames = name or Path(video).name, self.read(Path(video))
        track = track_face(frames, RATE, on_missing="centre")
        if track.fallback:
            raise ValueError(
                f"{name or 'the video'} shows no face from the front; look into the camera, in good"
                " light, with your face a third of the picture high"
            )
        start, end = max(track.stretches(), key=lambda stretch: stretch[1] - stretch[0])
        if end - start < self.frames:
            raise ValueError(
                f"{name or 'the video'} shows one face without a cut for only"
                f" {(end - start) / RATE:.1f} s, expected {self.frames / RATE:.1f}; keep the camera"
                " still and only your face in the picture"
            )
        crops = next(face_windows(frames, track, [start], self.frames, 2 * self.size))
        window = face_and_flow(crops, track, start, self.frames, self.size, OpticalFlowComputer())
        clip = {
            "face": window["face"].float() / 255,
            "flow": window["flow"].float(),
            "frames": crops,
        }
        self.own = clip, listen(self.model, clip["face"], clip["flow"])
        self.own_name = name or "your clip"
        for key in [key for key in self.held if key[0] == OWN]:
            del self.held[key]

    def read(self, path: Path) -> UInt8[np.ndarray, "frames height width 3"]:
        """The first frames of a video, as many as a clip needs; `ValueError` if it is too short."""
        clip = read_clip(path, max_frames=self.frames + SPARE, max_side=LONGEST, fps=RATE)
        frames = list(clip)
        if len(frames) < self.frames:
            raise ValueError(
                f"{path} lasts {len(frames) / RATE:.1f} s, expected at least"
                f" {self.frames / RATE:.1f}; take a longer video"
            )
        return np.stack(frames)

    def packed(self, sample: int, checkpoint: int) -> Item:
        """One clip as it travels: films of its frames and flow, its face, and all weights."""
        clip, seen = self.clip(sample)
        tokens, steps = seen.weights.shape[1:]
        if (tokens, steps) != (self.tokens, self.steps):
            raise ValueError(
                f"clip {sample} has {tokens} face tokens and {steps} time steps, expected"
                f" {self.tokens} and {self.steps} as in the first; give clips of one size"
            )
        frames, flows = clip.get("frames"), clip["flow"].numpy()
        count, height, width, _ = flows.shape
        fastest = float(np.quantile(np.hypot(flows[..., 0], flows[..., 1]), 0.995))
        coloured = flow_colours(flows.reshape(count * height, width, 2), max(fastest, 1e-6))
        arrays, planes = pack_arrays({"weights": seen.weights, "relevance": seen.relevance})
        header = {
            "sample": sample,
            "arrays": arrays,
            "face": jpeg_url(clip["face"]),
            "count": count,
            "fastest": round(fastest, 2),
            "frames": None if frames is None else film(frames[:count]),
            "flow": film(coloured.reshape(count, height, width, 3)),
            "moment": self.moment(sample),
            "size": [height, width],
            "regions": [outline(mask) for mask in clip["region"].numpy().astype(np.uint8)]
            if "region" in clip
            else None,
            "truth": clip["traits"].tolist() if "traits" in clip else None,
            "traits": rounded(seen.traits, 6),
            "importance": rounded(seen.importance, 6),
        }
        return Item(header, planes)

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
        best, side, does = int(shares.argmax()), round(self.tokens**0.5), ""
        subject = f"Attention, {'mean of the heads' if head < 0 else f'head {head}'}"
        if trait != ATTENTION:
            index, truth = self.names.index(trait), "truth unknown"
            if "traits" in clip:
                truth = f"in truth {float(clip['traits'][index]):.2f}"
            subject = f"{trait}, predicted {seen.traits[index]:.2f}, {truth}: attention × gradient"
            change = float(seen.relevance[index, slice(None) if token < 0 else token, best].sum())
            does = ", raising it" if change >= 0 else ", lowering it"
        who = "the whole face"
        if token >= 0:
            who = (
                f"face patch {token} (row {token // side}, column {token % side}), whose answer"
                f" counts {percent(seen.importance[token])}"
            )
        decides = (
            f"which moment decides is unknown, and evenly each would get {percent(1 / self.steps)}"
        )
        if moment is not None:
            decides = (
                f"the moment that decides is step {moment}, with {percent(shares[moment])} against"
                f" 1 in {self.steps} by chance"
            )
        spread = torch.special.entr(shares.double()).sum().exp()
        name = "Your clip" if sample == OWN else f"Clip {sample}"
        return (
            f"{name}. {subject}, {who}: most at time step {best}, {percent(shares[best])}{does},"
            f" spread over about {spread:.1f} of {self.steps} steps; {decides}."
        )

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

    def bounds(self) -> dict[str, Any]:
        """Which states can be."""
        ranges = {
            "sample": [OWN, len(self.dataset) - 1],
            "head": [-1, self.heads - 1],
            "token": [-1, self.tokens - 1],
            "step": [0, self.steps - 1],
        }
        options = {"trait": [ATTENTION, *self.names], "speed": [0.25, 0.5, 1, 2]}
        return {"ranges": ranges, "options": options}

    def described(self) -> dict[str, Any]:
        sizes = {"heads": self.heads, "tokens": self.tokens, "steps": self.steps}
        return {"names": list(self.names), "warning": WARNING} | sizes

    def summary(self, count: int) -> str:
        return (
            f"{count} of {len(self.dataset):,} clips, {self.tokens} face tokens, {self.steps} time"
            " steps."
        )

    def opening_state(self, samples: Sequence[int]) -> dict[str, Any]:
        """A page opens at the time step that the whole face attends to most."""
        sample = samples[0]
        try:
            step = int(self.clip(sample)[1].shares().argmax())
        except ValueError:
            step = 0
        return {"sample": sample, "step": step}

    def still(self, state: dict[str, Any]) -> tuple[str, str]:
        """What a notebook without a kernel shows of a state: a picture as HTML, and a sentence."""
        view = {name: state[name] for name in ("sample", "head", "token")}
        picture = self.figure(**view)._repr_html_()
        return picture, self.describe(trait=state["trait"], **view)

    def static_part(self, samples: Sequence[int]) -> str:
        """For readers without JavaScript: the pictures of a few clips."""
        pictures = []
        for sample in samples[:STILL]:
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
