"""Answers to the exercises of lesson 10, right and wrong; `test_lessons.py` runs them."""

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


RIGHT = {
    "attribute_map": [laid_out, literal_map],
    "attributes_of_rarity": [listed, masked_sort],
    "blind_spots": [
        spots,
        literal_spots,
        lambda p, t, y, h: {
            "missed": torch.logical_and(y > 0.5, p < t),
            "false alarm": torch.logical_and(y < 0.5, p >= t),
            "found off region": (y > 0.5) & (p >= t) & (h < 0.5),
        },
    ],
    "attention_rollout": [rolled, literal_rollout],
}
WRONG = {
    "attribute_map": {
        "the axes are heads, attributes, tokens": lambda w, a, h=-1: laid_out(w, h, a),
        "lay them out on their grid": lambda w, a, h=-1: laid_out(w, a, h).flatten(),
        "row by row": lambda w, a, h=-1: laid_out(w, a, h, order=lambda grid: grid.T),
        "although one is asked for": lambda w, a, h=-1: laid_out(w, a, -1),
        "a second softmax": lambda w, a, h=-1: laid_out(w.softmax(-1), a, h),
        "stretched to its own": lambda w, a, h=-1: laid_out(w, a, h) / laid_out(w, a, h).max(),
        "-1 is the last head": last_head,
        "still sums to 1": lambda w, a, h=-1: laid_out(w, a, h, mean=lambda rows: rows.sum(0)),
        "the largest over": lambda w, a, h=-1: laid_out(w, a, h, mean=lambda rows: rows.amax(0)),
        "over all attributes": lambda w, a, h=-1: (
            laid_out(w, a, h) if h >= 0 else w.mean((0, 1)).view(3, 3)
        ),
        "raises RuntimeError": lambda w, a, h=-1: laid_out(w, a, h).reshape(3, 3),
    },
    "attributes_of_rarity": {
        "with the most": lambda f, r: listed(f, r, order=lambda pairs: sorted(pairs, reverse=True)),
        "keep the order of the attributes": lambda f, r: listed(f, r, order=list),
        "places in the shorter list": places_in_the_shorter,
        "you return frequencies": lambda f, r: [float(f[k]) for k in listed(f, r)],
        "28% have does not belong there": lambda f, r: listed(f, r, common=lambda f: f >= 0.10),
        "8% have belongs there": lambda f, r: listed(f, r, rare=lambda f: f < 0.05),
        "the first of them twice": looked_up,
        "got a int": lambda f, r: len(listed(f, r)),
    },
    "blind_spots": {
        "its own threshold": lambda p, t, y, h: spots(p, torch.full_like(t, 0.5), y, h),
        "these are false alarms": lambda p, t, y, h: spots(
            p, t, y, h, missed=lambda said, is_so, h: said & ~is_so
        ),
        "what is really": lambda p, t, y, h: spots(p, t, y, h, missed=lambda said, is_so, h: ~said),
        "is absent": lambda p, t, y, h: spots(p, t, y, h, false_alarm=lambda said, is_so, h: said),
        "what was missed was not found": lambda p, t, y, h: spots(
            p, t, y, h, found_off_region=lambda said, is_so, h: is_so & (h < 0.5)
        ),
        "faces that do not have the attribute": lambda p, t, y, h: spots(
            p, t, y, h, found_off_region=lambda said, is_so, h: said & (h < 0.5)
        ),
        "all that look elsewhere": lambda p, t, y, h: spots(
            p, t, y, h, found_off_region=lambda said, is_so, h: h < 0.5
        ),
        "a probability that equals its": lambda p, t, y, h: spots(p, t, y, h, said=torch.gt),
        "it is unknown": lambda p, t, y, h: spots(p, t, y, h, absent=lambda y: ~(y == 1)),
        "no region is known": lambda p, t, y, h: spots(p, t, y, h, off=lambda h: ~(h >= 0.5)),
        "expected a dict with the keys": lambda p, t, y, h: spots(p, t, y, h)["missed"],
        "True and False": lambda p, t, y, h: {k: v.float() for k, v in spots(p, t, y, h).items()},
    },
    "attention_rollout": {
        "wrong order": lambda ls, r=0.5: rolled(ls, r, compose=lambda flow, layer: flow @ layer),
        "forget the skip connection": lambda ls, r=0.5: rolled(ls, 0.0),
        "not halve": lambda ls, r=0.5: rolled(ls, r, compose=lambda flow, layer: 2 * layer @ flow),
        "average them first": each_head,
        "the mean of": lambda ls, r=0.5: torch.stack([rolled([layer], r) for layer in ls]).mean(0),
        "the last layer alone": lambda ls, r=0.5: rolled(ls[-1:], r),
        "number by": lambda ls, r=0.5: torch.stack([rolled([layer], r) for layer in ls]).prod(0),
        "(residual=0)": lambda ls, r=0.5: rolled(ls, 0.5),
    },
}
