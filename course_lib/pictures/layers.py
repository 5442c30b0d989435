"""Pictures of what layers compute: feature maps, activations across depth, channels against
predictions.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from torch import Tensor, nn

from ..looking.layers import record_activations
from ..shapes import Float, UInt8
from .base import BLUE, HIGHLIGHT, INK, Picture, blank_axes, contact_sheet, open_axis, to_picture

__all__ = ["plot_correlations", "plot_depth", "visualize_feature_maps"]


def visualize_feature_maps(
    model: nn.Module,
    layer_name: str,
    input_data: Tensor,
    save_dir: str | Path | None = None,
    max_maps: int = 16,
) -> Picture:
    """The `max_maps` channels of a layer that vary most, for one input or a row for each of
    several.

    `input_data` is a batch, shown beside its maps if it is `batch 3 height width`. Of a layer with
    a time axis (`batch channels steps height width`) each row is a time step of the first item. A
    channel has one scale in all rows: yellow is its highest value there, dark blue its lowest. With
    `save_dir` the picture is written to `feature_maps_<layer>.png` in it. Raises `ValueError` for a
    layer that does not exist or has no maps. Derived in lesson 01.
    """
    maps = record_activations(model, layer_name, input_data)[layer_name].float()
    if maps.ndim not in (4, 5) or max_maps < 1:
        raise ValueError(
            f"{max_maps} maps were asked for of layer {layer_name!r}, which puts out"
            f" {tuple(maps.shape)}; choose one or more, and a layer with maps, batch channels"
            " height width"
        )
    images = (
        list(input_data)
        if maps.ndim == 4 and input_data.ndim == 4 and input_data.shape[1] == 3
        else []
    )
    if maps.ndim == 5:
        maps = rearrange(maps[0], "channels steps height width -> steps channels height width")
    per_channel = rearrange(maps, "rows channels height width -> channels (rows height width)")
    chosen = per_channel.std(1).topk(min(max_maps, maps.shape[1])).indices
    tiles, captions = [], []
    for row, channels in enumerate(maps[:, chosen]):
        if images:
            tiles.append(to_picture(images[row]))
            captions.append("input")
        for channel, one in zip(chosen.tolist(), channels.numpy(), strict=True):
            tiles.append(_colours(one, per_channel[channel].numpy()))
            captions.append(f"{channel}")
    row_length = len(chosen) + bool(images)
    silent = int((per_channel.amax(1) == per_channel.amin(1)).sum())
    picture = contact_sheet(
        tiles,
        captions,
        row_length if len(maps) > 1 else min(row_length, 9),
        description=(
            f"The {len(chosen)} channels of {layer_name} that vary most, of {maps.shape[1]}, each"
            f" {maps.shape[2]} × {maps.shape[3]} places; {silent} channels say the same everywhere."
        ),
    )
    if save_dir is not None:
        picture.save(Path(save_dir) / f"feature_maps_{layer_name}.png")
    return picture


def plot_depth(activations: Mapping[str, Tensor], image: Tensor, per_layer: int = 4) -> Picture:
    """The channels that vary most over one image, layer by layer from left to right.

    `activations` are those of `record_activations` for a batch whose first item is `image`, `3
    height width`. Derived in lesson 01.
    """
    figure, axes = blank_axes(
        per_layer, len(activations) + 1, 1.45 * (len(activations) + 1), 1.4 * per_layer + 0.3
    )
    axes[0, 0].imshow(to_picture(image))
    axes[0, 0].set_title("input", fontsize=8, color=INK)
    said = []
    for column, (name, maps) in enumerate(activations.items(), start=1):
        maps = maps[0].float().cpu()
        for row, channel in enumerate(maps.flatten(1).std(1).topk(per_layer).indices):
            axes[row, column].imshow(_colours(maps[channel].numpy()))
        axes[0, column].set_title(
            f"{name}\n{' × '.join(map(str, maps.shape))}", fontsize=7.5, color=INK
        )
        said.append(
            f"{name} {maps.shape[1]} × {maps.shape[2]} places, {(maps > 0).float().mean():.0%} of"
            " them active"
        )
    return Picture(
        figure,
        f"One image through {len(activations)} layers, the {per_layer} channels that vary most of "
        f"each: {'; '.join(said)}.",
    )


def plot_correlations(
    weights: Float[Tensor, " channels"], correlations: Float[Tensor, " channels"], output: str
) -> Picture:
    """A head's weight on each channel against how the channel's activation goes with the head's
    prediction.

    Derived in lesson 01.
    """
    figure, axes = blank_axes(1, 1, 5.6, 3.2)
    axis = axes[0, 0]
    against = (weights * correlations) < 0
    for chosen, colour, marker in ((~against, BLUE, "o"), (against, HIGHLIGHT, "x")):
        axis.scatter(
            weights[chosen],
            correlations[chosen],
            s=9,
            color=colour,
            marker=marker,
            linewidth=0.7,
            label="opposite signs" if marker == "x" else "same sign",
        )
    axis.axhline(0, color="#999999", linewidth=0.8)
    axis.axvline(0, color="#999999", linewidth=0.8)
    open_axis(
        axis, xlabel="weight in the head", ylabel=f"correlation with\nthe prediction of {output}"
    )
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(
        figure,
        f"{len(weights)} channels for {output}: the largest correlation is "
        f"{correlations.abs().max():.2f}, and {against.float().mean():.0%} of the channels have a "
        "weight and a correlation of opposite sign.",
    )


def _colours(
    values: np.ndarray, scale: np.ndarray | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """A map in cividis, from the lowest to the highest of `scale`, or of the map itself."""
    scale = values if scale is None else scale
    low, high = float(scale.min()), float(scale.max())
    scaled = (255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_CIVIDIS)[..., ::-1])
