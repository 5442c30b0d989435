"""What every picture is made of: an image, an animation or a figure to explore, with its sentence.

A `Picture` shows itself in a notebook as an image with that sentence as alternative text and
caption, so it is read with or without eyes, in a light or a dark theme, and without JavaScript. It
has no paper of its own, two pixels for each of the page's, one of three widths, and letters of nine
points or more where it is shown. An `ExplorableFigure` is drawn by the notebook's own plotly where there is one (JupyterLab, VS Code),
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
    "dark",
    "data_url",
    "drawn",
    "ending_in",
    "fitting",
    "open_axis",
    "player_script",
    "styles",
    "to_picture",
]

INK, PAPER, HIGHLIGHT, BLUE, GREY = "#222222", "#ffffff", "#d1495b", "#345995", "#777777"

WIDTHS = (400, 620, 820)  # pixels of a page, in which a cell of a small window has 833
PER_INCH = 96  # of these pixels, so that a point is a point of the page
SHARP = 2  # pixels of an image for each of the page's, for screens that have them
LETTERS = 9  # points; the smallest


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
        _enlarge_letters(figure)

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
        pixels, coloured = drawn(self.figure)
        photographs = any(
            image.get_array().ndim == 3 for axes in self.figure.axes for image in axes.images
        )
        width = round(pixels.shape[1] / SHARP)
        # Where a page's theme is not known, the picture keeps white paper.
        look = f"max-width:100%;height:auto;min-width:min({width}px,{WIDTHS[-1]}px)"
        images = [
            f'<img alt="{html.escape(self.description)}" class="on-{theme}" width="{width}"'
            f' src="{data_url(_webp(image, lossless=not photographs), "webp")}" style="{look};{more}">'
            for theme, image, more in (
                ("light", pixels, f"background:{PAPER}"),
                ("dark", dark(pixels, coloured), "display:none"),
            )
        ]
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>"
        figure = f'<figure class="picture" style="margin:0;overflow-x:auto">{"".join(images)}{caption}</figure>'
        return f"<style>{BY_THEME}</style>{figure}"

    def __repr__(self) -> str:
        return self.description


def _in_themes(rule: str, *themes: str) -> str:
    return ",".join(f"{theme} .picture>{rule}" for theme in themes)


_LIGHT = ('[data-jp-theme-light="true"]', ".vscode-light", "html[theme=light]")
_DARK = ('[data-jp-theme-light="false"]', ".vscode-dark", "html[theme=dark]")
BY_THEME = (
    f"{_in_themes('.on-light', *_LIGHT)}{{background:none!important}}"
    f"{_in_themes('.on-light', *_DARK)}{{display:none!important}}"
    f"{_in_themes('.on-dark', *_DARK)}{{display:inline!important}}"
)


def _enlarge_letters(figure: Figure) -> None:
    """No letter below nine points, also where a page shows a wider figure at the largest width."""
    least = LETTERS * max(1.0, figure.get_figwidth() * PER_INCH / WIDTHS[-1])
    texts, legends = [*figure.texts], [*figure.legends]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title]
        legends += [axes.get_legend()] if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            texts.append(axis.label)
            for which in ("major", "minor"):
                size = axis.get_tick_params(which).get("labelsize", 10)  # matplotlib's own
                if not isinstance(size, str) and size < least:
                    axis.set_tick_params(which, labelsize=least)
    texts += [text for legend in legends for text in legend.get_texts()]
    for text in texts:
        text.set_fontsize(max(text.get_fontsize(), least))


def drawn(
    figure: Figure,
) -> tuple[UInt8[np.ndarray, "height width 4"], list[tuple[slice, slice]]]:
    """A figure's pixels without paper, and where on them colours must stay as they are: images, and
    axes in which a colour stands for a number. These have paper.
    """
    before, figure.dpi = figure.dpi, SHARP * PER_INCH
    try:
        figure.draw_without_rendering()
        box = figure.get_tightbbox().padded(0.05)
        extents = [image.get_window_extent() for axes in figure.axes for image in axes.images]
        extents += [
            axes.get_window_extent()
            for axes in figure.axes
            if any(drawing.get_array() is not None for drawing in axes.collections)
        ]
        left, bottom = box.x0 * figure.dpi, box.y0 * figure.dpi
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches=box, transparent=True)
        pixels = np.array(Image.open(buffer).convert("RGBA"))
    finally:
        figure.dpi = before
    places = []
    for extent in extents:
        rows = [max(0, round(len(pixels) - (y - bottom))) for y in (extent.y1, extent.y0)]
        columns = [max(0, round(x - left)) for x in (extent.x0, extent.x1)]
        places.append((slice(*rows), slice(*columns)))
    for place in places:
        colour, opacity = pixels[place][..., :3], pixels[place][..., 3:] / 255
        pixels[place][..., :3] = (255 + (colour - 255.0) * opacity).round()
        pixels[place][..., 3] = 255
    return pixels, places


def dark(
    pixels: UInt8[np.ndarray, "height width 4"], coloured: Sequence[tuple[slice, slice]]
) -> UInt8[np.ndarray, "height width 4"]:
    """The same for a dark page: outside the `coloured` places ink is light, and each hue stays."""
    colour = pixels[..., :3].astype(np.float32) / 255
    middle = (colour.max(-1, keepdims=True) + colour.min(-1, keepdims=True)) / 2
    # The lightness of HSL turned: ink becomes nearly white, colours lighter, white nearly black.
    other = 1 - 0.6 * middle - 0.25 * middle**3
    turned = (colour - middle) * _room(other) / _room(middle) + other
    result = pixels.copy()
    result[..., :3] = (255 * turned.clip(0, 1)).round()
    for place in coloured:
        result[place] = pixels[place]
    return result


def _room(lightness: np.ndarray) -> np.ndarray:
    """How far the channels of a saturated colour of this lightness lie from its middle."""
    return np.minimum(lightness, 1 - lightness).clip(0.02)


class Animation:
    """RGB frames as a film with pause, slider and speed, and a one-sentence description.

    Without JavaScript, and at first where less motion is asked for, it is the last frame as a
    still. `save` writes the film as a GIF.
    """

    def __init__(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], fps: float, description: str
    ):
        if not 0.1 <= fps <= 50:  # a GIF counts hundredths of a second, and two are the least
            raise ValueError(f"fps is {fps}; expected from 0.1 to 50 frames a second")
        self.frames, self.fps, self.description = frames, fps, description

    def save(self, path: str | Path) -> Path:
        """Write the GIF atomically; `ValueError` for a name that promises another kind of file."""
        ending_in(path, ".gif")
        first, *rest = (
            Image.fromarray(frame).quantize(dither=Image.Dither.NONE) for frame in self.frames
        )
        buffer, duration = io.BytesIO(), round(1000 / self.fps)
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
        with files.atomic(path) as temporary:
            temporary.write_bytes(buffer.getvalue())
        return Path(path)

    def _repr_html_(self) -> str:
        *frames, still = (_webp(frame) for frame in self.frames)
        film = {"fps": self.fps, "frames": [data_url(frame, "webp") for frame in frames]}
        data = f' data-film="{html.escape(json.dumps(film))}"'
        figure = _as_html(still, "webp", self.description, attributes=data)
        return f"{figure}<script>{player_script()}</script>"

    def __repr__(self) -> str:
        return self.description


def _webp(pixels: UInt8[np.ndarray, "height width channels"], lossless: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90, method=2, lossless=lossless)
    return buffer.getvalue()


def player_script() -> str:
    """What makes figures with `data-film` play."""
    return Path(__file__).with_name("web").joinpath("player.js").read_text(encoding="utf-8")


def _as_html(picture: bytes, kind: str, description: str, attributes: str) -> str:
    """An image with its description, also as its caption; `attributes` are the figure's."""
    text = html.escape(description)
    image = f'<img alt="{text}" src="{data_url(picture, kind)}" style="max-width:100%">'
    return f'<figure style="margin:0"{attributes}>{image}<figcaption>{text}</figcaption></figure>'


