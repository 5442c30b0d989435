"""The exercises of lesson 04: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

from course_lib.lessons import check, lesson_04
from course_lib.lessons.lesson_04 import EXERCISES, MultiHeadAttention
from course_lib.models import TokenCrossAttention, VisualizableCrossAttention, time_positions


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
    output, weights = attending()(q.detach(), k.detach(), v)
    return output, weights


def comparing(score):
    def attend(q, k, v):
        weights = score(q, k).softmax(-1)
        return weights @ v, weights

    return attend


def cosine(q, k):
    return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT


def shares(q, k, v):
    scores = q @ k.mT
    weights = scores / scores.sum(-1, keepdim=True)
    return weights @ v, weights


# masked_attend


def fused_masked(q, k, v, mask):
    mask = mask.expand(*q.shape[:-1], k.shape[-2])
    every = torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2])
    return tuple(F.scaled_dot_product_attention(q, k, x, mask).nan_to_num(0) for x in (v, every))


def renormalised(q, k, v, mask):
    """Exponentials, where masked ones are 0, divided by their sum or by 1."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    raised = (scores - scores.amax(-1, keepdim=True)).exp() * mask
    weights = raised / raised.sum(-1, keepdim=True).clamp(min=1e-30)
    return weights @ v, weights


def masking(change, after=lambda weights, mask: weights, output=lambda weights, own: weights):
    def masked_attend(q, k, v, mask):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        weights = after(change(scores, mask).softmax(-1), mask)
        return output(weights, scores.softmax(-1)) @ v, weights

    return masked_attend


def unlikely(scores, mask):
    return scores.masked_fill(~mask, -math.inf)


# time_positions


