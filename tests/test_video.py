"""Decoding, face tracking and cropping: on videos made here, and on real ones where
COURSE_REAL_CLIPS names them.
"""

import gc
import os
import subprocess
import tracemalloc
import warnings
import wave
import weakref
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from refusals import refused
from skimage.feature import Cascade

from course_lib.data import (
    FaceTrack,
    crop_face,
    face_windows,
    read_clip,
    steady_box,
    to_rgb,
    track_face,
    video,
)

ASTRONAUT = skimage.data.astronaut()
LOSSLESS = {"codec": "png", "pixelformat": "rgb24", "macro_block_size": 1}
REAL = os.environ.get("COURSE_REAL_CLIPS")

pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    # what is raised where something is thrown away fails the test too
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


def write(path, frames, fps=25, **options):
    options = options or {"ffmpeg_log_level": "error"}
    imageio.imwrite(path, frames, plugin="FFMPEG", fps=fps, **options)
    return path


def noise(frames=12, height=36, width=64, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(
        0, 256, (frames, height // 4 + 1, width // 4 + 1, channels), np.uint8
    )
    return coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def offsets(count):
    """A smooth path (x, y), in whole pixels."""
    step = np.arange(count)
    return np.stack([20 * np.sin(step / 6), 8 * np.cos(step / 5)], axis=1).round().astype(int)


def moving_face(count):
    """The astronaut's face, moving by `offsets`."""
    return (ASTRONAUT[10 - y : 202 - y, 120 - x : 312 - x] for x, y in offsets(count))


def centres(track):
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


def off_path(track):
    """How far the box's centre is from the known path, in pixels, frame by frame."""
    deviation = centres(track) - offsets(len(track.boxes))
    return abs(deviation - np.median(deviation, axis=0)).max(axis=1)


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("mp4", {"macro_block_size": 2}, 12),
        ("avi", LOSSLESS, 0),
        ("mov", LOSSLESS, 0),
        ("mpg", {"codec": "mpeg1video", "macro_block_size": 2}, 12),
        ("webm", {"codec": "libvpx", "macro_block_size": 2}, 12),
    ],
)
def test_every_format_gives_its_own_frames_size_and_rate(tmp_path, suffix, options, tolerance):
    frames = noise()
    clip = read_clip(
        write(tmp_path / f"clip.{suffix}", frames, ffmpeg_log_level="error", **options)
    )
    decoded = np.stack(list(clip))
    assert (clip.fps, clip.height, clip.width, clip.scale) == (25, 36, 64, 1)
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8
    assert abs(decoded.astype(int) - frames).mean() <= tolerance
    assert np.array_equal(decoded, np.stack(list(clip))), "a second pass differs"


def test_gif(tmp_path):
    imageio.imwrite(tmp_path / "clip.gif", noise(), duration=100, loop=0)
    clip = read_clip(tmp_path / "clip.gif")
    assert (clip.fps, len(list(clip))) == (10, 12)


@pytest.mark.parametrize(("channels", "pixel_format"), [(1, "gray"), (4, "rgba")])
@pytest.mark.parametrize(("height", "width"), [(36, 64), (35, 53)])
def test_grey_transparent_and_odd_sizes_come_out_as_rgb(
    tmp_path, channels, pixel_format, height, width
):
    frames = noise(3, height, width, channels)
    write(
        tmp_path / "clip.mov",
        frames.squeeze(),
        codec="png",
        pixelformat=pixel_format,
        macro_block_size=1,
    )
    decoded = np.stack(list(read_clip(tmp_path / "clip.mov")))
    assert np.array_equal(
        decoded, np.broadcast_to(frames[..., : min(3, channels)], (3, height, width, 3))
    )


