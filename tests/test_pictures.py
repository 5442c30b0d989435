"""Pictures: each has a description, shows without JavaScript and is saved in every format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from course_lib import pictures
from course_lib.data.video import Clip, FaceTrack
from course_lib.looking.attention import Evidence
from course_lib.pictures.base import BLUE, GREY, HIGHLIGHT, INK, dark, drawn, fitting


class NineFrames(Clip):
    """A clip of noise that needs no file."""

    def __iter__(self):
        yield from FRAMES


FRAMES = np.random.default_rng(0).integers(0, 255, (9, 40, 40, 3)).astype(np.uint8)
FLOW = np.random.default_rng(1).normal(size=(40, 40, 2)).astype(np.float32)
CLIP = NineFrames(Path("noise.mp4"), fps=8, height=40, width=40, scale=1.0, seconds=1.1)
TRACK = FaceTrack(np.tile([8.0, 8, 30, 30], (9, 1)), np.array([1.0, 0, 1] * 3))
EVIDENCE = Evidence(torch.eye(4), torch.rand(4), 0.5, "entropy", "uniform")

PICTURES = {
    "contact_sheet": lambda: pictures.contact_sheet(
        [torch.rand(3, 20, 20), FRAMES[0]], ["a", "b"], description="Two images."
    ),
    "plot_track": lambda: pictures.plot_track(CLIP, TRACK, shown=3),
    "plot_flow": lambda: pictures.plot_flow(FRAMES[0], FRAMES[1], FLOW),
    "plot_pipeline": lambda: pictures.plot_pipeline("I3D"),
    "plot_attribute_pipeline": lambda: pictures.plot_attribute_pipeline("33 queries"),
    "plot_part_pipeline": lambda: pictures.plot_part_pipeline("blocks"),
    "attention_on_clip": lambda: pictures.attention_on_clip(
        FRAMES, np.full((2, 4), 0.25), ["mean", "Openness"], 2
    ),
    "plot_evidence": lambda: pictures.plot_evidence(EVIDENCE),
    "plot_matrices": lambda: pictures.plot_matrices({"scores": torch.randn(2, 3)}),
    "lines": lambda: pictures.lines({"a": [1, 2]}, description="A line."),
}


WIDE = {
    "one wide row": lambda: pictures.contact_sheet(
        [torch.rand(3, 20, 20)] * 9, ["a"] * 9, 9, description="Nine images."
    ),
    "five panels": lambda: pictures.lines({f"panel {k}": {"a": [1, 2]} for k in range(5)}),
    "rows": lambda: pictures.dots({"a": [1, 2]}, ["one", "two"]),
}


@pytest.mark.parametrize("name", PICTURES | WIDE)
def test_letters_have_nine_points_where_they_are_shown(name):
    picture = (PICTURES | WIDE)[name]()
    pixels, _ = drawn(picture.figure)
    shrunk = min(1, 2 * 820 / pixels.shape[1])  # on a page that has room for 820 pixels
    bare = [axes for axes in picture.figure.axes if not axes.axison]
    hidden = {
        text for axes in bare for side in (axes.xaxis, axes.yaxis) for text in side.findobj(Text)
    }
    letters = [
        text.get_fontsize() * shrunk
        for text in set(picture.figure.findobj(Text)) - hidden
        if text.get_text() and text.get_visible()
    ]
    assert min(letters, default=9) >= 8.9
    assert f'width="{round(pixels.shape[1] / 2)}"' in picture._repr_html_()


def test_a_small_letter_that_someone_draws_is_enlarged():
    figure, axes = pictures.blank_axes(1, 1, 6, 2)
    pictures.open_axis(axes[0, 0], xticks=[0, 1])
    axes[0, 0].tick_params(labelsize=6)
    axes[0, 0].text(0, 0, "small", fontsize=5)
    pictures.Picture(figure, "A small word on a picture.")
    assert {text.get_fontsize() for text in axes[0, 0].texts} == {9}
    assert {text.get_fontsize() for text in axes[0, 0].get_xticklabels()} == {9}


def test_a_picture_has_no_paper_and_its_ink_is_read_on_light_and_on_dark_pages():
    figure, axes = pictures.blank_axes(1, 2, 6, 2)
    axes[0, 0].text(0.1, 0.4, "ink", fontsize=40, color=INK)
    axes[0, 1].imshow(np.full((4, 4, 3), (90, 20, 120), np.uint8))
    light, (image,) = drawn(pictures.Picture(figure, "A word beside a picture.").figure)
    turned = dark(light, [image])
    assert light[0, 0, 3] == turned[0, 0, 3] == 0
    assert (turned[image] == light[image]).all()
    high, wide = light[image].shape[:2]
    assert light[image][high // 2, wide // 2].tolist() == [90, 20, 120, 255]
    inked = light[..., 3] == 255
    inked[:, image[1].start - 4 :] = False
    assert inked.sum() > 500
    assert light[inked][:, :3].max() < 60
    assert turned[inked][:, :3].min() > 200


@pytest.mark.parametrize("colour", [INK, BLUE, HIGHLIGHT, GREY])
def test_colours_are_seen_on_both_pages(colour):
    pixel = np.array([[[*(int(colour[k : k + 2], 16) for k in (1, 3, 5)), 255]]], np.uint8)
    for page, shown in ((255, pixel), (0x11, dark(pixel, [])), (0x38, dark(pixel, []))):
        light, low = sorted((luminance(shown[0, 0, :3]), luminance((page,) * 3)), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 3


def luminance(colour):
    """Of an 8-bit sRGB colour, as contrast is measured by."""
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("inches", [1, 4.0, 6.2, 8.4, 9.3, 12])
def test_figures_have_one_of_three_widths_or_are_wider(inches):
    width, height = fitting(inches, 2)
    assert height / width == pytest.approx(2 / inches)
    assert round(96 * width) in (400, 620, 820) or (width == inches and 96 * width > 820)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_a_sentence_and_saves(tmp_path, name):
    picture = PICTURES[name]()
    assert picture.description[0].isupper()
    assert picture.description.endswith(".")
    shown = picture._repr_html_()
    assert 'alt="' in shown
    assert "<script" not in shown
    assert shown.count("<img") == 2  # for light pages and for dark ones
    for suffix in ("png", "svg", "pdf"):
        assert picture.save(tmp_path / f"p.{suffix}").stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == 3


def test_an_animation_plays_at_its_speed(tmp_path):
    frames = [np.full((20, 20, 3), 40 * k, np.uint8) for k in range(5)]
    path = pictures.Animation(frames, 10, "Five greys.").save(tmp_path / "a.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 100


@pytest.mark.parametrize("fps", [0, -1, 0.01, 51, 1000, float("nan")])
def test_a_speed_that_no_film_plays_at_is_refused(fps):
    with pytest.raises(
        ValueError, match=rf"fps is {fps}; expected from 0\.1 to 50 frames a second"
    ):
        pictures.Animation([np.zeros((8, 8, 3), np.uint8)], fps, "A grey.")


def test_a_name_that_promises_another_kind_of_file_is_refused(tmp_path):
    greys = [np.full((8, 8, 3), grey, np.uint8) for grey in (0, 200)]
    film = pictures.Animation(greys, 50, "Two greys.")
    with pytest.raises(
        ValueError, match=r"film\.mp4 is no name for this kind of file; end it in \.gif"
    ):
        film.save(tmp_path / "film.mp4")
    picture = pictures.plot_attention_map(torch.eye(3))
    with pytest.raises(ValueError, match=r"map is no name .* end it in \.png or \.svg or \.pdf"):
        picture.save(tmp_path / "map")
    assert not list(tmp_path.iterdir())
    with Image.open(film.save(tmp_path / "film.GIF")) as gif:
        assert gif.info["duration"] == 20


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_full_disk_is_the_same_sentence_for_every_kind(kind, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    picture = pictures.plot_attention_map(torch.eye(3))
    assert picture.save(tmp_path / f"map.{kind}").stat().st_size > 1000
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OSError, match=r"cannot write .*other\.\w+ \(No space left on device\); choose"
    ):
        picture.save(tmp_path / f"other.{kind}")
    assert [path.name for path in tmp_path.iterdir()] == [f"map.{kind}"]


def test_hostile_text_in_a_description_stays_text():
    picture = pictures.contact_sheet(
        [torch.rand(3, 8, 8)], description='<script>alert("x")</script>'
    )
    assert "<script" not in picture._repr_html_()


def test_flow_colours_show_stillness_white_and_direction_as_hue():
    flow = np.zeros((2, 3, 2), np.float32)
    flow[0, 0], flow[0, 1] = (1, 0), (-1, 0)
    colours = pictures.flow_colours(flow).astype(int)
    assert (colours[1, 2] == 255).all()
    assert np.abs(colours[0, 0] - colours[0, 1]).max() > 200


def test_a_map_is_clear_where_it_is_nothing_and_strongest_at_its_maximum():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3], heat[1, 0] = 0.5, 0.25
    grey = torch.full((3, 40, 40), 0.5)
    plain, mixed = pictures.overlay(grey), pictures.overlay(grey, heat=heat)
    side = len(plain) // 4
    changed = np.abs(mixed.astype(int) - plain.astype(int)).sum(-1)
    assert (changed[2 * side :] == 0).all()
    strongest, half = changed[:side, 3 * side :], changed[side : 2 * side, :side]
    assert strongest.min() == strongest.max() > 100
    assert abs(half.mean() / strongest.mean() - 0.5) < 0.05


def test_a_region_is_outlined_and_its_inside_is_left_alone():
    region = np.zeros((40, 40), bool)
    region[10:30, 10:30] = True
    plain, outlined = (
        pictures.overlay(torch.zeros(3, 40, 40)),
        pictures.overlay(torch.zeros(3, 40, 40), region),
    )
    side = len(plain) / 40
    inside = slice(int(14 * side), int(26 * side))
    assert (outlined[inside, inside] == plain[inside, inside]).all()
    assert outlined[int(10 * side), int(20 * side)].min() > 200


def test_the_outline_of_a_finer_region_is_as_thin_and_a_smooth_map_interpolates():
    coarse, fine = np.zeros((40, 40), bool), np.zeros((400, 400), bool)
    coarse[10:30, 10:30], fine[100:300, 100:300] = True, True
    black = torch.zeros(3, 40, 40)
    one, other = pictures.overlay(black, coarse), pictures.overlay(black, fine)
    share = [(drawn.min(-1) > 200).mean() for drawn in (one, other)]
    assert 0 < share[1] < 0.03
    assert abs(share[0] - share[1]) < 0.005
    heat = np.eye(4, dtype=np.float32)
    squares, smooth = (
        len(np.unique(pictures.overlay(black, heat=heat, smooth=smooth)[..., 0]))
        for smooth in (False, True)
    )
    assert squares == 2 < 50 < smooth


def test_an_unknown_stage_or_no_image_is_refused():
    with pytest.raises(ValueError, match="no stage 'I4D'"):
        pictures.plot_pipeline("I4D")
    with pytest.raises(ValueError, match="at least one image"):
        pictures.contact_sheet([], description="Nothing.")
    with pytest.raises(ValueError, match="no stage 'query'"):
        pictures.plot_attribute_pipeline("query")


def test_maps_lie_over_their_images_and_hits_are_counted():
    regions = torch.zeros(2, 56, 56, dtype=torch.bool)
    regions[:, :8, :8] = True
    maps = {
        "good": torch.eye(49)[[0, 0]].reshape(2, 7, 7),
        "bad": torch.eye(49)[[0, 40]].reshape(2, 7, 7),
    }
    images, names = torch.rand(2, 3, 56, 56), ["Bald", "Bangs"]
    picture = pictures.plot_attribute_maps(images, maps, regions, names)
    assert "on the outlined region in 2 (good), 1 (bad)" in picture.description
    assert "outlined" not in pictures.plot_attribute_maps(images, maps, None, names).description


def test_a_caption_may_be_shorter_than_the_description():
    picture = pictures.lines({"loss": [0.25, 0.5]}, description="It <rises>.")
    shown = picture._repr_html_()
    assert "<figcaption>It &lt;rises&gt;.</figcaption>" in shown
    assert 'alt="It &lt;rises&gt;. Loss from 0.25 to 0.5."' in shown


def test_matrices_show_their_numbers_where_there_is_room():
    scores = torch.tensor([[1.5, -0.001], [-3.0, 0.25]])
    picture = pictures.plot_matrices({"scores": scores, "weights": scores.softmax(-1)}, {}, "Two.")
    left, right = picture.figure.axes
    assert [text.get_text() for text in left.texts] == ["1.50", "0.00", "-3.00", "0.25"]
    assert left.images[0].get_clim() == (-3.0, 3.0)  # white is 0
    assert right.images[0].get_clim()[0] == 0
    assert "Scores, 2 × 2, from -3.00 to 1.50" in picture.description
    assert picture.caption == "Two."
    large = pictures.plot_matrices({"large": torch.rand(40, 60)}, {"large": ("query", "key")})
    (axis,) = large.figure.axes
    assert not axis.texts
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("query", "key")
