"""Record yourself: Chromium's false camera plays a drawn clip, and the model reads it as from a file."""

import re
import subprocess

import cv2
import numpy as np
import pytest
from chromium import launch
from explorer_driver import LIVE, connect, eventually, opened, sentence, watch_camera
from imageio_ffmpeg import get_ffmpeg_exe

from course_lib.data import ClipDataset, read_clip
from course_lib.explorer import PersonalityExplorer
from course_lib.explorer.clips import RATE, SPARE, WARNING
from course_lib.models import (
    DynamicFeatureExtractor,
    EndToEndPersonalityModel,
    StaticFeatureExtractor,
    course_personality_model,
)

HEIGHT, WIDTH, FACE = 480, 640, 400  # px of the camera's picture, and of the drawn clip in it
FRAMES, BITS, SIDE = 32, 5, 16
CLIP, OTHERS = 12, (8, 16)  # a drawn face that the detector sees at the same place in every codec
TOLERANCE = 0.08  # of a trait: VP8 of 4 Mbit/s moves this clip's by up to 0.06 at six starts


def scene(frames):
    """A drawn clip as a camera sees it, and in a corner the number of each frame, a square for each
    bit: small and grey, or it would look like a cut.
    """
    seen = np.full((len(frames), HEIGHT, WIDTH, 3), 128, np.uint8)
    left = (WIDTH - FACE) // 2
    for number, (picture, frame) in enumerate(zip(seen, frames, strict=True)):
        picture[HEIGHT - FACE :, left : left + FACE] = cv2.resize(frame, (FACE, FACE))
        for bit in range(BITS):
            picture[:SIDE, SIDE * bit : SIDE * (bit + 1)] = 100 + 60 * (number >> bit & 1)
    return seen


