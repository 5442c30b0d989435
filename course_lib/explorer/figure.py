"""What the explorer shows, without the explorer: a plotly figure of any state, and the still part
of a saved page.
"""

import html
import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..looking.localisation import area_share, energy, pointing_game
from ..pictures.base import ExplorableFigure, data_url, to_picture
from ..pictures.images import overlay
from ..shapes import Float
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
    probability, threshold = (
        header["probabilities"][attribute],
        float(explorer.thresholds[attribute]),
    )
    known = header["truth"]
    truth = (
        "truth unknown"
        if known is None
        else (
            f"{'present' if known[attribute] else 'absent'}, so "
            f"{(('rightly refused', 'false alarm'), ('missed', 'found'))[known[attribute]][probability >= threshold]}"
        )
    )
    share = weights[weights > 0] / weights.sum()
    row, column = divmod(int(weights.argmax()), round(weights.size**0.5))
    region = explorer.read(sample).get("regions")
    place = "where it should look is unknown"
    if region is not None and region[attribute].any():
        of_map = torch.from_numpy(weights).view(round(weights.size**0.5), -1)
        hits = "hits" if pointing_game(of_map, region[attribute]) > 0.5 else "misses"
        place = (
            f"{_percent(energy(of_map, region[attribute]))} of its attention is in the true region,"
            f" which covers {_percent(area_share(region[attribute]))} of the image, and its"
            f" strongest patch {hits} it"
        )
    often = (
        ""
        if explorer.frequencies is None
        else (f" (in {_percent(explorer.frequencies[attribute])} of the images)")
    )
    return (
        f"{explorer.names[attribute]}{often}: predicted {probability:.2f} against a threshold of"
        f" {threshold:.2f}; {truth}. Layer {layer},"
        f" {'mean of the heads' if head < 0 else f'head {head}'}: looks most at patch"
        f" {weights.argmax()} (row {row}, column {column}) with {_say(float(weights.max()))}, as"
        f" widely as if evenly at {np.exp(-(share * np.log(share)).sum()):.1f} of {weights.size}"
        f" patches; {place}."
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
    figure.add_trace(
        go.Heatmap(
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
        ),
        1,
        1,
    )
    regions = item.get("regions")
    if regions is not None and regions[index].any():
        rings, _ = cv2.findContours(
            regions[index].numpy().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        xs, ys = (
            [
                place
                for ring in rings
                for place in (*ring[:, 0, axis].tolist(), int(ring[0, 0, axis]), None)
            ]
            for axis in (0, 1)
        )
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                line={"color": "#ffdc3c", "width": 3},
                hoverinfo="skip",
                name="true region",
            ),
            1,
            1,
        )
    order = np.argsort(header["probabilities"])
    colours = ["#d1495b" if i == index else "#345995" for i in order]
    figure.add_trace(
        go.Bar(
            x=[header["probabilities"][i] for i in order],
            y=[explorer.names[i] for i in order],
            orientation="h",
            marker={"color": colours},
            name="probability",
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        ),
        1,
        2,
    )
    figure.add_trace(
        go.Scatter(
            x=[float(explorer.thresholds[i]) for i in order],
            y=[explorer.names[i] for i in order],
            mode="markers",
            marker={"symbol": "line-ns-open", "color": "#222", "size": 9},
            name="threshold",
            hovertemplate="threshold %{x:.2f}<extra></extra>",
        ),
        1,
        2,
    )
    if header["truth"] is not None:
        present = [explorer.names[i] for i in order if header["truth"][i]]
        figure.add_trace(
            go.Scatter(
                x=[1.03] * len(present),
                y=present,
                mode="markers",
                name="truly present",
                marker={"color": "#d1495b", "size": 7},
                hoverinfo="skip",
                cliponaxis=False,
            ),
            1,
            2,
        )
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


def static_part(explorer: Any, samples: Sequence[int]) -> str:
    """For readers without JavaScript: a few samples with the map of their surest attribute, and a
    table.
    """
    tiles, said, first = [], [], None
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
        said.append(
            f"sample {sample}, {explorer.names[attribute]} {header['probabilities'][attribute]:.2f}"
        )
        first = first or header
        if len(tiles) == SHOWN:
            break
    if not tiles:
        return "<p>None of the samples could be loaded.</p>"
    buffer = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(buffer, "JPEG", quality=82)
    sentence = html.escape(
        "Where the surest attribute looks, bright where most (last layer, mean of the heads; its "
        f"true region outlined where known): {'; '.join(said)}."
    )
    often = ["unknown"] * len(explorer.names)
    if explorer.frequencies is not None:
        often = [_percent(share) for share in explorer.frequencies]
    truth = first["truth"] or ["unknown"] * len(explorer.names)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{share}</td><td>{threshold:.2f}</td><td>{probability:.2f}</td>"
        f"<td>{('absent', 'present')[fact] if isinstance(fact, int) else fact}</td></tr>"
        for name, share, threshold, probability, fact in zip(
            explorer.names,
            often,
            explorer.thresholds.tolist(),
            first["probabilities"],
            truth,
            strict=True,
        )
    )
    return (
        f'<figure><img alt="{sentence}" src="{data_url(buffer.getvalue(), "jpeg")}">'
        f"<figcaption>{sentence}</figcaption></figure>"
        "<table><caption>The first"
        " sample</caption><tr><th>attribute</th><th>frequency</th><th>threshold</th>"
        f"<th>probability</th><th>truth</th></tr>{rows}</table>"
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


def _percent(share: Tensor) -> str:
    share = float(share)
    return f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def _say(value: float) -> str:
    """A weight with two digits that say something."""
    return f"{value:.2f}" if value >= 0.0995 or value == 0 else f"{value:#.2g}"
