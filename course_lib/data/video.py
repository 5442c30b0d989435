"""Real video as a stream: decode it, find and follow the face, cut steady square crops."""

import re
import subprocess
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ..shapes import Float, UInt8

__all__ = [
    "Clip",
    "FaceTrack",
    "crop_face",
    "face_windows",
    "read_clip",
    "steady_box",
    "to_rgb",
    "track_face",
]

DETECTION_SIDE = 320  # longest side, in pixels, of the picture the face detector looks at

SMALL = 48  # a face of fewer such pixels is looked for in an enlarged picture

COVERED = 0.6  # a box that resembles the face less is not moved by what it shows

LARGEST_FPS = 240.0

FALLBACK_FPS = 25.0


@dataclass(frozen=True)
class Clip:
    """A video file as a stream of RGB frames.

    Every `for frame in clip` decodes the file anew and holds one frame at a time; leaving the loop
    early stops the decoder. `fps` is the rate of the frames, `scale` is the size of these frames over
    the size in the file, in square pixels.
    """

    path: Path
    fps: float
    height: int
    width: int
    scale: float
    seconds: float
    max_frames: int | None = None

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        count = 0
        size = self.height * self.width * 3
        options = ("-r", f"{self.fps}", "-s", f"{self.width}x{self.height}")
        decoder = subprocess.Popen(
            _ffmpeg(self.path, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with decoder:  # closes its pipe and waits for it
            try:
                while frame := decoder.stdout.read(size):
                    if len(frame) < size:
                        raise ValueError(
                            f"{self.path} is damaged: decoding stopped after frame {count}; copy or"
                            f" download it again, or read only max_frames={count}"
                        )
                    count += 1
                    yield np.frombuffer(frame, np.uint8).reshape(self.height, self.width, 3)
                    if count == self.max_frames:
                        return
            finally:
                decoder.kill()
        if count < 0.9 * self.seconds * self.fps - 1:
            warnings.warn(
                f"{self.path} announces {round(self.seconds * self.fps)} frames but holds {count};"
                " it is truncated, or its sound is longer than its picture: copy it again if that"
                " is a surprise",
                stacklevel=2,
            )


def read_clip(
    path: str | Path,
    max_frames: int | None = None,
    max_side: int | None = None,
    fps: float | None = None,
) -> Clip:
    """Open any file that ffmpeg can decode (mp4, avi, mpg, webm, gif) as a stream of RGB frames.

    `max_side` lets the decoder scale larger pictures down so that the longer side is at most that
    many pixels. Grey and RGBA videos come out as RGB (alpha is dropped), phone videos upright, and
    pixels that the file calls wide or narrow (television, DVD) square: the height stays. Frames
    arrive at a constant `fps`; a file that states no believable rate (browser recordings say 1000)
    is resampled to 25. `fps` chooses the rate: frames are dropped or repeated.

    Raises `FileNotFoundError` for a missing file, `ValueError` for one without a picture that can
    be decoded. Used in lesson 02.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"no video file {path}; check the path, and that the upload has finished"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy or download the video again")
    for name, limit in (("max_frames", max_frames), ("max_side", max_side)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} is {limit} but must be at least 1; leave it out for no limit")
    if fps is not None and not 0 < fps <= LARGEST_FPS:
        raise ValueError(f"fps is {fps} but must be above 0 and at most {LARGEST_FPS:g}")
    description = _describe(path)
    if description is None:
        raise ValueError(
            f"{path} holds no picture that ffmpeg can decode (no video, sound only, or cut off"
            " before its index); play it in a video player, then copy it again or convert it"
            " to mp4"
        )
    height, width, own_fps, seconds = description
    fps = fps or (own_fps if 0 < own_fps <= LARGEST_FPS else FALLBACK_FPS)
    scale = min(1.0, (max_side or np.inf) / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return Clip(path, fps, height, width, float(scale), seconds, max_frames)


def _ffmpeg(path: Path, *options: str) -> list[str]:
    """The command that writes the upright RGB frames of a video, byte after byte."""
    from imageio_ffmpeg import get_ffmpeg_exe

    raw = ("-pix_fmt", "rgb24", "-vcodec", "rawvideo", "-f", "image2pipe", "-")
    return [get_ffmpeg_exe(), "-i", str(path), *options, *raw]


def _describe(path: Path) -> tuple[int, int, float, float] | None:
    """Height and width in square pixels, frames per second and seconds (0 where the file does not
    say); None for a file of which no picture can be decoded.
    """
    square = ("-vf", "scale=round(iw*sar):ih")  # upright already: ffmpeg turns before it filters
    answer = subprocess.run(
        _ffmpeg(path, "-frames:v", "1", *square), stdin=subprocess.DEVNULL, capture_output=True
    )
    log = answer.stderr.decode(errors="replace")
    sizes = re.findall(r"^ *Stream #0:0.*: Video: rawvideo.*?, (\d+)x(\d+)", log, re.MULTILINE)
    if not sizes or not answer.stdout:
        return None
    width, height = map(int, sizes[-1])
    fps = re.search(r"^ *Stream #.*: Video: .* ([\d.]+) fps", log, re.MULTILINE)
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", log)
    hours, minutes, seconds = map(float, length.groups()) if length else (0, 0, 0)
    return height, width, float(fps[1]) if fps else 0.0, 3600 * hours + 60 * minutes + seconds


def to_rgb(image: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """Any ordinary picture (grey, RGB or RGBA; uint8, or floats in [0, 1]) as RGB bytes; alpha is
    dropped.

    Raises `ValueError` for other shapes, dtypes or ranges.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ValueError(
            f"a picture of shape {image.shape} is neither `height width` nor `height width"
            " channels` with 1, 3 or 4 channels; pass one frame at a time, channels last"
        )
    if np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1:
        image = (image * 255).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(
            f"a picture of dtype {image.dtype} with values from {image.min()} to {image.max()} is"
            " neither uint8 nor float in [0, 1]; convert it first"
        )
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


@dataclass(frozen=True)
class FaceTrack:
    """Where the face is: `boxes` (x0 y0 x1 y1, in pixels of the clip) and how sure that is.

    `confidence` above 0.5 means detected: the overlap (IoU) of the box with the raw detection in
    that frame. Up to 0.5 means followed by the motion of the picture: half the correlation of what
    the box shows with the face last detected, halved again with every second since. A box that
    resembles the face too little, because something covers it, waits where it is until the face is
    detected again. 0 means that the box is a guess. `starts` are the frames at which the track
    starts anew, because the film is cut or another face is shown; the first is 0. `fallback` marks
    a centre crop taken because there was no face.
    """

    boxes: Float[np.ndarray, "frames 4"]
    confidence: Float[np.ndarray, " frames"]
    fallback: bool = False
    starts: tuple[int, ...] = (0,)

    def stretches(self) -> list[tuple[int, int]]:
        """Of each stretch that shows one face the first frame, and the one after the last."""
        bounds = list(pairwise((*self.starts, len(self.boxes))))
        return [(first, end) for first, end in bounds if self.confidence[first:end].any()] or bounds


@dataclass
class _Stretch:
    """What is measured in a stretch of frames without a cut: the face's motion from frame to frame,
    where it was detected, and how well each frame's box resembles the face.
    """

    start: int
    motions: list[np.ndarray] = field(default_factory=list)
    likeness: list[float] = field(default_factory=list)
    detected: list[int] = field(default_factory=list)  # counted from the start
    detections: list[np.ndarray] = field(default_factory=list)
    face: np.ndarray | None = None  # as last detected


def track_face(
    frames: Iterable, fps: float | None = None, every: int = 5, on_missing: str = "raise"
) -> FaceTrack:
    """Find the face in every `every`-th frame, follow it in between, and smooth: one pass, one
    frame in memory.

    Detection is scikit-image's LBP cascade; a picture in which it finds nothing is enlarged.
    Following is the median of sparse Lucas–Kanade displacements (after Kalal et al.,
    "Forward-Backward Error", ICPR 2010). What the path of motion leaves unexplained at each
    detection goes through a median filter (false alarms), linear interpolation (misses) and a
    symmetric Gaussian of 0.4 s (jitter, without lag). The track starts anew at a cut, at a face
    unlike the last one when the followed box shows that one no longer, and at a face elsewhere when
    the followed one is lost; nothing is smoothed across. `fps` is read from a `Clip`, and 25
    otherwise.

    No face anywhere: `ValueError`, or with `on_missing="centre"` a centre box marked `fallback`.
    Used in lesson 02.
    """
    if on_missing not in ("raise", "centre") or every < 1:
        raise ValueError(
            f"on_missing={on_missing!r} and every={every} do not fit; choose on_missing='raise' or "
            "'centre', and every of at least 1 frame"
        )
    fps = fps or getattr(frames, "fps", FALLBACK_FPS)
    detector = _face_detector()
    stretches = [_Stretch(0)]
    changes = deque(maxlen=10)
    previous = box = elsewhere = None
    for index, frame in enumerate(frames):
        full = cv2.cvtColor(to_rgb(frame), cv2.COLOR_RGB2GRAY)
        height, width = full.shape
        scale = DETECTION_SIDE / max(height, width)
        grey = _resize(full, round(height * scale), round(width * scale))
        if previous is not None and _is_cut(previous, grey, changes):
            stretches.append(_Stretch(index))
            box = None
        stretch = stretches[-1]
        motion = np.zeros(2) if box is None else _median_motion(previous, grey, box)
        likeness = 0.0
        if box is not None:
            likeness = _likeness(stretch.face, _patch(grey, box + np.tile(motion, 2)))
            if likeness < COVERED:  # this is the motion of what covers the face: the box waits
                motion = np.zeros(2)
                likeness = _likeness(stretch.face, _patch(grey, box))
            box = box + np.tile(motion, 2)
        if box is None or index % every == 0:
            candidates = _candidates(detector, grey, box)
            small = box is None or box[2] - box[0] < SMALL
            if not len(candidates) and small and index % every == 0:
                candidates = _small_candidates(detector, full, grey.shape)
            face = _nearest(candidates, box)
            if face is None and len(candidates):  # another face: taken if it is there again
                lost = likeness < 0.2 and index - stretch.start - stretch.detected[-1] >= fps
                other = _nearest(candidates, elsewhere)
                face = other if elsewhere is not None and (lost or _outside(box, grey)) else None
                elsewhere = candidates[_area(candidates).argmax()] if other is None else other
                another = face is not None
            else:
                elsewhere = None
                unlike = bool(
                    face is not None
                    and stretch.detections
                    and _likeness(stretch.face, _patch(grey, face)) < 0
                )
                another = unlike and likeness < COVERED
                face = None if unlike and not another else face  # a false alarm: the face is there
            if another:
                stretch = _Stretch(index)
                stretches.append(stretch)
                motion = np.zeros(2)
            if face is not None:
                box, elsewhere, likeness = face, None, 1.0
                stretch.face = _patch(grey, box)
                stretch.detected.append(index - stretch.start)
                stretch.detections.append(box)
        stretch.motions.append(motion)
        stretch.likeness.append(likeness)
        previous = grey
    if previous is None:
        raise ValueError(
            "there are 0 frames to look for a face in; pass a clip with at least one frame"
        )
    total = stretches[-1].start + len(stretches[-1].motions)
    starts = tuple(stretch.start for stretch in stretches)
    if not any(stretch.detected for stretch in stretches):
        if on_missing == "raise":
            raise ValueError(
                f"no frontal face in {total} frames; use a clip that shows a face from the"
                " front, at least a twentieth of the picture wide, or pass on_missing='centre'"
            )
        boxes = np.tile(_centre_box(height, width), (total, 1))
        return FaceTrack(boxes, np.zeros(total, np.float32), fallback=True, starts=starts)
    smooth = [_smooth(stretch, fps) for stretch in stretches]
    boxes, confidence = (np.concatenate(parts) for parts in zip(*smooth, strict=True))
    shown = np.flatnonzero(np.isfinite(boxes[:, 0]))
    nearest = shown[abs(np.arange(total)[:, None] - shown).argmin(axis=1)]
    return FaceTrack(
        (boxes[nearest] / scale).astype(np.float32), confidence.astype(np.float32), starts=starts
    )


def _smooth(stretch: _Stretch, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (`frames 4`, NaN where the stretch shows no face) and confidence (`frames`)."""
    from scipy.ndimage import gaussian_filter1d, median_filter

    path = np.tile(np.cumsum(stretch.motions, axis=0), 2)
    detected, frames = stretch.detected, np.arange(len(path))
    if not detected:
        return np.full_like(path, np.nan), np.zeros(len(path))
    detections = np.stack(stretch.detections)
    unexplained = median_filter(detections - path[detected], size=(5, 1), mode="mirror")
    filled = np.stack([np.interp(frames, detected, column) for column in unexplained.T], axis=1)
    boxes = path + gaussian_filter1d(filled, 0.4 * fps, axis=0, mode="nearest")
    last = np.searchsorted(detected, frames, side="right") - 1
    seconds = (frames - np.array(detected)[last.clip(0)]) / fps
    confidence = np.array(stretch.likeness).clip(0) * 0.5 ** (1 + seconds)
    overlap = _overlap(detections, boxes[detected])
    confidence[detected] = np.where(overlap > 0.5, overlap, 0)
    return boxes, confidence


def _is_cut(first: np.ndarray, second: np.ndarray, changes: deque) -> bool:
    """Whether two neighbouring frames are of two scenes: they hardly correlate, and did just
    before. `changes` are the latest ones; this one is added.
    """
    small = [cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA) for image in (first, second)]
    change = 1 - _likeness(*small)
    usual = np.median(changes) if changes else 0
    changes.append(change)
    return bool(change > max(0.15, 4 * usual))


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of two grey pictures of one size, from -1 to 1; 1 for two without contrast."""
    first, second = (picture.astype(float) - picture.mean() for picture in (first, second))
    noise = 4 * first.size  # what a blank picture may vary
    contrasts = ((first**2).sum() + noise) * ((second**2).sum() + noise)
    return float(((first * second).sum() + noise) / np.sqrt(contrasts))


def _patch(grey: UInt8[np.ndarray, "height width"], box: np.ndarray) -> np.ndarray:
    return crop_face(grey, box, size=24, margin=0.0)[..., 0]


def _outside(box: np.ndarray, grey: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether the middle of the box has left the picture."""
    x, y = (box[:2] + box[2:]) / 2
    return not (0 <= x < grey.shape[1] and 0 <= y < grey.shape[0])


def _nearest(candidates: np.ndarray, box: np.ndarray | None) -> np.ndarray | None:
    """The detection that overlaps the box most, if one does; the largest if there is no box."""
    if not len(candidates):
        return None
    if box is None:
        return candidates[_area(candidates).argmax()]
    overlaps = _overlap(candidates, box[None])
    return candidates[overlaps.argmax()] if overlaps.max() > 0.1 else None


def _face_detector():
    import skimage.data
    from skimage.feature import Cascade

    return Cascade(skimage.data.lbp_frontal_face_cascade_filename())


def _candidates(
    detector, grey: UInt8[np.ndarray, "height width"], box: np.ndarray | None
) -> np.ndarray:
    """Raw detections as `candidates 4`: near the carried box, which is four times as quick, else
    everywhere.
    """
    if box is not None:
        side = box[2] - box[0]
        left, top = (box[:2] - 0.3 * side).astype(int).clip(0)
        right, bottom = (box[2:] + 0.3 * side).astype(int).clip(0)
        near = _detect(detector, grey[top:bottom, left:right], 0.7 * side)
        if len(near):
            return near + np.array([left, top, left, top])
    return _detect(detector, grey, max(grey.shape) / 8)


def _small_candidates(
    detector, full: UInt8[np.ndarray, "height width"], shape: tuple[int, int]
) -> np.ndarray:
    """Faces too small at `shape`, where others are looked for: from a twentieth of its longer side
    on.
    """
    enlarged = _resize(full, 2 * shape[0], 2 * shape[1])
    return _detect(detector, enlarged, max(shape) / 10) / 2


def _detect(detector, grey: UInt8[np.ndarray, "height width"], smallest: float) -> np.ndarray:
    if min(grey.shape) < max(24, smallest):
        return np.zeros((0, 4))
    faces = detector.detect_multi_scale(
        np.ascontiguousarray(grey),
        scale_factor=1.2,
        step_ratio=1,
        max_size=grey.shape,
        min_size=(max(24, int(smallest)),) * 2,
    )
    corners = [
        (face["c"], face["r"], face["c"] + face["width"], face["r"] + face["height"])
        for face in faces
    ]
    return np.array(corners, float).reshape(-1, 4)


def _median_motion(
    first: UInt8[np.ndarray, "height width"],
    second: UInt8[np.ndarray, "height width"],
    box: Float[np.ndarray, " 4"],
) -> Float[np.ndarray, " 2"]:
    """How far the inside of the box moves, in pixels: the median over an 8×8 grid of points that
    could be followed.
    """
    inset = 0.15 * (box[2:] - box[:2])
    x, y = np.linspace(box[:2] + inset, box[2:] - inset, 8).T
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 1, 2).astype(np.float32)
    moved, followed, _ = cv2.calcOpticalFlowPyrLK(first, second, points, None)
    displacements = (moved - points)[followed.astype(bool)]
    return (
        np.median(displacements, axis=0).astype(float)
        if 2 * len(displacements) >= len(points)
        else np.zeros(2)
    )


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, box by box."""
    shared = _area(
        np.concatenate(
            [np.maximum(boxes, others)[..., :2], np.minimum(boxes, others)[..., 2:]], axis=-1
        )
    )
    return shared / (_area(boxes) + _area(others) - shared)


def _centre_box(height: int, width: int) -> Float[np.ndarray, " 4"]:
    centre, half = np.array([width, height]) / 2, 0.3 * min(height, width)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (max(1, width), max(1, height)), interpolation=interpolation)


def crop_face(
    frame: np.ndarray, box: ArrayLike, size: int = 112, margin: float = 0.2
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut the square around `box` (x0 y0 x1 y1), widened by `margin` of its side on every side.

    What lies outside the picture repeats its edge. Raises `ValueError` for a box without area.
    Used in lesson 01.
    """
    frame, box = to_rgb(frame), np.asarray(box, float)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise ValueError(
            f"the box {box.tolist()} has no area; give x0 y0 x1 y1 in pixels with x1 > x0 and y1"
            " > y0"
        )
    side = max(1, round((box[2:] - box[:2]).max() * (1 + 2 * margin)))
    left, top = np.round((box[:2] + box[2:] - side) / 2)
    square = cv2.warpAffine(
        frame,
        np.float32([[1, 0, -left], [0, 1, -top]]),
        (side, side),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return _resize(square, size, size)


def steady_box(boxes: Float[np.ndarray, "frames 4"]) -> Float[np.ndarray, " 4"]:
    """The smallest box that holds the face in all these frames.

    Optical flow needs one box for a whole window: a crop that follows the face takes the head's
    motion out of the flow, and one that trembles puts motion in.
    """
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def face_windows(
    clip: Iterable,
    track: FaceTrack,
    starts: Sequence[int],
    frames: int = 32,
    size: int = 112,
    margin: float = 0.2,
) -> Iterator[UInt8[np.ndarray, "frames+1 size size 3"]]:
    """For each start, the `frames + 1` face crops from that frame on, all cut with the window's
    `steady_box`.

    One pass over the clip; only the crops of unfinished windows are held. A window is shorter where
    the clip ends, and where the track starts anew. Raises `ValueError` if the starts do not ascend
    within the clip.
    Derived in lesson 02.
    """
    total = len(track.boxes)
    if list(starts) != sorted(set(starts)) or (
        len(starts) and not 0 <= starts[0] <= starts[-1] < total
    ):
        raise ValueError(
            f"window starts {list(starts)} must ascend within the clip's {total} frames; choose"
            " others"
        )
    ends = np.array([*track.starts[1:], total])
    waiting = [(start, min(start + frames + 1, int(ends[ends > start][0]))) for start in starts]
    crops = {window: [] for window in waiting}
    for index, frame in enumerate(clip):
        for start, end in [window for window in waiting if window[0] <= index]:
            crops[start, end].append(
                crop_face(frame, steady_box(track.boxes[start:end]), size, margin)
            )
            if index == end - 1:
                waiting.remove((start, end))
                yield np.stack(crops.pop((start, end)))
        if not waiting:
            return
