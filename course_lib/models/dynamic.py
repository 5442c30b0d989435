"""The dynamic stream: how a face moves, from an I3D on optical flow."""

import copy
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from ..data.flow import clip_and_scale
from ..shapes import Float
from .backbones import fill, imagenet_weights, read_weights, save_weights
from .inference import evaluating, in_chunks, to_model

__all__ = [
    "I3D",
    "DynamicFeatureExtractor",
    "TimePaddedConv3d",
    "boring_video_errors",
    "inflate",
    "inflate_kernel",
    "time_tokens",
]


def inflate_kernel(
    kernel: Float[Tensor, "out channels height width"],
    time: int,
) -> Float[Tensor, "out channels time height width"]:
    """Repeat a 2-D kernel `time` times, divided by `time`: on a still video it sums to what the 2-D
    kernel says.

    Source: Carreira & Zisserman, arXiv 1705.07750. Derived in lesson 03.
    """
    return repeat(
        kernel / time, "out channels height width -> out channels time height width", time=time
    )


def inflate(
    network: nn.Module, padding: str = "replicate", keep_time: Collection[str] = ()
) -> nn.Module:
    """Turn a 2-D convolutional network into the 3-D one that says the same about a still video.

    A convolution gets a time axis as long as its shorter side, its weights repeated and divided by
    that length. Strides and pools treat time like height, except for the pools named in
    `keep_time`; an adaptive pool averages all of time. `padding` in time: "replicate" repeats the
    first and last frame, so that a still video gives the 2-D output at *every* step; "zeros" is
    what the original I3D does. Raises `ValueError` for layers that have no 3-D twin here. Source:
    Carreira & Zisserman, arXiv 1705.07750. Derived in lesson 03.
    """
    if padding not in ("replicate", "zeros"):
        raise ValueError(f"padding={padding!r} is unknown; choose 'replicate' or 'zeros'")
    inflated = copy.deepcopy(network)
    for name, layer in network.named_modules():
        twin = _inflate_layer(name, layer, padding, name not in keep_time)
        if twin is None:
            continue
        twin.train(layer.training)
        if not name:
            return twin
        inflated.set_submodule(name, twin)
    return inflated


class TimePaddedConv3d(nn.Conv3d):
    """A 3-D convolution that pads space with zeros and time with its first and last frame.

    Built in lesson 03.
    """

    def __init__(self, *arguments: Any, padding: tuple[int, int, int], **options: Any):
        self.time_padding = padding[0]
        super().__init__(*arguments, padding=(0, *padding[1:]), **options)

    def forward(
        self,
        video: Float[Tensor, "batch channels frames height width"],
    ) -> Float[Tensor, "batch out_channels steps out_height out_width"]:
        return super().forward(
            F.pad(video, (0, 0, 0, 0, self.time_padding, self.time_padding), mode="replicate")
        )


def _inflate_layer(name: str, layer: nn.Module, padding: str, pool_time: bool) -> nn.Module | None:
    """The 3-D twin of one layer, or None where two dimensions or three make no difference."""
    once, none = (None, None) if pool_time else (1, 0)
    match layer:
        case nn.Conv2d(padding=(int(), int()), padding_mode="zeros"):
            return _inflate_convolution(layer, padding)
        case nn.BatchNorm2d():
            norm = copy.deepcopy(layer)
            norm.__class__ = nn.BatchNorm3d  # the two differ only in the shape they accept
            return norm
        case nn.MaxPool2d():
            return nn.MaxPool3d(
                _add_time(layer.kernel_size, once),
                _add_time(layer.stride, once),
                _add_time(layer.padding, none),
                _add_time(layer.dilation, once),
                layer.return_indices,
                layer.ceil_mode,
            )
        case nn.AvgPool2d():
            # Zeros padded in time would darken the first and last step, so a pool that pads only strides in time.
            length = 1 if max(_add_time(layer.padding)) else once
            return nn.AvgPool3d(
                _add_time(layer.kernel_size, length),
                _add_time(layer.stride, once),
                _add_time(layer.padding, 0),
                layer.ceil_mode,
                layer.count_include_pad,
            )
        case nn.AdaptiveAvgPool2d():
            return nn.AdaptiveAvgPool3d(
                (1 if pool_time else None, *_add_time(layer.output_size)[1:])
            )
        case nn.Dropout2d():
            return nn.Dropout3d(layer.p, layer.inplace)
        case _ if type(layer).__name__.endswith("2d") and not list(layer.children()):
            raise ValueError(
                f"{layer} ({name or 'the network itself'}) has no rule for inflation; only"
                " zero-padded convolutions, batch norms, max, average and adaptive average pools"
                " and dropout have one"
            )
    return None


