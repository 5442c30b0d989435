"""Optical flow against motion that is known, and the loader's cache, windows and workers."""

import email.message
import http.client
import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from refusals import refused
from scipy.ndimage import gaussian_filter, map_coordinates
from torch.utils.data import DataLoader
from torchvision.models.optical_flow import raft_small

from course_lib.data import (
    FaceTrack,
    OpticalFlowComputer,
    OpticalFlowSequenceLoader,
    adjust_length,
    clip_and_scale,
    crop_face,
    end_point_error,
    resize_flow,
    warp,
)
from course_lib.data import flow as flow_module
from course_lib.files import load_tensors, save_tensors

FACE = skimage.data.astronaut()[10:170, 140:300]
METHODS = [("dis", "ultrafast"), ("dis", "fast"), ("dis", "medium"), ("farneback", "medium")]
REAL = os.environ.get("COURSE_REAL_CLIPS")


def speaking(count, shift=1.0):
    """A face that slides `shift` pixels per frame to the right."""
    how = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    moves = [np.float32([[1, 0, shift * step], [0, 1, 0]]) for step in range(count)]
    return np.stack([cv2.warpAffine(FACE, move, FACE.shape[1::-1], **how) for move in moves])


def smooth_flow(height, width, largest=3.0):
    field = np.random.default_rng(1).normal(size=(height, width, 2))
    field = gaussian_filter(field, (height / 6, width / 6, 0))
    return (field / abs(field).max() * largest).astype(np.float32)


# ---- the three methods ---------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "preset"), METHODS)
@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (-1, 2)])
def test_a_shifted_picture_has_known_flow(method, preset, shift):
    x, y = shift
    first, second = FACE[20:140, 20:140], FACE[20 - y : 140 - y, 20 - x : 140 - x]
    flow = OpticalFlowComputer(method, preset).between(first, second)
    assert flow.shape == (120, 120, 2)
    assert flow.dtype == np.float32
    assert np.median(flow[20:-20, 20:-20], axis=(0, 1)) == pytest.approx(shift, abs=0.3)


@pytest.mark.parametrize(("method", "preset"), METHODS)
def test_flow_rebuilds_the_first_frame_from_the_second(method, preset):
    true = smooth_flow(160, 160)
    first, second = warp(FACE, true), FACE
    flow = OpticalFlowComputer(method, preset).between(first, second)
    inside = np.s_[16:-16, 16:-16]
    still = end_point_error(np.zeros_like(true)[inside], true[inside])
    assert end_point_error(flow[inside], true[inside]) < 0.5 * still

    def difference(rebuilt):
        return abs(rebuilt[inside].astype(float) - first[inside]).mean()

    assert difference(warp(second, flow)) < 0.5 * difference(second)


def test_larger_frames_make_better_flow():
    """Why the loader crops at twice the size: DIS sees half of it."""
    true, computer = smooth_flow(160, 160), OpticalFlowComputer()
    first = warp(FACE, true)
    small = [cv2.resize(frame, (80, 80), interpolation=cv2.INTER_AREA) for frame in (first, FACE)]
    truth = resize_flow(true, 80, 80)
    large = resize_flow(computer.between(first, FACE), 80, 80)
    assert end_point_error(large, truth) < 0.8 * end_point_error(computer.between(*small), truth)


def test_presets_differ_and_one_more_frame_than_flows():
    frames = speaking(4)
    flow = OpticalFlowComputer()(frames)
    assert flow.shape == (3, 160, 160, 2)
    assert np.array_equal(flow[1], OpticalFlowComputer().between(frames[1], frames[2]))
    assert np.array_equal(flow, OpticalFlowComputer()(iter(frames)))
    assert not np.array_equal(flow, OpticalFlowComputer(preset="fast")(frames))


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_grey_rgba_and_odd_sizes(method):
    computer, (first, second) = OpticalFlowComputer(method), speaking(2)[:, :93, :71]
    flow = computer.between(first, second)
    assert flow.shape == (93, 71, 2)
    rgba = [np.concatenate([frame, frame[..., :1]], axis=2) for frame in (first, second)]
    assert np.array_equal(flow, computer.between(*rgba))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    assert np.array_equal(flow, computer.between(*grey))


