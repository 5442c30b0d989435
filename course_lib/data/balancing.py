"""What a balanced diet of images takes: how much images are worth, which come first, how many more
to draw.
"""

import torch
from torch import Tensor

from ..shapes import Float, Int

__all__ = ["easiest_weights", "effective_numbers", "faces_to_draw"]


def effective_numbers(counts: Tensor, beta: float) -> Float[Tensor, "*classes"]:
    """What `counts` images are worth if each new one resembles those before: (1 − βⁿ) / (1 − β).

    β = 0 makes any number worth one; β → 1 counts them all. Nothing is worth more than 1 / (1 − β).
    Raises ValueError for a β outside [0, 1). Cui et al., arXiv 1901.05555. Derived in lesson 11.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; expected 0 ≤ beta < 1, such as 0.999")
    return (1 - beta ** counts.double()) / (1 - beta)


def easiest_weights(losses: Tensor, share: float) -> Float[Tensor, " images"]:
    """How often to draw each image when only the easiest `share` are shown: equal weights, then
    zeros; they sum to 1.

    At least one image is shown. Raises ValueError for a share that is not above 0 and at most 1.
    Derived in lesson 11.
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"share is {share}; expected more than 0 and at most 1, the part of the images that is"
            " shown"
        )
    shown = max(1, round(share * len(losses)))
    weights = torch.zeros(len(losses), dtype=torch.float64)
    weights[losses.argsort()[:shown]] = 1 / shown
    return weights


def faces_to_draw(positives: Tensor, images: int, share: float) -> Int[Tensor, " attributes"]:
    """How many faces to draw for each attribute until it is in `share` of all faces, the new ones
    included.

    `positives` counts the attributes among the `images` there are; a drawn face counts for the one
    it is drawn for. Every face that is drawn makes the whole larger, so the counts are looked for
    until they stand. Raises ValueError where so many attributes cannot all have that share. Derived
    in lesson 11.
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
