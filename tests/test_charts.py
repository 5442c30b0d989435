"""Charts draw every series that they are given, and say what the numbers say."""

import numpy as np
import pytest
import torch

from course_lib.pictures import bars, dots, histogram, lines

SEVEN = [f"series {number}" for number in range(7)]
ROWS = ["one", "two", "three"]
generator = torch.Generator().manual_seed(0)
NUMBERS = {name: torch.rand(3, generator=generator) for name in SEVEN}
SCATTERED = {name: torch.randn(50, generator=generator) for name in SEVEN}

CHARTS = {
    "lines": lambda: lines(NUMBERS, ylabel="loss"),
    "lines over names": lambda: lines(NUMBERS, ROWS),
    "points": lambda: lines(NUMBERS, [1, 2, 3], joined=False),
    "dots": lambda: dots(NUMBERS, ROWS),
    "bars": lambda: bars(NUMBERS, ROWS),
    "stacked bars": lambda: bars(NUMBERS, ROWS, stacked=True),
    "histogram": lambda: histogram(SCATTERED),
}


def legend(picture):
    """What each legend of a picture names."""
    figure = picture.figure
    legends = figure.legends + [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    return [[text.get_text() for text in each.get_texts()] for each in legends]


def looks(picture):
    """How each named series is drawn, but for its colour: marker and line, or hatching."""
    handles, labels = picture.figure.axes[0].get_legend_handles_labels()
    return {
        label: (handle.get_marker(), handle.get_linestyle())
        if hasattr(handle, "get_marker")
        else handle.patches[0].get_hatch()
        for handle, label in zip(handles, labels, strict=True)
    }


@pytest.mark.parametrize("name", CHARTS)
def test_seven_series_are_drawn_named_and_told_apart_without_colour(name):
    picture = CHARTS[name]()
    assert legend(picture) == [SEVEN]
    assert list(looks(picture)) == SEVEN
    assert len(set(looks(picture).values())) == len(SEVEN)
    assert all(series in picture.description.lower() for series in SEVEN)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_drawn_twice_is_the_same(name):
    assert looks(CHARTS[name]()) == looks(CHARTS[name]())
    assert CHARTS[name]().description == CHARTS[name]().description


def test_what_is_drawn_are_the_numbers():
    drawn = lines({"a": [3, 1, 2]}, [10, 20, 40]).figure.axes[0].lines[0]
    assert drawn.get_xydata().tolist() == [[10, 3], [20, 1], [40, 2]]
    own = lines({"a": (torch.tensor([5, 6]), np.array([1.0, 2.0]))}).figure.axes[0].lines[0]
    assert own.get_xydata().tolist() == [[5, 1], [6, 2]]
    in_rows = dots({"a": [3, 1, 2]}, ROWS).figure.axes[0].lines[0]
    assert in_rows.get_xydata().tolist() == [[3, 0], [1, 1], [2, 2]]
    beside = bars({"a": [3, 1, 2], "b": [1, 1, 1]}, ROWS).figure.axes[0].patches
    assert [bar.get_height() for bar in beside] == [3, 1, 2, 1, 1, 1]
    above = bars({"a": [3, 1, 2], "b": [1, 1, 1]}, ROWS, stacked=True).figure.axes[0].patches
    assert [bar.get_y() for bar in above[3:]] == [3, 1, 2]
    shares = histogram({"a": [0, 0, 0, 1]}, 2).figure.axes[0].lines[0]
    assert shares.get_ydata().tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (
            lambda: lines({"a": [0.5, 0.9, 0.1, 0.4]}, xlabel="step", ylabel="loss"),
            "Loss by step: a from 0.5 to 0.4, highest 0.9 at 1, lowest 0.1 at 2.",
        ),
        (
            lambda: lines({"a": [1, 2, 3, 1.5]}, ["x", "y", "z", "w"], description="Said before."),
            "Said before. A from 1 to 1.5, highest 3 at z.",
        ),
        (lambda: lines({"a": [7.0]}), "A 7."),
        (lambda: lines({"a": [np.nan, 1234.5, 12.34]}), "A from 1,234 to 12.3."),
        (lambda: lines({"a": [2, 5]}, joined=False), "A, 2 points from 2 to 5."),
        (
            lambda: lines({"up": {"a": [1, 2]}, "down": {"b_c": [2, 1]}}),
            "Up: a from 1 to 2. down: b c from 2 to 1.",
        ),
        (
            lambda: dots({"a": [1, 2]}, ["x", "y"], intervals={"a": ([0, 1], [3, 4])}),
            "A: x 1 (0 to 3), y 2 (1 to 4).",
        ),
        (lambda: bars({"": [1, 2]}, ["x", "y"], ylabel="% of images"), "% of images: x 1, y 2."),
        (
            lambda: dots({"a": range(30)}, [f"row {k}" for k in range(30)]),
            "A: mean 14.5, highest row 29 29, lowest row 0 0.",
        ),
    ],
)
def test_the_sentence_is_made_from_the_numbers(picture, words):
    assert picture().description == words