def looped_positions(keys, dim):
    table = torch.zeros(keys, dim)
    for t in range(keys):
        for column in range(dim):
            angle = t / 10_000 ** (2 * (column // 2) / dim)
            table[t, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table


def sliced_positions(keys, dim):
    angles = torch.arange(keys)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, dim, 2) / dim)
    table = torch.empty(keys, dim)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def halves(keys, dim):
    table = looped_positions(keys, dim)
    return torch.cat([table[:, ::2], table[:, 1::2]], 1)


def waves(angle, start=0):
    def positions(keys, dim):
        t = torch.arange(start, start + keys)[:, None]
        angles = angle(t, torch.arange(dim // 2), dim)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

    return positions


def own_rates(keys, dim, factor=1):
    angles = torch.arange(keys)[:, None] * 1e4 ** (-factor * torch.arange(dim) / dim)
    return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos())


# TokenCrossAttention


class Layer(nn.Module):
    """Right, in other words; its subclasses make one mistake each."""

    def __init__(self, static_dim, dynamic_dim, dim=128, heads=4):
        super().__init__()
        for name, width in {"face": static_dim, "motion": dynamic_dim}.items():
            parts = nn.LayerNorm(width), nn.Linear(width, dim)
            setattr(self, f"project_{name}", nn.Sequential(*parts))
        for name in ("query_norm", "key_norm", "norm"):
            setattr(self, name, nn.LayerNorm(dim))
        self.attention = VisualizableCrossAttention(dim, dim, dim, self.heads(heads))
        self.importance = nn.Sequential(
            nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1), nn.Softmax(dim=1)
        )

    def heads(self, heads):
        return heads

    def key(self, motion):
        return self.key_norm(motion + self.places(motion))

    def places(self, motion):
        return looped_positions(motion.shape[1], motion.shape[2])

    def value(self, motion):
        return motion

    def query(self, face):
        return self.query_norm(face)

    def outputs(self, face, attended):
        return self.norm(attended + face)

    def pool(self, outputs, face):
        importance = self.importance(outputs)
        self.last_importance = importance.detach().squeeze(-1)
        return einsum(importance[..., 0], outputs, "batch queries, batch queries dim -> batch dim")

    def forward(self, face_tokens, motion_tokens):
        face, motion = self.project_face(face_tokens), self.project_motion(motion_tokens)
        attended = self.attention(self.query(face), self.key(motion), self.value(motion))
        return self.pool(self.outputs(face, attended), face)


def changed(**methods):
    """`Layer` with other methods."""
    return type("Changed", (Layer,), methods)


def face_importance(self, outputs, face):
    self.last_importance = self.importance(face).detach()[..., 0]
    return (self.importance(face) * outputs).sum(1)


def not_kept(self, outputs, face):
    return (self.importance(outputs) * outputs).sum(1)


def kept_with_an_axis(self, outputs, face):
    self.last_importance = self.importance(outputs)
    return (self.last_importance * outputs).sum(1)


def kept_with_its_graph(self, outputs, face):
    self.last_importance = self.importance(outputs)[..., 0]
    return (self.last_importance[..., None] * outputs).sum(1)


class Renamed(Layer):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.out_norm = self.norm
        del self.norm


class LinearOnly(Layer):
    def __init__(self, static_dim, dynamic_dim, dim=128, heads=4):
        super().__init__(static_dim, dynamic_dim, dim, heads)
        self.project_face = nn.Linear(static_dim, dim)


class NormOfTheOutput(Layer):
    def __init__(self, static_dim, dynamic_dim, dim=128, heads=4):
        super().__init__(static_dim, dynamic_dim, dim, heads)
        self.project_face[0] = nn.LayerNorm(dim)


class Extra(Layer):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.output = nn.Linear(2, 2)


class QueryResidual(Layer):
    def outputs(self, face, attended):
        return self.norm(attended + self.query_norm(face))


class NoSoftmax(Layer):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.importance = self.importance[:3]


class Narrow(Layer):
    def __init__(self, static_dim, dynamic_dim, dim=64, heads=4):
        super().__init__(static_dim, dynamic_dim, dim, heads)


RIGHT = {
    "attend": [attending(), fused, explicit],
    "split_heads": [
        lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 2),
        lambda x, heads: torch.stack(x.chunk(heads, -1), 1),
    ],
    "masked_attend": [
        fused_masked,
        renormalised,
        masking(
            lambda scores, mask: scores.masked_fill(~mask, -1e9),
            lambda weights, mask: weights * mask,
        ),
    ],
    "time_positions": [looped_positions, sliced_positions, time_positions],
    "TokenCrossAttention": [Layer, changed(places=lambda self, m: sliced_positions(*m.shape[1:]))],
}
WRONG = {
    "attend": {
        "do not divide": attending(scale=lambda q, k: 1),
        "its square root": attending(scale=lambda q, k: q.shape[-1]),
        "runs over the queries": attending(axis=-2),
        "number of keys": attending(scale=lambda q, k: k.shape[-2] ** 0.5),
        "weigh the values": attending(values=lambda k, v: k),
        "return two things": lambda q, k, v: attending()(q, k, v)[0],
        "output comes first": lambda q, k, v: attending()(q, k, v)[::-1],
        "dim 2 only": attending(scale=lambda q, k: 2**0.5),
        "number of queries": attending(scale=lambda q, k: q.shape[-2] ** 0.5),
        "exp overflows": overflowing,
        "input": detached,
        "values' dim": lambda q, k, v: comparing(lambda q, k: q @ k.mT / v.shape[-1] ** 0.5)(
            q, k, v
        ),
        "by the cosine": comparing(cosine),
        "as well": comparing(lambda q, k: cosine(q, k) / q.shape[-1] ** 0.5),
        "are not a softmax": shares,
    },
    "split_heads": {
        "memory order": lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
        "neighbours": lambda x, heads: rearrange(x, "b t (d h) -> b h t d", h=heads),
        "after the tokens": lambda x, heads: x.unflatten(-1, (heads, -1)),
    },
    "masked_attend": {
        "no effect": masking(lambda scores, mask: scores),
        "wrong way round": masking(
            lambda scores, mask: scores.masked_fill(mask, -math.inf),
            lambda weights, mask: weights.nan_to_num(0),
        ),
        "no longer sum to 1": masking(
            lambda scores, mask: scores, lambda weights, mask: weights * mask
        ),
        "exp(0) is 1": masking(lambda scores, mask: scores * mask),
        "these are scores": lambda q, k, v, mask: (
            v,
            unlikely(q @ k.mT / q.shape[-1] ** 0.5, mask),
        ),
        "is not masked": masking(
            unlikely, lambda weights, mask: weights.nan_to_num(0), lambda weights, own: own
        ),
        "gets NaN": masking(unlikely),
        "the same weight for each": masking(lambda scores, mask: scores.masked_fill(~mask, -1e9)),
        "return two things": lambda q, k, v, mask: fused_masked(q, k, v, mask)[0],
        "as `attend` does": masking(
            lambda scores, mask: unlikely(scores * 2, mask),  # dim is 4
            lambda weights, mask: weights.nan_to_num(0),
        ),
    },
    "time_positions": {
        "sines come first": halves,
        "before the sines": lambda keys, dim: rearrange(
            looped_positions(keys, dim).unflatten(1, (-1, 2)).flip(-1), "t i w -> t (i w)"
        ),
        "from 1; the first is 0": waves(lambda t, i, dim: t / 1e4 ** (2 * i / dim), start=1),
        "exponent 2i/dim": waves(lambda t, i, dim: t / 1e4 ** (i / dim)),
        "rates grow": waves(lambda t, i, dim: t * 1e4 ** (2 * i / dim)),
        "a rate of its own": own_rates,
        "axes are swapped": lambda keys, dim: looped_positions(keys, dim).T,
        "return angles": lambda keys, dim: (
            torch.arange(keys)[:, None] * 1e4 ** (-torch.arange(0, dim, 2) / dim)
        ),
        "numbers the pairs": lambda keys, dim: own_rates(keys, dim, 2),
        "is 2i already": waves(lambda t, i, dim: t / 1e4 ** (4 * i / dim)),
        "dtype torch.float32": lambda keys, dim: looped_positions(keys, dim).double(),
    },
    "TokenCrossAttention": {
        "names of the drawing; norm.bias is missing, and yours has out_norm.bias": Renamed,
        "an nn.LayerNorm and an nn.Linear": LinearOnly,
        "project_face.0.weight has the shape": NormOfTheOutput,
        "is not in the drawing": Extra,
        "dim is 128": Narrow,
        "it made a Tensor": lambda *sizes: torch.ones(3),
        "positions are missing": changed(places=lambda self, motion: 0),
        "your values have positions": changed(
            value=lambda self, motion: motion + self.places(motion)
        ),
        "your values are the keys": changed(value=lambda self, motion: self.key(motion)),
        "your values are normalised": changed(value=lambda self, motion: self.key_norm(motion)),
        "before you add the positions": changed(
            key=lambda self, motion: self.key_norm(motion) + self.places(motion)
        ),
        "adds the queries": QueryResidual,
        "does not sum to 1": NoSoftmax,
        "query_norm is not used": changed(query=lambda self, face: face),
        "key_norm is not used": changed(key=lambda self, motion: motion + self.places(motion)),
        "residual connection is missing": changed(
            outputs=lambda self, face, attended: self.norm(attended)
        ),
        "last norm is missing": changed(outputs=lambda self, face, attended: face + attended),
        "before you add the face": changed(
            outputs=lambda self, face, attended: face + self.norm(attended)
        ),
        "you average the outputs": changed(pool=lambda self, outputs, face: outputs.mean(1)),
        "you add the outputs up": changed(pool=lambda self, outputs, face: outputs.sum(1)),
        "computed from the face": changed(pool=face_importance),
        "has 1 head": changed(heads=lambda self, heads: 1),
        "4 heads for every": changed(heads=lambda self, heads: 4),
        "in `self.last_importance`": changed(pool=not_kept),
        "take the last axis away": changed(pool=kept_with_an_axis),
        "detach last_importance": changed(pool=kept_with_its_graph),
    },
}


