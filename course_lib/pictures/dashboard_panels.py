"""The panels of the performance dashboard: what each draws, and the sentence that says what it
shows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..looking.agreement import frequency_trend
from ..training.attribute_scores import calibration_error, threshold_scores
from .base import GREY

__all__ = [
    "Panel",
    "ScoredRun",
    "calibration",
    "f1",
    "over_all_negative",
    "positive_rate",
    "thresholds",
    "weights",
]

RARE = 0.10  # attributes less frequent than this are called rare

SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # labels of logarithmic axes

SWEEP = [round(0.05 * step, 2) for step in range(1, 20)]

BINS = 10


class ScoredRun(NamedTuple):
    """One run's attributes, those that can be scored, and how it is drawn; `images attributes`, on
    the CPU.
    """

    name: str
    names: list[str]
    probabilities: Tensor
    truth: Tensor
    frequencies: Tensor
    thresholds: Tensor | float
    weights: Tensor | None
    scores: dict[str, Tensor]
    colour: str
    symbol: str

    @property
    def rare(self) -> Tensor:
        return self.frequencies < RARE

    @property
    def shown_frequencies(self) -> Tensor:
        """Frequencies that a logarithmic axis can show."""
        return self.frequencies.clamp(min=0.001)

    def mean(self, values: Tensor) -> str:
        """The mean over all attributes and over the rare ones, as text."""
        return f"mean {values.mean():.3f}" + (
            f", rare {values[self.rare].mean():.3f}" if self.rare.any() else ""
        )

    def count(self, which: Tensor, most: int = 5) -> str:
        """How many attributes are meant, and their names if they are few."""
        names = [name for name, chosen in zip(self.names, which, strict=True) if chosen]
        return f"{len(names)} of {len(which)} attributes" + (
            f" ({', '.join(names)})" if 0 < len(names) <= most else ""
        )


class Panel(NamedTuple):
    """A title, what the axes are, their settings, what is drawn, and what it says."""

    title: str
    axes: str
    x: dict
    y: dict
    traces: list
    says: str


def _for_each(runs: Sequence[ScoredRun], says: Callable[[ScoredRun], str]) -> str:
    return "; ".join(f"{run.name}: {says(run)}" if run.name else says(run) for run in runs)


def _axis(low: float = -0.02, high: float = 1.02, **settings) -> dict:
    return {"range": [low, high]} | settings


def _shares(lowest: float) -> dict:
    """A logarithmic axis of shares."""
    return _axis(
        float(np.log10(lowest)) - 0.1,
        0.05,
        type="log",
        tickvals=SHARES,
        ticktext=[f"{100 * share:g} %" for share in SHARES],
    )


def _frequencies(runs: Sequence[ScoredRun]) -> dict:
    return _shares(min(float(run.shown_frequencies.min()) for run in runs))


def _rounded(values) -> list[float]:
    return np.round(np.asarray(values, dtype=np.float64), 4).tolist()


def _line(x, y, hover: str = "", markers: bool = False, **line):
    import plotly.graph_objects as go

    return go.Scatter(
        x=_rounded(x),
        y=_rounded(y),
        mode="lines+markers" if markers else "lines",
        line=line,
        marker={"size": 5},
        showlegend=False,
        hovertemplate=hover or None,
        hoverinfo=None if hover else "skip",
    )


def _guide(x: Sequence[float], y: Sequence[float]):
    return _line(x, y, color=GREY, dash="dot", width=1.2)


def _all_and_rare(run: ScoredRun, x: Tensor, y: Tensor) -> list:
    """Two lines, `2 points` each: all attributes, solid, and the rare ones, dashed."""
    hover = "{} attributes: %{{x:.3f}}, %{{y:.3f}}<extra>" + run.name + "</extra>"
    return [
        _line(
            x[row],
            y[row],
            hover.format(which),
            markers=True,
            color=run.colour,
            dash=dash,
            width=1.6,
        )
        for row, (which, dash) in enumerate((("all", "solid"), ("rare", "dash")))
        if row == 0 or run.rare.any()
    ]


def _points(run: ScoredRun, x: Tensor, y: Tensor, hover: str, legend: bool = False):
    """A point an attribute; `hover` is said after its name."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=_rounded(x),
        y=_rounded(y),
        mode="markers",
        text=run.names,
        name=run.name,
        showlegend=legend,
        hovertemplate=f"%{{text}}: {hover}<extra>{run.name}</extra>",
        marker={"color": run.colour, "symbol": run.symbol, "size": 8, "opacity": 0.8},
    )


