"""The exercises of lesson 04: cross-attention, from a look-up to the whole layer."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES"]


# --------------------------------------------------------------------------------------------------
# Solutions, as a student would write them


def attend(q, k, v):
    """softmax(q kᵀ / √dim) v, and the weights."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def split_heads(x, heads):
    """Cut each token's vector into `heads` equal parts: `batch tokens width` to `batch heads tokens dim`."""
    return rearrange(x, "batch tokens (heads dim) -> batch heads tokens dim", heads=heads)


class MultiHeadAttention(nn.Module):
    """Learned projections around `attend`, as the notebook defines it."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(query_dim, query_dim, bias=False)
        self.to_key = nn.Linear(key_dim, query_dim, bias=False)
        self.to_value = nn.Linear(value_dim, query_dim, bias=False)
        self.to_output = nn.Linear(query_dim, query_dim, bias=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = self.to_query(query), self.to_key(key), self.to_value(value)
        output, weights = attend(*(split_heads(x, self.heads) for x in (q, k, v)))
        self.last_attn_weights = weights.detach()
        return self.to_output(
            rearrange(output, "batch heads tokens dim -> batch tokens (heads dim)")
        )


def masked_attend(q, k, v, mask):
    """`attend`, where a query may attend to a key only if `mask` is True; zeros if to none."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1).nan_to_num(0)
    return weights @ v, weights


def time_positions(keys, dim):
    """`keys dim`: sines in the even columns and cosines in the odd ones, one rate for each pair."""
    rates = 10_000 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(keys)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class TokenCrossAttention(nn.Module):
    """Face tokens attend to motion tokens; the outputs are pooled into one vector for each clip."""

    def __init__(self, static_dim, dynamic_dim, dim=128, heads=4):
        super().__init__()
        self.project_face = nn.Sequential(nn.LayerNorm(static_dim), nn.Linear(static_dim, dim))
        self.project_motion = nn.Sequential(nn.LayerNorm(dynamic_dim), nn.Linear(dynamic_dim, dim))
        self.query_norm, self.key_norm, self.norm = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = MultiHeadAttention(dim, dim, dim, heads)
        scores = nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1)
        self.importance = nn.Sequential(*scores, nn.Softmax(dim=1))

    def forward(self, face_tokens, motion_tokens):
        face, motion = self.project_face(face_tokens), self.project_motion(motion_tokens)
        positions = time_positions(*motion.shape[1:]).to(motion)
        query, key = self.query_norm(face), self.key_norm(motion + positions)
        attended = self.norm(face + self.attention(query, key, motion))
        importance = self.importance(attended)
        self.last_importance = importance[..., 0].detach()
        return (importance * attended).sum(dim=1)


# --------------------------------------------------------------------------------------------------
# attend


def _pair(result) -> tuple:
    if not isinstance(result, tuple) or len(result) != 2:
        raise Mistake(
            "return two things: the weighted mean of the values, and the weights, in this order"
        )
    return result


