"""The bootstrap: how far a number would move if other speakers, images or seeds had been drawn.

Efron, "Bootstrap methods: another look at the jackknife" (1979).
"""

import numpy as np
import torch
from torch import Tensor

from ..shapes import Float

__all__ = ["bootstrap_counts", "interval"]


def bootstrap_counts(
    items: int, resamples: int, seed: int | np.random.Generator = 0
) -> Float[Tensor, "resamples items"]:
    """How often each item is in each bootstrap sample: as many as there are, with replacement.

    What follows from sums over items needs no more: `counts @ values` are the samples' sums. Draw
    what is independent: speakers with all their clips, not clips.
    """
    shares = np.full(items, 1 / items)
    counts = np.random.default_rng(seed).multinomial(items, shares, resamples)
    return torch.from_numpy(counts).double()


def interval(resampled: Float[Tensor, "resamples ..."]) -> Float[Tensor, "2 ..."]:
    """The lower and upper end of the 95 % interval; samples without a value (NaN) are left out."""
    return resampled.nanquantile(resampled.new_tensor([0.025, 0.975]), dim=0)
