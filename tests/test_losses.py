"""Losses against their formulas written letter by letter, their gradients, and inputs that break
careless code.
"""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from course_lib.training import (
    AsymmetricLoss,
    ClassBalancedLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    WeightedBCELoss,
    calculate_aggressive_pos_weights,
    focal_terms,
    head_diversity_penalty,
    part_loss,
    prediction_diversity_penalty,
)
from course_lib.world import ATTRIBUTES, CELEBA_RATES

FREQUENCIES = [0.02, 0.3, 0.84]
WEIGHTS = [43.56, 2.0, 0.5]
IMAGES = 5_000
sizes, seeds = st.integers(1, 9), st.integers(0, 10_000)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def slow_bce(z, y, attribute):
    return -WEIGHTS[attribute] * math.log(sigmoid(z)) if y else -math.log(1 - sigmoid(z))


def slow_focal(z, y, attribute):
    p_t = sigmoid(z) if y else 1 - sigmoid(z)
    return (WEIGHTS[attribute] if y else 1) * (1 - p_t) ** 2 * -math.log(p_t)


def slow_class_balanced(z, y, attribute, beta=0.999):
    counts = {1: IMAGES * FREQUENCIES[attribute], 0: IMAGES * (1 - FREQUENCIES[attribute])}
    weights = {label: (1 - beta) / (1 - beta**n) for label, n in counts.items()}
    return weights[y] / sum(weights.values()) * 2 * -math.log(sigmoid(z) if y else 1 - sigmoid(z))


def slow_ldam(z, y, attribute):
    """A softmax over two classes whose scores are apart by z, as Cao et al. write it."""
    delta = (
        0.5
        * min(FREQUENCIES) ** 0.25
        / (FREQUENCIES[attribute] if y else 1 - FREQUENCIES[attribute]) ** 0.25
    )
    own, other = 30 * ((z if y else -z) / 2 - delta), 30 * (-z if y else z) / 2
    return -(WEIGHTS[attribute] if y else 1) * math.log(
        math.exp(own) / (math.exp(own) + math.exp(other))
    )


def slow_asymmetric(z, y, attribute):
    p = sigmoid(z)
    q = max(p - 0.05, 0)
    return (1 - p) ** 1 * -math.log(p) if y else q**4 * -math.log(1 - q)


def slow_adjusted(z, y, attribute):
    z += math.log(FREQUENCIES[attribute] / (1 - FREQUENCIES[attribute]))
    return -math.log(sigmoid(z) if y else 1 - sigmoid(z))


LOSSES = {
    "bce": (lambda: WeightedBCELoss(WEIGHTS), slow_bce),
    "focal": (lambda: FocalLoss(2, torch.tensor(WEIGHTS)), slow_focal),
    "class-balanced": (
        lambda: ClassBalancedLoss(FREQUENCIES, IMAGES, beta=0.999),
        slow_class_balanced,
    ),
    "ldam": (lambda: LDAMLoss(FREQUENCIES, WEIGHTS), slow_ldam),
    "asymmetric": (AsymmetricLoss, slow_asymmetric),
    "logit-adjusted": (lambda: LogitAdjustedLoss(np.array(FREQUENCIES)), slow_adjusted),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(size, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 2, (size, 3), generator=generator).double()


@every_loss
@given(size=sizes, seed=seeds)
def test_each_loss_agrees_with_its_formula(name, size, seed):
    make, slow = LOSSES[name]
    logits, targets = batch(size, seed)
    expected = np.mean(
        [
            [slow(z, int(y), attribute) for attribute, (z, y) in enumerate(zip(*rows, strict=True))]
            for rows in zip(logits.tolist(), targets.tolist(), strict=True)
        ]
    )
    assert make()(logits, targets).item() == pytest.approx(expected, rel=2e-6)


@every_loss
def test_each_gradient_is_the_slope(name):
    logits, targets = batch(5, 3)
    assert torch.autograd.gradcheck(LOSSES[name][0]().double(), (logits.requires_grad_(), targets))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_each_loss_survives_large_logits_and_half_precision(name, dtype):
    """A wrong answer must still be pulled back; a right one must not bring a NaN."""
    loss = LOSSES[name][0]()
    targets = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=dtype)
    for wrong in (True, False):
        logits = (100 * (1 - 2 * targets) * (1 if wrong else -1)).requires_grad_()
        value = loss(logits, targets)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        push = logits.grad.float() * (2 * targets - 1)
        # its shift bounds the loss of a negative, so that is flat here
        if wrong and name == "asymmetric":
            assert (push[targets.bool()] < 0).all()
            assert value > 40
        elif wrong:
            assert (push < 0).all()
            assert value > 90
        else:
            assert value < 1e-6
    small = torch.tensor([[0.5, -1.0, 2.0], [-0.25, 0.0, 1.5]], dtype=dtype)
    assert loss(small, targets).item() == pytest.approx(
        loss(small.double(), targets.double()).item(), rel=1e-5
    )