def attend_is_a_weighted_mean(student: Callable, library: Callable) -> None:
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    output, weights = _pair(student(q, k, v))
    scores = q @ k.mT
    right = (scores / 2).softmax(-1)
    if isinstance(output, Tensor) and output.shape == right.shape:
        raise Mistake(
            "the output comes first and the weights second; what you return first has the shape of weights"
        )
    expect(
        weights,
        right,
        {
            "you do not divide the scores by √dim; large dims would make the softmax a hard choice": scores.softmax(
                -1
            ),
            "you divide by dim; divide by its square root": (scores / 4).softmax(-1),
            "you divide by √2, which is right for dim 2 only; dim is the last axis of q": (
                (scores / math.sqrt(2)).softmax(-1)
            ),
            "you divide by the square root of the number of queries; divide by that of dim": (
                (scores / math.sqrt(3)).softmax(-1)
            ),
            "your softmax runs over the queries; each *query* spends one unit of attention over the keys (dim=-1)": (
                (scores / 2).softmax(-2)
            ),
            "your softmax runs over the batch; take dim=-1": (scores / 2).softmax(0),
            "these are scores, not weights; take their softmax over the keys": scores / 2,
            "you divide by the square root of the number of keys; divide by that of dim": (
                (scores / math.sqrt(5)).softmax(-1)
            ),
            "you divide after the softmax, so rows do not sum to 1; divide the scores": (
                scores.softmax(-1) / 2
            ),
            "you divide by the square root of the values' dim; divide by that of the queries and keys": (
                (scores / math.sqrt(6)).softmax(-1)
            ),
            "you compare by the cosine; the score is the scalar product, so lengths count too": (
                torch.cosine_similarity(q[:, :, None], k[:, None], dim=-1).softmax(-1)
            ),
            "you divide by the lengths of queries and keys as well; the score is q · k / √dim": (
                (torch.cosine_similarity(q[:, :, None], k[:, None], dim=-1) / 2).softmax(-1)
            ),
            "your weights are not a softmax; exponentiate the scores, then divide by their sum": (
                scores / scores.sum(-1, keepdim=True)
            ),
        },
        given="for the weights, which come second",
    )
    expect(
        output,
        right @ v,
        {
            "you weigh the keys; weigh the values: keys decide the weights, values are what is averaged": (
                right @ k
            ),
        },
    )


def attend_of_any_size(student: Callable, library: Callable) -> None:
    for leading, queries, keys, dim in (((), 1, 1, 2), ((2, 4), 3, 7, 8), ((5,), 2, 1, 3)):
        q, k, v = (
            torch.randn(*leading, queries, dim),
            torch.randn(*leading, keys, dim),
            torch.randn(*leading, keys, 3),
        )
        given = f"for {len(leading)} leading axes, {queries} queries, {keys} keys and {dim=}"
        for came, answer in zip(_pair(student(q, k, v)), library(q, k, v), strict=True):
            expect(came, answer, given=given)


def attend_survives_large_scores(student: Callable, library: Callable) -> None:
    q, k, v = (
        torch.full((1, 1, 4), 60.0),
        torch.tensor([[[60.0] * 4, [0.0] * 4]]),
        torch.tensor([[[1.0], [5.0]]]),
    )
    output, _ = _pair(student(q, k, v))
    if not output.isfinite().all():
        raise Mistake(
            "large scores give NaN: exp overflows; use torch.softmax, which subtracts the largest"
            " first"
        )
    expect(output, torch.tensor([[[1.0]]]), given="for very large scores")


def attend_passes_gradients(student: Callable, library: Callable) -> None:
    q, k, v = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(3))
    for inputs in (q, k, v):
        expect_gradient(inputs, _pair(student(q, k, v))[0].square())


# --------------------------------------------------------------------------------------------------
# split_heads


def heads_are_contiguous_parts(student: Callable, library: Callable) -> None:
    x = torch.randn(2, 5, 12)
    expect(
        student(x, 3),
        library(x, 3),
        {
            "you reshape across tokens: `view(batch, heads, tokens, dim)` deals the numbers out in memory order; split the last axis first, then move `heads` before `tokens`": x.reshape(
                2, 3, 5, 4
            ),
            "each head takes every third number; PyTorch's heads take neighbours: (heads dim), not (dim heads)": (
                x.unflatten(-1, (4, 3)).permute(0, 3, 1, 2)
            ),
            "your heads come after the tokens; attention treats all axes before tokens as batch, so move heads there": x.unflatten(
                -1, (3, 4)
            ),
            "your heads come before the batch; keep the batch first": (
                x.unflatten(-1, (3, 4)).permute(2, 0, 1, 3)
            ),
        },
    )


def heads_of_any_number(student: Callable, library: Callable) -> None:
    for shape, heads in (((1, 1, 1), 1), ((3, 49, 128), 4), ((2, 7, 6), 6), ((2, 8, 10), 1)):
        x = torch.randn(shape, dtype=torch.float64)
        expect(student(x, heads), library(x, heads), given=f"for x of shape {shape} and {heads=}")


# --------------------------------------------------------------------------------------------------
# masked_attend


