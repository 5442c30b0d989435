"""The exercises of lesson 11: right answers pass however they are written, wrong ones read their
mistake.
"""

import itertools
import math

import torch


def series(counts, beta):
    return torch.tensor(
        [sum(beta**k for k in range(int(n))) for n in counts.flatten()], dtype=torch.float64
    ).reshape(counts.shape)


def pairs(weights, reduce=lambda values: torch.stack(values).mean()):
    heads = weights.unbind(1)
    return reduce([(a * b).sum(-1).mean() for a, b in itertools.combinations(heads, 2)])


def gram(weights, drop_diagonal=True):
    heads = weights.shape[1]
    overlaps = torch.einsum("bhqk,bgqk->bqhg", weights, weights)
    return (
        overlaps[..., ~torch.eye(heads, dtype=torch.bool)].mean()
        if drop_diagonal
        else overlaps.mean()
    )


def literal_easiest(losses, share):
    shown = max(1, round(share * len(losses)))
    limit = sorted(losses.tolist())[shown - 1]
    return torch.tensor(
        [1 / shown if loss <= limit else 0 for loss in losses.tolist()], dtype=torch.float64
    )


def quantile_easiest(losses, share):
    shown = max(1, round(share * len(losses)))
    chosen = (losses <= losses.kthvalue(shown).values).double()
    return chosen / chosen.sum()


def one_by_one(positives, images, share):
    drawn = torch.zeros(len(positives), dtype=torch.long)
    while True:
        behind = (positives + drawn).double() < share * (images + drawn.sum()) - 1e-9
        if not behind.any():
            return drawn
        drawn[behind.nonzero()[0, 0]] += 1


def by_total(positives, images, share):
    for total in itertools.count(images):
        missing = [max(0, math.ceil(share * total - p)) for p in positives.tolist()]
        if images + sum(missing) <= total:
            return torch.tensor(missing)


def wanted(positives, images, share):
    return (share * images - positives.double()).clamp(min=0)


RIGHT = [
    ("effective_numbers", series),
    (
        "effective_numbers",
        lambda n, beta: -torch.expm1(n * math.log(max(beta, 1e-300))) / (1 - beta),
    ),
    ("head_diversity_penalty", pairs),
    ("head_diversity_penalty", gram),
    ("easiest_weights", literal_easiest),
    ("easiest_weights", quantile_easiest),
    ("faces_to_draw", one_by_one),
    ("faces_to_draw", by_total),
]
WRONG = [
    ("effective_numbers", lambda n, beta: (1 - beta) / (1 - beta**n), "this is the *weight*"),
    ("effective_numbers", lambda n, beta: 1 - beta**n, "forget to divide by 1 − β"),
    ("effective_numbers", lambda n, beta: (1 - beta * n) / (1 - beta), "you have β · n"),
    ("effective_numbers", lambda n, beta: (1 - beta**n) * (1 - beta), "divide by it"),
    ("effective_numbers", lambda n, beta: beta ** (n - 1), "add up all of them"),
    ("effective_numbers", lambda n, beta: n, "the numbers are not"),
    ("effective_numbers", lambda n, beta: n * (1 - beta), "the numbers are not"),
    ("head_diversity_penalty", lambda w: gram(w, drop_diagonal=False), "overlaps with itself"),
    ("head_diversity_penalty", lambda w: w.square().sum(-1).mean(), "a head with itself"),
    (
        "head_diversity_penalty",
        lambda w: gram(torch.nn.functional.normalize(w, dim=-1)),
        "these are cosines",
    ),
    ("head_diversity_penalty", lambda w: pairs(w.transpose(1, 2)), "you compare queries"),
    ("head_diversity_penalty", lambda w: pairs(w, sum), "add up the pairs"),
    ("head_diversity_penalty", lambda w: -pairs(w), "is to be *charged*"),
    ("head_diversity_penalty", lambda w: pairs(w.detach()), "no gradient"),
    ("head_diversity_penalty", lambda w: pairs(w).expand(len(w)), "expected the shape ()"),
    ("easiest_weights", lambda x, share: literal_easiest(-x, share), "the *hardest*"),
    (
        "easiest_weights",
        lambda x, share: (x.argsort() < share * len(x)).double() / round(share * len(x)),
        "read it as the rank",
    ),
    (
        "easiest_weights",
        lambda x, share: (literal_easiest(x, share) > 0).double(),
        "divide by how many are shown",
    ),
    (
        "easiest_weights",
        lambda x, share: (literal_easiest(x, share) > 0).double() / len(x),
        "number of all images",
    ),
    ("easiest_weights", lambda x, share: (x < share).double() / (x < share).sum(), "not a loss"),
    (
        "easiest_weights",
        lambda x, share: (
            (x.argsort().argsort() < share * len(x)).double().div(max(1, round(share * len(x))))
            if share > 0.01
            else torch.zeros_like(x)
        ),
        "show at least one",
    ),
    ("faces_to_draw", lambda p, n, s: wanted(p, n, s).ceil().long(), "makes the whole larger"),
    (
        "faces_to_draw",
        lambda p, n, s: (wanted(p, n, s) / (1 - s)).ceil().long(),
        "for the others too",
    ),
    ("faces_to_draw", lambda p, n, s: p.max() - p, "bring all up to the most frequent"),
    ("faces_to_draw", lambda p, n, s: one_by_one(p, n, s) + p, "how many to *draw*"),
    ("faces_to_draw", lambda p, n, s: one_by_one(p, n, s) - (p > 200).long(), "draw none"),
    ("faces_to_draw", lambda p, n, s: one_by_one(p, n, s) + 1, "are enough, and you draw"),
    ("faces_to_draw", lambda p, n, s: one_by_one(p, n, s) - 0.5, "round up"),
    ("faces_to_draw", lambda p, n, s: int(one_by_one(p, n, s).sum()), "one count an attribute"),
    (
        "faces_to_draw",
        lambda p, n, s: torch.where(p < s * n, one_by_one(p, n, s), 0),
        "that is too few",
    ),
]
