"""The exercises of lesson 12: right answers pass however they are written, wrong ones read their
mistake; `test_lessons.py` runs them.
"""

import math

import numpy as np
import torch
from torch import Tensor


def literal_cost(positive, truth, miss, alarm, of=lambda prices: sum(prices) / len(prices)):
    columns = []
    for decided, there in zip(positive.T.tolist(), truth.T.tolist(), strict=True):
        prices = [
            miss if t and not d else alarm if d and not t else 0
            for d, t in zip(decided, there, strict=True)
        ]
        columns.append(of(prices))
    return torch.tensor(columns, dtype=torch.float32)


def cost_by_product(positive, truth, miss, alarm):
    wrong = (positive != truth).float()
    return (wrong * torch.where(truth, float(miss), float(alarm))).mean(0)


def literal_calibration(probabilities, targets, bins=15, reduce=None):
    out = []
    for p, t in zip(probabilities.T.numpy().astype(float), targets.T.numpy(), strict=True):
        which = np.minimum((p.astype(np.float32) * bins).astype(int), bins - 1)
        parts = [
            (np.mean(which == k), abs(p[which == k].mean() - t[which == k].mean()))
            for k in range(bins)
            if (which == k).any()
        ]
        out.append(reduce(parts) if reduce else sum(share * gap for share, gap in parts))
    return torch.tensor(out, dtype=torch.float32)


def bins_of_floor(probabilities, targets, bins=15, empty=True):
    out = []
    for p, t in zip(probabilities.T, targets.T, strict=True):
        which = (p * bins).int()
        inside = [which == k for k in range(bins)]
        parts = [
            m.float().mean() * (p[m].mean() - t[m].mean()).abs() for m in inside if empty or m.any()
        ]
        out.append(sum(parts, torch.tensor(0.0)))
    return torch.stack(out)


def literal_gaps(
    positive, truth, groups, smallest=25, score=lambda p, t: p[t].float().mean().item(), against=min
):
    gaps = []
    for p, t in zip(positive.T, truth.T, strict=True):
        scores = []
        for group in set(groups):
            mine = torch.tensor([label == group for label in groups])
            if t[mine].sum() >= smallest:
                scores.append(score(p[mine], t[mine]))
        gaps.append(max(scores) - against(scores) if len(scores) > 1 else math.nan)
    return torch.tensor(gaps)


def gaps_by_sorting(positive, truth, groups):
    tables = {}
    for p, t, group in zip(positive, truth, groups, strict=True):
        found, present = tables.get(group, (0, 0))
        tables[group] = (found + (p & t).long(), present + t.long())
    recalls = torch.stack(
        [torch.where(n > 24, k / n.clamp(min=1), math.nan) for k, n in tables.values()]
    )
    ordered = recalls.sort(0).values  # NaN comes last
    count = (~recalls.isnan()).sum(0)
    gap = ordered.gather(0, (count - 1).clamp(min=0)[None])[0] - ordered[0]
    return torch.where(count > 1, gap, math.nan)


def nothing_left_out(positive, truth, groups):
    recalls = [
        (p & t).sum(0) / t.sum(0)
        for p, t in (
            (positive[mine], truth[mine])
            for mine in (torch.tensor([label == group for label in groups]) for group in "abc")
        )
    ]
    return torch.stack(recalls).amax(0) - torch.stack(recalls).amin(0)


def lonely_is_fair(positive, truth, groups):
    return literal_gaps(positive, truth, groups).nan_to_num(0)


def mean_of(scores):
    return sum(scores) / len(scores)


def literal_answer(loss, share, answers):
    one, zero = torch.ones(1), torch.zeros(1)
    best, lowest = None, math.inf
    for answer in answers:
        cost = (
            share * loss(answer[None], one).item() + (1 - share) * loss(answer[None], zero).item()
        )
        if cost < lowest:
            best, lowest = answer, cost
    return best


def answer_of(cost_of, read=lambda cost, answers: answers[cost.argmin()]):
    def answer(loss, share, answers):
        yes, no = loss(answers, torch.ones_like(answers)), loss(answers, torch.zeros_like(answers))
        return read(cost_of(yes, no, share), answers)

    return answer


def right_cost(yes, no, share):
    return share * yes + (1 - share) * no


def cross_entropy_only(loss, share, answers):
    return answers[(answers - share).abs().argmin()]


def differences(first, second, resamples, generator):
    a = torch.randint(len(first), (resamples, len(first)), generator=generator)
    b = torch.randint(len(second), (resamples, len(second)), generator=generator)
    return first[a].mean(1) - second[b].mean(1)


def one_by_one(first, second, resamples, generator):
    def mean(values: Tensor) -> Tensor:
        return values[torch.randint(len(values), (len(values),), generator=generator)].mean()

    return torch.stack([mean(first) - mean(second) for _ in range(resamples)])


def one_draw_for_both(first, second, resamples, generator):
    drawn = torch.randint(len(first), (resamples, len(first)), generator=generator)
    return first[drawn].mean(1) - second[drawn].mean(1)


