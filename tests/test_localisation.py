"""Localisation measures against pixel-by-pixel references, with regions in corners, and their
baselines.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.looking import (
    chance_of_pointing,
    energy,
    follows,
    iou_curve,
    pointing_at_one_place,
    pointing_game,
    score_localisation,
)
from course_lib.looking.localisation import covered


def box(top, bottom, left, right, height=28, width=28):
    region = torch.zeros(height, width, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def peak(row, column, rows=7, columns=7):
    values = torch.full((rows, columns), 0.01)
    values[row, column] = 1.0
    return values


def test_a_region_in_each_corner_is_found_there_and_nowhere_else():
    """A transposed box would be found in the other corner."""
    corners = {
        (row, column): box(4 * row, 4 * row + 4, 4 * column, 4 * column + 4)
        for row in (0, 6)
        for column in (0, 6)
    }
    for (row, column), region in corners.items():
        for other in corners:
            assert float(pointing_game(peak(*other), region)) == float(other == (row, column))
        assert float(energy(peak(row, column), region)) == pytest.approx(1 / 1.48, rel=1e-5)


def test_a_wide_image_keeps_rows_and_columns_apart():
    region = box(0, 10, 30, 40, height=20, width=40)
    assert float(pointing_game(peak(0, 3, 2, 4), region)) == 1
    assert float(pointing_game(peak(1, 3, 2, 4), region)) == 0
    assert float(energy(torch.ones(2, 4), region)) == pytest.approx(1 / 8)


def test_tolerance_counts_token_widths_from_the_centre():
    region = box(12, 16, 17, 18)  # 3 px right of the centre of token (3, 3), which is 4 px wide
    centre = peak(3, 3)
    assert float(pointing_game(centre, region, tolerance=0.5)) == 0
    assert float(pointing_game(centre, region, tolerance=0.75)) == 0
    assert float(pointing_game(centre, region, tolerance=0.8)) == 1
    assert float(pointing_game(centre, box(14, 15, 14, 15), tolerance=0.01)) == 1


def by_pixels(values, region, threshold):
    """Energy, IoU and area from a map repeated over the pixels: exact where pixels divide into
    tokens.
    """
    height, width = region.shape
    large = np.kron(values, np.ones((height // values.shape[0], width // values.shape[1])))
    chosen = large >= np.float32(threshold) * large.max()
    return (
        (large * region).sum() / large.sum(),
        (chosen & region).sum() / max((chosen | region).sum(), 1),
    )


@settings(max_examples=40)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999)
)
def test_energy_and_iou_equal_counting_pixels(rows, columns, tall, wide, seed):
    random = np.random.default_rng(seed)
    values = random.random((rows, columns)).astype(np.float32)
    region = random.random((rows * tall, columns * wide)) < 0.3
    region[random.integers(rows * tall), random.integers(columns * wide)] = True
    mass, overlap = by_pixels(values, region, 0.5)
    assert float(energy(torch.tensor(values), torch.tensor(region))) == pytest.approx(
        mass, abs=1e-5
    )
    curve = iou_curve(torch.tensor(values), torch.tensor(region), (0.5,))
    assert float(curve[0]) == pytest.approx(overlap, abs=1e-5)


def test_pixels_that_do_not_divide_into_tokens_are_shared_exactly():
    values, region = torch.rand(3, 5), torch.rand(10, 16) < 0.4
    fine_map = torch.tensor(np.kron(values, np.ones((10, 16)))) / 160
    fine_region = torch.tensor(np.kron(region, np.ones((3, 5))))
    expected = (fine_map * fine_region).sum() / fine_map.sum()
    assert float(energy(values, region)) == pytest.approx(float(expected), rel=1e-5)


def test_a_uniform_map_scores_chance():
    regions = torch.rand(6, 28, 28) < 0.02
    flat = torch.full((6, 7, 7), 1 / 49)
    assert torch.allclose(pointing_game(flat, regions), chance_of_pointing(regions, (7, 7)))
    assert torch.allclose(energy(flat, regions), regions.float().mean((1, 2)))


def test_shuffled_tokens_score_chance_on_average():
    regions = box(4, 12, 8, 20).expand(4000, 28, 28)
    maps = torch.rand(4000, 7, 7)
    scores = score_localisation(maps[:, None], regions[:, None])
    for measure, allowed in (("pointing", 0.02), ("energy", 0.005), ("IoU", 0.01)):
        assert abs(scores.mean(measure) - scores.mean(measure, "chance")) < allowed, measure


def drawn(items=40):
    """Two attributes: one always in the same place, one that moves; a map that finds both."""
    maps, regions = torch.zeros(items, 2, 7, 7), torch.zeros(items, 2, 28, 28, dtype=torch.bool)
    for i in range(items):
        row, column = i % 7, (3 * i) % 7
        maps[i, 0], regions[i, 0] = peak(1, 1), box(4, 8, 4, 8)
        maps[i, 1], regions[i, 1] = (
            peak(row, column),
            box(4 * row, 4 * row + 4, 4 * column, 4 * column + 4),
        )
    return maps, regions


def test_the_mean_map_unmasks_a_habit():
    maps, regions = drawn()
    scores = score_localisation(maps, regions, untrained=torch.rand(40, 2, 7, 7))
    pointing = scores.table["pointing"]
    assert pointing["map"].tolist() == [1, 1]
    assert float(pointing["mean map"][0]) == 1  # always the same place: a habit does it too
    assert float(pointing["mean map"][1]) < 0.3
    assert float(pointing["untrained"].mean()) < 0.15
    assert pointing["chance"].tolist() == pytest.approx([1 / 49] * 2)
    said = str(scores)
    for word in ("pointing", "energy", "IoU", "mean map", "untrained", "chance", "0.5 token"):
        assert word in said


def test_a_mean_map_from_other_images_is_used_if_given():
    maps, regions = drawn()
    elsewhere = peak(6, 6).expand(2, 7, 7)
    scores = score_localisation(maps, regions, mean_map=elsewhere)
    assert float(scores.table["pointing"]["mean map"][0]) == 0


def test_items_without_a_region_do_not_count():
    maps, regions = drawn(14)
    regions[:7, 0] = False
    maps[:7, 0] = peak(6, 6)
    scores = score_localisation(maps, regions)
    assert scores.items == 21
    assert float(scores.table["pointing"]["map"][0]) == 1
    assert float(scores.table["pointing"]["mean map"][0]) == 1  # nor do their maps
    assert math.isnan(float(pointing_game(maps[0, 0], regions[0, 0])))
    assert math.isnan(float(energy(maps[0, 0], regions[0, 0])))
    regions[:, 0] = False
    assert score_localisation(maps, regions).mean("energy") == pytest.approx(
        float(energy(maps, regions)[:, 1].mean())
    )


def test_energy_counts_the_positive_part_at_any_scale_and_an_empty_map_as_flat():
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:2, :4] = True
    values = torch.tensor([[1.0, -5.0], [-1.0, 3.0]])
    # half of the first of four tokens
    assert float(energy(values, region)) == pytest.approx(0.25 * 0.5)
    assert float(energy(7 * values, region)) == pytest.approx(float(energy(values, region)))
    assert float(energy(-torch.ones(2, 2), region)) == pytest.approx(1 / 8)


def moving_regions(n=60, seed=0):
    """A region of 2 × 2 tokens that moves over a grid of 7 × 7, for one attribute; and where it is."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.randint(0, 6, (n, 2), generator=generator)
    regions = torch.zeros(n, 1, 56, 56, dtype=torch.bool)
    for region, (row, column) in zip(regions[:, 0], where.tolist(), strict=True):
        region[8 * row : 8 * row + 16, 8 * column : 8 * column + 16] = True
    return regions, where


