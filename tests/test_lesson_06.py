"""The exercises of lesson 06: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch
from torch import nn

from course_lib.models import CompletePersonalityModel


def as_dict_count(static_dim, dynamic_dim, fusion_dim, num_heads):
    state = CompletePersonalityModel(static_dim, dynamic_dim, fusion_dim, num_heads).state_dict()
    return sum(value.numel() for value in state.values() if value.is_floating_point())


def with_torch(vectors, mean, variance, training):
    mean, variance = mean.clone(), variance.clone()
    return nn.functional.batch_norm(vectors, mean, variance, training=training), mean, variance


def looped_flops(query, key, value):
    flops = 0
    for _ in range(math.prod(query[:-2])):
        flops += 2 * query[-2] * query[-1] * key[-2]
        flops += 2 * query[-2] * value[-2] * value[-1]
    return flops


def trait_by_trait(weights, gradient, value):
    maps = [(weights * torch.einsum("bhqd,bhkd->bhqk", trait, value)).mean(1) for trait in gradient]
    return torch.stack(maps, dim=1)


def layers(model, static_dim, dynamic_dim):
    return [
        nn.Linear(static_dim, model.static_dim, bias=False),
        nn.Linear(dynamic_dim, model.dynamic_dim, bias=False),
    ]


RIGHT = {
    "projections": [
        layers,
        lambda m, s, d: tuple(
            nn.Sequential(nn.Linear(have, want))
            for have, want in ((s, m.static_dim), (d, m.dynamic_dim))
        ),
    ],
    "batch_norm": [with_torch],
    "count_by_hand": [as_dict_count],
    "attention_flops": [looped_flops],
    "attention_times_gradient": [trait_by_trait],
}


def norm(vectors, mean, variance):
    return (vectors - mean) / (variance + 1e-5).sqrt()


def batch_norm(
    vectors, mean, variance, training, *, own=None, keep=0.9, correction=1, spread=None, refuse=True
):
    """Batch norm with places for one mistake each."""
    if not training:
        return norm(vectors, mean, variance), mean, variance
    if refuse and len(vectors) == 1:
        raise ValueError("one")
    batch, wide = vectors.mean(0), vectors.var(0, correction=0)
    normalised = norm(vectors, batch, wide) if own is None else own(vectors, mean, variance)
    return (
        normalised,
        keep * mean + (1 - keep) * batch,
        keep * variance
        + (1 - keep) * (vectors.var(0, correction=correction) if spread is None else spread),
    )


def wrong_norm(**mistake):
    return lambda v, m, s, t: batch_norm(v, m, s, t, **mistake)


def by_vector(vectors, mean, variance):
    return (vectors - vectors.mean(1, keepdim=True)) / (
        vectors.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()


def always_batch(vectors, mean, variance, training):
    if training or len(vectors) > 1:
        normalised, new_mean, new_variance = batch_norm(vectors, mean, variance, True)
        return (normalised, new_mean, new_variance) if training else (normalised, mean, variance)
    return batch_norm(vectors, mean, variance, False)


def drifting(vectors, mean, variance, training):
    normalised, *running = batch_norm(vectors, mean, variance, training)
    return (
        (normalised, *running)
        if training
        else (normalised, 0.9 * mean + 0.1 * vectors.mean(0), variance)
    )


def total(
    static,
    dynamic,
    dim,
    heads,
    *,
    bias=1,
    wide=None,
    thirds=3,
    back=1,
    layer_norm=2,
    batch_norm=4,
    head=1,
):
    wide = wide or heads * dim

    def linear(inputs, outputs):
        return inputs * outputs + bias * outputs

    return (
        linear(static, dim)
        + linear(dynamic, dim)
        + thirds * linear(dim, wide)
        + back * linear(wide, dim)
        + (layer_norm + batch_norm) * dim
        + head * (linear(dim, 64) + linear(64, 5))
    )


def miscounted(**mistake):
    return lambda s, d, f, h: total(s, d, f, h, **mistake)


def of_weights(gradient, value):
    return gradient @ value.mT


WRONG = {
    "projections": {
        "return two layers": lambda m, s, d: nn.Linear(s, m.static_dim),
        "not tensors": lambda m, s, d: (torch.randn(s, 512), torch.randn(d, 256)),
        "your static layer does not take features 2048 wide": lambda m, s, d: (
            nn.Linear(m.static_dim, s),
            nn.Linear(m.dynamic_dim, d),
        ),
        "does not take features 2048 wide": lambda m, s, d: layers(m, s, d)[::-1],
        "puts out 512 numbers": lambda m, s, d: (nn.Linear(s, 512), nn.Linear(d, 256)),
        "your dynamic layer puts out 512 numbers; the model was built with dynamic_dim=256": lambda m, s, d: (
            nn.Linear(s, m.static_dim),
            nn.Linear(d, m.static_dim),
        ),
        "bends": lambda m, s, d: [nn.Sequential(layer, nn.ReLU()) for layer in layers(m, s, d)],
        "cannot learn": lambda m, s, d: [layer.requires_grad_(False) for layer in layers(m, s, d)],
    },
    "batch_norm": {
        "return three things": lambda v, m, s, t: batch_norm(v, m, s, t)[0],
        "its own yardstick": lambda v, m, s, t: batch_norm(v, m, s, False),
        "which is layer norm": wrong_norm(own=by_vector),
        "by its root": wrong_norm(
            own=lambda v, m, s: (v - v.mean(0)) / (v.var(0, correction=0) + 1e-5)
        ),
        "variance of n − 1": wrong_norm(own=lambda v, m, s: norm(v, v.mean(0), v.var(0))),
        "without subtracting": wrong_norm(own=lambda v, m, s: norm(v, 0, v.var(0, correction=0))),
        "do not divide": wrong_norm(own=lambda v, m, s: v - v.mean(0)),
        "your running mean stands still": wrong_norm(keep=1),
        "your running mean forgets": wrong_norm(keep=0.1),
        "only a tenth of the way": wrong_norm(keep=0),
        "PyTorch keeps that of n − 1": wrong_norm(correction=0),
        "your running variance stands still": lambda v, m, s, t: (*batch_norm(v, m, s, t)[:2], s),
        "you use the batch's": always_batch,
        "which must stay": drifting,
        "no spread, and your answer is NaN": wrong_norm(refuse=False),
        "PyTorch keeps": wrong_norm(refuse=False, correction=0),
    },
    "count_by_hand": {
        "leave the biases out": miscounted(bias=0),
        "256 are missing": miscounted(batch_norm=2),
        "is it the layer norm's scale and shift?": miscounted(layer_norm=0),
        "512 are missing": miscounted(batch_norm=0),
        "counter of batches": lambda *sizes: total(*sizes) + 1,
        "each head is fusion_dim wide": lambda s, d, f, h: total(s, d, f, h, wide=f),
        "a layer each": miscounted(thirds=1),
        "projected back": miscounted(back=0),
        "leave out the head": miscounted(head=0),
        "static_dim=2048, dynamic_dim=1024, fusion_dim=128, num_heads=4, ": lambda *sizes: 371_717,
        "return a whole number": lambda *sizes: float(total(*sizes)),
        "got a str": lambda *sizes: f"{total(*sizes)}",
    },
    "attention_flops": {
        "multiplications only": lambda q, k, v: looped_flops(q, k, v) // 2,
        "leave out the product of the weights": lambda q, k, v: 2 * math.prod(q) * k[-2],
        "leave out q kᵀ": lambda q, k, v: 2 * math.prod(q[:-1]) * math.prod(v[-2:]),
        "leave out the heads": lambda q, k, v: looped_flops(q[-2:], k[-2:], v[-2:]) * q[0],
        "leave out the batch": lambda q, k, v: looped_flops(q[1:], k[1:], v[1:]),
        "both products": lambda q, k, v: 4 * math.prod(q) * k[-2],
        "your queries ask each other": lambda q, k, v: looped_flops(
            q, (*k[:-2], *q[-2:-1], k[-1]), (*v[:-2], *q[-2:-1], v[-1])
        ),
        "raises IndexError": lambda q, k, v: 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]),
        "// divides": lambda q, k, v: looped_flops(q, k, v) / 1,
    },
    "attention_times_gradient": {
        "the gradient alone": lambda w, g, v: of_weights(g, v).mean(2).transpose(0, 1),
        "the attention alone": lambda w, g, v: w.mean(1)[:, None].repeat(1, 5, 1, 1),
        "traits come before the batch": lambda w, g, v: (w * of_weights(g, v)).mean(2),
        "keep the heads": lambda w, g, v: (w * of_weights(g, v)).transpose(0, 1),
        "you sum over": lambda w, g, v: (w * of_weights(g, v)).sum(2).transpose(0, 1),
        "the negative": lambda w, g, v: (w * of_weights(g, v)).clamp(min=0).mean(2).transpose(0, 1),
        "absolute value": lambda w, g, v: (w * of_weights(g, v)).abs().mean(2).transpose(0, 1),
        "each head has its": lambda w, g, v: (w.mean(1) * of_weights(g, v).mean(2)).transpose(0, 1),
        "raises": lambda w, g, v: (w * (g @ v.transpose(0, 1))).mean(2),
    },
}


def test_the_count_by_code_is_the_count_by_hand_of_the_text():
    assert total(512, 256, 128, 4) == 371_717
