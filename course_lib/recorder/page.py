"""Recorded attention as one offline page: every layer and head, the viewer, and a static part that
needs no script.
"""

import base64
import html
import io
import json
import math
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from .. import files
from ..looking.attention import STATISTICS, attention_statistics
from ..pictures.base import data_url, to_picture
from ..tables import html_row
from .packing import FINE, dequantise, pack_arrays, quantise, rounded, script

__all__ = ["attention_page", "pack", "save_page", "show_page"]

COARSE = 64  # levels of the maps of a large page

SMALL = 1 << 18  # weights that travel with fine levels; more become half a megabyte soon

LARGEST = 64 << 20  # bytes of maps that a browser still handles with ease

SHOWN = ("max", "entropy", "support", "sink", "distance", "diagonality", "blocks", "similarity")

IMAGE_SIZE, THUMBNAIL = 448, 32  # px

Maps = Mapping[str, Tensor | Sequence[Tensor | None]]


def save_page(path: str | Path, maps: Maps, **options: Any) -> Path:
    """Write `attention_page(maps, **options)` to `path`, atomically."""
    return write_page(path, attention_page(maps, **options))


def write_page(path: str | Path, page: str) -> Path:
    """Write a page to `path`, atomically."""
    with files.atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def show_page(path: str | Path, height: int = 860):
    """Show a saved page below a notebook's cell: the same file, in a frame of its own.

    The file may be a stranger's: its scripts run without the notebook's origin, and so reach
    neither the notebook nor its kernel; they can offer downloads. Used in lesson 05.
    """
    from IPython.display import HTML

    page = html.escape(Path(path).read_text(encoding="utf-8"))
    title = f"The page {html.escape(Path(path).name)}, shown in a frame"
    return HTML(
        f'<div><iframe srcdoc="{page}" title="{title}" width="100%" height="{height}" '
        'sandbox="allow-scripts allow-downloads" '
        'style="border: 1px solid #8888; border-radius: 6px"></iframe></div>'
    )


def attention_page(maps: Maps, *, title: str = "Attention", **options: Any) -> str:
    """One self-contained HTML page that explores `maps` in any browser, without a network.

    `maps` names each layer's weights, `batch heads queries keys`, or a sequence of such, one a step
    (None where the layer did not run). `options` are those of `pack`.
    """
    meta, planes = pack(maps, **options)
    layers, most = meta["layers"], max(layer["heads"] for layer in meta["layers"])
    summary = (
        f"{len(layers)} layer{'s' * (len(layers) > 1)} of up to {most} heads"
        + (f", {meta['steps']} steps" if meta["steps"] > 1 else "")
        + f". Each weight is stored within {100 / meta['levels']:.2g} % of its map's largest, faint"
        " ones closer."
    )
    return fill_page(
        title,
        summary,
        _static_part(meta, planes),
        meta,
        planes,
        script("recorder/web/kit.js", "recorder/web/viewer.js"),
        "openPage(render, STATE)",
    )


def fill_page(
    title: str,
    summary: str,
    static: str,
    meta: dict[str, Any],
    planes: bytes,
    viewer: str,
    opening: str,
) -> str:
    """A page with the data, the `viewer`'s code, the call that opens it, and what is seen without
    JavaScript.
    """
    fields = {
        "title": html.escape(title),
        "summary": summary,
        "static": static,
        "viewer": viewer,
        "opening": opening,
        "meta": json.dumps(meta, separators=(",", ":")).replace("<", "\\u003c"),
        "planes": base64.b64encode(_deflate(planes)).decode(),
    }
    return re.sub(r"\[\[(\w+)\]\]", lambda place: fields[place[1]], _PAGE)


