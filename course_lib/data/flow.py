"""Optical flow: how far every pixel moves from one frame to the next, and clips of it ready for a
network.
"""

import hashlib
import json
import math
import pickle
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache as remember
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .. import runtime
from ..files import load_tensors, save_tensors, sha256
from ..shapes import Float, UInt8
from .video import FaceTrack, face_windows, read_clip, to_rgb, track_face

__all__ = [
    "OpticalFlowComputer",
    "OpticalFlowSequenceLoader",
    "adjust_length",
    "clip_and_scale",
    "end_point_error",
    "resize_flow",
    "warp",
]

Array = np.ndarray | Tensor

MAX_SIDE = 640  # larger videos are scaled down while decoding

CACHE_VERSION = 3


@dataclass(frozen=True)
class OpticalFlowComputer:
    """Dense forward flow (u, v) in pixels per frame: frame t is what frame t+1 shows at x + flow.

    `method` is `"dis"` (Kroeger et al., ECCV 2016; `preset` ultrafast, fast or medium),
    `"farneback"` (Farnebäck, SCIA 2003) or `"raft"` (Teed and Deng, ECCV 2020; torchvision's small
    model, whose weights are downloaded once). DIS works inside at a half (medium) or a quarter of
    the resolution, so give it frames larger than the flow you need and `resize_flow` the result.
    Used in lesson 02.
    """

    method: str = "dis"
    preset: str = "medium"

    def __post_init__(self):
        if self.method not in ("dis", "farneback", "raft") or self.preset not in (
            "ultrafast",
            "fast",
            "medium",
        ):
            raise ValueError(
                f"method={self.method!r}, preset={self.preset!r} is unknown; choose method 'dis', "
                "'farneback' or 'raft', and preset 'ultrafast', 'fast' or 'medium'"
            )

    def between(self, first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "height width 2"]:
        """The flow from `first` to `second`, two pictures of one size (grey, RGB or RGBA).

        Raises `ValueError` if the sizes differ or a side is under 16 px.
        """
        first, second = to_rgb(first), to_rgb(second)
        if first.shape != second.shape or min(first.shape[:2]) < 16:
            raise ValueError(
                f"frames of {first.shape[:2]} and {second.shape[:2]} pixels do not pair; flow needs"
                " two frames of one size, at least 16 pixels a side"
            )
        if self.method == "raft":
            return _raft_flow(first, second)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        if self.method == "farneback":
            return cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}")
        return cv2.DISOpticalFlow_create(preset).calc(*grey, None)

    def __call__(self, frames: Iterable) -> Float[np.ndarray, "frames height width 2"]:
        """The flows between neighbours: T+1 frames give T fields. Raises `ValueError` for fewer
        than two frames.
        """
        flows = [self.between(first, second) for first, second in pairwise(frames)]
        if not flows:
            raise ValueError(
                "the clip has fewer than 2 frames, and flow happens between two; use a longer clip"
            )
        return np.stack(flows)


@remember
def _raft() -> torch.nn.Module:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    folder = runtime.cache_dir("weights")
    try:
        weights = torch.hub.load_state_dict_from_url(
            Raft_Small_Weights.DEFAULT.url,
            str(folder),
            map_location="cpu",
            check_hash=True,
            weights_only=True,
        )
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConnectionError(
            f"the weights of method='raft' could not be downloaded to {folder}; use method='dis' or"
            f" method='farneback', which need none ({error})"
        ) from error
    model = raft_small()
    model.load_state_dict(weights)
    return model.eval().to(runtime.default_device())


def _raft_flow(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "height width 2"]:
    model = _raft()
    height, width = first.shape[:2]
    below, right = (max(128, math.ceil(side / 8) * 8) - side for side in (height, width))
    pair = torch.from_numpy(np.stack([first, second])).to(next(model.parameters()).device)
    pair = F.pad(
        rearrange(pair, "pair height width rgb -> pair rgb height width") / 127.5 - 1,
        (0, right, 0, below),
        mode="replicate",
    )
    with torch.inference_mode():
        refinements = model(pair[:1], pair[1:])
    return (
        rearrange(refinements[-1][0, :, :height, :width], "uv height width -> height width uv")
        .cpu()
        .numpy()
    )


