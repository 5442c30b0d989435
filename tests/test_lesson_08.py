"""The exercises of lesson 08: right answers pass however they are written, wrong ones read their
mistake. And the lesson's own training loop, which must be the library's.
"""

import ast
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.data import TokenArrays, rarest_weights
from course_lib.training import (
    focal_terms,
    inverse_frequencies,
    predict,
    prior_logits,
    train_remedy,
)
from course_lib.world import ATTRIBUTES


def literal_blind(frequencies):
    shares = frequencies.tolist()
    return sum(1 - f for f in shares) / len(shares), sum(max(f, 1 - f) for f in shares) / len(
        shares
    )


def literal_f1(probability, target, threshold):
    hits = sum(p >= threshold and t == 1 for p, t in zip(probability, target, strict=True))
    found, present = sum(p >= threshold for p in probability), sum(target)
    return 2 * hits / (found + present)


def literal_thresholds(probabilities, targets, score=literal_f1):
    columns = zip(probabilities.T.tolist(), targets.T.tolist(), strict=True)
    return torch.tensor(
        [max(sorted(p), key=lambda threshold, p=p, t=t: score(p, t, threshold)) for p, t in columns]
    )


def accuracy(probability, target, threshold):
    return np.mean([(p >= threshold) == (t == 1) for p, t in zip(probability, target, strict=True)])


def first_of_the_sorted(probabilities, targets):
    """Forgets that equal probabilities stand on the same side of every threshold."""
    ordered, order = torch.sort(probabilities, dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(targets) + 1)[:, None] + targets.sum(0))
    return ordered.gather(0, f1.argmax(0, keepdim=True))[0]


def one_for_all(probabilities, targets):
    best = literal_thresholds(probabilities.reshape(-1, 1), targets.reshape(-1, 1))
    return best.expand(targets.shape[1]).clone()


def capped(frequencies, cap, low=1.0, ratio=lambda f: (1 - f) / f):
    return torch.tensor([min(cap, max(low, ratio(f))) for f in frequencies.tolist()])


def focal(
    logits,
    targets,
    gamma,
    pos_weight=None,
    weigh_first=False,
    factor=lambda right, gamma: (1 - right) ** gamma,
):
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weighted = F.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=pos_weight
    )
    return factor(torch.exp(-(weighted if weigh_first else plain)), gamma) * weighted


def literal_focal(logits, targets, gamma, pos_weight=None):
    out = torch.zeros_like(logits)
    for i, row in enumerate(logits):
        for a, z in enumerate(row):
            sign = 1 if targets[i, a] else -1
            weight = pos_weight[a] if pos_weight is not None and targets[i, a] else 1
            out[i, a] = weight * torch.sigmoid(-sign * z) ** gamma * F.softplus(-sign * z)
    return out


def unstable_focal(logits, targets, gamma, pos_weight=None):
    p = torch.sigmoid(logits)
    right = targets * p + (1 - targets) * (1 - p)
    weight = 1 if pos_weight is None else targets * pos_weight + 1 - targets
    return weight * (1 - right) ** gamma * -torch.log(right)


def rarest(targets, of=max, nothing=1.0, divide=True, frequency=lambda column: column.mean()):
    share = [float(frequency(column)) for column in targets.T]
    weights = torch.tensor(
        [
            of([1 / f for f, t in zip(share, row, strict=True) if t] or [nothing])
            for row in targets.tolist()
        ],
        dtype=targets.dtype,
    )
    return weights / weights.sum() if divide else weights


