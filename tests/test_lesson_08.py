"""Answers to the exercises of lesson 08, right and wrong; `test_lessons.py` runs them."""

import torch


def laid_out(weights, attribute, head=-1, mean=lambda rows: rows.mean(0), order=lambda grid: grid):
    rows = weights[:, attribute]
    row = mean(rows) if head == -1 else rows[head]
    side = int(row.numel() ** 0.5)
    return order(row.reshape(side, side))


def literal_map(weights, attribute, head=-1):
    heads, _, tokens = weights.shape
    side = int(tokens**0.5)
    grid = torch.zeros(side, side)
    for row in range(side):
        for column in range(side):
            seen = [weights[h, attribute, row * side + column] for h in range(heads)]
            grid[row, column] = sum(seen) / heads if head < 0 else seen[head]
    return grid


def last_head(weights, attribute, head=-1):
    return weights[head, attribute].reshape(int(weights.shape[2] ** 0.5), -1)


def listed(
    frequencies,
    rarity,
    rare=lambda f: f < 0.10,
    common=lambda f: f > 0.30,
    order=lambda pairs: sorted(pairs),
):
    groups = {"all": lambda f: True, "rare": rare, "common": common}
    return [
        k
        for f, k in order([(f, k) for k, f in enumerate(frequencies.tolist())])
        if groups[rarity](f)
    ]


def masked_sort(frequencies, rarity):
    order = torch.argsort(frequencies)
    if rarity == "rare":
        return order[frequencies[order] < 0.10]
    return order[frequencies[order] > 0.30] if rarity == "common" else order


def places_in_the_shorter(frequencies, rarity):
    return torch.argsort(
        frequencies[torch.tensor(sorted(listed(frequencies, rarity)), dtype=torch.long)]
    ).tolist()


def looked_up(frequencies, rarity):
    shares = frequencies.tolist()
    return [shares.index(shares[k]) for k in listed(frequencies, rarity)]


def spots(
    probabilities,
    thresholds,
    truth,
    hits,
    said=lambda p, t: p >= t,
    absent=lambda truth: truth == 0,
    off=lambda hits: hits < 0.5,
    **changed,
):
    predicted, present = said(probabilities, thresholds), truth == 1
    right = {
        "missed": present & ~predicted,
        "false alarm": absent(truth) & predicted,
        "found off region": present & predicted & off(hits),
    }
    return right | {
        name.replace("_", " "): make(predicted, present, hits) for name, make in changed.items()
    }


def literal_spots(probabilities, thresholds, truth, hits):
    out = {
        name: torch.zeros(truth.shape, dtype=torch.bool)
        for name in ("missed", "false alarm", "found off region")
    }
    for i in range(truth.shape[0]):
        for a in range(truth.shape[1]):
            said = probabilities[i, a].item() >= thresholds[a].item()
            if truth[i, a].item() == 1.0:
                out["missed"][i, a] = not said
                out["found off region"][i, a] = said and hits[i, a].item() < 0.5
            elif truth[i, a].item() == 0.0:
                out["false alarm"][i, a] = said
    return out


def rolled(
    layers,
    residual=0.5,
    first=lambda layer: layer.mean(1),
    compose=lambda flow, layer: layer @ flow,
):
    tokens = layers[0].shape[-1]
    flow = torch.eye(tokens).expand(len(layers[0]), -1, -1)
    for layer in layers:
        flow = compose(flow, residual * torch.eye(tokens) + (1 - residual) * first(layer))
    return flow


def literal_rollout(layers, residual=0.5):
    """From the outputs back to the inputs, token by token."""
    batch, _, tokens, _ = layers[0].shape
    flow = torch.zeros(batch, tokens, tokens)
    for item in range(batch):
        for start in range(tokens):
            share = torch.zeros(tokens)
            share[start] = 1
            for layer in reversed(layers):
                share = residual * share + (1 - residual) * sum(
                    s * row for s, row in zip(share, layer[item].mean(0), strict=True)
                )
            flow[item, start] = share
    return flow


def each_head(layers, residual=0.5):
    heads = [residual * torch.eye(layer.shape[-1]) + (1 - residual) * layer for layer in layers]
    flow = heads[0]
    for layer in heads[1:]:
        flow = layer @ flow
    return flow.mean(1)


