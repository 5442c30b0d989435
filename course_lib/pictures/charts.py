"""Charts: lines, dots in rows, bars and histograms of any number of series.

Series are given by name, a tensor, an array or a list of numbers each; or, for several panels, by
title and name. None is left out, colour is never the only difference between two, and the sentence
that describes the chart is made from the numbers. Options that hold for all three charts:

- `intervals`: low and high of a series' values, by its name;
- `guides`: values to compare with, a number by its name (chance, a floor), drawn as thin lines;
- `description`: the caption, which also stands before the sentence that is made;
- `settings`: those of `Axes.set`, such as `ylabel` or `yscale="log"`.

With panels each may be given by panel too. `ValueError` for no series, an empty one, and lengths
that differ.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from ..shapes import Float
from .base import GREY, INK, LETTERS, PER_INCH, WIDTHS, Picture, blank_axes, open_axis, styles

__all__ = ["bars", "dots", "histogram", "lines"]

GUIDES = ((0, (1, 1.5)), (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (2, 4)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "---", "|||", "**", "//oo", "xx..")
CURVES, CLAUSES, VALUES = 6, 16, 24  # of which extremes, anything, and each value is said


def lines(
    series: Mapping,
    x: Sequence | np.ndarray | Tensor | None = None,
    *,
    joined: bool = True,
    intervals: Mapping | None = None,
    guides: Mapping | None = None,
    marks: Mapping | None = None,
    description: str = "",
    **settings,
) -> Picture:
    """Curves over `x`, numbers or names, or over 0, 1, 2, …; points if they are not `joined`.

    A series may also be a pair: its own x, and its values. `marks` are places on the x axis, by
    name. The other options are those of this module.
    """
    panels, clauses = _panels(series), {}
    names = x if x is not None and len(x) and isinstance(x[0], str) else None
    few = sum(map(len, panels.values())) <= CURVES
    alone = 5.4 if names is None else float(np.clip(0.24 * len(names), 5.4, 9.0))
    figure, axes, columns = _figure(panels, alone, 2.7, 2.9)
    for place, (axis, (panel, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
        clauses[panel] = []
        for number, (name, values) in enumerate(curves.items()):
            at, heights = _curve(name, values, x if names is None else range(len(names)))
            style = _style(number, len(at), joined)
            axis.plot(at, heights, label=name, linewidth=1.5, **style)
            bounds = _bounds(name, intervals, panel, len(at))
            if bounds and joined:
                axis.fill_between(at, *bounds, color=style["color"], alpha=0.15, linewidth=0)
            elif bounds:
                axis.vlines(at, *bounds, style["color"], linewidth=1)
            say = _say_cloud if not joined else _say_curve if few else _say_ends
            clauses[panel].append(say(name, at if names is None else names, heights))
        drawn = np.concatenate([line.get_xdata() for line in axis.lines])
        if np.ptp(drawn) > 1 and np.array_equal(drawn, drawn.round()):
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        level = _of(guides, panel)
        _guide(axis.axhline, level)
        _guide(axis.axvline, _of(marks, panel), len(level))
        _finish(axis, panel, settings, place % columns == 0)
        if names is not None:
            _name_places(axis, names, figure.get_figwidth() / columns - 1.0)
    _legends(figure, axes)
    return _picture(figure, description, _by(settings, "ylabel", "xlabel"), clauses)


def dots(
    series: Mapping,
    rows: Sequence[str],
    *,
    intervals: Mapping | None = None,
    guides: Mapping | None = None,
    description: str = "",
    **settings,
) -> Picture:
    """A row for each name in `rows`, from the top, and in it a dot for each series."""
    panels, clauses, places = _panels(series), {}, np.arange(len(rows))
    few = len(rows) * sum(map(len, panels.values())) <= VALUES / (2 if intervals else 1)
    say = _say_each if few else _say_extremes
    most = max(len(curves) for curves in panels.values())
    height = max(0.2, 0.11 * most + 0.1) if intervals else 0.2
    figure, axes, columns = _figure(panels, 4.4, 2.6, 1.0 + height * len(rows))
    for place, (axis, (panel, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
        axis.hlines(places, 0, 1, GREY, linewidth=0.3, transform=axis.get_yaxis_transform())
        clauses[panel] = []
        for number, (name, values) in enumerate(curves.items()):
            numbers, style = _numbers(name, values, len(rows)), _style(number, len(rows), False)
            shift = 0.7 / most * (number - (len(curves) - 1) / 2) if intervals else 0.0
            axis.plot(numbers, places + shift, label=name, **style)
            bounds = _bounds(name, intervals, panel, len(rows))
            if bounds:
                axis.hlines(places + shift, *bounds, style["color"], linewidth=1.4)
            clauses[panel].append(say(name, rows, numbers, bounds))
        _guide(axis.axvline, _of(guides, panel))
        _finish(axis, panel, settings, place % columns == 0)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(places, [""] * len(rows) if place % columns else _words(rows))
        if len(panels) > 1 and axis.get_xscale() == "linear":
            axis.xaxis.set_major_locator(MaxNLocator(4))  # small numbers have long labels
        axis.tick_params(axis="y", length=0, labelsize=LETTERS)
    _legends(figure, axes)
    return _picture(figure, description, _by(settings, "xlabel"), clauses)


def bars(
    series: Mapping,
    labels: Sequence,
    *,
    stacked: bool = False,
    intervals: Mapping | None = None,
    guides: Mapping | None = None,
    description: str = "",
    **settings,
) -> Picture:
    """A group of bars for each of `labels`, a bar each series, side by side or `stacked`."""
    panels, clauses, places = _panels(series), {}, np.arange(len(labels))
    few = len(labels) * sum(map(len, panels.values())) <= VALUES / (2 if intervals else 1)
    say = _say_each if few else _say_extremes
    most = 1 if stacked else max(len(curves) for curves in panels.values())
    labelled = len(labels) * most <= VALUES and not stacked and not intervals
    wide = (0.46 * most if labelled else 0.24 * most**0.5) * len(labels)
    wide = float(np.clip(wide, 2.4, 9.0))
    figure, axes, columns = _figure(panels, max(wide, 4.0), wide, 2.9)
    for place, (axis, (panel, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
        below, clauses[panel] = np.zeros(len(labels)), []
        for number, (name, values) in enumerate(curves.items()):
            heights = _numbers(name, values, len(labels))
            shift = 0.0 if stacked else 0.8 / most * (number - (len(curves) - 1) / 2)
            colour, hatch = _style(number, 1, False)["color"], HATCHES[number % len(HATCHES)]
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            drawn = axis.bar(places + shift, heights, 0.8 / most, below, label=name, **look)
            bounds = _bounds(name, intervals, panel, len(labels))
            if bounds:
                axis.vlines(places + shift, *bounds, INK, linewidth=1.4)
            elif labelled:
                axis.bar_label(drawn, [_number(value) for value in heights], fontsize=LETTERS)
            clauses[panel].append(say(name, labels, heights, bounds))
            below = below + np.nan_to_num(heights) * stacked
        _guide(axis.axhline, _of(guides, panel))
        _finish(axis, panel, settings, place % columns == 0)
        _name_places(axis, labels, min(max(wide, 4.0), figure.get_figwidth() / columns - 1.0))
    _legends(figure, axes)
    return _picture(figure, description, _by(settings, "ylabel"), clauses)


def histogram(series: Mapping, bins: int = 40, **options) -> Picture:
    """The share of each series' values in each of `bins`, the same for all series of a panel.

    `options` are those of `lines`.
    """
    panels, shares = _panels(series), {}
    for panel, curves in panels.items():
        numbers = {name: _numbers(name, values) for name, values in curves.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(numbers.values())), bins)
        middle, shares[panel] = (edges[1:] + edges[:-1]) / 2, {}
        for name, values in numbers.items():
            shares[panel][name] = (middle, np.histogram(values, edges)[0] / len(values))
    return lines(shares if panels is not series else shares[""], **{"ylabel": "share"} | options)


# --------------------------------------------------------------------------------------------------
# What is given
def _panels(series: Mapping) -> dict[str, Mapping]:
    """The series of each panel; without panels there is one, without a title."""
    nested = any(isinstance(values, Mapping) for values in series.values())
    panels = dict(series) if nested else {"": series}
    if not all(isinstance(curves, Mapping) and curves for curves in panels.values()):
        raise ValueError(
            f"a panel among {', '.join(map(repr, panels))} has no series; give each at least one,"
            " as {name: numbers}"
        )
    return panels


def _numbers(name: str, values, length: int | None = None) -> Float[np.ndarray, " values"]:
    """One series on the CPU; with `length`, of that length."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    elif not isinstance(values, np.ndarray):
        values = [float(value) for value in values]
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers) or length not in (None, len(numbers)):
        raise ValueError(
            f"the series {name!r} has {len(numbers)} values for {length or 'some'} places; give"
            " one for each"
        )
    return numbers


