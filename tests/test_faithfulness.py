"""Deletion and insertion: a model that reads one patch collapses exactly when that patch goes;
loops agree.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import nn

from course_lib.looking import (
    area_under,
    blurred,
    deletion_curve,
    insertion_curve,
    intervention_effect,
    mean_colour,
    removal_order,
    resampled_means,
    score_faithfulness,
    superiority,
)

PATCHES = ((2, 5), (0, 0))  # what the two outputs read, of 7 × 7 patches


class OnePatch(nn.Module):
    """Output k is sure if patch PATCHES[k], 4 × 4 px, is bright, and sure of the opposite if it is
    dark.
    """

    def __init__(self):
        super().__init__()
        self.rest = nn.Linear(1, 1)

    def forward(self, images):
        patches = F.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return 20 * (torch.stack([patches[:, r, c] for r, c in PATCHES], 1) - 0.5)


def bright(items):
    """Dark images in which both patches are bright."""
    images = torch.zeros(items, 3, 28, 28)
    for r, c in PATCHES:
        images[:, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = 1
    return images


def peak(items, row, column):
    maps = torch.rand(items, 7, 7)
    maps[:, row, column] = 2
    return maps


SURE, UNSURE = 1 / (1 + math.exp(-10)), 1 / (1 + math.exp(10))


@pytest.mark.parametrize("output", [0, 1])
def test_the_patch_that_is_read_decides_when_it_goes(output):
    images, which = bright(5), torch.full((5,), output)
    hidden = torch.zeros_like(images)
    maps = peak(5, *PATCHES[output])
    curve = deletion_curve(OnePatch(), images, which, maps, hidden)
    assert curve.shape == (5, 50)
    assert curve[:, 0].tolist() == pytest.approx([SURE] * 5)
    assert (curve[:, 1:] < 1.01 * UNSURE).all()  # gone with the first token, for good
    late = deletion_curve(OnePatch(), images, which, -maps, hidden)
    assert (late[:, :49] > 0.99 * SURE).all()
    assert (late[:, 49] < 1.01 * UNSURE).all()  # gone with the last
    back = insertion_curve(OnePatch(), images, which, maps, hidden)
    assert (back[:, 0] < 1.01 * UNSURE).all()
    assert (back[:, 1:] > 0.99 * SURE).all()


def test_each_token_is_removed_in_its_turn():
    images = bright(49)
    for turn in (1, 7, 30):
        maps = torch.rand(49, 49).argsort(1).float()
        place = 7 * PATCHES[0][0] + PATCHES[0][1]
        maps.scatter_(
            1, (maps == 49 - turn).int().argmax(1)[:, None], maps[:, place].clone()[:, None]
        )
        maps[:, place] = 49 - turn  # its rank from the top is `turn`
        which, black = torch.zeros(49, dtype=torch.long), torch.zeros_like(images)
        curve = deletion_curve(
            OnePatch(), images, which, maps.view(49, 7, 7), black, range(turn + 2)
        )
        assert (curve[:, turn - 1] > 0.9).all()
        assert (curve[:, turn] < 0.1).all()


def test_curves_equal_a_literal_loop():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    images, hidden = torch.rand(4, 3, 8, 12), torch.rand(4, 3, 8, 12)
    model(images)
    maps, which, removed = torch.rand(4, 2, 3), torch.tensor([2, 0, 1, 1]), [0, 1, 3, 4, 6]
    curve = deletion_curve(model, images, which, maps, hidden, removed, chunk=3)
    for item in range(4):
        ranked = sorted((-maps[item, r, c].item(), r, c) for r in range(2) for c in range(3))
        for step, count in enumerate(removed):
            image = images[item].clone()
            for _, r, c in ranked[:count]:
                patch = np.s_[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
                image[patch] = hidden[item][patch]
            with torch.no_grad():
                expected = model(image[None]).sigmoid()[0, which[item]].item()
            assert curve[item, step].item() == pytest.approx(expected, abs=1e-6)


def test_the_model_is_left_as_it_was():
    model = OnePatch().train()
    curve = deletion_curve(
        model, bright(2), torch.zeros(2, dtype=torch.long), peak(2, 1, 1), torch.zeros(2, 3, 28, 28)
    )
    assert model.training
    assert not curve.requires_grad
    assert model.rest.weight.grad is None


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 999))
def test_the_strongest_go_first(rows, columns, seed):
    values = np.random.default_rng(seed).permutation(rows * columns).astype(np.float32)
    order = removal_order(torch.tensor(values).view(1, rows, columns))
    assert order.flatten().tolist() == (rows * columns - 1 - values).tolist()


def test_ties_take_turns_at_random():
    turns = removal_order(torch.ones(5000, 2, 3))
    assert sorted(turns[0].flatten().tolist()) == list(range(6))
    assert (turns.float().mean(0) - 2.5).abs().max() < 0.15  # reading order would give 0 to 5
    assert torch.equal(turns, removal_order(torch.ones(5000, 2, 3)))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 49), min_size=2, max_size=9, unique=True), st.integers(0, 99))
def test_area_is_the_trapezoid_rule_over_the_share_removed(removed, seed):
    removed = sorted(removed)
    curve = torch.tensor(np.random.default_rng(seed).random((3, len(removed))))
    expected = [np.trapezoid(row, removed) / (removed[-1] - removed[0]) for row in curve.numpy()]
    assert area_under(curve, removed).tolist() == pytest.approx(expected)
    assert area_under(torch.full((1, len(removed)), 0.3), removed).item() == pytest.approx(0.3)


def test_blur_is_gaussian_and_the_flat_image_has_the_mean_colour():
    images = torch.rand(2, 3, 40, 40)
    expected = gaussian_filter(
        images.double().numpy(), (0, 0, 4, 4), mode="mirror", radius=(0, 0, 12, 12)
    )
    assert np.abs(blurred(images).numpy() - expected).max() < 1e-5
    flat = mean_colour(images)
    assert flat.shape == images.shape
    assert torch.allclose(flat[1, 2], images[1, 2].mean().expand(40, 40))


def scored(**settings):
    """Eight images; output 0 is chosen everywhere, output 1 in half; one kind of map is right, one
    is noise.
    """
    images = bright(8)
    chosen = torch.ones(8, 2, dtype=torch.bool)
    chosen[4:, 1] = False
    right = torch.stack([peak(8, *patch) for patch in PATCHES], 1)
    right[4:, 1] = 100 * torch.rand(4, 7, 7)  # not chosen: must not count
    return score_faithfulness(
        OnePatch(), images, chosen, {"right": right, "noise": torch.rand(8, 2, 7, 7)}, **settings
    )


def test_good_maps_stand_beside_their_baselines():
    scores = scored(replacement="mean colour")
    assert len(scores.image) == 12
    assert set(scores.curves["deletion"]) == {"right", "noise", "mean map", "random order"}
    # half a step of 49
    assert scores.area("deletion", "right") == pytest.approx(SURE / 98, rel=0.02)
    assert scores.area("insertion", "right") == pytest.approx(1 - 1 / 98, abs=0.001)
    # Patches that never move are found by a habit too: the mean map of the chosen is as good.
    assert scores.area("deletion", "mean map") == pytest.approx(scores.area("deletion", "right"))
    assert abs(scores.area("deletion", "random order") - 0.5) < 0.2
    for measure in ("deletion", "insertion"):
        mean, low, high = scores.gain(measure, "right")
        assert 0 < low < mean < high
        assert scores.gain(measure, "random order", "right")[0] == pytest.approx(-mean)
    text = str(scores)
    for words in (*scores.curves["deletion"], "12 attributes of 8 images", "own mean colour"):
        assert words in text


def test_a_mean_map_from_other_images_is_used_if_given():
    elsewhere = torch.rand(2, 7, 7)
    for k, (r, c) in enumerate(PATCHES):
        elsewhere[k, r, c] = -1
    scores = scored(mean_map=elsewhere, replacement="mean colour")
    assert scores.area("deletion", "mean map") > 0.98


def test_intervals_draw_images_and_not_attributes():
    values = torch.randn(60)
    once = resampled_means(values, torch.arange(60))
    copied = resampled_means(values.repeat_interleave(10), torch.arange(60).repeat_interleave(10))
    assert once == pytest.approx(copied)  # copies of an image teach nothing
    mean, low, high = once
    assert mean == pytest.approx(values.mean().item())
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / math.sqrt(60), rel=0.15)


def test_an_intervention_moves_a_probability_by_its_own_doing():
    """Adding to what one output reads shifts that logit by what it weighs, and no other."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double().train()
    before = torch.randn(7, 4, dtype=torch.float64)
    change = torch.tensor([0.0, 2.0, 0, 0], dtype=torch.float64)
    with torch.no_grad():
        model.weight[2, 1] = 0  # output 2 does not read it
        logit = model(before)[:, 1]
        expected = (logit + 2 * model.weight[1, 1]).sigmoid() - logit.sigmoid()
    found = intervention_effect(model, before, before + change, output=1, chunk=3)
    torch.testing.assert_close(found, expected)
    assert torch.equal(
        intervention_effect(model, before, before + change, 2), torch.zeros(7).double()
    )
    assert model.training


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=8),
    st.lists(st.integers(-3, 3), min_size=1, max_size=8),
)
def test_superiority_is_the_area_under_the_roc_curve(first, second):
    from sklearn.metrics import roc_auc_score

    values = [torch.tensor(each, dtype=torch.float32) for each in (first, second)]
    truth = [1] * len(first) + [0] * len(second)
    assert superiority(*values) == pytest.approx(roc_auc_score(truth, first + second))
    assert superiority(*values) + superiority(*values[::-1]) == pytest.approx(1)
