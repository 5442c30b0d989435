"""Score a finished run: intervals over speakers, the floor and the speaker look-up beside it,
against another run.
"""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from .. import files, runtime
from ..training.checkpoints import ModelSerializer
from ..training.trait_scores import (
    SCORES,
    Evaluation,
    Scores,
    compare_answers,
    floor_prediction,
    leak_report,
    speaker_lookup,
    trait_table,
)
from ..training.trait_scores import evaluate as score_model
from ..world.stories import TRAITS
from .arrays import Arrays, open_arrays, split_rows
from .runs import hashes, read_manifest
from .train import MODELS, rows_of

__all__ = ["evaluate"]

BATCH = 64


class RunData(NamedTuple):
    """A run, the rows that it learned from, and the rows that it is scored on."""

    folder: Path
    manifest: dict
    train: Arrays
    train_rows: np.ndarray
    test: Arrays
    test_rows: np.ndarray

    @property
    def train_speakers(self) -> list | None:
        speakers = self.train.speakers
        return None if speakers is None else speakers[self.train_rows].tolist()

    @property
    def test_speakers(self) -> list | None:
        speakers = self.test.speakers
        return None if speakers is None else speakers[self.test_rows].tolist()


def evaluate(
    run: str, *, against: str = "", attention: bool = False, output: str = "", **data: Any
) -> Path:
    """Score a run on its validation split, or on other files, with intervals over speakers and
    baselines beside; returns the folder of scores, predictions and residuals.

    Args:
        run: the run's folder
        against: another run's folder: how much better is the first, on the same clips?
        attention: keep the attention of every clip beside the predictions
        output: where to write; default: the run's folder, evaluation/
    """
    own = _open_run(Path(run), **data)
    result = _predict(own, attention)
    target = Path(output or own.folder / "evaluation")
    print(f"{own.folder}: {len(own.test_rows)} clips\n{result.scores.table(TRAITS)}\n")
    train_traits = own.train.traits[own.train_rows]
    predictions = {
        "model": result.prediction,
        "floor": floor_prediction(train_traits, len(own.test_rows)),
    }
    if own.test_speakers is not None and own.train_speakers is not None:
        predictions["speaker look-up"] = speaker_lookup(
            train_traits, own.train_speakers, own.test_speakers
        )
    leak = leak_report(own.train_speakers, own.test_speakers)
    print(f"{trait_table(predictions, result.target, own.test_speakers)}\n\n{leak}")
    report = {
        "run": str(own.folder),
        "clips": len(own.test_rows),
        "leak": leak,
        "scores": _plain(result.scores),
    }
    if against:
        difference = _compare(own, result, _open_run(Path(against), **data))
        print(f"\nbetter than {against} by\n{difference.table(TRAITS)}")
        report |= {"against": against, "difference": _plain(difference)}
    _write(target, own, result, report)
    print(f"\npredictions, residuals and scores are in {target}")
    return target


def _open_run(folder: Path, **data: Any) -> RunData:
    """Open what a run learned from, which must be as it was, and what it is scored on: its
    validation rows, or all rows of other files.
    """
    manifest = read_manifest(folder)
    config, sources = manifest["config"], manifest["sources"]
    if "drawn clips" in sources:
        paths = {"dataset": "synthetic", "clips": sources["drawn clips"]["clips"]}
    else:
        paths = {name: source["path"] for name, source in sources.items()}
    train = open_arrays(split="train", traits=config["traits"], **paths)
    then, now = hashes(sources), hashes(train.sources)
    if changed := next((name for name in then if now.get(name) != then[name]), None):
        raise ValueError(
            f"{changed} changed since {folder} learned from it, so its validation rows are not the"
            " same; restore the file, or train again"
        )
    train_rows, valid_rows = split_rows(
        len(train.traits), train.speakers, config["val_split"], config["split_seed"]
    )
    if not any(value for name, value in data.items() if name != "clips"):
        return RunData(folder, manifest, train, train_rows, train, valid_rows)
    test = open_arrays(split="test", **data)
    return RunData(folder, manifest, train, train_rows, test, np.arange(len(test.traits)))


def _predict(run: RunData, attention: bool) -> Evaluation:
    model_class = {kind.__name__: kind for kind in MODELS.values()}.get(run.manifest["model"])
    if model_class is None:
        raise ValueError(
            f"{run.folder} holds a {run.manifest['model']}, which this version of the course does"
            " not know; take the version that trained it"
        )
    serializer = ModelSerializer(run.folder / "model")
    if not serializer.versions("personality"):
        raise FileNotFoundError(
            f"{run.folder} has no finished model yet; run its `train` command again to go on"
        )
    model, _ = serializer.load(model_class, "personality")
    model.to(runtime.default_device())
    if MODELS.get(run.test.static.ndim) is not model_class:
        raise ValueError(
            f"{run.folder} holds a {model_class.__name__}, and the features have "
            f"{run.test.static.ndim} axes; give tokens (3) or vectors (2) as it was trained on"
        )
    batches = DataLoader(rows_of(run.test, run.test_rows), BATCH)
    return score_model(model, batches, run.test_speakers, attention)


def _compare(run: RunData, result: Evaluation, other: RunData) -> Scores:
    """The first run's scores minus the other's, each on its own features of the same clips."""
    same_rows = np.array_equal(run.test_rows, other.test_rows)
    if not same_rows or not run.test.traits.equal(other.test.traits):
        raise ValueError(
            f"{other.folder} was validated on other clips than {run.folder}; compare runs of one"
            " split, or give both the same files"
        )
    return compare_answers(
        result.prediction, _predict(other, False).prediction, result.target, run.test_speakers
    )


def _plain(scores: Scores) -> dict:
    """Score → trait → value and 95 % interval."""
    low, high = scores.interval
    report: dict[str, dict] = {}
    for i, score in enumerate(SCORES):
        report[score] = {}
        for k, trait in enumerate((*TRAITS, "mean")):
            value, *interval = (
                round(float(number[i, k]), 5) for number in (scores.value, low, high)
            )
            report[score][trait] = {"value": value, "interval": interval}
    return report


def _write(target: Path, run: RunData, result: Evaluation, report: dict) -> None:
    files.write_json(target / "scores.json", report)
    text = io.StringIO()
    table = csv.writer(text)
    columns = [f"{what} {trait}" for what in ("predicted", "label", "residual") for trait in TRAITS]
    table.writerow(["row", "speaker", *columns])
    rows = run.test_rows.tolist()
    speakers = run.test_speakers or [""] * len(rows)
    numbers = torch.cat([result.prediction, result.target, result.residuals], dim=1).tolist()
    for row, speaker, values in zip(rows, speakers, numbers, strict=True):
        table.writerow([row, speaker, *(round(value, 6) for value in values)])
    with files.atomic(target / "predictions.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    if result.attention is not None:
        files.save_tensors(
            target / "attention.safetensors",
            {"attention": result.attention.half()},
            {"run": run.folder.resolve().name, "rows": rows},
        )