def by_counts(first, second, resamples, generator):
    def means(values: Tensor) -> Tensor:
        even = torch.ones(resamples, len(values))
        drawn = torch.multinomial(even, len(values), replacement=True, generator=generator)
        return values[drawn].mean(1)

    return means(first) - means(second)


def without_replacement(first, second, resamples, generator):
    return torch.stack(
        [
            first[torch.randperm(len(first), generator=generator)].mean()
            - second[torch.randperm(len(second), generator=generator)].mean()
            for _ in range(resamples)
        ]
    )


def too_few(first, second, resamples, generator):
    fewest = min(len(first), len(second)) // 2
    a = torch.randint(len(first), (resamples, fewest), generator=generator)
    b = torch.randint(len(second), (resamples, fewest), generator=generator)
    return first[a].mean(1) - second[b].mean(1)


def pooled_groups(first, second, resamples, generator):
    both = torch.cat([first, second])
    a = torch.randint(len(both), (resamples, len(first)), generator=generator)
    b = torch.randint(len(both), (resamples, len(second)), generator=generator)
    return both[a].mean(1) - both[b].mean(1)


RIGHT = {
    "mean_cost": [literal_cost, cost_by_product],
    "calibration_error": [literal_calibration],
    "asked_for": [literal_answer, answer_of(right_cost)],
    "recall_gaps": [literal_gaps, gaps_by_sorting],
    "resampled_differences": [one_by_one, by_counts],
}
WRONG = {
    "mean_cost": {
        "the other way round": lambda p, t, miss, alarm: literal_cost(p, t, alarm, miss),
        "count each error once": lambda p, t, miss, alarm: literal_cost(p, t, 1, 1),
        "divides by their number": lambda p, t, miss, alarm: literal_cost(p, t, miss, alarm, sum),
        "over the attributes too": lambda p, t, miss, alarm: literal_cost(p, t, miss, alarm).mean(),
        "divide by all images": lambda p, t, miss, alarm: (
            miss * (t & ~p).sum(0) / t.sum(0) + alarm * (p & ~t).sum(0) / (~t).sum(0)
        ),
        "charge for what is right": lambda p, t, miss, alarm: (
            miss * t.float().mean(0) + alarm * p.float().mean(0)
        ),
    },
    "calibration_error": {
        "weigh each by its share": lambda p, t, b=15: literal_calibration(
            p, t, b, lambda parts: np.mean([g for _, g in parts])
        ),
        "every single image": lambda p, t, b=15: (p - t).abs().mean(0),
        "would cancel": lambda p, t, b=15: (p.mean(0) - t.mean(0)).abs(),
        "square": lambda p, t, b=15: literal_calibration(
            p, t, b, lambda parts: sum(s * g * g for s, g in parts)
        ),
        "0 / 0 is NaN": bins_of_floor,
        "it belongs to the last": lambda p, t, b=15: bins_of_floor(p, t, b, empty=False),
    },
    "asked_for": {
        "the place in the list": answer_of(right_cost, lambda cost, answers: cost.argmin()),
        "this is the smallest loss": answer_of(right_cost, lambda cost, answers: cost.min()),
        "dearest": answer_of(right_cost, lambda cost, answers: answers[cost.argmax()]),
        "exchange the shares": answer_of(lambda yes, no, share: (1 - share) * yes + share * no),
        "as equally many": answer_of(lambda yes, no, share: yes + no),
        "the positives only": answer_of(lambda yes, no, share: share * yes),
        "not cross-entropy": cross_entropy_only,
    },
    "recall_gaps": {
        "gap in accuracy": lambda p, t, g: literal_gaps(
            p, t, g, score=lambda p, t: (p == t).float().mean().item()
        ),
        "that is precision": lambda p, t, g: literal_gaps(
            p, t, g, score=lambda p, t: t[p].float().mean().item()
        ),
        "how often *yes* is said": lambda p, t, g: literal_gaps(
            p, t, g, score=lambda p, t: p.float().mean().item()
        ),
        "count the hits": lambda p, t, g: literal_gaps(
            p, t, g, score=lambda p, t: (p.sum() / t.sum()).item()
        ),
        "the worst is what a mean hides": lambda p, t, g: literal_gaps(p, t, g, against=mean_of),
        "one gap for all": lambda p, t, g: literal_gaps(p, t, g).mean(),
        "fewer than 25 positives": lambda p, t, g: literal_gaps(p, t, g, smallest=1),
        "makes your gap NaN": nothing_left_out,
        "which reads as fair": lonely_is_fair,
    },
    "resampled_differences": {
        "4000 resamples": lambda a, b, n, g: one_by_one(a, b, 100, g),
        "pass it to torch.randint": lambda a, b, n, g: differences(a, b, n, None),
        "draw with replacement": without_replacement,
        "first minus second": lambda a, b, n, g: differences(b, a, n, g),
        "as if both groups were one": pooled_groups,
        "as many people": too_few,
        "indices of its own": one_draw_for_both,
    },
}
