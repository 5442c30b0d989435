"""How good predicted traits are: mean accuracy and concordance, and the floor that a constant
reaches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from ..shapes import Float

__all__ = ["concordance", "floor_prediction", "mean_accuracy", "speaker_lookup"]


def _batch_of_traits(values: Tensor, name: str) -> None:
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected (batch, traits) with at least one"
            " row, so stack the items of the batch along the first axis"
        )
    if not values.isfinite().all():
        row, trait = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{row}, {trait}] is {values[row, trait].item()}; expected finite numbers, so"
            " look for missing labels or a diverged model first"
        )


def _pair(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)};"
            " expected the same (batch, traits), because broadcasting would compare the wrong"
            " items"
        )
    _batch_of_traits(prediction, "prediction")
    _batch_of_traits(target, "target")


def mean_accuracy(prediction: Tensor, target: Tensor) -> Float[Tensor, " traits"]:
    """1 − mean absolute error of each trait: 1 is perfect, a constant already reaches about 0.88 on
    real clips.

    Both are `batch traits` in [0, 1]. Raises `ValueError` for shapes that differ, no rows, or NaN.
    The measure of the ChaLearn First Impressions challenge (2016). Derived in lesson 00.
    """
    _pair(prediction, target)
    return 1 - (prediction - target).abs().mean(dim=0)


def concordance(prediction: Tensor, target: Tensor) -> Float[Tensor, " traits"]:
    """Concordance correlation of each trait: 1 on the diagonal, 0 for any constant, -1 mirrored.

    Unlike a correlation it asks for the same mean and spread too; unlike `mean_accuracy` it gives
    nothing for shrinking towards the mean. Both are `batch traits`; variances are those of the
    population (divided by the number of items). Raises `ValueError` for shapes that differ, no
    rows, or NaN. Lin, "A concordance correlation coefficient to evaluate reproducibility" (1989).
    Derived in lesson 06.
    """
    _pair(prediction, target)
    offset = prediction.mean(dim=0) - target.mean(dim=0)
    covariance = ((prediction - prediction.mean(dim=0)) * (target - target.mean(dim=0))).mean(dim=0)
    spread = prediction.var(dim=0, correction=0) + target.var(dim=0, correction=0)
    varies = (prediction != prediction[0]).any(dim=0) & (target != target[0]).any(dim=0)
    return torch.where(varies, 2 * covariance / (spread + offset.square()).where(varies, 1), 0)


def floor_prediction(train_targets: Tensor, count: int) -> Float[Tensor, "count traits"]:
    """What a model that never looks would say: the mean of the training targets, `count` times.

    `train_targets` is `batch traits`. Raises `ValueError` for no rows, NaN, or a negative `count`.
    Derived in lesson 00.
    """
    _batch_of_traits(train_targets, "train_targets")
    if count < 0:
        raise ValueError(f"count is {count}; expected 0 or more, the number of items to predict")
    return repeat(train_targets.mean(dim=0), "traits -> count traits", count=count)


def speaker_lookup(
    train_targets: Tensor,
    train_speakers: Sequence | Tensor | np.ndarray,
    speakers: Sequence | Tensor | np.ndarray,
) -> Float[Tensor, "count traits"]:
    """What a model that only recognises people would say: the speaker's mean training target, or
    else the floor.

    `train_targets` is `batch traits`; speakers are numbers or names, one for each row asked about.
    Where it beats the floor, the same speakers are on both sides. Raises `ValueError` for lengths
    that differ, no rows, or NaN. Derived in lesson 06.
    """
    _batch_of_traits(train_targets, "train_targets")
    if len(train_speakers) != len(train_targets):
        raise ValueError(
            f"there are {len(train_speakers)} train_speakers for {len(train_targets)}"
            " train_targets; give one speaker for each row"
        )
    known, who = np.unique(np.asarray(train_speakers), return_inverse=True)
    totals = torch.zeros(len(known), train_targets.shape[1]).to(train_targets)
    totals.index_add_(0, torch.from_numpy(who), train_targets)
    means = totals / torch.from_numpy(np.bincount(who))[:, None]
    answers = dict(zip(known.tolist(), means, strict=True))
    floor = train_targets.mean(dim=0)
    return torch.stack([answers.get(speaker, floor) for speaker in np.asarray(speakers).tolist()])
