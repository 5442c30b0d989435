"""Measures of features: whom they tell apart, what their dimensions do, and what can be read from
them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Bool, Float
from ..training.bootstrap import bootstrap_counts, interval

__all__ = [
    "DimensionDistribution",
    "Probe",
    "dead_dimensions",
    "dimension_distribution",
    "linear_probe",
    "pair_similarities",
    "pixel_features",
    "ridge_probabilities",
    "separation_auc",
    "silent_parameters",
    "within_person_consistency",
]


def _check_features(features: Tensor) -> None:
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected (items, dim) with at least two"
            " items, so stack one feature vector for each image or clip"
        )
    if not features.isfinite().all():
        raise ValueError(
            f"the features of item {int((~features.isfinite()).any(dim=1).nonzero()[0])} are not"
            " finite; expected numbers without NaN, so look at that item's input first"
        )


def _check_people(features: Tensor, person: Tensor) -> None:
    _check_features(features)
    if person.shape != features.shape[:1]:
        raise ValueError(
            f"person has shape {tuple(person.shape)} and there are {len(features)} feature vectors;"
            " expected one whole number for each, the person it shows"
        )
    if not features.any(dim=1).all():
        raise ValueError(
            f"the features of item {int((~features.any(dim=1)).nonzero()[0])} are all zero, and"
            " zero has no direction to compare; look for a dead layer, or leave that item out"
        )
    people, images = person.unique(return_counts=True)
    if len(people) < 2:
        raise ValueError(
            f"all {len(features)} items show one person; telling people apart needs at least two"
        )
    if images.max() < 2:
        raise ValueError(
            f"each of the {len(people)} people has one image; consistency needs somebody with two"
        )


def within_person_consistency(features: Tensor, person: Tensor) -> float:
    """How alike two images of one person are: the mean cosine similarity over all such pairs, 1 at
    best.

    `features` are `items dim`; `person` is `items`, whole numbers. Raises `ValueError` for wrong
    shapes, NaN, a zero vector, fewer than two people, or one image each. Derived in lesson 01.
    """
    _check_people(features, person)
    unit = F.normalize(features.double(), dim=1)
    similarity = unit @ unit.T
    pairs = (person[:, None] == person).triu(diagonal=1)  # each pair once, and no item with itself
    return similarity[pairs].mean().item()


def pair_similarities(
    features: Tensor, person: Tensor
) -> tuple[Float[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """The cosine similarity of every pair of items, and whether both show one person.

    Arguments and errors as in `within_person_consistency`.
    """
    _check_people(features, person)
    unit = F.normalize(features.double(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return (unit @ unit.T)[first, second], person[first] == person[second]


def separation_auc(
    features: Tensor, person: Tensor, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """How well similarity tells a pair of one person from a pair of two: ROC-AUC and its 95 %
    interval.

    1 is perfect, 0.5 is chance. The bootstrap draws *people*: pairs that share a person are not
    independent, and drawing pairs would make the interval too narrow (Bolle et al., 2004). A person
    drawn twice counts twice, but is never paired with their own copy. Arguments and errors as in
    `within_person_consistency`. Derived in lesson 01.
    """
    similarity, same = pair_similarities(features, person)
    # equal similarities share a rank
    _, rank = similarity.round(decimals=10).unique(return_inverse=True)
    people, index = person.unique(return_inverse=True)
    first, second = index[torch.triu_indices(len(index), len(index), offset=1, device=index.device)]
    whose, one, other = first[same], first[~same], second[~same]
    rank_alike, rank_unlike, ranks = rank[same], rank[~same], int(rank.max()) + 1

    def auc(copies: Float[Tensor, " people"]) -> Float[Tensor, ""]:
        """The share of comparisons in which the pair of one person is the more similar; a tie is
        half right.
        """
        alike = torch.bincount(rank_alike, copies[whose], ranks)
        unlike = torch.bincount(rank_unlike, copies[one] * copies[other], ranks)
        return (alike * (unlike.cumsum(0) - unlike / 2)).sum() / (alike.sum() * unlike.sum())

    copies = bootstrap_counts(len(people), resamples, seed).to(similarity)
    resampled = torch.stack([auc(row) for row in copies])  # NaN: nobody to tell apart
    low, high = interval(resampled).tolist()
    return auc(torch.ones_like(copies[0])).item(), low, high


class DimensionDistribution(NamedTuple):
    """What the dimensions of a feature are good for. A redundant one copies a dimension before it."""

    spread: Float[Tensor, " dim"]  # standard deviation over items
    dead: Bool[Tensor, " dim"]
    redundant: Bool[Tensor, " dim"]
    variance: Float[Tensor, " directions"]  # share of the variance along each principal direction
    effective_dimensions: float  # 1 if one direction holds all variance, dim if all hold the same


def dead_dimensions(features: Float[Tensor, "items dim"]) -> Bool[Tensor, " dim"]:
    """Which dimensions say the same about every item, to a millionth of the largest value."""
    return features.amax(dim=0) - features.amin(dim=0) <= 1e-6 * features.abs().max()


def dimension_distribution(features: Tensor, correlation: float = 0.95) -> DimensionDistribution:
    """Which dimensions of `items dim` are dead (no spread), which are redundant, and how many are
    in use.

    Redundant: correlated with an earlier dimension by more than `correlation`, in absolute value.
    The effective number is the participation ratio of the principal variances λ, (Σλ)² / Σλ², at
    most `items` − 1: compare features on the same items only. Raises `ValueError` for wrong shapes
    or NaN. Derived in lesson 03.
    """
    _check_features(features)
    features = features.detach().double()
    spread = features.std(dim=0, correction=0)
    dead = dead_dimensions(features)
    centred = torch.where(dead, 0, features - features.mean(dim=0))
    standard = centred / torch.where(dead, 1, spread)
    redundant = ((standard.T @ standard / len(features)).abs().triu(diagonal=1) > correlation).any(
        dim=0
    )
    variance = torch.linalg.svdvals(centred).square()
    total = variance.sum().clamp(min=1e-300)  # dead features hold no variance and use no dimension
    effective = total.square() / variance.square().sum().clamp(min=1e-300)
    return DimensionDistribution(
        spread.float(), dead, redundant, (variance / total).float(), effective.item()
    )


class Probe(NamedTuple):
    """Held-out scores of a linear probe, one for each fold, beside a constant's on the same folds."""

    measure: str  # "accuracy" or "R²"
    scores: Float[Tensor, " folds"]
    baselines: Float[Tensor, " folds"]  # the majority class, or the mean, of the training folds


