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


def zero_or_none(parameter):
    return parameter.grad is None or parameter.grad.abs().max() == 0


def literal_support(weights):
    rows = (
        [
            math.exp(-sum(w * math.log(w) for w in row.tolist() if w))
            for row in weights.flatten(0, -2)
        ]
        if weights.ndim > 1
        else [math.exp(-sum(w * math.log(w) for w in weights.tolist() if w))]
    )
    return torch.tensor(rows, dtype=weights.dtype).reshape(weights.shape[:-1])


RIGHT = [
    ("attend", attending()),
    ("attend", fused),
    ("attend", explicit),
    ("split_heads", lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 2)),
    ("split_heads", lambda x, heads: torch.stack(x.chunk(heads, -1), 1)),
    (
        "silent_parameters",
        lambda model: [n for n, p in model.named_parameters() if zero_or_none(p)],
    ),
    (
        "silent_parameters",
        lambda model: [
            n
            for n, p in model.named_parameters()
            if not torch.count_nonzero(p.grad if p.grad is not None else p * 0)
        ],
    ),
    ("effective_support", literal_support),
    ("effective_support", lambda w: torch.exp(-torch.xlogy(w, w).sum(-1))),
    ("agreement", lambda w, t: 1 - (w - t).abs().sum(-1) / 2),
    ("agreement", lambda w, t: torch.where(w < t, w, t).sum(dim=-1)),
]
WRONG = [
    ("attend", attending(scale=lambda q, k: 1), "do not divide"),
    ("attend", attending(scale=lambda q, k: q.shape[-1]), "its square root"),
    ("attend", attending(axis=-2), "runs over the queries"),
    ("attend", attending(scale=lambda q, k: k.shape[-2] ** 0.5), "number of keys"),
    ("attend", attending(values=lambda k, v: k), "weigh the values"),
    ("attend", lambda q, k, v: attending()(q, k, v)[0], "return two things"),
    ("attend", lambda q, k, v: attending()(q, k, v)[::-1], "weights"),
    ("attend", overflowing, "exp overflows"),
    ("attend", detached, "input"),
    ("split_heads", lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1), "memory order"),
    ("split_heads", lambda x, heads: rearrange(x, "b t (d h) -> b h t d", h=heads), "neighbours"),
    ("split_heads", lambda x, heads: x.unflatten(-1, (heads, -1)), "after the tokens"),
    (
        "silent_parameters",
        lambda model: [n for n, p in model.named_parameters() if not zero_or_none(p)],
        "*do* learn",
    ),
    (
        "silent_parameters",
        lambda model: [n for n, p in model.named_parameters() if p.grad is None],
        "exactly 0",
    ),
    (
        "silent_parameters",
        lambda model: [
            n for n, p in model.named_parameters() if p.grad is None or not p.grad.all()
        ],
        "some",
    ),
    (
        "silent_parameters",
        lambda model: [
            n for n, p in model.named_parameters() if p.grad is None or p.grad.sum() == 0
        ],
        "some",
    ),
    (
        "silent_parameters",
        lambda model: [
            n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()
        ],
        "grad is None",
    ),
    ("effective_support", lambda w: torch.special.entr(w).sum(-1), "this is the entropy"),
    ("effective_support", lambda w: (-(w * w.log()).sum(-1)).exp(), "0 · log 0"),
    ("effective_support", lambda w: 1 / w.square().sum(-1), "another count"),
    ("effective_support", lambda w: 2 ** torch.special.entr(w).sum(-1), "base 2"),
    ("agreement", lambda w, t: (w * t).sum(-1), "sharp"),
    ("agreement", lambda w, t: (w - t).abs().sum(-1) / 2, "the distance"),
    ("agreement", lambda w, t: torch.minimum(w, t).sum((-1, -2)), "shape"),
]
