"""Statistics of attention against plain loops, what diagnosis says of made faults, and rollout by
hand.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.looking import (
    STATISTICS,
    agreement,
    attention_relevance,
    attention_rollout,
    attention_statistics,
    check_attention,
    diagnose,
    effective_support,
)
from course_lib.pictures import attention as attention_pictures

PICTURES = {
    "uniform",
    "collapsed",
    "one key only",
    "no distribution",
    "the same for every input",
    "unstable over steps",
}


def random_attention(*shape, sharp=1.0, seed=0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharp).softmax(-1)


def one_hot(targets, keys):
    return torch.nn.functional.one_hot(torch.as_tensor(targets), keys).float()[None, None]


@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 99))
def test_statistics_equal_plain_loops(queries, keys, seed):
    weights = random_attention(2, 3, queries, keys, sharp=2, seed=seed)
    found = attention_statistics(weights)
    assert set(found) == set(STATISTICS)
    assert all(value.shape == (2, 3) for value in found.values())
    w = weights[1, 2].double().numpy()
    rows = [-sum(p * math.log(p) for p in row if p > 0) for row in w]
    x, y = [(i + 0.5) / queries for i in range(queries)], [(j + 0.5) / keys for j in range(keys)]
    far = (
        sum(w[i, j] * abs(x[i] - y[j]) * keys for i in range(queries) for j in range(keys))
        / queries
    )
    expected = {
        "mean": w.mean(),
        "max": w.max(),
        "sparsity": (w < 0.01).mean(),
        "entropy": np.mean(rows),
        "support": np.mean([math.exp(row) for row in rows]),
        "sink": w.sum(0).max() / queries,
        "distance": far,
        "similarity": np.mean(
            [
                np.mean(
                    [np.sqrt(weights[1, 2, q] * weights[1, h, q]).sum() for q in range(queries)]
                )
                for h in (0, 1)
            ]
        ),
    }
    for name, value in expected.items():
        assert float(found[name][1, 2]) == pytest.approx(float(value), abs=2e-5), name
    if queries > 1 and w.std(0).max() > 1e-6:
        points = np.array([(x[i], y[j], w[i, j]) for i in range(queries) for j in range(keys)])
        covariance = np.cov(points[:, 0], points[:, 1], aweights=points[:, 2], ddof=0)
        correlation = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
        assert float(found["diagonality"][1, 2]) == pytest.approx(correlation, abs=1e-4)


def test_patterns_are_told_apart():
    size, blocks = 24, torch.block_diag(*[torch.full((6, 6), 1 / 6)] * 4)[None, None]
    shown = {
        "diagonal": torch.eye(size)[None, None],
        "reversed": torch.eye(size).flip(0)[None, None],
        "uniform": torch.full((1, 1, size, size), 1 / size),
        "sink": one_hot([0] * size, size),
        "blocks": blocks,
    }
    found = {
        name: {k: float(v) for k, v in attention_statistics(w).items()} for name, w in shown.items()
    }
    assert found["diagonal"]["diagonality"] == pytest.approx(1)
    assert found["reversed"]["diagonality"] == pytest.approx(-1)
    assert found["uniform"]["diagonality"] == pytest.approx(0, abs=1e-6)
    assert found["sink"]["diagonality"] == 0
    assert found["blocks"]["blocks"] == pytest.approx(1)
    assert found["diagonal"]["blocks"] < 0.35
    assert found["uniform"]["blocks"] == 0
    assert found["sink"]["sink"] == 1
    assert found["uniform"]["sink"] == pytest.approx(1 / size)
    assert found["blocks"]["support"] == pytest.approx(6)
    assert found["diagonal"]["distance"] == 0


def test_block_structure_is_the_adjusted_share_of_variance():
    weights = random_attention(1, 1, 8, 8, sharp=2)
    w, best = weights[0, 0].double().numpy(), 0.0
    for side in (2, 3, 4):
        label = np.arange(8) * side // 8
        means = np.array([[w[np.ix_(label == a, label == b)].mean() for b in label] for a in label])
        explained = ((means - w.mean()) ** 2).sum() / ((w - w.mean()) ** 2).sum()
        best = max(best, 1 - (1 - explained) * 63 / (64 - side**2))
    assert float(attention_statistics(weights)["blocks"]) == pytest.approx(best, abs=1e-5)


def test_distance_on_a_grid_leaves_the_class_token_out():
    weights = torch.zeros(1, 1, 7, 7)
    weights[..., 0] = 0.5
    # the patch below or above, in 2 rows of 3
    for patch, neighbour in enumerate([3, 4, 5, 0, 1, 2]):
        weights[0, 0, 1 + patch, 1 + neighbour] = 0.5
    weights[0, 0, 0, 0] = 1
    assert float(attention_statistics(weights, grid=(2, 3))["distance"]) == pytest.approx(1)


def test_half_precision_and_fully_masked_rows_are_attention():
    weights = random_attention(1, 2, 300, 300).half()
    weights[0, 0, 3] = 0
    assert torch.isfinite(attention_statistics(weights)["entropy"]).all()


def many(shape, sharp, steps):
    return [random_attention(*shape, sharp=sharp, seed=step) for step in range(steps)]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        (torch.full((2, 4, 9, 9), 1 / 9), "uniform"),
        (one_hot([2] * 9, 9).expand(1, 4, 9, 9), "collapsed"),
        (torch.ones(3, 4, 9, 1), "one key only"),
        (random_attention(1, 2, 9, 9).expand(4, 2, 9, 9), "the same for every input"),
        (many((1, 2, 9, 9), 30, 5), "unstable over steps"),
        (None, "nothing captured"),
        ([], "nothing captured"),
        ({}, "nothing captured"),
        (MemoryError("tried 8 GB"), "out of memory"),
        (torch.full((2, 1, 9, 4), 2.0), "no distribution"),
    ],
)
def test_each_fault_is_named_with_its_remedy_and_picture(weights, name):
    findings = {finding.name: finding for finding in diagnose(weights)}
    assert name in findings
    finding = findings[name]
    assert finding.says.endswith(".")
    assert finding.remedy.endswith(".")
    assert (finding.evidence is not None) == (name in PICTURES)
    assert finding.remedy in repr(finding)


def test_healthy_attention_has_no_finding():
    assert diagnose(random_attention(4, 3, 12, 12, sharp=2)) == []
    steady = random_attention(2, 2, 8, 8, sharp=2)
    assert diagnose([steady, steady, steady]) == []


def test_a_large_recording_is_told_how_to_shrink(monkeypatch):
    monkeypatch.setattr("course_lib.looking.attention.LARGE", 1000)
    [finding] = diagnose(random_attention(2, 2, 12, 12, sharp=2))
    assert finding.name == "large"
    assert "keep=" in finding.remedy


def test_rollout_composes_layers_by_hand():
    a, b = random_attention(2, 3, 5, 5), random_attention(2, 3, 5, 5, seed=1)
    mixed = [0.5 * torch.eye(5) + 0.5 * layer.mean(1) for layer in (a, b)]
    assert torch.allclose(attention_rollout([a, b]), mixed[1] @ mixed[0])
    assert torch.allclose(attention_rollout([a, b]).sum(-1), torch.ones(2, 5))
    assert torch.allclose(attention_rollout([a], residual=0), a.mean(1))


def test_attention_relevance_keeps_what_raises_the_output():
    weights = random_attention(1, 2, 3, 4).requires_grad_()
    (3 * weights[0, 0, 1, 2] - 5 * weights[0, 1, 0, 0]).backward()
    raised, weights = attention_relevance(weights, weights.grad), weights.detach()
    assert float(raised[0, 1, 2]) == pytest.approx(1.5 * float(weights[0, 0, 1, 2]))
    assert float(raised.sum()) == pytest.approx(float(raised[0, 1, 2]))


def test_check_returns_the_weights_themselves():
    weights = random_attention(1, 1, 2, 3)
    assert check_attention(weights) is weights


@given(keys=st.integers(1, 8), seed=st.integers(0, 99))
def test_agreement_is_what_the_total_variation_leaves(keys, seed):
    weights = random_attention(3, 4, keys, sharp=3, seed=seed)
    truth = random_attention(3, 4, keys, seed=seed + 100)
    apart = torch.zeros(3, 4)
    for chosen in range(2**keys):  # the total variation, as it is defined: over all sets of keys
        keep = torch.tensor([chosen >> key & 1 for key in range(keys)]).float()
        apart = torch.maximum(apart, ((weights - truth) * keep).sum(-1).abs())
    assert torch.allclose(agreement(weights, truth), 1 - apart, atol=1e-6)
    assert torch.equal(agreement(weights, truth), agreement(truth, weights))


def test_support_counts_evenly_watched_keys():
    for count in range(1, 9):
        row = torch.zeros(8)
        row[torch.randperm(8)[:count]] = 1 / count
        assert effective_support(row) == pytest.approx(count, rel=1e-5)


def test_pictures_say_their_numbers(tmp_path):
    weights = random_attention(2, 4, 6, 5, sharp=2)
    picture = attention_pictures.plot_attention_map(
        weights, tmp_path / "map.png", query_names="abcdef"
    )
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert f"{weights[0].mean(0).max():.2f}" in picture.description
    with pytest.raises(ValueError, match="3 names for 5 keys"):
        attention_pictures.plot_attention_map(weights, key_names="abc")
    assert "4 maps" in attention_pictures.plot_heads(weights).description
    assert (
        "eye looks effectively"
        in attention_pictures.plot_heads(torch.eye(5), names=["eye"]).description
    )
    with pytest.raises(ValueError, match="2 names for 4 maps"):
        attention_pictures.plot_heads(weights, names="ab")
    with pytest.raises(ValueError, match="queries and keys"):
        attention_pictures.plot_attention_map(torch.rand(4))


def test_part_attention_sums_over_keys_and_averages_queries():
    blocks = torch.block_diag(*[torch.full((3, 3), 1 / 3)] * 4)
    picture = attention_pictures.plot_part_attention(blocks, 4)
    assert "100% of their attention within" in picture.description
    shown = picture.figure.axes[1].images[0].get_array()
    assert np.allclose(shown, np.eye(4))
    cross = random_attention(1, 1, 4, 6, sharp=2)
    in_parts = attention_pictures.plot_part_attention(cross, 2, keys_in_parts=True)
    shown = in_parts.figure.axes[1].images[0].get_array()
    assert shown[0, 1] == pytest.approx(float(cross[0, 0, :2, 3:].sum() / 2), abs=1e-6)
    with pytest.raises(ValueError, match="do not divide into 5"):
        attention_pictures.plot_part_attention(blocks, 5)


@pytest.mark.parametrize("keys", [6, 7])  # six could be taken for two parts, seven not
def test_parts_that_look_at_an_image_are_shown_beside_its_tokens(keys):
    cross = random_attention(2, 3, 4, keys, sharp=2)
    picture = attention_pictures.plot_part_attention(cross, 2, names=["eye", "nose"])
    shown = picture.figure.axes[1].images[0].get_array()
    expected = torch.stack([cross[0].mean(0)[:2].mean(0), cross[0].mean(0)[2:].mean(0)])
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    part, key = divmod(int(expected.argmax()), keys)
    assert f"where 2 parts look among {keys} keys" in picture.description
    assert f"from part {part} to key {key}" in picture.description
    with pytest.raises(ValueError, match="4 queries do not divide into 3 equal parts"):
        attention_pictures.plot_part_attention(cross, 3)


def test_an_animation_has_a_frame_a_step_on_one_scale():
    steps = [torch.eye(n)[None, None] for n in (5, 5, 5)]
    animation = attention_pictures.animate_attention(steps)
    assert len(animation.frames) == 3
    assert (animation.frames[1] != animation.frames[0]).any()  # the step's number
    large = attention_pictures.animate_attention(
        [random_attention(1, 1, 20, 20, seed=s, sharp=3) for s in range(2)]
    )
    assert (large.frames[0] != large.frames[1]).mean() > 0.05
    with pytest.raises(ValueError, match="one layer at a time"):
        attention_pictures.animate_attention([torch.eye(3), torch.eye(4)])
    with pytest.raises(ValueError, match="at least one step"):
        attention_pictures.animate_attention([])
