"""How good predicted traits are: scores beside a floor, speakers that leak, intervals over
speakers.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from einops import einsum, repeat
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from ..models.attention import recording
from ..models.inference import evaluating, to_cpu, to_model
from ..shapes import Float, Int
from ..tables import Table
from .bootstrap import bootstrap_counts, interval

__all__ = [
    "SCORES",
    "Evaluation",
    "Scores",
    "compare_answers",
    "concordance",
    "evaluate",
    "floor_prediction",
    "leak_report",
    "leaked_share",
    "mean_accuracy",
    "resample_speakers",
    "score_traits",
    "speaker_lookup",
    "trait_table",
]


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
    Derived in lesson 07.
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
    that differ, no rows, or NaN. Derived in lesson 07.
    """
    _batch_of_traits(train_targets, "train_targets")
    if len(train_speakers) != len(train_targets):
        raise ValueError(
            f"there are {len(train_speakers)} train_speakers for {len(train_targets)}"
            " train_targets; give one speaker for each row"
        )
    seen, who = np.unique(np.asarray(train_speakers), return_inverse=True)
    totals = torch.zeros(len(seen), train_targets.shape[1]).to(train_targets)
    totals.index_add_(0, torch.from_numpy(who), train_targets)
    means = totals / torch.from_numpy(np.bincount(who))[:, None]
    answers = dict(zip(seen.tolist(), means, strict=True))
    floor = train_targets.mean(dim=0)
    return torch.stack([answers.get(speaker, floor) for speaker in np.asarray(speakers).tolist()])


# the last: deviation of predictions over that of labels
SCORES = ("1 - MAE", "CCC", "Pearson", "R²", "spread")

RESAMPLES = 2_000

Speakers = Sequence | Tensor | np.ndarray | None  # numbers or names, one for each item


class Scores(NamedTuple):
    """Each of `SCORES` for every trait and, in the last column, their mean; and the same on
    resampled speakers.
    """

    value: Float[Tensor, "scores columns"]
    resampled: Float[Tensor, "resamples scores columns"]
    note: str = ""

    @property
    def interval(self) -> Float[Tensor, "2 scores columns"]:
        """The lower and upper end of the 95 % interval."""
        return interval(self.resampled)

    def table(self, names: Sequence[str]) -> Table:
        """A row for every trait (`names`) and one for their mean, a column for every score."""
        rows = [(name, *self.row(column)) for column, name in enumerate([*names, "mean"])]
        return Table(self.note, [("", *SCORES), *rows])

    def row(self, column: int) -> list[str]:
        """The scores of one trait, or with -1 of their mean, as text."""
        ends = torch.stack([self.value, *self.interval])[:, :, column]
        return [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in ends.T]


def score_traits(
    prediction: Tensor, target: Tensor, speakers: Speakers = None, seed: int = 0
) -> Scores:
    """Score `prediction` (`batch traits`) with intervals that know that clips of one speaker are
    alike.

    The bootstrap draws speakers with replacement, each with all its clips. A constant (spread under
    1e-7) has a CCC and a Pearson of 0. Raises `ValueError` for shapes that differ, NaN, or fewer
    than two speakers. Field and Welsh, "Bootstrapping clustered data" (2007).
    """
    _pair(prediction, target)
    note = ""
    if _unknown(speakers):
        speakers = range(len(target))
        note = (
            "no speaker ids: each clip counts as a speaker of its own, so the intervals are too"
            " narrow"
        )
    names, who = np.unique(np.asarray(speakers), return_inverse=True)
    if len(who) != len(target) or len(names) < 2:
        raise ValueError(
            f"there are {len(who)} speaker ids, {len(names)} of them different, for {len(target)}"
            " items; an interval needs one id for each item and at least 2 speakers"
        )
    # Every score follows from seven sums over the clips, and the sums of any speakers from those of each.
    p, t = (
        values.detach().cpu().double() - target.mean().item() for values in (prediction, target)
    )
    terms = torch.stack([torch.ones_like(p), p, t, p * p, t * t, p * t, (p - t).abs()], dim=1)
    sums = (
        torch.zeros(len(names), *terms.shape[1:])
        .double()
        .index_add(0, torch.from_numpy(who), terms)
    )
    resampled = einsum(
        bootstrap_counts(len(names), RESAMPLES, seed),
        sums,
        "resamples speakers, speakers sums traits -> resamples sums traits",
    )
    return Scores(_from_sums(sums.sum(dim=0)), _from_sums(resampled), note)


def resample_speakers(speakers: Speakers, rng: np.random.Generator) -> Int[np.ndarray, " items"]:
    """Indices of a bootstrap sample: as many speakers as there are, drawn with replacement, each
    with all their clips.

    Clips of one speaker are alike, so drawing clips would make an interval too narrow.
    `score_traits` does this for all its samples at once. Source: Field & Welsh (2007). Derived in
    lesson 07.
    """
    names, who = np.unique(np.asarray(speakers), return_inverse=True)
    return np.concatenate(
        [np.flatnonzero(who == drawn) for drawn in rng.integers(len(names), size=len(names))]
    )


