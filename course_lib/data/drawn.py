"""The drawn world as data sets: faces with attributes, clips with traits, faces with the layers of
their parts.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..shapes import Float, UInt8
from ..world.camera import Difficulty, background, named_difficulty, photograph
from ..world.clips import RenderedClip, draw_still, render_clip, trait_labels
from ..world.faces import Portrait, draw_face, item_seed
from ..world.layers import CLOSE, PARTS, SEEN, PartPortrait, draw_parts, dressed
from ..world.population import ATTRIBUTES, sample_attributes, sample_tone
from ..world.stories import (
    Story,
    expected_traits,
    make_speaker,
    tell_story,
)
from .flow import OpticalFlowComputer

__all__ = [
    "ClipDataset",
    "FaceDataset",
    "Layers",
    "PartDataset",
    "hard_faces",
    "to_image",
]


def to_image(picture: UInt8[np.ndarray, "height width 3"]) -> Float[torch.Tensor, "3 height width"]:
    """An 8-bit RGB picture as the course's images are: channels first, in [0, 1]."""
    return torch.from_numpy(
        np.divide(np.ascontiguousarray(picture.transpose(2, 0, 1)), 255, dtype=np.float32)
    )


class FaceDataset(Dataset):
    """`n` drawn faces by index, the same in every process: dicts of `image`, `target`, `regions`;
    more is known.

    `image` float32 `3 size size` in [0, 1]; `target` float32 `attributes` in {0, 1}; `regions` bool
    `attributes size size` (left out with `regions=False`); `expression` and `pose` float32 `6`, as
    in `Expression` and `Pose`; `tone` 0 light to 1 dark; `person` int. With `images_per_person` > 1
    consecutive items show one person, whose expression, light and pose differ. `label_noise` flips
    that share of the labels, not of what is drawn. Derived in lesson 00.
    """

    names = ATTRIBUTES  # of the columns of `target`

    def __init__(
        self,
        n: int,
        split: str = "train",
        seed: int = 0,
        difficulty: str | Difficulty = "medium",
        size: int = 112,
        images_per_person: int = 1,
        label_noise: float = 0.0,
        regions: bool = True,
    ):
        item_seed(seed, split, 0)
        self.n, self.split, self.seed, self.size = n, split, seed, size
        self.difficulty = named_difficulty(difficulty)
        self.images_per_person, self.label_noise, self.regions = (
            images_per_person,
            label_noise,
            regions,
        )

    def __len__(self) -> int:
        return self.n

    def person(self, index: int) -> tuple[int, float, frozenset[str]]:
        """Seed, skin tone and attributes of item `index`, without drawing it."""
        if not 0 <= index < self.n:
            raise IndexError(f"item {index} of a data set of {self.n}; ask for 0 to {self.n - 1}")
        person, picture = divmod(index, self.images_per_person)
        seed = item_seed(self.seed, self.split, person)
        rng = np.random.Generator(np.random.SFC64((seed, 2)))
        tone = sample_tone(rng)
        attributes = sample_attributes(rng, tone)
        if picture:  # another picture, another mood
            mood = np.random.Generator(np.random.SFC64((seed, 3, picture)))
            for name, rate in (("Smiling", 0.48), ("Mouth_Slightly_Open", 0.48)):
                attributes = attributes | {name} if mood.random() < rate else attributes - {name}
        return seed, tone, attributes

    def target(self, index: int) -> Float[torch.Tensor, " attributes"]:
        """The labels of item `index` without drawing it: what frequencies are counted from."""
        seed, _, attributes = self.person(index)
        return torch.from_numpy(self._labels(index, seed, attributes))

    def _labels(
        self, index: int, seed: int, attributes: frozenset[str]
    ) -> Float[np.ndarray, " attributes"]:
        target = np.array([name in attributes for name in ATTRIBUTES])
        if self.label_noise:
            noise = np.random.Generator(np.random.SFC64((seed, 4, index % self.images_per_person)))
            target ^= noise.random(len(ATTRIBUTES)) < self.label_noise
        return target.astype(np.float32)

    def clear_twin(self, index: int, size: int = 420) -> Portrait:
        """The clear twin of item `index`: the same person, pose and expression, in front of the same
        room, with nothing between them and the camera. The explorer shows it.
        """
        seed, tone, attributes = self.person(index)
        same = {"tone": tone, "picture": index % self.images_per_person}
        seen = draw_face(attributes, seed, 32, self.difficulty, regions=False, **same)
        pose, expression = seen.pose, seen.expression
        return draw_face(attributes, seed, size, "clean", pose=pose, expression=expression, **same)

    def __getitem__(self, index: int) -> dict:
        seed, tone, attributes = self.person(index)
        portrait = draw_face(
            attributes,
            seed,
            self.size,
            self.difficulty,
            tone=tone,
            picture=index % self.images_per_person,
            regions=self.regions,
        )
        item = {
            "image": to_image(portrait.image),
            "target": torch.from_numpy(self._labels(index, seed, attributes)),
            "expression": torch.tensor(portrait.expression, dtype=torch.float32),
            "pose": torch.tensor(portrait.pose, dtype=torch.float32),
            "tone": tone,
            "person": index // self.images_per_person,
        }
        return item | ({"regions": torch.from_numpy(portrait.regions)} if self.regions else {})


