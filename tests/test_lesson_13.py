"""Answers to the exercises of lesson 13, right and wrong; `test_lessons.py` runs them."""

from itertools import pairwise

import torch
from einops import rearrange, reduce


def stepped(layers, clean, time, next_time, left=lambda time, next_time: 1 - time):
    return layers + (clean - layers) / left(time, next_time) * (next_time - time)


def on_the_line(layers, clean, time, next_time):
    """The noise that the line began in, then the point of the line at `next_time`."""
    noise = (layers - time * clean) / (1 - time)
    return (1 - next_time) * noise + next_time * clean


def on_a_line(
    model,
    clean,
    noise,
    time,
    noisy=lambda clean, noise, t: noise + t * (clean - noise),
    target=lambda clean, noise, noisy: clean,
    mean=lambda values: values.mean(),
):
    at = noisy(clean, noise, time[:, None])
    return mean((model(at, time) - target(clean, noise, at)).square())


def point_by_point(model, clean, noise, time):
    at = torch.stack([(1 - t) * n + t * c for c, n, t in zip(clean, noise, time, strict=True)])
    return torch.nn.functional.mse_loss(model(at, time), clean)


def walked(predict, noise, times, ask=None, step=stepped):
    x = noise
    for time, next_time in pairwise(times):
        x = step(
            x,
            predict(x, time) if ask is None else ask(predict, x, time, next_time),
            time,
            next_time,
        )
    return x


def by_velocity(predict, noise, times):
    x = noise.clone()
    for k in range(len(times) - 1):
        x += (times[k + 1] - times[k]) * (predict(x.clone(), times[k]) - x) / (1 - times[k])
    return x


def walked_on_the_noise(predict, noise, times):
    for k in range(len(times) - 1):
        noise += (times[k + 1] - times[k]) * (predict(noise, times[k]) - noise) / (1 - times[k])
    return noise


def even(times):
    return [k / (len(times) - 1) for k in range(len(times))]


def looked(
    weights,
    layers,
    share=lambda held: held / held.sum(2, keepdim=True).clamp(min=1e-6),
    heads=lambda weights: weights.mean(1),
    order="(rows columns)",
    shape=lambda side: (side, 2 * side),
):
    parts, side = layers.shape[1], int((weights.shape[-1] / 2) ** 0.5)
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
    return maps.unflatten(2, shape(side)) if shape else maps


