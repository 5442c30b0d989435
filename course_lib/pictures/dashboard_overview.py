"""The first look of the performance dashboard: a few numbers, each beside its floor, every attribute
in a row, and the curves of the one that is chosen.

It is HTML with drawings in it. Without JavaScript it stands still and shows the rarest attribute.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..training.attribute_scores import calibration_error
from .dashboard_panels import RARE, ScoredRun

__all__ = ["COLOURS", "MEASURES", "overview"]

COLOURS = ("#4f83cc", "#e2566b")  # of the first run and the second, on light pages and on dark ones
ALIKE = 0.0005  # areas of two runs that differ by less are written as the same number
ROW, NAMES, PLOT, HEAD = 18, 160, 250, 38  # pixels, of the attributes' rows
CURVE, LEFT, BELOW = 220, 46, 44  # pixels, of a square with a curve, and of its labels
POINTS = 150  # of a curve


class Measure(NamedTuple):
    """A value for each run and attribute, `attributes` each, and what is had without a model."""

    name: str
    values: list[Tensor]
    floor: Tensor
    floor_name: str


MEASURES = ("average precision", "F1 at the thresholds", "calibration error")


def measures(runs: Sequence[ScoredRun]) -> list[Measure]:
    """What the rows show, in the order of `MEASURES`."""
    truth, frequencies = runs[0].truth.double(), runs[0].frequencies.double()
    share = truth.mean(0)
    everybody = frequencies.expand(len(truth), -1)
    floors = (
        (share, "random order"),
        (2 * share / (1 + share), "always yes"),
        (calibration_error(everybody, truth.float()), "one answer for everybody"),
    )
    values = (
        [run.scores["average_precision"] for run in runs],
        [run.scores["f1"] for run in runs],
        [calibration_error(run.probabilities, truth.float()) for run in runs],
    )
    return [
        Measure(name, each, *floor)
        for name, each, floor in zip(MEASURES, values, floors, strict=True)
    ]


def overview(runs: Sequence[ScoredRun]) -> tuple[str, list[str]]:
    """The HTML, and its sentences: the headlines, the rows and the curves."""
    shown, ranks_alike = measures(runs), _alike(runs)
    order = runs[0].frequencies.argsort().tolist()
    tiles, headlines = _tiles(runs, shown)
    first = next((measure for measure in shown if _differ(measure)), shown[0])
    rows = "".join(_rows(runs, measure, order, measure is first) for measure in shown)
    sentences = [f"Headlines: {headlines}.", _say_rows(runs, shown), _say_curves(runs, ranks_alike)]
    groups = "".join(
        f'<g class="one{" rare" * bool(runs[0].rare[k])}{" chosen" * (k == order[0])}" data-k="{k}"'
        f' data-name="{html.escape(runs[0].names[k].replace("_", " "))}"'
        f' data-says="{html.escape(_say_attribute(runs, shown, k, bool(ranks_alike[k])))}">'
        f"{_paths(runs, k, bool(ranks_alike[k]))}</g>"
        for k in order
    )
    height = HEAD + ROW * len(order) + 8
    legend = "".join(
        f'<span><b style="color:{colour}">{mark}</b> {html.escape(run.name or "this run")}</span>'
        for run, colour, mark in zip(runs, COLOURS, "●◆", strict=False)
    )
    page = f"""
<div class="overview" role="group" aria-label="How well the model performs">
<style>{_STYLE}</style>
<div class="tiles">{tiles}</div>
<div class="legend">{legend}<span><b>|</b> without a model</span></div>
<div class="controls"></div>
<div class="both">
<svg class="rows" width="{NAMES + PLOT + 20}" height="{height}" role="img"
 aria-label="{html.escape(sentences[1])}">{rows}</svg>
<svg class="curves" width="{LEFT + CURVE + 12}" height="{2 * (CURVE + BELOW + 22)}" role="img"
 aria-label="{html.escape(sentences[2])}">{_frames()}{groups}</svg>
</div>
<p class="says" aria-live="polite">{html.escape(_say_attribute(runs, shown, order[0], bool(ranks_alike[order[0]])))}</p>
</div><script>{script()}</script>"""
    return page, sentences


def script() -> str:
    """What makes rows choose an attribute, and adds the two menus."""
    return Path(__file__).with_name("web").joinpath("overview.js").read_text(encoding="utf-8")


def _alike(runs: Sequence[ScoredRun]) -> Tensor:
    """Of which attributes the runs' curves cannot be told apart, bool `attributes`."""
    first, last = runs[0].scores, runs[-1].scores
    gaps = [(first[name] - last[name]).abs() for name in ("roc_auc", "average_precision")]
    return torch.stack(gaps).amax(0) < ALIKE


# --------------------------------------------------------------------------------------------------
# What is said
def _change(values: Sequence[float]) -> str:
    return " → ".join(f"{value:.3f}" for value in values)


