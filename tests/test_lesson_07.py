"""The exercises of lesson 07: right answers pass however they are written, wrong ones read their
mistake.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.lessons import lesson_07
from course_lib.lessons.clinic import PATIENTS, train_patient
from course_lib.training import concordance as library_concordance
from course_lib.training import floor_prediction, lesson_tokens


def literal_concordance(prediction, target):
    rows = []
    for p, t in zip(prediction.T.detach().numpy(), target.T.detach().numpy(), strict=True):
        spread = p.var() + t.var() + (p.mean() - t.mean()) ** 2
        rows.append(2 * np.cov(p, t, bias=True)[0, 1] / spread)
    return torch.tensor(np.array(rows), dtype=prediction.dtype)


def error_concordance(prediction, target):
    """1 minus the mean squared error over what it would be if the two were independent."""
    error = (prediction - target).square().mean(0)
    apart = (
        prediction.var(0, correction=0)
        + target.var(0, correction=0)
        + (prediction.mean(0) - target.mean(0)) ** 2
    )
    return 1 - error / apart


def ccc(two=2, offset=lambda d: d.square(), correction=0):
    def concordance(p, t):
        covariance = ((p - p.mean(0)) * (t - t.mean(0))).mean(0)
        return (
            two
            * covariance
            / (
                p.var(0, correction=correction)
                + t.var(0, correction=correction)
                + offset(p.mean(0) - t.mean(0))
            )
        )

    return concordance


def deviations(p, t):
    covariance = ((p - p.mean(0)) * (t - t.mean(0))).mean(0)
    spread = p.std(0, correction=0) + t.std(0, correction=0)
    return 2 * covariance / (spread + (p.mean(0) - t.mean(0)) ** 2)


def pearson(p, t):
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p.T, t.T, strict=True)]
    )


def cosine(fall, first=1):
    def factor(step, total, warmup):
        rising = max(1, round(warmup * total))
        return (step + first) / rising if step < rising else fall(step, rising, total)

    return factor


def lesson_factor(step, total, rising):
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def half(step, rising, total):
    return math.cos(math.pi / 2 * (step - rising) / max(1, total - rising)) ** 2


def waited(losses, better=lambda loss, best: loss < best):
    best, count = math.inf, 0
    for loss in losses:
        best, count = (loss, 0) if better(loss, best) else (best, count + 1)
    return count


def by_speaker(speakers, rng, size=None, replace=True):
    names = np.unique(speakers)
    drawn = rng.choice(names, len(names) if size is None else size(speakers), replace=replace)
    return np.concatenate([np.flatnonzero(speakers == name) for name in drawn])


def by_clip(speakers, rng):
    return rng.integers(len(speakers), size=len(speakers))


def by_count(speakers, rng):
    drawn = rng.integers(len(set(speakers)), size=len(set(speakers)))
    return np.concatenate([np.flatnonzero(speakers == number) for number in drawn])


def by_weighted_speaker(speakers, rng):
    drawn = rng.choice(speakers, len(np.unique(speakers)))
    return np.concatenate([np.flatnonzero(speakers == name) for name in drawn])


def by_number(speakers, rng):
    names, who = np.unique(speakers, return_inverse=True)
    return np.concatenate(
        [np.arange(len(who))[who == number] for number in rng.integers(len(names), size=len(names))]
    )


def step(
    before=lambda m, o: (m.train(), o.zero_grad()),
    loss=F.mse_loss,
    after=None,
    out=torch.Tensor.item,
):
    """A training step in which one line can be replaced."""

    def train_step(model, optimizer, face, motion, traits):
        before(model, optimizer)
        value = loss(model(face, motion), traits)
        value.backward()
        (after or (lambda m, o: o.step()))(model, optimizer)
        return out(value)

    return train_step


def cleared_at_the_end(model, optimizer, *batch):
    model.train(True)
    *inputs, target = batch
    loss = ((model(*inputs) - target) ** 2).mean()
    loss.backward()
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return loss.detach().item()


def late_mode(model, optimizer, face, motion, traits):
    loss = torch.nn.functional.mse_loss(model(face, motion), traits)
    model.train()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def asked_again(model, optimizer, face, motion, traits):
    step()(model, optimizer, face, motion, traits)
    return F.mse_loss(model(face, motion), traits).item()


def no_backward(model, optimizer, face, motion, traits):
    model.train()
    optimizer.step()
    return F.mse_loss(model(face, motion), traits).item()


def twice(model, optimizer, *batch):
    loss = step()(model, optimizer, *batch)
    step()(model, optimizer, *batch)
    return loss


ANSWER = {
    "A": "labels shuffled apart",
    "B": "zero_grad forgotten",
    "C": "a leak",
    "D": "softmax before the loss",
    "E": "evaluation mode left on",
}


def swapped(one, other):
    """The right answer with two runs exchanged, the first of them first."""
    answer = {one: "", **ANSWER} | {one: ANSWER[other], other: ANSWER[one]}
    return lambda: dict(answer)


RIGHT = {
    "concordance": [literal_concordance, error_concordance],
    "cosine_factor": [
        cosine(half),
        cosine(lambda s, r, n: (math.cos((s - r) / max(1, n - r) * math.pi) + 1) / 2),
    ],
    "epochs_since_best": [
        waited,
        lambda losses: len(losses) - 1 - losses.index(min(x for x in losses if x == x)),
    ],
    "resample_speakers": [by_speaker, by_number],
    "train_step": [step(), cleared_at_the_end],
    "name_the_faults": [lambda: dict(sorted(ANSWER.items(), reverse=True)), ANSWER.copy],
}
WRONG = {
    "concordance": {
        "forget the 2": ccc(two=1),
        "Pearson": pearson,
        "difference of the means below": ccc(offset=lambda d: 0),
        "without its square": ccc(offset=torch.abs),
        "two kinds of variance": ccc(correction=1),
        "add standard deviations": deviations,
        "keep one number": lambda p, t: error_concordance(p, t).mean(),
    },
    "cosine_factor": {
        "learns nothing": cosine(half, first=0),
        "along a line": cosine(lambda s, r, n: 1 - (s - r) / max(1, n - r)),
        "goes down to −1": cosine(lambda s, r, n: math.cos(math.pi * (s - r) / max(1, n - r))),
        "begins at step 0": cosine(lambda s, r, n: 0.5 * (1 + math.cos(math.pi * s / n))),
        "whole": cosine(
            lambda s, r, n: 0.5 * (1 + math.cos(2 * math.pi * (s - r) / max(1, n - r)))
        ),
        "cut R off": lambda step, total, warmup: lesson_factor(
            step, total, int(warmup * total) or 1
        ),
        "R is 1, not 0": lambda step, total, warmup: lesson_factor(
            step, total, round(warmup * total)
        ),
        "reaches": cosine(lambda s, r, n: 1 + math.cos(math.pi * (s - r) / max(1, n - r))),
    },
    "epochs_since_best": {
        "which epoch was best": lambda losses: losses.index(min(losses)),
        "count the best epoch itself": lambda losses: len(losses) - losses.index(min(losses)),
        "got worse": lambda losses: sum(b >= a for a, b in pairwise(losses)),
        "no improvement": lambda losses: waited(losses, lambda loss, best: loss <= best),
        "NaN": lambda losses: len(losses) - 1 - int(np.argmin(losses)),
        "confuses": lambda losses: len(losses) - 1 - losses.index(min(losses)),
    },
    "resample_speakers": {
        "draw *speakers*": by_clip,
        "*with* replacement": lambda s, rng: by_speaker(s, rng, replace=False),
        "perhaps one for each clip": lambda s, rng: by_speaker(s, rng, size=len),
        "the same chance": by_weighted_speaker,
        "hardly differ": lambda s, rng: by_speaker(s, np.random.default_rng(0)),
        "another sample the second time": lambda s, rng: by_speaker(s, np.random.default_rng()),
        "no clip was drawn": by_count,
        "np.concatenate": lambda s, rng: [np.flatnonzero(s == name) for name in np.unique(s)],
        "comes twice": lambda s, rng: np.unique(by_speaker(s, rng)),
        "return the indices": lambda s, rng: s[by_speaker(s, rng)],
    },
    "train_step": {
        "never clear the gradients": step(before=lambda m, o: m.train()),
        "zero_grad() must not come between": step(after=lambda m, o: (o.zero_grad(), o.step())),
        "no parameter has changed": no_backward,
        "begin with model.train()": step(before=lambda m, o: o.zero_grad()),
        "loss in evaluation mode": late_mode,
        "return loss.item()": step(out=lambda value: value),
        "mean absolute error": step(loss=F.l1_loss),
        "squared errors up": step(loss=lambda p, t: F.mse_loss(p, t, reduction="sum")),
        "softmax before your loss": step(loss=lambda p, t: F.mse_loss(p.softmax(1), t)),
        "loss after the step": asked_again,
        "one step for each batch": twice,
        "a number; got a str": step(out=lambda value: str(value.item())),
    },
    "name_the_faults": {
        "add up to 1": swapped("A", "D"),
        "so the loss jumps": swapped("C", "B"),
        "asked again; look": swapped("A", "C"),
        "validation stays above": swapped("E", "A"),
        "no dropout": swapped("C", "E"),
        "a dict with one name": lambda: ["a leak"],
        "no fault is called": lambda: ANSWER | {"A": "dropout"},
        "each fault occurs once": lambda: dict.fromkeys("ABCDE", "a leak"),
    },
}


def test_the_concordance_revealed_is_the_librarys():
    torch.manual_seed(0)
    prediction, target = torch.rand(50, 5), torch.rand(50, 5)
    assert torch.allclose(
        lesson_07.concordance(prediction, target), library_concordance(prediction, target)
    )


@pytest.fixture(scope="module")
def patients():
    """The six runs of the clinic as the lesson makes them."""
    train, valid = lesson_tokens("train"), lesson_tokens("valid")
    curves = {}
    for fault in ("none", *PATIENTS.values()):
        torch.manual_seed(0)
        curves[fault] = train_patient(fault, train, valid, torch.device("cpu"))
    return curves


def test_each_fault_of_the_clinic_shows_the_sign_that_its_message_names(patients):
    valid = lesson_tokens("valid")
    constant = floor_prediction(lesson_tokens("train")["traits"], 200)
    constant = F.mse_loss(constant, valid["traits"]).item()
    last = {
        fault: {name: values[-1] for name, values in curves.items()}
        for fault, curves in patients.items()
    }
    assert last["none"]["validation"] < 0.7 * constant
    assert last["none"]["asked again"] < 0.9 * last["none"]["as learned"]  # dropout
    assert last["none"]["asked again"] < 0.9 * last["none"]["validation"]

    apart = patients["labels shuffled apart"]
    assert min(apart["validation"]) > constant
    assert max(apart["validation"][1:]) < 2 * constant

    jumping = patients["zero_grad forgotten"]["as learned"]
    assert max(b / a for a, b in pairwise(jumping)) > 3
    for fault, curves in patients.items():
        if fault != "zero_grad forgotten":
            assert max(b / a for a, b in pairwise(curves["as learned"])) < 1.2

    flat = patients["softmax before the loss"]["validation"]
    assert min(flat) > 3 * constant
    assert max(flat) < 1.3 * min(flat)

    left_on = last["evaluation mode left on"]
    assert abs(left_on["as learned"] / left_on["asked again"] - 1) < 0.1
    assert left_on["validation"] > 1.5 * left_on["asked again"]

    leak = last["a leak"]
    assert abs(leak["validation"] / leak["asked again"] - 1) < 0.1
    assert leak["as learned"] > 1.1 * leak["asked again"]
