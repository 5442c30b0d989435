"""The exercises of lesson 06: right answers pass however they are written, wrong ones read their
mistake.
"""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from course_lib.lessons import lesson_06
from course_lib.models import (
    CompletePersonalityModel,
    CrossAttention,
    FeatureFusionModule,
    PersonalityPredictionHead,
    TokenCrossAttention,
    TokenPersonalityModel,
)


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


def with_numpy(query, key, value):
    return 2 * np.prod(query[:-1], dtype=int) * key[-2] * (query[-1] + value[-1])


def with_autograd(weights, gradient, value):
    maps = []
    for trait in gradient:
        leaf = weights.clone().requires_grad_()
        (of_weights,) = torch.autograd.grad((trait * (leaf @ value)).sum(), leaf)
        maps.append((weights * of_weights).mean(1))
    return torch.stack(maps, dim=1)


def trait_by_trait(weights, gradient, value):
    maps = [(weights * torch.einsum("bhqd,bhkd->bhqk", trait, value)).mean(1) for trait in gradient]
    return torch.stack(maps, dim=1)


class Fusion(nn.Module):
    """Fusion with places for one mistake each."""

    def __init__(self, fusion_dim=128, dropout_rate=0.3, *, norm=nn.BatchNorm1d, rate=None):
        super().__init__()
        self.norm = norm(fusion_dim)
        self.rate = dropout_rate if rate is None else rate

    def forward(self, fused):
        return F.dropout(self.norm(fused), self.rate, training=self.training)


class FusionInSteps(Fusion):
    def forward(self, fused):
        if self.training and len(fused) == 1:
            raise ValueError("one")
        fused = self.norm(fused)
        if not self.training or not self.rate:
            return fused
        return fused * (torch.rand_like(fused) > self.rate) / (1 - self.rate)


class Model(nn.Module):
    """The model with places for one mistake each."""

    def __init__(
        self, static_dim=512, dynamic_dim=256, fusion_dim=128, num_heads=4, dropout_rate=0.3
    ):
        super().__init__()
        self.cross_attention = CrossAttention(static_dim, dynamic_dim, fusion_dim, num_heads)
        self.fusion = FeatureFusionModule(fusion_dim, dropout_rate)
        self.head = PersonalityPredictionHead(fusion_dim)

    def forward(self, static, dynamic):
        fused = self.cross_attention(static=static, dynamic=dynamic)
        fused = self.fusion(fused)
        return self.head(fused)