def _trend(values: Tensor, against: Tensor) -> str:
    """The rank correlation of two values an attribute, with its interval, as text."""
    trend, low, high = frequency_trend(values, against)
    return (
        "undefined"
        if np.isnan(trend)
        else f"{trend:+.2f} (95 % interval {low:+.2f} to {high:+.2f})"
    )


def f1(runs: Sequence[ScoredRun]) -> Panel:
    def says(run: ScoredRun) -> str:
        return (
            f"{run.mean(run.scores['f1'])}; under 0.05 for {run.count(run.scores['f1'] < 0.05)};"
            f" rank correlation with frequency {_trend(run.scores['f1'], run.frequencies)}"
        )

    traces = [
        _points(
            run,
            run.shown_frequencies,
            run.scores["f1"],
            "frequency %{x:.1%}, F1 %{y:.3f}",
            legend=True,
        )
        for run in runs
    ]
    return Panel(
        "F1 at the thresholds",
        "F1 by training frequency",
        _frequencies(runs),
        _axis(),
        traces,
        _for_each(runs, says),
    )


def over_all_negative(runs: Sequence[ScoredRun]) -> Panel:
    gains = {run.name: run.scores["accuracy"] - 1 + run.truth.float().mean(0) for run in runs}

    def says(run: ScoredRun) -> str:
        gain = gains[run.name]
        return (
            f"{run.mean(gain)}; worse than saying no for {run.count(gain < 0)}; balanced accuracy "
            f"{run.mean(run.scores['balanced_accuracy'])}, where saying no has 0.5"
        )

    low, high = (float(edge) for edge in torch.cat(list(gains.values())).aminmax())
    traces = [
        _points(run, run.shown_frequencies, gains[run.name], "accuracy %{y:+.1%} over saying no")
        for run in runs
    ]
    return Panel(
        "Accuracy over saying no to everything",
        "gain by training frequency",
        _frequencies(runs),
        _axis(min(low, 0) - 0.04, high + 0.04, tickformat="+.0%"),
        [_guide([0.0001, 1.2], [0, 0]), *traces],
        _for_each(runs, says),
    )


def positive_rate(runs: Sequence[ScoredRun]) -> Panel:
    def says(run: ScoredRun) -> str:
        rate, truth = run.scores["positive_rate"], run.truth.float().mean(0)
        return (
            f"{rate.mean():.1%} are predicted, {truth.mean():.1%} are there; less than half as"
            f" often as there: {run.count(rate < truth / 2)}; more than twice as often:"
            f" {run.count(rate > 2 * truth)}"
        )

    lowest = 0.5 / len(runs[0].truth)  # where what is never predicted is drawn
    traces = [
        _points(
            run,
            run.truth.float().mean(0),
            run.scores["positive_rate"].clamp(min=lowest),
            "%{x:.1%} are there, %{y:.1%} predicted",
        )
        for run in runs
    ]
    rarest = float(runs[0].truth.float().mean(0).min())
    return Panel(
        "Positive predictions",
        "share predicted by share that is there",
        _shares(rarest),
        _shares(lowest),
        [_guide([lowest, 1], [lowest, 1]), *traces],
        _for_each(runs, says),
    )