@given(sizes, seeds, st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]))
def test_focal_is_torchvisions_times_the_weight_outside(size, seed, gamma):
    logits, targets = batch(size, seed, spread=4)
    weight = 1 + (torch.tensor(WEIGHTS) - 1) * targets
    expected = (weight * sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)).mean()
    assert_close(FocalLoss(gamma, WEIGHTS)(logits, targets), expected)


def test_the_focal_bug_of_many_copies_is_not_here():
    """p = 0.9, w = 43.56: with the weight inside p_t a right positive costs about a hundred times
    too much.
    """
    logits, targets, weight = torch.tensor([[math.log(9)]]), torch.ones(1, 1), 43.56
    bce = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=torch.tensor(weight))
    copied = (1 - torch.exp(-bce)) ** 2 * bce
    assert copied / FocalLoss(2, weight)(logits, targets) == pytest.approx(98, abs=0.5)


def test_without_focus_or_weight_focal_is_plain_bce():
    logits, targets = batch(7, 1)
    assert_close(FocalLoss(0)(logits, targets), F.binary_cross_entropy_with_logits(logits, targets))
    assert_close(
        WeightedBCELoss()(logits, targets), F.binary_cross_entropy_with_logits(logits, targets)
    )


@pytest.mark.parametrize("gamma", [0.3, 0.0])
@pytest.mark.parametrize(
    "loss", [lambda gamma: FocalLoss(gamma), lambda gamma: AsymmetricLoss(gamma, gamma, 0.0)]
)
def test_a_gentle_focus_has_a_gradient_at_a_perfect_answer(loss, gamma):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss(gamma)(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad.abs().max() < 1e-6  # NaN is not smaller either


@pytest.mark.parametrize(
    ("beta", "ratio"), [(0.0, 1.0), (0.999, 1.03), (0.9999, 3.3), (0.99999, 22)]
)
def test_class_balance_on_celebas_bald_images(beta, ratio):
    """162,770 training images, 2.24 % of them bald: β must be near 1 to do anything."""
    loss = ClassBalancedLoss([0.0224], 162_770, beta)
    assert (loss.positive_weight / loss.negative_weight).item() == pytest.approx(ratio, rel=0.02)
    assert (loss.positive_weight + loss.negative_weight).item() == pytest.approx(2)


def test_ldam_defers_its_weights_and_gives_the_rarest_class_the_largest_margin():
    loss, unweighted = LDAMLoss(FREQUENCIES, WEIGHTS, weight_from=3), LDAMLoss(FREQUENCIES)
    logits, targets = batch(6, 2)
    values = []
    for epoch in range(5):
        loss.set_epoch(epoch)
        values.append(loss(logits, targets).item())
    plain = unweighted(logits, targets).item()
    weighted = LDAMLoss(FREQUENCIES, WEIGHTS)(logits, targets).item()
    assert values == [plain] * 3 + [weighted] * 2
    assert plain != weighted
    margins = torch.stack([loss.positive_margin, loss.negative_margin])
    assert margins.max() == margins[0, 0] == 0.5
    assert margins[0, 0] / margins[0, 1] == pytest.approx((0.3 / 0.02) ** 0.25)


def test_logit_adjustment_moves_the_threshold_and_not_the_ranking():
    """Fitted on features that say nothing, plain BCE answers the prior and logit adjustment zero."""
    targets = torch.zeros(1000, 1)
    targets[:20] = 1
    fitted = {}
    for loss in (WeightedBCELoss(), LogitAdjustedLoss([0.02])):
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        def closure(loss=loss, bias=bias, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(bias.expand(1000, 1), targets)
            value.backward()
            return value

        optimizer.step(closure)
        fitted[type(loss)] = bias.item()
    assert fitted[WeightedBCELoss] == pytest.approx(math.log(0.02 / 0.98), abs=0.02)
    assert fitted[LogitAdjustedLoss] == pytest.approx(0, abs=0.02)


def test_asymmetric_loss_forgets_easy_negatives_altogether():
    logits = torch.logit(torch.tensor([[0.001, 0.049]])).requires_grad_()
    value = AsymmetricLoss()(logits, torch.zeros(1, 2))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


def test_inverse_frequencies_are_capped_and_the_critical_named(capsys):
    weights = calculate_aggressive_pos_weights(CELEBA_RATES, names=ATTRIBUTES)
    expected = [min(max(1 / (rate + 0.001), 1), 50) for rate in CELEBA_RATES.tolist()]
    assert_close(weights, torch.tensor(expected))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(
        "6 of 33 attributes are critical (under 5%): Bald (2.24%, weight 42.7), Mustache"
    )
    named = {name for name in ATTRIBUTES if name in printed}
    assert named == {
        name for name, rate in zip(ATTRIBUTES, CELEBA_RATES, strict=True) if rate < 0.05
    }
    capped = calculate_aggressive_pos_weights([0.0001, 0.9999], cap=10)
    assert capped.tolist() == [10, 1]
    assert "0 (0.01%, weight 10.0)" in capsys.readouterr().out
    calculate_aggressive_pos_weights([0.05, 0.4])
    assert capsys.readouterr().out == ""


def slow_overlap(weights):
    """Every query, every ordered pair of different heads."""
    batch_size, heads, queries, _ = weights.shape
    return torch.stack(
        [
            torch.dot(weights[b, one, q], weights[b, other, q])
            for b in range(batch_size)
            for q in range(queries)
            for one, other in permutations(range(heads), 2)
        ]
    ).mean()


@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 6), seeds)
def test_head_overlap_is_the_mean_over_pairs(batch_size, heads, queries, keys, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(
        batch_size, heads, queries, keys, generator=generator, dtype=torch.float64
    ).softmax(-1)
    assert_close(head_diversity_penalty(weights), slow_overlap(weights))


def test_head_overlap_at_its_landmarks():
    peaks = torch.eye(49)[None, [3, 17], None]
    assert head_diversity_penalty(peaks) == 0
    assert head_diversity_penalty(peaks[:, [0, 0]]) == 1
    assert head_diversity_penalty(torch.full((1, 8, 5, 49), 1 / 49)).item() == pytest.approx(
        0.0204, abs=5e-5
    )
    scores = torch.randn(2, 3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda scores: head_diversity_penalty(scores.softmax(-1)), (scores,)
    )


@given(sizes, seeds)
def test_prediction_diversity_is_the_divergence_of_mean_probabilities(size, seed):
    logits, _ = batch(size, seed, spread=2)
    mean = logits.sigmoid().mean(0)
    f = torch.tensor(FREQUENCIES, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(f), torch.distributions.Bernoulli(mean)
    )
    assert_close(
        prediction_diversity_penalty(logits, FREQUENCIES), expected.mean(), atol=1e-7, rtol=1e-5
    )


def test_prediction_diversity_pulls_a_silent_model_up():
    logits = torch.full((8, 3), -100.0, requires_grad=True)
    prediction_diversity_penalty(logits, FREQUENCIES).backward()
    assert (logits.grad < 0).all()  # a thresholded rate would give no gradient at all
    at_rate = torch.logit(torch.tensor(FREQUENCIES)).expand(8, 3)
    assert prediction_diversity_penalty(at_rate, FREQUENCIES).item() == pytest.approx(0, abs=1e-6)
    assert prediction_diversity_penalty(torch.full((4, 3), 100.0).half(), FREQUENCIES).isfinite()
    small = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda logits: prediction_diversity_penalty(logits, FREQUENCIES), (small,)
    )