def _curve(name: str, values, x) -> tuple[np.ndarray, np.ndarray]:
    """Where a curve's values stand, and the values; a pair brings its own places."""
    if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]):
        x, values = values
    heights = _numbers(name, values)
    at = range(len(heights)) if x is None else x
    return _numbers(name, at, len(heights)), heights


def _bounds(name: str, intervals: Mapping | None, panel: str, length: int) -> list[np.ndarray]:
    """Low and high of each value, or nothing."""
    return [_numbers(name, bound, length) for bound in _of(intervals, panel).get(name, ())]


def _of(option: Mapping | None, panel: str) -> Mapping:
    """What an option says for one panel: it is given for all, or by panel."""
    by_panel = option and all(isinstance(value, Mapping) for value in option.values())
    return (option.get(panel, {}) if by_panel else option) or {}


# --------------------------------------------------------------------------------------------------
# What is drawn
def _style(number: int, length: int, joined: bool) -> dict:
    """The look of a series; a long curve gets a marker here and there."""
    marker, line, colour = next(style for k, style in enumerate(styles()) if k == number)
    if not joined:
        size = 4.5 if length < 300 else 2.5
        look = {"color": colour, "marker": marker, "markersize": size}
        return look | {"linestyle": "none", "alpha": 0.85}
    step = max(1, length // 10)
    every = (number * step // 5 % step, step)
    look = {"color": colour, "marker": marker, "markersize": 4.5}
    return look | {"linestyle": line, "markevery": every}


def _figure(panels: Mapping, alone: float, each: float, height: float):
    """A figure, its axes and how many stand side by side: a panel's width is `alone` or `each`, and
    its legend comes on top. What is too wide for a page goes on in another row.
    """
    longest = max(len(name) for curves in panels.values() for name in curves)
    one_legend = len({tuple(curves) for curves in panels.values()}) == 1
    legend, widest = 0.6 + 0.085 * min(26, longest), WIDTHS[-1] / PER_INCH
    if len(panels) == 1:
        width, columns = min(alone + legend, widest), 1
    else:
        room = widest - legend * one_legend
        each += legend * (not one_legend)
        columns = min(len(panels), max(1, int(1.2 * room / each)))
        rows = -(-len(panels) // columns)
        columns = -(-len(panels) // rows)  # as many in each
        width = min(each * columns + legend * one_legend, widest)
        height *= rows
    rows = -(-len(panels) // columns)
    figure, axes = blank_axes(rows, columns, width, height)
    return figure, axes.flat[: len(panels)], columns


def _guide(draw, guides: Mapping[str, float], before: int = 0) -> None:
    """Thin lines, the first with the dashes that come after those drawn `before`."""
    for number, (name, value) in enumerate(guides.items(), start=before):
        line = GUIDES[number % len(GUIDES)]
        draw(float(value), color=INK, linewidth=1.1, linestyle=line, label=name, zorder=1)


def _finish(axis, panel: str, settings: Mapping, leftmost: bool) -> None:
    """The title and the settings; a logarithmic axis is labelled at 1, 2, 5 or at powers of 10."""
    if not leftmost and isinstance(settings.get("ylabel"), str):
        settings = settings | {"ylabel": ""}
    own = {
        key: value[panel] if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if not isinstance(value, Mapping) or panel in value
    }
    scales = {key: own.pop(key) for key in ("xscale", "yscale") if key in own}
    open_axis(axis, own.pop("title", panel), **scales)
    axis.set(**{key: own.pop(key) for key in ("xlim", "ylim") if key in own})
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() == "log":
            low, high = side.get_view_interval()
            side.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
            side.set_major_formatter(lambda value, _: _number(value))
            side.set_minor_locator(NullLocator())
    axis.set(**own)


def _name_places(axis, names: Sequence, width: float) -> None:
    """Names below an axis of that width, slanted where they need more, and of many numbers some."""
    words, step = _words(names), 1
    if len(words) > 12 and all(word.isdigit() for word in words):
        step = len(words) // 8
    axis.set_xticks(range(0, len(words), step), words[::step], fontsize=LETTERS)
    if step == 1 and 0.075 * max(map(len, words)) > width / len(words):
        for label in axis.get_xticklabels():
            label.set(rotation=60, ha="right", rotation_mode="anchor")


def _words(names: Sequence) -> list[str]:
    return [str(name).replace("_", " ") for name in names]


def _legends(figure, axes) -> None:
    """What is drawn, by name: once beside all panels if it is the same in each, else beside each."""
    look = {"frameon": False, "fontsize": LETTERS, "labelspacing": 0.6}
    named = []
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        texts = [fill(label, 26) for label in _words(labels)]
        named.append(dict(zip(texts, handles, strict=True)))
    if all(list(each) == list(named[0]) for each in named):
        if named[0]:
            figure.legend(named[0].values(), named[0], loc="outside right center", **look)
        return
    for axis, each in zip(axes, named, strict=True):
        axis.legend(each.values(), each, loc="center left", bbox_to_anchor=(1, 0.5), **look)


# --------------------------------------------------------------------------------------------------
# What is said
def _number(value: float) -> str:
    """Three digits, or whole where it is large: 0.123, 45.6, 7,890, 12.3M."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _by(settings: Mapping, value: str, along: str = "") -> str:
    """What the values are, and what they are by; nothing where that differs between panels."""
    texts = [settings.get(side) for side in (value, along)]
    said = [text for text in texts if text and isinstance(text, str)]
    return " by ".join(said) if texts[0] in said else ""


def _picture(figure, description: str, axes: str, clauses: Mapping[str, list[str]]) -> Picture:
    """The description as caption, and after it a clause each series, of very many only the first."""
    most, parts = max(2, CLAUSES // len(clauses)), []
    for panel, each in clauses.items():
        more = [f"and {len(each) - most} more"] if len(each) > most else []
        parts.append(": ".join(filter(None, [panel, "; ".join(each[:most] + more)])))
    made = ": ".join(filter(None, [axes, ". ".join(parts)])).replace("\n", " ").replace("_", " ")
    sentence = f"{description} {made[0].upper()}{made[1:]}.".strip()
    return Picture(figure, sentence, caption=description or sentence)


def _say_ends(name: str, x: Sequence | np.ndarray, y: Float[np.ndarray, " values"]) -> str:
    """The first value and the last."""
    ends = [_number(value) for value in y[np.isfinite(y)][[0, -1]]] if np.isfinite(y).any() else []
    if len(y) == 1 or not ends:
        return f"{name} {ends[0] if ends else 'unknown'}".strip()
    return f"{name} from {ends[0]} to {ends[1]}".strip()


def _say_curve(name: str, x: Sequence | np.ndarray, y: Float[np.ndarray, " values"]) -> str:
    """The first value and the last, and extremes between them."""
    text = _say_ends(name, x, y)
    if not np.isfinite(y).any():
        return text
    ends = y[np.isfinite(y)][[0, -1]]
    for word, at in (("highest", int(np.nanargmax(y))), ("lowest", int(np.nanargmin(y)))):
        if y[at] not in ends:
            place = x[at] if isinstance(x[at], str) else _number(x[at])
            text += f", {word} {_number(y[at])} at {place}"
    return text


def _say_cloud(name: str, x: Sequence | np.ndarray, y: Float[np.ndarray, " values"]) -> str:
    """How many points there are, and how far up and down they reach."""
    return f"{name}, {len(y):,} points from {_number(np.nanmin(y))} to {_number(np.nanmax(y))}"


def _each(rows: Sequence, values: np.ndarray, bounds: Sequence[np.ndarray]) -> list[str]:
    """Every value with the name of its row, and its interval."""
    each = []
    for row, value in zip(rows, values, strict=True):
        number = str(row).isdigit()
        each.append(f"{_number(value)} at {row}" if number else f"{row} {_number(value)}")
    if not bounds:
        return each
    spans = [f" ({_number(low)} to {_number(high)})" for low, high in zip(*bounds, strict=True)]
    return [value + span for value, span in zip(each, spans, strict=True)]


def _say_each(name: str, rows: Sequence, values: np.ndarray, bounds: Sequence[np.ndarray]) -> str:
    return f"{name}: {', '.join(_each(rows, values, bounds))}".removeprefix(": ")


def _say_extremes(
    name: str, rows: Sequence, values: np.ndarray, bounds: Sequence[np.ndarray]
) -> str:
    if not np.isfinite(values).any():
        return f"{name} unknown"
    each, high, low = _each(rows, values, bounds), np.nanargmax(values), np.nanargmin(values)
    mean = f"{name}: mean {_number(np.nanmean(values))}".removeprefix(": ")
    return f"{mean}, highest {each[high]}, lowest {each[low]}"
