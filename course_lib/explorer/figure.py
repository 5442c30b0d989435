"""What the explorer shows, without the explorer: a plotly figure of any state, and the still part
of a saved page.
"""

import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from ..pictures.base import ExplorableFigure, to_picture
from ..pictures.images import MAP_COLOUR, MAP_OPACITY, overlay
from ..recorder.packing import read_arrays
from ..recorder.page import picture_and_table
from ..shapes import Bool, Float, UInt8
from .base import percent
from .packing import webp_url
from .steps import attribute_map
from .words import spaced

__all__ = ["View", "describe", "explorer_figure", "static_part", "still", "verdict"]

SHOWN = 8  # samples of the still part

CLEAR = 420  # px of a clear twin


class View(NamedTuple):
    """One map of an explorer: of a sample and an attribute, in a layer of a checkpoint.

    `head` is -1 for the mean of the heads, `checkpoint` None for the last.
    """

    sample: int
    attribute: int
    layer: int
    head: int = -1
    checkpoint: int | None = None


def describe(explorer: Any, view: View) -> str:
    """What a view shows, in words: the verdict, then where the map is strongest and how wide it is."""
    return f"{verdict(explorer, view)} {details(explorer, view)}"


def verdict(explorer: Any, view: View) -> str:
    """One sentence: how the prediction came out, and how much of the attention is where it should
    be.
    """
    attribute = view.attribute
    header = explorer.item(view.sample, view.checkpoint).header
    probability = header["probabilities"][attribute]
    threshold = float(explorer.thresholds[attribute])
    name, predicted = spaced(explorer.names[attribute]), probability >= threshold
    if header["truth"] is None:
        says = "present" if predicted else "absent"
        return f"{name} predicted {says}, {probability:.2f}; the truth is unknown."
    if not header["truth"][attribute]:
        fate = "a false alarm" if predicted else "absent, and predicted so"
        return f"{name} is {fate}, {probability:.2f}."
    fate = (
        f"found, {probability:.2f}"
        if predicted
        else f"missed, {probability:.2f} of the {threshold:.2f} it needs"
    )
    if header["outlines"] is None:
        return f"{name} {fate}; where it should look is unknown."
    score = _score(explorer, view)
    if score is None:
        return f"{name} {fate}; no single place decides it."
    times = score["energy"] / score["area"]
    elsewhere = "" if score["pointing"] > 0.5 else "; the strongest patch is elsewhere"
    return (
        f"{name} {fate}: {percent(score['energy'])} of the attention on {percent(score['area'])} of"
        f" the image, {times:.{0 if times >= 9.95 else 1}f} times chance{elsewhere}."
    )


def details(explorer: Any, view: View) -> str:
    """Two sentences on a map: its strongest patch and its width, and what was predicted."""
    weights, score = _map(explorer, view), _score(explorer, view)
    who = "mean of the heads" if view.head < 0 else f"head {view.head}"
    if len(explorer.layers) > 1:
        who = f"layer {view.layer}, {who}"
    row, column = divmod(int(weights.argmax()), round(weights.size**0.5))
    share = weights[weights > 0] / weights.sum()
    place = ""
    if score is not None:
        place = (
            f"; its strongest patch {'hits' if score['pointing'] > 0.5 else 'misses'} the region,"
            f" which {percent(score['chance'])} of the patches touch"
        )
    often = ""
    if explorer.frequencies is not None:
        often = f"; {percent(explorer.frequencies[view.attribute])} of the images have it"
    probabilities = explorer.item(view.sample, view.checkpoint).header["probabilities"]
    probability = probabilities[view.attribute]
    threshold = float(explorer.thresholds[view.attribute])
    return (
        f"{who[0].upper()}{who[1:]}: looks most at row {row}, column {column}, with"
        f" {_say(float(weights.max()))}, spread over about"
        f" {np.exp(-(share * np.log(share)).sum()):.1f} of {weights.size} patches{place}. Predicted"
        f" {probability:.2f} against a threshold of {threshold:.2f}{often}."
    )


def _score(explorer: Any, view: View) -> dict[str, float] | None:
    """What a page makes of a map and its region; None where no region is known."""
    item = explorer.item(view.sample, view.checkpoint)
    if item.header["outlines"] is None or not item.header["outlines"][view.attribute]:
        return None
    weights = _map(explorer, view)
    cover = read_arrays(item.header["arrays"], item.planes)["cover"][view.attribute].ravel() / 255
    strongest = weights == weights.max()
    return {
        "energy": float((weights * cover).sum() / weights.sum()),
        "area": float(cover.mean()),
        "pointing": float((cover[strongest] > 0).mean()),
        "chance": float((cover > 0).mean()),
    }


