"""The capstone: runs that are compared with a baseline seed by seed, and the report that tells of
them.
"""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler
from tqdm import tqdm

from .. import files, runtime
from ..data.arrays import TokenArrays
from ..looking.attention import effective_support
from ..looking.localisation import score_localisation
from ..models.attention import attention_weights, split_heads
from ..models.attributes import AttributeDecoder
from ..models.inference import evaluating, to_model
from ..pictures.base import Picture
from ..pictures.charts import lines
from ..pictures.report import Report
from ..shapes import Bool, Float
from ..tables import Table
from ..training.attribute_scores import best_thresholds, score_attributes, threshold_scores
from ..training.callbacks import ClipGradients, WarmupCosine
from ..training.fit import fit
from ..training.remedies import LDAM_SCALE, over_seeds, predict

__all__ = [
    "DECIDES",
    "DRAWS",
    "EPOCHS",
    "SCORES",
    "Comparison",
    "FaceSplits",
    "Gain",
    "Run",
    "attention_maps",
    "attention_table",
    "compare_with_baseline",
    "deliver",
    "image_losses",
    "train_runs",
]

EPOCHS, STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 5, 32, 64, 4e-3, 0.02

DRAWS = STEPS * BATCH  # images that an epoch shows

WIDTH, HEADS = 32, 2

SEEDS = (0, 1, 2)

Scores = Mapping[str, Tensor]  # each `seeds attributes`


@dataclass(frozen=True)
class FaceSplits:
    """Cached tokens and targets to train, to choose and to test on, and the names of the
    attributes.

    `regions` may hold, for "valid" and "test", where each attribute that is present is decided in
    the first images: `images attributes height width`. Without them nothing is said about where
    attention points.
    """

    train: TokenArrays
    valid: TokenArrays
    test: TokenArrays
    names: Sequence[str]
    regions: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a setting scored from each of its seeds, on validation and on test faces, and the
    baseline it is held to.

    `faces` are fingerprints of the two splits, `frequencies` those of the natural training faces,
    and `models` the trained decoders, a seed each.
    """

    name: str
    names: tuple[str, ...]
    frequencies: Float[Tensor, " attributes"]
    seeds: tuple[int, ...]
    scores: Mapping[str, Scores]  # of "valid" and "test"
    faces: Mapping[str, str]
    models: Sequence[nn.Module] = ()
    baseline: "Run | None" = None


def train_runs(
    name: str,
    faces: FaceSplits,
    baseline: Run | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    loss: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
    penalty: Callable[[Tensor], Tensor] | None = None,
    sampler: Callable[[int], Sampler] | None = None,
    train: TokenArrays | None = None,
    cosine: bool = False,
) -> Run:
    """Train an attribute decoder from every seed, score it on both splits, and remember what to
    compare it with.

    What is not given is as in the baseline: its seeds, plain cross-entropy, all training faces
    equally often, as many steps. `penalty` takes the attention weights, `batch heads attributes
    tokens`, with their gradient, and is added to the loss; `sampler` is made from the seed; `train`
    replaces the training faces; `cosine` is what `LDAMLoss` needs. Derived in lesson 14.
    """
    seeds = tuple(seeds) if baseline is None else baseline.seeds
    models, scores = [], []
    for seed in tqdm(seeds, name, mininterval=5):
        models.append(_train(train or faces.train, seed, loss, penalty, sampler, cosine))
        scores.append(_score(models[-1], faces, cosine))
    stacked, fingerprints = {}, {}
    for split in SPLITS:
        keys = scores[0][split]
        stacked[split] = {key: torch.stack([one[split][key] for one in scores]) for key in keys}
        fingerprints[split] = _fingerprint(getattr(faces, split))
    return Run(
        name,
        tuple(faces.names),
        faces.train.targets.mean(0),
        seeds,
        stacked,
        fingerprints,
        models,
        baseline,
    )


def _train(
    train: TokenArrays,
    seed: int,
    loss: Callable,
    penalty: Callable | None,
    sampler: Callable | None,
    cosine: bool,
) -> nn.Module:
    torch.manual_seed(seed)
    count, frequencies = train.targets.shape[1], train.targets.mean(0)
    decoder = AttributeDecoder(train.tokens.shape[-1], count, WIDTH, HEADS, cosine=cosine)
    if not cosine:
        decoder.head.bias.data = torch.logit(frequencies, eps=1e-3)  # begin at the prior
    decoder.to(runtime.default_device())
    drawn = sampler(seed) if sampler else RandomSampler(train, num_samples=DRAWS)
    model, charged = (
        (_WithAttention(decoder), _WithPenalty(loss, penalty)) if penalty else (decoder, loss)
    )
    fit(
        model,
        DataLoader(train, BATCH, sampler=drawn),
        epochs=EPOCHS,
        loss_function=charged,
        seed=seed,
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        callbacks=[WarmupCosine(0.15), ClipGradients(1.0)],
    )
    return decoder.eval()


class _WithAttention(nn.Module):
    """A decoder that also returns how its queries attend, with the gradient that recorded weights
    do not have.
    """

    def __init__(self, decoder: AttributeDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor
    ) -> tuple[Tensor, Float[Tensor, "batch heads attributes tokens"]]:
        weights, attention = [], self.decoder.layers[-1].attention

        def compute(_, inputs: tuple) -> None:
            query, key = attention.to_query(inputs[0]), attention.to_key(inputs[1])
            weights.append(attention_weights(split_heads(query, HEADS), split_heads(key, HEADS)))

        hook = attention.register_forward_pre_hook(compute)
        try:
            return self.decoder(tokens), weights[-1]
        finally:
            hook.remove()


class _WithPenalty(nn.Module):
    """The loss of the logits, and what the attention is charged."""

    def __init__(self, loss: Callable, penalty: Callable):
        super().__init__()
        self.loss, self.penalty = loss, penalty

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins to a loss that wants to know."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)

    def forward(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> Float[Tensor, ""]:
        logits, weights = outputs
        return self.loss(logits, targets) + self.penalty(weights)


@torch.no_grad()
def _score(model: nn.Module, faces: FaceSplits, cosine: bool) -> dict[str, Scores]:
    """Everything that is known of a trained model on each split; thresholds come from validation
    and serve the test.
    """
    scale = LDAM_SCALE if cosine else 1
    probabilities, scores = {}, {}
    for split in SPLITS:
        arrays = getattr(faces, split)
        probabilities[split] = (predict(model, arrays) * scale).sigmoid()
        scores[split] = score_attributes(probabilities[split], arrays.targets, names=faces.names)
    thresholds = best_thresholds(probabilities["valid"], faces.valid.targets)
    tuned = threshold_scores(probabilities["test"], faces.test.targets, thresholds)
    scores["test"]["f1_tuned"] = tuned["f1"]
    for split, regions in faces.regions.items():
        arrays = getattr(faces, split)
        maps = attention_maps(model, arrays, len(regions))
        pointing = score_localisation(maps, regions).table["pointing"]
        present = arrays.targets[: len(maps)] > 0
        tokens = torch.where(present, effective_support(maps.flatten(2)), torch.nan)
        scores[split] |= {
            "pointing": pointing["map"],
            "pointing of the mean map": pointing["mean map"],
            "pointing by chance": pointing["chance"],
            "tokens": tokens.nanmean(0),
        }
    return {
        split: {key: values.float() for key, values in one.items()} for split, one in scores.items()
    }


@torch.no_grad()
def attention_maps(
    model: nn.Module, arrays: TokenArrays, first: int
) -> Float[Tensor, "n attributes rows columns"]:
    """Where each attribute's query looks in the first images, the mean over heads."""
    with evaluating(model):
        model(*to_model(model, arrays.tokens[:first]), record=True)
    maps = model.last_attn_weights.cpu()
    side = math.isqrt(maps.shape[-1])
    return maps.unflatten(-1, (side, side))


