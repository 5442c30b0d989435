"""The exercises of lesson 04: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange


def fused(q, k, v):
    every = torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2]).to(q)
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, every)


def explicit(q, k, v):
    scores = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("...qk,...kd->...qd", weights, v), weights


def attending(scale=lambda q, k: q.shape[-1] ** 0.5, axis=-1, values=lambda k, v: v):
    def attend(q, k, v):
        weights = (q @ k.mT / scale(q, k)).softmax(axis)
        return weights @ values(k, v), weights

    return attend


def overflowing(q, k, v):
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).exp()
    weights = scores / scores.sum(-1, keepdim=True)
    return weights @ v, weights


def detached(q, k, v):
    heard, weights = attending()(q.detach(), k.detach(), v)
    return heard, weights


RIGHT = {
    "attend": [attending(), fused, explicit],
    "split_heads": [
        lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 2),
        lambda x, heads: torch.stack(x.chunk(heads, -1), 1),
    ],
}
WRONG = {
    "attend": {
        "do not divide": attending(scale=lambda q, k: 1),
        "its square root": attending(scale=lambda q, k: q.shape[-1]),
        "runs over the queries": attending(axis=-2),
        "number of keys": attending(scale=lambda q, k: k.shape[-2] ** 0.5),
        "weigh the values": attending(values=lambda k, v: k),
        "return two things": lambda q, k, v: attending()(q, k, v)[0],
        "weights": lambda q, k, v: attending()(q, k, v)[::-1],
        "exp overflows": overflowing,
        "input": detached,
    },
    "split_heads": {
        "memory order": lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
        "neighbours": lambda x, heads: rearrange(x, "b t (d h) -> b h t d", h=heads),
        "after the tokens": lambda x, heads: x.unflatten(-1, (heads, -1)),
    },
}
