"""What the drawn world and the data sets refuse, and that the sentence names the value and a remedy."""

import math

import numpy as np
import pytest
import torch
from refusals import each, refused

from course_lib.data import (
    BalancedSampler,
    ClipDataset,
    CurriculumSampler,
    EnrichedFaces,
    FaceDataset,
    FaceTrack,
    OpticalFlowComputer,
    OpticalFlowSequenceLoader,
    PartDataset,
    clip_and_scale,
    crop_face,
    easiest_weights,
    effective_numbers,
    end_point_error,
    face_windows,
    faces_to_draw,
    rarest_weights,
    resize_flow,
    to_rgb,
    track_face,
    warp,
)
from course_lib.world import draw_face, draw_parts, part_index, render_clip

PICTURE = np.zeros((40, 40, 3), np.uint8)
FLOW = np.zeros((1, 3, 2))
LABELS = torch.eye(4)[[0, 1, 2, 3, 3]]
FACES = FaceDataset(4, size=32, regions=False)
TRACK = FaceTrack(np.tile(np.float32([0, 0, 9, 9]), (20, 1)), np.ones(20, np.float32))

WORLD = {
    "'Smilling' … did you mean 'Smiling'": lambda: draw_face({"Smilling"}, 0),
    "Bald and Bangs contradict": lambda: draw_face({"Bald", "Bangs"}, 0),
    "Black_Hair … contradict": lambda: draw_face({"Black_Hair", "Blond_Hair"}, 0),
    "Goatee and No_Beard contradict": lambda: draw_face({"Goatee", "No_Beard"}, 0),
    "Gray_Hair and Young contradict": lambda: draw_face({"Gray_Hair", "Young"}, 0),
    "at least 32 px": lambda: draw_face((), 0, size=16),
    "seed … whole number … 1.5": lambda: draw_face((), 1.5),
    "seed … whole number … -1": lambda: draw_face((), -1),
    "seed … whole number … True": lambda: draw_face((), True),
    "unknown difficulty 'insane'": lambda: draw_face((), 0, difficulty="insane"),
    "unknown attribute 'Monocle'": lambda: draw_parts({"Monocle"}, 0),
    "seed must be a whole number": lambda: draw_parts({"Young"}, -1),
    "size must be at least 32": lambda: draw_parts({"Young"}, 0, 16),
    "unknown part 'noze'; did you mean 'nose'": lambda: part_index("noze"),
    "seed … 0.5": lambda: render_clip(0.5),
    "at least 32": lambda: render_clip(0, size=20),
    "has no frames": lambda: render_clip(0, moments=0),
}
DATA_SETS = {
    "unknown split 'tset'": lambda: FaceDataset(3, "tset"),
    "unknown split 'training'": lambda: PartDataset(3, "training"),
    "unknown difficulty 'brutal'": lambda: PartDataset(3, difficulty="brutal"),
    "unknown split 'tests'": lambda: ClipDataset(2, "tests"),
    "optical": lambda: ClipDataset(2, method="optical"),
}
FLOWS = {
    "method='lucas' … 'dis', 'farneback' or 'raft'": lambda: OpticalFlowComputer("lucas"),
    "preset='slow'": lambda: OpticalFlowComputer(preset="slow"),
    "(40, 40) and (20, 40) pixels do not pair": lambda: OpticalFlowComputer().between(
        PICTURE, PICTURE[:20]
    ),
    "at least 16 pixels": lambda: OpticalFlowComputer().between(PICTURE[:15], PICTURE[:15]),
    "fewer than 2 frames": lambda: OpticalFlowComputer()(PICTURE[None]),
    "(20, 40) pixels does not fit a flow of (40, 40)": lambda: warp(
        PICTURE[:20], np.zeros((40, 40, 2))
    ),
    "valid is False everywhere": lambda: end_point_error(FLOW, FLOW, np.zeros((1, 3), bool)),
    "estimate (1, 3, 2), truth (1, 2, 2)": lambda: end_point_error(FLOW, FLOW[:, :2]),
    "frames=0 … do not make a window": lambda: OpticalFlowSequenceLoader([], frames=0),
    "size=8 … do not make a window": lambda: OpticalFlowSequenceLoader([], size=8),
    "stride=0 … do not make a window": lambda: OpticalFlowSequenceLoader([], stride=0),
}
VIDEOS = {
    "(3, 8, 8)": lambda: to_rgb(np.zeros((3, 8, 8), np.uint8)),
    "(5,)": lambda: to_rgb(np.zeros(5, np.uint8)),
    "(0, 8, 1)": lambda: to_rgb(np.zeros((0, 8), np.uint8)),
    "int64": lambda: to_rgb(np.zeros((8, 8), np.int64)),
    "a picture of … 2": lambda: to_rgb(np.full((8, 8), 2.0)),
    "a picture of … nan": lambda: to_rgb(np.full((8, 8), np.nan)),
    "0 frames": lambda: track_face([]),
    "on_missing='center'": lambda: track_face([PICTURE], on_missing="center"),
    "no frontal face in 1 frames; use": lambda: track_face([PICTURE]),
} | {
    f"{box} … has no area; give x0 y0 x1 y1": lambda box=box: crop_face(PICTURE, box)
    for box in (
        [5.0, 5.0, 5.0, 9.0],
        [9.0, 5.0, 5.0, 9.0],
        [0.0, 0.0, math.nan, 4.0],
        [1.0, 2.0, 3.0],
    )
}
VIDEOS |= {
    f"{starts} … ascend within the clip's 20 frames": lambda starts=starts: next(
        face_windows(PICTURE[None].repeat(20, 0), TRACK, starts)
    )
    for starts in ([0, 20], [-1], [4, 2], [3, 3])
}
SAMPLERS = {
    "(images, attributes) of 0 and 1": lambda: rarest_weights(LABELS * 2 - 1),
    "targets of shape (5,)": lambda: rarest_weights(torch.rand(5)),
    "shape (4,); expected one finite number from 0 on": lambda: BalancedSampler(torch.zeros(4)),
    "not all 0": lambda: BalancedSampler(torch.tensor([1, -1.0])),
    "see rarest_weights": lambda: BalancedSampler(torch.tensor([1, math.nan])),
    "epochs is 1; expected at least 2": lambda: CurriculumSampler(torch.ones(4), 1),
    "the names ['Beard']": lambda: EnrichedFaces(FACES, ["Beard"], 0.1),
    "one or more of ATTRIBUTES": lambda: EnrichedFaces(FACES, [], 0.1),
    "share is 1.0; expected 0 to under 1": lambda: EnrichedFaces(FACES, ["Bald"], 1.0),
    "images_per_person=2; expected 1": lambda: EnrichedFaces(
        FaceDataset(4, images_per_person=2), ["Bald"], 0.1
    ),
    "beta is 1.0; expected 0 ≤ beta < 1": lambda: effective_numbers(torch.tensor([3]), 1.0),
    "beta is -0.1": lambda: effective_numbers(torch.tensor([3]), -0.1),
    "share is 0.0; expected more than 0": lambda: easiest_weights(torch.rand(4), 0.0),
    "share is 1.5 … at most 1": lambda: easiest_weights(torch.rand(4), 1.5),
    "share is 0.5 for 2 attributes; expected less than 1 / 2": lambda: faces_to_draw(
        torch.tensor([1, 2]), 10, 0.5
    ),
    "share is -0.1": lambda: faces_to_draw(torch.tensor([1, 2]), 10, -0.1),
}


@each(WORLD | DATA_SETS | FLOWS | VIDEOS | SAMPLERS)
def test_one_sentence_names_what_is_wrong(words, call):
    refused(words, call)


@pytest.mark.parametrize("data", [FACES, PartDataset(4), ClipDataset(4)])
def test_the_end_of_a_data_set_is_an_end(data):
    refused("4 of a data set of 4", lambda: data[4], error=IndexError)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_flow_that_is_not_finite_is_refused(bad):
    flow = np.zeros((4, 5, 2), np.float32)
    flow[2, 3, 0] = bad
    for use in (
        clip_and_scale,
        lambda flow: clip_and_scale(torch.from_numpy(flow)),
        lambda flow: resize_flow(flow, 2, 2),
        lambda flow: warp(np.zeros((4, 5)), flow),
        lambda flow: end_point_error(flow, np.zeros_like(flow)),
    ):
        refused("not finite", use, flow)
