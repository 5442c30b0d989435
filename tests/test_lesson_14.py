"""The exercises of lesson 14: right answers pass however they are written, wrong ones read their
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


RIGHT = {
    "effective_numbers": [
        series,
        lambda n, beta: -torch.expm1(n * math.log(max(beta, 1e-300))) / (1 - beta),
    ],
    "head_diversity_penalty": [pairs, gram],
    "easiest_weights": [literal_easiest, quantile_easiest],
    "faces_to_draw": [one_by_one, by_total],
}
WRONG = {
    "effective_numbers": {
        "this is the *weight*": lambda n, beta: (1 - beta) / (1 - beta**n),
        "forget to divide by 1 − β": lambda n, beta: 1 - beta**n,
        "you have β · n": lambda n, beta: (1 - beta * n) / (1 - beta),
        "divide by it": lambda n, beta: (1 - beta**n) * (1 - beta),
        "add up all of them": lambda n, beta: beta ** (n - 1),
        "right, the numbers are not": lambda n, beta: n,
        "the numbers are not": lambda n, beta: n * (1 - beta),
    },
    "head_diversity_penalty": {
        "overlaps with itself": lambda w: gram(w, drop_diagonal=False),
        "a head with itself": lambda w: w.square().sum(-1).mean(),
        "these are cosines": lambda w: gram(torch.nn.functional.normalize(w, dim=-1)),
        "you compare queries": lambda w: pairs(w.transpose(1, 2)),
        "add up the pairs": lambda w: pairs(w, sum),
        "is to be *charged*": lambda w: -pairs(w),
        "no gradient": lambda w: pairs(w.detach()),
        "expected the shape ()": lambda w: pairs(w).expand(len(w)),
    },
    "easiest_weights": {
        "the *hardest*": lambda x, share: literal_easiest(-x, share),
        "read it as the rank": lambda x, share: (
            (x.argsort() < share * len(x)).double() / round(share * len(x))
        ),
        "divide by how many are shown": lambda x, share: (literal_easiest(x, share) > 0).double(),
        "number of all images": lambda x, share: (literal_easiest(x, share) > 0).double() / len(x),
        "not a loss": lambda x, share: (x < share).double() / (x < share).sum(),
        "show at least one": lambda x, share: (
            (x.argsort().argsort() < share * len(x)).double().div(max(1, round(share * len(x))))
            if share > 0.01
            else torch.zeros_like(x)
        ),
    },
    "faces_to_draw": {
        "makes the whole larger": lambda p, n, s: wanted(p, n, s).ceil().long(),
        "for the others too": lambda p, n, s: (wanted(p, n, s) / (1 - s)).ceil().long(),
        "bring all up to the most frequent": lambda p, n, s: p.max() - p,
        "how many to *draw*": lambda p, n, s: one_by_one(p, n, s) + p,
        "draw none": lambda p, n, s: one_by_one(p, n, s) - (p > 200).long(),
        "are enough, and you draw": lambda p, n, s: one_by_one(p, n, s) + 1,
        "round up": lambda p, n, s: one_by_one(p, n, s) - 0.5,
        "one count an attribute": lambda p, n, s: int(one_by_one(p, n, s).sum()),
        "that is too few": lambda p, n, s: torch.where(p < s * n, one_by_one(p, n, s), 0),
    },
}
