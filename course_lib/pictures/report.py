"""Reports: a run's time, and a page in the writer's own words beside the tables and pictures.

The page needs no network, reads in light and dark, and prints on about four sheets.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import files
from ..tables import Table
from ..training.callbacks import epochs_since_best, read_log
from .base import Picture
from .charts import bars

__all__ = ["SECTIONS", "Report", "TimeReport", "time_report"]

SECTIONS = {  # what each part answers
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


@dataclass(frozen=True)
class Report:
    """A title, who wrote it, and for each of `SECTIONS` its paragraphs, tables and pictures, in the
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
        if unknown := [name for name in self.parts if name not in SECTIONS]:
            raise ValueError(
                f"no part of the report is called {unknown[0]!r}; they are {', '.join(SECTIONS)}"
            )

    @property
    def missing(self) -> list[str]:
        """The parts in which nothing is written yet; numbers alone are no text."""
        return [
            name
            for name in SECTIONS
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
            "parts": "".join(self._part(number, name) for number, name in enumerate(SECTIONS)),
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
            content = (
                f'<p class="draft">Not written yet: {html.escape(SECTIONS[name])}</p>' + content
            )
        own_page = ' class="own"' if number in OWN_PAGE else ""
        return f"<section{own_page}><h2>{number + 1} · {html.escape(name)}</h2>{content}</section>"


def _as_html(item: str | Table | Picture) -> str:
    if not isinstance(item, str):
        wide = 'class="wide" role="group" aria-label="wide content" tabindex="0"'
        return f"<div {wide}>{item._repr_html_()}</div>"
    return "".join(
        f"<p>{html.escape(paragraph.strip())}</p>"
        for paragraph in re.split(r"\n\s*\n", item)
        if paragraph.strip()
    )


# --------------------------------------------------------------------------------------------------
# Where the time of a run went
SPENT_ON = ("data", "forward", "backward", "step", "validation", "callbacks")


WAITING, VALIDATING, COMPUTING = 0.3, 0.3, 0.5  # shares of the time from which on advice is given

SMALL = 0.002  # seconds; an MLP takes .5 ms for 8 items and .6 ms for 128

LATE, LATE_SHARE = 5, 1 / 3  # epochs since the best, and their share of all


class TimeReport(NamedTuple):
    """A picture of where the time went, and a sentence for each thing that would save some of it."""

    picture: Picture
    advice: list[str]

    def __str__(self) -> str:
        return "\n".join([self.picture.caption, *self.advice])


def time_report(log: str | Path | Sequence[Mapping]) -> TimeReport:
    """Read a run's log (a folder, its `log.csv`, or rows of one), as `MetricLog` and `Timing` write
    it.

    Advice is given where waiting for data takes over 30 % of the training; where a batch takes less
    than 2 ms; where validation takes over 30 % of all; where at least 5 epochs and a third of all
    came after the best `valid_loss`; and where forward and backward take over half on a GPU in full
    precision. Raises FileNotFoundError without a log, ValueError for one without an epoch or
    without `Timing`. Derived in lesson 07.
    """
    rows = read_log(log) if isinstance(log, str | Path) else list(log)
    if not rows or "seconds_data" not in rows[-1]:
        raise ValueError(
            f"the log has {len(rows)} epochs and no seconds; run at least one epoch with Timing()"
            " among the callbacks"
        )
    seconds = {
        part: np.array([float(row.get(f"seconds_{part}") or 0) for row in rows])
        for part in SPENT_ON
    }
    spent = {part: float(values.sum()) for part, values in seconds.items()}
    return TimeReport(_picture(seconds, spent), _advice(rows, seconds, spent))


def _advice(
    rows: Sequence[Mapping], seconds: Mapping[str, np.ndarray], spent: Mapping[str, float]
) -> list[str]:
    total, learning = sum(spent.values()), spent["forward"] + spent["backward"] + spent["step"]
    batches, last, advice = sum(float(row["batches"]) for row in rows), rows[-1], []
    if (share := spent["data"] / (spent["data"] + learning)) > WAITING:
        advice.append(
            f"Waiting for data takes {share:.0%} of the training: give the loader num_workers, or"
            " cache what it computes."
        )
    if (each := learning / batches) < SMALL:
        advice.append(
            f"A batch takes {1000 * each:.1f} ms, most of them Python's own: a larger batch takes"
            " hardly longer."
        )
    if (share := spent["validation"] / total) > VALIDATING:
        advice.append(
            f"Validation takes {share:.0%} of the time: validate on a fixed part of the items, or"
            " in larger batches."
        )
    if last.get("valid_loss"):
        waited = epochs_since_best([float(row["valid_loss"]) for row in rows])
        best = len(rows) - waited
        late = sum(float(values[best:].sum()) for values in seconds.values())
        if waited >= max(LATE, LATE_SHARE * len(rows)):
            advice.append(
                f"The validation loss was lowest after epoch {best} of {len(rows)}: what came after"
                f" took {late / total:.0%} of the time, so stop earlier (EarlyStopping) or let"
                " the learning rate fall until the end (WarmupCosine)."
            )
    share = (spent["forward"] + spent["backward"]) / total
    if float(last["gpu"]) and not float(last["mixed_precision"]) and share > COMPUTING:
        advice.append(
            f"Forward and backward take {share:.0%} of the time in full precision: give fit "
            'precision="bf16", or "fp16" on GPUs older than 2020.'
        )
    return advice


def _picture(seconds: Mapping[str, np.ndarray], spent: Mapping[str, float]) -> Picture:
    """A column an epoch, stacked from the parts, with each part's share of the whole run beside."""
    total, epochs = sum(spent.values()), len(seconds["data"])
    shares = {part: f"{part} {value / total:.0%}" for part, value in spent.items()}
    return bars(
        {shares[part]: values for part, values in seconds.items()},
        range(1, epochs + 1),
        stacked=True,
        xlabel="epoch",
        ylabel="seconds",
        description=(
            f"Where {total:.1f} s of training went in {epochs} epochs: {', '.join(shares.values())}."
        ),
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
.wide { overflow-x: auto; margin: 14px 0 } .wide figure { overflow: visible !important }
figure img { border: 1px solid var(--line); border-radius: 6px }
@media screen and (prefers-color-scheme: dark) {
  .on-light { display: none !important } .on-dark { display: inline !important } }
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
  table, figcaption, caption { font-size: 9pt } td, th { padding: 1px 6px } figure img {
    width: auto !important; min-width: 0 !important; max-height: 62mm }
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