def test_very_many_series_are_all_drawn_and_some_are_said():
    picture = lines({f"series {number}": [number, 0] for number in range(40)})
    assert len(set(looks(picture).values())) == len(legend(picture)[0]) == 40
    assert picture.description.endswith("; and 24 more.")


def test_intervals_reach_from_low_to_high():
    bounds = {"a": ([0.0, 1.0], [2.0, 5.0])}
    band = lines({"a": [1, 2]}, intervals=bounds).figure.axes[0].collections[0]
    assert {0.0, 1.0, 2.0, 5.0} <= set(band.get_paths()[0].vertices[:, 1])
    for picture, axis in (
        (lines({"a": [1, 2]}, joined=False, intervals=bounds), 1),
        (dots({"a": [1, 2]}, ["x", "y"], intervals=bounds), 0),
        (bars({"a": [1, 2]}, ["x", "y"], intervals=bounds), 1),
    ):
        drawn = picture.figure.axes[0].collections[-1].get_segments()
        assert [sorted(segment[:, axis].tolist()) for segment in drawn] == [[0, 2], [1, 5]]


def test_guides_and_marks_are_named_and_stand_at_their_values():
    picture = lines({"a": [1, 2]}, guides={"chance": 1.5, "floor": 1.2}, marks={"best": 1})
    assert legend(picture) == [["a", "chance", "floor", "best"]]
    chance, floor, best = picture.figure.axes[0].lines[1:]
    assert (chance.get_ydata()[0], floor.get_ydata()[0], best.get_xdata()[0]) == (1.5, 1.2, 1)
    assert chance.get_linestyle() == floor.get_linestyle() == "--"
    assert len({str(line._dash_pattern) for line in (chance, floor, best)}) == 3
    upright = dots({"a": [1, 2]}, ["x", "y"], guides={"chance": 1.5}).figure.axes[0].lines[1]
    assert upright.get_xdata()[0] == 1.5


def test_panels_have_their_own_options_and_legends():
    picture = lines(
        {"one": {"a": [1, 10]}, "two": {"b": [1, 2]}},
        guides={"one": {"chance": 2}},
        yscale={"one": "log", "two": "linear"},
        xlabel="step",
    )
    one, two = picture.figure.axes
    assert (one.get_title(), two.get_title()) == ("one", "two")
    assert (one.get_yscale(), two.get_yscale()) == ("log", "linear")
    assert one.get_xlabel() == two.get_xlabel() == "step"
    assert legend(picture) == [["a", "chance"], ["b"]]
    same = lines({"one": {"a": [1, 10]}, "two": {"a": [1, 2]}})
    assert legend(same) == [["a"]]


@pytest.mark.parametrize(
    ("chart", "words"),
    [
        (lambda: lines({}), "no series"),
        (lambda: lines({"one": {}}), "no series"),
        (lambda: lines({"one": {"a": [1]}, "b": [1]}), "no series"),
        (lambda: lines({"a": []}), "'a' has 0 values"),
        (lambda: lines({"a": [1, 2]}, [1, 2, 3]), "'a' has 3 values for 2 places"),
        (lambda: lines({"a": ([1, 2], [1, 2, 3])}), "'a' has 2 values for 3 places"),
        (lambda: lines({"a": [1]}, intervals={"a": ([1], [1, 2])}), "'a' has 2 values for 1"),
        (lambda: dots({"a": [1, 2]}, ROWS), "'a' has 2 values for 3 places"),
        (lambda: bars({"a": [1, 2]}, ROWS), "'a' has 2 values for 3 places"),
        (lambda: histogram({"a": []}), "'a' has 0 values"),
    ],
)
def test_what_does_not_fit_is_refused(chart, words):
    with pytest.raises(ValueError, match=words):
        chart()


def test_small_numbers_in_several_panels_have_few_labels():
    gain = torch.tensor([-0.0099, 0.0, 0.0001])
    picture = dots({panel: {"gain": gain} for panel in ("one", "two", "three")}, ROWS)
    picture.figure.canvas.draw()
    for axis in picture.figure.axes:
        assert len(axis.get_xticks()) <= 6  # four steps, and one at each end
