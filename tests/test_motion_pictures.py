"""Pictures of features over time: one scale for each feature, the right frame for each step."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from course_lib.pictures import (
    animate_features,
    features_beside_flow,
    frame_of_step,
    images,
)


@pytest.fixture
def clip():
    """Nine frames of grey, eight flow fields, and two features on a grid of 2 × 2 places over four
    steps.
    """
    rng = np.random.default_rng(0)
    frames = np.full((9, 32, 32, 3), 120, np.uint8)
    flow = rng.normal(size=(8, 32, 32, 2)).astype(np.float32)
    maps = np.zeros((2, 4, 2, 2), np.float32)
    maps[0, 1, 0, 1], maps[0, 3, 0, 1], maps[1, 2, 1, 0] = 8, 2, 0.5
    return frames, flow, maps


def pictures(clip):
    frames, flow, maps = clip
    return [
        features_beside_flow(frames, flow, maps, ["one", "two"]),
        features_beside_flow(frames, flow, maps, ["one", "two"], steps=[1, 3]),
    ]


@pytest.mark.parametrize("index", range(2))
def test_every_picture_has_a_sentence_and_saves(clip, index, tmp_path):
    picture = pictures(clip)[index]
    assert picture.description[0].isupper() or picture.description[0].isdigit()
    assert picture.description.endswith(".")
    assert "\n" not in picture.description
    assert 'alt="' in picture._repr_html_()
    for suffix in ("png", "svg", "pdf"):
        assert picture.save(tmp_path / f"p.{suffix}").stat().st_size > 1000


@given(steps=st.integers(1, 40), repeat=st.integers(1, 8))
def test_a_step_stands_for_the_middle_of_its_frames(steps, repeat):
    shown = frame_of_step(steps, steps * repeat)
    assert len(shown) == steps
    assert (shown // repeat == np.arange(steps)).all()
    assert (np.abs(shown - (np.arange(steps) * repeat + (repeat - 1) / 2)) <= 0.5).all()


def test_a_features_scale_is_one_for_all_steps(clip):
    """Scaled step by step, a quiet moment would look as busy as a lively one."""
    frames, flow, maps = clip
    picture = features_beside_flow(frames, flow, maps, ["one", "two"])
    drawn = (
        np.array([axis.images[0].get_array() for axis in picture.figure.axes])
        .reshape(4, 4, 32, 32, 3)
        .astype(int)
    )
    lively, quiet, silent = (drawn[2, step, :16, 16:].sum() for step in (1, 3, 0))
    assert lively > quiet > silent
    assert drawn[2, 1, :16, :16].sum() == silent  # the other tiles of that step are silent
    # each feature's own largest is brightest
    assert (drawn[3, 2, 16:, :16] == drawn[2, 1, :16, 16:]).all()
    assert "one at step 1, row 0, column 1, two at step 2, row 1, column 0" in picture.description


def test_chosen_steps_are_the_columns(clip):
    _, flow, maps = clip
    frames = np.broadcast_to(
        np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, (9, 32, 32, 3)
    ).copy()
    picture = features_beside_flow(frames, flow, maps, ["one", "two"], steps=[1, 3])
    assert [axis.images[0].get_array().max() for axis in picture.figure.axes[:2]] == [
        3 * 20,
        7 * 20,
    ]
    assert [axis.get_title() for axis in picture.figure.axes[:2]] == ["step 1", "step 3"]
    assert len(picture.figure.axes) == 8
    assert "2 × 2 places" in picture.description


def test_the_animation_changes_features_once_a_step(clip, tmp_path):
    frames, flow, maps = clip
    animation = animate_features(frames, flow, maps, ["one", "two"], fps=10)
    assert len(animation.frames) == 8
    # the first feature
    panels = np.array([frame[18:, 64:96] for frame in animation.frames]).astype(int)
    changed = [t for t in range(1, 8) if (panels[t] != panels[t - 1]).any()]
    assert changed == [2, 4, 6]
    with Image.open(animation.save(tmp_path / "a.gif")) as gif:
        assert gif.info["duration"] == 100
        assert gif.n_frames == 8
        assert gif.size == (4 * 32, 32 + 18)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["one"]}, "there are 1 names"),
        ({"maps": np.zeros((4, 2, 2))}, "expected features, steps, rows"),
        ({"maps": np.zeros((2, 0, 2, 2))}, "expected features, steps"),
        ({"flow": np.zeros((8, 16, 32, 2))}, "of one clip"),
        ({"flow": np.zeros((3, 32, 32, 2))}, "4 steps are not of one clip"),
        ({"frames": np.zeros((4, 32, 32, 3), np.uint8)}, "4 frames of"),
        ({"maps": np.full((2, 4, 2, 2), np.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(clip, change, words):
    arguments = (
        dict(zip(("frames", "flow", "maps"), clip, strict=True))
        | {"names": ["one", "two"]}
        | change
    )
    for draw in (features_beside_flow, animate_features):
        with pytest.raises(ValueError, match=words) as error:
            draw(**arguments)
        assert "\n" not in str(error.value)


def test_nothing_touches_pyplot():
    import sys

    assert not re.search("pyplot", "".join(vars(images)))
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