def _add_time(setting: int | tuple[int, int], time: int | None = None) -> tuple[int, int, int]:
    """A layer's setting for height and width, with time in front: `time` if given, else like
    height.
    """
    height, width = (setting, setting) if isinstance(setting, int) else setting
    return (height if time is None else time, height, width)


def _inflate_convolution(layer: nn.Conv2d, padding: str) -> nn.Conv3d:
    time = min(layer.kernel_size)  # a 1×7 kernel stays flat in time
    time_padding = min(layer.padding) if time > 1 else 0
    kind = TimePaddedConv3d if padding == "replicate" and time_padding else nn.Conv3d
    twin = kind(
        layer.in_channels,
        layer.out_channels,
        _add_time(layer.kernel_size, time),
        _add_time(layer.stride),
        padding=_add_time(layer.padding, time_padding),
        dilation=_add_time(layer.dilation),
        groups=layer.groups,
        bias=False,
    )
    twin.weight = nn.Parameter(
        inflate_kernel(layer.weight.detach(), time).contiguous(),
        requires_grad=layer.weight.requires_grad,
    )
    twin.bias = copy.deepcopy(layer.bias)
    return twin


def boring_video_errors(
    flat: nn.Module,
    inflated: nn.Module,
    image: Float[Tensor, "batch channels height width"],
    frames: int,
) -> Float[Tensor, " steps"]:
    """At each time step, how far the inflated network is from the 2-D one on a video that repeats
    `image`.

    The largest difference, as a share of the largest value of the 2-D output; both in evaluation
    mode. A faithful inflation has zeros, to rounding. Derived in lesson 03.
    """
    (image,) = to_model(flat, image)
    video = repeat(
        image, "batch channels height width -> batch channels frames height width", frames=frames
    )
    with evaluating(flat, inflated), torch.no_grad():
        expected = flat(image)
        difference = (inflated(video) - expected.unsqueeze(2)).abs()
    return (
        reduce(difference, "batch channels steps height width -> steps", "max")
        / expected.abs().max()
    ).cpu()


