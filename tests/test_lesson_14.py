"""The exercises of lesson 14: right answers pass however they are written, wrong ones read their
mistake.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn


def loss_of(forward, prepare=None):
    """A loss class from its `forward`; `prepare` makes a buffer of frequencies and strength."""

    class MyLoss(nn.Module):
        def __init__(self, frequencies, strength=1.0):
            super().__init__()
            self.register_buffer("f", frequencies)
            self.strength = strength
            if prepare:
                self.register_buffer("kept", prepare(frequencies, strength))

        def forward(self, logits, targets):
            return forward(self, logits, targets)

    return MyLoss


bce = F.binary_cross_entropy_with_logits


def margins(self, logits, targets, turned=1):
    """A margin for a yes alone, in units of the largest."""
    margin = self.strength * (self.f / self.f.min()) ** (-0.25 * turned)
    return bce(logits - margin * targets, targets)


def effective(f, strength, images=2400):
    worth = [(1 - 0.999 ** (images * share)) / (1 - 0.999) for share in (f, 1 - f)]
    return (worth[1] / worth[0]) ** strength


def naive(self, logits, targets):
    p = logits.sigmoid()
    w = self.f**-self.strength
    return -(w * targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def batch_weights(self, logits, targets):
    counted = targets.mean(0).clamp(min=0.01)
    return bce(logits, targets, pos_weight=(self.f * counted) ** (-self.strength / 2))


def ranked(self, logits, targets):
    """Every face that lacks an attribute against every one that has it."""
    ahead = F.softplus(logits[None] - logits[:, None]) * targets[:, None] * (1 - targets[None])
    return bce(logits, targets) + self.strength * ahead.sum((0, 1)).mean()


class Plain(nn.Module):
    def __init__(self, frequencies, strength=1.0):
        super().__init__()
        self.weights = frequencies**-strength

    def forward(self, logits, targets):
        return bce(logits, targets, pos_weight=self.weights)


def both_sides(self, logits, targets):
    """Rare attributes count more, whatever the answer."""
    return (bce(logits, targets, reduction="none") * (self.f / 0.4) ** -self.strength).mean()


def in_place(self, logits, targets):
    value = margins(self, logits, targets)
    targets.mul_(0.9)
    return value


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
    "MyLoss": [
        loss_of(margins),
        loss_of(  # in plain units: at a logit of -1 the pulls of all are near their largest, 1
            lambda self, z, y: bce(
                z + self.strength * torch.where(y > 0, -(self.f**-0.25), (1 - self.f) ** -0.25), y
            )
        ),
        loss_of(lambda self, z, y: bce(z, y, pos_weight=self.kept), effective),
        loss_of(lambda self, z, y: bce(z + self.kept, y), lambda f, strength: strength * f.logit()),
    ],
    "head_diversity_penalty": [pairs, gram],
    "easiest_weights": [
        literal_easiest,
        quantile_easiest,
        lambda losses, share: literal_easiest(losses, share).float(),
    ],
    "faces_to_draw": [one_by_one, by_total],
}
WRONG = {
    "MyLoss": {
        "has to use `frequencies`": loss_of(lambda self, z, y: bce(z, y)),
        "the mean over images and attributes; got (6, 3)": loss_of(
            lambda self, z, y: bce(z, y, reduction="none")
        ),
        "this is the sum": loss_of(lambda self, z, y: 18 * margins(self, z, y)),
        "you sum over the attributes": loss_of(lambda self, z, y: 3 * margins(self, z, y)),
        "not probabilities": loss_of(lambda self, z, y: margins(self, z.sigmoid(), y)),
        "rewards the wrong answer": loss_of(lambda self, z, y: margins(self, -z, y)),
        "returns None": loss_of(lambda self, z, y: print(margins(self, z, y))),
        "is not finite": loss_of(naive),
        "must pull harder, the rarer the attribute": loss_of(
            lambda self, z, y: margins(self, z, y, turned=-1)
        ),
        "both sides of your loss weigh the same": loss_of(both_sides),
        "`strength` changes nothing": loss_of(
            lambda self, z, y: bce(z, y, pos_weight=self.f ** -float(self.strength > 0))
        ),
        "count in `frequencies` and not in the batch": loss_of(batch_weights),
        "needs another name and a test of your own": loss_of(ranked),
        "at a logit of 3 yours pulls a yes of the rarest": loss_of(
            lambda self, z, y: bce(
                z, y, pos_weight=self.f ** -((2 - self.strength) * float(self.strength > 0))
            )
        ),
        "where a weight is 1, a margin is 0": loss_of(
            lambda self, z, y: bce(z, y, pos_weight=self.strength / self.f)
        ),
        "`self.weights` is a plain tensor": Plain,
        "in place": loss_of(in_place),
        "no gradient reaches": loss_of(lambda self, z, y: margins(self, z.detach(), y)),
        "must lower the loss": loss_of(
            lambda self, z, y: bce(z, y) + self.strength * (z * y / self.f).mean()
        ),
        "an `nn.Module`": lambda f, strength=1.0: lambda z, y: bce(z, y),
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
