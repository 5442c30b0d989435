"""How good predicted attributes are when some are rare: scores at a threshold, of the ranking, and
of the calibration.

Everything takes probabilities and targets, `batch attributes`, and answers for all attributes at
once. An attribute counts as predicted where its probability is at least its threshold. Where
float32 would round large probabilities to the same 1, `logits.double().sigmoid()` keeps them apart.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..shapes import Float

__all__ = [
    "best_thresholds",
    "blind_accuracies",
    "calibration_error",
    "score_attributes",
    "score_table",
    "threshold_scores",
]


def blind_accuracies(frequencies: Float[Tensor, " attributes"]) -> tuple[float, float]:
    """What two models score that never look: one that always says no, and one that says what is
    usual.

    Mean accuracies over attributes of which `frequencies` are the share of images that have them.
    Both have a balanced accuracy of one half. Derived in lesson 07.
    """
    return float((1 - frequencies).mean()), float(
        torch.maximum(frequencies, 1 - frequencies).mean()
    )


def threshold_scores(
    probabilities: Tensor, targets: Tensor, thresholds: Tensor | float = 0.5
) -> dict[str, Float[Tensor, " attributes"]]:
    """`f1`, `precision`, `recall`, `balanced_accuracy`, `accuracy` and `positive_rate` of each
    attribute.

    `thresholds` is one number or one an attribute. What divides by a count of zero is 0: the
    precision of a model that predicts nothing, or the recall where there is nothing to find. Raises
    ValueError for shapes that differ and values that are no probability or label. Derived in lesson
    07.
    """
    truth = _truth(probabilities, targets)
    positive = probabilities >= thresholds
    hits, found, present = (positive & truth).sum(0), positive.sum(0), truth.sum(0)
    rejected = (~positive & ~truth).sum(0)
    recall, specificity = _ratio(hits, present), _ratio(rejected, len(truth) - present)
    return {
        "f1": _ratio(2 * hits, found + present),
        "precision": _ratio(hits, found),
        "recall": recall,
        "balanced_accuracy": (recall + specificity) / 2,
        "accuracy": (hits + rejected) / len(truth),
        "positive_rate": found / len(truth),
    }


def best_thresholds(probabilities: Tensor, targets: Tensor) -> Float[Tensor, " attributes"]:
    """The threshold of each attribute at which F1 is highest: choose it on validation, use it on
    test.

    It is one of the attribute's own probabilities, the largest of those that tie. Raises ValueError
    as `threshold_scores` does, and for an attribute without positives or without negatives. Derived
    in lesson 07.
    """
    truth = _truth(probabilities, targets, both_kinds=True)
    ordered, order = probabilities.sort(0, descending=True)
    hits = truth.gather(0, order).cumsum(0)  # of predicting the first 1, 2, 3, ...
    found = torch.arange(1, len(truth) + 1, device=truth.device)[:, None]
    f1 = 2 * hits / (found + truth.sum(0))
    f1[:-1][ordered[:-1] == ordered[1:]] = -1  # no threshold cuts between equal probabilities
    return ordered.gather(0, f1.argmax(0, keepdim=True))[0]


def calibration_error(
    probabilities: Tensor, targets: Tensor, bins: int = 15
) -> Float[Tensor, " attributes"]:
    """How far probabilities are from frequencies, in bins of equal width, weighted by how many
    items are in each.

    0 means that of the images given 30 %, three in ten have the attribute. Raises ValueError as
    `threshold_scores` does. Guo et al., arXiv 1706.04599, here of the positive class. Derived in
    lesson 07.
    """
    _truth(probabilities, targets)
    which = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, targets.shape[1], dtype=torch.float64, device=targets.device)
    gaps.scatter_add_(0, which, (probabilities - targets).double())
    return (gaps.abs().sum(0) / len(targets)).float()


def score_attributes(
    probabilities: Tensor,
    targets: Tensor,
    thresholds: Tensor | float = 0.5,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, " attributes"]]:
    """`threshold_scores`, and what no threshold moves: `average_precision`, `roc_auc`; and
    `calibration_error`.

    Raises ValueError as `threshold_scores` does, and for an attribute without positives or without
    negatives, by its name if `names` are given. Derived in lesson 07.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = _truth(probabilities, targets, both_kinds=True, names=names)
    columns = list(zip(truth.T.cpu().numpy(), probabilities.detach().T.cpu().numpy(), strict=True))
    return {
        **threshold_scores(probabilities, targets, thresholds),
        "average_precision": probabilities.new_tensor(
            [average_precision_score(*column) for column in columns]
        ),
        "roc_auc": probabilities.new_tensor([roc_auc_score(*column) for column in columns]),
        "calibration_error": calibration_error(probabilities, targets),
    }


def score_table(
    scores: Mapping[str, Tensor],
    names: Sequence[str],
    frequencies: Tensor,
    rare: float = 0.10,
    columns: Sequence[str] = ("positive_rate", "f1", "average_precision"),
) -> str:
    """The scores as text, one row an attribute, the rarest first; then the means of the rare and of
    all attributes.

    Raises ValueError for a column that is not among the scores. Derived in lesson 07.
    """
    if unknown := [name for name in columns if name not in scores]:
        raise ValueError(f"no score {unknown[0]!r}; choose columns from {', '.join(scores)}")
    order = frequencies.argsort()
    values = torch.stack([frequencies, *(scores[name].to(frequencies) for name in columns)], 1)
    groups = {f"mean, under {rare:.0%}": values[frequencies < rare], "mean, all": values}
    rows = [
        *((names[index], values[index]) for index in order.tolist()),
        *((title, group.mean(0)) for title, group in groups.items() if len(group)),
    ]
    widths = [
        max(len(title) for title, _ in rows),
        *(max(len(name), 5) for name in ("frequency", *columns)),
    ]
    lines = [
        ("", "frequency", *columns),
        *((title, *(f"{value:.3f}" for value in row)) for title, row in rows),
    ]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def _ratio(part: Tensor, whole: Tensor) -> Float[Tensor, " attributes"]:
    return part / whole.clamp(min=1)


def _truth(
    probabilities: Tensor,
    targets: Tensor,
    both_kinds: bool = False,
    names: Sequence[str] | None = None,
) -> Tensor:
    """The targets as booleans, if both are what they should be."""
    if probabilities.shape != targets.shape or probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)} and targets"
            f" {tuple(targets.shape)}; expected the same (batch, attributes) with at least one row"
        )
    low, high = (edge.item() for edge in probabilities.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"probabilities run from {low:g} to {high:g}; expected 0 to 1: use logits.sigmoid()"
            " (and look for NaN)"
        )
    truth = targets.bool()
    if not torch.equal(truth.to(targets.dtype), targets):
        raise ValueError(
            "targets hold other values than 0 and 1; expected labels: turn CelebA's -1 and 1 into"
            " them with (targets > 0).float()"
        )
    if both_kinds and len(one_sided := (truth.all(0) | ~truth.any(0)).nonzero()):
        index = one_sided[0].item()
        kind = "negative" if truth[0, index] else "positive"
        raise ValueError(
            f"attribute {index if names is None else repr(names[index])} has no {kind} among the "
            f"{len(truth)} targets; use a larger split, or leave the attribute out"
        )
    return truth
