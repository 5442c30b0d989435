"""The exercise of lesson 09: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch


def pooled(logits, sharpness, axis=1, log=True, divide=True):
    total = (
        torch.exp(sharpness * logits).mean(axis) if log else torch.exp(sharpness * logits).sum(axis)
    )
    return torch.log(total) / (sharpness if divide else 1)


def stable_pooled(logits, sharpness):
    top = logits.amax(1, keepdim=True)
    return top[:, 0] + torch.log(torch.exp(sharpness * (logits - top)).mean(1)) / sharpness


RIGHT = {
    "pool_over_tokens": [
        stable_pooled,
        lambda z, s: torch.logsumexp(s * z - math.log(z.shape[1]), 1) / s,
    ],
}
WRONG = {
    "pool_over_tokens": {
        "forget to subtract": lambda z, s: pooled(z, s, log=False),
        "forget to divide": lambda z, s: pooled(z, s, divide=False),
        "axis 1 holds the tokens": lambda z, s: pooled(z, s, axis=2),
        "this is the mean": lambda z, s: z.mean(1),
        "this is the maximum": lambda z, s: z.amax(1),
        "infinite": pooled,
    },
}
