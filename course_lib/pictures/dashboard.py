"""The performance of one run, or of two side by side, on one page: is it good, on what, and at
which threshold?

Derived in lesson 12.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.attribute_scores import score_attributes, threshold_scores
from . import dashboard_panels as panels
from .base import BLUE, HIGHLIGHT, INK, PAPER, ExplorableFigure
from .dashboard_overview import overview
from .dashboard_panels import RARE, Panel, ScoredRun

__all__ = ["AttributeResults", "performance_dashboard"]

ROW, TOP, BOTTOM = 320, 100, 60  # pixels


@dataclass(frozen=True)
class AttributeResults:
    """What a model said of a test set, `batch attributes`, what is true, and what training knew of
    each attribute.

    `frequencies` are those of the training set; `thresholds` one number or one an attribute, chosen
    on validation; `weights` are the loss's weights of positives. Raises ValueError for shapes that
    differ, and values that are no probability, label or frequency.
    """

    probabilities: Tensor
    targets: Tensor
    names: Sequence[str]
    frequencies: Tensor
    thresholds: Tensor | float = 0.5
    weights: Tensor | None = None

    def __post_init__(self):
        threshold_scores(self.probabilities, self.targets)  # checks both
        count = self.targets.shape[1]
        if len(self.names) != count:
            raise ValueError(
                f"there are {len(self.names)} names for {count} attributes; give one for each"
                " column"
            )
        for name, limit in (("frequencies", 1), ("thresholds", 1), ("weights", torch.inf)):
            values = getattr(self, name)
            if values is None or (name == "thresholds" and not isinstance(values, Tensor)):
                continue
            if (
                values.shape != (count,)
                or not ((values >= 0) & (values <= limit) & values.isfinite()).all()
            ):
                raise ValueError(
                    f"{name} have the shape {tuple(values.shape)} and run from {values.min():g} to "
                    f"{values.max():g}; expected one for each of {count} attributes, at least 0"
                    + (" and at most 1" if limit == 1 else " and finite")
                )


def performance_dashboard(
    results: AttributeResults | Mapping[str, AttributeResults],
) -> ExplorableFigure:
    """Draw how a run performs, or two by name, the first being the baseline of the second.

    First the headline numbers, a row for each attribute, and the ROC and precision–recall curves of
    the one that is chosen; then F1, accuracy over saying no to everything, the rate of positive
    predictions, calibration, thresholds and, of two runs, what went with the weights of the second.
    Attributes that are in all images or in none have no curve: they are named and left out. Print
    it for a sentence a panel. Raises ValueError for no or more than two runs, for runs on other
    images or attributes, and where no attribute is left. Derived in lesson 12.
    """
    runs, left_out = _runs(
        {"": results} if isinstance(results, AttributeResults) else dict(results)
    )
    drawn = [
        panel(runs)
        for panel in (
            panels.f1,
            panels.over_all_negative,
            panels.positive_rate,
            panels.calibration,
            panels.thresholds,
        )
    ]
    if len(runs) == 2 and runs[1].weights is not None:
        drawn.append(panels.weights(*runs))
    clauses = [
        f"{len(runs[0].truth)} images and {len(runs[0].names)} attributes,"
        f" {int(runs[0].rare.sum())} of them rare (in under {RARE:.0%} of the training images)."
    ]
    if left_out:
        clauses.append(f"Left out, being in all of the images or in none: {', '.join(left_out)}.")
    first_look, sentences = overview(runs)
    clauses += sentences + [f"{panel.title}: {panel.says}." for panel in drawn]
    return ExplorableFigure(_figure(drawn, len(runs)), "\n".join(clauses), first_look)


def _runs(results: dict[str, AttributeResults]) -> tuple[list[ScoredRun], list[str]]:
    if not 1 <= len(results) <= 2:
        raise ValueError(
            f"there are {len(results)} runs; give one, or two by name, the baseline first"
        )
    every = list(results.values())
    first, last = every[0], every[-1]
    if list(first.names) != list(last.names) or not torch.equal(
        first.targets.cpu(), last.targets.cpu()
    ):
        raise ValueError(
            "the two runs have other names or targets; compare them on the same attributes of the"
            " same images, in the same order"
        )
    truth = first.targets.cpu().bool()
    usable = truth.any(0) & ~truth.all(0)
    if not usable.any():
        raise ValueError(
            f"none of the {len(usable)} attributes has positives and negatives, so there is nothing"
            " to draw; use a larger test set"
        )
    names = [name for name, use in zip(first.names, usable, strict=True) if use]
    runs = []
    for (name, run), colour, symbol in zip(
        results.items(), (BLUE, HIGHLIGHT), ("circle", "diamond"), strict=False
    ):
        probabilities, frequencies, thresholds, weights = (
            values.detach().cpu()[..., usable] if isinstance(values, Tensor) else values
            for values in (run.probabilities, run.frequencies, run.thresholds, run.weights)
        )
        probabilities = probabilities.double()
        scores = score_attributes(probabilities, truth[:, usable].float(), thresholds)
        runs.append(
            ScoredRun(
                name,
                names,
                probabilities,
                truth[:, usable],
                frequencies.float(),
                thresholds,
                weights,
                scores,
                colour,
                symbol,
            )
        )
    return runs, [name for name, use in zip(first.names, usable, strict=True) if not use]


def _figure(drawn: Sequence[Panel], runs: int):
    """Two panels a row, and the legend above them."""
    from plotly.subplots import make_subplots

    rows = -(-len(drawn) // 2)
    inner = rows * ROW
    figure = make_subplots(
        rows,
        2,
        horizontal_spacing=0.1,
        vertical_spacing=0.24 / rows,
        subplot_titles=[f"<b>{panel.title}</b><br>{panel.axes}" for panel in drawn],
    )
    for index, panel in enumerate(drawn):
        row, column = index // 2 + 1, index % 2 + 1
        figure.add_traces(panel.traces, rows=row, cols=column)
        figure.update_xaxes(row=row, col=column, **panel.x)
        figure.update_yaxes(row=row, col=column, **panel.y)
    figure.update_annotations(font={"size": 12})
    figure.update_layout(
        height=inner + TOP + BOTTOM,
        margin={"l": 50, "r": 20, "t": TOP, "b": BOTTOM},
        template="plotly_white",
        paper_bgcolor=PAPER,
        font={"color": INK, "size": 12},
        showlegend=runs > 1,
        legend={
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1 + 50 / inner,
            "yanchor": "bottom",
        },
    )
    return figure
