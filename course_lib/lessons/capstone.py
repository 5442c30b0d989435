"""The capstone: rows of scores that are compared with a baseline seed by seed, and the four files
that are handed in.
"""

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import files
from ..looking.attention import effective_support
from ..looking.localisation import chance_of_pointing, pointing_game
from ..pictures.base import Picture
from ..pictures.charts import lines
from ..pictures.report import Report
from ..shapes import Bool, Float
from ..tables import Table
from ..training.attribute_scores import score_attributes, threshold_scores
from ..training.losses import head_diversity_penalty
from ..training.remedies import RARE, over_seeds
from ..world.population import ATTRIBUTES

__all__ = [
    "DECIDES",
    "Comparison",
    "Gain",
    "attention_table",
    "compare_with_baseline",
    "deliver",
    "is_rare",
    "score_row",
]

DECIDES = "AP rare"  # chosen before any result is seen

SCORES = {  # what a comparison lists, and whether more of it is better (1) or worse (-1)
    DECIDES: 1,
    "AP common": 1,
    "F1 rare at 0.5": 1,
    "F1 rare, tuned": 1,
    "ROC-AUC": 1,
    "calibration error": -1,
}

LOOKS = (  # what an attention table lists
    "head overlap",
    "tokens looked at",
    "pointing rare",
    "mean map rare",
    "pointing common",
    "mean map common",
)

SPLITS = {"valid": "validation", "test": "test"}

RARE_NAMES = tuple(name for name, rare in zip(ATTRIBUTES, RARE, strict=True) if rare)


def is_rare(names: Sequence[str]) -> Bool[Tensor, " attributes"]:
    """Which of the attributes are the six rare ones of lesson 08. Used in lesson 14."""
    return torch.tensor([name in RARE_NAMES for name in names])


# ---- one row -------------------------------------------------------------------------------------
@torch.no_grad()
def score_row(
    probabilities: Float[Tensor, "n attributes"],
    targets: Float[Tensor, "n attributes"],
    names: Sequence[str],
    weights: Float[Tensor, "m heads attributes tokens"],
    regions: Bool[Tensor, "m attributes height width"] | None = None,
    thresholds: Float[Tensor, " attributes"] | None = None,
) -> dict[str, float | str | list[float]]:
    """Everything that is reported about one trained model on one split.

    `weights` say where its queries look in the first images, and `regions`, where they are known,
    where they should. `thresholds` were chosen on other faces. `faces` is a fingerprint of the
    targets: runs on other faces do not compare. Used in lesson 14.
    """
    rare, present = is_rare(names), targets[: len(weights)] > 0
    scores = score_attributes(probabilities, targets, names=names)
    row = {
        "faces": hashlib.sha256(targets.to(torch.uint8).numpy().tobytes()).hexdigest()[:12],
        DECIDES: scores["average_precision"][rare],
        "AP common": scores["average_precision"][~rare],
        "F1 rare at 0.5": scores["f1"][rare],
        "ROC-AUC": scores["roc_auc"],
        "calibration error": scores["calibration_error"],
        "positive rate rare": scores["positive_rate"][rare],
        "head overlap": head_diversity_penalty(weights),
        "tokens looked at": effective_support(weights.mean(1)).mT[present.T],
    }
    if thresholds is not None:
        tuned = threshold_scores(probabilities, targets, thresholds)
        row["F1 rare, tuned"] = tuned["f1"][rare]
    if regions is not None:
        side = math.isqrt(weights.shape[-1])
        maps = weights.mean(1).unflatten(-1, (side, side))
        known = regions.flatten(-2).any(-1)[..., None, None]  # `m attributes 1 1`
        mean_map = (maps * known).sum(0) / known.sum(0).clamp(min=1)
        for name, chosen in (("pointing", maps), ("mean map", mean_map.expand_as(maps))):
            hits = pointing_game(chosen, regions).nanmean(0)
            row |= {f"{name} rare": hits[rare], f"{name} common": hits[~rare]}
    row = {
        title: round(float(value.nanmean()), 4) if isinstance(value, Tensor) else value
        for title, value in row.items()
    }
    each = {"AP each": scores["average_precision"], "yes each": scores["positive_rate"]}
    return row | {
        title: [round(value, 3) for value in values.tolist()] for title, values in each.items()
    }


# ---- comparing -----------------------------------------------------------------------------------
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
        if abs(self.gain) <= self.half:
            return "cannot be told apart"
        return "better" if self.gain > 0 else "worse"

    @property
    def digits(self) -> int:
        """Three, or more where rounding would hide that the interval leaves out 0."""
        gain, digits = abs(self.gain), 3
        if gain > self.half:
            while digits < 6 and (
                round(gain, digits) == round(self.half, digits)
                or round(gain - self.half, digits) == 0
            ):
                digits += 1
        return digits

    def __str__(self) -> str:
        half = "?" if math.isnan(self.half) else f"{self.half:.{self.digits}f}"
        return f"{self.gain:+.{self.digits}f} ± {half}"


