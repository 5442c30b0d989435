"""Answers to the exercises of lesson 10, right and wrong; `test_lessons.py` runs them."""

from itertools import pairwise

import torch
from einops import rearrange, reduce


def stepped(layers, clean, time, next_time, left=lambda time, next_time: 1 - time):
    return layers + (clean - layers) / left(time, next_time) * (next_time - time)


def on_the_line(layers, clean, time, next_time):
    """The noise that the line began in, then the point of the line at `next_time`."""
    noise = (layers - time * clean) / (1 - time)
    return (1 - next_time) * noise + next_time * clean


def tabled(weights, parts, over_keys="sum", over_queries="mean"):
    keys = reduce(weights, "... (parts tokens) -> ... parts", over_keys, parts=parts)
    return reduce(keys, "... (parts tokens) other -> ... parts other", over_queries, parts=parts)


def literal_matrix(weights, parts):
    asking, asked = weights.shape[-2] // parts, weights.shape[-1] // parts
    rows = [
        torch.stack(
            [
                weights[..., i * asking : (i + 1) * asking, j * asked : (j + 1) * asked]
                .sum(-1)
                .mean(-1)
                for j in range(parts)
            ],
            -1,
        )
        for i in range(parts)
    ]
    return torch.stack(rows, -2)


def looked(
    weights,
    layers,
    share=lambda held: held / held.sum(2, keepdim=True).clamp(min=1e-6),
    heads=lambda weights: weights.mean(1),
    order="(rows columns)",
    shape=True,
):
    parts, side = layers.shape[1], int(weights.shape[-1] ** 0.5)
    grid = int((weights.shape[2] // parts) ** 0.5)
    held = reduce(
        layers,
        f"batch parts (rows down) (columns across) -> batch parts {order}",
        "mean",
        rows=grid,
        columns=grid,
    )
    looks = rearrange(
        heads(weights), "batch (parts tokens) keys -> batch parts tokens keys", parts=parts
    )
    maps = torch.einsum("bpt,bptk->bpk", share(held), looks)
    return maps.unflatten(2, (side, side)) if shape else maps


def literal_looks(weights, layers):
    batch, _, queries, keys = weights.shape
    parts, size = layers.shape[1:3]
    grid, side = int((queries // parts) ** 0.5), int(keys**0.5)
    patch, maps = size // grid, torch.zeros(batch, parts, side, side)
    for item in range(batch):
        for part in range(parts):
            held = [
                layers[item, part, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].mean()
                for r in range(grid)
                for c in range(grid)
            ]
            for token, share in enumerate(held):
                if sum(held) > 0:
                    row = weights[item, :, part * grid * grid + token].mean(0)
                    maps[item, part] += share / sum(held) * row.view(side, side)
    return maps


def apart(
    maps,
    pairs=lambda common: common[..., *torch.triu_indices(common.shape[-1], common.shape[-1], 1)],
    present=lambda maps: maps.any(-1),
    mean=lambda values: values.nanmean(-1),
):
    common = torch.minimum(maps.unsqueeze(-2), maps.unsqueeze(-3)).sum(-1)
    both = present(maps).unsqueeze(-1) & present(maps).unsqueeze(-2)
    return mean(pairs(torch.where(both, 1 - common, torch.nan)))


def literal_separation(maps):
    flat = maps.reshape(-1, *maps.shape[-2:])
    answers = []
    for item in flat:
        there = [part for part in item if part.sum() > 0]
        distances = [(a - b).abs().sum() / 2 for i, a in enumerate(there) for b in there[i + 1 :]]
        answers.append(torch.stack(distances).mean())
    return torch.stack(answers).reshape(maps.shape[:-2])


def differences(maps):
    """Without the half, so twice too much."""
    first, second = torch.triu_indices(maps.shape[-2], maps.shape[-2], 1)
    return (maps[..., first, :] - maps[..., second, :]).abs().sum(-1).mean(-1)


def all_pairs(common):
    return common.flatten(-2)


def off_diagonal(common):
    return common.masked_fill(torch.eye(common.shape[-1]).bool(), 0).flatten(-2)


RIGHT = [
    ("euler_step", stepped),
    ("euler_step", on_the_line),
    ("part_matrix", tabled),
    ("part_matrix", literal_matrix),
    ("part_attention", looked),
    ("part_attention", literal_looks),
    ("step_stability", lambda maps: torch.minimum(maps[1:], maps[:-1]).sum(-1)),
    ("step_stability", lambda maps: 1 - (maps[1:] - maps[:-1]).clamp(min=0).sum(-1)),
    (
        "step_stability",
        lambda maps: torch.stack([torch.stack([a, b]).amin(0).sum(-1) for a, b in pairwise(maps)]),
    ),
    ("part_separation", apart),
    ("part_separation", literal_separation),
]
WRONG = [
    ("euler_step", lambda x, c, t, n: x + (n - t) * (c - x), "never arrives"),
    (
        "euler_step",
        lambda x, c, t, n: stepped(x, c, t, n, lambda t, n: t),
        "the time that has passed",
    ),
    ("euler_step", lambda x, c, t, n: 2 * x - stepped(x, c, t, n), "the wrong way"),
    ("euler_step", lambda x, c, t, n: c.clone(), "jumps to the clean layers"),
    ("euler_step", lambda x, c, t, n: (c - x) / (1 - t), "this is the velocity"),
    ("euler_step", lambda x, c, t, n: stepped(x, c, t, n) - x, "add it to where you are"),
    ("euler_step", lambda x, c, t, n: x + n * (c - x) / (1 - t), "not as next_time"),
    (
        "euler_step",
        lambda x, c, t, n: stepped(x, c, t, n, lambda t, n: 1 - n),
        "when the step *begins*",
    ),
    ("euler_step", lambda x, c, t, n: (1 - n) * x + n * c, "at [0, 0, 0, 0] expected"),
    ("part_matrix", lambda w, p: tabled(w, p, "mean"), "so that rows still sum to 1"),
    ("part_matrix", lambda w, p: tabled(w, p, "sum", "sum"), "average over the queries"),
    ("part_matrix", lambda w, p: tabled(w, p, "mean", "sum"), "sums and means are exchanged"),
    ("part_matrix", lambda w, p: tabled(w, p).mT, "transposed"),
    ("part_matrix", lambda w, p: tabled(w, p).mean(0), "average over the batch"),
    (
        "part_matrix",
        lambda w, p: w.unflatten(-1, (-1, p)).sum(-2).unflatten(-2, (-1, p)).mean(-3),
        "part after part",
    ),
    (
        "part_attention",
        lambda w, layers: looked(w, layers, lambda held: torch.full_like(held, 1 / held.shape[2])),
        "the plain mean over a part's tokens",
    ),
    (
        "part_attention",
        lambda w, layers: looked(w, layers, lambda held: held),
        "divide by how much is held",
    ),
    (
        "part_attention",
        lambda w, layers: looked(w, layers, heads=lambda w: w.sum(1)),
        "you add the heads",
    ),
    ("part_attention", lambda w, layers: looked(w, layers, shape=False), "lay them out as 4 × 4"),
    (
        "part_attention",
        lambda w, layers: looked(w, layers, order="(columns rows)"),
        "counted row by row",
    ),
    (
        "part_attention",
        lambda w, layers: looked(w, layers, lambda held: held / held.sum(2, keepdim=True)),
        "nothing divided by nothing is NaN",
    ),
    ("step_stability", lambda maps: (maps[1:] - maps[:-1]).abs().sum(-1), "counted twice"),
    (
        "step_stability",
        lambda maps: (maps[1:] - maps[:-1]).abs().sum(-1) / 2,
        "stability is what stayed",
    ),
    (
        "step_stability",
        lambda maps: 1 - (maps[1:] - maps[:-1]).abs().sum(-1),
        "half of the sum is what moved",
    ),
    (
        "step_stability",
        lambda maps: torch.minimum(maps[:1], maps[1:]).sum(-1),
        "compared with the first one",
    ),
    (
        "step_stability",
        lambda maps: torch.minimum(maps[:-1], maps[1:]).sum(-1).mean(0),
        "you average over steps",
    ),
    (
        "step_stability",
        lambda maps: torch.cosine_similarity(maps[:-1], maps[1:], dim=-1),
        "the cosine",
    ),
    ("part_separation", lambda maps: 1 - apart(maps), "what parts have in common"),
    ("part_separation", lambda maps: apart(maps, all_pairs), "leave the diagonal out"),
    (
        "part_separation",
        lambda maps: apart(maps, mean=lambda values: values.nansum(-1)),
        "take their mean",
    ),
    (
        "part_separation",
        lambda maps: apart(maps, off_diagonal, mean=lambda values: values.sum(-1) / 6),
        "each pair counts once",
    ),
    ("part_separation", lambda maps: apart(maps).mean(), "keep the leading axes"),
    ("part_separation", differences, "half the sum of differences"),
    (
        "part_separation",
        lambda maps: apart(maps, present=lambda maps: torch.ones_like(maps[..., 0]).bool()),
        "an empty map",
    ),
]
