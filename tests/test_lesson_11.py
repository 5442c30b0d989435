"""The exercises of lesson 11: right answers pass however they are written, wrong ones read their
mistake.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.lessons import lesson_11
from course_lib.looking import faithfulness, localisation


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


def literal_effect(model, before, after, output=0):
    changes = []
    for one, other in zip(before, after, strict=True):
        with torch.no_grad():
            odds = [model(x[None])[0, output].item() for x in (one, other)]
        p, q = (1 / (1 + math.exp(-z)) for z in odds)
        changes.append(q - p)
    return torch.tensor(changes)


def effect_of_all(model, before, after, output=0):
    with torch.inference_mode():
        probabilities = torch.sigmoid(model(torch.cat([before, after])))[:, output]
    return probabilities[len(before) :] - probabilities[: len(before)]


def literal_superiority(first, second):
    return sum((a > b) + (a == b) / 2 for a in first.tolist() for b in second.tolist()) / (
        len(first) * len(second)
    )


def pairs_won(first, second, tie=0.0):
    return float(sum((a > b) + tie * (a == b) for a in first.tolist() for b in second.tolist()))


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
    "intervention_effect": [literal_effect, effect_of_all],
    "pointing_at_one_place": [literal_place, last_of_the_luckiest],
    "deletion_curve": [literal_deletion, by_threshold],
    "superiority": [
        literal_superiority,
        lambda first, second: torch.sign(first[:, None] - second).mean() / 2 + 0.5,
    ],
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
    "intervention_effect": {
        "after minus before": lambda model, b, a, output=0: literal_effect(model, a, b, output),
        "differences of logits": lambda model, b, a, output=0: (model(a) - model(b))[
            :, output
        ].detach(),
        "column is `output`": lambda model, b, a, output=0: literal_effect(model, b, a),
        "drop the sign": lambda *arguments: literal_effect(*arguments).abs(),
        "the mean comes later": lambda *arguments: literal_effect(*arguments).mean(),
        "all outputs": lambda model, b, a, output=0: (
            model(a).sigmoid() - model(b).sigmoid()
        ).detach(),
        "in place": lambda model, b, a, output=0: (
            literal_effect(model, b, a.clone(), output) + 0 * a.mul_(0.5).sum()
        ),
    },
    "superiority": {
        "`second` is larger": lambda first, second: literal_superiority(second, first),
        "divide by how many": lambda first, second: pairs_won(first, second, 0.5),
        "count it as lost": lambda first, second: (
            pairs_won(first, second) / (len(first) * len(second))
        ),
        "count it in full": lambda first, second: (
            pairs_won(first, second, 1.0) / (len(first) * len(second))
        ),
        "leave such pairs out": lambda first, second: (
            pairs_won(first, second) / int((first[:, None] != second).sum())
        ),
        "compare the two means": lambda first, second: float(first.mean() > second.mean()),
        "one number": lambda first, second: (first[:, None] > second).float(),
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


def test_the_solutions_are_the_librarys_measures():
    torch.manual_seed(0)
    maps, regions = torch.rand(12, 2, 7, 7), torch.rand(12, 2, 28, 28) < 0.01
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 2)).eval()
    images, hidden = torch.rand(12, 3, 28, 28), torch.rand(12, 3, 28, 28)
    which, removed = torch.arange(12) % 2, [0, 3, 49]
    for name, room, arguments in (
        ("pointing_game", localisation, (maps, regions)),
        ("pointing_at_one_place", localisation, (regions, (7, 7))),
        ("deletion_curve", faithfulness, (model, images, which, maps[:, 0], hidden, removed)),
        ("intervention_effect", faithfulness, (model, images, hidden, 1)),
    ):
        short, whole = (getattr(module, name)(*arguments) for module in (lesson_11, room))
        torch.testing.assert_close(short, whole, equal_nan=True)
