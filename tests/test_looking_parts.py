"""Attention between parts and over steps, against loops and against cases whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from course_lib.looking import (
    layer_iou,
    part_matrix,
    part_separation,
    person_overlap,
    step_stability,
)
from course_lib.models import LAYERS
from course_lib.pictures import animate_sampling


def attention(*shape, seed=0):
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_the_part_matrix_is_that_of_a_loop(parts, asking, asked, seed):
    weights = attention(2, 3, parts * asking, parts * asked, seed=seed)
    matrix = part_matrix(weights, parts)
    assert matrix.shape == (2, 3, parts, parts)
    for one in range(parts):
        for other in range(parts):
            block = weights[
                ..., one * asking : (one + 1) * asking, other * asked : (other + 1) * asked
            ]
            assert_close(matrix[..., one, other], block.sum((-2, -1)) / asking)
    assert_close(matrix.sum(-1), torch.ones(2, 3, parts))


def test_stability_is_one_where_nothing_moves_and_zero_where_all_does():
    still = attention(1, 2, 6).expand(4, 2, 6)
    assert_close(step_stability(still), torch.ones(3, 2))
    walking = torch.eye(5)[:, None]  # each step another key
    assert (step_stability(walking) == 0).all()
    half = torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]])
    assert step_stability(half).tolist() == [0.5]


def test_separation_of_known_maps():
    assert part_separation(torch.eye(4)) == 1
    assert part_separation(attention(1, 9).expand(4, 9)) == pytest.approx(0, abs=1e-6)
    maps = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert part_separation(maps) == pytest.approx((0.5 + 1 + 1) / 3)


def test_separation_leaves_absent_parts_out():
    maps = attention(3, 4, 9)
    maps[1, 2] = 0
    maps[2, 1:] = 0
    separation = part_separation(maps)
    assert separation[1] == pytest.approx(float(part_separation(maps[1, [0, 1, 3]])))
    assert separation[2].isnan()


def test_the_film_has_one_frame_a_step_and_moves():
    states = torch.rand(3, len(LAYERS), 32, 32)
    looks = attention(3, len(LAYERS), 128).unflatten(2, (8, 16))
    film = animate_sampling(torch.rand(3, 64, 128), states, looks)
    assert len(film.frames) == 3
    assert not np.array_equal(film.frames[0], film.frames[1])
    assert "in 3 steps" in film.description


@given(st.integers(0, 1000))
def test_iou_is_that_of_sets(seed):
    layers, truth = np.random.default_rng(seed).random((2, 2, 3, 5, 5)).astype(np.float32) ** 2
    truth[1, 2] = 0
    scores = layer_iou(torch.from_numpy(layers), torch.from_numpy(truth)).numpy()
    for item in range(2):
        for part in range(3):
            said, true = (
                {tuple(place) for place in np.argwhere(values[item, part] > 0.5)}
                for values in (layers, truth)
            )
            expected = len(said & true) / len(said | true) if said | true else np.nan
            assert scores[item, part] == pytest.approx(expected, nan_ok=True)


def test_the_overlap_with_a_person_counts_the_parts_that_the_person_shows():
    people = torch.zeros(1, 2, 3, 4, 4)
    people[0, 0, 0, :2], people[0, 0, 1, 2:] = 1, 1  # no third part
    people[0, 1, 0, 1:3], people[0, 1, 2] = 1, 1  # no second part
    assert_close(person_overlap(people[:, 0], people), torch.tensor([[1, (1 / 3 + 0) / 2]]))
    half = people[:, 0].clone()
    half[0, 1] = 0
    half[0, 2, 0] = (
        1  # invented: counts against the other person, whose part it is, not against the first
    )
    assert_close(person_overlap(half, people), torch.tensor([[0.5, (1 / 3 + 1 / 4) / 2]]))
