"""The exercises of lesson 06: right answers pass however they are written, wrong ones read their
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


RIGHT = [
    ("concordance", literal_concordance),
    ("concordance", error_concordance),
    ("cosine_factor", cosine(half)),
    (
        "cosine_factor",
        cosine(lambda s, r, n: (math.cos((s - r) / max(1, n - r) * math.pi) + 1) / 2),
    ),
    ("epochs_since_best", waited),
    (
        "epochs_since_best",
        lambda losses: len(losses) - 1 - losses.index(min(x for x in losses if x == x)),
    ),
    ("resample_speakers", by_speaker),
    ("resample_speakers", by_number),
    ("leaked_share", literal_leak),
    (
        "leaked_share",
        lambda train, test: np.mean(np.isin(np.asarray(test), np.asarray(train))).item(),
    ),
]
WRONG = [
    ("concordance", ccc(two=1), "forget the 2"),
    ("concordance", pearson, "Pearson"),
    ("concordance", ccc(offset=lambda d: 0), "difference of the means below"),
    ("concordance", ccc(offset=torch.abs), "without its square"),
    ("concordance", ccc(correction=1), "two kinds of variance"),
    ("concordance", lambda p, t: error_concordance(p, t).mean(), "keep one number"),
    ("cosine_factor", cosine(half, first=0), "learns nothing"),
    ("cosine_factor", cosine(lambda s, r, n: 1 - (s - r) / max(1, n - r)), "along a line"),
    (
        "cosine_factor",
        cosine(lambda s, r, n: math.cos(math.pi * (s - r) / max(1, n - r))),
        "goes down to −1",
    ),
    (
        "cosine_factor",
        cosine(lambda s, r, n: 0.5 * (1 + math.cos(math.pi * s / n))),
        "begins at step 0",
    ),
    (
        "cosine_factor",
        cosine(lambda s, r, n: 0.5 * (1 + math.cos(2 * math.pi * (s - r) / max(1, n - r)))),
        "whole",
    ),
    (
        "cosine_factor",
        cosine(lambda s, r, n: 1 + math.cos(math.pi * (s - r) / max(1, n - r))),
        "reaches",
    ),
    ("epochs_since_best", lambda losses: losses.index(min(losses)), "which epoch was best"),
    (
        "epochs_since_best",
        lambda losses: len(losses) - losses.index(min(losses)),
        "count the best epoch itself",
    ),
    ("epochs_since_best", lambda losses: sum(b >= a for a, b in pairwise(losses)), "got worse"),
    (
        "epochs_since_best",
        lambda losses: waited(losses, lambda loss, best: loss <= best),
        "no improvement",
    ),
    ("epochs_since_best", lambda losses: len(losses) - 1 - int(np.argmin(losses)), "NaN"),
    ("resample_speakers", by_clip, "draw *speakers*"),
    ("resample_speakers", lambda s, rng: by_speaker(s, rng, replace=False), "*with* replacement"),
    ("resample_speakers", lambda s, rng: by_speaker(s, rng, size=len), "perhaps one for each clip"),
    ("resample_speakers", by_weighted_speaker, "the same chance"),
    (
        "resample_speakers",
        lambda s, rng: by_speaker(s, np.random.default_rng(0)),
        "generator that is passed",
    ),
    ("resample_speakers", lambda s, rng: s[by_speaker(s, rng)], "return the indices"),
    (
        "leaked_share",
        lambda train, test: len(set(train) & set(test)) / len(set(test)),
        "count items",
    ),
    ("leaked_share", lambda train, test: float(np.isin(train, test).mean()), "training items"),
    ("leaked_share", lambda train, test: float(np.isin(test, train).sum()), "divide by"),
    ("leaked_share", lambda train, test: 1 - float(np.isin(test, train).mean()), "does not leak"),
]
