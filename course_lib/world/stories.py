"""What happens in a drawn clip, and what it means: the rule behind the labels, known before a pixel
is drawn.

The rule (all of it made up, nothing of it psychology). A clip has eight moments of four frames. In
each moment the eyes dart in one of four directions and come back, while five other movements
happen, each of a size of its own. The speaker's still looks in one of the four directions: it is
the *cue*. Exactly one moment's dart matches the cue, and the sizes at that moment decide the five
traits. The same darts and movements happen at all other moments, so an average over time knows
nothing: cue and moment must be bound. Derived in lessons 00 and 07.
"""

from typing import NamedTuple

import numpy as np

from ..shapes import Float, Int
from .population import sample_attributes, sample_tone

__all__ = [
    "DIRECTIONS",
    "FRAMES_PER_MOMENT",
    "MOVEMENTS",
    "TRAITS",
    "Speaker",
    "Story",
    "expected_traits",
    "make_speaker",
    "noisy_traits",
    "tell_story",
]

TRAITS = ("Openness", "Conscientiousness", "Extraversion", "Agreeableness", "Neuroticism")

# one a trait, in order
MOVEMENTS = ("brows rise", "head leans in", "mouth opens", "smile", "head tilts")

DIRECTIONS = ("right", "left", "down", "up")

FRAMES_PER_MOMENT = 4

_MOMENT_SHARE, _STILL_SHARE = 0.7, 0.3  # of the trait's mean: from the moment, from the still

_RANGE = 0.7  # traits lie around 0.5, the mean within 0.15 to 0.85

_SPREAD = _RANGE * np.sqrt((_MOMENT_SHARE**2 + _STILL_SHARE**2) / 12)

_NOISE, _SPEAKER = 0.25 * _SPREAD, 0.20 * _SPREAD  # unexplained: of the clip, and of the speaker


class Story(NamedTuple):
    """What happens in a clip, known before a pixel is drawn."""

    cue: int  # where the still looks: index into DIRECTIONS
    darts: Int[np.ndarray, "moments"]  # noqa: F821     # where the eyes dart
    sizes: Float[np.ndarray, "moments 5"]  # of the five movements, 0 to 1
    still: Float[np.ndarray, "5"]  # the same movements, held in the still
    moment: int  # the one moment whose dart matches the cue


class Speaker(NamedTuple):
    """A person who appears in clips, and the part of the label that is theirs and that nothing on
    screen tells.
    """

    attributes: frozenset[str]
    tone: float
    seed: int
    offset: Float[np.ndarray, "5"]


def make_speaker(seed: int) -> Speaker:
    """Speaker `seed`: no glasses or narrow eyes, so that gaze can be read."""
    rng = np.random.Generator(np.random.SFC64((seed, 5)))
    tone = sample_tone(rng)
    attributes = sample_attributes(rng, tone) - {
        "Eyeglasses",
        "Narrow_Eyes",
        "Smiling",
        "Mouth_Slightly_Open",
    }
    return Speaker(attributes, tone, seed, _SPEAKER * rng.standard_normal(5))


def tell_story(rng: np.random.Generator, moments: int = 8) -> Story:
    """Draw a story: one moment matches the cue, the darts of the others are any of the other three
    directions.
    """
    cue, moment = int(rng.integers(4)), int(rng.integers(moments))
    darts = (cue + rng.integers(1, 4, moments)) % 4
    darts[moment] = cue
    return Story(cue, darts, rng.random((moments, 5)), rng.random(5), moment)


def expected_traits(story: Story) -> Float[np.ndarray, "5"]:
    """The traits without their noise: the best that anyone who sees everything can say about a new
    speaker.
    """
    movement = _MOMENT_SHARE * story.sizes[story.moment] + _STILL_SHARE * story.still
    return 0.5 + _RANGE * (movement - 0.5)


def noisy_traits(
    story: Story, speaker: Speaker, rng: np.random.Generator
) -> Float[np.ndarray, "5"]:
    """The labels: expected traits, the speaker's offset and noise (0.20 and 0.25 of the spread),
    within [0, 1].
    """
    return np.clip(expected_traits(story) + speaker.offset + _NOISE * rng.standard_normal(5), 0, 1)