def literal_looks(weights, layers):
    batch, _, queries, keys = weights.shape
    parts, size = layers.shape[1:3]
    grid, side = int((queries // parts) ** 0.5), int((keys / 2) ** 0.5)
    patch, maps = size // grid, torch.zeros(batch, parts, side, 2 * side)
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
                    maps[item, part] += share / sum(held) * row.view(side, 2 * side)
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


RIGHT = {
    "flow_loss": [on_a_line, point_by_point],
    "euler_step": [stepped, on_the_line],
    "flow_sample": [walked, by_velocity],
    "part_attention": [looked, literal_looks],
    "step_stability": [
        lambda maps: torch.minimum(maps[1:], maps[:-1]).sum(-1),
        lambda maps: 1 - (maps[1:] - maps[:-1]).clamp(min=0).sum(-1),
        lambda maps: torch.stack([torch.stack([a, b]).amin(0).sum(-1) for a, b in pairwise(maps)]),
    ],
    "part_separation": [apart, literal_separation],
}
WRONG = {
    "flow_loss": {
        "runs the wrong way": lambda *given: on_a_line(
            *given, noisy=lambda clean, noise, t: clean + t * (noise - clean)
        ),
        "with the noise": lambda *given: on_a_line(*given, target=lambda c, n, at: n),
        "with the velocity": lambda *given: on_a_line(*given, target=lambda c, n, at: c - n),
        "with the point between": lambda *given: on_a_line(*given, target=lambda c, n, at: at),
        "gets the clean point": lambda *given: on_a_line(*given, noisy=lambda c, n, t: c),
        "gets pure noise": lambda *given: on_a_line(*given, noisy=lambda c, n, t: n),
        "has to become less": lambda *given: on_a_line(*given, noisy=lambda c, n, t: n + t * c),
        "add the squares": lambda *given: on_a_line(*given, mean=lambda values: values.sum()),
        "one number for each point": lambda *given: on_a_line(
            *given, mean=lambda values: values.mean(1)
        ),
        "no gradient": lambda *given: on_a_line(*given).detach(),
    },
    "euler_step": {
        "never arrives": lambda x, c, t, n: x + (n - t) * (c - x),
        "the time that has passed": lambda x, c, t, n: stepped(x, c, t, n, lambda t, n: t),
        "the wrong way": lambda x, c, t, n: 2 * x - stepped(x, c, t, n),
        "jumps to the clean layers": lambda x, c, t, n: c.clone(),
        "this is the velocity": lambda x, c, t, n: (c - x) / (1 - t),
        "add it to where you are": lambda x, c, t, n: stepped(x, c, t, n) - x,
        "not as next_time": lambda x, c, t, n: x + n * (c - x) / (1 - t),
        "when the step *begins*": lambda x, c, t, n: stepped(x, c, t, n, lambda t, n: 1 - n),
        "at [0, 0, 0, 0] expected": lambda x, c, t, n: (1 - n) * x + n * c,
    },
    "flow_sample": {
        "you keep the answer of the first": lambda p, noise, times: walked(
            p, noise, times, lambda p, x, t, n: p(noise, times[0])
        ),
        "asked about the noise": lambda p, noise, times: walked(
            p, noise, times, lambda p, x, t, n: p(noise, t)
        ),
        "the one at which it begins": lambda p, noise, times: walked(
            p, noise, times, lambda p, x, t, n: p(x, n)
        ),
        "the last step is missing": lambda p, noise, times: walked(p, noise, times[:-1]),
        "equally long": lambda p, noise, times: walked(p, noise, even(times)),
        "changes its input in place": walked_on_the_noise,
        "you made 2": lambda p, noise, times: walked(
            p, noise, times, lambda p, x, t, n: (p(x, t) + p(x, t)) / 2
        ),
    },
    "part_attention": {
        "the plain mean over a part's tokens": lambda w, layers: looked(
            w, layers, lambda held: torch.full_like(held, 1 / held.shape[2])
        ),
        "divide by how much is held": lambda w, layers: looked(w, layers, lambda held: held),
        "you add the heads": lambda w, layers: looked(w, layers, heads=lambda w: w.sum(1)),
        "lay them out as 3 × 6": lambda w, layers: looked(w, layers, shape=None),
        "not 6 rows of 3": lambda w, layers: looked(w, layers, shape=lambda side: (2 * side, side)),
        "counted row by row": lambda w, layers: looked(w, layers, order="(columns rows)"),
        "nothing divided by nothing is NaN": lambda w, layers: looked(
            w, layers, lambda held: held / held.sum(2, keepdim=True)
        ),
    },
    "step_stability": {
        "counted twice": lambda maps: (maps[1:] - maps[:-1]).abs().sum(-1),
        "stability is what stayed": lambda maps: (maps[1:] - maps[:-1]).abs().sum(-1) / 2,
        "half of the sum is what moved": lambda maps: 1 - (maps[1:] - maps[:-1]).abs().sum(-1),
        "compared with the first one": lambda maps: torch.minimum(maps[:1], maps[1:]).sum(-1),
        "you average over steps": lambda maps: torch.minimum(maps[:-1], maps[1:]).sum(-1).mean(0),
        "the cosine": lambda maps: torch.cosine_similarity(maps[:-1], maps[1:], dim=-1),
    },
    "part_separation": {
        "what parts have in common": lambda maps: 1 - apart(maps),
        "leave the diagonal out": lambda maps: apart(maps, all_pairs),
        "take their mean": lambda maps: apart(maps, mean=lambda values: values.nansum(-1)),
        "each pair": lambda maps: apart(maps, off_diagonal, mean=lambda values: values.sum(-1) / 6),
        "keep the leading axes": lambda maps: apart(maps).mean(),
        "half the sum of differences": differences,
        "an empty map": lambda maps: apart(
            maps, present=lambda maps: torch.ones_like(maps[..., 0]).bool()
        ),
    },
}