def pack(
    maps: Maps,
    *,
    sample: int = 0,
    query_names: Sequence[str] | None = None,
    key_names: Sequence[str] | None = None,
    query_pictures: Mapping[str, Tensor] | None = None,
    image=None,
    grid: tuple[int, int] | None = None,
    notes: Mapping[str, str] | None = None,
    cross: Collection[str] = (),
) -> tuple[dict[str, Any], bytes]:
    """What the viewer reads: names, shapes and statistics as JSON-able `meta`, and the maps as one
    byte a weight.

    `query_names` (and `key_names`, the same by default) name the tokens of every layer with as
    many. `grid` (rows, columns) lays tokens out as patches, row by row, over `image` if one is
    given; tokens before the patches (a class token) stand beside it. `query_pictures` are small
    named pictures, `height width` in [0, 1], of which the queries are the patches: as many rows as
    columns of each, row by row, one picture after the other. `sample` is the item of the
    batch, `notes` a remark for each layer, `cross` the layers whose queries and keys are different
    tokens although they are as many. Raises `ValueError` if there are no maps, shapes disagree, or
    the maps are too large for a browser.
    """
    runs = {}
    for name, weights in maps.items():
        run = [weights] if isinstance(weights, Tensor) else list(weights)
        if any(step is not None for step in run):
            runs[name] = run
    if not runs:
        raise ValueError(
            "there is no attention to show: the recording is empty; run the model inside the"
            " recorder"
        )
    if image is not None and grid is None:
        raise ValueError(
            "an image needs the grid of its patches; pass grid=(rows, columns), for example (14,"
            " 14) for 196 patches"
        )
    total = sum(step[0].numel() for run in runs.values() for step in run if step is not None)
    if total > LARGEST:
        raise ValueError(
            f"the page would hold {total / 1e6:.0f} MB of maps, expected at most"
            f" {LARGEST / 1e6:.0f}; pass fewer layers or steps, or the mean of the heads"
        )
    fineness = FINE if total <= SMALL else COARSE
    pictures = None
    if query_pictures is not None:
        pictures, query_names = _pictures(
            query_pictures, _common_shape(*next(iter(runs.items())))[1]
        )
    key_names = query_names if key_names is None else key_names
    names = [[str(name) for name in given or ()] for given in (query_names, key_names)]
    layers, packed, steps = [], {}, max(map(len, runs.values()))
    for name, run in runs.items():
        heads, queries, keys = _common_shape(name, run)
        layer = {
            "name": name,
            "note": (notes or {}).get(name, ""),
            "heads": heads,
            "queries": _tokens(queries, names[0], names, grid),
            "keys": _tokens(keys, names[1], names, grid),
            "offsets": [-1] * steps,
            "tops": [None] * steps,
            "statistics": [None] * steps,
        }
        for side in (layer["queries"], layer["keys"]):
            if pictures is not None and side["names"] == 0:
                side["pictures"] = True
        layer["self"] = layer["queries"] == layer["keys"] and name not in cross
        for step, weights in enumerate(run):
            if weights is not None:
                shown = _item(name, weights, sample)
                levels, tops = quantise(shown.flatten(-2), fineness)
                packed[len(layers), step] = levels
                layer["tops"][step] = rounded(tops, 7)
                layer["statistics"][step] = _statistics(shown)
        layers.append(layer)
    described, planes = pack_arrays(packed)
    for (index, step), entry in described.items():
        layers[index]["offsets"][step] = entry["at"]
    _check_tokens(layers, {"query_names": query_names, "key_names": key_names}, grid)
    return {
        "layers": layers,
        "steps": steps,
        "levels": fineness,
        "names": names,
        "measures": [{"name": name, "says": STATISTICS[name]} for name in SHOWN],
        "image": None if image is None else jpeg_url(image),
        "pictures": pictures,
    }, planes


def _pictures(pictures: Mapping[str, Tensor], count: int) -> tuple[dict[str, Any], list[str]]:
    """Small pictures as the viewer shows them, and the names of their patches."""
    side = math.isqrt(count // max(1, len(pictures)))
    if not pictures or side**2 * len(pictures) != count:
        raise ValueError(
            f"{count} queries are no square grid of patches for each of {len(pictures)} pictures;"
            " give a picture for every so many queries, or query_names instead"
        )
    sources = [jpeg_url(picture.expand(3, -1, -1)) for picture in pictures.values()]
    names = [f"{name} {k // side},{k % side}" for name in pictures for k in range(side**2)]
    return {"names": list(pictures), "sources": sources, "side": side}, names


def _check_tokens(
    layers: list[dict], given: Mapping[str, Any], grid: tuple[int, int] | None
) -> None:
    """Whether names and grid belong to the tokens of some layer."""
    sides = [layer[side] for layer in layers for side in ("queries", "keys")]
    counts = sorted({side["count"] for side in sides})
    for name, names in given.items():
        if names is not None and len(names) not in counts:
            raise ValueError(
                f"{name} has {len(names)} names but the layers have {counts} tokens; give one name"
                " for each token"
            )
    if grid is not None and all(side["place"] is None for side in sides):
        raise ValueError(
            f"a grid of {grid[0]} × {grid[1]} patches fits no layer: they have {counts} tokens;"
            " pass the rows and columns of the patches"
        )


def _common_shape(name: str, run: Sequence[Tensor | None]) -> tuple[int, ...]:
    """Heads, queries and keys, the same at every step."""
    shapes = sorted({tuple(weights.shape) for weights in run if weights is not None})
    if len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"the maps of {name!r} have the shapes {shapes}, expected one shape, `batch heads"
            " queries keys`; give each shape a name of its own"
        )
    return shapes[0][1:]


def _item(name: str, weights: Tensor, sample: int) -> Tensor:
    if not 0 <= sample < len(weights):
        raise ValueError(
            f"sample {sample} of {name!r} does not exist: the batch has {len(weights)} items;"
            " choose one of them"
        )
    return weights[sample].detach().float().cpu()


