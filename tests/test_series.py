"""A chart draws every series that it is given, and draws the same picture each time it is asked."""

import numpy as np
import pytest
import torch

from course_lib.looking import dimension_distribution
from course_lib.pictures import (
    plot_against_frequency,
    plot_boring_video,
    plot_dimension_distribution,
    plot_each_attribute,
    plot_iou,
    plot_losses,
    plot_over_steps,
    plot_reliability,
    plot_traits,
)

NAMES = [f"series {number}" for number in range(7)]
ATTRIBUTES = ["one", "two", "three"]


def of_each(make):
    """Something for each of seven names."""
    generator = torch.Generator().manual_seed(0)
    return {name: make(generator) for name in NAMES}


def numbers(count):
    return of_each(lambda generator: torch.rand(count, generator=generator))


def features(generator):
    return dimension_distribution(torch.randn(20, 6, generator=generator))


def answers(generator):
    return torch.rand(40, 3, generator=generator), torch.randint(0, 2, (40, 3)).float()


CHARTS = {
    "plot_iou": lambda: plot_iou(numbers(9)),
    "plot_each_attribute": lambda: plot_each_attribute(numbers(3), ATTRIBUTES),
    "plot_against_frequency": lambda: plot_against_frequency(numbers(3), torch.rand(3)),
    "plot_boring_video": lambda: plot_boring_video(
        {name: values.numpy() for name, values in numbers(8).items()}
    ),
    "plot_dimension_distribution": lambda: plot_dimension_distribution(of_each(features)),
    "plot_losses": lambda: plot_losses(
        {name: values.tolist() for name, values in numbers(30).items()}
    ),
    "plot_over_steps": lambda: plot_over_steps(numbers(4), "support"),
    "plot_reliability": lambda: plot_reliability(of_each(answers)),
    "plot_traits": lambda: plot_traits(
        np.full(5, 0.5), {name: values.numpy() for name, values in numbers(5).items()}
    ),
}


def styles_by_name(picture):
    """The marker, line and colour of each series, by its name in the legend."""
    found = {}
    for axis in picture.figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            if hasattr(handle, "get_marker"):
                style = (handle.get_marker(), handle.get_linestyle(), str(handle.get_color()))
                found[label] = style
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_every_series_is_drawn_and_told_apart(name):
    torch.manual_seed(0)
    drawn = styles_by_name(CHARTS[name]())
    series = {
        each: style for label, style in drawn.items() for each in NAMES if label.startswith(each)
    }
    assert list(series) == NAMES
    assert len(set(series.values())) == len(NAMES)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_drawn_twice_is_the_same(name):
    torch.manual_seed(0)
    first = styles_by_name(CHARTS[name]())
    torch.manual_seed(0)
    assert styles_by_name(CHARTS[name]()) == first
