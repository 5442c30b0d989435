"""The pictures of lesson 07 draw the numbers they name."""

import pytest
import torch

from course_lib.pictures import (
    plot_attribute_maps,
    plot_attribute_pipeline,
)


def test_the_pipeline_names_its_stages():
    assert "Here: 33 queries." in plot_attribute_pipeline("33 queries").description
    with pytest.raises(ValueError, match="no stage 'query'"):
        plot_attribute_pipeline("query")


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
