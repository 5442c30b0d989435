"""Whom does the model fail? Scores of groups of people, the largest gap between them, and how sure
that gap is.

Derived in lesson 12.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..shapes import Float, Int
from ..tables import aligned
from ..training.attribute_scores import checked_truth
from ..training.bootstrap import bootstrap_counts, interval
from ..world.population import ATTRIBUTES

__all__ = [
    "MEASURES",
    "SMALLEST",
    "Gap",
    "SubgroupScores",
    "drawn_groups",
    "recall_gaps",
    "subgroup_scores",
]

# and what they count from
MEASURES = {"f1": "positives", "recall": "positives", "false_positive_rate": "negatives"}

# positives or negatives; a rate of 25 is known to about ± 0.20 (95 %): 1.96 · √(¼ / 25)
SMALLEST = 25

RESAMPLES = 1_000


def drawn_groups(
    tones: Tensor, targets: Tensor, names: Sequence[str] = ATTRIBUTES
) -> dict[str, list[str]]:
    """The groups that the drawn world knows, a label an item: skin tone in thirds, and the labels
    Male and Young.

    `tones` is `items`, 0 light to 1 dark; `targets` is `items attributes`. Raises ValueError for
    shapes that do not fit. Derived in lesson 12.
    """
    if tones.ndim != 1 or targets.shape != (len(tones), len(names)):
        raise ValueError(
            f"tones have the shape {tuple(tones.shape)}, targets {tuple(targets.shape)}, and there"
            f" are {len(names)} names; expected a tone for each row of targets and a name for each"
            " column"
        )
    third = torch.bucketize(
        tones, tones.quantile(torch.tensor([1 / 3, 2 / 3], dtype=tones.dtype))
    ).tolist()
    groups = {
        "skin tone": [
            ("tone 1 (lightest third)", "tone 2", "tone 3 (darkest third)")[index]
            for index in third
        ]
    }
    for name in ("Male", "Young"):
        groups[name] = [
            name if there else f"not {name}" for there in targets[:, list(names).index(name)] > 0
        ]
    return groups


def recall_gaps(
    positive: Tensor, truth: Tensor, groups: Sequence[str]
) -> Float[Tensor, " attributes"]:
    """The best group's recall of each attribute minus the worst group's; NaN where fewer than two
    groups know theirs.

    `positive`, what was predicted, and `truth` are boolean, `batch attributes`; `groups` has a
    label an item. A group with fewer than `SMALLEST` positives of an attribute does not count for
    it. Derived in lesson 12.
    """
    recalls = []
    for group in sorted(set(groups)):
        mine = torch.tensor([label == group for label in groups])
        present = truth[mine].sum(0)
        recall = (positive & truth)[mine].sum(0) / present
        recalls.append(torch.where(present >= SMALLEST, recall, torch.nan))
    recalls = torch.stack(recalls)
    gaps = recalls.nan_to_num(-torch.inf).amax(0) - recalls.nan_to_num(torch.inf).amin(0)
    return torch.where(recalls.isfinite().sum(0) > 1, gaps, torch.nan)


class Gap(NamedTuple):
    """The best and the worst group of one column, the difference between them and its 95 %
    interval.
    """

    column: str
    best: str
    worst: str
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        doubt = "" if self.low > 0 else ", so there may be none"
        return (
            f"{self.column}: {self.best} better than {self.worst} by {self.difference:.3f}"
            f" ({self.low:+.3f} to {self.high:+.3f}{doubt})"
        )


@dataclass(frozen=True)
class SubgroupScores:
    """Each of `MEASURES` for every group and attribute, and their mean, the last column; prints the
    means as a table.

    A value counted from fewer than `SMALLEST` positives (negatives, for the false-positive rate) is
    NaN: `too_small` says which. The mean is over `compared`, the attributes known in every group
    that knows any: without that, groups would be compared on different attributes. F1 also moves
    with how common an attribute is in a group; recall and the false-positive rate do not.
    """

    groups: list[str]
    columns: list[str]
    sizes: list[int]
    counts: dict[str, Int[Tensor, "groups attributes"]]
    value: dict[str, Float[Tensor, "groups columns"]]
    resampled: dict[str, Float[Tensor, "resamples groups columns"]]

    def interval(self, measure: str) -> Float[Tensor, "2 groups columns"]:
        """The lower and upper end of the 95 % intervals."""
        return interval(self.resampled[measure])

    def compared(self, measure: str) -> list[str]:
        """The attributes whose mean is the last column."""
        return [
            name
            for name, in_all in zip(
                self.columns, _in_all(self.value[measure][:, :-1]), strict=False
            )
            if in_all
        ]

    def gap(self, measure: str, column: str = "mean") -> Gap:
        """The largest difference between two groups.

        The pair is chosen by looking, so among many columns one gap is large by chance. Raises
        ValueError where fewer than two groups are known.
        """
        index = self.columns.index(column)
        good = self.value[measure][:, index] * (-1 if measure == "false_positive_rate" else 1)
        if (groups := int(good.isfinite().sum())) < 2:
            raise ValueError(
                f"{column!r} is known in {groups} of {len(good)} groups and a gap needs two with at"
                f" least {SMALLEST} {MEASURES[measure]}; use more items or larger groups"
            )
        best, worst = (
            int(good.nan_to_num(-torch.inf).argmax()),
            int(good.nan_to_num(torch.inf).argmin()),
        )
        between = self.resampled[measure][:, best, index] - self.resampled[measure][:, worst, index]
        between = between * (-1 if measure == "false_positive_rate" else 1)
        low, high = interval(between).tolist()
        return Gap(
            column,
            self.groups[best],
            self.groups[worst],
            float(good[best] - good[worst]),
            low,
            high,
        )

    def gaps(self, measure: str) -> list[Gap]:
        """The gap of every attribute that two groups know, the largest first."""
        in_two = (self.value[measure][:, :-1].isfinite().sum(0) > 1).tolist()
        gaps = [
            self.gap(measure, name)
            for name, enough in zip(self.columns, in_two, strict=False)
            if enough
        ]
        return sorted(gaps, key=lambda gap: -gap.difference)

    def too_small(self, measure: str) -> str:
        """A sentence about the attributes that are too rare in a group to say anything."""
        rare = []
        for group, counts in zip(self.groups, self.counts[measure], strict=True):
            few = [
                name for name, count in zip(self.columns, counts, strict=False) if count < SMALLEST
            ]
            if few:
                names = f"all {len(few)} attributes" if len(few) == len(counts) else ", ".join(few)
                rare.append(f"{group}: {names}")
        bound = f"under {SMALLEST} {MEASURES[measure]}, where a rate is known to ± 0.20 at best"
        return (
            f"Too few to say anything ({bound}): {'; '.join(rare)}."
            if rare
            else f"No group is too small ({bound})."
        )

    def __str__(self) -> str:
        ends = {measure: self.interval(measure)[:, :, -1] for measure in MEASURES}
        rows = [("", "items", *MEASURES)]
        for row, (group, size) in enumerate(zip(self.groups, self.sizes, strict=True)):
            cells = [
                f"{self.value[measure][row, -1]:.3f} [{low[row]:.3f}, {high[row]:.3f}]"
                for measure, (low, high) in ends.items()
            ]
            rows.append((group, size, *cells))
        over = ", ".join(f"{measure} of {len(self.compared(measure))}" for measure in MEASURES)
        return "\n".join(
            [
                aligned(rows),
                f"means over the attributes known in every group: {over}",
                *(self.too_small(measure) for measure in ("recall", "false_positive_rate")),
            ]
        )

    __repr__ = __str__


def subgroup_scores(
    probabilities: Tensor,
    targets: Tensor,
    groups: Sequence,
    thresholds: Tensor | float = 0.5,
    names: Sequence[str] = ATTRIBUTES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SubgroupScores:
    """Score `batch attributes` for each group of `groups`, a label an item, with intervals over
    resampled items.

    Items are drawn with replacement within their group, so each should show another person. Raises
    ValueError as `threshold_scores` does, for one group only, and for labels or names of another
    number. Derived in lesson 12.
    """
    truth = checked_truth(probabilities, targets)
    labels, who = np.unique(np.asarray(groups), return_inverse=True)
    if len(who) != len(truth) or len(labels) < 2 or len(names) != truth.shape[1]:
        raise ValueError(
            f"there are {len(who)} labels of {len(labels)} groups for {len(truth)} items, and"
            f" {len(names)} names for {truth.shape[1]} attributes; give a label an item, of at"
            " least two groups, and a name an attribute"
        )
    positive = probabilities >= thresholds
    terms = torch.stack([truth & positive, positive, truth], 1).flatten(1).double().cpu()
    random, sums, drawn = np.random.default_rng(seed), [], []
    for group in range(len(labels)):
        mine = terms[torch.from_numpy(who == group)]
        sums.append(mine.sum(0))
        drawn.append(bootstrap_counts(len(mine), resamples, random) @ mine)
    sizes = torch.from_numpy(np.bincount(who)).double()
    shape = (3, truth.shape[1])
    present = torch.stack(sums).unflatten(-1, shape)[:, 2]
    counts = {"f1": present, "recall": present, "false_positive_rate": sizes[:, None] - present}
    value, resampled = (
        _measures(torch.stack(part, -2).unflatten(-1, shape), sizes) for part in (sums, drawn)
    )
    for measure, values in value.items():
        enough = counts[measure] >= SMALLEST
        shared = enough & _in_all(torch.where(enough, values, torch.nan))
        for scores in (value, resampled):
            mean = torch.where(shared, scores[measure], torch.nan).nanmean(-1, keepdim=True)
            scores[measure] = torch.cat(
                [torch.where(enough, scores[measure], torch.nan), mean], -1
            ).float()
    return SubgroupScores(
        [str(label) for label in labels],
        [*names, "mean"],
        sizes.long().tolist(),
        {measure: count.long() for measure, count in counts.items()},
        value,
        resampled,
    )


def _measures(
    sums: Float[Tensor, "*resamples groups 3 attributes"], sizes: Float[Tensor, " groups"]
) -> dict[str, Float[Tensor, "*resamples groups attributes"]]:
    """Each of `MEASURES` from the numbers of hits, of positive predictions and of positives; NaN
    where there are none.
    """
    hits, predicted, present = sums.unbind(-2)
    return {
        "f1": 2 * hits / (predicted + present),
        "recall": hits / present,
        "false_positive_rate": (predicted - hits) / (sizes[:, None] - present),
    }


def _in_all(values: Float[Tensor, "groups attributes"]) -> Tensor:
    """Which attributes are known (not NaN) in every group that knows any."""
    finite = values.isfinite()
    return finite[finite.any(1)].all(0) if finite.any() else finite.any(0)