@dataclass(frozen=True)
class Comparison:
    """An arm beside the baseline on one split: `gains` by the names of its scores, and the gain in
    average precision of each attribute, `seeds attributes`; shows verdict, table and picture.
    """

    arm: str
    split: str
    seeds: tuple[int, ...]
    gains: dict[str, Gain]
    each: Float[Tensor, "seeds attributes"]
    frequencies: dict[str, float]

    @property
    def verdict(self) -> str:
        """One sentence about the score that decides, with its numbers."""
        gain, seeds = self.gains[DECIDES], len(self.seeds)
        where = (
            f"{DECIDES} goes from {gain.baseline:.3f} to {gain.run:.3f}, {gain} on"
            f" {SPLITS[self.split]} faces"
        )
        if math.isnan(gain.half):
            return (
                f"{self.arm}: unknown. {where}; one seed has no interval, so it may be luck:"
                " train more."
            )
        low, high = gain.gain - gain.half, gain.gain + gain.half
        return (
            f"{self.arm}: {gain.verdict}. {where} (95 % interval {low:+.{gain.digits}f} to"
            f" {high:+.{gain.digits}f}, {seeds} paired seeds)."
        )

    def table(self) -> Table:
        """Every score of both; a gain is an improvement where it is positive, also for the
        calibration error, whose sign is turned.
        """
        rows = [
            (title, f"{gain.baseline:.3f}", f"{gain.run:.3f}", str(gain), gain.verdict)
            for title, gain in self.gains.items()
        ]
        return Table(
            f"{self.arm} beside the baseline, {len(self.seeds)} seeds, {SPLITS[self.split]} faces;"
            f" gains with 95 % intervals over paired seeds. {DECIDES} decides.",
            [("score", "baseline", self.arm, "gain", "verdict"), *rows],
        )

    def picture(self) -> Picture:
        """The gain in average precision of each attribute, by how frequent it is, over seeds."""
        shares = 100 * torch.tensor(list(self.frequencies.values()))
        names, rare = list(self.frequencies), is_rare(list(self.frequencies))
        series, seeds, means = {}, {}, []
        for name, chosen in (("rare", rare), ("common", ~rare)):
            mean = self.each[:, chosen].mean(0)
            series[name] = (shares[chosen], mean)
            seeds[name] = self.each[:, chosen].aminmax(dim=0)
            means.append(f"{mean.mean():+.3f} for the {len(mean)} {name}")
        mean = self.each.mean(0)
        order = mean.abs().argsort(descending=True)[:2].tolist()
        moved = ", ".join(f"{names[k]} {mean[k]:+.3f}" for k in order)
        return lines(
            series,
            joined=False,
            intervals=seeds,
            guides={"baseline": 0},
            xscale="log",
            xlabel="% of the training faces",
            ylabel="gain in average precision",
            description=(
                f"{self.arm} over the baseline, {SPLITS[self.split]} faces: on average"
                f" {', '.join(means)}; most moved: {moved}."
            ),
        )

    def __repr__(self) -> str:
        return f"{self.verdict}\n{self.table()}"

    def _repr_html_(self) -> str:
        return Table(self.verdict, self.table().rows)._repr_html_() + self.picture()._repr_html_()


def compare_with_baseline(
    rows: Sequence[dict],
    arm: str,
    frequencies: dict[str, float],
    split: str = "valid",
    baseline: str = "baseline",
) -> Comparison:
    """Hold an arm against the baseline, seed by seed, on validation faces, or on the test faces
    once all is chosen.

    `rows` are those of `score_row`, each with its `arm`, `seed` and `split`; only seeds that both
    have count. `frequencies` are those of the training faces, by name. Raises ValueError for an arm
    without rows, without a seed in common with the baseline, and with other faces. Used in lesson
    14.
    """
    if split not in SPLITS:
        raise ValueError(
            f'there is no split {split!r}; choose "valid" while you try, "test" once you have'
            " chosen"
        )
    ours, theirs = (
        {row["seed"]: row for row in rows if (row["arm"], row["split"]) == (name, split)}
        for name in (arm, baseline)
    )
    if not ours:
        known = {
            row["arm"]: None for row in rows if row["split"] == split and row["arm"] != baseline
        }
        raise ValueError(
            f"there is no run {arm!r} on {SPLITS[split]} faces; run it, or choose one of"
            f" {', '.join(map(repr, known)) or 'those you run first'}"
        )
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        raise ValueError(
            f"{arm!r} has the seeds {sorted(ours)} on {SPLITS[split]} faces and {baseline!r}"
            f" {sorted(theirs)}; train both from the same seeds"
        )
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    for mine, other in pairs:
        if mine["faces"] != other["faces"]:
            raise ValueError(
                f"{arm!r} and {baseline!r} were scored on other {SPLITS[split]} faces"
                f" ({mine['faces']} and {other['faces']}); train the baseline here on the same faces"
            )
    gains = {title: _gain(pairs, title, sign) for title, sign in SCORES.items() if title in mine}
    each = torch.tensor([mine["AP each"] for mine, _ in pairs], dtype=torch.float64)
    each -= torch.tensor([other["AP each"] for _, other in pairs], dtype=torch.float64)
    return Comparison(arm, split, seeds, gains, each, dict(frequencies))