def numbers(frames):
    """Which frames of a scene these are."""
    inside = slice(SIDE // 4, 3 * SIDE // 4)
    squares = frames[:, inside, : SIDE * BITS].reshape(len(frames), -1, BITS, SIDE, 3)
    bits = squares[..., inside, :].mean((1, 3, 4)) > 130
    return (bits << np.arange(BITS)).sum(1)


def write(frames, path, *options, rate=RATE):
    """Encode frames by ffmpeg; without options, without loss."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(rate))
    command = [get_ffmpeg_exe(), "-y", *raw, "-i", "-", *(options or ("-c:v", "ffv1")), str(path)]
    subprocess.run(command, input=frames.tobytes(), capture_output=True, check=True)
    return path


def psnr(first, second):
    return 10 * np.log10(255**2 / ((first.astype(float) - second) ** 2).mean())


def course_explorer(clips):
    static, dynamic = StaticFeatureExtractor().eval(), DynamicFeatureExtractor().eval()
    model = EndToEndPersonalityModel(static, dynamic, course_personality_model(static, dynamic))
    return PersonalityExplorer(model.eval(), clips)


def traits_of(explorer, path):
    explorer.show_clip(path)
    return explorer.clip(-1)[1].traits.numpy()


@pytest.fixture(scope="module")
def clips():
    return ClipDataset(40, "test")


@pytest.fixture(scope="module")
def explorer(clips):
    return course_explorer(clips)


def shot(clips, number=CLIP):
    return scene(clips.clip(number).frames[:FRAMES])


def there_and_back(clips):
    frames = shot(clips)
    return np.concatenate([frames, frames[::-1]])


@pytest.fixture(scope="module")
def false_camera(browser, clips, tmp_path_factory):
    """Chromium whose camera plays a drawn clip forwards and backwards, so without a cut, again and
    again; each frame three times.
    """
    path = tmp_path_factory.mktemp("camera") / "clip.y4m"
    frames = np.repeat(there_and_back(clips), 3, axis=0)
    write(frames, path, "-pix_fmt", "yuv420p", rate=3 * RATE)
    flags = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    ]
    other = launch(browser.browser_type, *flags)
    yield other
    other.close()


def record(root):
    root.get_by_role("button", name="Record yourself").click()
    panel = root.get_by_label("Record yourself")
    assert "Nothing is stored unless you save it" in panel.inner_text()
    assert WARNING in panel.inner_text()
    panel.get_by_role("button", name="Open the camera").click()
    eventually(lambda: panel.locator("video").evaluate("video => video.videoWidth") == WIDTH)
    panel.get_by_role("button", name="Record four seconds").click()
    again, refused = (
        panel.get_by_role("button", name=name) for name in ("Record again", "Open the camera")
    )
    again.or_(refused).wait_for()
    assert again.count(), panel.inner_text()  # the panel says why not
    return panel


@pytest.mark.slow
@pytest.mark.browser
def test_a_recording_is_read_as_the_same_clip_from_a_file(false_camera, explorer, clips, tmp_path):
    widget = explorer.create_interactive_viewer(playing=False)
    page = false_camera.new_page(viewport={"width": 833, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    (tmp_path / "page.html").write_text("<!doctype html>")
    page.goto((tmp_path / "page.html").as_uri())  # a camera is given to pages that have an address
    connect(page, widget)
    page.locator(".explorer[data-sample='0']").wait_for()
    assert explorer.own is None
    watch_camera(page)
    panel = record(page.locator(".explorer"))
    page.locator(".explorer[data-sample='-1']").wait_for()
    assert panel.locator("video").count() == 0
    assert page.evaluate("given.length") == 1
    assert page.evaluate(LIVE) == 0  # the camera is off
    recorded = explorer.clip(-1)[1].traits.numpy()
    eventually(lambda: sentence(page) == explorer.describe(-1))
    assert sentence(page).startswith("Your clip. Attention")
    assert page.locator(".choosing .warning").inner_text() == WARNING
    for name, value in zip(explorer.names, recorded, strict=True):
        row = page.locator(f"[data-trait={name}]")
        assert row.locator(".number").inner_text() == f"{value:.2f} / ?"
    with page.expect_download() as download:
        panel.get_by_role("button", name="Save the clip").click()
    saved = tmp_path / "my_clip.webm"
    saved.write_bytes(download.value.path().read_bytes())
    panel.get_by_role("button", name="Close").click()
    eventually(lambda: page.get_by_label("Record yourself").locator("p").count() == 0)

    np.testing.assert_allclose(traits_of(explorer, saved), recorded, atol=1e-5)
    recording = np.stack(list(read_clip(saved, max_frames=FRAMES + SPARE, fps=RATE)))
    seen = numbers(recording)
    assert len(set(seen.tolist())) > FRAMES / 2  # the clip went by, not a still of it
    assert psnr(recording, shot(clips)[seen]) > 35  # each frame is the one that its number says

    def off(number):
        """How far the traits are from those of the same moments of a clip, read from a file."""
        file = write(shot(clips, number)[seen], tmp_path / f"{number}.mkv")
        return abs(traits_of(explorer, file) - recorded).max()

    assert off(CLIP) < TOLERANCE < min(off(other) for other in OTHERS)
    page.evaluate("close_view()")
    assert page.evaluate("listening()") == 0
    page.close()
    assert said == []


@pytest.mark.browser
def test_without_a_camera_one_sentence_says_so(browser, explorer, tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html>")
    page = browser.new_page()  # no camera, and nobody who allows one
    page.goto((tmp_path / "page.html").as_uri())
    connect(page, explorer.create_interactive_viewer(playing=False, sample=1))
    page.get_by_role("button", name="Record yourself").press("Enter")
    page.get_by_role("button", name="Open the camera").press("Enter")
    panel = page.get_by_label("Record yourself")
    told = panel.get_by_role("status")
    eventually(lambda: re.search("gives no camera|No camera was found", told.inner_text()))
    assert panel.get_by_role("button", name="Open the camera").count() == 1
    page.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: b"no video", "your clip holds no picture"),
        (lambda folder: wall(folder, 40).read_bytes(), "your clip shows no face from the front"),
        (
            lambda folder: wall(folder, 20).read_bytes(),
            "your clip lasts 2.5 s, expected at least 4.0",
        ),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(explorer, tmp_path, make, words):
    before = explorer.own
    with pytest.raises(ValueError, match=words) as error:
        explorer.show_clip(make(tmp_path), "your clip")
    assert str(tmp_path) not in str(error.value)
    assert "tmp" not in str(error.value)
    assert explorer.own is before


def test_a_clip_begins_after_the_dark_and_is_refused_with_a_cut_in_its_middle(
    explorer, clips, tmp_path
):
    lit = scene(clips.clip(20).frames[:FRAMES])
    dark = np.concatenate([np.zeros_like(lit[:SPARE]), lit])
    explorer.show_clip(write(dark, tmp_path / "dark.mkv"))
    assert len(explorer.own[0]["frames"]) == FRAMES
    assert explorer.own[0]["frames"].mean((1, 2, 3)).min() > 60  # none of the dark ones
    halves = np.concatenate([lit[: FRAMES // 2], 255 - lit[FRAMES // 2 :]])
    with pytest.raises(
        ValueError, match=r"halves.mkv shows one face without a cut for only 2.\d s"
    ):
        explorer.show_clip(write(halves, tmp_path / "halves.mkv"))


def wall(folder, count):
    return write(np.full((count, HEIGHT, WIDTH, 3), 90, np.uint8), folder / "wall.mkv")


def test_lesson_00_gives_the_same_warning():
    import json
    from pathlib import Path

    path = Path(__file__).parent.parent / "notebooks" / "00_start_here.ipynb"
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells).replace("*", "")
    first, second = WARNING.split(". ", 1)
    assert first[4:] in text
    for claim in ("Not personality.", "Not fair.", "Not for decisions about people."):
        assert claim in text
        assert claim[:-1].lower() in second


NOTEBOOK = [
    """\
import sys
sys.path[:0] = [r"ROOT", r"ROOT/tests"]
import torch
torch.set_num_threads(1)
from explorer_model import small_clips
personality = small_clips()
clips = personality.create_interactive_viewer(playing=False)
clips"""
]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("name", ["lab", "classic"])
def test_it_records_in_a_real_notebook(false_camera, tmp_path, name):
    with opened(false_camera, tmp_path, name, NOTEBOOK) as (page, kernel):
        record(page.locator(".explorer"))
        page.locator(".explorer[data-sample='-1']").wait_for()
        said = kernel("print(clips.own, clips.sample, personality.describe(-1))")
        assert said == f"your clip -1 {sentence(page.locator('.explorer'))}"