def test_a_phone_video_comes_out_upright(tmp_path):
    write(tmp_path / "flat.mov", noise(), **LOSSLESS)
    turn = ("-v", "error", "-display_rotation", "90", "-i", tmp_path / "flat.mov", "-c", "copy")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *turn, tmp_path / "turned.mov"], check=True)
    clip = read_clip(tmp_path / "turned.mov")
    assert (clip.height, clip.width) == (64, 36)
    assert np.array_equal(next(iter(clip)), np.rot90(noise()[0]))


def test_4k_is_scaled_down_while_decoding(tmp_path):
    write(tmp_path / "4k.mov", noise(2, 2160, 3840), codec="mpeg4")
    clip = read_clip(tmp_path / "4k.mov", max_side=640)
    assert (clip.height, clip.width, clip.scale) == (360, 640, 1 / 6)
    assert [frame.shape for frame in clip] == [(360, 640, 3)] * 2
    assert read_clip(tmp_path / "4k.mov").width == 3840


def test_an_unbelievable_frame_rate_is_resampled(tmp_path):
    clip = read_clip(write(tmp_path / "clip.mov", noise(200), fps=500, **LOSSLESS))
    assert clip.fps == 25
    assert abs(len(list(clip)) - 10) <= 2


def test_max_frames_reads_no_more(tmp_path):
    path = write(tmp_path / "clip.mov", noise(), **LOSSLESS)
    assert np.array_equal(np.stack(list(read_clip(path, max_frames=5))), noise()[:5])
    refused("max_frames is 0", lambda: read_clip(path, max_frames=0))


def test_leaving_the_loop_stops_ffmpeg(tmp_path, monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    path = write(tmp_path / "clip.mov", noise(60, 300, 300), **LOSSLESS)
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    for _ in read_clip(path):
        break
    gc.collect()
    assert len(started) == 2  # one to read the description, one for the frames
    for process in started:
        process.wait(timeout=300)


def test_missing_empty_text_sound_and_playlist_files(tmp_path):
    for path in (tmp_path / "nowhere.mp4", tmp_path):
        refused(f"no video file … {path.name}; check", read_clip, path, error=FileNotFoundError)
    (tmp_path / "empty.mp4").touch()
    refused("empty.mp4 is empty", read_clip, tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("This is no video.\n" * 99)
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for name in ("text.mp4", "playlist.mp4", "sound.wav"):
        refused(f"{name} holds no picture … ; play it", read_clip, tmp_path / name)


def test_truncated_videos(tmp_path):
    whole = write(tmp_path / "whole.mp4", noise(50, 64, 64), macro_block_size=2).read_bytes()
    # the index stands at the end: nothing is readable
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    refused("cut off before its index", read_clip, tmp_path / "cut.mp4")
    whole = write(
        tmp_path / "streamed.mp4",
        noise(50, 64, 64),
        macro_block_size=2,
        output_params=["-movflags", "+faststart"],
    ).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(
        UserWarning, match=r"cut\.mp4 announces 50 frames but holds \d+; it is truncated"
    ):
        frames = list(read_clip(tmp_path / "cut.mp4"))
    assert 10 < len(frames) < 40
    with warnings.catch_warnings(action="error", category=UserWarning):
        list(read_clip(tmp_path / "streamed.mp4"))


def test_decoding_holds_one_frame_at_a_time(tmp_path):
    path = write(tmp_path / "clip.mov", noise(100, 120, 160), codec="mpeg4")
    peaks = []
    for length in (10, 100):
        tracemalloc.start()
        for _ in read_clip(path, max_frames=length):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * 120 * 160 * 3


# ---- pictures ------------------------------------------------------------------------------------


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))
    )
)
def test_to_rgb_keeps_colours_and_accepts_floats(picture):
    rgb = to_rgb(picture)
    assert np.array_equal(rgb, np.broadcast_to(picture[..., :3], rgb.shape))
    assert np.array_equal(to_rgb(picture / np.float32(255)), rgb)
    if picture.shape[2] == 1:
        assert np.array_equal(to_rgb(picture[..., 0]), rgb)