def _gain(pairs: Sequence[tuple[dict, dict]], title: str, sign: int) -> Gain:
    ours, theirs = torch.tensor([[mine[title], other[title]] for mine, other in pairs]).double().T
    gain, half = _mean_and_half(sign * (ours - theirs))
    return Gain(theirs.mean().item(), ours.mean().item(), gain, half)


def _mean_and_half(values: Float[Tensor, " seeds"]) -> tuple[float, float]:
    return over_seeds(values.numpy()) if len(values) > 1 else (values.item(), math.nan)


def attention_table(
    rows: Sequence[dict],
    arms: Sequence[str],
    split: str = "test",
    regions: Bool[Tensor, "m attributes height width"] | None = None,
) -> Table:
    """How the queries of each arm look, over the seeds that all arms have: the overlap of two heads,
    at how many tokens, and, where regions are known, pointing beside the mean map.

    Given `regions`, those of drawn faces, the last line is chance: a token drawn at random. Raises
    ValueError for arms without a seed in common. Used in lesson 14.
    """
    of_arm = [
        {row["seed"]: row for row in rows if (row["arm"], row["split"]) == (arm, split)}
        for arm in arms
    ]
    seeds = sorted(set.intersection(*map(set, of_arm)))
    if not seeds:
        raise ValueError(
            f"{', '.join(arms)} have no seed in common on {SPLITS[split]} faces; train them from the"
            " same seeds"
        )
    lines = []
    for arm, by_seed in zip(arms, of_arm, strict=True):
        chosen = [by_seed[seed] for seed in seeds]
        known = [title for title in LOOKS if title in chosen[0]]
        means = [sum(row[title] for row in chosen) / len(chosen) for title in known]
        lines.append((arm, *(f"{mean:.3f}" for mean in means)))
    if regions is not None:
        lines.append(("chance", *_chance(regions, known)))
    count = "1 seed" if len(seeds) == 1 else f"means over {len(seeds)} paired seeds"
    by_chance = "" if regions is None else " Chance is a token drawn at random."
    return Table(
        f"Attention on {SPLITS[split]} faces, {count}. Two heads that look everywhere equally"
        f" overlap by 0.020. The mean map is one map for all faces.{by_chance}",
        [("", *known), *lines],
    )


def _chance(regions: Tensor, titles: Sequence[str]) -> list[str]:
    """What a random token scores, in the columns of pointing."""
    each, rare = chance_of_pointing(regions, (7, 7)).nanmean(0), is_rare(ATTRIBUTES)
    by_title = {"pointing rare": each[rare], "pointing common": each[~rare]}
    return [f"{by_title[title].nanmean():.3f}" if title in by_title else "" for title in titles]


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
    atomically. Used in lesson 14.
    """
    names = {
        "notebook": "notebook.ipynb",
        "report": "report.html",
        "picture": "comparison.png",
        "metrics": "metrics.csv",
    }
    paths = {kind: Path(folder) / name for kind, name in names.items()}
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
    names = "run,baseline,split,score,baseline_mean,run_mean,gain,half_width,seeds,verdict"
    rows = [names.split(",")]
    for one in comparisons:
        for title, gain in one.gains.items():
            numbers = [f"{value:.6f}" for value in gain]
            seeds = len(one.seeds)
            which = (one.arm, "baseline", one.split, title)
            rows.append([*which, *numbers, seeds, gain.verdict])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _notebook(title: str, sources: Sequence[str]) -> dict:
    """The sources as the cells of a notebook, format 4.5."""
    intro = f"# {title}\n\nThe cells of one session, in the order in which they were run."
    cells = [{"cell_type": "markdown", "id": "cell-0", "metadata": {}, "source": intro}]
    for number, source in enumerate(sources, start=1):
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(code | {"id": f"cell-{number}", "metadata": {}, "source": source})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
