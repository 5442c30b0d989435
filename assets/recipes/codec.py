"""`codec`, for lesson 07: what a video codec costs the shipped model.

Unseen drawn clips are scored as they are drawn, and again after their frames were written as a
video file and read back. The face is the clip's still each time; the flow is estimated from the
frames.
"""

import tempfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from course_lib.data import ClipDataset, OpticalFlowComputer, read_clip
from course_lib.models import (
    DynamicFeatureExtractor,
    StaticFeatureExtractor,
    course_personality_model,
)
from course_lib.shapes import UInt8

__all__ = ["SETTINGS", "score_clips"]

CLIPS, BLOCK = 24, 8
SETTINGS = tuple({"first": first} for first in range(0, CLIPS, BLOCK))
FPS = 25
QUALITIES = {"mp4": "23", "mp4, few bits": "40"}  # H.264's constant rate factor


def through_codec(
    frames: UInt8[np.ndarray, "frames height width 3"], quality: str
) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames as they come out of an mp4 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        options = {"quality": None, "output_params": ["-crf", quality]}
        imageio.imwrite(path, frames, plugin="FFMPEG", fps=FPS, ffmpeg_log_level="error", **options)
        return np.stack(list(read_clip(path)))


def score_clips(first: int) -> list[dict]:
    """Of each clip of a block its labels, the best possible answer, and what the model answers."""
    static, dynamic = StaticFeatureExtractor().eval(), DynamicFeatureExtractor().eval()
    model, flow = course_personality_model(static, dynamic), OpticalFlowComputer("dis")
    clips = ClipDataset(CLIPS, "test", clips_per_speaker=1)
    labels, rows = clips.labels(), []
    for index in range(first, first + BLOCK):
        frames = clips.clip(index).frames
        versions = {"as drawn": frames} | {
            name: through_codec(frames, quality) for name, quality in QUALITIES.items()
        }
        flows = torch.stack([torch.from_numpy(flow(version)) for version in versions.values()])
        with torch.inference_mode():
            face = static.tokens(clips.face(index)[None]).expand(len(versions), -1, -1)
            answers = model(face, dynamic.tokens(flows))
        answers = dict(zip(versions, answers, strict=True))
        answers |= {"labels": labels["traits"][index], "ceiling": labels["expected"][index]}
        rounded = {name: [round(x, 4) for x in traits.tolist()] for name, traits in answers.items()}
        rows.append({"clip": index} | rounded)
    return rows
