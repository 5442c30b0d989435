"""The playground: attention over a few points in a plane, which one drags.

The page computes for itself what it shows, so it needs no kernel; Python computes the same from the
traits.
"""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import torch
from torch import Tensor
from traitlets import Bool, Dict, Float, Int, List, TraitError, validate

from ..models.attention import attention_weights
from ..pictures.base import BLUE, GREY, HIGHLIGHT, INK, Picture, blank_axes
from ..recorder.packing import script
from ..recorder.page import fill_page, picture_and_table, write_page
from ..shapes import Float as Floats
from .widget import state

__all__ = ["AttentionPlayground"]

NAMES = ("smile", "laugh", "nod", "shake", "brows", "still")
KEYS = ((1.4, 0.6), (2.2, 1.4), (0.2, -1.6), (-1.8, -0.5), (-0.8, 1.6), (0.0, 0.0))
VALUES = ((0.8, 1.7), (2.1, 1.0), (-0.9, 1.2), (-0.7, -1.6), (1.5, -0.8), (-1.9, -0.3))

# What the query of each head is multiplied by, and what that does.
PROJECTIONS = (
    ((1.0, 0.0), (0.0, 1.0)),
    ((0.0, 1.0), (-1.0, 0.0)),
    ((1.4, 0.0), (0.0, 0.0)),
    ((0.0, 0.0), (0.0, 1.4)),
)
EFFECTS = ("the query as it is", "the query turned by 90°", "only left–right", "only down–up")

REACH = 2.5  # how far from the middle a point may lie, on either axis

COLDEST, HOTTEST = 0.05, 20.0


