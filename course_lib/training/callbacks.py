"""What happens around the training loop: schedules, stopping, checkpoints, logs. Each is a few lines; write your own.

A callback is any object with methods named as in `Run`. Derived in lesson 06.
"""

import csv
import io
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import files
from .fit import Run

__all__ = ["Checkpoints", "ClipGradients", "EarlyStopping", "MetricLog", "Plateau", "Progress", "Timing",
           "WarmupCosine", "cosine_factor"]


def cosine_factor(step: int, total_steps: int, warmup: float = 0.1) -> float:
    """The learning rate of `step` as a share of the largest: up in a line, then down along half a cosine.

    Loshchilov and Hutter, arXiv 1608.03983, with the linear warm-up of Goyal et al., arXiv 1706.02677.
    """
    rising = max(1, round(warmup * total_steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


class WarmupCosine:
    """Warm up over a share of all steps, then lower the learning rate to zero along a cosine."""

    def __init__(self, warmup: float = 0.1):
        self.warmup = warmup

    def batch_ready(self, run: Run) -> None:
        for group in run.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * cosine_factor(run.step, run.total_steps, self.warmup)


class _Watch:
    """Remembers the best value of a metric (lower is better unless told) and for how many epochs none beat it."""

    def __init__(self, metric: str = "valid_loss", higher_is_better: bool = False):
        self.metric, self.sign = metric, -1 if higher_is_better else 1
        self.best, self.waited = math.inf, 0

    def improved(self, run: Run) -> bool:
        if self.metric not in run.log:
            raise ValueError(f"no metric {self.metric!r} in the log; choose one of {', '.join(run.log)}")
        value = self.sign * run.log[self.metric]
        better = value < self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class EarlyStopping(_Watch):
    """End the run when the metric has not improved for `patience` epochs."""

    def __init__(self, patience: int = 10, metric: str = "valid_loss", higher_is_better: bool = False):
        super().__init__(metric, higher_is_better)
        self.patience = patience

    def after_epoch(self, run: Run) -> None:
        if not self.improved(run) and self.waited >= self.patience:
            run.stop = f"{self.metric} has not improved for {self.patience} epochs"


class Plateau(_Watch):
    """Multiply the learning rate by `factor` each time the metric has not improved for `patience` epochs."""

    def __init__(self, factor: float = 0.5, patience: int = 3, metric: str = "valid_loss",
                 higher_is_better: bool = False):
        super().__init__(metric, higher_is_better)
        self.factor, self.patience = factor, patience

    def after_epoch(self, run: Run) -> None:
        if not self.improved(run) and self.waited >= self.patience:
            self.waited = 0
            for group in run.optimizer.param_groups:
                group["lr"] *= self.factor


class ClipGradients:
    """Shorten the gradient of all parameters together to at most `norm`, and log how long it was before."""

    def __init__(self, norm: float = 1.0):
        self.norm, self.lengths = norm, []

    def after_backward(self, run: Run) -> None:
        self.lengths.append(float(run.accelerator.clip_grad_norm_(run.model.parameters(), self.norm)))

    def after_epoch(self, run: Run) -> None:
        if self.lengths:
            run.log["gradient_norm"] = sum(self.lengths) / len(self.lengths)
        self.lengths = []


class Timing:
    """Where the time goes: seconds of each epoch spent on data, forward, backward, step and the rest (validation)."""

    def __init__(self):
        self.seconds, self.last = defaultdict(float), time.perf_counter()

    def _mark(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def start(self, run: Run) -> None:
        self.last = time.perf_counter()

    def batch_ready(self, run: Run) -> None:
        self._mark("data")

    def after_forward(self, run: Run) -> None:
        self._mark("forward")

    def after_backward(self, run: Run) -> None:
        self._mark("backward")

    def after_step(self, run: Run) -> None:
        self._mark("step")

    def after_epoch(self, run: Run) -> None:
        self._mark("validation")
        run.log |= {f"seconds_{name}": round(spent, 4) for name, spent in self.seconds.items()}
        self.seconds.clear()


class MetricLog:
    """Every epoch's log as a row of `log.csv`, with the learning rate; and for TensorBoard where it is installed."""

    def __init__(self, folder: str | Path, tensorboard: bool = False):
        self.path, self.rows, self.tensorboard = Path(folder) / "log.csv", [], tensorboard

    def after_epoch(self, run: Run) -> None:
        row = {"epoch": run.epoch, "learning_rate": run.optimizer.param_groups[0]["lr"], **run.log}
        self.rows.append(row)
        if not run.accelerator.is_main_process:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)))
        table.writeheader()
        table.writerows(self.rows)
        with files.atomic(self.path) as temporary:
            temporary.write_text(text.getvalue())
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(self.path.parent) as writer:
                for name, value in row.items():
                    writer.add_scalar(name, value, run.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class Progress:
    """One line an epoch with the time left, as plain text."""

    def start(self, run: Run) -> None:
        self.bar = tqdm(total=run.epochs, initial=run.epoch, unit="epoch", mininterval=1,
                        disable=not run.accelerator.is_main_process)

    def after_epoch(self, run: Run) -> None:
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in run.log.items() if "loss" in name}, refresh=False)
        self.bar.update()

    def finish(self, run: Run) -> None:
        self.bar.close()
        if run.stop:
            print(f"stopped after epoch {run.epoch}: {run.stop}")