def _check_finite(flow: Array) -> None:
    finite = torch.isfinite(flow) if isinstance(flow, Tensor) else np.isfinite(flow)
    if not finite.all():
        raise ValueError(
            f"the flow of shape {tuple(flow.shape)} holds values that are not finite (NaN or"
            " infinity); find the frame pair it came from, or replace them with np.nan_to_num"
        )


def clip_and_scale(flow: Array, limit: float = 20.0) -> Array:
    """Clip to ±`limit` pixels per frame and divide by it: [-1, 1], where 0 still means no motion.

    The same for every frame, so that magnitudes stay comparable (Carreira and Zisserman, CVPR
    2017), unlike min-max scaling. Raises `ValueError` for flow that is not finite. Derived in
    lesson 02.
    """
    _check_finite(flow)
    return flow.clip(-limit, limit) / limit


def resize_flow(flow: Array, height: int, width: int) -> Array:
    """Resample `... height width 2` to a new size and scale its vectors along: half as wide, half
    as many pixels.

    Raises `ValueError` for flow that is not finite. Derived in lesson 02.
    """
    _check_finite(flow)
    fields = torch.as_tensor(flow)
    *leading, old_height, old_width, _ = fields.shape
    channels_first = rearrange(
        fields.reshape(-1, old_height, old_width, 2),
        "frames height width uv -> frames uv height width",
    )
    channels_first = F.interpolate(channels_first, (height, width), mode="bilinear", antialias=True)
    resized = rearrange(channels_first, "frames uv height width -> frames height width uv").reshape(
        *leading, height, width, 2
    )
    resized = resized * resized.new_tensor([width / old_width, height / old_height])
    return resized if isinstance(flow, Tensor) else resized.numpy()