class AttentionPlayground(anywidget.AnyWidget):
    """Attention over named points in a plane: drag the query or a key, and scores, softmax and
    output follow. It works without a kernel, and `to_html` saves it as one page.

    `query` is a point; `points` are the keys, `values` and `names` are as many points and names;
    `mask` is True for each key that may be attended to. A score is query · matrix · key / (√2 ·
    `temperature`), the matrix that of the head, and the output is the mean of the heads' outputs.
    With `self_attention` every key is also a query and a value. All but the names are traits;
    `TraitError` says what cannot be. Used in lesson 04.
    """

    _esm = script("recorder/web/kit.js", "explorer/web/playground.js")
    _ipython_display_ = None  # ipywidgets 7 would show the widget without its still picture

    meta = Dict(read_only=True).tag(sync=True)
    query = state(List([1.2, -0.4]))
    points = state(List(list(map(list, KEYS))))
    values = state(List(list(map(list, VALUES))))
    mask = state(List([True] * len(KEYS)))
    temperature = state(Float(1.0))
    heads = state(Int(1))
    self_attention = state(Bool(False))

    def __init__(self, names: Sequence[str] = NAMES, **state: Any):
        self.names = tuple(names)
        super().__init__(**state)
        for name in ("points", "values", "mask"):
            self._valid_list({"trait": self.traits()[name], "value": getattr(self, name)})
        opening = {name: getattr(self, name) for name in self.class_traits(state=True)}
        self.set_trait(
            "meta",
            {
                "names": list(self.names),
                "projections": PROJECTIONS,
                "effects": EFFECTS,
                "reach": REACH,
                "temperatures": [COLDEST, HOTTEST],
                "opening": opening,
            },
        )

    @validate("points", "values", "mask")
    def _valid_list(self, proposal: dict) -> list:
        name, value = proposal["trait"].name, proposal["value"]
        if len(value) != len(self.names):
            raise TraitError(
                f"{name} has {len(value)} entries, expected {len(self.names)}, one for each of"
                f" {', '.join(self.names)}; give that many"
            )
        if name != "mask":
            return [self._point(name, point) for point in value]
        if any(entry not in (True, False) for entry in value):
            raise TraitError(f"mask is {value}, expected True or False for each key")
        return [bool(entry) for entry in value]

    @validate("query")
    def _valid_query(self, proposal: dict) -> list[float]:
        return self._point("query", proposal["value"])

    def _point(self, name: str, point: Sequence[float]) -> list[float]:
        if len(point) != 2 or not all(abs(float(place)) <= REACH for place in point):
            raise TraitError(
                f"{name} has the point {list(point)}, expected two numbers from -{REACH} to {REACH}"
            )
        return [float(place) for place in point]

    @validate("temperature", "heads")
    def _in_bounds(self, proposal: dict) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        low, high = {"temperature": (COLDEST, HOTTEST), "heads": (1, len(PROJECTIONS))}[name]
        if not low <= value <= high:
            raise TraitError(f"{name} is {value}, expected {low} to {high}")
        return value

    @property
    def weights(self) -> Floats[Tensor, "heads queries keys"]:
        """What each query attends to in each head; there is one query, or with self-attention as
        many as keys.
        """
        keys = _double(self.points)
        queries = keys if self.self_attention else _double([self.query])
        projected = queries @ _double(PROJECTIONS[: self.heads]) / self.temperature
        mask = torch.tensor(self.mask, device="cpu")
        return attention_weights(projected, keys.expand(self.heads, -1, -1), mask)

    @property
    def output(self) -> Floats[Tensor, "queries 2"]:
        """The weighted mean of the values for each query, averaged over the heads."""
        values = _double(self.points if self.self_attention else self.values)
        return (self.weights @ values).mean(0)

    def describe(self) -> str:
        """One sentence on what is shown: who attends most to what, and the output."""
        if not any(self.mask):
            return "Every key is masked, so there is nothing to attend to and the output is zero."
        weights = self.weights.mean(0)
        of_heads = f", mean of {self.heads} heads" if self.heads > 1 else ""
        if self.self_attention:
            each = [
                f"{name} {self._target(row)})"
                for name, row in zip(self.names, weights, strict=True)
            ]
            return f"Self-attention{of_heads}: {', '.join(each)}."
        return (
            f"The query at {_place(self.query)} {self._target(weights[0])}{of_heads}); the output is"
            f" {_place(self.output[0].tolist())}."
        )

    def _target(self, weights: Floats[Tensor, " keys"]) -> str:
        """Whom a query attends to; all alike within what two digits show."""
        best = int(weights.argmax())
        allowed = weights[torch.tensor(self.mask)]
        alike = len(allowed) > 1 and float(allowed.max() - allowed.min()) < 0.005
        whom = "to all alike" if alike else f"most to {self.names[best]}"
        return f"attends {whom} ({weights[best]:.2f}"

    def figure(self) -> Picture:
        """What is shown as a still picture: lines are as thick as weights."""
        figure, axes = blank_axes(1, 2, 8, 4.2)
        weights, outputs = self.weights.mean(0), self.output.tolist()
        left, right = axes[0]
        if self.self_attention:
            queries, values = self.points, self.points
            titles = "points: each is query, key and value", "outputs"
        else:
            queries, values = [self.query], self.values
            titles = "keys and the query", "values and the output"
        for axis, title in ((left, titles[0]), (right, titles[1])):
            axis.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal")
            axis.set_title(title, fontsize=10, color=INK)
            axis.axhline(0, color=GREY, linewidth=0.5)
            axis.axvline(0, color=GREY, linewidth=0.5)
        for axis, points, shape in ((left, self.points, "o"), (right, values, "s")):
            for point, name, allowed in zip(points, self.names, self.mask, strict=True):
                axis.plot(*point, shape, color=BLUE if allowed else GREY, zorder=3)
                axis.annotate(name, point, (6, 6), textcoords="offset points", fontsize=9)

        def connect(axis, start, end, width):
            axis.plot(*zip(start, end, strict=True), color=HIGHLIGHT, linewidth=width, alpha=0.7)

        for i, (query, output) in enumerate(zip(queries, outputs, strict=True)):
            for key, value, weight in zip(self.points, values, weights[i].tolist(), strict=True):
                connect(left, query, key, 7 * weight)
                if not self.self_attention:
                    connect(right, output, value, 7 * weight)
            if self.self_attention:
                connect(right, query, output, 1)
            right.plot(*output, "*", color=HIGHLIGHT, markersize=15, markeredgecolor=INK, zorder=4)
        if not self.self_attention:
            left.plot(*self.query, "D", color=HIGHLIGHT, markersize=9, markeredgecolor=INK)
            for axis, name, point in ((left, "query", self.query), (right, "output", outputs[0])):
                axis.annotate(name, point, (8, -13), textcoords="offset points", weight="bold")
        return Picture(figure, self.describe())

    def static_part(self) -> str:
        """For readers without JavaScript: the picture, and a table of weights."""
        buffer = io.BytesIO()
        self.figure().figure.savefig(buffer, format="png", dpi=110)
        rows = []
        for head, of_head in enumerate(self.weights.tolist()):
            askers = self.names if self.self_attention else ("query",)
            for asker, row in zip(askers, of_head, strict=True):
                rows.append([head + 1, asker, *(f"{weight:.3f}" for weight in row)])
        return picture_and_table(
            buffer.getvalue(),
            "png",
            self.describe(),
            "Weights",
            ("head", "attends from", *self.names),
            rows,
        )

    def page(self, title: str = "Attention playground") -> str:
        """What `to_html` writes."""
        opening = {name: getattr(self, name) for name in self.class_traits(state=True)}
        return fill_page(
            title,
            "Drag the points, or choose one with Tab and move it with the arrow keys.",
            self.static_part(),
            self.meta | {"state": opening},
            b"",
            self._esm,
            "openPage(renderPlayground, PLAYGROUND_STATE)",
        )

    def to_html(self, path: str | Path, title: str = "Attention playground") -> Path:
        """Write the playground as it stands as one offline page, which works without Python."""
        return write_page(path, self.page(title))

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        """The widget; where there is none, its page in a frame, and where there is no frame, a still
        picture.
        """
        data, metadata = super()._repr_mimebundle_(**kwargs)
        sentence, page = html.escape(self.describe()), html.escape(self.page())
        frame = (
            f'<iframe srcdoc="{page}" title="Attention playground" width="100%" height="900"'
            ' sandbox="allow-scripts"></iframe>'
        )
        still = f"<details><summary>{sentence}</summary>{self.figure()._repr_html_()}</details>"
        shown = {"text/plain": self.describe(), "text/html": f"<div>{frame}{still}</div>"}
        return data | shown, metadata


def _double(points: Sequence) -> Floats[Tensor, "..."]:
    """As precise as the page computes."""
    return torch.tensor(points, dtype=torch.float64, device="cpu")


def _place(point: Sequence[float]) -> str:
    x, y = point
    return f"({x:z.2f}, {y:z.2f})"
