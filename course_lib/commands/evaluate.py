"""Score a finished run: intervals over speakers, the floor and the speaker look-up beside it,
against another run.
"""

import csv
import io
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

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
    score_table,
    speaker_lookup,
)
from ..training.trait_scores import evaluate as score_model
from ..world.stories import TRAITS
from .arrays import Arrays, open_arrays, split_rows
from .runs import hashes, read_manifest
from .settings import Data, Evaluate, Files
from .train import MODELS, rows_of

__all__ = ["evaluate"]

BATCH = 64


class Exam(NamedTuple):
    """What a run learned from, and the rows it is asked about."""

    folder: Path
    manifest: dict
    learned: Arrays
    learned_rows: np.ndarray
    asked: Arrays
    rows: np.ndarray

    @property
    def speakers(self) -> list | None:
        return None if self.asked.speakers is None else self.asked.speakers[self.rows].tolist()

    @property
    def known_speakers(self) -> list | None:
        return (
            None
            if self.learned.speakers is None
            else self.learned.speakers[self.learned_rows].tolist()
        )


def evaluate(settings: Evaluate) -> Path:
    """Print the scores and write them, with predictions and residuals, into the folder that is
    returned.
    """
    exam = _prepare(Path(settings.run), settings)
    result = _answers(exam, settings.attention)
    target = Path(settings.output or exam.folder / "evaluation")
    print(f"{exam.folder}: {len(exam.rows)} clips\n{result.scores.table(TRAITS)}\n")
    answers = {
        "model": result.prediction,
        "floor": floor_prediction(exam.learned.traits[exam.learned_rows], len(exam.rows)),
    }
    if exam.speakers is not None and exam.known_speakers is not None:
        answers["speaker look-up"] = speaker_lookup(
            exam.learned.traits[exam.learned_rows], exam.known_speakers, exam.speakers
        )
    leak = leak_report(exam.known_speakers, exam.speakers)
    print(f"{score_table(answers, result.target, exam.speakers)}\n\n{leak}")
    report = {
        "run": str(exam.folder),
        "clips": len(exam.rows),
        "leak": leak,
        "scores": _plain(result.scores),
    }
    if settings.against:
        difference = _compare(exam, result, Path(settings.against), settings)
        print(f"\nbetter than {settings.against} by\n{difference.table(TRAITS)}")
        report |= {"against": settings.against, "difference": _plain(difference)}
    _write(target, exam, result, report)
    print(f"\npredictions, residuals and scores are in {target}")
    return target


def _prepare(folder: Path, settings: Evaluate) -> Exam:
    """Open what a run learned from, which must be as it was, and what it is asked about: its
    validation rows, or all rows of other files.
    """
    manifest = read_manifest(folder)
    data, sources = Data(**manifest["config"]["data"]), manifest["sources"]
    if "drawn clips" in sources:
        data = replace(data, dataset="synthetic", clips=sources["drawn clips"]["clips"])
    else:
        data = replace(data, **{name: source["path"] for name, source in sources.items()})
    learned = open_arrays(data)
    then, now = hashes(sources), hashes(learned.sources)
    if changed := next((name for name in then if now.get(name) != then[name]), None):
        raise ValueError(
            f"{changed} changed since {folder} learned from it, so its validation rows are not the"
            " same; restore the file, or train again"
        )
    train_rows, valid_rows = split_rows(
        len(learned.traits), learned.speakers, data.val_split, data.split_seed
    )
    others = Files(**{setting.name: getattr(settings, setting.name) for setting in fields(Files)})
    if replace(others, clips=Files.clips) == Files():
        return Exam(folder, manifest, learned, train_rows, learned, valid_rows)
    asked = open_arrays(others, split="test")
    return Exam(folder, manifest, learned, train_rows, asked, np.arange(len(asked.traits)))


def _answers(exam: Exam, attention: bool) -> Evaluation:
    model_class = next(kind for kind in MODELS.values() if kind.__name__ == exam.manifest["model"])
    serializer = ModelSerializer(exam.folder / "model")
    if not serializer.versions("personality"):
        raise FileNotFoundError(
            f"{exam.folder} has no finished model yet; run its `train` command again to go on"
        )
    model, _ = serializer.load(model_class, "personality")
    model.to(runtime.default_device())
    if MODELS.get(exam.asked.static.ndim) is not model_class:
        raise ValueError(
            f"{exam.folder} holds a {model_class.__name__}, and the features have "
            f"{exam.asked.static.ndim} axes; give tokens (3) or vectors (2) as it was trained on"
        )
    return score_model(
        model, DataLoader(rows_of(exam.asked, exam.rows), BATCH), exam.speakers, attention
    )


def _compare(exam: Exam, result: Evaluation, other: Path, settings: Evaluate) -> Scores:
    """The first run's scores minus the other's, each asked on its own features of the same clips."""
    peer = _prepare(other, settings)
    if not np.array_equal(exam.rows, peer.rows) or not exam.asked.traits.equal(peer.asked.traits):
        raise ValueError(
            f"{other} was validated on other clips than {exam.folder}; compare runs of one split,"
            " or give both the same files"
        )
    return compare_answers(
        result.prediction, _answers(peer, False).prediction, result.target, exam.speakers
    )


def _plain(scores: Scores) -> dict:
    """Score → trait → value and 95 % interval."""
    low, high = scores.interval
    return {
        score: {
            name: {
                "value": round(float(scores.value[i, k]), 5),
                "interval": [round(float(low[i, k]), 5), round(float(high[i, k]), 5)],
            }
            for k, name in enumerate((*TRAITS, "mean"))
        }
        for i, score in enumerate(SCORES)
    }


def _write(target: Path, exam: Exam, result: Evaluation, report: dict) -> None:
    files.write_json(target / "scores.json", report)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(
        [
            "row",
            "speaker",
            *(f"{what} {trait}" for what in ("predicted", "label", "residual") for trait in TRAITS),
        ]
    )
    speakers = exam.speakers or [""] * len(exam.rows)
    numbers = torch.cat([result.prediction, result.target, result.residuals], dim=1).tolist()
    table.writerows(
        [row, speaker, *(round(value, 6) for value in values)]
        for row, speaker, values in zip(exam.rows.tolist(), speakers, numbers, strict=True)
    )
    with files.atomic(target / "predictions.csv") as temporary:
        temporary.write_text(text.getvalue())
    if result.attention is not None:
        files.save_tensors(
            target / "attention.safetensors",
            {"attention": result.attention.half()},
            {"run": str(exam.folder), "rows": exam.rows.tolist()},
        )