def _from_sums(
    sums: Float[Tensor, "*resamples 7 traits"],
) -> Float[Tensor, "*resamples scores columns"]:
    count, *totals = sums.unbind(dim=-2)
    p, t, pp, tt, pt, error = (total / count for total in totals)
    variance, label_variance, covariance = (
        (pp - p * p).clamp(min=0),
        (tt - t * t).clamp(min=0),
        pt - p * t,
    )
    labels_vary = label_variance > 1e-14
    both_vary = labels_vary & (variance > 1e-14)
    scores = torch.stack(
        [
            1 - error,
            (2 * covariance / (variance + label_variance + (p - t).square())).where(both_vary, 0),
            (covariance / (variance * label_variance).sqrt()).where(both_vary, 0),
            (1 - (pp - 2 * pt + tt) / label_variance).where(labels_vary, 0),
            (variance / label_variance).sqrt().where(both_vary, 0),
        ],
        dim=-2,
    )
    return torch.cat([scores, scores.mean(dim=-1, keepdim=True)], dim=-1)


def compare_answers(
    prediction: Tensor, other: Tensor, target: Tensor, speakers: Speakers = None
) -> Scores:
    """How much better `prediction` is than `other`: differences of their scores on the same items,
    paired.

    Both meet the same resampled speakers, so what is hard for both cancels; an interval that leaves
    out 0 is a difference. Raises what `score_traits` raises. Derived in lesson 07.
    """
    ours, theirs = (score_traits(answer, target, speakers) for answer in (prediction, other))
    return Scores(ours.value - theirs.value, ours.resampled - theirs.resampled, ours.note)


def trait_table(answers: Mapping[str, Tensor], target: Tensor, speakers: Speakers = None) -> Table:
    """Several answers to the same items (floor, model, ceiling) side by side: means over traits.
    Used in lesson 07.
    """
    rows, note = [("", *SCORES)], ""
    for name, prediction in answers.items():
        scores = score_traits(prediction, target, speakers)
        rows.append((name, *scores.row(-1)))
        note = scores.note
    return Table(note, rows)


def leaked_share(train_speakers: Sequence | Tensor, test_speakers: Sequence | Tensor) -> float:
    """The share of test items whose speaker is in the training set too; an honest split has 0.
    Derived in lesson 07.
    """
    return float(np.isin(np.asarray(test_speakers), np.asarray(train_speakers)).mean())


def leak_report(train_speakers: Speakers, test_speakers: Speakers) -> str:
    """One sentence about a split: clean, leaking, or, where a speaker id is missing, unknown."""
    if _unknown(train_speakers) or _unknown(test_speakers):
        return (
            "speaker ids are missing: a split by clip leaks, and nobody can tell whether this one"
            " does"
        )
    if share := leaked_share(train_speakers, test_speakers):
        return (
            f"{share:.0%} of the test items are by speakers of the training set: recognising them"
            " is enough to score, so split by speaker, or put the speaker look-up beside the model"
        )
    return "no speaker is on both sides"


def _unknown(speakers: Speakers) -> bool:
    return speakers is None or any(
        speaker in (None, "") for speaker in np.asarray(speakers).tolist()
    )


class Evaluation(NamedTuple):
    """What a model said about every item, in the order of the batches, and how good that is."""

    prediction: Float[Tensor, "batch traits"]
    target: Float[Tensor, "batch traits"]
    scores: Scores
    attention: Float[Tensor, "batch heads queries keys"] | None

    @property
    def residuals(self) -> Float[Tensor, "batch traits"]:
        """Prediction minus target: against the target, a slope shows shrinking towards the mean."""
        return self.prediction - self.target


def evaluate(
    model: nn.Module, batches: Iterable, speakers: Speakers = None, attention: bool = False
) -> Evaluation:
    """Run `model` in evaluation mode over batches `(*inputs, traits)`; `speakers` has one id for
    each item.

    With `attention` the weights of `model.cross_attention` are kept too. Raises `ValueError` for no
    batch, for speakers beside a loader that shuffles, and what `score_traits` refuses.
    """
    if speakers is not None and isinstance(getattr(batches, "sampler", None), RandomSampler):
        raise ValueError(
            "the loader shuffles, so the speakers would belong to other items; use shuffle=False"
        )
    layer = model.cross_attention.attention if attention else None
    watching = recording(layer) if layer else nullcontext()
    answers, targets, maps = [], [], []
    with watching, evaluating(model), torch.no_grad():
        for *inputs, target in batches:
            answers.append(to_cpu(model(*to_model(model, *inputs))))
            targets.append(target.cpu().float())
            if layer:
                maps.append(layer.last_attn_weights.cpu())
    if not answers:
        raise ValueError("there is no batch to evaluate; check that the split is not empty")
    prediction, target = torch.cat(answers), torch.cat(targets)
    return Evaluation(
        prediction,
        target,
        score_traits(prediction, target, speakers),
        torch.cat(maps) if maps else None,
    )
