"""Pictures and videos as a person sees them: upright, with square pixels, in their own colours."""

import gc
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from course_lib.data import read_clip

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


def quarters(height: int, width: int) -> np.ndarray:
    """Black, red, green and white, from left to right and from top to bottom."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, width // 2 :] = (255, 0, 0)
    picture[height // 2 :, : width // 2] = (0, 255, 0)
    picture[height // 2 :, width // 2 :] = 255
    return picture


def ffmpeg(*arguments, frames: np.ndarray | None = None) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, input=frames.tobytes() if frames is not None else None)


def film(path, frames: np.ndarray, *options) -> None:
    """A lossless video of these frames."""
    height, width = frames.shape[1:3]
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", 25, "-i", "-")
    ffmpeg(*source, "-c:v", "png", *options, path, frames=frames)


# ---- videos --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aspect", "width"), [("1/1", 64), ("16/11", 93), ("12/11", 70), ("1/2", 32)]
)
def test_pixels_that_are_not_square_come_out_square(tmp_path, aspect, width):
    film(tmp_path / "clip.mov", np.stack([quarters(36, 64)] * 3), "-vf", f"setsar={aspect}")
    clip = read_clip(tmp_path / "clip.mov")
    assert (clip.height, clip.width, clip.scale) == (36, width, 1)
    frames = list(clip)
    assert [frame.shape for frame in frames] == [(36, width, 3)] * 3
    away = [3, width - 4]  # from the borders, which scaling blurs
    assert np.array_equal(frames[0][[3, 3, 32, 32], away * 2], quarters(2, 2).reshape(4, 3))
    smaller = read_clip(tmp_path / "clip.mov", max_side=32)
    assert max(smaller.height, smaller.width) == 32
    assert smaller.width / smaller.height == pytest.approx(width / 36, abs=0.1)


def test_turned_and_not_square_at_once(tmp_path):
    film(tmp_path / "flat.mov", np.stack([quarters(36, 64)] * 3), "-vf", "setsar=2/1")
    ffmpeg(
        "-display_rotation", 90, "-i", tmp_path / "flat.mov", "-c", "copy", tmp_path / "turned.mov"
    )
    clip = read_clip(tmp_path / "turned.mov")
    assert (clip.height, clip.width) == (64, 18)  # what was wide is now high
    upright = np.rot90(quarters(2, 2)).reshape(4, 3)
    assert np.array_equal(next(iter(clip))[[3, 3, 60, 60], [3, 14, 3, 14]], upright)


def test_files_and_pipes_are_closed(tmp_path):
    film(tmp_path / "clip.mov", np.stack([quarters(36, 64)] * 9))
    (tmp_path / "cut.mov").write_bytes((tmp_path / "clip.mov").read_bytes()[:900])
    assert len(list(read_clip(tmp_path / "clip.mov"))) == 9
    for _ in read_clip(tmp_path / "clip.mov"):
        break
    with pytest.raises(ValueError, match="holds no picture"):
        read_clip(tmp_path / "cut.mov")
    gc.collect()