# ---- tracking ------------------------------------------------------------------------------------


def test_the_box_follows_a_known_path():
    track = track_face(moving_face(40))
    assert track.boxes.shape == (40, 4)
    assert track.boxes.dtype == track.confidence.dtype == np.float32
    assert off_path(track).max() < 3
    assert not track.fallback
    assert np.flatnonzero(track.confidence > 0.5).tolist() == list(range(0, 40, 5))
    assert track.confidence.min() > 0.3  # followed in between
    assert track.confidence.max() <= 1


def test_a_blank_picture_is_another_scene():
    frames = list(moving_face(40))
    for hidden in range(12, 24):
        frames[hidden] = np.full_like(frames[0], 90)
    track = track_face(frames)
    assert (track.confidence[12:24] == 0).all()
    assert track.starts == (0, 12, 24)
    assert track.stretches() == [(0, 12), (24, 40)]
    assert off_path(track)[[*range(12), *range(24, 40)]].max() < 12


def test_a_false_alarm_is_ignored(monkeypatch):
    detect, calls = video._candidates, []

    def with_a_false_alarm(detector, grey, box):
        calls.append(len(calls))
        return np.array([[0.0, 0, 60, 60]]) if len(calls) == 5 else detect(detector, grey, box)

    monkeypatch.setattr(video, "_candidates", with_a_false_alarm)
    track = track_face(moving_face(40))
    assert off_path(track).max() < 5
    assert track.confidence[20] < 0.5
    assert (track.confidence[[0, 5, 10, 15, 25, 30, 35]] > 0.7).all()


def test_smoothing_does_not_lag():
    velocity = np.gradient(offsets(60)[:, 0])
    deviation = centres(track_face(moving_face(60)))[:, 0] - offsets(60)[:, 0]
    # in frames, by least squares
    lag = -((deviation - deviation.mean()) * velocity).sum() / (velocity**2).sum()
    assert abs(lag) < 0.5


def test_sizes_scale_with_the_picture():
    frames = list(moving_face(6))
    doubled = [np.repeat(np.repeat(frame, 2, 0), 2, 1) for frame in frames]
    # a tenth of the face
    assert track_face(doubled).boxes == pytest.approx(2 * track_face(frames).boxes, abs=20)


@pytest.mark.parametrize(
    "convert",
    [
        lambda rgb: rgb.mean(2).astype(np.uint8),
        lambda rgb: rgb / 255,
        lambda rgb: np.concatenate([rgb, rgb[..., :1]], 2),
        lambda rgb: rgb[:191, :189],
    ],
)
def test_grey_float_rgba_and_odd_frames(convert):
    reference = centres(track_face(moving_face(3)))
    # a tenth of the face
    assert centres(track_face(map(convert, moving_face(3)))) == pytest.approx(reference, abs=9)


def test_one_frame_is_enough_and_without_a_face_the_centre():
    assert track_face(moving_face(1)).boxes.shape == (1, 4)
    blank = np.full((7, 90, 120, 3), 128, np.uint8)
    track = track_face(blank, on_missing="centre")
    assert track.fallback
    assert track.boxes.tolist() == [[33, 18, 87, 72]] * 7
    assert not track.confidence.any()


def live_frames(frames, peak):
    """Yield copies of the frames and note in `peak` how many of them are alive at once."""
    alive = weakref.WeakSet()

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    for frame in frames:
        copy = frame.copy().view(Frame)
        alive.add(copy)
        peak.append(len(alive))
        yield copy
        del copy


def test_tracking_and_cropping_hold_few_frames():
    peak = []
    track = track_face(live_frames(moving_face(40), peak))
    assert max(peak) <= 3
    peak.clear()
    for window in face_windows(live_frames(moving_face(40), peak), track, range(0, 40, 8), 8):
        del window
    assert max(peak) <= 3


# ---- cropping ------------------------------------------------------------------------------------


