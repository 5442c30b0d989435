"""Which images an epoch shows: rare attributes more often, first the easy ones, or faces drawn for
the purpose.

Images are weighed by what is known of their targets, `images attributes`. Order and choice depend
on the seed and the epoch alone, so that a run can be resumed: `set_epoch` says which epoch begins
(accelerate calls it by itself).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..shapes import Float, Int
from ..world.faces import item_seed
from ..world.population import ATTRIBUTES, sample_attributes, sample_tone
from .drawn import FaceDataset

__all__ = [
    "BalancedSampler",
    "CurriculumSampler",
    "EnrichedFaces",
    "all_targets",
    "easiest_weights",
    "effective_numbers",
    "faces_to_draw",
    "rarest_weights",
]


def all_targets(faces: torch.utils.data.Dataset) -> Float[Tensor, "images attributes"]:
    """The targets of every item of a `FaceDataset` or `CelebA`, without an image: `.mean(0)` gives
    the frequencies.
    """
    return torch.stack(
        [faces.target(index) for index in tqdm(range(len(faces)), "targets", mininterval=5)]
    )


def rarest_weights(targets: Tensor) -> Float[Tensor, " images"]:
    """How often to draw each image: inversely to the frequency of the rarest attribute that it has.
    They sum to 1.

    An image with no attribute counts as often as one whose rarest attribute everybody has. Derived
    in lesson 08.
    """
    targets = _labels(targets)
    weights = torch.where(targets > 0, 1 / targets.mean(0), 1).amax(1)
    return weights / weights.sum()


class BalancedSampler(torch.utils.data.Sampler[int]):
    """Images in proportion to their weights, with replacement: `draws` an epoch, by default as many
    as there are.

    The same image comes again and again where its weight is large: with few positives a model can
    learn them by heart. Raises ValueError for weights that are negative, not finite, or all 0.
    """

    def __init__(self, weights: Tensor, draws: int | None = None, seed: int = 0):
        if (
            weights.ndim != 1
            or not (weights.isfinite() & (weights >= 0)).all()
            or not weights.any()
        ):
            raise ValueError(
                f"weights of shape {tuple(weights.shape)}; expected one finite number from 0 on for"
                " each image, not all 0: see rarest_weights"
            )
        self.weights, self.seed, self.epoch = weights.double() / weights.double().sum(), seed, 0
        self.draws = len(weights) if draws is None else draws

    def __len__(self) -> int:
        return self.draws

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 0."""
        self.epoch = epoch

    def weights_now(self) -> Float[Tensor, " images"]:
        """The share of this epoch's draws that each image gets on average."""
        return self.weights

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.multinomial(
            self.weights_now(), len(self), replacement=True, generator=generator
        ).tolist()


class CurriculumSampler(BalancedSampler):
    """Begin with the given weights (balanced ones, or large where an image is easy), end with every
    image alike.

    The weights move in equal steps and reach the natural distribution in the last of `epochs`.
    Bengio et al., "Curriculum learning" (2009).
    """

    def __init__(self, weights: Tensor, epochs: int, draws: int | None = None, seed: int = 0):
        super().__init__(weights, draws, seed)
        if epochs < 2:
            raise ValueError(
                f"epochs is {epochs}; expected at least 2, one to begin with and one to end with"
            )
        self.epochs = epochs

    def weights_now(self) -> Float[Tensor, " images"]:
        natural = min(self.epoch / (self.epochs - 1), 1)
        return (1 - natural) * self.weights + natural / len(self.weights)