def _tiles(runs: Sequence[ScoredRun], shown: Sequence[Measure]) -> tuple[str, str]:
    """The headline numbers as tiles, and as a sentence."""
    precision, f1, calibration = shown
    rare, everywhere = runs[0].rare, torch.ones_like(runs[0].rare)
    chosen = [(precision, everywhere, f"all {len(rare)} attributes")]
    if rare.any():
        chosen.append((precision, rare, f"{int(rare.sum())} rare, under {RARE:.0%}"))
    chosen += [(f1, everywhere, "mean"), (calibration, everywhere, "mean, less is better")]
    tiles, clauses = [], []
    for measure, which, of in chosen:
        numbers = _change([float(values[which].mean()) for values in measure.values])
        floor = f"{measure.floor_name}: {measure.floor[which].mean():.3f}"
        title = measure.name[0].upper() + measure.name[1:]
        tiles.append(
            f'<div class="tile"><b>{title}</b><span>{of}</span><strong>{numbers}</strong>'
            f"<span>{floor}</span></div>"
        )
        clauses.append(f"{measure.name} ({of}) {numbers}, {floor}")
    return "".join(tiles), "; ".join(clauses)


def _say_rows(runs: Sequence[ScoredRun], shown: Sequence[Measure]) -> str:
    """How many attributes are no better than the floor, or what the second run moved most."""
    clauses = []
    for measure in shown:
        sign = -1 if measure.name == "calibration error" else 1
        worse = sign * (measure.values[-1] - measure.floor) <= 0
        clause = (
            f"{measure.name} is no better than {measure.floor_name} for {runs[-1].count(worse)}"
        )
        if len(runs) == 2:
            gain = sign * (measure.values[1] - measure.values[0])
            best, last = int(gain.argmax()), int(gain.argmin())
            clause += f", and changes from {runs[0].names[last]} {gain[last] * sign:+.3f} to "
            clause += f"{runs[0].names[best]} {gain[best] * sign:+.3f}"
        clauses.append(clause)
    return f"Attributes: {'; '.join(clauses)}."


def _say_curves(runs: Sequence[ScoredRun], alike: Tensor) -> str:
    area = runs[-1].scores["roc_auc"]
    worst = int(area.argmin())
    text = f"ROC: area {runs[-1].mean(area)}; lowest {runs[0].names[worst]}, {area[worst]:.3f}"
    text += "; chance is 0.5"
    if len(runs) == 2:
        text += f"; both runs have the same curves for {runs[0].count(alike)}"
    return f"{text}."


def _say_attribute(runs: Sequence[ScoredRun], shown: Sequence[Measure], k: int, alike: bool) -> str:
    values = [
        f"{measure.name} {_change([float(each[k]) for each in measure.values])}"
        f" ({measure.floor_name} {measure.floor[k]:.3f})"
        for measure in shown
    ]
    areas = _change([float(run.scores["roc_auc"][k]) for run in runs])
    same = " Both runs rank the images alike, so one curve stands for both." if alike else ""
    return (
        f"{runs[0].names[k].replace('_', ' ')}, in {runs[0].frequencies[k]:.1%} of the training"
        f" images: {', '.join(values)}, area under the ROC curve {areas}."
        f"{same if len(runs) == 2 else ''}"
    )


# --------------------------------------------------------------------------------------------------
# What is drawn
def _dot(x: float, y: float, run: int) -> str:
    if run == 0:
        return f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>'
    return f'<path d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z" fill="{COLOURS[1]}"/>'


def _floor(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 6}v12" stroke="currentColor" stroke-width="2"/>'


def _differ(measure: Measure) -> bool:
    """Whether two runs have other values, as written."""
    return bool((measure.values[0] - measure.values[-1]).abs().max() >= ALIKE)


def _rows(runs: Sequence[ScoredRun], measure: Measure, order: Sequence[int], visible: bool) -> str:
    """One measure of all attributes, the rarest first: a mark for the floor, a dot for each run."""
    largest = float(torch.stack([*measure.values, measure.floor]).max())
    step = next(
        step for step in (0.02, 0.05, 0.1, 0.25, 0.5) if largest <= 4.4 * step or step == 0.5
    )
    end = max(largest, step)
    bottom = HEAD + ROW * len(order)

    def place(value: float) -> float:
        return NAMES + 8 + PLOT * value / end

    parts = []
    for tick in np.arange(0, end + 1e-9, step):
        x = place(float(tick))
        parts.append(f'<path class="grid" d="M{x:.1f} {HEAD}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEAD - 8}" text-anchor="middle">{tick:g}</text>')
    for row, k in enumerate(order):
        y = HEAD + ROW * row + ROW / 2
        name = html.escape(runs[0].names[k].replace("_", " "))
        points = [place(float(values[k])) for values in measure.values]
        floor = place(float(measure.floor[k]))
        start = points[0] if len(points) == 2 else floor
        parts.append(
            f'<g class="row{" chosen" * (k == order[0])}" data-k="{k}">'
            f'<rect x="0" y="{y - ROW / 2}" width="{NAMES + PLOT + 20}" height="{ROW}"/>'
            f'<text x="{NAMES}" y="{y + 4}" text-anchor="end">{name}</text>'
            f'<path class="between" d="M{start:.1f} {y}H{points[-1]:.1f}"/>'
            f"{_floor(floor, y)}"
            f"{''.join(_dot(x, y, run) for run, x in enumerate(points))}</g>"
        )
    hidden = "" if visible else ' style="display:none"'
    title = f'<text x="{NAMES + 8}" y="11">{measure.name}</text>'
    return f'<g class="measure" data-name="{measure.name}"{hidden}>{title}{"".join(parts)}</g>'


