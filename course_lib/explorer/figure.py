"""What the explorer shows, without the explorer: a plotly figure of any state, and the still part
of a saved page.
"""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from ..looking.localisation import area_share, energy, pointing_game
from ..pictures.base import ExplorableFigure, to_picture
from ..pictures.images import overlay
from ..recorder.page import picture_and_table
from ..shapes import Bool, Float
from .base import percent
from .steps import attribute_map

__all__ = ["describe", "explorer_figure", "static_part"]

SHOWN = 8  # samples of the still part


def describe(
    explorer: Any,
    sample: int,
    attribute: int,
    layer: int,
    head: int,
    checkpoint: int | None = None,
) -> str:
    """One sentence on a view: what is predicted, how it came out, where it looks and where it
    should.
    """
    header = explorer.item(sample, checkpoint).header
    weights = _map(explorer, sample, attribute, layer, head, checkpoint)
    probability = header["probabilities"][attribute]
    threshold = float(explorer.thresholds[attribute])
    verdict = "truth unknown"
    if header["truth"] is not None:
        present, predicted = header["truth"][attribute], probability >= threshold
        outcome = (("rightly refused", "false alarm"), ("missed", "found"))[present][predicted]
        verdict = f"{'present' if present else 'absent'}, so {outcome}"
    often = ""
    if explorer.frequencies is not None:
        often = f" (in {percent(explorer.frequencies[attribute])} of the images)"
    side, best = round(weights.size**0.5), int(weights.argmax())
    row, column = divmod(best, side)
    share = weights[weights > 0] / weights.sum()
    region = explorer.read(sample).get("regions")
    place = "where it should look is unknown"
    if region is not None and region[attribute].any():
        region, of_map = region[attribute], torch.from_numpy(weights).view(side, -1)
        place = (
            f"{percent(energy(of_map, region))} of its attention is in the true region, which covers"
            f" {percent(area_share(region))} of the image, and its strongest patch"
            f" {'hits' if pointing_game(of_map, region) > 0.5 else 'misses'} it"
        )
    return (
        f"{explorer.names[attribute]}{often}: predicted {probability:.2f} against a threshold of"
        f" {threshold:.2f}; {verdict}. Layer {layer},"
        f" {'mean of the heads' if head < 0 else f'head {head}'}: looks most at patch {best} (row"
        f" {row}, column {column}) with {_say(float(weights.max()))}, as widely as if evenly at"
        f" {np.exp(-(share * np.log(share)).sum()):.1f} of {weights.size} patches; {place}."
    )


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
    item = explorer.read(sample)
    header = explorer.item(sample, checkpoint).header
    index = (
        int(np.argmax(header["probabilities"]))
        if attribute is None
        else explorer.names.index(attribute)
    )
    weights = _map(explorer, sample, index, layer, head, checkpoint)
    side, (height, width) = round(weights.size**0.5), header["size"]
    figure = make_subplots(1, 2, column_widths=[0.45, 0.55], horizontal_spacing=0.2)
    figure.add_trace(go.Image(z=to_picture(item["image"]), hoverinfo="skip"), 1, 1)
    heat = go.Heatmap(
        z=weights.reshape(side, side),
        x0=width / side / 2 - 0.5,
        dx=width / side,
        y0=height / side / 2 - 0.5,
        dy=height / side,
        zmin=0,
        colorscale="Cividis",
        opacity=0.65,
        hovertemplate="weight %{z:.3f}<extra></extra>",
        colorbar={"title": {"text": "weight"}, "x": 0.4, "thickness": 12},
    )
    figure.add_trace(heat, 1, 1)
    regions = item.get("regions")
    if regions is not None and regions[index].any():
        xs, ys = _border(regions[index].numpy())
        line = {"color": "#ffdc3c", "width": 3}
        region = go.Scatter(
            x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", name="true region"
        )
        figure.add_trace(region, 1, 1)
    order = np.argsort(header["probabilities"])
    names = [explorer.names[i] for i in order]
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
        present = [explorer.names[i] for i in order if header["truth"][i]]
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
    return ExplorableFigure(figure, describe(explorer, sample, index, layer, head, checkpoint))


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
            header, item = explorer.item(sample).header, explorer.read(sample)
        except ValueError:
            continue
        attribute = int(np.argmax(header["probabilities"]))
        weights = _map(explorer, sample, attribute, len(explorer.layers) - 1, -1, None)
        regions, side = item.get("regions"), round(weights.size**0.5)
        region = (
            None if regions is None or not regions[attribute].any() else regions[attribute].numpy()
        )
        tile = overlay(item["image"], region, weights.reshape(side, side))
        tiles.append(cv2.resize(tile, (160, 160), interpolation=cv2.INTER_AREA))
        sentences.append(
            f"sample {sample}, {explorer.names[attribute]} {header['probabilities'][attribute]:.2f}"
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
        "Where the surest attribute looks, strongest colour where most (last layer, mean of the heads; its "
        f"true region outlined where known): {'; '.join(sentences)}.",
        "The first sample",
        ("attribute", "frequency", "threshold", "probability", "truth"),
        list(zip(explorer.names, often, thresholds, probabilities, truth, strict=True)),
    )


def _map(
    explorer: Any,
    sample: int,
    attribute: int,
    layer: int,
    head: int,
    checkpoint: int | None,
) -> Float[np.ndarray, " tokens"]:
    weights = torch.from_numpy(explorer.weights(sample, checkpoint)[layer])
    return attribute_map(weights, attribute, head).flatten().numpy()


def _say(value: float) -> str:
    """A weight with two digits that say something."""
    return f"{value:.2f}" if value >= 0.0995 or value == 0 else f"{value:#.2g}"