def explorer_figure(
    explorer: Any,
    sample: int,
    attribute: str | None,
    layer: int,
    head: int,
    checkpoint: int | None,
) -> ExplorableFigure:
    """One attribute's map over the image with its true region, beside the predictions of all
    attributes.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if attribute is not None and attribute not in explorer.names:
        raise ValueError(
            f"no attribute is called {attribute!r}; the names are {', '.join(explorer.names)}"
        )
    layers = len(explorer.layers)
    if not -layers <= layer < layers:
        raise ValueError(
            f"layer is {layer}, expected {-layers} to {layers - 1}; choose one of the model's"
        )
    layer, heads = layer % layers, explorer.layers[layer]["heads"]
    if not -1 <= head < heads:
        raise ValueError(
            f"head is {head}, expected -1 (the mean) to {heads - 1}; choose one of the layer's"
        )
    header = explorer.item(sample, checkpoint).header
    index = (
        int(np.argmax(header["probabilities"]))
        if attribute is None
        else explorer.names.index(attribute)
    )
    view = View(sample, index, layer, head, checkpoint)
    weights = _map(explorer, view)
    side = round(weights.size**0.5)
    picture, region = _seen(explorer, sample, index)
    height, width = picture.shape[:2]
    figure = make_subplots(1, 2, column_widths=[0.45, 0.55], horizontal_spacing=0.2)
    figure.add_trace(go.Image(source=webp_url(picture), hoverinfo="skip"), 1, 1)
    colour = ",".join(map(str, MAP_COLOUR))
    heat = go.Heatmap(
        z=weights.reshape(side, side),
        x0=width / side / 2 - 0.5,
        dx=width / side,
        y0=height / side / 2 - 0.5,
        dy=height / side,
        zmin=0,
        colorscale=[[0, f"rgba({colour},0)"], [1, f"rgba({colour},{MAP_OPACITY})"]],
        showscale=False,
        hovertemplate="weight %{z:.3f}<extra></extra>",
    )
    figure.add_trace(heat, 1, 1)
    if region is not None:
        xs, ys = _border(region)
        for line in ({"color": "#141414", "width": 4}, {"color": "#fff", "width": 1.5}):
            border = go.Scatter(
                x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", name="true region"
            )
            figure.add_trace(border, 1, 1)
    order = np.argsort(header["probabilities"])
    names = [spaced(explorer.names[i]) for i in order]
    bars = go.Bar(
        x=[header["probabilities"][i] for i in order],
        y=names,
        orientation="h",
        marker={"color": ["#d1495b" if i == index else "#345995" for i in order]},
        name="probability",
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
    )
    figure.add_trace(bars, 1, 2)
    thresholds = go.Scatter(
        x=explorer.thresholds[order].tolist(),
        y=names,
        mode="markers",
        marker={"symbol": "line-ns-open", "color": "#222", "size": 9},
        name="threshold",
        hovertemplate="threshold %{x:.2f}<extra></extra>",
    )
    figure.add_trace(thresholds, 1, 2)
    if header["truth"] is not None:
        present = [spaced(explorer.names[i]) for i in order if header["truth"][i]]
        truth = go.Scatter(
            x=[1.03] * len(present),
            y=present,
            mode="markers",
            name="truly present",
            marker={"color": "#d1495b", "size": 7},
            hoverinfo="skip",
            cliponaxis=False,
        )
        figure.add_trace(truth, 1, 2)
    figure.update_xaxes(visible=False, row=1, col=1, range=[-0.5, width - 0.5])
    figure.update_yaxes(visible=False, row=1, col=1, range=[height - 0.5, -0.5])
    figure.update_xaxes(row=1, col=2, range=[0, 1.06], title={"text": "predicted probability"})
    figure.update_yaxes(row=1, col=2, tickfont={"size": 10}, dtick=1)
    figure.update_layout(
        height=max(460, 15 * len(order) + 90),
        template="plotly_white",
        showlegend=False,
        margin={"l": 10, "r": 20, "t": 20, "b": 40},
        paper_bgcolor="#ffffff",
    )
    return ExplorableFigure(figure, describe(explorer, view))


def _border(region: Bool[np.ndarray, "height width"]) -> tuple[list, list]:
    """Places along the border of a region; None between one ring and the next."""
    rings, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    xs, ys = [], []
    for ring in rings:
        closed = np.concatenate([ring, ring[:1]])[:, 0]
        xs += [*closed[:, 0].tolist(), None]
        ys += [*closed[:, 1].tolist(), None]
    return xs, ys


def static_part(explorer: Any, samples: Sequence[int]) -> str:
    """For readers without JavaScript: a few samples with the map of their surest attribute, and a
    table.
    """
    tiles, sentences, first = [], [], None
    for sample in samples:
        try:
            header = explorer.item(sample).header
        except ValueError:
            continue
        attribute = explorer.names.index(explorer.surest(sample))
        weights = _map(explorer, View(sample, attribute, len(explorer.layers) - 1))
        picture, region = _seen(explorer, sample, attribute)
        side = round(weights.size**0.5)
        tile = overlay(picture, region, weights.reshape(side, side))
        tiles.append(cv2.resize(tile, (160, 160), interpolation=cv2.INTER_AREA))
        sentences.append(
            f"sample {sample}, {spaced(explorer.names[attribute])} {header['probabilities'][attribute]:.2f}"
        )
        first = first or header
        if len(tiles) == SHOWN:
            break
    if not tiles:
        return "<p>None of the samples could be loaded.</p>"
    buffer = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(buffer, "JPEG", quality=82)
    often = ["unknown"] * len(explorer.names)
    if explorer.frequencies is not None:
        often = [percent(share) for share in explorer.frequencies]
    truth = ["unknown"] * len(explorer.names)
    if first["truth"]:
        truth = [("absent", "present")[fact] for fact in first["truth"]]
    thresholds = [f"{value:.2f}" for value in explorer.thresholds.tolist()]
    probabilities = [f"{value:.2f}" for value in first["probabilities"]]
    return picture_and_table(
        buffer.getvalue(),
        "jpeg",
        "Where the surest attribute looks, strongest colour where most (last layer, mean of the heads;"
        f" its true region outlined where known): {'; '.join(sentences)}.",
        "The first sample",
        ("attribute", "frequency", "threshold", "probability", "truth"),
        list(
            zip(map(spaced, explorer.names), often, thresholds, probabilities, truth, strict=True)
        ),
    )


def still(explorer: Any, state: dict[str, Any]) -> tuple[str, str]:
    """What a notebook without a kernel shows of a state: a picture as HTML, and its sentence.

    What the model saw, and beside it the face with the map, clearly if the data can draw it so.
    """
    sample = state["sample"]
    try:
        seen = explorer.read(sample)["image"]
        attribute = explorer.names.index(state["attribute"])
        view = View(sample, attribute, state["layer"], state["head"], state["checkpoint"])
        weights, sentence = _map(explorer, view), describe(explorer, view)
    except ValueError as error:
        return f"<p>{html.escape(str(error))}</p>", str(error)
    picture, region = _seen(explorer, sample, attribute)
    side = round(weights.size**0.5)
    tiles = [overlay(seen), overlay(picture, region, weights.reshape(side, side))]
    small = [cv2.resize(tile, (320, 320), interpolation=cv2.INTER_AREA) for tile in tiles]
    sentence = f"Sample {sample}. {sentence}"
    text = html.escape(sentence)
    image = webp_url(np.hstack(small))
    return (
        f'<figure style="margin:0"><img alt="{text}" src="{image}" width="640"'
        f' style="max-width:100%"><figcaption>{text}</figcaption></figure>',
        sentence,
    )


def _seen(
    explorer: Any, sample: int, attribute: int
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"] | None]:
    """The picture that a map is laid over, clearly if the data can draw it so, and its region."""
    item, clear = explorer.read(sample), explorer.clear(sample, CLEAR)
    regions = item.get("regions")
    known = regions is not None and bool(regions[attribute].any())
    if clear is not None:
        return clear.image, clear.regions[attribute] if known else None
    return to_picture(item["image"]), regions[attribute].numpy() if known else None


def _map(explorer: Any, view: View) -> Float[np.ndarray, " tokens"]:
    weights = torch.from_numpy(explorer.weights(view.sample, view.checkpoint)[view.layer])
    return attribute_map(weights, view.attribute, view.head).flatten().numpy()


def _say(value: float) -> str:
    """A weight with two digits that say something."""
    return f"{value:.2f}" if value >= 0.0995 or value == 0 else f"{value:#.2g}"
