"""What a run of the capstone brought: a table with intervals over paired seeds, a verdict, a
picture, the files.

Derived in lesson 11.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from . import files
from .analysis.pictures import Picture
from .analysis.report import Report, Table, plot_attribute_gains
from .capstone import Run
from .evolution import over_seeds
from .shapes import Bool, Float

__all__ = [
    "DECIDES",
    "SCORES",
    "Comparison",
    "Gain",
    "attention_table",
    "compare_with_baseline",
    "deliver",
]

RARE = 0.05
DECIDES = "AP rare"  # chosen before any result is seen
SPLITS = {"valid": "validation", "test": "test"}


class Score(NamedTuple):
    """Which of the scores, over which attributes (None: all), and whether more of it is better (1)
    or worse (-1).
    """

    key: str
    rare: bool | None = None
    sign: int = 1


SCORES = {
    DECIDES: Score("average_precision", True),
    "AP common": Score("average_precision", False),
    "F1 rare at 0.5": Score("f1", True),
    "F1 rare, tuned": Score("f1_tuned", True),
    "ROC-AUC": Score("roc_auc"),
    "calibration error": Score("calibration_error", sign=-1),
    "pointing rare": Score("pointing", True),
    "pointing common": Score("pointing", False),
}


class Gain(NamedTuple):
    """One score of both runs, how much better the second is, and half the width of that gain's 95 %
    interval.
    """

    baseline: float
    run: float
    gain: float
    half: float  # NaN with one seed

    @property
    def verdict(self) -> str:
        """Better or worse only where the interval leaves out 0."""
        if math.isnan(self.half):
            return "unknown: one seed has no interval"
        return (
            "cannot be told apart"
            if abs(self.gain) <= self.half
            else "better"
            if self.gain > 0
            else "worse"
        )

    def __str__(self) -> str:
        return f"{self.gain:+.3f} ± " + ("?" if math.isnan(self.half) else f"{self.half:.3f}")


@dataclass(frozen=True)
class Comparison:
    """A run beside its baseline on one split: `gains` by the names of `SCORES`; shows verdict,
    table and picture.
    """

    run: Run
    split: str
    gains: dict[str, Gain]

    @property
    def verdict(self) -> str:
        """One sentence about the score that decides, with its numbers."""
        gain, seeds = self.gains[DECIDES], len(self.run.seeds)
        where = (
            f"{DECIDES} goes from {gain.baseline:.3f} to {gain.run:.3f}, {gain} on"
            f" {SPLITS[self.split]} faces"
        )
        if math.isnan(gain.half):
            return (
                f"{self.run.name}: unknown. {where}; one seed has no interval, so it may be luck:"
                " train more."
            )
        low, high = gain.gain - gain.half, gain.gain + gain.half
        return (
            f"{self.run.name}: {gain.verdict}. {where} (95 % interval {low:+.3f} to {high:+.3f},"
            f" {seeds} paired seeds)."
        )

    def table(self) -> Table:
        """Every score of both runs; a gain is better where it is positive, of errors too."""
        rows = [
            (title, f"{gain.baseline:.3f}", f"{gain.run:.3f}", str(gain), gain.verdict)
            for title, gain in self.gains.items()
        ]
        return Table(
            f"{self.run.name} beside {self.run.baseline.name}, {len(self.run.seeds)} seeds,"
            f" {SPLITS[self.split]} faces; gains with 95 % intervals over paired seeds. {DECIDES}"
            " decides.",
            [("score", self.run.baseline.name, self.run.name, "gain", "verdict"), *rows],
        )

    def picture(self) -> Picture:
        """The gain in average precision of each attribute, by how frequent it is."""
        ours, theirs = (
            run.scores[self.split]["average_precision"] for run in (self.run, self.run.baseline)
        )
        return plot_attribute_gains(
            ours - theirs,
            self.run.frequencies,
            self.run.names,
            RARE,
            f"{self.run.name} over {self.run.baseline.name}, {SPLITS[self.split]} faces",
        )

    def __repr__(self) -> str:
        return f"{self.verdict}\n{self.table()}"

    def _repr_html_(self) -> str:
        return Table(self.verdict, self.table().rows)._repr_html_() + self.picture()._repr_html_()


def compare_with_baseline(run: Run, split: str = "valid") -> Comparison:
    """Hold a run against its baseline, seed by seed, on validation faces, or on the test faces once
    all is chosen.

    Raises ValueError for runs without a baseline or without scores, and for two that differ in more
    than what is tried: other seeds, other attributes, other faces. Derived in lesson 11.
    """
    if split not in SPLITS:
        raise ValueError(
            f'there is no split {split!r}; choose "valid" while you try, "test" once you have'
            " chosen"
        )
    if run.baseline is None:
        raise ValueError(
            f"the run {run.name!r} has no baseline; train it with train_runs(name, faces,"
            " baseline, …)"
        )
    for one in (run, run.baseline):
        if not one.scores.get(split):
            raise ValueError(
                f"the run {one.name!r} has no scores on the {SPLITS[split]} faces; train it with "
                "train_runs, which scores both splits"
            )
    for what, ours, theirs in (
        ("seeds", run.seeds, run.baseline.seeds),
        ("attributes", run.names, run.baseline.names),
        (f"{SPLITS[split]} faces", run.faces.get(split), run.baseline.faces.get(split)),
    ):
        if ours != theirs:
            raise ValueError(
                f"{run.name!r} and {run.baseline.name!r} have other {what} ({_short(ours)} and "
                f"{_short(theirs)}); only what you try may differ, so train both on the same"
            )
    gains = {
        title: gain
        for title, score in SCORES.items()
        if (gain := _gain(run, split, score)) is not None
    }
    if DECIDES not in gains:
        raise ValueError(
            f"{DECIDES} decides, and none of the {len(run.names)} attributes is in under {RARE:.0%}"
            " of the training faces; take attributes of which some are rare"
        )
    return Comparison(run, split, gains)


def _short(what: Sequence | str | None) -> str:
    return (
        str(what) if len(str(what)) < 60 else f"{len(what)} of them, from {what[0]} to {what[-1]}"
    )


def _gain(run: Run, split: str, score: Score) -> Gain | None:
    """One row, or None where the runs have no such score or no such attributes."""
    ours, theirs = (
        _per_seed(one, split, score.key, _group(run, score.rare)) for one in (run, run.baseline)
    )
    if ours is None or theirs is None:
        return None
    return Gain(
        theirs.mean().item(), ours.mean().item(), *_mean_and_half(score.sign * (ours - theirs))
    )


def _per_seed(
    run: Run, split: str, key: str, group: Bool[Tensor, " attributes"]
) -> Float[Tensor, " seeds"] | None:
    """The mean over a group of attributes, leaving out those without a value (no place to point
    at).
    """
    if key not in run.scores[split]:
        return None
    means = run.scores[split][key].double()[:, group].nanmean(1)
    return None if means.isnan().any() else means


def _group(run: Run, rare: bool | None) -> Bool[Tensor, " attributes"]:
    return run.frequencies > -1 if rare is None else (run.frequencies < RARE) == rare


def _mean_and_half(values: Float[Tensor, " seeds"]) -> tuple[float, float]:
    return over_seeds(values.numpy()) if len(values) > 1 else (values.item(), math.nan)


def attention_table(run: Run, split: str = "test") -> Table:
    """Where a run looks, for rare and for common attributes: pointing beside its blind baselines,
    and how widely.

    Raises ValueError for a run whose faces had no regions. Derived in lesson 11.
    """
    columns = {
        "pointing": "pointing",
        "mean map": "pointing of the mean map",
        "chance": "pointing by chance",
        "tokens looked at": "tokens",
    }
    if "pointing" not in run.scores.get(split, ()):
        raise ValueError(
            f"nothing is known of where {run.name!r} should look on {split!r} faces; give"
            " FaceSplits the regions of some of them"
        )
    rows = []
    for title, rare in (("rare", True), ("common", False)):
        means = [_per_seed(run, split, key, _group(run, rare)) for key in columns.values()]
        if all(values is not None for values in means):
            rows.append((f"{run.name}, {title}", *(f"{values.mean():.2f}" for values in means)))
    return Table(
        f"Attention on {SPLITS[split]} faces, means over {len(run.seeds)} seeds; rare is under"
        f" {RARE:.0%}. The mean map is one map for all faces; 49 tokens are looked at when"
        " attention is uniform.",
        [("", *columns), *rows],
    )


# ---- the four things to hand in ------------------------------------------------------------------


def deliver(
    folder: str | Path,
    report: Report,
    picture: Picture,
    comparisons: Sequence[Comparison],
    cells: Sequence[str],
) -> dict[str, Path]:
    """Write the notebook, the report, the picture and the table of metrics into `folder`, and say
    where they are.

    `cells` are the sources that were run, in that order (IPython keeps them as `In`): the notebook
    has them without prose and outputs, so that somebody else can run them. Each file is written
    atomically. Derived in lesson 11.
    """
    folder = Path(folder)
    paths = {
        kind: folder / name
        for kind, name in {
            "notebook": "notebook.ipynb",
            "report": "report.html",
            "picture": "comparison.png",
            "metrics": "metrics.csv",
        }.items()
    }
    files.write_json(
        paths["notebook"], _notebook(report.title, [cell for cell in cells if cell.strip()])
    )
    report.save(paths["report"])
    picture.save(paths["picture"])
    with files.atomic(paths["metrics"]) as temporary:
        temporary.write_text(_csv(comparisons), encoding="utf-8", newline="")
    for kind, path in paths.items():
        print(f"{kind:9} {path.stat().st_size / 1000:6.0f} kB  {path}")
    if report.missing:
        print(f"the report is a draft; not written yet: {', '.join(report.missing)}")
    return paths


def _csv(comparisons: Sequence[Comparison]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(
        (
            "run",
            "baseline",
            "split",
            "score",
            "baseline_mean",
            "run_mean",
            "gain",
            "half_width",
            "seeds",
            "verdict",
        )
    )
    for one in comparisons:
        for title, gain in one.gains.items():
            numbers = (f"{value:.6f}" for value in gain)
            table.writerow(
                (
                    one.run.name,
                    one.run.baseline.name,
                    one.split,
                    title,
                    *numbers,
                    len(one.run.seeds),
                    gain.verdict,
                )
            )
    return text.getvalue()


def _notebook(title: str, cells: Sequence[str]) -> dict:
    """The cells as a notebook, format 4.5."""
    said = f"# {title}\n\nThe cells of one session, in the order in which they were run."
    kinds = [
        ("markdown", said, {}),
        *(("code", cell, {"execution_count": None, "outputs": []}) for cell in cells),
    ]
    return {
        "cells": [
            {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source, **more}
            for number, (kind, source, more) in enumerate(kinds)
        ],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
