"""The exercise of lesson 09 so far: pooling the logits of tokens."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .exercises import Exercise, Mistake, expect

__all__ = ["EXERCISES"]


def pooling_is_log_mean_exp(student: Callable, library: Callable) -> None:
    logits = torch.randn(3, 9, 4)
    expect(
        student(logits, 2.0),
        library(logits, 2.0),
        {
            "you forget to subtract log(tokens): the same logit everywhere must come back as it is": (
                torch.logsumexp(2 * logits, 1) / 2
            ),
            "you forget to divide by the sharpness after the logarithm": (
                torch.logsumexp(2 * logits, 1) - math.log(9)
            ),
            "you pool over the attributes; axis 1 holds the tokens": (
                (torch.logsumexp(2 * logits, 2) - math.log(4)) / 2
            ),
            "this is the mean: then a mouth that is open has to convince 48 tokens that see no mouth": logits.mean(
                1
            ),
            "this is the maximum: only one token would learn from each image": logits.amax(1),
            "you divide log(tokens) not by the sharpness; bracket both, then divide": (
                torch.logsumexp(2 * logits, 1) / 2 - math.log(9)
            ),
        },
        given="with a sharpness of 2",
    )


def pooling_is_stable(student: Callable, library: Callable) -> None:
    logits = torch.tensor([[[300.0], [-300.0]]])
    came = student(logits, 2.0)
    if isinstance(came, Tensor) and not came.isfinite().all():
        raise Mistake(
            "exp of a large logit is infinite; torch.logsumexp takes the largest out first"
        )
    expect(came, library(logits, 2.0), given="for logits of ±300")


EXERCISES = {
    "pool_over_tokens": Exercise(
        solution="course_lib.models.attributes:pool_over_tokens",
        hints=(
            (
                "Something between the mean, where every token must agree, and the maximum, where"
                " only one is heard."
            ),
            "(batch, tokens, attributes), a number → (batch, attributes).",
            (
                "(logsumexp over the tokens of (sharpness · logits) − log(number of tokens)) /"
                " sharpness"
            ),
        ),
        properties=(pooling_is_log_mean_exp, pooling_is_stable),
    ),
}