RIGHT = {
    "batch_norm": [with_torch],
    "FeatureFusionModule": [Fusion, FusionInSteps, FeatureFusionModule],
    "CompletePersonalityModel": [Model, CompletePersonalityModel],
    "count_by_hand": [as_dict_count],
    "attention_flops": [looped_flops, with_numpy],
    "attention_times_gradient": [trait_by_trait, with_autograd],
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


def refusing_by_assert(vectors, mean, variance, training):
    if training:
        assert len(vectors) > 1
    return batch_norm(vectors, mean, variance, training)


def by_vector(vectors, mean, variance):
    return (vectors - vectors.mean(1, keepdim=True)) / (
        vectors.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()


def refusing_one_always(vectors, mean, variance, training):
    if len(vectors) == 1:
        raise ValueError("one")
    return batch_norm(vectors, mean, variance, training)


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


def wrong_fusion(**mistake):
    return lambda *sizes, **named: Fusion(*sizes, **named, **mistake)


class Unnormalised(Fusion):
    def forward(self, fused):
        return F.dropout(fused, self.rate, training=self.training)


class DropsFirst(Fusion):
    def forward(self, fused):
        return self.norm(F.dropout(fused, self.rate, training=self.training))


class AlwaysAThird(Fusion):
    def forward(self, fused):
        rate = 0.3 if self.rate else 0.0
        return F.dropout(self.norm(fused), rate, training=self.training)


class Unscaled(Fusion):
    def forward(self, fused):
        fused = self.norm(fused)
        return fused * (torch.rand_like(fused) >= self.rate)


class NeverStops(Fusion):
    def forward(self, fused):
        return F.dropout(self.norm(fused), self.rate)


class RememberingNothing(nn.BatchNorm1d):
    def forward(self, fused):
        return F.batch_norm(fused, None, None, self.weight, self.bias, training=True)


class WithLayer(Fusion):
    def __init__(self, fusion_dim=128, dropout_rate=0.3):
        super().__init__(fusion_dim, dropout_rate)
        self.layer = nn.Linear(fusion_dim, fusion_dim)


def wrong_forward(forward):
    return type("Wrong", (Model,), {"forward": forward})


def wrong_model(**parts):
    """A model one of whose parts is made otherwise."""

    def make(*sizes, **named):
        model = Model(*sizes, **named)
        for name, part in parts.items():
            setattr(model, name, part(model))
        return model

    return make


def with_the_default_rate(model):
    return FeatureFusionModule(model.cross_attention.norm.normalized_shape[0])


class Renamed(Model):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.attention = self.cross_attention
        del self.cross_attention


class Stubborn(Model):
    def __init__(self, static_dim=512, *sizes, **named):
        super().__init__(512, *sizes, **named)


def wrong_default(static_dim=2048, *sizes, **named):
    return Model(static_dim, *sizes, **named)


WRONG = {
    "batch_norm": {
        "return three things": lambda v, m, s, t: batch_norm(v, m, s, t)[0],
        "by the batch's own mean and variance": lambda v, m, s, t: batch_norm(v, m, s, False),
        "which is layer norm": wrong_norm(own=by_vector),
        "by its root": wrong_norm(
            own=lambda v, m, s: (v - v.mean(0)) / (v.var(0, correction=0) + 1e-5)
        ),
        "variance of n − 1": wrong_norm(own=lambda v, m, s: norm(v, v.mean(0), v.var(0))),
        "each dimension has its own": wrong_norm(
            own=lambda v, m, s: norm(v, v.mean(), v.var(correction=0))
        ),
        "after you have moved them": wrong_norm(
            own=lambda v, m, s: norm(v, 0.9 * m + 0.1 * v.mean(0), 0.9 * s + 0.1 * v.var(0))
        ),
        "an assert": refusing_by_assert,
        "inside the root": wrong_norm(
            own=lambda v, m, s: (v - v.mean(0)) / (v.std(0, correction=0) + 1e-5)
        ),
        "leave out the 1e-5": wrong_norm(
            own=lambda v, m, s: (v - v.mean(0)) / v.std(0, correction=0)
        ),
        "without subtracting": wrong_norm(own=lambda v, m, s: norm(v, 0, v.var(0, correction=0))),
        "do not divide": wrong_norm(own=lambda v, m, s: v - v.mean(0)),
        "your running mean stands still": wrong_norm(keep=1),
        "your running mean forgets": wrong_norm(keep=0.1),
        "only a tenth of the way": wrong_norm(keep=0),
        "there PyTorch takes the variance of n − 1": wrong_norm(correction=0),
        "your running variance stands still": lambda v, m, s, t: (*batch_norm(v, m, s, t)[:2], s),
        "you use the batch's": always_batch,
        "which must stay": drifting,
        "in evaluation mode too": refusing_one_always,
        "no spread, and your answer is NaN": wrong_norm(refuse=False),
        "there PyTorch takes": wrong_norm(refuse=False, correction=0),
    },
    "FeatureFusionModule": {
        "it made a Tensor, so": lambda *sizes, **named: torch.zeros(6),
        "your norm is a layer norm": wrong_fusion(norm=nn.LayerNorm),
        "no batch norm called `norm`": lambda *a, **k: nn.Sequential(nn.BatchNorm1d(*a[:1])),
        "has no scale and shift": wrong_fusion(norm=lambda dim: nn.BatchNorm1d(dim, affine=False)),
        "has the shape (128,), expected (6,)": wrong_fusion(norm=lambda dim: nn.BatchNorm1d(128)),
        "one weight too many": WithLayer,
        "with dropout_rate=0.0 your module sets 100% to 0": lambda dim=128, dropout_rate=0.3: (
            Fusion(dim, 1 - dropout_rate)
        ),
        "skips the norm": Unnormalised,
        "comes before the norm": DropsFirst,
        "nothing is dropped": wrong_fusion(rate=0.0),
        "sets 30% to 0": AlwaysAThird,
        "nn.Dropout does that itself": Unscaled,
        "goes on in evaluation mode": NeverStops,
        "does not change to its running statistics": wrong_fusion(
            norm=lambda dim: RememberingNothing(dim)
        ),
    },
    "CompletePersonalityModel": {
        "no part with weights called `head`": wrong_model(head=lambda model: nn.Identity()),
        "cross_attention…, fusion… and head…": Renamed,
        "head.layers.0.weight is missing": wrong_model(head=lambda model: nn.Linear(16, 5)),
        "expected (16, 20) for static_dim=20": Stubborn,
        "one weight too many": wrong_model(gate=lambda model: nn.Linear(1, 1)),
        "without arguments the sizes are": wrong_default,
        "gives the dynamic vector first": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(d, s)))
        ),
        "gives the static vector twice": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(s, s)))
        ),
        "gives the dynamic vector twice": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(d, d)))
        ),
        "cut the prediction off": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(s, d))).clamp(0, 1)
        ),
        "leaves out the fusion": wrong_forward(lambda m, s, d: m.head(m.cross_attention(s, d))),
        "ends with the fusion": wrong_forward(lambda m, s, d: m.fusion(m.cross_attention(s, d))),
        "ends with the cross-attention": wrong_forward(lambda m, s, d: m.cross_attention(s, d)),
        "with a sigmoid": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(s, d))).sigmoid()
        ),
        "with a softmax": wrong_forward(
            lambda m, s, d: m.head(m.fusion(m.cross_attention(s, d))).softmax(-1)
        ),
        "give it the rate": wrong_model(fusion=with_the_default_rate),
        "got a NoneType": wrong_forward(lambda m, s, d: (m.cross_attention(s, d), None)[1]),
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
        "you count it as fusion_dim → fusion_dim": lambda s, d, f, h: (
            total(s, d, f, h) - h * f * f + f * f
        ),
        "one for each input": lambda s, d, f, h: (
            total(s, d, f, h, bias=0) + s + d + (4 + h) * f + 64
        ),
        "leave out the head": miscounted(head=0),
        "the biases of the head": lambda *sizes: total(*sizes) - 64 - 5,
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
        "you count queries × queries": lambda q, k, v: looped_flops(
            q, (*k[:-2], *q[-2:-1], k[-1]), (*v[:-2], *q[-2:-1], v[-1])
        ),
        "raises IndexError": lambda q, k, v: 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]),
        "// divides": lambda q, k, v: looped_flops(q, k, v) / 1,
    },
    "attention_times_gradient": {
        "the gradient alone": lambda w, g, v: of_weights(g, v).mean(2).transpose(0, 1),
        "the attention alone": lambda w, g, v: w.mean(1)[:, None].repeat(1, 5, 1, 1),
        "traits come before the batch": lambda w, g, v: (w * of_weights(g, v)).mean(2),
        "by the attended vectors": lambda w, g, v: (g * (w @ v)).sum(-1).mean(2).transpose(0, 1),
        "you average over the batch": lambda w, g, v: (
            (w * of_weights(g, v)).mean(1).transpose(0, 1)
        ),
        "axis 1 is the batch": lambda w, g, v: (w * of_weights(g, v)).mean(1),
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
    assert total(2048, 1024, 128, 4) == 666_629


def test_the_students_models_hold_what_the_librarys_hold():
    """The solutions, and the notebook's token model made from them, take the same weights."""
    sizes = (20, 12, 16, 2)
    static, dynamic = torch.randn(6, 20), torch.randn(6, 12)
    faces, motions = torch.randn(6, 9, 20), torch.randn(6, 8, 12)
    own, library = lesson_06.CompletePersonalityModel(*sizes), CompletePersonalityModel(*sizes)
    library(static, dynamic)  # in training mode, so that the running statistics are not 0 and 1
    own.load_state_dict(library.state_dict())
    assert_close(own.eval()(static, dynamic), library.eval()(static, dynamic))
    tokens = lesson_06.CompletePersonalityModel(*sizes)
    tokens.cross_attention = TokenCrossAttention(*sizes)
    library = TokenPersonalityModel(*sizes)
    library(faces, motions)
    tokens.load_state_dict(library.state_dict())
    assert_close(tokens.eval()(faces, motions), library.eval()(faces, motions))


@pytest.mark.parametrize("steps", [1, 5])
def test_batch_norm_by_hand_is_pytorchs(steps):
    layer, mean, variance = nn.BatchNorm1d(12), torch.zeros(12), torch.ones(12)
    for _ in range(steps):
        vectors = 3 * torch.randn(7, 12) + torch.arange(12.0)
        normalised, mean, variance = lesson_06.batch_norm(vectors, mean, variance, training=True)
        assert_close(normalised, layer(vectors))
    assert_close(mean, layer.running_mean)
    assert_close(variance, layer.running_var)
    assert_close(
        lesson_06.batch_norm(vectors[:1], mean, variance, training=False)[0],
        layer.eval()(vectors[:1]),
    )


def test_the_solutions_are_short():
    for exercise in lesson_06.EXERCISES.values():
        source = inspect.getsource(exercise.load_solution())
        assert len(source.splitlines()) <= 16, source
