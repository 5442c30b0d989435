"""What happens around the training loop: schedules, stopping, checkpoints, logs. Each is a few
lines; write your own.

A callback is any object with methods named as in `Run`. Derived in lesson 07.
"""

import csv
import io
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import files, runtime
from .fit import Run

__all__ = [
    "ClipGradients",
    "EarlyStopping",
    "MetricLog",
    "Progress",
    "Timing",
    "WarmupCosine",
    "Watch",
    "cosine_factor",
    "epochs_since_best",
    "read_log",
]


def cosine_factor(step: int, total_steps: int, warmup: float = 0.1) -> float:
    """The learning rate of `step` as a share of the largest: up in a line, then down along half a
    cosine.

    Loshchilov and Hutter, arXiv 1608.03983, with the linear warm-up of Goyal et al., arXiv
    1706.02677. Derived in lesson 07.
    """
    rising = max(1, round(warmup * total_steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


def epochs_since_best(losses: Sequence[float]) -> int:
    """How many epochs have passed since the lowest loss; an equal one, or NaN, is no improvement.
    Derived in lesson 07.
    """
    best, waited = math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
    return waited


class WarmupCosine:
    """Warm up over a share of all steps, then lower the learning rate to zero along a cosine."""

    def __init__(self, warmup: float = 0.1):
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is {warmup}; expected a share of the steps, from 0 to 1")
        self.warmup = warmup

    def batch_ready(self, run: Run) -> None:
        for group in run.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * cosine_factor(
                run.step, run.total_steps, self.warmup
            )


class Watch:
    """Remembers the best value of a metric (lower is better unless told) and for how many epochs
    none beat it.
    """

    def __init__(self, metric: str = "valid_loss", higher_is_better: bool = False):
        self.metric, self.sign = metric, -1 if higher_is_better else 1
        self.best, self.waited = math.inf, 0

    def improved(self, run: Run) -> bool:
        if self.metric not in run.log:
            raise ValueError(
                f"no metric {self.metric!r} in the log; choose one of {', '.join(run.log)}"
            )
        value = self.sign * run.log[self.metric]
        better = value < self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class EarlyStopping(Watch):
    """End the run when the metric has not improved for `patience` epochs."""

    def __init__(
        self, patience: int = 10, metric: str = "valid_loss", higher_is_better: bool = False
    ):
        super().__init__(metric, higher_is_better)
        self.patience = patience

    def after_epoch(self, run: Run) -> None:
        if not self.improved(run) and self.waited >= self.patience:
            run.stop = f"{self.metric} has not improved for {self.patience} epochs"


class ClipGradients:
    """Shorten the gradient of all parameters together to at most `norm`, and log how long it was
    before.
    """

    def __init__(self, norm: float = 1.0):
        if not norm > 0:
            raise ValueError(f"the longest gradient is {norm}; expected more than 0, such as 1")
        self.norm, self.lengths = norm, []

    def after_backward(self, run: Run) -> None:
        self.lengths.append(
            float(run.accelerator.clip_grad_norm_(run.model.parameters(), self.norm))
        )

    def after_epoch(self, run: Run) -> None:
        if self.lengths:
            run.log["gradient_norm"] = sum(self.lengths) / len(self.lengths)
        self.lengths = []

    def state_dict(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lengths = state["lengths"]


class Timing:
    """Where the time goes: seconds of each epoch spent on data, forward, backward, step, validation
    and callbacks.

    The seconds under `callbacks` (checkpoints, say) are those since the epoch before; put `Timing`
    first in the list, so that theirs are not counted as validation. `pictures.time_report` reads
    the log.
    """

    def __init__(self):
        self.seconds, self.batches, self.last = defaultdict(float), 0, time.perf_counter()

    def _mark(self, name: str) -> None:
        runtime.synchronize()  # a GPU works behind Python's back
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def start(self, run: Run) -> None:
        self.last = time.perf_counter()

    def before_epoch(self, run: Run) -> None:
        self._mark("callbacks")

    def batch_ready(self, run: Run) -> None:
        self._mark("data")

    def after_forward(self, run: Run) -> None:
        self._mark("forward")

    def after_backward(self, run: Run) -> None:
        self._mark("backward")

    def after_step(self, run: Run) -> None:
        self._mark("step" if run.accelerator.sync_gradients else "backward")
        self.batches += 1

    def after_epoch(self, run: Run) -> None:
        self._mark("validation")
        run.log |= {f"seconds_{name}": round(spent, 4) for name, spent in self.seconds.items()} | {
            "batches": self.batches,
            "gpu": int(run.accelerator.device.type != "cpu"),
            "mixed_precision": int(run.accelerator.mixed_precision != "no"),
        }
        self.seconds.clear()
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": dict(self.seconds), "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds.update(state["seconds"])
        self.batches = state["batches"]


class MetricLog:
    """Every epoch's log as a row of `log.csv`; and for TensorBoard where it is installed."""

    def __init__(self, folder: str | Path, tensorboard: bool = False):
        self.path, self.rows, self.tensorboard = Path(folder) / "log.csv", [], tensorboard

    def after_epoch(self, run: Run) -> None:
        self.rows.append(run.log)  # itself, not a copy: later callbacks still add to it

    def save(self, run: Run) -> None:
        if run.batch or not run.accelerator.is_main_process:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)))
        table.writeheader()
        table.writerows(self.rows)
        with files.atomic(self.path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(self.path.parent) as writer:
                for name, value in self.rows[-1].items():
                    writer.add_scalar(name, value, run.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The rows that `MetricLog` wrote, one an epoch, from a run's folder or its `log.csv`.

    Raises FileNotFoundError where there is none, ValueError for one that is damaged.
    """
    path = Path(path) / "log.csv" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no log {path}; give the folder of a run that had MetricLog among its callbacks and "
            "completed an epoch"
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        lacking = next((name for name in ("epoch", "loss") for row in rows if name not in row), "")
        if lacking:
            raise ValueError(f"an epoch without {lacking}")
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or run the training again"
        ) from error
    return rows


class Progress:
    """One line an epoch with the time left, as plain text."""

    def __init__(self):
        self.bar: tqdm | None = None

    def before_epoch(self, run: Run) -> None:
        if self.bar is None:  # not at the start: a checkpoint may still move the run on
            self.bar = tqdm(
                total=run.epochs,
                initial=run.epoch,
                unit="epoch",
                mininterval=1,
                disable=not run.accelerator.is_main_process,
            )

    def after_epoch(self, run: Run) -> None:
        self.bar.set_postfix(
            {name: f"{value:.4f}" for name, value in run.log.items() if "loss" in name},
            refresh=False,
        )
        self.bar.update()

    def finish(self, run: Run) -> None:
        if self.bar is not None:
            self.bar.close()
        if run.stop and run.accelerator.is_main_process:
            print(f"stopped after epoch {run.epoch}: {run.stop}")