def _fingerprint(arrays: TokenArrays) -> str:
    """Tells apart the faces of two runs."""
    content = (
        arrays.targets.numpy().tobytes() + arrays.tokens.float().mean((1, 2)).numpy().tobytes()
    )
    return hashlib.sha256(content).hexdigest()[:12]


@torch.no_grad()
def image_losses(model: nn.Module, arrays: TokenArrays) -> Float[Tensor, " images"]:
    """How hard each image is for a trained model: its cross-entropy, the mean over attributes.
    Derived in lesson 14.
    """
    return F.binary_cross_entropy_with_logits(
        predict(model, arrays), arrays.targets.double(), reduction="none"
    ).mean(1)


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
        if abs(self.gain) <= self.half:
            return "cannot be told apart"
        return "better" if self.gain > 0 else "worse"

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
        """The gain in average precision of each attribute, by how frequent it is, over seeds."""
        ours, theirs = (
            run.scores[self.split]["average_precision"] for run in (self.run, self.run.baseline)
        )
        gains, series, seeds, means = ours - theirs, {}, {}, []
        rare = self.run.frequencies < RARE
        for name, chosen in ((f"rare, under {RARE:.0%}", rare), ("common", ~rare)):
            if chosen.any():
                mean = gains[:, chosen].mean(0)
                series[name] = (100 * self.run.frequencies[chosen], mean)
                seeds[name] = gains[:, chosen].aminmax(dim=0)
                means.append(f"{mean.mean():+.3f} for the {len(mean)} {name}")
        mean = gains.mean(0)
        order = mean.abs().argsort(descending=True)[:2]
        moved = ", ".join(f"{self.run.names[k]} {mean[k]:+.3f}" for k in order)
        return lines(
            series,
            joined=False,
            intervals=seeds,
            guides={self.run.baseline.name: 0},
            xscale="log",
            xlabel="% of the training faces",
            ylabel="gain in average precision",
            description=(
                f"{self.run.name} over {self.run.baseline.name}, {SPLITS[self.split]} faces: on"
                f" average {', '.join(means)}; most moved: {moved}."
            ),
        )

    def __repr__(self) -> str:
        return f"{self.verdict}\n{self.table()}"

    def _repr_html_(self) -> str:
        return Table(self.verdict, self.table().rows)._repr_html_() + self.picture()._repr_html_()


def compare_with_baseline(run: Run, split: str = "valid") -> Comparison:
    """Hold a run against its baseline, seed by seed, on validation faces, or on the test faces once
    all is chosen.

    Raises ValueError for runs without a baseline or without scores, and for two that differ in more
    than what is tried: other seeds, other attributes, other faces. Derived in lesson 14.
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
    gains = {title: _gain(run, split, score) for title, score in SCORES.items()}
    gains = {title: gain for title, gain in gains.items() if gain is not None}
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
    group = _group(run, score.rare)
    ours, theirs = (_per_seed(one, split, score.key, group) for one in (run, run.baseline))
    if ours is None or theirs is None:
        return None
    gain, half = _mean_and_half(score.sign * (ours - theirs))
    return Gain(theirs.mean().item(), ours.mean().item(), gain, half)


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

    Raises ValueError for a run whose faces had no regions. Derived in lesson 14.
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
    atomically. Derived in lesson 14.
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
            seeds = len(one.run.seeds)
            which = (one.run.name, one.run.baseline.name, one.split, title)
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