def masked_keys_get_nothing(student: Callable, library: Callable) -> None:
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    mask = torch.rand(2, 3, 5) > 0.4
    mask[..., 0] = True
    scores = q @ k.mT / 2
    output, weights = _pair(student(q, k, v, mask))
    everything = torch.eye(5).expand(2, 5, 5)
    expect(
        weights,
        F.scaled_dot_product_attention(q, k, everything, mask),
        {
            "your mask has no effect; use it before the softmax, and keep what masked_fill returns, because it does not change the scores in place": scores.softmax(
                -1
            ),
            "you do not divide the scores by √dim, as `attend` does": (
                (q @ k.mT).masked_fill(~mask, -math.inf).softmax(-1)
            ),
            "you mask the wrong way round; True means that the query *may* attend to the key": (
                scores.masked_fill(mask, -math.inf).softmax(-1).nan_to_num(0)
            ),
            "you set weights to 0 after the softmax, so rows no longer sum to 1; set scores to -inf before it": (
                scores.softmax(-1) * mask
            ),
            "you set masked scores to 0, and exp(0) is 1, so a masked key still gets weight; set them to -inf": (
                (scores * mask).softmax(-1)
            ),
            "these are scores, not weights; take their softmax over the keys": scores.masked_fill(
                ~mask, -math.inf
            ),
        },
        given="for the weights, which come second",
    )
    expect(
        output,
        F.scaled_dot_product_attention(q, k, v, mask),
        {
            "your output is not masked; it is weights @ v, with the masked weights": scores.softmax(
                -1
            )
            @ v
        },
    )


def a_query_without_keys_gets_zeros(student: Callable, library: Callable) -> None:
    q, k, v = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.randn(1, 3, 6)
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    output, weights = _pair(student(q, k, v, mask))
    if weights.isnan().any() or output.isnan().any():
        raise Mistake(
            "a query that may attend to no key gets NaN, because a row of nothing but -inf has no"
            " softmax; the docstring wants zeros"
        )
    if torch.allclose(weights[0, 1], torch.tensor(1 / 3)):
        raise Mistake(
            "a query that may attend to no key gets the same weight for each masked key; the"
            " docstring wants zeros"
        )
    expect(weights[0, 1], torch.zeros(3), given="for a query that may attend to no key")
    expect(output[0, 1], torch.zeros(6), given="for a query that may attend to no key")


def masks_of_other_shapes(student: Callable, library: Callable) -> None:
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 2)
    for shape in ((5,), (3, 5), (2, 1, 1, 5)):
        mask = torch.rand(shape) > 0.5
        mask[..., -1] = True
        for came, answer in zip(_pair(student(q, k, v, mask)), library(q, k, v, mask), strict=True):
            expect(
                came, answer, given=f"for q of shape {tuple(q.shape)} and a mask of shape {shape}"
            )


# --------------------------------------------------------------------------------------------------
# time_positions