def _tokens(
    count: int, mine: list[str], names: list[list[str]], grid: tuple[int, int] | None
) -> dict[str, Any]:
    """How one side's tokens are shown: which names they have, if there are as many, and their place
    on the grid.
    """
    first = count - grid[0] * grid[1] if grid else -1
    place = {"rows": grid[0], "columns": grid[1], "prefix": first} if 0 <= first <= 8 else None
    return {
        "count": count,
        "names": names.index(mine) if len(mine) == count else None,
        "place": place,
    }


def _statistics(weights: Tensor) -> list[list[float]]:
    statistics = attention_statistics(weights)
    return rounded(torch.stack([statistics[name] for name in SHOWN], -1), 4)


def _deflate(planes: bytes) -> bytes:
    """zlib with run lengths only: attention has runs (masks, zeros) but no phrases; ten times
    faster, and smaller.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, strategy=zlib.Z_RLE)
    return packer.compress(planes) + packer.flush()


def jpeg_url(image) -> str:
    """An image as a JPEG inside its own address, of at most `IMAGE_SIZE` px."""
    picture = to_picture(image)
    scale = IMAGE_SIZE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    return data_url(buffer.getvalue(), "jpeg")


def picture_and_table(
    picture: bytes,
    kind: str,
    sentence: str,
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    width: int | None = None,
) -> str:
    """What a page shows to readers without JavaScript."""
    sentence, size = html.escape(sentence), f' style="width:{width}px"' if width else ""
    lines = "".join(map(html_row, rows))
    return (
        f'<figure><img alt="{sentence}" src="{data_url(picture, kind)}"{size}>'
        f"<figcaption>{sentence}</figcaption></figure>"
        f"<table><caption>{html.escape(caption)}</caption>{html_row(columns, 'th')}{lines}</table>"
    )


def _static_part(meta: dict[str, Any], planes: bytes) -> str:
    """The mean map of each layer as a picture, and a table of statistics."""
    maps, rows = [], []
    for index, layer in enumerate(meta["layers"]):
        step = next(step for step, offset in enumerate(layer["offsets"]) if offset >= 0)
        shape = layer["heads"], layer["queries"]["count"], layer["keys"]["count"]
        levels = np.frombuffer(planes, np.uint8, math.prod(shape), layer["offsets"][step])
        tops = np.array(layer["tops"][step], np.float32)
        weights = dequantise(levels.reshape(len(tops), -1), tops, meta["levels"])
        mean = weights.mean(0).reshape(shape[1:])
        small = cv2.resize(mean, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        small = (small / max(float(small.max()), 1e-30) * 254).round().astype(np.uint8)
        maps.append(np.pad(small, 1, constant_values=255))
        statistics = [f"{value:.3g}" for value in np.mean(layer["statistics"][step], 0)]
        rows.append([index, layer["name"], *shape, *statistics])
    columns = min(12, len(maps))
    maps += [np.full_like(maps[0], 255)] * (-len(maps) % columns)
    sheet = np.vstack([np.hstack(maps[i : i + columns]) for i in range(0, len(maps), columns)])
    buffer, picture = io.BytesIO(), Image.fromarray(sheet, "P")
    colours = colormaps["cividis"](np.arange(256) / 254)[:, :3] * 255
    picture.putpalette(colours.astype(np.uint8).tobytes())
    picture.save(buffer, "PNG", transparency=255, compress_level=1)
    return picture_and_table(
        buffer.getvalue(),
        "png",
        f"The mean map of each of the {len(rows)} layers, in order, at the first step it ran: rows"
        " look at columns, dark is 0, yellow the brightest of that map.",
        "Statistics, averaged over the heads",
        ("", "layer", "heads", "queries", "keys", *SHOWN),
        rows,
        64 * columns,
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline';
 worker-src blob:">
<title>[[title]]</title>
<style>
body { margin: 0 auto; max-width: 1500px; padding: 14px 18px; font: 14px/1.45 system-ui, sans-serif; color: #1b2330;
  background: #fff }
h1 { font-size: 20px; margin: 0 } p { margin: 2px 0 10px } figure { margin: 12px 0 } img { max-width: 100% }
#static { overflow-x: auto } #static img { image-rendering: pixelated }
#static table { border-collapse: collapse } #static td, #static th { padding: 3px 9px; text-align: right }
#static caption { text-align: left }
@media (prefers-color-scheme: dark) { body { color: #e8ecf3; background: #12161d } }
</style>
</head>
<body>
<header>
<h1>[[title]]</h1>
<p>[[summary]]</p>
<p id="note" role="status"><noscript>JavaScript is off; below is the static view.</noscript></p>
</header>
<main id="viewer"></main>
<section id="static" aria-label="static view">[[static]]</section>
<script type="application/json" id="meta">[[meta]]</script>
<script type="text/plain" id="planes">[[planes]]</script>
<script type="module">
[[viewer]]
[[opening]].catch((error) => {
  document.getElementById("note").textContent =
    `The viewer could not start (${error.message}); below is the static view.`;
});
</script>
</body>
</html>
"""
