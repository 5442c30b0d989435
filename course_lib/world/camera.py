"""What stands between a drawn face and its answer: the room behind it, light, occluders, blur,
noise, compression.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..shapes import UInt8
from .canvas import ellipse, to_fixed

__all__ = ["DIFFICULTIES", "Difficulty", "background", "named_difficulty", "photograph"]


@dataclass(frozen=True)
class Difficulty:
    """What stands between a face and its answer; each amount is 0 for a clean portrait."""

    turn: float = 0.0  # spread of yaw and pitch, face units of parallax
    roll: float = 0.0  # spread of the head's tilt, radians
    # image heights a face unit: a face is about two units tall
    scale: tuple[float, float] = (0.325, 0.325)
    shift: float = 0.0  # largest shift, image heights
    light: float = 0.0  # uneven light
    noise: float = 0.0  # largest sensor noise, grey levels
    blur: float = 0.0  # largest blur, px of a 112 px image
    contrast: float = 1.0  # smallest contrast
    occluder: float = 0.0  # share of faces with something in front
    jpeg: float = 0.0  # share of images saved at a low JPEG quality


DIFFICULTIES = {
    "clean": Difficulty(),
    "easy": Difficulty(0.05, 0.06, (0.30, 0.34), 0.02, 0.15, 4, 0, 1.0, 0, 0),
    "medium": Difficulty(0.09, 0.11, (0.23, 0.34), 0.08, 0.22, 10, 1.2, 0.7, 0.25, 0.2),
    "hard": Difficulty(0.13, 0.16, (0.18, 0.33), 0.14, 0.30, 18, 2.6, 0.45, 0.45, 0.4),
}


def named_difficulty(difficulty: str | Difficulty) -> Difficulty:
    """The difficulty of that name, or the one given. Raises ValueError for an unknown name."""
    if isinstance(difficulty, Difficulty):
        return difficulty
    if difficulty not in DIFFICULTIES:
        raise ValueError(
            f"unknown difficulty {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}"
        )
    return DIFFICULTIES[difficulty]


def background(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A muted, out-of-focus room: a few random tones, enlarged."""
    base, tint = rng.uniform(70, 205), rng.normal(0, 14, 3)
    rough = base + tint + rng.normal(0, 17, (4, 4, 1)) + rng.normal(0, 5, (4, 4, 3))
    return cv2.resize(
        rough.clip(10, 245).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC
    )


_NOISE = np.clip(np.random.default_rng(0).normal(0, 32, (1 << 20)), -127, 127).astype(np.int8)

_AXIS = np.linspace(-1, 1, 8, dtype=np.float32)


def photograph(
    image: UInt8[np.ndarray, "size size 3"], difficulty: Difficulty, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """What a camera adds: uneven light, something in front, blur, low contrast, noise, compression."""
    size, uniform, normal = image.shape[0], rng.random(16).tolist(), rng.standard_normal(5)
    if difficulty.light:
        right, down = difficulty.light * normal[:2].clip(-1.5, 1.5)
        light = (
            128
            * (1 + right * _AXIS[None, :, None] + down * _AXIS[:, None, None])
            * (1 + 0.04 * normal[2:])
        )
        light = cv2.resize(light.clip(30, 255).astype(np.uint8), (size, size))
        image = cv2.multiply(image, light, scale=1 / 128)
    if uniform[0] < difficulty.occluder:
        x, y, width, height = (
            uniform[1],
            uniform[2],
            0.06 + 0.14 * uniform[3],
            0.06 + 0.14 * uniform[4],
        )
        outline = (
            ellipse(x, y, width, height)
            if uniform[5] < 0.5
            else ellipse(x, y, 3 * width, 0.5 * height)[::5]
        )
        colour = [220 * channel for channel in uniform[6:9]]
        painted = cv2.fillPoly(image.copy(), [to_fixed(outline * size)], colour, cv2.LINE_AA, 4)
        image = cv2.addWeighted(painted, 0.9, image, 0.1, 0)
    if uniform[9] * difficulty.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), uniform[9] * difficulty.blur * size / 112)
    if difficulty.contrast < 1:
        gain = 1 - (1 - difficulty.contrast) * uniform[10]
        image = cv2.convertScaleAbs(image, alpha=gain, beta=(1 - gain) * (60 + 100 * uniform[11]))
    if difficulty.noise:
        start = int(uniform[12] * (_NOISE.size - image.size)) if image.size < _NOISE.size else 0
        grain = np.resize(_NOISE[start : start + image.size], image.shape)
        image = cv2.addWeighted(
            image, 1, grain, uniform[13] * difficulty.noise / 32, 0, dtype=cv2.CV_8U
        )
    if uniform[14] < difficulty.jpeg:
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(25 + 50 * uniform[15]))
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image
