"""The exercises of lesson 09: right answers pass however they are written, wrong ones read their
mistake; `test_lessons.py` runs them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lessons.lesson_09 import Decoder as Solution


def literal_classify(answers, weight, bias):
    columns = [
        F.linear(answers[:, a], weight[a : a + 1], bias[a : a + 1]) for a in range(len(bias))
    ]
    return torch.cat(columns, 1)


def decoder(forward):
    """A decoder with another `forward`."""
    return type("Decoder", (Solution,), {"forward": forward})


def repeated(self, tokens):
    values = self.project(tokens)
    queries = self.queries.repeat(tokens.shape[0], 1, 1)
    keys = self.keys_of(values)
    for layer in self.layers:
        queries = layer(queries, keys, values)
    return self.head(self.norm(queries))


def image_by_image(self, tokens):
    rows = []
    for image in tokens:
        values = self.project(image[None])
        queries = self.queries[None]
        for layer in self.layers:
            queries = layer(queries, self.keys_of(values), values)
        rows.append(self.head(self.norm(queries)))
    return torch.cat(rows)


def decoding(keys=None, values=None, layers=slice(None), norm=True, queries=lambda q: q):
    def forward(self, tokens):
        v = self.project(tokens)
        k = self.keys_of(v) if keys is None else keys(self, v)
        v = v if values is None else values(self, v)
        q = queries(self.queries).expand(len(tokens), -1, -1)
        for layer in self.layers[layers]:
            q = layer(q, k, v)
        return self.head(self.norm(q) if norm else q)

    return decoder(forward)


class Renamed(Solution):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.classifier = nn.Linear(2, 2)


def pooled(logits, sharpness, axis=1, log=True, divide=True):
    total = (
        torch.exp(sharpness * logits).mean(axis) if log else torch.exp(sharpness * logits).sum(axis)
    )
    return torch.log(total) / (sharpness if divide else 1)


def stable_pooled(logits, sharpness):
    top = logits.amax(1, keepdim=True)
    return top[:, 0] + torch.log(torch.exp(sharpness * (logits - top)).mean(1)) / sharpness


def squared(vectors):
    products = vectors @ vectors.T
    return products / (products.diagonal()[:, None] * products.diagonal())


RIGHT = {
    "classify": [
        literal_classify,
        lambda o, w, b: torch.einsum("bad,ad->ba", o, w) + b,
        lambda o, w, b: torch.diagonal(o @ w.T, dim1=1, dim2=2) + b,
    ],
    "Decoder": [decoder(repeated), decoder(image_by_image)],
    "pool_over_tokens": [
        stable_pooled,
        lambda z, s: torch.logsumexp(s * z - math.log(z.shape[1]), 1) / s,
    ],
    "cosines": [
        lambda v: F.cosine_similarity(v[:, None], v[None], dim=-1),
        lambda v: (v @ v.T) / torch.outer(v.norm(dim=1), v.norm(dim=1)),
    ],
}
WRONG = {
    "classify": {
        "weights of the first": lambda o, w, b: o @ w[0] + b,
        "forget the bias": lambda o, w, b: (o * w).sum(-1),
        "subtract the bias": lambda o, w, b: (o * w).sum(-1) - b,
        "average over `dim`": lambda o, w, b: (o * w).mean(-1) + b,
        "add all rows": lambda o, w, b: (o @ w.T).sum(-1) + b,
        "exchange the axes": lambda o, w, b: (
            (o * w.T).sum(-1) + b if w.shape[0] == w.shape[1] else literal_classify(o, w, b)
        ),
    },
    "Decoder": {
        "use the keys as values too": decoding(values=lambda self, v: v + self.positions),
        "have no positions": decoding(keys=lambda self, v: v),
        "exchanged": decoding(keys=lambda self, v: v, values=lambda self, v: v + self.positions),
        "before the head": decoding(norm=False),
        "only the first layer": decoding(layers=slice(1)),
        "only the last layer": decoding(layers=slice(-1, None)),
        "not from `self.keys_of`": decoding(keys=lambda self, v: v + self.positions),
        "no gradient reaches queries": decoding(queries=lambda q: q.detach()),
        "do not load": Renamed,
    },
    "pool_over_tokens": {
        "forget to subtract": lambda z, s: pooled(z, s, log=False),
        "forget to divide": lambda z, s: pooled(z, s, divide=False),
        "axis 1 holds the tokens": lambda z, s: pooled(z, s, axis=2),
        "this is the mean": lambda z, s: z.mean(1),
        "this is the maximum": lambda z, s: z.amax(1),
        "infinite": pooled,
    },
    "cosines": {
        "scalar products": lambda v: v @ v.T,
        "one length only": lambda v: (v @ v.T) / v.norm(dim=-1),
        "the other row, too": lambda v: (v @ v.T) / v.norm(dim=-1, keepdim=True),
        "squared lengths": squared,
        "correlation": torch.corrcoef,
        "distances": lambda v: 1 - F.cosine_similarity(v[:, None], v[None], dim=-1),
    },
}