RIGHT = {
    "blind_accuracies": [literal_blind, lambda f: [1 - f.mean(), 0.5 + (f - 0.5).abs().mean()]],
    "prior_logits": [
        torch.logit,
        lambda f: torch.tensor([math.log(p / (1 - p)) for p in f.tolist()]),
        lambda f: -torch.log(1 / f - 1),
    ],
    "best_thresholds": [
        literal_thresholds,
        lambda p, t: torch.stack(
            [
                column[int(torch.tensor([literal_f1(column, truth, x) for x in column]).argmax())]
                for column, truth in zip(p.T, t.T, strict=True)
            ]
        ),
    ],
    "inverse_frequencies": [
        capped,
        lambda f, cap: torch.minimum(
            torch.maximum(f.reciprocal() - 1, torch.ones(())), torch.tensor(cap)
        ),
    ],
    "focal_terms": [focal, literal_focal],
    "rarest_weights": [
        rarest,
        lambda t: F.normalize((t / t.mean(0)).amax(1).clamp(min=1), p=1, dim=0),
    ],
}
WRONG = {
    "blind_accuracies": {
        "how often *yes*": lambda f: (float(f.mean()), literal_blind(f)[1]),
        "saying no to everything": lambda f: literal_blind(f)[::-1],
        "two different models": lambda f: (literal_blind(f)[0],) * 2,
        "average after": lambda f: (literal_blind(f)[0], max(float(f.mean()), 1 - float(f.mean()))),
        "return two numbers": lambda f: literal_blind(f)[0],
    },
    "prior_logits": {
        "itself": lambda f: f,
        "odds": lambda f: f / (1 - f),
        "sign": lambda f: torch.log((1 - f) / f),
        "this is log(f)": torch.log,
        "inverse": torch.sigmoid,
        "natural logarithm": lambda f: torch.log10(f / (1 - f)),
    },
    "best_thresholds": {
        "best accuracy": lambda p, t: literal_thresholds(p, t, accuracy),
        "each attribute has its own": one_for_all,
        "at least": lambda p, t: torch.full(t.shape[1:], 0.5),
        "no threshold lies between": first_of_the_sorted,
        "one threshold an attribute": lambda p, t: 0.5,
    },
    "inverse_frequencies": {
        "forget the cap": lambda f, cap: capped(f, 1e9),
        "counts the positives among": lambda f, cap: (1 / f).clamp(1, cap),
        "1 / (f + 0.001)": lambda f, cap: capped(f, cap, ratio=lambda f: 1 / (f + 0.001)),
        "positives over negatives": lambda f, cap: capped(f, cap, ratio=lambda f: f / (1 - f)),
        "count less than a negative": lambda f, cap: capped(f, cap, low=0),
    },
    "focal_terms": {
        "this is the bug": lambda *a: focal(*a, weigh_first=True),
        "positives only": lambda z, t, g, w=None: focal(z, t, g) * (1 if w is None else w),
        "leave the weight out": lambda z, t, g, w=None: focal(z, t, g),
        "leave the focusing out": lambda z, t, g, w=None: focal(z, t, 0, w),
        "p_t^γ": lambda *a: focal(*a, factor=lambda right, gamma: right**gamma),
        "the mean comes later": lambda *a: focal(*a).mean(),
        "not finite": unstable_focal,
    },
    "rarest_weights": {
        "add up": lambda t: rarest(t, of=sum),
        "never be drawn": lambda t: rarest(t, nothing=0.0),
        "divide by the sum": lambda t: rarest(t, divide=False),
        "you count images": lambda t: rarest(t, frequency=lambda column: column.sum()),
    },
}


# The lesson's training loop


@pytest.fixture(scope="module")
def lesson():
    """What the cells `model`, `loop` and `sampled` of the notebook define, on a few random tokens."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, len(ATTRIBUTES), generator=generator) < 0.2).float()
    faces = TokenArrays(torch.randn(200, 49, 96, generator=generator), targets)
    names = {
        "NAMES": ATTRIBUTES,
        "frequencies": targets.mean(0),
        "prior_logits": prior_logits,
        "rarest_weights": rarest_weights,
        "rt": SimpleNamespace(device=torch.device("cpu")),
        "torch": torch,
        "train_faces": faces,
    }
    notebook = json.loads(
        (Path(__file__).parent.parent / "notebooks" / "08_class_imbalance.ipynb").read_text()
    )
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"]}
    for cell in ("model", "loop", "sampled"):
        # not the lines that train
        tree = ast.parse(cells[cell])
        tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]
        exec(compile(tree, cell, "exec"), names)
    names["EPOCHS"], names["STEPS"] = 2, 5
    return SimpleNamespace(names=names, **{key: names[key] for key in ("train", "balanced", "bce")})


ARMS = {
    "naive BCE": lambda lesson: {},
    "naive BCE, zero bias": lambda lesson: {"prior": False},
    "weights up to 50": lambda lesson: {
        "loss": lambda z, y: lesson.bce(
            z, y, pos_weight=inverse_frequencies(lesson.names["frequencies"], 50)
        )
    },
    "focal": lambda lesson: {"loss": lambda z, y: focal_terms(z, y, 2.0).mean()},
    "balanced sampler": lambda lesson: {"sampler": lesson.balanced},
}


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ARMS)
def test_the_loop_of_the_lesson_trains_as_the_library_does(name, seed, lesson):
    faces = lesson.names["train_faces"]
    own = lesson.train(**{"loss": lesson.bce, "seed": seed} | ARMS[name](lesson))
    library, _ = train_remedy(
        name, faces, faces, seed, 2, 5, lesson.names["build"], lesson.names["RATE"]
    )
    torch.testing.assert_close(predict(own, faces), predict(library, faces), atol=2e-3, rtol=1e-3)


def test_another_start_or_loss_is_another_model(lesson):
    faces = lesson.names["train_faces"]
    models = [lesson.train(lesson.bce), lesson.train(lesson.bce, prior=False)]
    models += [lesson.train(lambda z, y: focal_terms(z, y, 2.0).mean())]
    models += [lesson.train(lesson.bce, sampler=lesson.balanced), lesson.train(lesson.bce, seed=1)]
    logits = [predict(model, faces) for model in models]
    assert all((logits[0] - other).abs().mean() > 0.02 for other in logits[1:])