def calibration(runs: Sequence[ScoredRun]) -> Panel:
    def says(run: ScoredRun) -> str:
        return (
            "calibration error"
            f" {run.mean(calibration_error(run.probabilities, run.truth.float()))}; mean"
            f" probability {run.probabilities.mean():.3f}, share that is there"
            f" {run.truth.float().mean():.3f}"
        )

    traces = [line for run in runs for line in _reliability(run)]
    return Panel(
        "Calibration",
        "share that is there by probability; rare dashed",
        _axis(),
        _axis(),
        [_guide([0, 1], [0, 1]), *traces],
        _for_each(runs, says),
    )


def _reliability(run: ScoredRun) -> list:
    """Mean probability and share of positives in each bin, NaN where a bin is empty, of all and of
    rare attributes.
    """
    which = (run.probabilities * BINS).long().clamp(max=BINS - 1)
    chosen = torch.stack([torch.ones_like(run.rare), run.rare])
    sums = [
        torch.stack(
            [
                torch.bincount(which[:, use].flatten(), values[:, use].double().flatten(), BINS)
                for use in chosen
            ]
        )
        for values in (torch.ones_like(run.probabilities), run.probabilities, run.truth)
    ]
    return _all_and_rare(run, sums[1] / sums[0], sums[2] / sums[0])


def thresholds(runs: Sequence[ScoredRun]) -> Panel:
    traces, clauses = [], {}
    for run in runs:
        swept = torch.stack(
            [threshold_scores(run.probabilities, run.truth.float(), value)["f1"] for value in SWEEP]
        )
        means = torch.stack([swept.mean(1), swept[:, run.rare].mean(1)])
        traces += _all_and_rare(run, torch.tensor([SWEEP, SWEEP]), means)
        best, each = int(means[0].argmax()), torch.as_tensor(run.thresholds)
        traces.append(
            _points(
                run,
                each.expand(len(run.names)),
                run.scores["f1"],
                "threshold %{x:.3f}, F1 %{y:.3f}",
            )
        )
        clauses[run.name] = (
            f"one threshold for all is best at {SWEEP[best]:g}, mean F1 {means[0, best]:.3f}; at"
            f" 0.5 it is {means[0, SWEEP.index(0.5)]:.3f}; at the thresholds used, {each.min():.3f}"
            f" to {each.max():.3f}, {run.scores['f1'].mean():.3f}"
        )
    return Panel(
        "Thresholds",
        "F1 by threshold: one for all (lines), used (points)",
        _axis(),
        _axis(),
        traces,
        _for_each(runs, lambda run: clauses[run.name]),
    )


def weights(baseline: ScoredRun, run: ScoredRun) -> Panel:
    """What the weights of `run` went with, attribute by attribute: not what they caused, if more
    than they changed.
    """
    gains = {
        name: run.scores[name] - baseline.scores[name]
        for name in ("recall", "f1", "average_precision")
    }
    trends = (
        f"{name.replace('_', ' ')} "
        + (
            f"{_trend(gain, run.weights)}, mean gain {gain.mean():+.3f}"
            if gain.any()
            else "unchanged"
        )
        for name, gain in gains.items()
    )
    low, high = (float(edge) for edge in torch.cat([gains["recall"], gains["f1"]]).aminmax())
    traces = [
        _points(
            run._replace(name=name, colour=colour, symbol=symbol),
            run.weights,
            gains[score],
            f"weight %{{x:.1f}}, {name} %{{y:+.3f}}",
            legend=True,
        )
        for score, name, colour, symbol in (
            ("recall", "gain in recall", "#222222", "triangle-up"),
            ("f1", "gain in F1", "#2a9d8f", "square"),
        )
    ]
    lightest, heaviest = (np.log10(float(edge)) for edge in run.weights.clamp(min=0.1).aminmax())
    return Panel(
        f"Gain of {run.name} over {baseline.name}",
        "gain by the weight of a positive",
        _axis(
            lightest - 0.1,
            heaviest + 0.1,
            type="log",
            tickvals=[0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100],
        ),
        _axis(min(low, 0) - 0.04, high + 0.04),
        [_guide([0.01, 10_000], [0, 0]), *traces],
        f"rank correlation of weight and gain: {'; '.join(trends)}",
    )