def adjust_length(flow: Array, frames: int) -> Array:
    """Keep the middle `frames` fields of a longer sequence `steps height width 2`; end a shorter
    in zero flow.

    Zero says "nothing moves", as in a video that stops; repeating fields would invent motion.
    Used in lesson 02.
    """
    start = max(0, (len(flow) - frames) // 2)
    window = torch.as_tensor(flow)[start : start + frames]
    adjusted = torch.cat([window, window.new_zeros(frames - len(window), *window.shape[1:])])
    return adjusted if isinstance(flow, Tensor) else adjusted.numpy()


def warp(frame: np.ndarray, flow: Float[np.ndarray, "height width 2"]) -> np.ndarray:
    """Rebuild frame t by sampling frame t+1 (`height width channels`) at x + flow, bicubic; edges
    repeat.

    Raises `ValueError` if the sizes differ or the flow is not finite.
    """
    _check_finite(flow)
    if frame.shape[:2] != flow.shape[:2]:
        raise ValueError(
            f"a frame of {frame.shape[:2]} pixels does not fit a flow of {flow.shape[:2]}; resize"
            " the flow with resize_flow"
        )
    y, x = np.indices(flow.shape[:2], dtype=np.float32)
    return cv2.remap(
        frame,
        x + flow[..., 0].astype(np.float32),
        y + flow[..., 1].astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )


def end_point_error(estimate: Array, truth: Array, valid: Array | None = None) -> float:
    """Mean distance in pixels between estimated and true vectors (`... 2`), where `valid` (`...`)
    is True.

    Raises `ValueError` if the shapes differ, a value is not finite, or no pixel is valid. Derived
    in lesson 02.
    """
    if estimate.shape != truth.shape or (valid is not None and valid.shape != truth.shape[:-1]):
        raise ValueError(
            f"estimate {tuple(estimate.shape)}, truth {tuple(truth.shape)} and valid"
            f" {None if valid is None else tuple(valid.shape)} do not fit; resize_flow brings flows"
            " to one size, and valid has no last axis"
        )
    error = ((estimate - truth) ** 2).sum(-1) ** 0.5
    error = error if valid is None else error[valid]
    if not math.prod(error.shape):
        raise ValueError(
            "valid is False everywhere, so there is no pixel to compare; check the mask"
        )
    _check_finite(error)
    return float(error.mean())


def _starts(total: int, frames: int, stride: int) -> list[int]:
    """Where windows of `frames` flow fields begin in a clip of `total` frames; a short clip has
    one, padded.
    """
    return list(range(0, max(1, total - frames), stride))


def _inside_one_stretch(track: FaceTrack, start: int | None, frames: int, clip: Iterable) -> int:
    """The start of the window from frame `start` on (None: of the one in the middle), moved to where
    it crosses no cut; that it had to be moved is said.
    """
    middle = max(0, (len(track.boxes) - 1 - frames) // 2)
    asked = middle if start is None else start
    stretches = track.stretches()
    length = min(frames + 1, len(track.boxes) - asked)
    if any(first <= asked and asked + length <= end for first, end in stretches):
        return asked
    first, end = max(stretches, key=lambda bounds: bounds[1] - bounds[0])
    moved = max(first, (first + end - 1 - frames) // 2)
    if start is not None:  # stay as near as the stretch that is longest around it allows
        first, end = max(stretches, key=lambda bounds: _shared(bounds, (asked, asked + length)))
        moved = max(first, min(asked, end - length))
    warnings.warn(
        f"{getattr(clip, 'path', 'the clip')} shows other scenes or faces from the frames"
        f" {', '.join(map(str, track.starts[1:]))} on; the window from frame {asked} was moved to"
        f" frame {moved}, so that it crosses none",
        stacklevel=3,
    )
    return moved


def _shared(first: tuple[int, int], second: tuple[int, int]) -> int:
    """How many frames two stretches have in common; negative: how many lie between them."""
    return min(first[1], second[1]) - max(first[0], second[0])


def face_and_flow(
    crops: UInt8[np.ndarray, "crops double_size double_size 3"],
    track: FaceTrack,
    start: int,
    frames: int,
    size: int,
    computer: OpticalFlowComputer,
) -> dict[str, Tensor]:
    """Of the crops of a face from frame `start` on: the first one that was detected as `face`, `3
    size size`, and the `flow` and `boxes` of `frames` frames, as they are cached.

    Without a detection the face is the surest crop. Which crop is surest changes with a codec's
    smallest errors; which is the first one does not. Crops come at twice the size, where DIS sees
    the mouth twice as well.
    """
    boxes, confidence = (
        values[start : start + len(crops)] for values in (track.boxes, track.confidence)
    )
    flow = adjust_length(resize_flow(computer(crops), size, size), frames)
    detected = confidence > 0.5
    still = crops[(detected if detected.any() else confidence).argmax()]
    face = cv2.resize(still, (size, size), interpolation=cv2.INTER_AREA)
    boxes = np.pad(boxes[:frames], ((0, max(0, frames - len(boxes))), (0, 0)), mode="edge")
    return {
        "face": torch.from_numpy(face).permute(2, 0, 1),
        "flow": torch.from_numpy(flow).half(),
        "boxes": torch.from_numpy(boxes),
    }


def _as_item(window: dict[str, Tensor], fps: float) -> dict[str, Tensor]:
    return {
        "face": window["face"].float() / 255,
        "flow": window["flow"].float(),
        "boxes": window["boxes"],
        "fps": torch.tensor(fps, dtype=torch.float32),
    }


class OpticalFlowSequenceLoader(Dataset):
    """Videos as a dataset of face and flow, computed once and then read from a cache.

    An item is a dict: `face` (`3 size size` in [0, 1], the first frame in which it is detected),
    `flow` (`frames size size 2` in pixels per frame, to half precision), `boxes` (`frames 4`, the
    face in pixels of the decoded frames, at most 640 a side) and `fps`. Without `stride` there is
    one item per clip, from its middle; with it, one for every window that starts `stride` frames
    after the last (files are then decoded once at the start to count their frames). Where a clip is
    cut, or another face is shown, windows are moved so that they cross none of these places, the
    one from the middle into the longest stretch; a warning says so. Clips and stretches that are
    too short end in zero flow.

    `paths_or_arrays` holds video files or arrays `frames height width [channels]` with rate `fps`.
    `video_fps` resamples all files to one rate, because pixels per frame of a slow and of a fast
    camera do not compare; without it each keeps its own.
    `cache` is a folder, `True` for the course's own, or `False`; what is damaged or from another
    version is said and made again. Works under a `DataLoader` with workers. Raises `OSError` for a
    folder that cannot be written, and what `read_clip` and `track_face` raise. Used in lesson
    02.
    """

    def __init__(
        self,
        paths_or_arrays: Iterable,
        frames: int = 32,
        stride: int | None = None,
        size: int = 112,
        method: str = "dis",
        preset: str = "medium",
        cache: str | Path | bool = True,
        on_missing: str = "raise",
        fps: float = 25.0,
        video_fps: float | None = None,
    ):
        if frames < 1 or size < 16 or (stride is not None and stride < 1):
            raise ValueError(
                f"frames={frames}, stride={stride}, size={size} do not make a window; use frames"
                " and stride of at least 1 and a size of at least 16 pixels"
            )
        if isinstance(paths_or_arrays, str | Path):
            paths_or_arrays = [paths_or_arrays]
        self.sources, self.frames, self.stride, self.size = (
            list(paths_or_arrays),
            frames,
            stride,
            size,
        )
        self.computer, self.on_missing, self.fps = (
            OpticalFlowComputer(method, preset),
            on_missing,
            fps,
        )
        self.video_fps = video_fps
        self.cache, self._tracked = runtime.chosen_cache(cache, "flow"), (None, None)
        self.windows = [
            (source, start)
            for source in range(len(self.sources))
            for start in self._window_starts(source)
        ]

    def _window_starts(self, source: int) -> list[int | None]:
        if self.stride is None:
            return [None]
        return _starts(sum(1 for _ in self._clip(source)), self.frames, self.stride)

    def _clip(self, source: int) -> Iterable:
        frames = self.sources[source]
        if isinstance(frames, str | Path):
            return read_clip(frames, max_side=MAX_SIDE, fps=self.video_fps)
        return frames

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        source, start = self.windows[index]
        clip = self._clip(source)
        fps = getattr(clip, "fps", self.fps)
        path = self._cache_path(source, start, fps)
        window = _read_cached(path) if path else None
        if window is None:
            if self._tracked[0] != source:
                self._tracked = source, track_face(clip, fps, on_missing=self.on_missing)
            track = self._tracked[1]
            start = _inside_one_stretch(track, start, self.frames, clip)
            crops = next(face_windows(clip, track, [start], self.frames, 2 * self.size))
            window = face_and_flow(crops, track, start, self.frames, self.size, self.computer)
            if path:
                save_tensors(path, window, {"version": CACHE_VERSION})
        return _as_item(window, fps)

    def batches(self, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
        """The items in order, stacked: `face: batch 3 size size`, `flow: batch frames size size 2`,
        …
        """
        for first in range(0, len(self), batch_size):
            yield default_collate(
                [self[index] for index in range(first, min(first + batch_size, len(self)))]
            )

    def _cache_path(self, source: int, start: int | None, fps: float) -> Path | None:
        """Named by content and settings, so that a changed file or setting never meets an old
        result.
        """
        if self.cache is None:
            return None
        frames = self.sources[source]
        content = (
            sha256(frames) if isinstance(frames, str | Path) else _array_hash(np.asarray(frames))
        )
        settings = [
            content,
            start,
            self.frames,
            self.size,
            asdict(self.computer),
            self.on_missing,
            fps,
        ]
        return (
            self.cache
            / f"{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]}.safetensors"
        )


def _array_hash(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _read_cached(path: Path) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        window, metadata = load_tensors(path)
    except ValueError:
        print(f"the cached flow {path} is damaged; it is computed again")
        return None
    if metadata.get("version") != CACHE_VERSION or window.keys() != {"face", "flow", "boxes"}:
        print(f"the cached flow {path} is from another version; it is computed again")
        return None
    return window