def test_raft_takes_the_last_refinement_of_a_padded_pair(monkeypatch):
    model, seen = raft_small().eval(), []
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    monkeypatch.setattr(flow_module, "_raft", lambda: model)
    first, second = speaking(2)[:, :130, :71]
    flow = OpticalFlowComputer("raft").between(first, second)
    (image, _), refinements = seen[0]
    assert image.shape == (1, 3, 136, 128)
    assert (image.min() >= -1, image.max() <= 1) == (True, True)
    assert torch.equal(image[0, :, :130, :71], torch.from_numpy(first).permute(2, 0, 1) / 127.5 - 1)
    assert torch.equal(image[0, :, 130:, :71], image[0, :, 129:130, :71].expand(3, 6, 71))
    assert np.array_equal(flow, refinements[-1][0, :, :130, :71].permute(1, 2, 0))
    assert sum(parameter.numel() for parameter in model.parameters()) == 990_162


def test_an_interrupted_download_names_the_other_methods(monkeypatch, tmp_path):
    class Interrupted(io.BytesIO):
        def info(self):
            message = email.message.Message()
            message["Content-Length"] = "3800000"
            return message

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    flow_module._raft.cache_clear()

    def unreachable(*_, **__):
        raise OSError("no network")

    def cut_off(*_, **__):
        raise http.client.IncompleteRead(b"half")

    for answer in (lambda *_, **__: Interrupted(b"half a file"), unreachable, cut_off):
        monkeypatch.setattr(torch.hub, "urlopen", answer)
        words, raft = "use method='dis' or method='farneback'", OpticalFlowComputer("raft")
        refused(words, raft.between, FACE, FACE, error=ConnectionError)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- small rules ---------------------------------------------------------------------------------

FIELDS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.just(2)),
    elements=st.floats(-100, 100, width=32),
)


@given(FIELDS, st.floats(0.5, 50))
def test_clip_and_scale(flow, limit):
    scaled = clip_and_scale(flow, limit)
    assert abs(scaled).max() <= 1
    inside = abs(flow) <= limit
    assert np.allclose(scaled[inside] * limit, flow[inside], atol=1e-4)
    normal = (flow == 0) | (abs(flow) > 1e-30)  # the smallest numbers of all vanish in the division
    assert np.array_equal(np.sign(scaled[normal]), np.sign(flow[normal]))
    assert np.array_equal(clip_and_scale(torch.from_numpy(flow), limit).numpy(), scaled)


def test_clip_and_scale_keeps_the_gradient_inside_the_limit():
    flow = torch.tensor([[-30.0, 5.0]], requires_grad=True)
    clip_and_scale(flow).sum().backward()
    assert flow.grad.numpy() == pytest.approx(np.array([[0, 1 / 20]]))


@given(st.integers(1, 30), st.integers(1, 30), st.floats(-9, 9), st.floats(-9, 9))
def test_resizing_a_constant_flow_scales_its_vectors(height, width, u, v):
    flow = np.full((2, 12, 20, 2), (u, v), np.float32)
    resized = resize_flow(flow, height, width)
    assert resized.shape == (2, height, width, 2)
    assert np.allclose(resized, np.float32([u * width / 20, v * height / 12]), atol=1e-4)
    assert np.array_equal(resize_flow(torch.from_numpy(flow[0]), height, width).numpy(), resized[0])


def test_resized_flow_describes_the_resized_motion():
    small = resize_flow(smooth_flow(160, 120), 80, 60)
    assert end_point_error(resize_flow(small, 160, 120), smooth_flow(160, 120)) < 0.05
    area = cv2.resize(smooth_flow(160, 120), (60, 80), interpolation=cv2.INTER_AREA)
    assert small == pytest.approx(area / 2, abs=0.05)


