"""Maps compared: scipy's ranks, literal loops, a model whose explanation is known, parts that are
untrained.
"""

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
    map_agreement,
    mean_maps,
    randomisation_check,
    randomise_layers,
    rank_correlation,
)
from course_lib.models import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from course_lib.recorder import attention_per_attribute


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


def by_loops(first, second, chosen):
    """Mean rank correlation of each attribute with the same and with the next chosen image's map."""

    def correlation(i, j, a):
        return spearmanr(first[i, a].flatten(), second[j, a].flatten()).statistic

    same, other = [], []
    for a in range(first.shape[1]):
        images = chosen[:, a].nonzero()[:, 0].tolist()
        same.append(np.mean([correlation(i, i, a) for i in images]))
        following = images[1:] + images[:1]
        pairs = zip(images, following, strict=True)
        other.append(np.mean([correlation(i, j, a) for i, j in pairs]))
    return same, other


def test_agreement_equals_loops_over_the_chosen():
    first = torch.rand(7, 3, 4, 4)
    second = first + 0.3 * torch.rand(7, 3, 4, 4)
    chosen = torch.rand(7, 3) < 0.7
    chosen[:2] = True
    found = map_agreement(first, second, chosen)
    same, other = by_loops(first, second, chosen)
    assert found.same_image.tolist() == pytest.approx(same, abs=1e-6)
    assert found.other_image.tolist() == pytest.approx(other, abs=1e-6)
    assert "between maps of one image" in str(found)


def test_agreement_of_a_map_with_itself_its_opposite_and_its_habit():
    habit = torch.rand(1, 2, 7, 7)
    maps = habit + 0.5 * torch.rand(300, 2, 7, 7)
    found = map_agreement(maps, maps)
    assert found.same_image.tolist() == pytest.approx([1, 1])
    assert map_agreement(maps, -maps).same_image.tolist() == pytest.approx([-1, -1])
    assert (found.other_image > 0.5).all()  # all follow the habit
    assert found.shuffled.abs().max() < 0.03


def test_an_attribute_of_one_image_has_no_other_image():
    chosen = torch.tensor([[True, True, False], [False, True, False], [False, True, False]])
    maps = torch.rand(3, 3, 2, 2)
    found = map_agreement(maps, maps, chosen)
    assert found.same_image.isnan().tolist() == [False, False, True]
    assert found.other_image.isnan().tolist() == [True, False, True]


def test_the_mean_map_is_of_the_images_that_count():
    maps = torch.rand(6, 3, 4, 4)
    chosen = torch.tensor([[True, False, False]] * 2 + [[True, True, False]] * 4)
    found = mean_maps(maps.requires_grad_(), chosen)
    assert torch.allclose(found[0], maps[:, 0].mean(0))
    assert torch.allclose(found[1], maps[2:, 1].mean(0))
    assert torch.equal(found[2], torch.zeros(4, 4))
    assert not found.requires_grad


def small(decoder=AttributeDecoder, **settings):
    return AttributeModel(
        TokenExtractor(16), decoder(16, attributes=4, dim=16, heads=2, **settings)
    ).eval()


@pytest.mark.parametrize("layers", [1, 2])
def test_attention_times_gradient_equals_one_gradient_an_attribute(layers):
    model, images = small(layers=layers), torch.rand(3, 3, 56, 56)
    found = attention_per_attribute(model, images, chunk=2)
    decoder = model.decoder
    values = decoder.project(model.backbone(images)).detach()
    keys, queries = values + decoder.positions, decoder.queries.repeat(3, 1, 1)
    for layer in decoder.layers:
        attention = layer.attention
        q, k, v = (
            x.unflatten(-1, (2, 8)).transpose(1, 2)
            for x in (
                attention.to_query(layer.query_norm(queries)),
                attention.to_key(keys),
                attention.to_value(values),
            )
        )
        weights = (q @ k.mT / math.sqrt(8)).softmax(-1)
        heard = (weights @ v).transpose(1, 2).flatten(2)
        queries = queries + attention.to_output(heard)
        queries = queries + layer.feed_forward(queries)
    logits = decoder.head(decoder.norm(queries))
    assert torch.allclose(logits, model(images), atol=1e-5)
    for a in range(4):
        (gradient,) = torch.autograd.grad(logits[:, a].sum(), weights, retain_graph=True)
        relevance = (weights * gradient).clamp(min=0).mean(1)[:, a]
        assert torch.allclose(found[:, a].flatten(1), relevance, atol=1e-6)
    assert found.shape == (3, 4, 7, 7)


def test_attention_times_gradient_leaves_the_model_alone():
    model = small(PointingDecoder).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = attention_per_attribute(model, torch.rand(2, 3, 56, 56))
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert found.sum() > 0
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


class TwoSteps(nn.Module):
    """Images are looked at by `see`, which makes the map, then judged by `judge`; `bias` is a
    parameter of its own.
    """

    def __init__(self):
        super().__init__()
        self.see, self.see_also, self.judge = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 1)
        self.bias = nn.Parameter(torch.randn(9))

    def maps(self, images):
        return (self.see(images) + self.bias).view(-1, 1, 3, 3)


def test_only_the_named_parts_are_untrained():
    model, untrained = TwoSteps(), TwoSteps()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mixed = randomise_layers(model, untrained, ["see", "bias"])
    for name, value in mixed.state_dict().items():
        # see_also is another part
        source = untrained if name.split(".")[0] in ("see", "bias") else model
        assert torch.equal(value, source.state_dict()[name]), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_cascade_shows_what_a_map_can_notice():
    model, untrained, images = TwoSteps(), TwoSteps(), torch.randn(200, 9)
    check = randomisation_check(
        model, untrained, ["judge", "bias", "see"], lambda changed: changed.maps(images)
    )
    assert list(check.correlation) == ["judge", "bias", "see"]
    assert check.correlation["judge"].item() == pytest.approx(1)  # it cannot notice
    alone = [
        spearmanr(first.flatten().detach(), second.flatten().detach()).statistic
        for first, second in zip(model.maps(images), untrained.maps(images), strict=True)
    ]
    assert check.correlation["see"].item() == pytest.approx(np.mean(alone), abs=1e-5)
    assert check.correlation["see"] < check.correlation["bias"] < 1  # it adds up
    assert "+ judge" in str(check)