def data_url(data: bytes, kind: str) -> str:
    """A picture's bytes as an address that holds them; `kind` is png, webp or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text}</title></head>
<body style="margin:0; background:#fff; color:#222; font:14px system-ui, sans-serif">
{above}<figure style="margin:0">{figure}<figcaption style="margin:8px">{text}</figcaption></figure></body></html>
"""


class ExplorableFigure:
    """A plotly figure with its one-sentence description; `save` writes one HTML file that works
    offline. `above` is HTML that stands before the figure.
    """

    def __init__(self, figure: "plotly.graph_objects.Figure", description: str, above: str = ""):
        self.figure, self.description, self.above = figure, description, above

    def save(self, path: str | Path) -> Path:
        """Write the page, plotly's 5 MB of code included, atomically."""
        figure = self.figure.to_html(config=CONFIG, include_plotlyjs=True, full_html=False)
        with files.atomic(path) as temporary:
            temporary.write_text(
                _PAGE.format(text=html.escape(self.description), figure=figure, above=self.above),
                encoding="utf-8",
            )
        return Path(path)

    def _ipython_display_(self) -> None:
        """Show the figure, then its sentence; an output holds the data, never plotly's own code."""
        from IPython.display import HTML, display

        if self.above:
            plain = self.description.partition("\n")[0]
            display({"text/html": self.above, "text/plain": plain}, raw=True)
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


def fitting(width: float, height: float) -> tuple[float, float]:
    """A figure's size in inches, and in the same proportions, at one of the three widths; wider ones
    stay, for the sake of what they hold.
    """
    pixels = width * PER_INCH
    widths = [each for each in WIDTHS if pixels <= 1.1 * each]
    times = widths[0] / pixels if widths else 1.0
    return width * times, height * times


def blank_axes(rows: int, columns: int, width: float, height: float):
    """A figure of its own (never pyplot's current one), with a bare grid of axes.

    Width and height are in inches; the figure gets the nearest of the pictures' three widths.
    """
    figure = Figure(figsize=fitting(width, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def open_axis(axis, title: str = "", **settings) -> None:
    """Turn a blank axis into one to read values from, with a title and any settings of `Axes.set`."""
    axis.set_axis_on()
    axis.set(**settings)
    axis.set_title(title, fontsize=10, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=LETTERS)


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
