"""Tables of studies that are too long for a lesson, from their stored rows in `assets/results`.

`python -m assets.recipes NAME` makes the rows again.
"""

from collections.abc import Mapping, Sequence

from ..tables import Table
from ..training.remedies import over_seeds

__all__ = ["ablation_table", "photographs_table", "pointing_table"]


BASELINES = ("floor", "speaker look-up", "ceiling")  # of the ablation: they train nothing


def ablation_table(rows: Sequence[dict]) -> Table:
    """All baselines and arms: mean CCC with its interval, share of the ceiling, lead, cost.

    Other work on the machine only adds to seconds, so the fastest run tells them best. Used in
    lesson 07.
    """
    overall = {row["arm"]: row for row in rows if "seeds" in row}
    ceiling = overall["ceiling"]["ccc"]["mean"]
    columns = (
        "arm",
        "CCC [95 %]",
        "of the ceiling",
        "token attention leads by",
        "parameters",
        "seconds (fastest)",
    )
    lines = [columns]
    arms = [arm for arm in overall if arm not in BASELINES]
    for arm in (*BASELINES, *reversed(arms)):
        score, cost, lead = overall[arm]["ccc"], ["", ""], ""
        if runs := [row for row in rows if row["arm"] == arm and "parameters" in row]:
            seconds = min(run["seconds"] for run in runs)
            cost = [f"{runs[0]['parameters']:,}", f"{seconds:.0f}"]
        if arm not in ("token attention", "ceiling"):
            lead = _interval(overall[arm]["token_minus_this"])
        lines.append((arm, _interval(score), f"{score['mean'] / ceiling:.0%}", lead, *cost))
    return Table("", lines)


def _interval(score: Mapping[str, float]) -> str:
    return "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**score)


POINTING = {  # columns of the table, and what the rows call them
    "pointing": "pointing map",
    "mean map": "pointing mean map",
    "untrained": "pointing untrained",
    "chance": "pointing chance",
    "best place": "pointing best place",
    "where it misses": "pointing where it misses",
    "energy": "energy map",
    "follows": "follows map",
    "AP": "average_precision",
    "AP rare": "average_precision rare",
}


def pointing_table(rows: Sequence[dict]) -> Table:
    """Where the attention of both attribute decoders looks: means over seeds, 95 % intervals."""
    lines = [("tokens", *POINTING)]
    for decoder in dict.fromkeys(row["decoder"] for row in rows):
        runs = [row for row in rows if row["decoder"] == decoder]
        means = [over_seeds([run[score] for run in runs]) for score in POINTING.values()]
        lines.append((decoder, *(f"{mean:.3f} ± {half:.3f}" for mean, half in means)))
    return Table("", lines)


PHOTOGRAPHS = ("mAP", "AP rare", "F1 rare")
COURSE, PLAIN = "the course's path", "ResNet-18 from scratch"


def photographs_table(rows: Sequence[dict]) -> Table:
    """Ways to learn attributes from photographs: means over the seeds with their 95 % intervals,
    and by how much the course's leads a plain ResNet-18, seed by seed. Used in lesson 08.
    """
    lines = [("", *PHOTOGRAPHS, "CPU minutes")]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        runs = [row for row in rows if row["arm"] == arm]
        minutes = sum(run["CPU minutes"] for run in runs) / len(runs)
        cells = [_over_seeds([run[score] for run in runs]) for score in PHOTOGRAPHS]
        lines.append((arm, *cells, f"{minutes:.1f}"))
    ours, theirs = (
        {row["seed"]: row for row in rows if row["arm"] == arm} for arm in (COURSE, PLAIN)
    )
    if both := sorted(ours.keys() & theirs.keys()):
        cells = []
        for score in PHOTOGRAPHS:
            cells.append(_over_seeds([ours[k][score] - theirs[k][score] for k in both], "+"))
        lines.append((f"{COURSE} minus {PLAIN}", *cells, ""))
    return Table("", lines)


def _over_seeds(values: Sequence[float], sign: str = "") -> str:
    """The mean, and its interval where there are several."""
    if len(values) == 1:
        return f"{values[0]:{sign}.3f}"
    mean, half = over_seeds(values)
    return f"{mean:{sign}.3f} ± {half:.3f}"
