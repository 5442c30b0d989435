"""The drawn clips: true flow that is true, labels that need binding, speakers that never leak."""

import cv2
import numpy as np
import pytest
import torch

from course_lib.data import ClipDataset
from course_lib.training import concordance
from course_lib.world import (
    FRAMES_PER_MOMENT,
    anatomy,
    expected_traits,
    render_clip,
    tell_story,
    texture,
)
from course_lib.world.clips import PARTS


@pytest.fixture(scope="module")
def clips():
    return [render_clip(seed, moments=3) for seed in range(4)]


def photometric_error(clip, t: int, flow: np.ndarray) -> float:
    """Mean grey difference between frame t and frame t + 1 along the flow, where things move and
    stay in view.
    """
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    rebuilt = cv2.remap(clip.frames[t + 1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)
    judged = ~clip.occluded[t] & (np.linalg.norm(clip.flow[t], axis=-1) > 0.05)
    return np.abs(rebuilt.astype(float) - clip.frames[t])[judged].mean()


def test_true_flow_rebuilds_the_frame_better_than_none_and_than_dis(clips):
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors = {"true": [], "zero": [], "dis": []}
    for clip in clips:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
        for t in range(0, len(clip.flow), 2):
            errors["true"].append(photometric_error(clip, t, clip.flow[t]))
            errors["zero"].append(photometric_error(clip, t, np.zeros_like(clip.flow[t])))
            errors["dis"].append(photometric_error(clip, t, dis.calc(grey[t], grey[t + 1], None)))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["true"] < 0.5 * mean["zero"]
    assert mean["true"] < mean["dis"]


def test_a_wrong_flow_is_found_out(clips):
    """The measure above can fail: half the true motion, or its opposite, rebuilds the frame worse."""
    clip = clips[0]
    true, half, back = (
        np.mean([photometric_error(clip, t, k * clip.flow[t]) for t in range(6)])
        for k in (1, 0.5, -1)
    )
    assert true < half < back


@pytest.mark.parametrize(
    ("part", "most"),
    [("hair behind", 0.4), ("body", 1.3), ("head", 0.4), ("iris", 0.5), ("lip", 0.7)],
)
def test_the_flow_is_true_on_every_part(clips, part, most):
    """Error along the true flow, as a share of the error of zero flow, where a part moves and stays
    in view.

    The body hardly moves: sampling blurs it more than standing still.
    """
    seen, hidden, errors = 0, 0, ([], [])
    for clip in clips:
        for t in range(len(clip.flow)):
            shown = clip.parts[t] == PARTS.index(part)
            seen, hidden = seen + shown.sum(), hidden + clip.occluded[t][shown].sum()
            judged = shown & ~clip.occluded[t] & (np.linalg.norm(clip.flow[t], axis=-1) > 0.3)
            y, x = np.mgrid[:112, :112].astype(np.float32)
            for flow, kept in zip((clip.flow[t], np.zeros_like(clip.flow[t])), errors, strict=True):
                rebuilt = cv2.remap(
                    clip.frames[t + 1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC
                )
                kept.extend(np.abs(rebuilt.astype(float) - clip.frames[t])[judged].ravel())
    assert hidden < 0.3 * seen
    assert np.mean(errors[0]) < most * np.mean(errors[1])


def test_occluded_is_what_the_next_frame_does_not_show(clips):
    for clip in clips:
        for t in range(len(clip.flow) - 1):
            y, x = np.mgrid[:112, :112]
            column = np.rint(x + clip.flow[t, ..., 0]).astype(int)
            row = np.rint(y + clip.flow[t, ..., 1]).astype(int)
            outside = (column < 0) | (column > 111) | (row < 0) | (row > 111)
            there = clip.parts[t + 1][row.clip(0, 111), column.clip(0, 111)]
            assert (clip.occluded[t] == (outside | (there != clip.parts[t]))).mean() > 0.9999


def test_the_flow_solves_its_own_equation(clips):
    # the large head has more than 2^15 pixels
    for clip in (*clips, render_clip(4, size=400, moments=1)):
        assert clip.residual[clip.parts >= PARTS.index("head")].mean() < 0.005
        assert clip.residual.max() < 0.1


@pytest.mark.parametrize(
    ("part", "then"),
    [("iris", {"gaze_x": 0.5}), ("iris", {"gaze_y": -0.6}), ("lip", {"open": 0.7})],
)
def test_what_slides_on_the_skin_is_carried_along(part, then):
    """The centre of a part's painted pixels moves by what `part_motion` says it is carried."""
    rng = np.random.default_rng(0)
    person = anatomy.appearance(frozenset({"Young"}), 0.3, rng)
    now, then = anatomy.Expression(open=0.3), anatomy.Expression(**({"open": 0.3} | then))
    head = texture.paint_layer(anatomy.head(person), texture.make_grain(rng, texture.TEXTURE, 1, 1))
    shown = [
        texture.paint_face(head, person, face)[1] == texture.MATERIALS[part] for face in (now, then)
    ]
    before, after = (np.argwhere(mask)[:, ::-1].astype(np.float32) for mask in shown)
    moved = after.mean(0) - before.mean(0)
    material = np.full(len(before), texture.MATERIALS[part], np.uint8)
    carried = texture.part_motion(material, before, person, now, then).mean(0)
    assert np.linalg.norm(moved) > 1.2
    assert np.allclose(moved, carried, atol=0.6), (moved, carried)  # the lids cut the iris


def test_little_is_occluded_and_the_background_is_still(clips):
    for clip in clips:
        assert 0 < clip.occluded.mean() < 0.10
        assert (np.linalg.norm(clip.flow[:, :6, :6], axis=-1) == 0).all()


def test_a_clip_is_the_same_again():
    again = [render_clip(5, moments=2) for _ in range(2)]
    for name in ("frames", "flow", "occluded", "traits", "region"):
        assert np.array_equal(getattr(again[0], name), getattr(again[1], name)), name


def test_exactly_one_moment_matches_the_cue():
    rng = np.random.default_rng(0)
    for _ in range(200):
        story = tell_story(rng)
        assert (story.darts == story.cue).sum() == 1
        assert story.darts[story.moment] == story.cue


def test_labels_need_binding():
    """On oracle features the right moment gives the ceiling; averages over time, crossed with the
    cue, do not.
    """
    clips = ClipDataset(3000, "train", 7)
    labels, stories = clips.labels(), [clips.story(i) for i in range(3000)]
    still = torch.tensor(np.array([story.still for story in stories]))
    cue = torch.nn.functional.one_hot(labels["cue"], 4)
    darts = torch.tensor(np.array([np.bincount(story.darts, minlength=4) for story in stories]))
    average = torch.tensor(np.array([story.sizes.mean(0) for story in stories]))
    unbound = torch.cat(
        [still, average, cue, darts, (cue[:, :, None] * average[:, None]).flatten(1)], 1
    ).float()
    unbound = torch.cat([unbound, torch.ones(3000, 1)], 1)
    fit, unseen = slice(0, 2000), slice(2000, 3000)
    solution = torch.linalg.lstsq(unbound[fit], labels["traits"][fit], driver="gelsd").solution
    bound = concordance(labels["expected"][unseen], labels["traits"][unseen])
    not_bound = concordance(unbound[unseen] @ solution, labels["traits"][unseen])
    assert bound.min() > 0.93
    assert not_bound.max() < 0.45


def test_labels_without_drawing_are_those_of_the_items():
    clips = ClipDataset(5, "valid", 2, moments=2, clips_per_speaker=2, method="true")
    labels = clips.labels()
    for i in (0, 4):
        item = clips[i]
        assert torch.equal(item["traits"], labels["traits"][i])
        for name in ("moment", "cue", "speaker"):
            assert item[name] == labels[name][i], name
    assert torch.allclose(
        labels["expected"][3], torch.tensor(expected_traits(clips.story(3))).float()
    )
    assert labels["traits"].min() >= 0
    assert labels["traits"].max() <= 1


def test_item_form():
    item = ClipDataset(1, moments=2, size=64)[0]
    frames = 2 * FRAMES_PER_MOMENT
    assert item["face"].shape == (3, 64, 64)
    assert item["flow"].shape == item["true_flow"].shape == (frames, 64, 64, 2)
    assert item["occluded"].shape == (frames, 64, 64)
    assert item["region"].shape == (5, 64, 64)
    assert item["region"].flatten(1).any(1).all()
    assert item["traits"].shape == (5,)


def test_speakers_come_back_within_a_split_and_never_in_another():
    splits = [ClipDataset(40, split, 0) for split in ("train", "valid", "test", "assets")]
    speakers = [{clips.seeds(i)[1] for i in range(40)} for clips in splits]
    assert [len(names) for names in speakers] == [10] * 4
    assert len(set().union(*speakers)) == 40
