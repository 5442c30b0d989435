"""The exercises of lesson 11: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange


def tiles(regions, maps):
    """Each token's own pixels: `… rows columns pixels`."""
    rows, columns = maps.shape[-2:]
    return rearrange(regions, "... (r h) (c w) -> ... r c (h w)", r=rows, c=columns)


def literal_pointing(maps, regions):
    scores = []
    for values, region in zip(maps.flatten(0, -3), regions.flatten(0, -3), strict=True):
        touched = tiles(region, values).any(-1)
        ties = [(r, c) for r, c in (values == values.max()).nonzero().tolist()]
        scores.append(
            sum(touched[r, c].item() for r, c in ties) / len(ties) if region.any() else math.nan
        )
    return torch.tensor(scores).view(maps.shape[:-2])


def pooled_pointing(maps, regions):
    hit = F.max_pool2d(regions.float(), regions.shape[-1] // maps.shape[-1])
    top = (maps == maps.amax((-2, -1), keepdim=True)).float()
    score = (top * hit).sum((-2, -1)) / top.sum((-2, -1))
    return score.masked_fill(~regions.any(-1).any(-1), math.nan)


def known(score, regions):
    return torch.where(regions.flatten(-2).any(-1), score, math.nan)


def first_of_ties(maps, regions):
    touched = tiles(regions, maps).any(-1).flatten(-2).float()
    return known(touched.gather(-1, maps.flatten(-2).argmax(-1, keepdim=True))[..., 0], regions)


def in_the_middle(maps, regions):
    at = maps.flatten(-2).argmax(-1)
    side, columns = regions.shape[-1] // maps.shape[-1], maps.shape[-1]
    rows, across = (at // columns) * side + side // 2, (at % columns) * side + side // 2
    return torch.stack(
        [
            torch.stack([region[r, c] for region, r, c in zip(*row, strict=True)])
            for row in zip(regions, rows, across, strict=True)
        ]
    ).float()


def literal_mean(maps, chosen):
    return torch.stack(
        [
            sum((maps[i, a] for i in chosen[:, a].nonzero()[:, 0]), torch.zeros(maps.shape[2:]))
            / max(1, int(chosen[:, a].sum()))
            for a in range(maps.shape[1])
        ]
    )


def literal_place(
    regions, grid, count=lambda touched: touched.float().sum(0), touch=lambda pixels: pixels.any(-1)
):
    rows, columns = grid
    hit = touch(rearrange(regions, "b a (r h) (c w) -> b a (r c) (h w)", r=rows, c=columns))
    best = count(hit).argmax(-1)
    return torch.stack([hit[:, a, t] for a, t in enumerate(best.tolist())], 1)


def last_of_the_luckiest(regions, grid):
    """Where several tokens are equally lucky, another one."""
    hit = F.adaptive_max_pool2d(regions.float(), grid).flatten(2)
    backwards = hit.sum(0).flip(-1).argmax(-1)
    return hit[:, torch.arange(hit.shape[1]), hit.shape[2] - 1 - backwards] > 0


def most_covered(regions, grid):
    hit = F.adaptive_max_pool2d(regions.float(), grid).flatten(2)
    best = F.adaptive_avg_pool2d(regions.float(), grid).sum(0).flatten(1).argmax(-1)
    return hit[:, torch.arange(hit.shape[1]), best] > 0


def literal_deletion(
    model, images, attributes, maps, hidden, removed, strongest=True, output=torch.sigmoid
):
    curves = torch.zeros(len(images), len(removed))
    height, width = (
        pixels // tokens for pixels, tokens in zip(images.shape[-2:], maps.shape[-2:], strict=True)
    )
    for i, (image, a) in enumerate(zip(images, attributes, strict=True)):
        ranked = maps[i].flatten().argsort(descending=strongest).tolist()
        for step, count in enumerate(removed):
            now = image.clone()
            for token in ranked[:count]:
                r, c = divmod(token, maps.shape[2])
                place = (
                    slice(None),
                    slice(r * height, (r + 1) * height),
                    slice(c * width, (c + 1) * width),
                )
                now[place] = hidden[i][place]
            with torch.no_grad():
                curves[i, step] = output(model(now[None]))[0, a]
    return curves


def by_threshold(
    model,
    images,
    attributes,
    maps,
    hidden,
    removed,
    read=lambda answers, a: answers[range(len(a)), a],
):
    """Hides what is above the value of the first token that stays."""
    ordered = maps.flatten(1).sort(1, descending=True).values
    edges = torch.cat([ordered, torch.full((len(maps), 1), -math.inf)], 1)
    curve = []
    for count in removed:
        gone = (maps > edges[:, count, None, None])[:, None].float()
        gone = F.interpolate(gone, images.shape[-2:], mode="nearest-exact")
        curve.append(read(model(images * (1 - gone) + hidden * gone).sigmoid(), attributes))
    return torch.stack(curve, 1)


def index_for_rank(model, images, attributes, maps, hidden, removed):
    listed = maps.flatten(1).argsort(1, descending=True).view(maps.shape)
    return literal_deletion(model, images, attributes, -listed.float(), hidden, removed)


RIGHT = {
    "pointing_game": [literal_pointing, pooled_pointing],
    "mean_maps": [
        literal_mean,
        lambda maps, chosen: (
            torch.einsum("ba,barc->arc", chosen.float(), maps)
            / chosen.sum(0).clamp(min=1)[:, None, None]
        ),
    ],
    "pointing_at_one_place": [literal_place, last_of_the_luckiest],
    "deletion_curve": [literal_deletion, by_threshold],
}
WRONG = {
    "pointing_game": {
        "rows and columns are swapped": lambda m, r: literal_pointing(m.mT, r),
        "in the middle of the strongest token": in_the_middle,
        "cover half": lambda m, r: pooled_pointing(
            m, F.avg_pool2d(r.float(), 4).repeat_interleave(4, -1).repeat_interleave(4, -2) >= 0.5
        ).nan_to_num(0),
        "its energy": lambda m, r: (
            (m * tiles(r, m).float().mean(-1)).sum((-2, -1)) / m.sum((-2, -1))
        ),
        "the mean comes later": lambda m, r: literal_pointing(m, r).mean(),
        "nothing to hit": lambda m, r: literal_pointing(m, r).nan_to_num(0),
        "all that tie share the point": first_of_ties,
        "other way round": lambda m, r: 1 - literal_pointing(m, r),
    },
    "mean_maps": {
        "mean over all images": lambda maps, chosen: maps.mean(0),
        "number of all images": lambda maps, chosen: (maps * chosen[..., None, None]).mean(0),
        "add the maps up": lambda maps, chosen: (maps * chosen[..., None, None]).sum(0),
        "over the attributes too": lambda maps, chosen: maps[chosen].mean(0),
        "0 / 0": lambda maps, chosen: (
            (maps * chosen[..., None, None]).sum(0) / chosen.sum(0)[:, None, None]
        ),
        "do *not* count": lambda maps, chosen: literal_mean(maps, ~chosen),
    },
    "pointing_at_one_place": {
        "a token for each image": lambda regions, grid: regions.flatten(2).any(-1),
        "one token for all attributes": lambda regions, grid: literal_place(
            regions, grid, lambda hit: hit.float().sum((0, 1)).expand(hit.shape[1], -1)
        ),
        "cover most": most_covered,
        "torch.bool": lambda regions, grid: literal_place(regions, grid).float(),
        "yes or no": lambda regions, grid: literal_place(regions, grid).float().mean(0),
        "its luckiest token touches": lambda regions, grid: literal_place(
            regions, grid, touch=lambda p: p.float().mean(-1) > 0.5
        ),
    },
    "deletion_curve": {
        "weakest tokens first": lambda *a: literal_deletion(*a, strongest=False),
        "which token comes first": index_for_rank,
        "these are logits": lambda *a: literal_deletion(*a, output=lambda z: z),
        "that is insertion": lambda model, images, a, m, hidden, n: literal_deletion(
            model, hidden, a, m, images, n
        ),
        "the first for all": lambda *a: by_threshold(*a, read=lambda answers, which: answers[:, 0]),
        "the mean comes later": lambda *a: literal_deletion(*a).mean(0),
        "paint them black": lambda model, images, a, m, hidden, n: literal_deletion(
            model, images, a, m, hidden * 0, n
        ),
    },
}