@given(seeds)
def test_focal_loss_is_the_mean_of_its_terms(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    targets = (torch.rand(4, 3, generator=generator) < 0.5).double()
    terms = focal_terms(logits, targets, 2.0, torch.tensor(WEIGHTS, dtype=torch.float64))
    expected = [
        [slow_focal(z, y, a) for a, (z, y) in enumerate(zip(*row, strict=True))]
        for row in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert_allclose(terms, expected, rtol=1e-9)


def test_the_loss_is_small_for_the_truth_and_minds_small_parts():
    truth = torch.zeros(2, 3, 16, 16)
    truth[:, 0, :12], truth[:, 1, 5, 4:8] = 1, 1
    certain, weight = 40 * truth - 20, torch.ones(3)
    assert part_loss(certain, truth, weight) < 1e-3
    for forget in (
        lambda logits: logits[:, 0].fill_(-20),
        lambda logits: logits[:, 1].fill_(-20),
        lambda logits: logits[:, 2].fill_(20),
    ):
        wrong = certain.clone()
        forget(wrong)
        assert part_loss(wrong, truth, weight) > 0.25
    heavier = torch.tensor([1.0, 9, 1])
    wrong = certain.clone()
    wrong[:, 1] = -20
    assert part_loss(wrong, truth, heavier) > part_loss(wrong, truth, weight) + 0.5


def test_the_loss_of_a_part_is_least_at_the_mean_of_the_answers():
    """What a flow needs: of four answers one covers the pixel, so 0.25 is best, whatever the weights."""
    answers = torch.tensor([1.0, 0, 0, 0]).view(4, 1, 1, 1).expand(4, 2, 3, 3)
    for weight in (torch.ones(2), torch.tensor([0.1, 5])):
        logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
        part_loss(logits.expand(4, -1, -1, -1), answers, weight).backward()
        assert (logits.grad > 0).all()  # less than one half
        best = torch.full((1, 2, 3, 3), 0.25).logit().requires_grad_()
        part_loss(best.expand(4, -1, -1, -1), answers, weight).backward()
        assert best.grad.abs().max() < 1e-6
