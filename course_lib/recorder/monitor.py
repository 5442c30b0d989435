"""How attention changes while a model learns: a callback for `training.fit`."""

import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..looking.attention import attention_statistics, diagnose
from ..models.inference import evaluating, to_model
from ..pictures.attention import draw_map
from ..pictures.base import (
    BLUE,
    HIGHLIGHT,
    INK,
    LETTERS,
    Animation,
    Picture,
    blank_axes,
    open_axis,
)
from ..shapes import Float
from ..training.fit import Run
from .recorder import AttentionRecorder
from .recording import as_shares

__all__ = ["AttentionMonitor"]


class AttentionMonitor:
    """Watch a model's attention on one fixed batch: before training, and after every epoch.

    `inputs` are what the model takes; give two clips or more, since a map that is the same for all
    is a habit. `layer` names the attention as `AttentionRecorder` does; it is the last that runs,
    unless given. `maps` holds the mean map of each epoch, `rows` its entropy (nats), support
    (keys), sink (share of the top key), between which values the middle 80 % of the entropies of
    all heads and queries lie (`low`, `high`), and what `diagnose` found; entropy also goes to the run's
    log. Raises ValueError if the model has no such attention. Derived in lesson 07.
    """

    def __init__(self, *inputs: Tensor, layer: str | None = None):
        self.inputs, self.layer = inputs, layer
        self.maps: Float[Tensor, "epochs queries keys"] = torch.zeros(0, 0, 0)
        self.rows: list[dict[str, Any]] = []

    def start(self, run: Run) -> None:
        if not self.rows:
            self._look(run)

    def after_epoch(self, run: Run) -> None:
        self._look(run)
        run.log["attention_entropy"] = self.rows[-1]["entropy"]

    def _look(self, run: Run) -> None:
        model = run.accelerator.unwrap_model(run.model)
        with evaluating(model), torch.no_grad(), AttentionRecorder(model) as recording:
            model(*to_model(model, *self.inputs))
        names = [record.name for record in recording.records]
        if not names or self.layer not in (None, *names):
            raise ValueError(
                f"no attention {self.layer or ''!r} in {type(model).__name__}; "
                f"it has {', '.join(dict.fromkeys(names)) or 'none that a recorder sees'}"
            )
        weights = [
            record.weights for record in recording.records if self.layer in (None, record.name)
        ][-1].float()
        weights, _ = as_shares(weights)
        statistics = attention_statistics(weights)
        self.rows.append(
            {name: statistics[name].mean().item() for name in ("entropy", "support", "sink")}
            | dict(zip(("low", "high"), _middle(weights), strict=True))
            | {"found": [finding.name for finding in diagnose(weights)]}
        )
        mean = weights.mean((0, 1))[None]
        self.maps = torch.cat([self.maps, mean]) if len(self.rows) > 1 else mean

    def state_dict(self) -> dict[str, Any]:
        return {"maps": self.maps, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.maps, self.rows = state["maps"], state["rows"]

    def plot(self) -> Picture:
        """Entropy over the epochs, epoch 0 being the untrained model: its mean and the middle 80 %
        of all heads and queries, beside that of uniform attention.
        """
        figure, axes = blank_axes(1, 1, 6.4, 2.8)
        self._draw_entropy(axes[0, 0])
        first, last = self.rows[0], self.rows[-1]
        found = ", ".join(last["found"]) or "nothing"
        return Picture(
            figure,
            f"Entropy of attention over {len(self.rows) - 1} epochs: from {first['entropy']:.2f} "
            f"nats untrained to {last['entropy']:.2f} (uniform: {self._uniform:.2f}), the middle 80 %"
            f" of heads and queries from {last['low']:.2f} to {last['high']:.2f}, effectively "
            f"{last['support']:.1f} of {self.maps.shape[-1]} keys; diagnosed at the end: {found}.",
        )

    def animate(self, fps: float = 2) -> Animation:
        """The mean map after each epoch, on one scale, beside the entropy so far."""
        brightest = float(self.maps.max())
        frames = []
        for epoch, values in enumerate(self.maps.numpy()):
            figure, axes = blank_axes(1, 2, 8.4, 3.2)
            draw_map(axes[0, 0], values, width=4, brightest=brightest)
            axes[0, 0].set(xlabel="key", ylabel="query")
            axes[0, 0].set_title(f"epoch {epoch}" + ", untrained" * (epoch == 0), fontsize=9)
            self._draw_entropy(axes[0, 1])
            axes[0, 1].plot(epoch, self.rows[epoch]["entropy"], "o", color=BLUE, markersize=8)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        largest = self.maps.amax((1, 2))
        return Animation(
            frames,
            fps,
            f"The mean map on a fixed batch over {len(frames) - 1} epochs, on one scale: its "
            f"largest weight goes from {largest[0]:.2f} untrained to {largest[-1]:.2f} "
            f"(uniform: {1 / self.maps.shape[-1]:.2f}).",
        )

    @property
    def _uniform(self) -> float:
        return math.log(self.maps.shape[-1])

    def _draw_entropy(self, axis: Axes) -> None:
        entropy = [row["entropy"] for row in self.rows]
        axis.plot(entropy, ".-", color=BLUE, label="this model")
        low, high = ([row[side] for row in self.rows] for side in ("low", "high"))
        axis.fill_between(
            range(len(entropy)),
            low,
            high,
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="middle 80 % of heads and queries",
        )
        if ill := {epoch: row["found"] for epoch, row in enumerate(self.rows) if row["found"]}:
            names = ", ".join(dict.fromkeys(name for found in ill.values() for name in found))
            axis.plot(
                list(ill),
                [entropy[epoch] for epoch in ill],
                "x",
                color=INK,
                label=f"diagnosed: {names}",
            )
        axis.axhline(self._uniform, color=HIGHLIGHT, linestyle="--", label="uniform attention")
        open_axis(axis, xlabel="epoch", ylabel="entropy, nats", ylim=(0, 1.1 * self._uniform + 0.1))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.legend(frameon=False, fontsize=LETTERS, loc="lower left")


def _middle(weights: Float[Tensor, "batch heads queries keys"]) -> list[float]:
    """Between which values the middle 80 % of the entropies lie, in nats."""
    entropies = torch.special.entr(weights).sum(-1).flatten()
    return entropies.quantile(entropies.new_tensor([0.1, 0.9])).tolist()
