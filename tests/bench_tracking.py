"""How well a face is tracked where the detector fails: drawn heads that turn, are covered by a hand
or are small, with the box known, and the real clips that COURSE_REAL_CLIPS names.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from course_lib.data import FaceTrack, read_clip, track_face, video
from course_lib.world.anatomy import Expression, ellipse, smooth
from course_lib.world.faces import Pose, draw_face, pose_points
from course_lib.world.stories import make_speaker

FRAMES, FPS = 75, 25
DRAWN = 240  # side of the drawn square, in pixels; the picture around it is wider
SMALL = 57  # pixels of a small face, in a picture of 640 × 480
SIDE = 1.75  # of the detector's box, in face units: what it gives for drawn heads from the front
SPEAKERS = (4, 5, 8, 12)
OUTLINE = smooth([(0, -1.0), (0.6, -0.1), (0, 0.9), (-0.6, -0.1)])
FIRST, LAST = 20, 55  # the frames between which a head is turned or covered


class Scene(NamedTuple):
    """A drawn clip, and for each frame the known box of the face."""

    frames: list[np.ndarray]
    boxes: np.ndarray


def amount(step: int) -> float:
    """0 outside the hard part, 1 in its middle, half a second on the way."""
    return float(np.clip(min(step - FIRST, LAST - step) / 12, 0, 1))


def drawn_scene(kind: str, speaker: int) -> Scene:
    """A head that sways for three seconds; in the second of them something happens to it."""
    small = kind == "57 pixels"
    pixels = SMALL if small else 0.6 * DRAWN
    sides, rows = (200, 120) if small else (40, 0)  # what is added around the drawn square
    scale = pixels / SIDE / DRAWN
    who, frames, boxes = make_speaker(speaker), [], []
    for step in range(FRAMES):
        x, y = 0.03 * np.sin(step / 9 + speaker), 0.02 * np.sin(step / 7)
        yaw = (-1) ** speaker * 0.8 * amount(step) if kind == "turned" else 0.0
        pose = Pose(yaw=yaw, scale=scale, x=0.5 + x, y=0.53 + y)
        face = draw_face(
            who.attributes, speaker, DRAWN, "clean", tone=who.tone, pose=pose, regions=False
        )
        frame = cv2.copyMakeBorder(face.image, rows, rows, sides, sides, cv2.BORDER_REPLICATE)
        outline = pose_points(OUTLINE, 0.0, pose, Expression())[:, 0]
        middle = np.array([(outline.min() + outline.max()) / 2, pose.y + 0.045 * scale])
        middle = middle * DRAWN + (sides, rows)
        boxes.append([*(middle - pixels / 2), *(middle + pixels / 2)])
        if kind == "covered by a hand":
            wave_hand(frame, middle, pixels, step)
        frames.append(frame)
    return Scene(frames, np.array(boxes))


def wave_hand(frame: np.ndarray, face: np.ndarray, pixels: float, step: int) -> None:
    """A hand that comes from below, stays before the face with a tremble, and leaves."""
    low = (1 - amount(step)) * 1.4 + 0.03 * np.sin(1.3 * step)
    palm = face + pixels * np.array([0.03 * np.sin(step), 0.25 + low])
    shapes = [palm + pixels * ellipse(0, 0, 0.34, 0.38)]
    for finger in range(4):
        x = 0.21 * finger - 0.315
        shapes.append(palm + pixels * ellipse(x, -0.45, 0.09, 0.33))
    shapes.append(palm + pixels * ellipse(0, 0.9, 0.22, 0.6))  # the wrist
    for shape in shapes:
        points = np.rint(shape).astype(np.int32)
        cv2.fillPoly(frame, [points], (196, 148, 120))
        cv2.polylines(frame, [points], True, (140, 96, 74), 2, cv2.LINE_AA)


def detected_alone(frames: list[np.ndarray], every: int = 5) -> FaceTrack:
    """The peer: the largest detection in every fifth whole picture, and straight lines between."""
    detector, seen, boxes = video._face_detector(), [], []
    for index, frame in enumerate(frames):
        if index % every == 0:
            scale = video.DETECTION_SIDE / max(frame.shape)
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            grey = video._resize(grey, *(round(side * scale) for side in grey.shape))
            box = video._nearest(video._candidates(detector, grey, None), None)
            if box is not None:
                seen.append(index)
                boxes.append(box / scale)
    confidence = np.zeros(len(frames), np.float32)
    confidence[seen] = 1
    if not seen:
        return FaceTrack(np.zeros((len(frames), 4), np.float32), confidence, fallback=True)
    columns = [np.interp(range(len(frames)), seen, column) for column in np.array(boxes).T]
    return FaceTrack(np.stack(columns, axis=1), confidence)


class Tracked(NamedTuple):
    """Shares of the frames; `iou` of all frames, and `hard` in the part where something happens."""

    seen: float  # of the looks, every fifth frame
    followed: float  # of all frames: neither seen nor a guess
    iou: float
    hard: float
    lost: float  # of all frames: IoU with the known box below 0.5


def scored(track: FaceTrack, boxes: np.ndarray) -> Tracked:
    overlap = video._overlap(track.boxes, boxes)
    followed = (track.confidence > 0) & (track.confidence <= 0.5)
    return Tracked(
        float((track.confidence[::5] > 0.5).mean()),
        float(followed.mean()),
        float(overlap.mean()),
        float(overlap[FIRST:LAST].mean()),
        float((overlap < 0.5).mean()),
    )


KINDS = ("from the front", "turned", "covered by a hand", "57 pixels")


def track_drawn(kind: str, tracker: Callable) -> Tracked:
    """The mean over the speakers."""
    results = []
    for speaker in SPEAKERS:
        frames, boxes = drawn_scene(kind, speaker)
        results.append(scored(tracker(frames), boxes))
    return Tracked(*np.mean(results, axis=0).tolist())


def course_tracker(frames: list[np.ndarray]) -> FaceTrack:
    return track_face(frames, FPS, on_missing="centre")


def bench_tracking() -> None:
    """A table of its own: the course's tracker beside the detector alone."""
    print("\n| clip | tracker | looks with a detection | frames followed | IoU | IoU in the hard part"
          " | frames with IoU < 0.5 |\n|---|---|---|---|---|---|---|")  # fmt: skip
    trackers = {"detector alone": detected_alone, "track_face": course_tracker}
    for kind in KINDS:
        for name, tracker in trackers.items():
            result = track_drawn(kind, tracker)
            print(
                f"| drawn, {kind} | {name} | {result.seen:.0%} | {result.followed:.0%}"
                f" | {result.iou:.2f} | {result.hard:.2f} | {result.lost:.0%} |"
            )
    folder = os.environ.get("COURSE_REAL_CLIPS")
    for path in sorted(Path(folder).glob("*.mpg")) if folder else []:
        frames = list(read_clip(path, max_side=640))
        for name, tracker in trackers.items():
            track = tracker(frames)
            seen = (track.confidence[::5] > 0.5).mean()
            followed = ((track.confidence > 0) & (track.confidence <= 0.5)).mean()
            print(f"| real, {path.stem} | {name} | {seen:.0%} | {followed:.0%} | | | |")


if __name__ == "__main__":
    bench_tracking()