class EnrichedFaces(FaceDataset):
    """All items of `natural`, then faces drawn to have a rare attribute, until those are `share` of
    all.

    The drawn ones take turns with the attributes of `names`. Each is a random person of the
    population, drawn again until it has its attribute, so whatever goes with baldness goes with it
    here too. Raises ValueError for unknown names, a share that is not from 0 to under 1, and a data
    set with several images a person. Used in lesson 14.
    """

    def __init__(self, natural: FaceDataset, names: Sequence[str], share: float):
        if not names or not set(names) <= set(ATTRIBUTES):
            raise ValueError(
                f"cannot draw faces for the names {names!r}; expected one or more of ATTRIBUTES,"
                " such as ['Bald']"
            )
        if not 0 <= share < 1:
            raise ValueError(
                f"share is {share}; expected 0 to under 1, the part of the items that are drawn"
                " extra"
            )
        if natural.images_per_person != 1:
            raise ValueError(
                f"the data set has images_per_person={natural.images_per_person}; expected 1"
            )
        super().__init__(
            round(len(natural) / (1 - share)),
            natural.split,
            natural.seed,
            natural.difficulty,
            natural.size,
            1,
            natural.label_noise,
            natural.regions,
        )
        self.natural, self.names, self._people = natural, tuple(names), {}

    def person(self, index: int) -> tuple[int, float, frozenset[str]]:
        """Seed, skin tone and attributes of item `index`, without drawing it."""
        if not len(self.natural) <= index < self.n:
            return super().person(index)
        if index not in self._people:  # rejection takes 1 / frequency tries: remember the outcome
            name = self.names[(index - len(self.natural)) % len(self.names)]
            seed = item_seed(self.seed, self.split, index)
            rng, attributes = np.random.Generator(np.random.SFC64((seed, 5))), frozenset()
            while name not in attributes:
                tone = sample_tone(rng)
                attributes = sample_attributes(rng, tone)
            self._people[index] = seed, tone, attributes
        return self._people[index]

    def __getitem__(self, index: int) -> dict:
        return self.natural[index] if 0 <= index < len(self.natural) else super().__getitem__(index)


def _labels(targets: Tensor) -> Float[Tensor, "images attributes"]:
    if targets.ndim != 2 or not len(targets) or not ((targets == 0) | (targets == 1)).all():
        raise ValueError(
            f"targets of shape {tuple(targets.shape)}; expected (images, attributes) of 0 and 1, as"
            " all_targets gives them"
        )
    return targets.double()


def effective_numbers(counts: Tensor, beta: float) -> Float[Tensor, "*classes"]:
    """What `counts` images are worth if each new one resembles those before: (1 − βⁿ) / (1 − β).

    β = 0 makes any number worth one; β → 1 counts them all. Nothing is worth more than 1 / (1 − β).
    Raises ValueError for a β outside [0, 1). Cui et al., arXiv 1901.05555. Derived in lesson 14.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; expected 0 ≤ beta < 1, such as 0.999")
    return (1 - beta ** counts.double()) / (1 - beta)


def easiest_weights(losses: Tensor, share: float) -> Float[Tensor, " images"]:
    """How often to draw each image when only the easiest `share` are shown: equal weights, then
    zeros; they sum to 1.

    At least one image is shown. Raises ValueError for a share that is not above 0 and at most 1.
    Derived in lesson 14.
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"share is {share}; expected more than 0 and at most 1, the part of the images that is"
            " shown"
        )
    count = max(1, round(share * len(losses)))
    weights = torch.zeros(len(losses), dtype=torch.float64)
    weights[losses.argsort()[:count]] = 1 / count
    return weights


def faces_to_draw(positives: Tensor, images: int, share: float) -> Int[Tensor, " attributes"]:
    """How many faces to draw for each attribute until it is in `share` of all faces, the new ones
    included.

    `positives` counts the attributes among the `images` there are; a drawn face counts for the one
    it is drawn for. Every face that is drawn makes the whole larger, so the counts are looked for
    until they stand. Raises ValueError where so many attributes cannot all have that share. Derived
    in lesson 14.
    """
    if not 0 <= share * len(positives) < 1:
        raise ValueError(
            f"share is {share} for {len(positives)} attributes; expected less than 1 /"
            f" {len(positives)}, because each face is drawn for one of them"
        )
    total = images
    while True:
        missing = (share * total - positives.double() - 1e-9).ceil().clamp(min=0).long()
        if images + missing.sum() == total:
            return missing
        total = images + int(missing.sum())
