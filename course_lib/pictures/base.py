"""What every picture is made of: an image, an animation or a figure to explore, with its sentence.

A `Picture` shows itself in a notebook as an image with that sentence as alternative text and
caption, so it is read with or without eyes, in a light or a dark theme, and without JavaScript. An
`ExplorableFigure` is drawn by the notebook's own plotly where there is one (JupyterLab, VS Code),
offline; elsewhere (Colab) by plotly's public copy; saved, by a copy inside the file. Nothing is
ever sent to a server.
"""

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .. import files
from ..shapes import UInt8

if TYPE_CHECKING:
    import plotly.graph_objects

__all__ = [
    "Animation",
    "ExplorableFigure",
    "Picture",
    "blank_axes",
    "data_url",
    "ending_in",
    "open_axis",
    "styles",
    "to_picture",
]

INK, PAPER, HIGHLIGHT, BLUE, GREY = "#222222", "#ffffff", "#d1495b", "#345995", "#777777"


def styles() -> Iterator[tuple[str, str, str]]:
    """Marker, line and colour of one series after another, without end, so that each is drawn.

    They repeat after 13, 4 and 4 series, so that marker and line tell 52 apart without colour.
    """
    return zip(
        cycle("os^Dvx*P<>pd+"),
        cycle(("-", "--", ":", "-.")),
        cycle((BLUE, HIGHLIGHT, INK, GREY)),
        strict=False,
    )


def ending_in(path: str | Path, *suffixes: str) -> None:
    """Raise `ValueError` unless the name ends in one of these, which say what the file will be."""
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(
            f"{path} is no name for this kind of file; end it in {' or '.join(suffixes[:3])}"
        )


class Picture:
    """A matplotlib figure with its description; `save` writes PNG, SVG or PDF.

    The `caption` is what is read below it, the whole description unless it is given.
    """

    def __init__(self, figure: Figure, description: str, caption: str = ""):
        self.figure, self.description = figure, description
        self.caption = caption or description

    def save(self, path: str | Path, dpi: int = 150) -> Path:
        """Write the picture atomically; the suffix decides the format."""
        ending_in(path, ".png", ".svg", ".pdf", ".jpg", ".webp")
        content, kind = io.BytesIO(), Path(path).suffix[1:].lower()
        # not into the file, because matplotlib's PDF fails in other words where the disk is full
        self.figure.savefig(content, dpi=dpi, format=kind, bbox_inches="tight", facecolor=PAPER)
        with files.atomic(path) as temporary:
            temporary.write_bytes(content.getvalue())
        return Path(path)

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight", facecolor=PAPER)
        return _as_html(buffer.getvalue(), "png", self.description, caption=self.caption)

    def __repr__(self) -> str:
        return self.description


class Animation:
    """RGB frames that play as a GIF, with a one-sentence description; `save` writes the GIF."""

    def __init__(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], fps: float, description: str
    ):
        if not 0.1 <= fps <= 50:  # a GIF counts hundredths of a second, and two are the least
            raise ValueError(f"fps is {fps}; expected from 0.1 to 50 frames a second")
        self.frames, self.fps, self.description = frames, fps, description

    def _gif(self) -> bytes:
        buffer = io.BytesIO()
        first, *rest = (
            Image.fromarray(frame).quantize(dither=Image.Dither.NONE) for frame in self.frames
        )
        first.save(
            buffer,
            "GIF",
            save_all=True,
            append_images=rest,
            duration=round(1000 / self.fps),
            loop=0,
        )
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the GIF atomically; `ValueError` for a name that promises another kind of file."""
        ending_in(path, ".gif")
        with files.atomic(path) as temporary:
            temporary.write_bytes(self._gif())
        return Path(path)

    def _repr_html_(self) -> str:
        still = io.BytesIO()
        Image.fromarray(self.frames[-1]).save(still, "PNG")
        return _as_html(self._gif(), "gif", self.description, still.getvalue())

    def __repr__(self) -> str:
        return self.description


def _as_html(
    data: bytes, kind: str, description: str, still: bytes | None = None, caption: str = ""
) -> str:
    """An image with its description and caption; who asked for less motion sees the `still`."""
    alternative, caption = html.escape(description), html.escape(caption or description)
    image = f'<img alt="{alternative}" src="{data_url(data, kind)}" style="max-width:100%">'
    if still is not None:
        image = (
            '<picture><source media="(prefers-reduced-motion: reduce)"'
            f' srcset="{data_url(still, "png")}">{image}</picture>'
        )
    return f'<figure style="margin:0">{image}<figcaption>{caption}</figcaption></figure>'


def data_url(data: bytes, kind: str) -> str:
    """A picture's bytes as an address that holds them; `kind` is png, gif or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


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


def blank_axes(rows: int, columns: int, width: float, height: float):
    """A figure of its own (never pyplot's current one), with a bare grid of axes."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def open_axis(axis, title: str = "", **settings) -> None:
    """Turn a blank axis into one to read values from, with a title and any settings of `Axes.set`."""
    axis.set_axis_on()
    axis.set(**settings)
    axis.set_title(title, fontsize=9, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def to_picture(image) -> UInt8[np.ndarray, "height width 3"]:
    """A course image (tensor `3 height width` in [0, 1]) or an RGB array, as an 8-bit RGB array."""
    if not isinstance(image, np.ndarray):
        image = (
            (image.detach().cpu().numpy().transpose(1, 2, 0) * 255)
            .round()
            .clip(0, 255)
            .astype(np.uint8)
        )
    return image
