"""The pictures of lesson 07 draw the numbers they name."""

import numpy as np
import pytest
import torch

from course_lib.pictures import (
    plot_attribute_maps,
    plot_attribute_pipeline,
    plot_focal_bug,
    plot_frequencies,
    plot_gains,
    plot_reliability,
    plot_watch,
)

NAMES = ("Bald", "Smiling", "Young")


def test_the_pipeline_names_its_stages():
    assert "Here: 33 queries." in plot_attribute_pipeline("33 queries").description
    with pytest.raises(ValueError, match="no stage 'query'"):
        plot_attribute_pipeline("query")


def test_frequencies_come_in_order_and_the_rare_are_counted():
    picture = plot_frequencies(torch.tensor([0.02, 0.9, 0.5]), NAMES)
    assert "from Bald (2.0%) to Smiling (90%); 1 are under 5%" in picture.description
    assert [bar.get_height() for bar in picture.figure.axes[0].patches] == pytest.approx(
        [0.02, 0.5, 0.9]
    )


def test_a_watched_run_shows_what_was_noted():
    history = [
        {"accuracy": 0.8, "positive_rate": 0.0, "true_rate": 0.2, "f1": [0.0, 0.5, 0.4]},
        {"accuracy": 0.9, "positive_rate": 0.1, "true_rate": 0.2, "f1": [0.1, 0.7, 0.7]},
    ]
    picture = plot_watch(history, NAMES, ["Bald", "Young"])
    assert (
        "accuracy went from 0.800 to 0.900 (always no: 0.800), mean F1 from 0.30 to 0.50"
        in picture.description
    )
    assert (
        "F1 is Bald 0.10, Young 0.70; 10.0% of the predictions are positive" in picture.description
    )
    assert [line.get_ydata().tolist() for line in picture.figure.axes[1].lines][1] == [0.0, 0.1]


def test_the_bug_is_as_large_as_computed_by_hand():
    assert "at p = 0.9 it is 98 times the focal loss" in plot_focal_bug(43.56, 2, 0.9).description


def test_gains_are_told_apart_from_chance():
    gains = {
        "F1": {"a": (0.2, 0.1), "b": (-0.2, 0.1), "c": (0.05, 0.1)},
        "AP": {"a": (0.0, 0.1), "b": (0.1, 0.05), "c": (0.0, 0.0)},
    }
    picture = plot_gains(gains)
    assert "F1: most by a, +0.200 ± 0.100; AP: most by b, +0.100 ± 0.050" in picture.description
    drawn = [
        len(line.get_xdata()) for line in picture.figure.axes[0].lines if line.get_marker() in "oDs"
    ]
    assert drawn == [1, 1, 1]


def test_reliability_is_the_share_of_positives_in_each_bin():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(4_000, 2, generator=generator)
    targets = (torch.rand(4_000, 2, generator=generator) < probabilities**2).float()
    picture = plot_reliability({"too sure": (probabilities, targets)})
    line = picture.figure.axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata() ** 2, atol=0.06)
    assert "too sure: 0.1" in picture.description  # the mean of p − p² is 1/6


def test_maps_lie_over_their_images_and_hits_are_counted():
    regions = torch.zeros(2, 56, 56, dtype=torch.bool)
    regions[:, :8, :8] = True
    maps = {
        "good": torch.eye(49)[[0, 0]].reshape(2, 7, 7),
        "bad": torch.eye(49)[[0, 40]].reshape(2, 7, 7),
    }
    picture = plot_attribute_maps(torch.rand(2, 3, 56, 56), maps, regions, ["Bald", "Bangs"])
    assert "on the outlined region in 2 (good), 1 (bad)" in picture.description
    assert (
        "outlined"
        not in plot_attribute_maps(
            torch.rand(2, 3, 56, 56), maps, None, ["Bald", "Bangs"]
        ).description
    )