def _frames() -> str:
    """The two squares that curves are drawn in, with their axes and the line of chance."""
    parts = []
    for number, (title, x, y) in enumerate(
        (
            ("ROC", "false-positive rate", "recall"),
            ("precision and recall", "recall", "precision"),
        )
    ):
        top = 22 + number * (CURVE + BELOW + 22)
        bottom, middle = top + CURVE, LEFT + CURVE / 2
        parts.append(f'<text x="{middle}" y="{top - 8}" text-anchor="middle">{title}</text>')
        parts.append(f'<path class="frame" d="M{LEFT} {top}V{bottom}H{LEFT + CURVE}"/>')
        for value in (0, 0.5, 1):
            across, up = LEFT + CURVE * value, bottom - CURVE * value
            parts.append(
                f'<text x="{across}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>'
                f'<text x="{LEFT - 5}" y="{up + 4}" text-anchor="end">{value:g}</text>'
            )
        parts.append(f'<text x="{middle}" y="{bottom + 32}" text-anchor="middle">{x}</text>')
        turned = f'transform="translate(13 {top + CURVE / 2}) rotate(-90)"'
        parts.append(f'<text {turned} text-anchor="middle">{y}</text>')
        if number == 0:
            parts.append(f'<path class="chance" d="M{LEFT} {bottom}L{LEFT + CURVE} {top}"/>')
    return "".join(parts)


def _paths(runs: Sequence[ScoredRun], k: int, alike: bool) -> str:
    """The curves of one attribute: of both runs where they differ, else of the first."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    parts = []
    for number, run in enumerate(runs[:1] if alike else runs):
        truth, probabilities = run.truth[:, k].numpy(), run.probabilities[:, k].numpy()
        precision, recall, _ = precision_recall_curve(truth, probabilities)
        curves = (roc_curve(truth, probabilities)[:2], (recall, precision))
        for square, (x, y) in enumerate(curves):
            bottom = 22 + square * (CURVE + BELOW + 22) + CURVE
            parts.append(
                f'<path class="run{number}" d="{_path(LEFT + CURVE * x, bottom - CURVE * y)}"/>'
            )
    return "".join(parts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """The points as whole pixels, each once; of very many some."""
    points = np.column_stack([x, y]).round().astype(int)
    new = np.r_[True, (np.diff(points, axis=0) != 0).any(1)]
    points = points[new]
    places = np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(int))
    return "M" + "L".join(f"{across} {down}" for across, down in points[places].tolist())


_STYLE = f"""
.overview {{ color: inherit; font: 14px/1.4 system-ui, sans-serif; max-width: 820px }}
.overview .tiles {{ display: flex; flex-wrap: wrap; gap: 8px }}
.overview .tile {{ flex: 1 1 170px; display: flex; flex-direction: column; padding: 8px 10px;
  border: 1px solid #8884; border-radius: 6px }}
.overview .tile strong {{ font-size: 20px; font-variant-numeric: tabular-nums }}
.overview .tile span {{ font-size: 12px }}
.overview .legend, .overview .controls {{ display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 8px 0 }}
.overview .legend svg {{ vertical-align: -2px }}
.overview select {{ font: inherit; color: inherit; background: none; border: 1px solid #888; border-radius: 4px;
  padding: 2px 4px }}
.overview option {{ color: #222; background: #fff }}
.overview .both {{ display: flex; flex-wrap: wrap; gap: 12px; overflow-x: auto }}
.overview text {{ font: 12px system-ui, sans-serif; fill: currentColor }}
.overview .grid {{ stroke: #8884 }}
.overview .row {{ cursor: pointer }}
.overview .row rect {{ fill: transparent }}
.overview .row:hover rect {{ fill: #8882 }}
.overview .row.chosen rect {{ fill: #8884 }}
.overview .row.chosen text {{ font-weight: bold }}
.overview .between {{ stroke: #888; stroke-width: 2 }}
.overview .frame, .overview .chance {{ fill: none; stroke: #888 }}
.overview .chance {{ stroke-dasharray: 3 3 }}
.overview .one path {{ fill: none; stroke: #888; stroke-width: 1; opacity: .3 }}
.overview .one.rare path {{ opacity: .7 }}
.overview .one .run1 {{ display: none }}
.overview .one.chosen path {{ display: inline; stroke: {COLOURS[0]}; stroke-width: 2.5; opacity: 1 }}
.overview .one.chosen .run1 {{ stroke: {COLOURS[1]}; stroke-dasharray: 6 3 }}
.overview .says {{ margin: 6px 0; min-height: 4.2em }}
"""
