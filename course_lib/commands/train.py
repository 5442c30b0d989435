"""Train a personality model on features, into a folder that knows what it was made of."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset

from .. import files, runtime
from ..models.personality import CompletePersonalityModel, TokenPersonalityModel
from ..training.callbacks import (
    ClipGradients,
    EarlyStopping,
    MetricLog,
    Progress,
    Timing,
    WarmupCosine,
)
from ..training.checkpoints import Checkpoints, ModelSerializer
from ..training.fit import fit
from ..training.tokens import TokenDataset
from ..training.trait_scores import concordance, evaluate
from .arrays import Arrays, open_arrays, split_rows
from .runs import begin, claimed, described, hashes, processes
from .settings import Train, Visualize
from .visualize import visualize

__all__ = ["MODELS", "model_for", "rows_of", "train"]

MODELS = {2: CompletePersonalityModel, 3: TokenPersonalityModel}  # by the rank of the features


def rows_of(arrays: Arrays, rows: np.ndarray, shuffle: bool = False) -> Subset:
    """Some rows as items `(static, dynamic, traits)`; with `shuffle`, motion tokens in a new order
    each time.
    """
    return Subset(
        TokenDataset(arrays.static, arrays.dynamic, traits=arrays.traits, shuffle=shuffle),
        rows.tolist(),
    )


def model_for(arrays: Arrays, **options) -> tuple[nn.Module, dict]:
    """The model that reads features of this rank and width, and the arguments that build it."""
    config = {
        "static_dim": arrays.static.shape[-1],
        "dynamic_dim": arrays.dynamic.shape[-1],
        **options,
    }
    return MODELS[arrays.static.ndim](**config), config


def train(settings: Train) -> Path:
    """Train, or go on training, and return the run's folder."""
    state, data, training = processes(), settings.data, settings.training
    arrays = open_arrays(data)
    if arrays.speakers is None:
        state.print(
            "without speakers this is a split by clip, which leaks: one person's clips are on both"
            " sides, and the scores are too good (give --speakers)"
        )
    train_rows, valid_rows = split_rows(
        len(arrays.traits), arrays.speakers, data.val_split, data.split_seed
    )
    config = {
        "data": {name: getattr(data, name) for name in ("traits", "val_split", "split_seed")},
        "model": asdict(settings.model),
        "training": asdict(training),
    }
    folder = Path(
        settings.logging.output or f"results/run-{_short_hash([hashes(arrays.sources), config])}"
    )
    precision = runtime.setup(training.seed, quiet=True).precision.replace("fp32", "no")
    model, built_with = model_for(arrays, **config["model"])
    model.to(state.device)
    manifest = described(
        model=type(model).__name__,
        config=config,
        sources=arrays.sources,
        rows={"train": len(train_rows), "valid": len(valid_rows)},
    )
    state.print(
        f"{folder}: {manifest['model']}, {len(train_rows)} rows to train on, {len(valid_rows)} to"
        " validate"
    )
    share = _share(training.batch_size, state.num_processes)
    loader = DataLoader(
        rows_of(arrays, train_rows, training.shuffle_moments),
        share,
        shuffle=True,
        # `fit` seeds it: all processes deal the same cards
        generator=torch.Generator(),
        drop_last=len(train_rows) % share == 1,
    )  # batch norm needs two
    valid = DataLoader(rows_of(arrays, valid_rows), share)
    checkpoints = Checkpoints(folder / "checkpoints", settings.logging.minutes)
    with claimed(folder) if state.is_main_process else nullcontext():
        if state.is_main_process:
            begin(folder, manifest)
        state.wait_for_everyone()
        run = fit(
            model,
            loader,
            valid,
            epochs=training.epochs,
            accumulate=training.accumulate,
            seed=training.seed,
            optimizer=torch.optim.AdamW(
                model.parameters(), training.learning_rate, weight_decay=training.weight_decay
            ),
            metrics={"mae": F.l1_loss, "mse": F.mse_loss, "ccc": concordance},
            callbacks=[
                Timing(),
                WarmupCosine(training.warmup),
                ClipGradients(training.clip),
                EarlyStopping(training.patience),
                MetricLog(folder, settings.logging.tensorboard),
                checkpoints,
                Progress(),
            ],
            precision=precision if training.precision == "auto" else training.precision,
        )
        if state.is_main_process:
            best = checkpoints.load_best(model := run.accelerator.unwrap_model(run.model))
            _keep(folder, model, built_with, best, valid)
            visualize(Visualize(run=str(folder)))
    state.print(f"{folder} is complete; score it with `python -m course_lib evaluate {folder}`")
    return folder


def _share(batch_size: int, processes: int) -> int:
    """What each process takes of a batch, so that the batch of all together is what was asked for."""
    share, rest = divmod(batch_size, processes)
    if share < 2 or rest:
        raise ValueError(
            f"batch_size {batch_size} cannot be dealt to {processes} processes; choose a multiple"
            f" of {processes}, at least {2 * processes}"
        )
    return share


def _keep(folder: Path, model: nn.Module, config: dict, best: dict, valid: DataLoader) -> None:
    """Save the model with the weights of the best epoch, once."""
    serializer = ModelSerializer(folder / "model")
    if not serializer.versions("personality"):
        scores = evaluate(model, DataLoader(valid.dataset, valid.batch_size)).scores.value
        serializer.save(
            model,
            "personality",
            config,
            files.read_json(folder / "manifest.json"),
            best | {"mean_accuracy": scores[0].tolist(), "ccc": scores[1].tolist()},
        )


def _short_hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
