"""Maps compared: scipy's ranks, mean maps, parts that are untrained."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from course_lib.looking import (
    frequency_trend,
    mean_maps,
    randomise_layers,
    rank_correlation,
)


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 999))
def test_rank_correlation_is_spearmans_with_ties(values, levels, seed):
    first, second = np.random.default_rng(seed).integers(levels, size=(2, 3, values))
    found = rank_correlation(torch.tensor(first), torch.tensor(second))
    for row in range(3):
        if len(set(first[row])) == 1 or len(set(second[row])) == 1:
            assert math.isnan(found[row])
        else:
            assert found[row].item() == pytest.approx(
                spearmanr(first[row], second[row]).statistic, abs=1e-6
            )


def test_rank_correlation_of_what_is_not_known_is_not_known():
    values = torch.rand(2, 5)
    holed = values.clone()
    holed[0, 2] = math.nan
    assert rank_correlation(values, holed).isnan().tolist() == [True, False]


def test_a_trend_has_an_interval_over_attributes():
    frequencies = torch.rand(30)
    assert frequency_trend(-(frequencies**2), frequencies) == pytest.approx((-1, -1, -1))
    noisy = frequencies + 0.3 * torch.randn(30)
    trend, low, high = frequency_trend(noisy, frequencies)
    assert trend == pytest.approx(spearmanr(noisy, frequencies).statistic, abs=1e-6)
    drawn = np.random.default_rng(1).integers(30, size=(500, 30))
    resampled = [spearmanr(noisy[rows], frequencies[rows]).statistic for rows in drawn]
    expected = np.quantile(resampled, [0.025, 0.975])
    assert (low, high) == pytest.approx(expected, abs=0.06)
    unknown = torch.cat([noisy, torch.tensor([math.nan])])
    assert frequency_trend(unknown, torch.cat([frequencies, torch.ones(1)]))[0] == pytest.approx(
        trend
    )


def test_the_mean_map_is_of_the_images_that_count():
    maps = torch.rand(6, 3, 4, 4)
    chosen = torch.tensor([[True, False, False]] * 2 + [[True, True, False]] * 4)
    found = mean_maps(maps.requires_grad_(), chosen)
    assert torch.allclose(found[0], maps[:, 0].mean(0))
    assert torch.allclose(found[1], maps[2:, 1].mean(0))
    assert torch.equal(found[2], torch.zeros(4, 4))
    assert not found.requires_grad


class Parts(nn.Module):
    """Three layers, two of whose names begin alike, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.see, self.see_also, self.judge = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 1)
        self.bias = nn.Parameter(torch.randn(9))


def test_only_the_named_parts_are_untrained():
    model, untrained = Parts(), Parts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mixed = randomise_layers(model, untrained, ["see", "bias"])
    for name, value in mixed.state_dict().items():
        # see_also is another part
        source = untrained if name.split(".")[0] in ("see", "bias") else model
        assert torch.equal(value, source.state_dict()[name]), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
