"""Pictures and videos as a person sees them: upright, with square pixels, in their own colours."""

import gc
import subprocess

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from course_lib.data import read_clip, read_picture

pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    # what is raised where something is thrown away fails the test too
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


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


# ---- pictures ------------------------------------------------------------------------------------

ORIENTATION = 0x0112  # EXIF's number for how the camera was held


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_upright_however_the_camera_was_held(tmp_path, orientation, suffix):
    seen = quarters(32, 48)
    turned = seen if orientation < 5 else seen.transpose(1, 0, 2)  # as the sensor saw it
    flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1)}
    down, right = flips.get(orientation, (1, -1))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(turned[::down, ::right]).save(path, exif=exif, quality=95)
    picture = read_picture(path)
    assert (picture.shape, picture.dtype) == ((32, 48, 3), np.uint8)
    assert abs(picture.astype(int) - seen).mean() < 4


def colours() -> Image.Image:
    return Image.fromarray(quarters(16, 24))


@pytest.mark.parametrize(
    ("picture", "suffix", "expected"),
    [
        (colours().convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "png", quarters(16, 24)),
        (colours().convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "gif", quarters(16, 24)),
        (colours().convert("CMYK"), "tif", quarters(16, 24)),
        (colours().convert("YCbCr"), "tif", quarters(16, 24)),
        (Image.new("1", (8, 8), 1), "png", 255),
        (Image.new("L", (8, 8), 77), "jpg", 77),
        (Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), "png", 77),
        (Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), "tif", 77),
        (Image.fromarray(np.full((8, 8), 77 * 257, np.int32)), "tif", 77),
        (Image.fromarray(np.full((8, 8), 0.2, np.float32)), "tif", 51),
        (Image.new("LA", (8, 8), (0, 127)), "png", 128),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "png", 255),
        (Image.new("RGBA", (8, 8), (200, 0, 0, 255)), "webp", (200, 0, 0)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 127)), "png", (255, 128, 128)),
    ],
)
def test_every_mode_comes_out_in_its_own_colours(tmp_path, picture, suffix, expected):
    options = {"lossless": True} if suffix == "webp" else {}
    picture.save(tmp_path / f"picture.{suffix}", **options)
    seen = read_picture(tmp_path / f"picture.{suffix}").astype(int)
    assert abs(seen - expected).max() <= 4


def test_one_colour_of_a_palette_or_of_rgb_may_be_transparent(tmp_path):
    colours().save(tmp_path / "rgb.png", transparency=(255, 0, 0))
    four = colours().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    four.save(tmp_path / "palette.gif", transparency=four.getpixel((23, 0)))
    expected = quarters(16, 24)
    expected[:8, 12:] = 255
    for name in ("rgb.png", "palette.gif"):
        assert np.array_equal(read_picture(tmp_path / name), expected)


def test_an_ordinary_jpeg_is_to_the_bit_what_opencv_reads(tmp_path):
    for number, size in enumerate([(218, 178), (217, 177), (64, 64)]):
        path = tmp_path / f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3)).save(path, quality=80)
        assert np.array_equal(read_picture(path), cv2.imread(str(path))[..., ::-1])


def test_pictures_that_cannot_be_read_get_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no picture .*nowhere\.png; check the path"):
        read_picture(tmp_path / "nowhere.png")
    for suffix in ("jpg", "png", "gif", "webp", "tif", "bmp"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} is cut off, or no picture") as error:
            read_picture(path)
        assert "\n" not in str(error.value)
    for name, content in (("page.jpg", b"<!DOCTYPE html>"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is cut off, or no picture"):
            read_picture(tmp_path / name)
    colours().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"large\.png has more than 200 pixels; make it smaller"):
        read_picture(tmp_path / "large.png")