def test_maps_that_move_with_their_regions_follow_them_and_others_do_not():
    regions, where = moving_regions()
    maps = covered(regions, (7, 7))
    still, late = maps.mean(0, keepdim=True).expand_as(maps), maps.roll(7, 0)
    assert float(follows(maps, regions)[0]) == pytest.approx(1, abs=1e-5)
    assert float(follows(maps.flip(-2, -1), regions)[0]) == pytest.approx(-1, abs=1e-5)
    assert float(follows(still, regions)[0]) == 0
    rows, columns = (
        np.corrcoef(where[:, axis], where.roll(7, 0)[:, axis])[0, 1] for axis in (0, 1)
    )
    assert float(follows(late, regions)[0]) == pytest.approx((rows + columns) / 2, abs=1e-5)


def test_images_without_the_region_do_not_count_in_following():
    regions, _ = moving_regions()
    maps = covered(regions, (7, 7))
    blank = torch.zeros(30, 1, 56, 56, dtype=torch.bool)
    anything = torch.rand(30, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    assert float(
        follows(torch.cat([maps, anything]), torch.cat([regions, blank]))[0]
    ) == pytest.approx(1, abs=1e-5)
    assert follows(maps[:2], regions[:2]).isnan().all()


def test_no_fixed_token_hits_more_than_the_luckiest():
    regions, _ = moving_regions()
    regions = regions.repeat(1, 2, 1, 1)
    regions[:, 1] = regions[:, 1].flip(-1)
    hits = pointing_at_one_place(regions, (7, 7))
    assert hits.shape == (60, 2)
    for attribute in range(2):
        maps = torch.eye(49).reshape(49, 1, 7, 7).expand(49, 60, 7, 7)
        shares = [float(pointing_game(fixed, regions[:, attribute]).mean()) for fixed in maps]
        assert float(hits[:, attribute].float().mean()) == pytest.approx(max(shares))