def hard_faces(
    part: str, n: int, regions: bool = False, size: int = 56, seed: int = 0
) -> FaceDataset:
    """Faces, 56 px unless `size` says otherwise, whose place, size and turn differ: where things
    usually are is not where they are. Another `seed` draws other people. Used in lesson 11.
    """
    return FaceDataset(n, part, seed, difficulty="hard", size=size, regions=regions)


class ClipDataset(torch.utils.data.Dataset):
    """`n` drawn clips by index: dicts of `face`, `flow`, `traits` and the truth about them.

    `face` float32 `3 size size`, the speaker's still; `flow` float32 `frames size size 2` px per
    frame, what `method` ("dis", "farneback") estimates from the frames, or the exact flow for
    "true"; `traits` float32 `5`; `true_flow`; `occluded` bool `frames size size`; `moment` and
    `cue` int; `region` bool `5 size size`; `speaker` int. Speakers come in `clips_per_speaker`
    clips each and never in two splits. Used in lessons 00, 02, 03, 06 and 10.
    """

    def __init__(
        self,
        n: int,
        split: str = "train",
        seed: int = 0,
        size: int = 112,
        moments: int = 8,
        clips_per_speaker: int = 4,
        method: str = "dis",
    ):
        item_seed(seed, split, 0)
        self.n, self.split, self.seed, self.size, self.moments = n, split, seed, size, moments
        self.clips_per_speaker = clips_per_speaker
        self.estimate = None if method == "true" else OpticalFlowComputer(method)

    def __len__(self) -> int:
        return self.n

    def seeds(self, index: int) -> tuple[int, int]:
        """The clip's seed and its speaker's."""
        if not 0 <= index < self.n:
            raise IndexError(f"clip {index} of a data set of {self.n}; ask for 0 to {self.n - 1}")
        return tuple(
            item_seed(self.seed, self.split, i) for i in (index, index // self.clips_per_speaker)
        )

    def story(self, index: int) -> Story:
        """What happens in clip `index`, without drawing it."""
        return tell_story(
            np.random.Generator(np.random.SFC64((self.seeds(index)[0], 7))), self.moments
        )

    def labels(self) -> dict[str, torch.Tensor]:
        """Of all clips, without drawing them: `traits` and `expected` (`n 5`), `speaker`, `moment`
        and `cue` (`n`).

        `expected` is the conditional mean of the traits given all that happens on screen: the
        ceiling.
        """
        stories = [self.story(i) for i in range(self.n)]
        speakers = [
            make_speaker(self.seeds(i)[1]) for i in range(0, self.n, self.clips_per_speaker)
        ]
        traits = [
            trait_labels(self.seeds(i)[0], story, speakers[i // self.clips_per_speaker])
            for i, story in enumerate(stories)
        ]
        return {
            "traits": torch.tensor(np.array(traits), dtype=torch.float32),
            "expected": torch.tensor(
                np.array([expected_traits(story) for story in stories]), dtype=torch.float32
            ),
            "speaker": torch.arange(self.n) // self.clips_per_speaker,
            "moment": torch.tensor([story.moment for story in stories]),
            "cue": torch.tensor([story.cue for story in stories]),
        }

    def clip(self, index: int) -> RenderedClip:
        """Clip `index` with its frames."""
        seed, speaker = self.seeds(index)
        return render_clip(seed, self.size, self.moments, speaker)

    def face(self, index: int) -> Float[torch.Tensor, "3 size size"]:
        """The still of clip `index`: its speaker looks in the direction of the cue and holds the
        five movements.
        """
        seed, speaker_seed = self.seeds(index)
        return to_image(
            draw_still(make_speaker(speaker_seed), self.story(index), seed, self.size).image
        )

    def __getitem__(self, index: int) -> dict:
        return self.item_of(index, self.clip(index))

    def item_of(self, index: int, clip: RenderedClip) -> dict:
        """Item `index`, from its clip as `clip(index)` rendered it."""
        true_flow = torch.from_numpy(clip.flow)
        flow = torch.from_numpy(self.estimate(clip.frames)) if self.estimate else true_flow
        return {
            "face": self.face(index),
            "flow": flow,
            "traits": torch.tensor(clip.traits, dtype=torch.float32),
            "true_flow": true_flow,
            "occluded": torch.from_numpy(clip.occluded),
            "moment": clip.story.moment,
            "cue": clip.story.cue,
            "region": torch.from_numpy(clip.region),
            "speaker": index // self.clips_per_speaker,
        }


Layers = Float[Tensor, "batch parts height width"]  # how much of each pixel a part covers, 0 to 1


class PartDataset(Dataset):
    """`n` drawn faces by index, taken apart: dicts of `image`, `layers` and `present`.

    `image` float32 `3 size size` and `layers` float32 `parts size size`, both in [0, 1]; `present`
    bool `parts`: at least eight pixels show more than half of the part. Glasses, hats and beards
    are more common than in CelebA, so that there is something to learn from; a share `faceless` of
    the images shows an empty room. Derived in lesson 13.
    """

    def __init__(
        self,
        n: int,
        split: str = "train",
        seed: int = 0,
        difficulty: str | Difficulty = CLOSE,
        size: int = 64,
        faceless: float = 0.0,
    ):
        item_seed(seed, split, 0)
        self.n, self.split, self.seed, self.size = n, split, seed, size
        self.difficulty, self.faceless = named_difficulty(difficulty), faceless

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.n:
            raise IndexError(f"item {index} of a data set of {self.n}; ask for 0 to {self.n - 1}")
        seed = item_seed(self.seed, self.split, index)
        rng = np.random.Generator(np.random.SFC64((seed, 5)))
        if rng.random() < self.faceless:
            room = photograph(
                background(rng, self.size), replace(self.difficulty, occluder=0.5), rng
            )
            portrait = PartPortrait(room, np.zeros((len(PARTS), self.size, self.size), np.uint8))
        else:
            tone = sample_tone(rng)
            portrait = draw_parts(
                dressed(sample_attributes(rng, tone), rng),
                seed,
                self.size,
                self.difficulty,
                tone=tone,
            )
        layers = torch.from_numpy(portrait.layers) / 255
        return {
            "image": to_image(portrait.image),
            "layers": layers,
            "present": (layers > 0.5).flatten(1).sum(1) >= SEEN,
        }
