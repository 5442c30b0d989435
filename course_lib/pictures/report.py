"""A report as one HTML page: five parts in the writer's own words, beside the tables and pictures
of their runs.

The page needs no network, reads in light and dark, and prints on about four sheets. Derived in
lesson 11.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import NullLocator, PercentFormatter
from torch import Tensor

from .. import files
from ..shapes import Float
from ..tables import Table
from .base import BLUE, HIGHLIGHT, INK, Picture, blank_axes, open_axis

__all__ = ["PARTS", "Report", "plot_attribute_gains"]

PARTS = {  # what each part answers
    "Root cause": (
        "Which attributes does the baseline fail on, how rare are they, and what makes the loss"
        " content?"
    ),
    "Losses compared": (
        "What did you change, what happened to the ranking and to the threshold, and how sure"
        " is it?"
    ),
    "Attention: rare against common": (
        "Does the model look where the answer is, and is that more than habit?"
    ),
    "Recommendations for production": (
        "What would you ship, at which thresholds, and what would you watch?"
    ),
    "Limits and ethics": "What do these numbers not show, and for whom could this model be wrong?",
}

OWN_PAGE = (1, 2, 3)  # parts that begin a sheet; the last shares one

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # labels of a logarithmic axis


@dataclass(frozen=True)
class Report:
    """A title, who wrote it, and for each of `PARTS` its paragraphs, tables and pictures, in the
    order they are read.

    A part without words of its own is `missing`: its question stands in the page instead, and the
    page calls itself a draft. A blank line begins a new paragraph. Raises ValueError for an empty
    title and for a part of another name.
    """

    title: str
    author: str
    parts: Mapping[str, Sequence[str | Table | Picture]]

    def __post_init__(self):
        if not self.title.strip():
            raise ValueError("the report has no title; give it one that says what you found")
        if unknown := [name for name in self.parts if name not in PARTS]:
            raise ValueError(
                f"no part of the report is called {unknown[0]!r}; they are {', '.join(PARTS)}"
            )

    @property
    def missing(self) -> list[str]:
        """The parts in which nothing is written yet; numbers alone are no text."""
        return [
            name
            for name in PARTS
            if not any(isinstance(item, str) and item.strip() for item in self.parts.get(name, ()))
        ]

    def page(self) -> str:
        """The whole report as one self-contained HTML page; every text in it is escaped."""
        draft = (
            f'<p class="draft" role="note">Draft. Not written yet: {", ".join(self.missing)}.</p>'
        )
        fields = {
            "title": html.escape(self.title),
            "author": html.escape(self.author or "without a name"),
            "draft": draft if self.missing else "",
            "parts": "".join(self._part(number, name) for number, name in enumerate(PARTS)),
        }
        return re.sub(r"\[\[(\w+)\]\]", lambda place: fields[place[1]], _PAGE)

    def save(self, path: str | Path) -> Path:
        """Write the page, atomically."""
        page = self.page()
        with files.atomic(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return Path(path)

    def _part(self, number: int, name: str) -> str:
        content = "".join(_as_html(item) for item in self.parts.get(name, ()))
        if name in self.missing:
            content = f'<p class="draft">Not written yet: {html.escape(PARTS[name])}</p>' + content
        own_page = ' class="own"' if number in OWN_PAGE else ""
        return f"<section{own_page}><h2>{number + 1} · {html.escape(name)}</h2>{content}</section>"


def _as_html(item: str | Table | Picture) -> str:
    if not isinstance(item, str):
        return f'<div class="wide">{item._repr_html_()}</div>'
    return "".join(
        f"<p>{html.escape(paragraph.strip())}</p>"
        for paragraph in re.split(r"\n\s*\n", item)
        if paragraph.strip()
    )


def plot_attribute_gains(
    gains: Float[Tensor, "seeds attributes"],
    frequencies: Float[Tensor, " attributes"],
    names: Sequence[str],
    rare: float,
    title: str,
) -> Picture:
    """What each attribute gained in average precision, by its frequency: small marks are seeds,
    large ones means.
    """
    figure, axes = blank_axes(1, 1, 8.4, 3.6)
    mean, few = gains.mean(0).numpy(), (frequencies < rare).numpy()
    for chosen, colour, mark, label in (
        (few, HIGHLIGHT, "D", f"rare, under {rare:.0%}"),
        (~few, BLUE, "o", "common"),
    ):
        shares = frequencies.numpy()[chosen]
        for seed in gains.numpy():
            axes[0, 0].plot(shares, seed[chosen], mark, color=colour, markersize=2.5, alpha=0.35)
        axes[0, 0].plot(
            shares,
            mean[chosen],
            mark,
            color=colour,
            markersize=6,
            markeredgecolor="white",
            label=label,
        )
    outer = [k for k in np.argsort(-np.abs(mean)) if abs(mean[k]) > 0][:3]
    for k, shift in zip(outer, (4, 10, -10), strict=False):  # labels of neighbours keep apart
        axes[0, 0].annotate(
            names[k].replace("_", " "),
            (frequencies[k], mean[k]),
            (6, shift),
            fontsize=7.5,
            color=INK,
            textcoords="offset points",
        )
    axes[0, 0].axhline(0, color=INK, linewidth=0.8)
    open_axis(
        axes[0, 0],
        title,
        xlabel="share of training faces",
        ylabel="gain in average precision",
        xscale="log",
    )
    axes[0, 0].set_xticks(
        [share for share in SHARES if frequencies.min() / 2 < share < frequencies.max() * 2]
    )
    axes[0, 0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    axes[0, 0].legend(frameon=False, fontsize=8)
    groups = ", ".join(
        f"{gain[which].mean():+.3f} for the {which.sum()} {name}"
        for gain, which, name in ((mean, few, "rare"), (mean, ~few, "common"))
        if which.any()
    )
    most = ", ".join(f"{names[k]} {mean[k]:+.3f}" for k in outer[:2])
    return Picture(
        figure,
        f"{title}: the gain in average precision of each of {len(names)} attributes by its "
        f"frequency; on average {groups}" + (f"; most moved: {most}." if most else "."),
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>[[title]]</title>
<style>
:root { --ink: #1b2330; --paper: #fff; --soft: #5a6474; --line: #c9d0da; --band: #f2f5f9; --warn: #8a4b00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf3; --paper: #12161d; --soft: #a5afbf; --line: #3a4352; --band: #1b212b; --warn: #ffc272 } }
body { margin: 0 auto; max-width: 880px; padding: 28px 20px 60px; font: 16px/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px } h2 { font-size: 20px; margin: 34px 0 8px }
h1, p, td, figcaption { overflow-wrap: anywhere }
p { margin: 8px 0; white-space: pre-line } .author, figcaption, caption { color: var(--soft) }
.draft { color: var(--warn); border-left: 4px solid; padding: 2px 0 2px 12px }
.wide { overflow-x: auto; margin: 14px 0 }
figure img { display: block; background: #fff; border: 1px solid var(--line); border-radius: 6px; height: auto }
figcaption, caption { font-size: 14px; text-align: left; padding: 4px 0 }
table { border-collapse: collapse; min-width: 75%; font-size: 14px; font-variant-numeric: tabular-nums }
td, th { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left } tbody tr:nth-child(even) { background: var(--band) }
@page { size: A4; margin: 15mm 16mm }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --band: #f4f4f4; --warn: #8a4b00 }
  body { max-width: none; padding: 0; font-size: 10.5pt; line-height: 1.42 }
  h1 { font-size: 19pt } h2 { font-size: 14pt; margin-top: 0 }
  section + section { margin-top: 18pt } .own { break-before: page; margin-top: 0 }
  figure, table, .draft { break-inside: avoid } h2 { break-after: avoid } .wide { overflow: visible }
  table, figcaption, caption { font-size: 9pt } td, th { padding: 1px 6px } figure img { max-height: 62mm }
  p { margin: 5px 0 } .wide { margin: 8px 0 } }
</style>
</head>
<body>
<main>
<h1>[[title]]</h1>
<p class="author">[[author]]</p>
[[draft]]
[[parts]]
</main>
</body>
</html>
"""
