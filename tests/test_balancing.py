"""What images are worth, which come first, how many to draw: against sums, sorting and search by
hand.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from course_lib.data import easiest_weights, effective_numbers, faces_to_draw
from course_lib.training import ClassBalancedLoss


@given(st.integers(0, 300), st.floats(0, 0.9999))
def test_effective_numbers_are_the_sum_of_a_series(count, beta):
    worth = effective_numbers(torch.tensor([count]), beta)
    assert worth.item() == pytest.approx(sum(beta**k for k in range(count)), rel=1e-6, abs=1e-9)
    assert worth.item() <= min(count, 1 / (1 - beta)) * (1 + 1e-6)


def test_effective_numbers_weigh_like_the_class_balanced_loss():
    frequencies, images = torch.tensor([0.02, 0.2, 0.7]), 1000
    loss = ClassBalancedLoss(frequencies, images, beta=0.99)
    ratio = effective_numbers(images * (1 - frequencies), 0.99) / effective_numbers(
        images * frequencies, 0.99
    )
    assert_close(ratio.float(), loss.positive_weight / loss.negative_weight)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30, unique=True), st.floats(0.001, 1))
def test_the_easiest_come_and_all_of_them_equally_often(losses, share):
    weights = easiest_weights(torch.tensor(losses, dtype=torch.float64), share)
    shown = weights > 0
    assert weights.sum().item() == pytest.approx(1)
    assert weights[shown].unique().numel() == 1
    assert shown.sum() == max(1, round(share * len(losses)))
    assert max(loss for loss, come in zip(losses, shown, strict=True) if come) <= min(
        [loss for loss, come in zip(losses, shown, strict=True) if not come] or [math.inf]
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(60, 120), st.floats(0, 0.2)
)
def test_as_many_faces_are_drawn_as_needed_and_no_more(positives, images, share):
    drawn = faces_to_draw(torch.tensor(positives), images, share)
    total = images + int(drawn.sum())
    assert (drawn >= 0).all()
    assert ((torch.tensor(positives) + drawn) >= share * total - 1e-6).all()
    # no smaller whole would do: each holds fewer faces than its attributes ask for
    for smaller in range(images, total):
        asked = sum(max(0, math.ceil(share * smaller - count - 1e-9)) for count in positives)
        assert images + asked > smaller