@given(st.integers(-40, 60), st.integers(-40, 60), st.integers(1, 50))
def test_crops_repeat_the_edge(left, top, side):
    frame = noise(1, 20, 30)[0]
    padded = np.pad(frame, ((100, 100), (100, 100), (0, 0)), mode="edge")
    expected = padded[100 + top : 100 + top + side, 100 + left : 100 + left + side]
    assert np.array_equal(
        crop_face(frame, [left, top, left + side, top + side], side, margin=0), expected
    )


def test_a_crop_is_square_centred_and_widened():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[40:60, 40:60] = 255
    # a square of 20, widened to 40 pixels
    crop = crop_face(frame, [40, 45, 60, 55], size=60, margin=0.5)
    assert crop.shape == (60, 60, 3)
    assert crop.mean() == pytest.approx(255 / 4, abs=1)
    assert np.array_equal(crop, crop[::-1, ::-1])
    assert crop_face(frame[..., 0], [40, 45, 60, 55]).shape == (112, 112, 3)


def test_shrinking_averages():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (crop_face(stripes, [0, 0, 64, 64], size=16, margin=0) == 100).all()


def test_windows_are_cut_with_one_box_each():
    frames = list(noise(20))
    boxes = np.cumsum(np.full((20, 4), 0.7, np.float32), axis=0) + np.float32([5, 5, 20, 20])
    track = FaceTrack(boxes, np.ones(20, np.float32))
    windows = list(face_windows(iter(frames), track, [0, 4, 14], frames=8, size=24))
    assert [len(window) for window in windows] == [9, 9, 6]
    for start, window in zip([0, 4, 14], windows, strict=True):
        # the face moves right and down
        box = np.r_[boxes[start, :2], boxes[min(start + 8, 19), 2:]]
        assert np.array_equal(steady_box(boxes[start : start + 9]), box)
        assert np.array_equal(
            window, [crop_face(frame, box, 24) for frame in frames[start : start + 9]]
        )


# ---- real speakers -------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL, reason="COURSE_REAL_CLIPS is not set to a folder of real clips")
@pytest.mark.parametrize("name", ["bbaf2n", "lrwp9a", "swiz3n"])
def test_real_speakers_are_tracked(name):
    clip = read_clip(Path(REAL) / f"{name}.mpg", max_side=640)
    track = track_face(clip)
    assert clip.fps == 25
    assert len(track.boxes) == 75
    sides = track.boxes[:, 2:] - track.boxes[:, :2]
    on_face = (
        (sides > 100).all(1)
        & (track.boxes[:, :2] >= 0).all(1)
        & (track.boxes[:, 2:] <= (360, 288)).all(1)
    )
    assert on_face.mean() >= 0.98

    cascade = Cascade(skimage.data.lbp_frontal_face_cascade_filename())
    overlaps, raw_centres = [], []
    for frame, (x0, y0, x1, y1) in zip(clip, track.boxes, strict=True):
        faces = cascade.detect_multi_scale(
            frame, scale_factor=1.2, step_ratio=1, min_size=(60, 60), max_size=(288, 288)
        )
        for face in sorted(faces, key=lambda face: face["width"])[-1:]:
            left = face["c"]
            top = face["r"]
            right = face["c"] + face["width"]
            bottom = face["r"] + face["height"]
            shared = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
            raw_centres.append([(left + right) / 2, (top + bottom) / 2])
            overlaps.append(
                shared / ((x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared)
            )
    assert len(overlaps) >= 65
    assert min(overlaps) >= 0.5
    assert np.median(overlaps) >= 0.8

    def jitter(path):
        """Mean absolute second difference, as a share of the box's side: 0 for a box at rest or
        gliding.
        """
        return abs(np.diff(path, 2, axis=0)).mean() / sides.mean()

    assert jitter(centres(track)) < min(0.002, jitter(raw_centres) / 10)
    assert jitter(sides) < 0.001
