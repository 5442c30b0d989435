"""Measures against independent references, known worlds and input that cannot be measured."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from course_lib.looking import (
    dead_dimensions,
    dimension_distribution,
    linear_probe,
    pair_similarities,
    separation_auc,
    within_person_consistency,
)
from course_lib.looking import features as measures


def people(count=12, images=3, dim=16, noise=1.5, seed=0):
    """Feature vectors of people: a centre of their own, and noise around it."""
    generator = torch.Generator().manual_seed(seed)
    person = torch.arange(count).repeat_interleave(images)
    centres = torch.randn(count, dim, generator=generator)
    return centres[person] + noise * torch.randn(len(person), dim, generator=generator), person


# ---- people --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50), count=st.integers(2, 6), images=st.integers(2, 4))
def test_consistency_is_a_mean_over_pairs(seed, count, images):
    features, person = people(count, images, seed=seed)
    shuffled = torch.randperm(len(person))
    features, person = features[shuffled], person[shuffled]
    similarity = 1 - cdist(features, features, "cosine")
    pairs = [(i, j) for i in range(len(person)) for j in range(i)]
    within = [similarity[pair] for pair in pairs if person[pair[0]] == person[pair[1]]]
    assert within_person_consistency(features, person) == pytest.approx(np.mean(within), abs=1e-9)


@given(seed=st.integers(0, 50), noise=st.floats(0.1, 5))
def test_the_auc_is_scikit_learns(seed, noise):
    features, person = people(noise=noise, seed=seed)
    similarity, same = pair_similarities(features, person)
    assert len(same) == 36 * 35 / 2
    auc, low, high = separation_auc(features, person, 20)
    assert auc == pytest.approx(roc_auc_score(same, similarity), abs=1e-9)
    assert 0 <= low <= high <= 1


def test_scale_and_order_change_nothing():
    features, person = people()
    order = torch.randperm(len(person))
    for measure in (
        within_person_consistency,
        lambda *pair: separation_auc(*pair, 10)[0],
    ):
        expected = measure(features, person)
        assert measure(features * torch.rand(len(person), 1).add(0.1), person) == pytest.approx(
            expected, abs=1e-6
        )
        assert measure(features[order], 7 * person[order] - 3) == pytest.approx(expected, abs=1e-6)


def test_known_worlds():
    person = torch.arange(4).repeat_interleave(2)
    perfect = torch.eye(4)[person]
    assert within_person_consistency(perfect, person) == pytest.approx(1)
    assert separation_auc(perfect, person, 50) == (1, 1, 1)
    assert separation_auc(torch.ones(8, 3), person, 50) == (0.5, 0.5, 0.5), "a tie is half right"
    one_direction = torch.rand(8, 1) * torch.rand(1, 37)
    assert separation_auc(one_direction, person, 50) == (0.5, 0.5, 0.5), (
        "a tie but for rounding is a tie"
    )
    collapsed = 100 + torch.randn(8, 3)
    assert within_person_consistency(collapsed, person) > 0.99, (
        "consistency alone rewards a collapsed network"
    )
    assert separation_auc(torch.randn(120, 8), torch.arange(60).repeat(2), 50)[0] == pytest.approx(
        0.5, abs=0.12
    )


def test_the_interval_draws_people():
    """It covers the truth about as often as it says; drawing pairs would make it a third too
    narrow.
    """
    truth = np.mean([separation_auc(*people(200, 2, 8, 1.0, seed), 1)[0] for seed in range(8)])
    covered = 0
    for seed in range(40):
        _, low, high = separation_auc(*people(25, 4, 8, 1.0, 100 + seed), 200)
        covered += low <= truth <= high
    assert 34 <= covered <= 40

    features, person = people(25, 6, 8, 1.0)
    similarity, same = (values.numpy() for values in pair_similarities(features, person))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(same), (200, len(same)))
    naive = np.quantile(
        [roc_auc_score(same[row], similarity[row]) for row in drawn], [0.025, 0.975]
    )
    _, low, high = separation_auc(features, person, 200)
    assert high - low > 1.5 * (naive[1] - naive[0])


def test_a_resample_is_the_auc_of_copies_without_pairs_of_a_copy_and_itself(monkeypatch):
    features, person = people(4, 3)
    counts = torch.tensor([[2, 1, 0, 1]])
    monkeypatch.setattr(measures, "bootstrap_counts", lambda *_: counts)
    _, low, high = separation_auc(features, person, 1)
    drawn = torch.cat([torch.arange(3 * who, 3 * who + 3) for who in (0, 0, 1, 3)])
    copy = torch.arange(4).repeat_interleave(3)
    similarity = 1 - cdist(features[drawn], features[drawn], "cosine")
    same, different = (
        [similarity[i, j].round(10) for i in range(12) for j in range(i) if chosen(i, j)]
        for chosen in (
            lambda i, j: copy[i] == copy[j],
            lambda i, j: copy[i] != copy[j] and person[drawn[i]] != person[drawn[j]],
        )
    )
    expected = roc_auc_score([1] * len(same) + [0] * len(different), same + different)
    assert (low, high) == pytest.approx((expected, expected), abs=1e-9)


def test_the_interval_is_seeded_and_compares_the_pairs_once(monkeypatch):
    features, person = people(50, 4)
    compared = []
    monkeypatch.setattr(
        measures,
        "pair_similarities",
        lambda *items: compared.append(1) or pair_similarities(*items),
    )
    first = separation_auc(features, person)
    assert compared == [1]  # not once for each resample
    assert separation_auc(features, person) == first
    assert separation_auc(features, person, seed=1)[1:] != first[1:]


# ---- layers and dimensions -----------------------------------------------------------------------


def test_dead_and_redundant_dimensions():
    features = torch.randn(200, 6)
    features[:, 1] = 0.7
    features[:, 3] = 2 - 5 * features[:, 0]
    features[:, 5] = features[:, 2] + 0.8 * features[:, 4]  # correlation about .78 with dimension 2
    found = dimension_distribution(features)
    assert found.dead.tolist() == [False, True, False, False, False, False]
    assert found.redundant.tolist() == [False, False, False, True, False, False]
    assert dimension_distribution(features, 0.7).redundant.nonzero().flatten().tolist() == [3, 5]
    assert found.spread.numpy() == pytest.approx(features.std(0, correction=0).numpy(), abs=1e-5)
    assert found.variance.sum() == pytest.approx(1)


@given(used=st.integers(1, 8))
def test_effective_dimensions_count_equal_directions(used):
    signs = torch.tensor(
        [[1.0 if row >> bit & 1 else -1.0 for bit in range(8)] for row in range(256)]
    )
    features = signs.clone()
    features[:, used:] = 4
    turned = features @ torch.linalg.qr(torch.randn(8, 8)).Q
    assert dimension_distribution(features).effective_dimensions == pytest.approx(used)
    assert dimension_distribution(turned).effective_dimensions == pytest.approx(used, abs=1e-3)


def test_a_dead_feature_uses_no_dimension():
    found = dimension_distribution(torch.full((5, 3), 0.1))
    assert found.dead.all()
    assert not found.redundant.any()
    assert found.effective_dimensions == 0


# ---- the probe -----------------------------------------------------------------------------------


def test_a_probe_reads_what_is_linearly_there():
    features, groups = torch.randn(200, 12), torch.arange(40).repeat_interleave(5)
    amount = features[:, :2] @ torch.tensor([[1.0, 0.5], [-2.0, 1.0]]) + 3
    probe = linear_probe(features, amount, groups)
    assert (probe.measure, probe.scores.shape) == ("R²", (5,))
    assert probe.scores.min() > 0.99
    assert -0.2 < probe.baselines.min() <= probe.baselines.max() <= 0
    classes = (features[:, 0] > 0).long() + (features[:, 0] > 1).long()
    probe = linear_probe(features, classes, groups)
    assert probe.measure == "accuracy"
    assert probe.scores.mean() > 0.75
    assert probe.baselines.mean() == pytest.approx((classes == 0).float().mean().item(), abs=0.02)


def test_noise_holds_nothing_to_read():
    probe = linear_probe(torch.randn(200, 300), torch.randn(200), torch.arange(200))
    assert probe.scores.mean() < 0.1
    probe = linear_probe(torch.randn(200, 30), torch.arange(200) % 4, torch.arange(200))
    assert probe.scores.mean() == pytest.approx(0.25, abs=0.1)


def test_a_speaker_is_never_on_both_sides():
    """Features that only name the speaker would score 1 if the folds split speakers."""
    groups = torch.arange(20).repeat_interleave(10)
    identity, label = torch.randn(20, 40)[groups], torch.randn(20)[groups]
    assert (
        linear_probe(identity, label, torch.arange(200)[torch.randperm(200)]).scores.mean() > 0.95
    )
    assert linear_probe(identity, label, groups).scores.mean() < 0.3


def test_dead_dimensions_never_change():
    features = torch.randn(9, 5)
    features[:, 1], features[:, 3] = 0, 4.2
    assert dead_dimensions(features).tolist() == [False, True, False, True, False]
    assert dead_dimensions(features * 1e-8).tolist() == [False, True, False, True, False]
    assert dead_dimensions(torch.zeros(3, 2)).all()