class I3D(nn.Sequential):
    """GoogLeNet without its head, inflated: 12,265,312 parameters for two-channel flow.

    Input `batch channels frames height width` in [-1, 1], output `batch 1024 steps height width`.
    Time is halved at the stem and at pool 4a (torchvision's `maxpool3`) only, so 32 frames give 8
    steps. `pretrained`: a torchvision GoogLeNet whose weights to inflate; random weights if None.
    With three channels its stem stays as it is. Lesson 03 builds it block by block.
    """

    def __init__(
        self, pretrained: nn.Module | None = None, channels: int = 2, padding: str = "replicate"
    ):
        from torchvision.models import googlenet

        network = pretrained or googlenet(weights=None, aux_logits=False, init_weights=False)
        body = nn.Sequential(
            OrderedDict(
                (name, layer)
                for name, layer in network.named_children()
                if name not in ("aux1", "aux2", "avgpool", "dropout", "fc")
            )
        )
        body = inflate(body, padding, keep_time=("maxpool1", "maxpool2", "maxpool4"))
        super().__init__(OrderedDict(body.named_children()))
        stem, colours = self.conv1.conv, self.conv1.conv.in_channels
        if channels != colours:
            # Average over the colours, repeat for each channel of flow; the sum over input channels is kept.
            stem.weight = nn.Parameter(
                stem.weight.detach().mean(1, keepdim=True).repeat(1, channels, 1, 1, 1)
                * colours
                / channels
            )
            stem.in_channels = channels
        if pretrained is None:
            self._randomise()

    def _randomise(self) -> None:
        """He initialisation, so that kernels differ along time and between u and v from the start.

        Facial motion is about half a pixel per frame, .02 after scaling; a stem ten times larger
        lifts it above the 1e-3 that GoogLeNet's batch norm adds to every variance.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            self.conv1.conv.weight *= 10


def time_tokens(
    volume: Float[Tensor, "batch channels steps height width"],
) -> Float[Tensor, "batch steps channels"]:
    """One token per time step: the mean over places, channels last."""
    return reduce(volume, "batch channels steps height width -> batch steps channels", "mean")


class DynamicFeatureExtractor(nn.Module):
    """Turn optical flow into tokens over time or one feature vector per clip. Derived in lesson 03.

    `weights`: "course" (shipped), "imagenet" (torchvision's GoogLeNet, inflated), None (random), or
    the path of a file written by `save`; `hash` is the SHA-256 of that file. `dropout` acts on the
    feature vector. `smallest_clip` is the least (frames, height, width) that the pools leave
    anything of. Flow is `batch frames height width 2`: u and v in pixels per frame, forward,
    clipped to ±20 inside.
    """

    smallest_clip = (3, 15, 15)

    def __init__(self, weights: str | Path | None = "course", dropout: float = 0.2):
        super().__init__()
        self.hash = None
        if weights == "imagenet":
            pretrained, self.hash = _imagenet_googlenet()
            self.backbone = I3D(pretrained)
        else:
            self.backbone = I3D()
        if weights not in (None, "imagenet"):
            stored = read_weights(weights, "weights/dynamic.safetensors")
            fill(self, stored.tensors, repr(str(weights)))
            self.hash = stored.hash
        # how flow lies in memory; halves the time in bf16
        self.backbone.to(memory_format=torch.channels_last_3d)
        self.dropout = nn.Dropout(dropout)
        self.metadata = {"backbone": "i3d"}

    def feature_map(self, flow: Tensor) -> Float[Tensor, "batch 1024 steps height width"]:
        """The last activations for flow `batch frames height width 2`; 32 × 112 × 112 gives 8 × 4 ×
        4.
        """
        self._check(flow)
        scaled = rearrange(
            clip_and_scale(flow), "batch frames height width uv -> batch uv frames height width"
        )
        return self.backbone(scaled)

    def tokens(self, flow: Tensor, chunk: int | None = None) -> Float[Tensor, "batch steps 1024"]:
        """One token per time step, the mean over places.

        With `chunk` so many clips at a time, in evaluation mode and without gradients; the result
        is on the CPU.
        """
        return in_chunks(self, lambda part: time_tokens(self.feature_map(part)), flow, chunk)

    def space_time_tokens(
        self, flow: Tensor, chunk: int | None = None
    ) -> Float[Tensor, "batch tokens 1024"]:
        """One token per time step and place, time-major: token `(step * height + row) * width +
        column`.
        """
        flat = "batch channels steps height width -> batch (steps height width) channels"
        return in_chunks(self, lambda part: rearrange(self.feature_map(part), flat), flow, chunk)

    def forward(self, flow: Tensor, chunk: int | None = None) -> Float[Tensor, "batch 1024"]:
        """One vector per clip, the mean over time and places."""
        return in_chunks(
            self, lambda part: self.dropout(self.feature_map(part).mean(dim=(2, 3, 4))), flow, chunk
        )

    def save(self, path: str | Path, **metadata: Any) -> None:
        """Write the weights for `DynamicFeatureExtractor(weights=path)`, with any further metadata."""
        save_weights(self, path, **metadata, **self.metadata)

    def _check(self, flow: Tensor) -> None:
        if flow.ndim != 5 or flow.shape[-1] != 2:
            raise ValueError(
                f"flow has shape {tuple(flow.shape)}; expected batch frames height width 2 with u"
                " and v in pixels per frame last, so add the batch axis or move the channels to"
                " the end"
            )
        if not flow.is_floating_point():
            raise ValueError(
                f"flow is {flow.dtype}; expected floats in pixels per frame, so convert with"
                " flow.float()"
            )
        if not len(flow):
            raise ValueError(
                f"the batch of flow is empty (shape {tuple(flow.shape)}); give at least one clip"
            )
        if any(
            size < least for size, least in zip(flow.shape[1:4], self.smallest_clip, strict=True)
        ):
            frames, height, width = self.smallest_clip
            raise ValueError(
                f"a clip of {flow.shape[1]} frames of {flow.shape[2]}×{flow.shape[3]} is too small"
                f" for the network; give at least {frames} frames of {height}×{width}"
            )


def _imagenet_googlenet() -> tuple[nn.Module, str]:
    """torchvision's GoogLeNet with its ImageNet weights, without auxiliary heads, and the hash of
    the file.
    """
    from torchvision.models import googlenet

    stored = imagenet_weights("googlenet")
    network = googlenet(weights=None, aux_logits=False, init_weights=False)
    fill(
        network,
        {name: tensor for name, tensor in stored.tensors.items() if not name.startswith("aux")},
        "ImageNet",
    )
    return network, stored.hash
