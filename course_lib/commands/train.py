"""Train a personality model on features, into a folder that says what it was made of."""

import hashlib
import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

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
from ..training.lock import locked
from ..training.tokens import TokenDataset
from ..training.trait_scores import concordance
from ..training.trait_scores import evaluate as score_model
from .arrays import Arrays, open_arrays, split_rows
from .runs import at_least, begin, between, described, hashes, processes
from .visualize import visualize

__all__ = ["MODELS", "model_for", "rows_of", "train"]

MODELS = {2: CompletePersonalityModel, 3: TokenPersonalityModel}  # by the rank of the features
FREE = ("data", "output", "minutes", "tensorboard")  # what a run that goes on may have changed


def train(
    *,
    traits: str = "",
    val_split: float = 0.2,
    split_seed: int = 0,
    fusion_dim: int = 128,
    num_heads: int = 4,
    dropout_rate: float = 0.3,
    batch_size: int = 32,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: float = 0.1,
    clip: float = 1.0,
    patience: int = 10,
    accumulate: int = 1,
    shuffle_moments: bool = False,
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto",
    seed: int = 0,
    output: str = "",
    minutes: float = 10.0,
    tensorboard: bool = False,
    **data: Any,
) -> Path:
    """Train a personality model on features, and keep log, checkpoints, curves, model and manifest
    in one folder.

    Vectors make a CompletePersonalityModel, tokens a TokenPersonalityModel. Killed at any moment,
    the same command goes on. Under `accelerate launch` it runs on several processes.
    Returns the folder.

    Args:
        traits: what the label columns are, in their order; default:
            openness,conscientiousness,extraversion,agreeableness,neuroticism
        val_split: share of the rows, whole speakers, to validate on
        split_seed: another number puts other speakers on the two sides
        fusion_dim: width of the fused vector
        num_heads: heads of the cross-attention
        dropout_rate: share of the fused values that training hides
        batch_size: rows in a batch, of all processes together
        epochs: passes over the training rows, at most
        learning_rate: the largest; 1e-4 to 1e-3 is usual
        weight_decay: of AdamW, which without it is Adam; 0.5 helps where clips are few
        warmup: share of the steps in which the learning rate rises
        clip: a gradient longer than this is shortened to it
        patience: epochs without improvement before the end
        accumulate: batches for one step, where memory is short
        shuffle_moments: show motion tokens in a new order each time, where moments are equals
        precision: mixed precision; 'auto' fits the machine
        seed: of weights, batches and dropout
        output: the run's folder; default: results/ and a name made of data and settings
        minutes: time between checkpoints within an epoch
        tensorboard: write event files for TensorBoard too
    """
    settings = locals()
    config = {name: settings[name] for name in settings if name not in FREE}
    at_least(1, epochs=epochs, num_heads=num_heads, fusion_dim=fusion_dim, accumulate=accumulate)
    at_least(1, patience=patience)
    at_least(0, weight_decay=weight_decay, minutes=minutes, seed=seed)
    between(0, math.inf, learning_rate=learning_rate, clip=clip)
    if not 0 <= warmup <= 1 or not 0 <= dropout_rate < 1:
        raise ValueError(
            f"--warmup is {warmup} and --dropout_rate {dropout_rate}; expected shares from 0 to 1,"
            " and of dropout less than 1"
        )
    state = processes()
    arrays = open_arrays(split="train", traits=traits, **data)
    if arrays.speakers is None:
        state.print(
            "without speakers this is a split by clip, which leaks: one person's clips are on both"
            " sides, and the scores are too good (give --speakers)"
        )
    train_rows, valid_rows = split_rows(len(arrays.traits), arrays.speakers, val_split, split_seed)
    folder = Path(output or f"results/run-{_short_hash([hashes(arrays.sources), config])}")
    machine = runtime.setup(seed, quiet=True)
    if precision == "auto":
        precision = machine.precision.replace("fp32", "no")
    model, built_with = model_for(
        arrays, fusion_dim=fusion_dim, num_heads=num_heads, dropout_rate=dropout_rate
    )
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
    share = _share(batch_size, state.num_processes)
    loader = DataLoader(
        rows_of(arrays, train_rows, shuffle_moments),
        share,
        shuffle=True,
        generator=torch.Generator(),  # `fit` seeds it: the same order in all processes
        drop_last=len(train_rows) % share == 1,  # batch norm needs two
    )
    valid = DataLoader(rows_of(arrays, valid_rows), share)
    checkpoints = Checkpoints(folder / "checkpoints", minutes)
    with locked(folder) if state.is_main_process else nullcontext():
        if state.is_main_process:
            begin(folder, manifest)
        state.wait_for_everyone()
        run = fit(
            model,
            loader,
            valid,
            epochs=epochs,
            accumulate=accumulate,
            seed=seed,
            optimizer=torch.optim.AdamW(
                model.parameters(), learning_rate, weight_decay=weight_decay
            ),
            metrics={"mae": F.l1_loss, "mse": F.mse_loss, "ccc": concordance},
            callbacks=[
                Timing(),
                WarmupCosine(warmup),
                ClipGradients(clip),
                EarlyStopping(patience),
                MetricLog(folder, tensorboard),
                checkpoints,
                Progress(),
            ],
            precision=precision,
        )
        if state.is_main_process:
            best = checkpoints.load_best(model := run.accelerator.unwrap_model(run.model))
            _save_once(folder, model, built_with, best, valid)
            visualize(str(folder))
    state.print(f"{folder} is complete; score it with `python -m course_lib evaluate {folder}`")
    return folder


def rows_of(arrays: Arrays, rows: np.ndarray, shuffle: bool = False) -> Subset:
    """Some rows as items `(static, dynamic, traits)`; with `shuffle`, motion tokens in a new order
    each time.
    """
    items = TokenDataset(arrays.static, arrays.dynamic, traits=arrays.traits, shuffle=shuffle)
    return Subset(items, rows.tolist())


def model_for(arrays: Arrays, **options) -> tuple[nn.Module, dict]:
    """The model that reads features of this rank and width, and the arguments that build it."""
    config = {
        "static_dim": arrays.static.shape[-1],
        "dynamic_dim": arrays.dynamic.shape[-1],
        **options,
    }
    return MODELS[arrays.static.ndim](**config), config


def _share(batch_size: int, processes: int) -> int:
    """What each process takes of a batch, so that the batch of all together is what was asked for."""
    share, rest = divmod(batch_size, processes)
    if share < 2 or rest:
        raise ValueError(
            f"batch_size {batch_size} cannot be dealt to {processes} processes; choose a multiple"
            f" of {processes}, at least {2 * processes}"
        )
    return share


def _save_once(folder: Path, model: nn.Module, config: dict, best: dict, valid: DataLoader) -> None:
    """Save the model with the weights of the best epoch, unless an earlier call has. Of the data
    files it tells names and hashes, not where they lay: models are passed on.
    """
    serializer = ModelSerializer(folder / "model")
    if serializer.versions("personality"):
        return
    shutil.rmtree(folder / "model", ignore_errors=True)  # a killed call's, without metadata
    manifest = files.read_json(folder / "manifest.json")
    for source in manifest["sources"].values():
        if "path" in source:
            source["path"] = Path(source["path"]).name
    scores = score_model(model, DataLoader(valid.dataset, valid.batch_size)).scores.value
    serializer.save(
        model,
        "personality",
        config,
        manifest,
        best | {"mean_accuracy": scores[0].tolist(), "ccc": scores[1].tolist()},
    )


def _short_hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