def test_the_solutions_are_pytorchs_layer():
    """The notebook's multi-head attention against PyTorch's own, with its weights."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, kdim=5, vdim=7, bias=False, batch_first=True)
    ours = MultiHeadAttention(12, 5, 7, heads=3)
    rows = (
        theirs.q_proj_weight,
        theirs.k_proj_weight,
        theirs.v_proj_weight,
        theirs.out_proj.weight,
    )
    ours.load_state_dict(dict(zip(ours.state_dict(), rows, strict=True)))
    inputs = torch.randn(2, 4, 12), torch.randn(2, 6, 5), torch.randn(2, 6, 7)
    expected, weights = theirs(*inputs, average_attn_weights=False)
    torch.testing.assert_close(ours(*inputs), expected)
    torch.testing.assert_close(ours.last_attn_weights, weights)


def test_the_whole_layer_is_the_librarys():
    """Weights of the library's layer load, and output, weights and importance are the same."""
    torch.manual_seed(0)
    library = TokenCrossAttention(24, 12, 16, 4)
    own = EXERCISES["TokenCrossAttention"].load_solution()(24, 12, 16, 4)
    own.load_state_dict(library.state_dict())
    library.attention.record = True
    face, motion = torch.randn(3, 49, 24), torch.randn(3, 8, 12)
    torch.testing.assert_close(own(face, motion), library(face, motion), atol=1e-6, rtol=0)
    weights = library.attention.last_attn_weights
    torch.testing.assert_close(own.attention.last_attn_weights, weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(own.last_importance, library.last_importance, atol=1e-6, rtol=0)


def test_turning_back_the_positions_moves_them_in_time():
    """What the lesson shows: one rotation for all moments, and scores that know only distances."""
    dim, steps = 32, 4
    positions = looped_positions(16, dim)
    turns = []
    for pair in range(dim // 2):
        angle = steps / 10_000 ** (2 * pair / dim)
        sine, cosine = math.sin(angle), math.cos(angle)
        turns.append(torch.tensor([[cosine, sine], [-sine, cosine]]))
    torch.testing.assert_close(positions[4:] @ torch.block_diag(*turns), positions[:-4])
    scores = positions @ positions.T
    for step in range(16):
        expected = scores[0, step].expand(16 - step)
        torch.testing.assert_close(scores.diagonal(step), expected, atol=1e-4, rtol=0)


def test_a_layer_whose_forward_is_not_written_is_a_stub(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))

    class Stub(nn.Module):
        """What to write."""

        def __init__(self, static_dim, dynamic_dim, dim=128, heads=4):
            super().__init__()
            ...

        def forward(self, face_tokens, motion_tokens): ...

    assert check("TokenCrossAttention", Stub) is lesson_04.TokenCrossAttention
    assert capsys.readouterr().out.startswith("○ TokenCrossAttention: not written yet")