@given(FIELDS, st.integers(1, 9))
def test_adjusted_length_keeps_the_middle_or_ends_in_rest(flow, frames):
    adjusted = adjust_length(flow, frames)
    assert adjusted.shape == (frames, *flow.shape[1:])
    if frames <= len(flow):
        cut = len(flow) - frames
        assert np.array_equal(adjusted, flow[cut // 2 : len(flow) - (cut - cut // 2)])
    else:
        assert np.array_equal(adjusted[: len(flow)], flow)
        assert not adjusted[len(flow) :].any()
    tensor = adjust_length(torch.from_numpy(flow), frames)
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(adjusted, np.ndarray)
    assert np.array_equal(tensor, adjusted)
    assert adjusted.dtype == flow.dtype


def test_warp_against_scipy():
    picture = gaussian_filter(np.random.default_rng(0).uniform(0, 255, (60, 80)), 3).astype(
        np.float32
    )
    flow = smooth_flow(60, 80)
    y, x = np.indices((60, 80))
    expected = map_coordinates(
        picture, [y + flow[..., 1], x + flow[..., 0]], order=3, mode="nearest"
    )
    assert warp(picture, flow) == pytest.approx(expected, abs=0.5)  # cubic kernels differ
    assert abs(picture - expected).max() > 2


def test_warp_by_whole_pixels_is_a_shift_with_repeated_edges():
    flow = np.full((160, 160, 2), (3, -2), np.float32)
    expected = np.pad(FACE, ((2, 0), (0, 3), (0, 0)), mode="edge")[:160, 3:]
    assert np.array_equal(warp(FACE, flow), expected)


def test_end_point_error_by_hand():
    truth = np.zeros((1, 3, 2))
    estimate = np.array([[[3.0, 4], [0, 0], [6, 8]]])
    assert end_point_error(estimate, truth) == 5
    assert end_point_error(estimate, truth, np.array([[True, True, False]])) == 2.5
    last = torch.tensor([[False, False, True]])
    assert end_point_error(torch.from_numpy(estimate), torch.from_numpy(truth), last) == 10


# ---- the loader ----------------------------------------------------------------------------------


def loader(sources, cache=False, **settings):
    return OpticalFlowSequenceLoader(
        sources, **{"frames": 4, "size": 32, "cache": cache} | settings
    )


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_item():
    clip = speaking(12)
    item = loader([clip], fps=30)[0]
    assert {name: (tuple(value.shape), value.dtype) for name, value in item.items()} == {
        "face": ((3, 32, 32), torch.float32),
        "flow": ((4, 32, 32, 2), torch.float32),
        "boxes": ((4, 4), torch.float32),
        "fps": ((), torch.float32),
    }
    assert item["fps"] == 30
    assert 0 <= item["face"].min() < 0.2
    assert 0.5 < item["face"].max() <= 1

    sides = item["boxes"][:, 2:] - item["boxes"][:, :2]
    moved = item["boxes"][3] - item["boxes"][0]
    assert moved.tolist() == pytest.approx([3, 0, 3, 0], abs=1)
    crop_side = (sides.mean() + 4) * 1.4  # the steady box also holds four frames of motion
    motion = item["flow"][:, 8:24, 8:24].median(2).values.median(1).values
    assert motion.numpy() == pytest.approx(np.tile([32 / crop_side.item(), 0], (4, 1)), abs=0.05)


@pytest.mark.parametrize(
    ("confidence", "frame"),
    [([0.2, 0.7, 0, 0.9, 0], 1), ([0.1, 0.2, 0.4, 0.3, 0], 2)],
    ids=["the first that is detected", "the surest if none is"],
)
def test_which_frame_is_the_face(monkeypatch, confidence, frame):
    clip, boxes = speaking(5, 8.0), np.tile(np.float32([40, 40, 120, 120]), (5, 1))
    track = FaceTrack(boxes, np.float32(confidence))
    monkeypatch.setattr(flow_module, "track_face", lambda *_, **__: track)
    face = loader([clip])[0]["face"].permute(1, 2, 0).numpy() * 255
    crops = np.stack([crop_face(frame, boxes[0], 32) for frame in clip]).astype(float)
    assert abs(crops - face).mean(axis=(1, 2, 3)).argmin() == frame


def test_short_clips_end_in_rest_and_one_frame_is_too_few():
    item = loader([speaking(3)])[0]
    assert item["flow"].shape == (4, 32, 32, 2)
    assert item["flow"][:2].abs().amax((1, 2, 3)).min() > 0.1
    assert not item["flow"][2:].any()
    assert torch.equal(item["boxes"][2], item["boxes"][3])
    refused("fewer than 2 frames", lambda: loader([speaking(1)])[0])


def test_windows_with_a_stride():
    clip = speaking(15)
    windows = loader([clip, clip[:4]], stride=3)
    assert len(windows) == 4 + 1
    assert not torch.equal(windows[0]["boxes"], windows[1]["boxes"])
    middle = loader([clip])[0]
    assert middle["boxes"].numpy() == pytest.approx(
        (windows[1]["boxes"] + torch.tensor([2, 0, 2, 0])).numpy(), abs=1
    )


def test_indexing_iteration_batches_and_workers():
    items = loader([speaking(8), speaking(8, 2.0), speaking(8, 3.0)])
    assert len(items) == len(list(items)) == 3
    assert torch.equal(items[-1]["flow"], items[2]["flow"])
    assert torch.equal(items[1]["boxes"], loader([speaking(8, 2.0)])[0]["boxes"]), (
        "each clip has its own track"
    )
    with pytest.raises(IndexError):
        items[3]
    batches = list(items.batches(2))
    assert [tuple(batch["flow"].shape) for batch in batches] == [
        (2, 4, 32, 32, 2),
        (1, 4, 32, 32, 2),
    ]
    assert batches[0]["fps"].tolist() == [25, 25]
    for batch, other in zip(
        batches, DataLoader(items, batch_size=2, num_workers=2, timeout=600), strict=True
    ):
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_the_second_time_comes_from_the_cache(tmp_path, monkeypatch):
    clip = speaking(8)
    first = loader([clip], tmp_path)[0]
    assert len(files_in(tmp_path)) == 1
    monkeypatch.setattr(flow_module, "track_face", lambda *_, **__: pytest.fail("computed again"))
    again = loader([clip.copy()], tmp_path)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_content_or_setting_is_another_file(tmp_path):
    clip = speaking(8)
    changed = clip.copy()
    changed[3, 0, 0, 0] ^= 1
    for sources, settings in (
        ([clip], {}),
        ([changed], {}),
        ([clip], {"size": 40}),
        ([clip], {"frames": 5}),
        ([clip], {"preset": "fast"}),
        ([clip], {"stride": 4}),
        ([clip], {"fps": 30.0}),
    ):
        before = len(files_in(tmp_path))
        loader(sources, tmp_path, **settings)[0]
        assert len(files_in(tmp_path)) == before + 1


def test_a_damaged_or_old_cache_is_said_and_made_again(tmp_path, capsys):
    items = loader([speaking(8)], tmp_path)
    good, (path,) = items[0], files_in(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert torch.equal(items[0]["flow"], good["flow"])
    assert "is damaged; it is computed again" in capsys.readouterr().out
    assert path.read_bytes() == content

    tensors, _ = load_tensors(path)
    save_tensors(path, tensors, {"version": 0})
    assert torch.equal(items[0]["flow"], good["flow"])
    assert "is from another version; it is computed again" in capsys.readouterr().out
    assert items[0]["flow"].shape == good["flow"].shape
    assert not capsys.readouterr().out


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    words = "below cannot be written; choose another, or cache=False"
    refused(words, loader, [], tmp_path / "file" / "below", error=OSError)
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused("cannot be written", loader, [], tmp_path / "new", error=OSError)


def test_failures_leave_nothing_behind(tmp_path, monkeypatch):
    blank = np.full((5, 64, 64), 128, np.uint8)
    refused("no frontal face in 5 frames", lambda: loader([blank], tmp_path)[0])
    nowhere = loader([tmp_path / "nowhere.mp4"], tmp_path)
    refused("nowhere.mp4", lambda: nowhere[0], error=FileNotFoundError)
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    refused("No space left", lambda: loader([speaking(8)], tmp_path)[0], error=OSError)
    assert files_in(tmp_path) == []


def test_faceless_grey_and_transparent_clips():
    blank = np.full((6, 64, 64), 128, np.uint8)
    assert not loader([blank], on_missing="centre")[0]["flow"].any()
    clip = speaking(6)
    rgba = np.concatenate([clip, clip[..., :1]], axis=-1)
    assert torch.equal(loader([rgba])[0]["flow"], loader([clip])[0]["flow"])
    grey = loader([clip.mean(-1).astype(np.uint8)])[0]
    assert torch.equal(grey["face"][0], grey["face"][2])


@pytest.mark.skipif(not REAL, reason="COURSE_REAL_CLIPS is not set to a folder of real clips")
def test_real_speakers_move_their_mouths(tmp_path):
    paths = sorted(Path(REAL).glob("*.mpg"))
    for item in loader(paths, tmp_path, frames=16, size=112):
        assert item["fps"] == 25
        motion = item["flow"].norm(dim=-1).mean(0)
        mouth, forehead = motion[70:100, 40:72].mean(), motion[20:40, 40:72].mean()
        assert mouth > 1.5 * forehead
        assert item["flow"].abs().max() < 20
    assert len(files_in(tmp_path)) == len(paths)