class Checkpoints(_Watch):
    """Keep the last state (after every epoch, and every `minutes` in between) and the weights of the best epoch.

    A run that starts with the same folder goes on where the last one stopped. `last.safetensors` holds model,
    optimizer and callbacks; `best.safetensors` the weights alone. Raises ValueError if the folder holds a run of
    another model.
    """

    def __init__(self, folder: str | Path, minutes: float = 10, metric: str = "valid_loss",
                 higher_is_better: bool = False):
        super().__init__(metric, higher_is_better)
        self.folder, self.minutes, self.saved = Path(folder), minutes, time.time()

    def start(self, run: Run) -> None:
        path = self.folder / "last.safetensors"
        if not path.exists():
            return
        tensors, state = files.load_tensors(path)
        _load_model(run, {name.removeprefix("model."): tensor for name, tensor in tensors.items()
                          if name.startswith("model.")}, path)
        run.optimizer.load_state_dict(_unflatten_optimizer(tensors, state["optimizer"]))
        for callback, kept in zip(_with_state(run), state["callbacks"], strict=True):
            callback.load_state_dict(kept)
        run.epoch, run.batch, run.step, run.total_loss = state["run"]
        run.stop = state["stop"]

    def after_step(self, run: Run) -> None:
        if time.time() - self.saved > 60 * self.minutes and run.accelerator.sync_gradients:
            self.save(run)

    def after_epoch(self, run: Run) -> None:
        if (run.valid is None or self.improved(run)) and run.accelerator.is_main_process:
            files.save_tensors(self.folder / "best.safetensors", _weights(run), {"epoch": run.epoch, **run.log})

    def save(self, run: Run) -> None:
        """Write the state of now; a kill while writing leaves the one before."""
        self.saved = time.time()
        if not run.accelerator.is_main_process:
            return
        tensors, groups = _flatten_optimizer(run.optimizer.state_dict())
        files.save_tensors(self.folder / "last.safetensors",
                           {f"model.{name}": tensor for name, tensor in _weights(run).items()} | tensors,
                           {"optimizer": groups, "run": [run.epoch, run.batch, run.step, run.total_loss],
                            "stop": run.stop, "callbacks": [callback.state_dict() for callback in _with_state(run)]})


def _with_state(run: Run) -> list[Any]:
    return [callback for callback in run.callbacks if hasattr(callback, "state_dict")]


def _weights(run: Run) -> dict[str, Tensor]:
    return run.accelerator.unwrap_model(run.model).state_dict()


def _load_model(run: Run, weights: dict[str, Tensor], path: Path) -> None:
    try:
        run.accelerator.unwrap_model(run.model).load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds a run of another model; choose another folder for this run, or delete the "
                         "old one") from error


def _flatten_optimizer(state: dict) -> tuple[dict[str, Tensor], dict]:
    """The optimizer's state as named tensors and what JSON can hold: safetensors knows no nested dicts."""
    tensors = {f"optimizer.{index}.{name}": torch.as_tensor(value)
               for index, values in state["state"].items() for name, value in values.items()}
    return tensors, {"param_groups": state["param_groups"]}


def _unflatten_optimizer(tensors: dict[str, Tensor], rest: dict) -> dict:
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state[int(index)][key] = tensor
    return {"state": dict(state), **rest}