RIGHT = [
    ("attribute_map", laid_out),
    ("attribute_map", literal_map),
    ("attributes_of_rarity", listed),
    ("attributes_of_rarity", masked_sort),
    ("blind_spots", spots),
    ("blind_spots", literal_spots),
    (
        "blind_spots",
        lambda p, t, y, h: {
            "missed": torch.logical_and(y > 0.5, p < t),
            "false alarm": torch.logical_and(y < 0.5, p >= t),
            "found off region": (y > 0.5) & (p >= t) & (h < 0.5),
        },
    ),
    ("attention_rollout", rolled),
    ("attention_rollout", literal_rollout),
]
WRONG = [
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, h, a),
        "the axes are heads, attributes, tokens",
    ),
    ("attribute_map", lambda w, a, h=-1: laid_out(w, a, h).flatten(), "lay them out on their grid"),
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, a, h, order=lambda grid: grid.T),
        "row by row",
    ),
    ("attribute_map", lambda w, a, h=-1: laid_out(w, a, -1), "although one is asked for"),
    ("attribute_map", lambda w, a, h=-1: laid_out(w.softmax(-1), a, h), "a second softmax"),
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, a, h) / laid_out(w, a, h).max(),
        "stretched to its own maximum",
    ),
    ("attribute_map", last_head, "-1 is the last head"),
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, a, h, mean=lambda rows: rows.sum(0)),
        "still sums to 1",
    ),
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, a, h, mean=lambda rows: rows.amax(0)),
        "the largest over the",
    ),
    (
        "attribute_map",
        lambda w, a, h=-1: laid_out(w, a, h) if h >= 0 else w.mean((0, 1)).view(3, 3),
        "over all attributes",
    ),
    ("attribute_map", lambda w, a, h=-1: laid_out(w, a, h).reshape(3, 3), "raises RuntimeError"),
    (
        "attributes_of_rarity",
        lambda f, r: listed(f, r, order=lambda pairs: sorted(pairs, reverse=True)),
        "begin with the most frequent",
    ),
    (
        "attributes_of_rarity",
        lambda f, r: listed(f, r, order=list),
        "keep the order of the attributes",
    ),
    ("attributes_of_rarity", places_in_the_shorter, "places in the shorter list"),
    (
        "attributes_of_rarity",
        lambda f, r: [float(f[k]) for k in listed(f, r)],
        "you return frequencies",
    ),
    (
        "attributes_of_rarity",
        lambda f, r: listed(f, r, common=lambda f: f >= 0.10),
        "28% have does not belong there",
    ),
    (
        "attributes_of_rarity",
        lambda f, r: listed(f, r, rare=lambda f: f < 0.05),
        "8% have belongs there",
    ),
    ("attributes_of_rarity", looked_up, "the first of them twice"),
    ("attributes_of_rarity", lambda f, r: len(listed(f, r)), "came a int"),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, torch.full_like(t, 0.5), y, h),
        "its own threshold",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, missed=lambda said, is_so, h: said & ~is_so),
        "these are false alarms",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, missed=lambda said, is_so, h: ~said),
        "only what is really there",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, false_alarm=lambda said, is_so, h: said),
        "a false alarm is absent",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(
            p, t, y, h, found_off_region=lambda said, is_so, h: is_so & (h < 0.5)
        ),
        "what was missed was not found",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(
            p, t, y, h, found_off_region=lambda said, is_so, h: said & (h < 0.5)
        ),
        "faces that do not have the attribute",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, found_off_region=lambda said, is_so, h: h < 0.5),
        "all that look elsewhere",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, said=torch.gt),
        "a probability that equals its threshold",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, absent=lambda y: ~(y == 1)),
        "it is unknown",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h, off=lambda h: ~(h >= 0.5)),
        "no region is known",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: spots(p, t, y, h)["missed"],
        "expected a dict with the keys",
    ),
    (
        "blind_spots",
        lambda p, t, y, h: {k: v.float() for k, v in spots(p, t, y, h).items()},
        "True and False",
    ),
    (
        "attention_rollout",
        lambda ls, r=0.5: rolled(ls, r, compose=lambda flow, layer: flow @ layer),
        "wrong order",
    ),
    ("attention_rollout", lambda ls, r=0.5: rolled(ls, 0.0), "forget the skip connection"),
    (
        "attention_rollout",
        lambda ls, r=0.5: rolled(ls, r, compose=lambda flow, layer: 2 * layer @ flow),
        "do not halve",
    ),
    ("attention_rollout", each_head, "average them first"),
    (
        "attention_rollout",
        lambda ls, r=0.5: torch.stack([rolled([layer], r) for layer in ls]).mean(0),
        "the mean of the layers",
    ),
    ("attention_rollout", lambda ls, r=0.5: rolled(ls[-1:], r), "the last layer alone"),
    (
        "attention_rollout",
        lambda ls, r=0.5: torch.stack([rolled([layer], r) for layer in ls]).prod(0),
        "number by number",
    ),
    ("attention_rollout", lambda ls, r=0.5: rolled(ls, 0.5), "(residual=0)"),
]
