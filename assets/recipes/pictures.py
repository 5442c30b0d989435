"""`pictures`: the README's, drawn again."""

from pathlib import Path

import numpy as np
from PIL import Image

from course_lib import files
from course_lib.data import FaceDataset
from course_lib.pictures import flow_colours, plot_pipeline, to_picture
from course_lib.pictures.base import dark, drawn
from course_lib.world import render_clip

__all__ = ["write_pictures"]


def write_pictures(folder: Path) -> None:
    """The pipeline for both themes, and the world: two rows of people, a clip and its flow."""
    pipeline = plot_pipeline()
    pipeline.save(folder / "pipeline.png", dpi=192)  # for sharp screens
    with files.atomic(folder / "pipeline-dark.png") as temporary:
        Image.fromarray(dark(*drawn(pipeline.figure))).save(temporary)
    faces, clip = FaceDataset(16, "train", 5, "easy", 160, regions=False), render_clip(11, 160)
    shown = range(1, 32, 4)
    rows = [
        [to_picture(faces[i]["image"]) for i in range(8)],
        [to_picture(faces[i]["image"]) for i in range(8, 16)],
        [clip.frames[t] for t in shown],
        [flow_colours(clip.flow[t], 5) for t in shown],
    ]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    with files.atomic(folder / "world.jpg") as temporary:
        Image.fromarray(sheet).save(temporary, quality=88)