def _positions(keys: int, dim: int, rate: Callable[[int], float], start: int = 0) -> Tensor:
    """Sines and cosines of each angle by the standard library; `rate` of a pair of columns."""
    rows = [[t * rate(pair) for pair in range(dim // 2)] for t in range(start, start + keys)]
    waves = [[wave(angle) for angle in row for wave in (math.sin, math.cos)] for row in rows]
    return torch.tensor(waves)


def _columns(keys: int, dim: int, rate: Callable[[int], float]) -> Tensor:
    """Sines and cosines in turn, where each column has a `rate` of its own."""
    waves = [
        [(math.sin, math.cos)[column % 2](t * rate(column)) for column in range(dim)]
        for t in range(keys)
    ]
    return torch.tensor(waves)


def positions_are_sines_and_cosines(student: Callable, library: Callable) -> None:
    right = _positions(4, 6, lambda pair: 10_000 ** (-2 * pair / 6))
    came = student(4, 6)
    if isinstance(came, Tensor) and came.dtype == torch.float64:
        raise Mistake("positions are float64; the docstring wants the dtype torch.float32")
    expect(
        came,
        right,
        {
            "all your sines come first and then all cosines; alternate them, column by column": (
                torch.cat([right[:, ::2], right[:, 1::2]], dim=1)
            ),
            "your cosines come before the sines; even columns are sines": (
                right.unflatten(1, (3, 2)).flip(-1).flatten(1)
            ),
            "you count the moments from 1; the first is 0": _positions(
                4, 6, lambda pair: 10_000 ** (-2 * pair / 6), start=1
            ),
            "your exponent is i/dim; a pair of columns i has the exponent 2i/dim": _positions(
                4, 6, lambda pair: 10_000 ** (-pair / 6)
            ),
            "you use the column's number as i; i numbers the pairs of columns: 0, 1, …, dim/2 − 1": (
                _columns(4, 6, lambda column: 10_000 ** (-2 * column / 6))
            ),
            "your exponent is 4i/dim; `arange(0, dim, 2)` is 2i already": _positions(
                4, 6, lambda pair: 10_000 ** (-4 * pair / 6)
            ),
            "your rates grow; divide t by 10000^(2i/dim), so that later columns turn more slowly": (
                _positions(4, 6, lambda pair: 10_000 ** (2 * pair / 6))
            ),
            "every column has a rate of its own; a sine and its cosine share one": _columns(
                4, 6, lambda column: 10_000 ** (-column / 6)
            ),
            "your axes are swapped; return `keys dim`": right.T,
            "you return angles; take their sine and cosine": torch.tensor(
                [[t * 10_000 ** (-2 * pair / 6) for pair in range(3)] for t in range(4)]
            ),
        },
        tolerance=1e-3,  # a wrong answer with large angles is not more precise
    )


def positions_of_any_size(student: Callable, library: Callable) -> None:
    for keys, dim in ((1, 2), (8, 128), (49, 6)):
        expected = _positions(keys, dim, lambda pair, dim=dim: 10_000 ** (-2 * pair / dim))
        expect(student(keys, dim), expected, given=f"for {keys=} and {dim=}")


# --------------------------------------------------------------------------------------------------
# TokenCrossAttention


def layer_has_the_stored_names(student: Callable, library: Callable) -> None:
    layer = student(6, 5, 8, 2)
    if not isinstance(layer, nn.Module):
        raise Mistake(
            f"`TokenCrossAttention(…)` must make a module; it made a {type(layer).__name__}, so"
            " write a class that inherits from nn.Module"
        )
    own, expected = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for module in (layer, library(6, 5, 8, 2))
    )
    missing, extra = sorted(expected.keys() - own.keys()), sorted(own.keys() - expected.keys())
    if missing and all(name.startswith("project_") for name in missing + extra):
        raise Mistake(
            "each projection is an nn.Sequential of an nn.LayerNorm and an nn.Linear, in this"
            f" order; {missing[0]} is missing"
        )
    if missing:
        raise Mistake(
            f"the trained weights need the names of the drawing; {missing[0]} is missing"
            + (f", and yours has {extra[0]}" if extra else "")
        )
    if extra:
        raise Mistake(f"{extra[0]} is not in the drawing, so no trained weight would load into it")
    for name, shape in expected.items():
        if own[name] != shape:
            raise Mistake(
                f"{name} has the shape {own[name]}, expected {shape} for"
                " TokenCrossAttention(6, 5, 8, 2)"
            )
    if student(6, 5).state_dict()["norm.weight"].shape != (128,):
        raise Mistake("dim is 128 unless it is given, as in the stub")


def _filled_layers(student: Callable, library: Callable, *sizes: int) -> tuple[nn.Module, ...]:
    """The student's layer and the library's with the same weights, none of them an initial one."""
    layer, example = student(*sizes), library(*sizes)
    with torch.no_grad():
        for parameter in example.parameters():
            parameter.copy_(torch.randn_like(parameter))
    layer.load_state_dict(example.state_dict())
    return layer, example


def _with(
    layer: nn.Module,
    face_tokens: Tensor,
    motion_tokens: Tensor,
    positions: float = 1.0,
    on_values: float = 0.0,
    values: str = "motion",
    query_norm: bool = True,
    key_norm: bool = True,
    key_norm_first: bool = False,
    residual: float = 1.0,
    residual_from: str = "face",
    norm: bool = True,
    norm_first: bool = False,
    heads: int | None = None,
    pooling: str = "importance",
) -> Tensor:
    """What a layer with these weights gives if something is left out or done elsewhere."""
    face, motion = layer.project_face(face_tokens), layer.project_motion(motion_tokens)
    places = time_positions(*motion.shape[1:])
    query = layer.query_norm(face) if query_norm else face
    key = motion + positions * places
    key = layer.key_norm(key) if key_norm else key
    if key_norm_first:
        key = layer.key_norm(motion) + positions * places
    if values == "keys":
        motion = key
    elif values == "normalised":
        motion = layer.key_norm(motion)
    own = layer.attention.heads
    layer.attention.heads = heads or own
    attended = layer.attention(query, key, motion + on_values * places)
    layer.attention.heads = own
    if residual_from == "query":
        face = query
    if norm_first:
        attended = face + layer.norm(attended)
    else:
        attended = residual * face + attended
        attended = layer.norm(attended) if norm else attended
    if pooling == "mean":
        return attended.mean(dim=1)
    if pooling == "sum":
        return attended.sum(dim=1)
    if pooling == "scores":
        return (layer.importance[:3](attended) * attended).sum(dim=1)
    of = attended if pooling == "importance" else face
    return (layer.importance(of) * attended).sum(dim=1)


def layer_does_what_the_drawing_says(student: Callable, library: Callable) -> None:
    layer, example = _filled_layers(student, library, 6, 5, 8, 2)
    face, motion = torch.randn(3, 4, 6), torch.randn(3, 7, 5)
    with torch.no_grad():
        came = layer(face, motion)
        wrong = {
            sentence: _with(example, face, motion, **change)
            for sentence, change in {
                "positions are missing; add time_positions to the projected motion before key_norm": {
                    "positions": 0.0
                },
                "your values have positions too; only the keys get them, the values are the projected motion": {
                    "on_values": 1.0
                },
                "your values are the keys; the values are the projected motion, without positions and norm": {
                    "values": "keys"
                },
                "your values are normalised; the values are the projected motion": {
                    "values": "normalised"
                },
                "you normalise the keys before you add the positions; the drawing adds first": {
                    "key_norm_first": True
                },
                "your residual connection adds the queries; add the projected face, before query_norm": {
                    "residual_from": "query"
                },
                "query_norm is not used; the queries are query_norm(face)": {"query_norm": False},
                "key_norm is not used; the keys are key_norm(motion + positions)": {
                    "key_norm": False
                },
                "the residual connection is missing; add the projected face to the output of attention": {
                    "residual": 0.0
                },
                "the last norm is missing: norm(face + attention(…))": {"norm": False},
                "you normalise before you add the face; the drawing adds first": {
                    "norm_first": True
                },
                "you average the outputs; weight each one by its importance": {"pooling": "mean"},
                "you add the outputs up; weight each one by its importance, a softmax over the face tokens (dim=1)": {
                    "pooling": "sum"
                },
                "your importance does not sum to 1 over the face tokens; end it with nn.Softmax(dim=1)": {
                    "pooling": "scores"
                },
                "your importance is computed from the face; compute it from the normalised outputs": {
                    "pooling": "face"
                },
                "your attention has 1 head; give it `heads`": {"heads": 1},
                "your attention has 4 heads for every `heads`; give it `heads`": {"heads": 4},
            }.items()
        }
        expect(came, example(face, motion), wrong)


def importance_is_kept(student: Callable, library: Callable) -> None:
    layer, example = _filled_layers(student, library, 6, 5, 8, 2)
    face, motion = torch.randn(3, 4, 6), torch.randn(3, 7, 5)
    layer(face, motion)
    example(face, motion)
    came = getattr(layer, "last_importance", None)
    if came is None:
        raise Mistake("keep the importance of each face token in `self.last_importance`")
    if isinstance(came, Tensor) and came.shape == (3, 4, 1):
        raise Mistake("last_importance is `batch queries`; take the last axis away: [..., 0]")
    expect(came, example.last_importance, given="for last_importance")
    if came.requires_grad:
        raise Mistake("detach last_importance, so that it keeps no graph alive")


def layer_of_any_size(student: Callable, library: Callable) -> None:
    for sizes, places, moments in (((8, 4, 12, 3), 49, 8), ((3, 3, 4, 1), 1, 1)):
        layer, example = _filled_layers(student, library, *sizes)
        face, motion = torch.randn(2, places, sizes[0]), torch.randn(2, moments, sizes[1])
        with torch.no_grad():
            given = f"for TokenCrossAttention{sizes}, {places} face and {moments} motion tokens"
            expect(layer(face, motion), example(face, motion), given=given)


EXERCISES = {
    "attend": Exercise(
        solution="course_lib.lessons.lesson_04:attend",
        hints=(
            (
                "A query scores every key by their scalar product. The scores of one query become"
                " weights that sum to 1, and the weights average the values."
            ),
            (
                "q (… queries dim), k (… keys dim) → scores (… queries keys); weights @ v → (…"
                " queries value_dim)."
            ),
            (
                "scores = q @ k transposed / √dim; weights = softmax of scores over the last axis;"
                " return weights @ v, weights"
            ),
        ),
        properties=(
            attend_is_a_weighted_mean,
            attend_of_any_size,
            attend_survives_large_scores,
            attend_passes_gradients,
        ),
    ),
    "split_heads": Exercise(
        solution="course_lib.lessons.lesson_04:split_heads",
        hints=(
            "A head is a slice of each token's vector. No number changes; only the axes do.",
            (
                "(batch tokens width) → (batch heads tokens dim), width = heads · dim, the parts of"
                " one head side by side."
            ),
            'rearrange(x, "batch tokens (heads dim) -> …", heads=heads)',
        ),
        properties=(heads_are_contiguous_parts, heads_of_any_number),
    ),
    "masked_attend": Exercise(
        solution="course_lib.lessons.lesson_04:masked_attend",
        hints=(
            (
                "A weight of 0 needs a score of -inf, because exp(-inf) = 0. What does a row of"
                " nothing but -inf give?"
            ),
            (
                "scores (… queries keys); the mask is boolean and broadcasts to that shape; ~mask"
                " turns it round."
            ),
            (
                "scores as in `attend`; scores.masked_fill(~mask, -inf); softmax; NaN becomes 0"
                " (nan_to_num); return weights @ v, weights"
            ),
        ),
        properties=(
            masked_keys_get_nothing,
            a_query_without_keys_gets_zeros,
            masks_of_other_shapes,
        ),
    ),
    "time_positions": Exercise(
        solution="course_lib.lessons.lesson_04:time_positions",
        hints=(
            "First the angles: one for each moment and each pair of columns. Then two waves of each.",
            "t (keys 1) times rates (dim / 2) → angles (keys dim/2) → stacked (keys dim/2 2) → keys dim.",
            (
                "rates = 10000 ** (-arange(0, dim, 2) / dim); angles = arange(keys) as a column ·"
                " rates; stack sin and cos along a last axis, then flatten(1)"
            ),
        ),
        properties=(positions_are_sines_and_cosines, positions_of_any_size),
    ),
    "TokenCrossAttention": Exercise(
        solution="course_lib.lessons.lesson_04:TokenCrossAttention",
        hints=(
            (
                "`__init__` makes the boxes of the drawing, under the names of the drawing."
                " `forward` follows its arrows from left to right."
            ),
            (
                "face (batch 49 dim), motion (batch 8 dim), attended (batch 49 dim), importance"
                " (batch 49 1) → batch dim."
            ),
            (
                "face, motion = projections; query = query_norm(face); key = key_norm(motion +"
                " positions); attended = norm(face + attention(query, key, motion)); importance ="
                " self.importance(attended); keep it; sum importance · attended over dim=1"
            ),
        ),
        properties=(
            layer_has_the_stored_names,
            layer_does_what_the_drawing_says,
            importance_is_kept,
            layer_of_any_size,
        ),
    ),
}