def linear_probe(features: Tensor, targets: Tensor, groups: Tensor, folds: int = 5) -> Probe:
    """What a linear model can read from frozen features `items dim` about people it has not seen.

    Whole-number `targets` (`items`) are classes, scored by accuracy; floats (`items` or `items
    targets`) are amounts, scored by R² (its mean over targets). The folds never split a group of
    `groups` (`items`; the speaker): a probe that meets the same speaker on both sides may recognise
    the speaker instead. Dimensions are standardised; the ridge's strength is chosen inside the
    training folds. Raises `ValueError` for shapes that do not fit, NaN, fewer groups than folds, or
    targets that are all the same. Derived in lesson 02.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check_features(features)
    amounts = targets.is_floating_point()
    if not (
        len(targets) == len(features)
        and groups.shape == features.shape[:1]
        and targets.ndim <= 1 + amounts
    ):
        raise ValueError(
            f"targets {tuple(targets.shape)} and groups {tuple(groups.shape)} do not fit "
            f"{len(features)} feature vectors; expected one target and one group for each"
        )
    if not targets.isfinite().all() or (targets == targets[0]).all():
        raise ValueError(
            "the targets are all the same or not finite, so there is nothing to read; give finite "
            "targets that differ"
        )
    if not 2 <= folds <= len(groups.unique()):
        raise ValueError(
            f"{len(groups.unique())} groups do not make {folds} folds; use at least 2 folds and as"
            " many groups"
        )
    strengths = [10.0**power for power in range(-2, 7)]
    ridge, constant = (
        (RidgeCV(strengths), DummyRegressor())
        if amounts
        else (RidgeClassifierCV(strengths), DummyClassifier(strategy="most_frequent"))
    )
    inputs, targets, groups = (
        values.detach().cpu().numpy() for values in (features.double(), targets, groups)
    )
    scores, baselines = (
        torch.from_numpy(
            cross_val_score(model, inputs, targets, groups=groups, cv=GroupKFold(folds))
        )
        for model in (make_pipeline(StandardScaler(), ridge), constant)
    )
    return Probe("R²" if amounts else "accuracy", scores.float(), baselines.float())


def pixel_features(
    images: Float[Tensor, "items 3 height width"], side: int = 16
) -> Float[Tensor, "items features"]:
    """The pixels of the images, made small: what features of a face have to beat."""
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def ridge_probabilities(
    features: Float[Tensor, "items dim"],
    targets: Float[Tensor, "items attributes"],
    unseen: Float[Tensor, "others dim"],
) -> Float[Tensor, "others attributes"]:
    """What ridge regression, learned from `features` and `targets` of 0 and 1, gives to `unseen`
    features: cut to [0, 1].

    Dimensions are standardised; the ridge's strength is chosen by leaving one item out at a time.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = make_pipeline(StandardScaler(), RidgeCV([10.0**power for power in range(0, 6)]))
    ridge.fit(features.double().numpy(), targets.double().numpy())
    return torch.from_numpy(ridge.predict(unseen.double().numpy())).float().clamp(0, 1)


def silent_parameters(model: nn.Module) -> list[str]:
    """The parameters that the last backward pass gave no gradient, or one of exactly 0: they learn
    nothing.

    Derived in lesson 05.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
