"""How a story is acted: the expression and pose of the speaker, frame by frame."""

from typing import NamedTuple

import numpy as np

from ..shapes import Float
from .anatomy import Expression
from .faces import Pose
from .stories import FRAMES_PER_MOMENT, Story

__all__ = ["DART", "Motion", "animate"]

_ENVELOPE = np.array((0, 0.55, 1, 0.55))  # out and back within a moment

DART = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)], float)


class Motion(NamedTuple):
    """The state of face, head and body at each of the T + 1 frames."""

    expressions: list[Expression]
    poses: list[Pose]
    bodies: list[Pose]


def animate(story: Story, rng: np.random.Generator) -> Motion:
    """Movements of the story on top of slow random sway and a blink or two between moments."""
    count = len(story.darts) * FRAMES_PER_MOMENT + 1
    movement = np.zeros((count, 5))
    movement[:-1] = (_ENVELOPE[None, :, None] * story.sizes[:, None, :]).reshape(-1, 5)
    gaze = np.zeros((count, 2))
    gaze[:-1] = (_ENVELOPE[None, :, None] * DART[story.darts][:, None, :]).reshape(-1, 2)
    lid = np.zeros(count)
    for moment in rng.integers(1, max(2, len(story.darts)), 2):
        lid[moment * FRAMES_PER_MOMENT] = rng.uniform(0.5, 1)
    brow, lean, opening, smile, tilt = movement.T
    sway = {
        name: amount * _slow_noise(rng, count)
        for name, amount in (
            ("yaw", 0.055),
            ("pitch", 0.04),
            ("roll", 0.03),
            ("scale", 0.003),
            ("x", 0.010),
            ("y", 0.009),
            ("body", 0.008),
        )
    }
    expressions = [
        Expression(*row) for row in np.stack([brow, smile, opening, *gaze.T, lid], 1).tolist()
    ]
    poses = [
        Pose(*row)
        for row in np.stack(
            [
                sway["yaw"],
                sway["pitch"],
                sway["roll"] + 0.10 * tilt,
                0.325 + sway["scale"] + 0.03 * lean,
                0.5 + sway["x"],
                0.53 + sway["y"],
            ],
            1,
        ).tolist()
    ]
    bodies = [
        Pose(
            0,
            0,
            0.2 * pose.roll,
            0.325 + 0.3 * (pose.scale - 0.325),
            0.5 + sway["body"][t],
            0.53 + 0.3 * sway["y"][t],
        )
        for t, pose in enumerate(poses)
    ]
    return Motion(expressions, poses, bodies)


def _slow_noise(
    rng: np.random.Generator, count: int, width: int = 6
) -> Float[np.ndarray, "frames"]:  # noqa: F821
    kernel = np.exp(-0.5 * (np.arange(-3 * width, 3 * width + 1) / width) ** 2)
    return np.convolve(
        rng.standard_normal(count + 6 * width), kernel / np.linalg.norm(kernel), "valid"
    )[:count]
