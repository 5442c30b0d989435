"""The exercises of lesson 07: right answers pass however they are written, wrong ones read their
mistake.
"""

import math
from itertools import pairwise

import numpy as np
import torch


def literal_concordance(prediction, target):
    rows = []
    for p, t in zip(prediction.T.detach().numpy(), target.T.detach().numpy(), strict=True):
        spread = p.var() + t.var() + (p.mean() - t.mean()) ** 2
        rows.append(2 * np.cov(p, t, bias=True)[0, 1] / spread)
    return torch.tensor(np.array(rows), dtype=prediction.dtype)


def error_concordance(prediction, target):
    """1 minus the mean squared error over what it would be if the two were independent."""
    error = (prediction - target).square().mean(0)
    apart = (
        prediction.var(0, correction=0)
        + target.var(0, correction=0)
        + (prediction.mean(0) - target.mean(0)) ** 2
    )
    return 1 - error / apart


def ccc(two=2, offset=lambda d: d.square(), correction=0):
    def concordance(p, t):
        covariance = ((p - p.mean(0)) * (t - t.mean(0))).mean(0)
        return (
            two
            * covariance
            / (
                p.var(0, correction=correction)
                + t.var(0, correction=correction)
                + offset(p.mean(0) - t.mean(0))
            )
        )

    return concordance


def pearson(p, t):
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p.T, t.T, strict=True)]
    )


def cosine(fall, first=1):
    def factor(step, total, warmup):
        rising = max(1, round(warmup * total))
        return (step + first) / rising if step < rising else fall(step, rising, total)

    return factor


def half(step, rising, total):
    return math.cos(math.pi / 2 * (step - rising) / max(1, total - rising)) ** 2


def waited(losses, better=lambda loss, best: loss < best):
    best, count = math.inf, 0
    for loss in losses:
        best, count = (loss, 0) if better(loss, best) else (best, count + 1)
    return count


def by_speaker(speakers, rng, size=None, replace=True):
    names = np.unique(speakers)
    drawn = rng.choice(names, len(names) if size is None else size(speakers), replace=replace)
    return np.concatenate([np.flatnonzero(speakers == name) for name in drawn])


def by_clip(speakers, rng):
    return rng.integers(len(speakers), size=len(speakers))


def by_weighted_speaker(speakers, rng):
    drawn = rng.choice(speakers, len(np.unique(speakers)))
    return np.concatenate([np.flatnonzero(speakers == name) for name in drawn])


def by_number(speakers, rng):
    names, who = np.unique(speakers, return_inverse=True)
    return np.concatenate(
        [np.arange(len(who))[who == number] for number in rng.integers(len(names), size=len(names))]
    )


def literal_leak(train, test):
    known = {str(int(s)) if torch.is_tensor(s) else str(s) for s in train}
    return sum((str(int(s)) if torch.is_tensor(s) else str(s)) in known for s in test) / len(test)


RIGHT = {
    "concordance": [literal_concordance, error_concordance],
    "cosine_factor": [
        cosine(half),
        cosine(lambda s, r, n: (math.cos((s - r) / max(1, n - r) * math.pi) + 1) / 2),
    ],
    "epochs_since_best": [
        waited,
        lambda losses: len(losses) - 1 - losses.index(min(x for x in losses if x == x)),
    ],
    "resample_speakers": [by_speaker, by_number],
    "leaked_share": [
        literal_leak,
        lambda train, test: np.mean(np.isin(np.asarray(test), np.asarray(train))).item(),
    ],
}
WRONG = {
    "concordance": {
        "forget the 2": ccc(two=1),
        "Pearson": pearson,
        "difference of the means below": ccc(offset=lambda d: 0),
        "without its square": ccc(offset=torch.abs),
        "two kinds of variance": ccc(correction=1),
        "keep one number": lambda p, t: error_concordance(p, t).mean(),
    },
    "cosine_factor": {
        "learns nothing": cosine(half, first=0),
        "along a line": cosine(lambda s, r, n: 1 - (s - r) / max(1, n - r)),
        "goes down to −1": cosine(lambda s, r, n: math.cos(math.pi * (s - r) / max(1, n - r))),
        "begins at step 0": cosine(lambda s, r, n: 0.5 * (1 + math.cos(math.pi * s / n))),
        "whole": cosine(
            lambda s, r, n: 0.5 * (1 + math.cos(2 * math.pi * (s - r) / max(1, n - r)))
        ),
        "reaches": cosine(lambda s, r, n: 1 + math.cos(math.pi * (s - r) / max(1, n - r))),
    },
    "epochs_since_best": {
        "which epoch was best": lambda losses: losses.index(min(losses)),
        "count the best epoch itself": lambda losses: len(losses) - losses.index(min(losses)),
        "got worse": lambda losses: sum(b >= a for a, b in pairwise(losses)),
        "no improvement": lambda losses: waited(losses, lambda loss, best: loss <= best),
        "NaN": lambda losses: len(losses) - 1 - int(np.argmin(losses)),
    },
    "resample_speakers": {
        "draw *speakers*": by_clip,
        "*with* replacement": lambda s, rng: by_speaker(s, rng, replace=False),
        "perhaps one for each clip": lambda s, rng: by_speaker(s, rng, size=len),
        "the same chance": by_weighted_speaker,
        "generator that is passed": lambda s, rng: by_speaker(s, np.random.default_rng(0)),
        "return the indices": lambda s, rng: s[by_speaker(s, rng)],
    },
    "leaked_share": {
        "count items": lambda train, test: len(set(train) & set(test)) / len(set(test)),
        "training items": lambda train, test: float(np.isin(train, test).mean()),
        "divide by": lambda train, test: float(np.isin(test, train).sum()),
        "does not leak": lambda train, test: 1 - float(np.isin(test, train).mean()),
    },
}
