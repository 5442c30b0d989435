"""Figures to explore, made with plotly, each with a sentence that describes it for whoever cannot
turn them.

A figure is drawn by the notebook's own plotly where there is one (JupyterLab, VS Code), offline;
elsewhere (Colab) by plotly's public copy; saved, by a copy inside the file. Nothing is ever sent to
a server.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import files

if TYPE_CHECKING:
    import plotly.graph_objects

__all__ = ["ExplorableFigure", "space_time_figure"]

CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text}</title></head>
<body style="margin:0; background:#fff; color:#222; font:14px system-ui, sans-serif">
<figure style="margin:0">{figure}<figcaption style="margin:8px">{text}</figcaption></figure></body></html>
"""


class ExplorableFigure:
    """A plotly figure with its one-sentence description; `save` writes one HTML file that works
    offline.
    """

    def __init__(self, figure: "plotly.graph_objects.Figure", description: str):
        self.figure, self.description = figure, description

    def save(self, path: str | Path) -> Path:
        """Write the page, plotly's 5 MB of code included, atomically."""
        figure = self.figure.to_html(config=CONFIG, include_plotlyjs=True, full_html=False)
        with files.atomic(path) as temporary:
            temporary.write_text(
                _PAGE.format(text=html.escape(self.description), figure=figure), encoding="utf-8"
            )
        return Path(path)

    def _ipython_display_(self) -> None:
        """Show the figure, then its sentence; an output holds the data, never plotly's own code."""
        from IPython.display import HTML, display

        text = html.escape(self.description)
        # In a frame of its own, plotly does not meet the loader of scripts that older notebooks have.
        page = html.escape(self.figure.to_html(config=CONFIG, include_plotlyjs="cdn"))
        frame = (
            f'<iframe srcdoc="{page}" title="{text}" style="width:100%;'
            f' height:{(self.figure.layout.height or 450) + 20}px; border:0"></iframe>'
        )
        display(
            {
                "application/vnd.plotly.v1+json": (
                    json.loads(self.figure.to_json()) | {"config": CONFIG}
                ),
                "text/html": frame,
                "text/plain": self.description,
            },
            raw=True,
        )
        display(HTML(f"<p>{text}</p>"))

    def __repr__(self) -> str:
        return self.description


def space_time_figure(volumes: Mapping[str, np.ndarray], strongest: int = 400) -> ExplorableFigure:
    """Activations as points in space and time, one named volume at a time, chosen from a menu.

    A volume is `steps rows columns`: one feature of one layer; all have one shape. Time runs to the
    right and the picture stands upright. Size and colour are the activation, as a share of the
    volume's largest; the `strongest` places of each are drawn, silent ones (0 and below) never.
    Raises `ValueError` for no volumes, unequal shapes, or one without three axes, empty, or not
    finite. Derived in lesson 03.
    """
    import plotly.graph_objects as go

    if not volumes:
        raise ValueError(
            "there is no volume to draw; give at least one, as {name: array of steps, rows,"
            " columns}"
        )
    shape = next(iter(volumes.values())).shape
    for name, volume in volumes.items():
        if (
            volume.shape != shape
            or volume.ndim != 3
            or not volume.size
            or not np.isfinite(volume).all()
        ):
            raise ValueError(
                f"the volume {name!r} of shape {volume.shape} has not three axes, is empty, not"
                f" finite or unlike the first, {shape}; expected steps, rows, columns of one"
                " layer's features"
            )
    traces, said = [], []
    for index, (name, volume) in enumerate(volumes.items()):
        order = np.argsort(volume, axis=None)[::-1][:strongest]
        order = order[volume.flat[order] > 0]
        step, row, column = np.unravel_index(order, volume.shape)
        value = volume.flat[order]
        share = value / max(float(volume.max()), 1e-12)
        traces.append(
            go.Scatter3d(
                x=step,
                y=column,
                z=row,
                mode="markers",
                name=name,
                visible=index == 0,
                text=[f"{v:.2f}" for v in value],
                hovertemplate="step %{x}, row %{z}, column %{y}: %{text}<extra></extra>",
                marker={
                    "size": 3 + 17 * np.sqrt(share),
                    "color": share,
                    "cmin": 0,
                    "cmax": 1,
                    "colorscale": "Cividis",
                    "opacity": 0.8,
                    "line": {"width": 0},
                    "colorbar": {"title": {"text": "share of<br>largest"}},
                },
            )
        )
        peak = f"at step {step[0]}, row {row[0]}, column {column[0]}" if len(order) else "nowhere"
        said.append(f"{name}: strongest {peak}")
    steps, rows, columns = shape
    figure = go.Figure(
        traces,
        layout={
            "height": 480,
            "margin": {"l": 0, "r": 0, "t": 40, "b": 10},
            "showlegend": False,
            "template": "plotly_white",
            "paper_bgcolor": "#ffffff",
            "scene": {
                "xaxis": {
                    "title": {"text": "time step"},
                    "range": [-0.5, steps - 0.5],
                    "dtick": max(1, steps // 8),
                },
                "yaxis": {
                    "title": {"text": "column"},
                    "range": [-0.5, columns - 0.5],
                    "dtick": max(1, columns // 8),
                },
                "zaxis": {
                    "title": {"text": "row"},
                    "range": [rows - 0.5, -0.5],
                    "dtick": max(1, rows // 8),
                },
                "aspectmode": "manual",
                "aspectratio": {"x": 1.8, "y": 1.0, "z": 1.0},
                "camera": {
                    "eye": {"x": 0.7, "y": -2.4, "z": 0.9},
                    "center": {"x": 0, "y": 0, "z": -0.15},
                },
            },
            "updatemenus": [
                {
                    "x": 0,
                    "xanchor": "left",
                    "y": 1.1,
                    "yanchor": "top",
                    "buttons": [
                        {
                            "label": name,
                            "method": "update",
                            "args": [{"visible": [name == other for other in volumes]}],
                        }
                        for name in volumes
                    ],
                }
            ],
        },
    )
    return ExplorableFigure(
        figure,
        f"Activations over {steps} steps, {rows} rows and {columns} columns; {'; '.join(said)}.",
    )
