"""The track starts anew at a cut and at another face, follows what turns or is covered, finds small
faces; windows cross no start.
"""

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from bench_tracking import (
    FIRST,
    KINDS,
    LAST,
    course_tracker,
    detected_alone,
    drawn_scene,
    scored,
    track_drawn,
)

from course_lib.data import (
    FaceTrack,
    OpticalFlowSequenceLoader,
    face_windows,
    track_face,
    video,
)

ASTRONAUT = skimage.data.astronaut()[10:202, 120:312]
FACE = np.array([70.0, 60, 150, 140])  # about where the detector sees the face in it
ROOM = cv2.resize(skimage.data.coffee(), (640, 360), interpolation=cv2.INTER_AREA)


def sliding(count: int, mirrored: bool = False, room: int = 0) -> list[np.ndarray]:
    """The face in a corner of a larger picture, one pixel further to the right in each frame."""
    face = ASTRONAUT[:, ::-1] if mirrored else ASTRONAUT
    frames = []
    for step in range(count):
        frame = np.roll(ROOM[:, :400], room, axis=1).copy()
        left, top = (20 + step, 20) if not room else (180 - step, 150)
        frame[top : top + 192, left : left + 192] = face
        frames.append(frame)
    return frames


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    inside = (np.minimum(first, second)[2:] - np.maximum(first, second)[:2]).clip(0).prod()
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return inside / (sum(areas) - inside)


def test_nothing_is_smoothed_across_a_cut():
    first, second = sliding(20), sliding(20, mirrored=True, room=200)
    track = track_face(first + second)
    assert track.starts == (0, 20)
    assert track.stretches() == [(0, 20), (20, 40)]
    alone = [track_face(frames) for frames in (first, second)]
    for name in ("boxes", "confidence"):
        expected = np.concatenate([getattr(part, name) for part in alone])
        assert np.array_equal(getattr(track, name), expected)
    assert track_face(first).starts == (0,)


@pytest.mark.parametrize(
    ("look", "alarm"), [(3, [-60, -50, 40, 50]), (7, [-5, -5, 25, 25])]
)  # unlike the face, in the middle; like it, at the last look
def test_one_false_alarm_neither_starts_anew_nor_moves_the_box(monkeypatch, look, alarm):
    frames, looks = sliding(36), []
    expected = track_face(frames)
    candidates = video._candidates

    def alarmed(detector, grey, box):
        found = candidates(detector, grey, box)
        looks.append(len(looks))
        return found + np.array(alarm) if looks[-1] == look else found

    monkeypatch.setattr(video, "_candidates", alarmed)
    track = track_face(frames)
    assert len(looks) == 8
    assert track.starts == (0,)
    assert np.abs(track.boxes - expected.boxes).max() < 6  # px


def test_a_face_that_leaves_is_not_followed_along_the_wall_to_another():
    other, side = (430, 90), 192
    frames = []
    for step in range(60):
        frame = ROOM.copy()
        frame[90 : 90 + side, other[0] : other[0] + side] = ASTRONAUT[:, ::-1]
        left = 40 - 9 * step
        if left > -side:
            frame[90 : 90 + side, max(0, left) : left + side] = ASTRONAUT[:, max(0, -left) :]
        frames.append(frame)
    track = track_face(frames)
    assert len(track.starts) == 2
    assert 8 < track.starts[1] < 50
    centres = (track.boxes[:, 0] + track.boxes[:, 2]) / 2
    near_one, near_other = centres < 200, centres > 450
    assert (near_one | near_other).all()
    assert near_other[track.starts[1] :].all()
    assert (track.confidence[track.starts[1] - 3 : track.starts[1]] < 0.3).all()


def covered(frames: list[np.ndarray]) -> list[np.ndarray]:
    """A grey disc before the face from frame 12 to frame 31."""
    for step in range(12, 32):
        cv2.circle(frames[step], (20 + step + 110, 20 + 100), 50, (120, 130, 125), -1)
    return frames


def test_a_covered_face_is_followed_with_falling_confidence_and_found_again():
    track = track_face(covered(sliding(50)))
    assert track.starts == (0,)
    detected = track.confidence > 0.5
    assert detected[[0, 5, 10, 35, 40, 45]].all()
    assert not detected[12:32].any()
    hidden = track.confidence[13:32]
    assert (hidden < 0.3).all()
    free = track_face(sliding(50))
    assert min(map(overlap, track.boxes, free.boxes)) > 0.7


