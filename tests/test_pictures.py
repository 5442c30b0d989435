"""Pictures: each has a description, shows without JavaScript and is saved in every format."""

import numpy as np
import pytest
import torch
from PIL import Image

import course_lib.pictures as pictures


def all_pictures():
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 40, 3)).astype(np.uint8)
    flow = np.random.default_rng(1).normal(size=(40, 40, 2)).astype(np.float32)
    weights = np.full((2, 4), 0.25)
    return [
        pictures.contact_sheet(
            [torch.rand(3, 20, 20), frames[0]], ["a", "b"], description="Two images."
        ),
        pictures.plot_flow(frames[0], frames[1], flow),
        pictures.plot_pipeline("I3D"),
        pictures.attention_on_clip(frames, weights, ["mean", "Openness"], 2),
    ]


@pytest.mark.parametrize("index", range(4))
def test_every_picture_has_a_sentence_and_saves(tmp_path, index):
    picture = all_pictures()[index]
    assert picture.description[0].isupper()
    assert picture.description.endswith(".")
    shown = picture._repr_html_()
    assert 'alt="' in shown
    assert "<script" not in shown
    for suffix in ("png", "svg", "pdf"):
        assert picture.save(tmp_path / f"p.{suffix}").stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == 3


def test_an_animation_plays_at_its_speed(tmp_path):
    frames = [np.full((20, 20, 3), 40 * k, np.uint8) for k in range(5)]
    path = pictures.Animation(frames, 10, "Five greys.").save(tmp_path / "a.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 100


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


def test_overlay_is_brightest_where_the_map_is():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    mixed = pictures.overlay(torch.zeros(3, 40, 40), heat=heat).sum(-1)
    assert mixed[:10, 30:].mean() > 2 * mixed[30:, :10].mean()


def test_an_unknown_stage_or_no_image_is_refused():
    with pytest.raises(ValueError, match="no stage 'I4D'"):
        pictures.plot_pipeline("I4D")
    with pytest.raises(ValueError, match="at least one image"):
        pictures.contact_sheet([], description="Nothing.")
