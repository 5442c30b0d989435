"""The exercises of lesson 08: right answers pass however they are written, wrong ones read their
mistake.
"""

import numpy as np
import torch
import torch.nn.functional as F


def literal_blind(frequencies):
    shares = frequencies.tolist()
    return sum(1 - f for f in shares) / len(shares), sum(max(f, 1 - f) for f in shares) / len(
        shares
    )


def literal_f1(probability, target, threshold):
    hits = sum(p >= threshold and t == 1 for p, t in zip(probability, target, strict=True))
    found, present = sum(p >= threshold for p in probability), sum(target)
    return 2 * hits / (found + present)


def literal_thresholds(probabilities, targets, score=literal_f1):
    columns = zip(probabilities.T.tolist(), targets.T.tolist(), strict=True)
    return torch.tensor(
        [max(sorted(p), key=lambda threshold, p=p, t=t: score(p, t, threshold)) for p, t in columns]
    )


def accuracy(probability, target, threshold):
    return np.mean([(p >= threshold) == (t == 1) for p, t in zip(probability, target, strict=True)])


def first_of_the_sorted(probabilities, targets):
    """Forgets that equal probabilities stand on the same side of every threshold."""
    ordered, order = torch.sort(probabilities, dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(targets) + 1)[:, None] + targets.sum(0))
    return ordered.gather(0, f1.argmax(0, keepdim=True))[0]


def one_for_all(probabilities, targets):
    best = literal_thresholds(probabilities.reshape(-1, 1), targets.reshape(-1, 1))
    return best.expand(targets.shape[1]).clone()


def capped(frequencies, cap, low=1.0, high=None, offset=0.001):
    return torch.tensor(
        [min(high or cap, max(low, 1 / (f + offset))) for f in frequencies.tolist()]
    )


def focal(
    logits,
    targets,
    gamma,
    pos_weight=None,
    weigh_first=False,
    factor=lambda right, gamma: (1 - right) ** gamma,
):
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weighted = F.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=pos_weight
    )
    return factor(torch.exp(-(weighted if weigh_first else plain)), gamma) * weighted


def literal_focal(logits, targets, gamma, pos_weight=None):
    out = torch.zeros_like(logits)
    for i, row in enumerate(logits):
        for a, z in enumerate(row):
            sign = 1 if targets[i, a] else -1
            weight = pos_weight[a] if pos_weight is not None and targets[i, a] else 1
            out[i, a] = weight * torch.sigmoid(-sign * z) ** gamma * F.softplus(-sign * z)
    return out


def unstable_focal(logits, targets, gamma, pos_weight=None):
    p = torch.sigmoid(logits)
    right = targets * p + (1 - targets) * (1 - p)
    weight = 1 if pos_weight is None else targets * pos_weight + 1 - targets
    return weight * (1 - right) ** gamma * -torch.log(right)


def rarest(targets, of=max, nothing=1.0, divide=True, frequency=lambda column: column.mean()):
    share = [float(frequency(column)) for column in targets.T]
    weights = torch.tensor(
        [
            of([1 / f for f, t in zip(share, row, strict=True) if t] or [nothing])
            for row in targets.tolist()
        ],
        dtype=targets.dtype,
    )
    return weights / weights.sum() if divide else weights


RIGHT = {
    "blind_accuracies": [literal_blind, lambda f: [1 - f.mean(), 0.5 + (f - 0.5).abs().mean()]],
    "best_thresholds": [
        literal_thresholds,
        lambda p, t: torch.stack(
            [
                column[int(torch.tensor([literal_f1(column, truth, x) for x in column]).argmax())]
                for column, truth in zip(p.T, t.T, strict=True)
            ]
        ),
    ],
    "inverse_frequencies": [
        capped,
        lambda f, cap: torch.minimum(
            torch.maximum((f + 0.001).reciprocal(), torch.ones(())), torch.tensor(cap)
        ),
    ],
    "focal_terms": [focal, literal_focal],
    "rarest_weights": [
        rarest,
        lambda t: F.normalize((t / t.mean(0)).amax(1).clamp(min=1), p=1, dim=0),
    ],
}
WRONG = {
    "blind_accuracies": {
        "how often *yes*": lambda f: (float(f.mean()), literal_blind(f)[1]),
        "saying no to everything": lambda f: literal_blind(f)[::-1],
        "two different models": lambda f: (literal_blind(f)[0],) * 2,
        "average after": lambda f: (literal_blind(f)[0], max(float(f.mean()), 1 - float(f.mean()))),
        "return two numbers": lambda f: literal_blind(f)[0],
    },
    "best_thresholds": {
        "best accuracy": lambda p, t: literal_thresholds(p, t, accuracy),
        "each attribute has its own": one_for_all,
        "at least": lambda p, t: torch.full(t.shape[1:], 0.5),
        "no threshold lies between": first_of_the_sorted,
        "one threshold an attribute": lambda p, t: 0.5,
    },
    "inverse_frequencies": {
        "forget the cap": lambda f, cap: capped(f, 1e9),
        "0.001": lambda f, cap: capped(f, cap, offset=0),
        "negatives over positives": lambda f, cap: ((1 - f) / f).clamp(1, cap),
        "count less than a negative": lambda f, cap: capped(f, cap, low=0),
    },
    "focal_terms": {
        "this is the bug": lambda *a: focal(*a, weigh_first=True),
        "positives only": lambda z, t, g, w=None: focal(z, t, g) * (1 if w is None else w),
        "leave the weight out": lambda z, t, g, w=None: focal(z, t, g),
        "leave the focusing out": lambda z, t, g, w=None: focal(z, t, 0, w),
        "p_t^γ": lambda *a: focal(*a, factor=lambda right, gamma: right**gamma),
        "the mean comes later": lambda *a: focal(*a).mean(),
        "not finite": unstable_focal,
    },
    "rarest_weights": {
        "add up": lambda t: rarest(t, of=sum),
        "never be drawn": lambda t: rarest(t, nothing=0.0),
        "divide by the sum": lambda t: rarest(t, divide=False),
        "you count images": lambda t: rarest(t, frequency=lambda column: column.sum()),
    },
}
