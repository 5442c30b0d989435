"""The rows of lesson 13: one of two people drawn in twenty steps, and what recording all attention
costs.
"""

import torch
from bench_tools import row, seconds

from course_lib.data import PartDataset
from course_lib.models import PartPipeline, VisualizableCrossAttention, course_part_transformer
from course_lib.recorder import AttentionRecorder

ALLOWED = 0.5  # seconds for a pair


def bench_parts() -> None:
    """Sampling beside the time allowed; beside it, attention kept by the modules themselves and by
    the recorder.
    """
    image = torch.cat([PartDataset(2, "test")[k]["image"] for k in range(2)], -1)
    pipeline = PartPipeline(course_part_transformer())
    own = [
        module for module in pipeline.modules() if isinstance(module, VisualizableCrossAttention)
    ]

    def keep(step: int, time: float, latents: torch.Tensor) -> None:
        kept.append([module.last_attn_weights for module in own])

    def kept_by_modules() -> None:
        for module in own:
            module.record = True
        pipeline(image, callback=keep)
        for module in own:
            module.record = False

    def recorded() -> None:
        with AttentionRecorder(pipeline.model) as recording:
            pipeline(image)
        bytes_held.append(sum(record.bytes for record in recording.records))

    kept, bytes_held = [], []
    plain, by_modules, by_recorder = seconds(
        lambda: pipeline(image), kept_by_modules, recorded, rounds=7
    )
    row(
        "one of two people in twenty steps",
        f"{1000 * plain:.0f} ms",
        f"{1000 * ALLOWED:.0f} ms allowed",
        plain / ALLOWED,
        "≤ 1",
    )
    row(
        f"its attention, {bytes_held[-1] / 1e6:.0f} MB, kept by the modules",
        f"{1000 * by_modules:.0f} ms",
        f"{1000 * plain:.0f} ms without",
        by_modules / plain,
        "≤ 1.5",
    )
    row(
        "the same by the recorder, which sees every operator",
        f"{1000 * by_recorder:.0f} ms",
        f"{1000 * plain:.0f} ms without",
        by_recorder / plain,
    )