def test_a_face_that_turns_is_followed_with_falling_confidence():
    frames = []
    for step, frame in enumerate(sliding(50)):
        narrow = np.cos(np.deg2rad(80) * np.sin(np.pi * np.clip((step - 8) / 34, 0, 1)))
        middle = 20 + step + 110
        squeeze = np.float32([[narrow, 0, middle * (1 - narrow)], [0, 1, 0]])
        frames.append(cv2.warpAffine(frame, squeeze, (400, 360), borderMode=cv2.BORDER_REPLICATE))
    track = track_face(frames)
    assert track.starts == (0,)
    detected = track.confidence > 0.5
    assert detected[[0, 5, 45]].all()
    assert not detected[22:29].any()
    assert track.confidence[25] < 0.5 * track.confidence[5]
    free = track_face(sliding(50))
    assert min(map(overlap, track.boxes, free.boxes)) > 0.6


def test_a_hand_before_the_face_does_not_take_the_box_along():
    """The hand comes from below, trembles, and leaves; between detections it is all that moves."""
    frames, boxes = drawn_scene("covered by a hand", 5)
    track = course_tracker(frames)
    hidden = slice(FIRST + 8, LAST - 8)
    assert track.starts == (0,)
    assert (track.confidence[hidden] < 0.4).all()
    assert track.confidence[[0, 10, 60, 70]].min() > 0.5  # found again
    result = scored(track, boxes)
    assert result.hard > 0.7
    assert result.lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_on_drawn_heads_the_tracker_is_no_worse_than_lines_between_detections(kind):
    ours, peer = track_drawn(kind, course_tracker), track_drawn(kind, detected_alone)
    assert ours.hard > max(0.75, peer.hard - 0.02)
    assert ours.seen >= peer.seen
    assert ours.followed > 0.6
    assert ours.lost < 0.02


@pytest.mark.parametrize("pixels", [57, 40])
def test_small_faces_are_found(pixels):
    scale = pixels / 80
    small = cv2.resize(ASTRONAUT, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frames = []
    for step in range(20):
        frame = ROOM.copy()
        frame[100 : 100 + len(small), 200 + step : 200 + step + small.shape[1]] = small
        frames.append(frame)
    track = track_face(frames)
    assert track.starts == (0,)
    for step, box in enumerate(track.boxes):
        middle = (200 + step + 110 * scale, 100 + 100 * scale)
        assert np.linalg.norm((box[:2] + box[2:]) / 2 - middle) < pixels / 2
        assert 0.6 * pixels < box[2] - box[0] < 1.8 * pixels


# ---- windows -------------------------------------------------------------------------------------


def test_windows_end_where_the_track_starts_anew():
    boxes, sure = np.tile(np.float32([2, 2, 9, 9]), (20, 1)), np.ones(20, np.float32)
    track = FaceTrack(boxes, sure, starts=(0, 6, 15))
    windows = face_windows(np.zeros((20, 12, 12, 3), np.uint8), track, [0, 4, 6, 16], frames=4)
    assert [len(window) for window in windows] == [5, 2, 5, 4]


def test_the_window_from_the_middle_lies_in_the_longest_stretch_and_says_so():
    first, second = sliding(15), sliding(20, mirrored=True, room=200)
    options = {"frames": 8, "size": 32, "cache": False}
    with pytest.warns(
        UserWarning, match=r"from the frames 15 on; the window from frame 13 was mov"
    ):
        item = OpticalFlowSequenceLoader([np.stack(first + second)], **options)[0]
    alone = OpticalFlowSequenceLoader([np.stack(second)], **options)[0]
    assert torch.equal(item["boxes"], alone["boxes"])
    assert torch.equal(item["flow"], alone["flow"])


@pytest.mark.filterwarnings("ignore:.*crosses none")
def test_windows_with_a_stride_cross_no_cut():
    clip = np.stack(sliding(15) + sliding(20, mirrored=True, room=200))
    windows = OpticalFlowSequenceLoader([clip], frames=8, stride=4, size=32, cache=False)
    for item in windows:
        left = item["boxes"][:, 0]
        assert left.diff().abs().max() < 5  # on one side of the cut
        assert item["flow"].abs().median() < 2
